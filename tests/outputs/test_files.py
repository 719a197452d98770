"""Directories of files hold each batch once, whatever fails or runs again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from chispa import assert_df_equality
from pyspark.sql import DataFrame, SparkSession

from sparkstream_kit.contracts import Batch
from sparkstream_kit.errors import OutputRefused
from sparkstream_kit.outputs import _files
from sparkstream_kit.recovery import storage
from tests.support.claims import refused_at_once

Write = Callable[[DataFrame, Batch], object]


class Stream:
    """Keeps the functions that an output passes to for_each_batch."""

    write: Write
    check: Write
    rejects = False

    def for_each_batch(self, write: Write, *, check: Write, **_: Any) -> None:
        self.write, self.check = write, check


def batch(n: int, home_id: str = "home-a", start: int | None = None) -> Batch:
    ranges = {"lines": (n - 1 if start is None else start, n)}
    return Batch(n, datetime(2015, 5, 17, tzinfo=timezone.utc), home_id, ranges)


def stream_to(output: Callable[..., None], folder: Path) -> Stream:
    stream = Stream()
    output(stream, str(folder), name="hits")
    return stream


def writer(output: Callable[..., None], folder: Path) -> Write:
    return stream_to(output, folder).write


@pytest.mark.parametrize("output", [_files.json, _files.parquet])
def test_batches_read_back_unchanged_with_their_number(
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


def test_an_existing_batch_is_not_written_again(spark: SparkSession, tmp_path: Path) -> None:
    write = writer(_files.json, tmp_path)
    write(spark.range(3), batch(1))
    write(spark.range(5), batch(1))
    lines = [line for part in (tmp_path / "hits" / "batch=1").glob("part-*") for line in part.read_text().splitlines()]
    assert sorted(json.loads(line)["id"] for line in lines) == [0, 1, 2]
    assert list((tmp_path / "hits" / ".attempts").iterdir()) == []


def test_a_batch_that_fails_midway_leaves_nothing_under_its_name(spark: SparkSession, tmp_path: Path) -> None:
    write = writer(_files.json, tmp_path)
    with pytest.raises(Exception, match=r"DIVIDE_BY_ZERO|Division by zero"):
        write(spark.range(10).selectExpr("1 / (id - 5) as x"), batch(1))
    assert not (tmp_path / "hits" / "batch=1").exists()
    attempts = tmp_path / "hits" / ".attempts"
    assert len(list(attempts.iterdir())) == 1
    write(spark.range(1), batch(1))
    assert (tmp_path / "hits" / "batch=1").exists()
    assert list(attempts.iterdir()) == []


def test_a_driver_that_was_replaced_removes_no_attempt_of_a_later_batch(spark: SparkSession, tmp_path: Path) -> None:
    attempts, write = tmp_path / "hits" / ".attempts", writer(_files.json, tmp_path)
    for n in (1, 3):
        (attempts / f"batch={n}-abc").mkdir(parents=True)
    write(spark.range(3), batch(2))
    assert [left.name for left in attempts.iterdir()] == ["batch=3-abc"]
    write(spark.range(3), batch(3))
    assert list(attempts.iterdir()) == []


def test_the_directory_of_another_home_is_refused_with_both_names(spark: SparkSession, tmp_path: Path) -> None:
    write = writer(_files.json, tmp_path)
    write(spark.range(1), batch(1, "home-a"))
    with pytest.raises(OutputRefused, match="holds the batches of the home home-a, and this is the home home-b"):
        write(spark.range(1), batch(1, "home-b"))


OUTDATED = "the home is an outdated copy; use a new home and another directory"


def test_a_batch_with_other_ranges_is_refused_with_both_and_not_skipped(spark: SparkSession, tmp_path: Path) -> None:
    hits = stream_to(_files.json, tmp_path)
    hits.write(spark.range(3), batch(1))
    with pytest.raises(
        OutputRefused, match=r'batch 1 .* {"lines": \[0, 1\]}, but this one has {"lines": \[7, 1\]}: ' + OUTDATED
    ):
        hits.write(spark.range(5), batch(1, start=7))
    with pytest.raises(OutputRefused, match=OUTDATED):
        hits.check(spark.range(0), batch(1, start=7))
    hits.check(spark.range(0), batch(1))


def test_a_home_that_does_not_know_the_newest_batch_is_refused_at_the_start(
    spark: SparkSession, tmp_path: Path
) -> None:
    hits = stream_to(_files.json, tmp_path)
    for n in (1, 3):  # a slide skipped 2
        hits.write(spark.range(1), batch(n))
    with pytest.raises(OutputRefused, match=f"holds batch 3 .*, but the home has only come to batch 2: {OUTDATED}"):
        hits.check(spark.range(0), batch(2))
    hits.check(spark.range(0), batch(3))
    hits.check(spark.range(0), batch(4))


def test_of_two_drivers_that_write_one_batch_at_once_the_one_with_other_ranges_is_refused(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = storage.publish

    def other_driver_first(temporary: str, target: str) -> bool:
        monkeypatch.setattr(storage, "publish", publish)
        writer(_files.json, tmp_path)(spark.range(1), batch(1))
        shutil.copytree(tmp_path / "hits/batch=1", temporary.removeprefix("file:"), dirs_exist_ok=True)
        return publish(temporary, target)

    monkeypatch.setattr(storage, "publish", other_driver_first)
    with pytest.raises(OutputRefused, match=OUTDATED):
        writer(_files.json, tmp_path)(spark.range(2), batch(1, start=7))


def test_a_batch_from_before_ranges_were_kept_is_accepted(spark: SparkSession, tmp_path: Path) -> None:
    hits = stream_to(_files.json, tmp_path)
    hits.write(spark.range(3), batch(1))
    (tmp_path / "hits/batch=1/_ranges").unlink()
    (tmp_path / "hits/_home").write_text("home-a")
    hits.check(spark.range(0), batch(1, start=7))
    hits.write(spark.range(5), batch(1, start=7))
    assert spark.read.json(str(tmp_path / "hits")).count() == 3
    with pytest.raises(OutputRefused, match="belongs to the output 'json:hits', and this is the output 'parquet:hits'"):
        stream_to(_files.parquet, tmp_path).check(spark.range(0), batch(1))


def test_a_directory_is_claimed_at_the_start_by_one_output_of_one_home(spark: SparkSession, tmp_path: Path) -> None:
    stream_to(_files.json, tmp_path).check(spark.range(0), batch(0))
    with pytest.raises(OutputRefused, match="belongs to the output 'json:hits', and this is the output 'parquet:hits'"):
        stream_to(_files.parquet, tmp_path).check(spark.range(0), batch(0))
    with pytest.raises(OutputRefused, match="holds the batches of the home home-a, and this is the home home-b"):
        stream_to(_files.json, tmp_path).check(spark.range(0), batch(0, "home-b"))
    assert [path.name for path in (tmp_path / "hits").iterdir()] == ["_home"]


def test_of_several_that_claim_a_directory_at_once_one_gets_it(spark: SparkSession, tmp_path: Path) -> None:
    refused = refused_at_once(lambda home: _files.claim(f"file:{tmp_path}/hits", home, "json:hits"))
    assert len(refused) == 3
    assert (tmp_path / "hits/_home").read_text().splitlines()[0] not in refused


@pytest.mark.parametrize("output", [_files.json, _files.parquet])
@pytest.mark.parametrize("column", ["batch", "Batch"])
def test_a_column_that_the_folders_would_hide_is_refused(
    output: Callable[..., None], column: str, spark: SparkSession, tmp_path: Path
) -> None:
    with pytest.raises(OutputRefused, match=f"the column '{column}' of the output 'hits' would be hidden by .* rename"):
        stream_to(output, tmp_path).check(spark.createDataFrame([], f"n int, {column} int"), batch(0))


def test_text_may_come_from_a_column_of_any_name(spark: SparkSession, tmp_path: Path) -> None:
    stream_to(_files.text, tmp_path).check(spark.createDataFrame([], "batch string"), batch(0))


@pytest.mark.parametrize(
    ("output", "options", "why"),
    [
        (_files.text, {}, "'hits' writes text, which takes one column of strings, but the columns are path string, n"),
        (
            _files.parquet,
            {"partition_by": "day"},
            "cannot partition the output 'hits' by day: its columns are path str",
        ),
        (_files.parquet, {"partition_by": ["path", "n"]}, "cannot partition the output 'hits' by path, n: its columns"),
    ],
)
def test_columns_that_do_not_fit_are_refused_at_the_start(
    output: Callable[..., None], options: dict[str, Any], why: str, spark: SparkSession, tmp_path: Path
) -> None:
    stream = Stream()
    output(stream, str(tmp_path), name="hits", **options)
    with pytest.raises(OutputRefused, match=why):
        stream.check(spark.createDataFrame([], "path string, n int"), batch(0))


SPAN, DEEP = "make_interval(0, 0, 0, n)", "map(n, array(make_interval(0, 0, 0, n)))"


@pytest.mark.parametrize(
    ("output", "options", "column", "why"),
    [
        (_files.json, {}, SPAN, r"'hits' cannot write x interval, a type that json does not hold: cast it"),
        (_files.parquet, {}, SPAN, r"'hits' cannot write x interval, a type that parquet does not hold: cast it"),
        (_files.parquet, {}, DEEP, r"'hits' cannot write x map<int,array<interval>>, a type that parquet does not"),
        (
            _files.parquet,
            {"partition_by": "x"},
            "array(n)",
            "cannot partition the output 'hits' by x, whose values cannot be names of folders: its columns are",
        ),
    ],
)
def test_types_that_a_format_does_not_hold_are_refused_at_the_start(
    output: Callable[..., None], options: dict[str, Any], column: str, why: str, spark: SparkSession, tmp_path: Path
) -> None:
    stream = Stream()
    output(stream, str(tmp_path), name="hits", **options)
    frame = spark.createDataFrame([], "n int")
    with pytest.raises(OutputRefused, match=why):
        stream.check(frame.selectExpr("n", f"{column} as x"), batch(0))
    stream.check(
        frame.selectExpr("n", "cast(make_dt_interval(n) as string) as x", "make_dt_interval(n) as y"), batch(0)
    )
    assert not any((tmp_path / "hits").glob("batch=*"))
