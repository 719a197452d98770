from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from chispa import assert_df_equality
from pyspark.sql import DataFrame, SparkSession

from sparkstream_kit.contracts import Batch
from sparkstream_kit.errors import UsageError
from sparkstream_kit.outputs import _files


class Stream:
    """Takes the function that an output gives to for_each_batch."""

    write: Callable[[DataFrame, Batch], object]

    def for_each_batch(self, write: Callable[[DataFrame, Batch], object], **_: Any) -> None:
        self.write = write


def batch(n: int, home_id: str = "home-a") -> Batch:
    return Batch(n, datetime(2015, 5, 17, tzinfo=timezone.utc), home_id)


def writer(output: Callable[..., None], folder: Path) -> Callable[[DataFrame, Batch], object]:
    stream = Stream()
    output(stream, str(folder), name="hits")
    return stream.write


@pytest.mark.parametrize("output", [_files.json, _files.parquet])
def test_batches_read_back_as_they_were_with_their_number(
    spark: SparkSession, tmp_path: Path, output: Callable[..., None]
) -> None:
    write = writer(output, tmp_path)
    write(spark.createDataFrame([("/a", 1)], "path string, hits bigint"), batch(1))
    write(spark.createDataFrame([("/b", 2)], "path string, hits bigint"), batch(2))
    back = spark.read.format(output.__name__).load(f"{tmp_path}/hits").select("path", "hits", "batch")
    expected = spark.createDataFrame([("/a", 1, 1), ("/b", 2, 2)], "path string, hits bigint, batch int")
    assert_df_equality(back, expected, ignore_row_order=True)


def test_text_writes_lines(spark: SparkSession, tmp_path: Path) -> None:
    writer(_files.text, tmp_path)(spark.createDataFrame([("a line",)], "value string"), batch(7))
    assert "".join(part.read_text() for part in (tmp_path / "hits" / "batch=7").glob("part-*")) == "a line\n"


def test_a_batch_that_is_there_is_not_written_again(spark: SparkSession, tmp_path: Path) -> None:
    write = writer(_files.json, tmp_path)
    write(spark.range(3), batch(1))
    write(spark.range(5), batch(1))
    lines = [line for part in (tmp_path / "hits" / "batch=1").glob("part-*") for line in part.read_text().splitlines()]
    assert sorted(json.loads(line)["id"] for line in lines) == [0, 1, 2]
    assert list((tmp_path / "hits" / ".attempts").iterdir()) == []


def test_a_batch_that_fails_half_way_leaves_nothing_under_its_name(spark: SparkSession, tmp_path: Path) -> None:
    write = writer(_files.json, tmp_path)
    with pytest.raises(Exception, match=r"DIVIDE_BY_ZERO|Division by zero"):
        write(spark.range(10).selectExpr("1 / (id - 5) as x"), batch(1))
    assert not (tmp_path / "hits" / "batch=1").exists()
    attempts = tmp_path / "hits" / ".attempts"
    assert len(list(attempts.iterdir())) == 1
    write(spark.range(1), batch(1))
    assert (tmp_path / "hits" / "batch=1").exists()
    assert list(attempts.iterdir()) == []


def test_the_directory_of_another_home_is_refused_with_both_names(spark: SparkSession, tmp_path: Path) -> None:
    write = writer(_files.json, tmp_path)
    write(spark.range(1), batch(1, "home-a"))
    with pytest.raises(UsageError, match="holds the batches of the home home-a, this is the home home-b"):
        write(spark.range(1), batch(1, "home-b"))
