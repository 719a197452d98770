from __future__ import annotations

import contextlib
import io
import logging
import os
import pty
import re
import sys
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest
from pyspark.sql import Row, SparkSession
from pyspark.sql.types import StructType
from pyspark.streaming import DStream
from rich.cells import cell_len
from rich.console import Console

from sparkstream_kit.errors import UsageError
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.outputs import _console
from sparkstream_kit.testing import run_batches

NOON = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
LOCAL_NOON = NOON.astimezone().replace(tzinfo=None)  # as PySpark returns it
HOSTILE = ["\x1b]0;owned\x07", "\x1b[2J", "a\rb", "[red]x[/red]", "\x9b31m", "\u202egpj.exe"]


def batch(
    spark: SparkSession, rows: list[tuple[object, ...]], schema: str, *, name: str = "hits", n: int = 1
) -> _console._Shown:
    return _console._Shown(name, n, NOON, StructType.fromDDL(schema), [Row(*row) for row in rows])


def printed(picture: object, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(picture)
    return out.getvalue()


def on_screen(*shown: _console._Shown, width: int = 80, height: int = 24) -> list[str]:
    """The lines of a terminal with these tables, without the spaces at their ends."""
    lines = printed(_console._picture({s.name: s for s in shown}, width, height), width).split("\n")
    assert lines.pop() == ""
    assert max(map(cell_len, lines)) <= width
    assert len(lines) <= height
    assert lines[-1].strip() == "", "the cursor has no line of its own"
    return [line.rstrip() for line in lines[:-1]]


def left_and_right(lines: list[str], width: int = 39) -> tuple[list[str], list[str]]:
    return [line[:width].rstrip() for line in lines], [line[width:].strip() for line in lines]


# ---- one after the other


def test_a_batch_is_a_table_with_its_columns_and_rows(spark: SparkSession) -> None:
    text = printed(_console._plain(batch(spark, [("/a", 1234567), ("/b", None)], "path string, hits bigint")))
    assert "hits - batch 1 at 12:00:00" in text
    assert "path" in text
    assert "1,234,567" in text
    assert "/b" in text
    assert "None" not in text


def test_a_truth_value_is_not_shown_as_a_number(spark: SparkSession) -> None:
    text = printed(_console._plain(batch(spark, [(True,)], "is_bot boolean")))
    assert "True" in text


def test_only_the_first_rows_are_shown_where_the_output_is_not_a_terminal(
    spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    run_batches(
        lambda lines: _console.console(FrameStream.of(lines), name="lines", rows=2), [["/a", "/b", "/c"], ["/d"]]
    )
    text = capsys.readouterr().out
    assert "lines - batch 1 at 00:00:01" in text
    assert "lines - batch 2 at 00:00:02" in text
    assert [row for row in ("/a", "/b", "/c", "/d") if row in text] == ["/a", "/b", "/d"]
    assert "\x1b" not in text


def test_outputs_of_one_job_share_a_screen_and_those_of_another_do_not(spark: SparkSession) -> None:
    screens = []

    def build(lines: DStream[str]) -> None:
        stream = FrameStream.of(lines)
        _console.console(stream, name="lines")
        _console.console(stream.count(), name="count")
        screens.append(stream.graph.shared["console"])

    for _ in range(2):
        run_batches(build, [["a"]])
    assert [list(screen._tables) for screen in screens] == [["lines", "count"]] * 2
    assert screens[0] is not screens[1]


# ---- on a terminal


def test_tables_of_one_job_stand_side_by_side_in_the_order_of_its_outputs(spark: SparkSession) -> None:
    tables = [batch(spark, [(n,)], "n int", name=name, n=n) for n, name in enumerate(("a", "b", "c"), start=1)]
    left, right = left_and_right(on_screen(*tables))
    assert left == [
        "a - batch 1 at 12:00:00",
        "n",
        "─",
        "1",
        "",
        "b - batch 2 at 12:00:00",
        "n",
        "─",
        "2",
    ]
    assert right == ["c - batch 3 at 12:00:00", "n", "─", "3", *[""] * 5]


def test_a_table_alone_has_the_whole_width(spark: SparkSession) -> None:
    (*_, row) = on_screen(batch(spark, [("/" * 70,)], "path string"))
    assert row == "/" * 70


def test_a_table_keeps_its_place_while_others_have_no_batch_yet(spark: SparkSession) -> None:
    second = batch(spark, [(2,)], "n int", name="second")
    lines = printed(_console._picture({"first": None, "second": second, "third": None}, 80, 24), 80).splitlines()
    left, right = left_and_right(lines)
    assert left[:3] == ["first - no batch yet", "", "second - batch 1 at 12:00:00"]
    assert right[0] == "third - no batch yet"


def test_long_tables_lose_rows_before_short_ones_and_an_ellipsis_says_so(spark: SparkSession) -> None:
    long = [batch(spark, [(n,) for n in range(30)], "n int", name=name) for name in ("a", "c", "d")]
    short = batch(spark, [(n,) for n in range(3)], "n int", name="b")
    left, right = left_and_right(on_screen(long[0], short, long[1], long[2]))
    assert left[left.index("b - batch 1 at 12:00:00") :] == ["b - batch 1 at 12:00:00", "n", "─", "0", "1", "2"]
    assert [line.strip() for line in left[3:16]] == [*map(str, range(12)), "…"]
    assert right.count("…") == 2
    assert len(left) == 23


@pytest.mark.parametrize("height", [5, 10, 24])
@pytest.mark.parametrize("width", [20, 40, 79, 80, 81, 120, 200])
def test_whatever_the_tables_are_they_fit_the_terminal(spark: SparkSession, width: int, height: int) -> None:
    row = ("/" * 300, 2**62, LOCAL_NOON, [1, 2, 3], "後" * 100)
    schema = "path string, hits bigint, at timestamp, sizes array<int>, `a very long name of a column` string"
    wide = [batch(spark, [row] * 30, schema, name=f"name {n}" * 20, n=n) for n in range(3)]
    console = Console(file=io.StringIO(), width=width, height=height)
    lines = console.render_lines(_console._picture({s.name: s for s in wide}, width, height), pad=False)
    assert all(sum(segment.cell_length for segment in line) <= width for line in lines)
    assert height < 24 or len(lines) <= height


def test_numbers_and_times_stay_whole_when_texts_are_cut(spark: SparkSession) -> None:
    row = ("/images/" * 10, 1_000_000, LOCAL_NOON)
    other = batch(spark, [(1,)], "n int", name="other")
    left, _ = left_and_right(on_screen(batch(spark, [row], "path string, hits bigint, at timestamp"), other))
    assert left[1].split() == ["path", "hits", "at"]
    assert left[3].split() == ["/images//images//…", "1,000,000", "12:00:00"]
    assert len(left[3]) == 39


def test_columns_that_do_not_fit_are_replaced_by_an_ellipsis(spark: SparkSession) -> None:
    numbers = batch(spark, [tuple(range(10**9, 10**9 + 6))], "a int, b int, c int, d int, e int, f int")
    left, _ = left_and_right(on_screen(numbers, batch(spark, [(1,)], "n int", name="other")))
    assert left[1].split() == ["a", "b", "…"]
    assert left[3].split() == ["1,000,000,000", "1,000,000,001"]


def test_the_batch_is_visible_however_long_the_name_of_the_output_is(spark: SparkSession) -> None:
    tables = [batch(spark, [(1,)], "n int", name=name * 50) for name in ("a", "b")]
    left, _ = left_and_right(on_screen(*tables))
    assert left[0].endswith("a… - batch 1 at 12:00:00")
    assert len(left[0]) == 39


def test_a_time_of_another_day_has_its_date_and_is_in_utc(spark: SparkSession) -> None:
    frame = spark.sql("select explode(array(timestamp'2026-01-31T12:00:00Z', timestamp'2026-01-30T23:59:59Z')) as at")
    lines = on_screen(_console._Shown("hits", 1, NOON, frame.schema, frame.collect()))
    assert [line.strip() for line in lines[3:]] == ["12:00:00", "2026-01-30 23:59:59"]


@contextlib.contextmanager
def live_screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[_console._Screen, io.StringIO]]:
    """A screen on a terminal, and what is written there; stderr is one, too, and logging goes to it."""
    main, its = pty.openpty()
    written = io.StringIO()
    with os.fdopen(main), os.fdopen(its, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        handler = logging.StreamHandler(stderr)
        logging.getLogger().addHandler(handler)
        screen = _console._Screen()
        screen._console = Console(file=written, force_terminal=True, width=80, height=24)
        try:
            yield screen, written
        finally:
            logging.getLogger().removeHandler(handler)
            if screen._live is not None:
                screen._live.stop()


def test_the_cursor_is_visible_after_each_batch_as_a_killed_job_cannot_bring_it_back(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    with live_screen(monkeypatch) as (screen, written):
        screen.show(batch(spark, [(1,)], "n int"))
        text = written.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).split("\n")[-1].strip() == ""


def test_warnings_are_printed_above_the_live_tables(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    with live_screen(monkeypatch) as (screen, written):
        screen.show(batch(spark, [(1,)], "n int"))
        before = len(written.getvalue())
        logging.getLogger("test").warning("the database cannot be reached")
        after = written.getvalue()[before:]
    assert after.index("the database cannot be reached") < after.index("batch 1 at 12:00:00")


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_attackers_write_into_a_log_cannot_command_the_terminal(spark: SparkSession, hostile: str) -> None:
    shown = batch(spark, [(hostile,)], "path string")
    for text in (printed(_console._plain(shown)), "\n".join(on_screen(shown))):
        assert not any(c in text for c in "\x1b\x07\r\x9b\u202e")
        assert "[red]x[/red]" in text or "[red]" not in hostile


def test_a_table_without_rows_is_refused_at_the_definition(spark: SparkSession) -> None:
    with pytest.raises(UsageError, match="got rows=-1 for the console, expected at least 1"):
        run_batches(lambda lines: _console.console(FrameStream.of(lines), rows=-1), [["a"]])
