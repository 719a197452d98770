from __future__ import annotations

import io

import pytest
from pyspark.sql import SparkSession
from rich.console import Console

from sparkstream_kit.outputs import _console


def shown(spark: SparkSession, rows: list[tuple[object, ...]], schema: str, limit: int = 20) -> str:
    out = io.StringIO()
    table = _console._table(spark.createDataFrame(rows, schema), "hits - batch 1 at 12:00:00", limit)
    Console(file=out, width=100).print(table)
    return out.getvalue()


def test_a_batch_is_a_table_with_its_columns_and_first_rows(spark: SparkSession) -> None:
    text = shown(spark, [("/a", 1234567), ("/b", None), ("/c", 3)], "path string, hits bigint", limit=2)
    assert "hits - batch 1 at 12:00:00" in text
    assert "path" in text
    assert "1,234,567" in text
    assert "/b" in text
    assert "/c" not in text
    assert "None" not in text


@pytest.mark.parametrize("hostile", ["\x1b]0;owned\x07", "\x1b[2J", "a\rb", "[red]x[/red]", "\x9b31m", "\u202egpj.exe"])
def test_what_attackers_write_into_a_log_cannot_command_the_terminal(spark: SparkSession, hostile: str) -> None:
    text = shown(spark, [(hostile,)], "path string")
    assert not any(c in text for c in "\x1b\x07\r\x9b\u202e")
    assert "[red]x[/red]" in text or "[red]" not in hostile
