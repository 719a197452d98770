"""Delta tables hold each batch once, and refuse frames and homes that are not theirs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from deltalake import DeltaTable
from pyspark.sql import DataFrame, SparkSession

from sparkstream_kit.contracts import Batch
from sparkstream_kit.errors import OutputRefused, UsageError
from sparkstream_kit.outputs import _delta, _files

Write = Callable[[DataFrame, Batch], object]


class Stream:
    """Keeps the functions that an output passes to for_each_batch."""

    write: Write
    check: Write

    def for_each_batch(self, write: Write, *, check: Write = lambda frame, batch: None, **_: Any) -> None:
        self.write, self.check = write, check


def batch(n: int, home_id: str = "home-a", start: int | None = None) -> Batch:
    ranges = {"lines": (n - 1 if start is None else start, n)}
    return Batch(n, datetime(2015, 5, 17, tzinfo=timezone.utc), home_id, ranges)


def delta(folder: Path, **options: Any) -> Stream:
    stream = Stream()
    _delta.delta(stream, str(folder), name="hits", **options)  # type: ignore[arg-type]
    return stream


def rows_of(folder: Path) -> list[dict[str, Any]]:
    table = pyarrow.table(DeltaTable(folder / "hits").to_pyarrow_dataset().to_table())
    return sorted(table.to_pylist(), key=str)


def test_every_type_and_odd_partitions_in_an_odd_folder_read_back_unchanged(
    spark: SparkSession, tmp_path: Path
) -> None:
    tmp_path /= "ü #1? a b"
    given = spark.sql(
        """select 'a/b %20=ü' as `odd =name`, 1 as n, timestamp'2026-10-25 01:30:00.123456Z' as at,
        date'2026-01-01' as day, cast(1.5 as decimal(10, 2)) as price, X'00' as raw
        union all select null, 2, null, null, null, null"""
    )
    delta(tmp_path, partition_by="odd =name").write(given, batch(1))
    nothing = dict.fromkeys(["odd =name", "at", "day", "price", "raw"])
    first = given.collect()[0].asDict()
    assert rows_of(tmp_path) == sorted(
        [
            {**nothing, "n": 2},
            {**first, "at": datetime(2026, 10, 25, 1, 30, 0, 123456, timezone.utc), "raw": b"\0"},
        ],
        key=str,
    )


def test_a_written_batch_has_reached_the_disk(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    delta(tmp_path).write(spark.range(1), batch(1))
    folder = tmp_path / "hits"
    assert {folder / "batch-1", *(folder / "batch-1").rglob("*")} <= set(synced)
    assert synced[-3:] == [folder / "_delta_log/00000000000000000001.json", folder / "_delta_log", folder]


def test_a_batch_that_runs_again_is_in_the_table_once(spark: SparkSession, tmp_path: Path) -> None:
    for n in (1, 1, 2, 2, 1):
        delta(tmp_path).write(spark.range(n), batch(n))
    assert [row["id"] for row in rows_of(tmp_path)] == [0, 0, 1]
    history = DeltaTable(tmp_path / "hits").history()
    assert [entry.get("ranges") for entry in history] == ['{"lines": [1, 2]}', '{"lines": [0, 1]}', None]


def test_of_two_drivers_that_commit_one_batch_the_second_is_refused(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, again = DeltaTable.create_write_transaction, [True]

    def other_driver_first(*arguments: Any, **options: Any) -> None:
        if again:
            again.pop()
            delta(tmp_path).write(spark.range(3), batch(1))
        commit(*arguments, **options)

    monkeypatch.setattr(DeltaTable, "create_write_transaction", other_driver_first)
    with pytest.raises(Exception, match="Concurrent transaction"):
        delta(tmp_path).write(spark.range(3), batch(1))
    assert len(rows_of(tmp_path)) == 3


@pytest.mark.parametrize(
    ("columns", "options", "why"),
    [
        ("cast(id as int) as id", {}, r'differ from those of the frame \(id "integer", id "long"\)'),
        ("id, 1 as more", {}, r'differ from those of the frame \(more "integer"\)'),
        ("id", {"partition_by": "id"}, r"is partitioned by \[\], not by \['id'\]"),
        ("id, interval '1' day as more", {}, r'differ from those of the frame \(more "interval day to second"\)'),
    ],
)
def test_a_table_with_other_columns_is_refused_at_the_start(
    columns: str, options: dict[str, Any], why: str, spark: SparkSession, tmp_path: Path
) -> None:
    delta(tmp_path).check(spark.range(0), batch(0))
    with pytest.raises(OutputRefused, match=why):
        delta(tmp_path, **options).check(spark.range(0).selectExpr(*columns.split(", ")), batch(0))


@pytest.mark.parametrize("name", ["50%20", "back\\slash", "line\nbreak"])
def test_a_directory_whose_name_deltalake_would_change_is_refused(
    name: str, spark: SparkSession, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="expected one on a disk and without %, backslash or line break"):
        delta(tmp_path / name).check(spark.range(0), batch(0))


@pytest.mark.parametrize("name", ["[prod]", "{a,b}", "a*b", "q?", "a b", "#1", "é"])
def test_other_names_are_only_names(name: str, spark: SparkSession, tmp_path: Path) -> None:
    stream = delta(tmp_path / name)
    stream.check(spark.range(3), batch(1))
    stream.write(spark.range(3), batch(1))
    assert sorted(row["id"] for row in rows_of(tmp_path / name)) == [0, 1, 2]


def test_a_table_of_another_home_is_refused_by_name(spark: SparkSession, tmp_path: Path) -> None:
    delta(tmp_path).check(spark.range(0), batch(0))
    with pytest.raises(OutputRefused, match="holds the batches of the home home-a, and this is the home home-b"):
        delta(tmp_path).check(spark.range(0), batch(0, "home-b"))


def test_a_home_that_is_an_older_copy_of_itself_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    hits = delta(tmp_path)
    for n in (1, 2, 4):  # a slide skipped 3
        hits.write(spark.range(1), batch(n))
    outdated = "the home is an outdated copy; use a new home and another directory"
    for n in (1, 2, 4):
        hits.write(spark.range(5), batch(n))
        with pytest.raises(OutputRefused, match=rf"batch {n} .* but this one has .*\[70, {n}\]}}: {outdated}"):
            hits.write(spark.range(5), batch(n, start=70))
    with pytest.raises(OutputRefused, match=f"holds batch 4 .*, but the home has only come to batch 3: {outdated}"):
        hits.write(spark.range(5), batch(3))
    with pytest.raises(OutputRefused, match=f"holds batch 4 .*, but the home has only come to batch 2: {outdated}"):
        hits.check(spark.range(0), batch(2))
    with pytest.raises(OutputRefused, match=outdated):
        hits.check(spark.range(0), batch(4, start=70))
    hits.check(spark.range(0), batch(4))
    assert [row["id"] for row in rows_of(tmp_path)] == [0, 0, 0]


def test_a_folder_that_another_output_has_claimed_is_refused_at_the_start(spark: SparkSession, tmp_path: Path) -> None:
    _files.claim(f"file:{tmp_path}/hits", "home-a", "json:hits")
    with pytest.raises(OutputRefused, match="belongs to the output 'json:hits', and this is the output 'delta:hits'"):
        delta(tmp_path).check(spark.range(0), batch(0))
    assert not DeltaTable.is_deltatable(str(tmp_path / "hits"))


def test_a_batch_that_runs_again_replaces_its_files_in_one_commit(spark: SparkSession, tmp_path: Path) -> None:
    tmp_path /= "ü #1? a b"
    output, column = delta(tmp_path, partition_by="odd =name"), "odd =name"

    def frame(*rows: tuple[str | None, int]) -> DataFrame:
        return spark.createDataFrame(list(rows), f"`{column}` string, n int").repartition(2)

    for n in (1, 2, 3):
        output.write(frame(("a/b %20=ü", n), (None, n)), batch(n))
    before = DeltaTable(tmp_path / "hits").version()
    for _ in range(2):  # the second time as after a kill between the commit and the done mark
        output.write(frame(("new", 20), ("a/b %20=ü", 21)), replace(batch(2), again=True))
    output.write(frame(), replace(batch(3), again=True))
    assert rows_of(tmp_path) == sorted(
        ({column: name, "n": n} for name, n in (("a/b %20=ü", 1), (None, 1), ("new", 20), ("a/b %20=ü", 21))), key=str
    )
    output.check(frame(), batch(3))
    output.write(frame(("late", 1)), batch(3))
    assert not [row for row in rows_of(tmp_path) if row[column] == "late"], "a batch that does not run again is there"
    with pytest.raises(OutputRefused, match="the home is an outdated copy"):
        output.write(frame(("b", 1)), replace(batch(2, start=0), again=True))
    earlier = DeltaTable(tmp_path / "hits", version=before).to_pyarrow_dataset().to_table()
    assert sorted(pyarrow.table(earlier)["n"].to_pylist()) == [1, 1, 2, 2, 3, 3], "earlier versions keep their files"
    DeltaTable(tmp_path / "hits").optimize.compact()
    with pytest.raises(OutputRefused, match="has the files of batch 2 merged into others, so that it cannot be replac"):
        output.write(frame(("b", 1)), replace(batch(2), again=True))
