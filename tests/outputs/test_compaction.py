"""Compaction keeps every row in fewer files. tests/faults kills it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from sparkstream_kit.contracts import Batch
from sparkstream_kit.errors import OutputRefused, UsageError
from sparkstream_kit.outputs import _files
from sparkstream_kit.outputs._compaction import compact
from sparkstream_kit.recovery import lease

Write = Callable[[DataFrame, Batch], object]


class Stream:
    """Keeps the functions that an output passes to for_each_batch."""

    write: Write
    check: Write
    rejects = False

    def for_each_batch(self, write: Write, *, check: Write, **_: Any) -> None:
        self.write, self.check = write, check


def batch(n: int, start: int | None = None) -> Batch:
    ranges = {"lines": (n - 1 if start is None else start, n)}
    return Batch(n, datetime(2015, 5, 17, tzinfo=timezone.utc), "home-a", ranges)


def written(output: Callable[..., None], folder: Path, numbers: range, rows: DataFrame, **options: Any) -> Path:
    """A folder of batches with the same rows, except for `n`, which is the batch number."""
    stream = Stream()
    output(stream, str(folder), name="hits", **options)
    for n in numbers:
        stream.write(rows.selectExpr("*", f"{n} as n"), batch(n))
    return folder / "hits"


def days(spark: SparkSession) -> DataFrame:
    """Two rows in two files; the second has no day."""
    return spark.range(0, 2, 1, 2).selectExpr("id", "if(id = 0, '01', null) as `the day`")


def read(spark: SparkSession, folder: Path) -> list[tuple[Any, ...]]:
    """The rows that a reader sees, with days as strings."""
    schema = "id bigint, n int, `the day` string, batch int"
    return sorted(map(tuple, spark.read.schema(schema).parquet(str(folder)).drop("batch").collect()), key=str)


def parts(folder: Path) -> int:
    return len([file for file in folder.rglob("*.parquet") if not any(p.startswith(".") for p in file.parts)])


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"partition_by": "the day"}], ids=["flat", "partitions"])
def test_every_row_stays_in_fewer_files_and_the_job_continues(
    spark: SparkSession, tmp_path: Path, options: dict[str, Any]
) -> None:
    folder = written(_files.parquet, tmp_path, range(1, 5), days(spark), **options)
    before, count = read(spark, folder), parts(folder)
    assert compact(str(folder)) == 3
    assert read(spark, folder) == before
    assert parts(folder) < count
    assert sorted(path.name for path in folder.glob("batch=*")) == ["batch=3", "batch=4"]
    assert compact(str(folder)) == 0
    written(_files.parquet, tmp_path, range(4, 6), days(spark), **options)
    assert len(read(spark, folder)) == len(before) + 2, "batch 4 is not written twice"
    assert compact(str(folder)) == 2


def parquet(folder: Path, **options: Any) -> Stream:
    stream = Stream()
    _files.parquet(stream, str(folder), name="hits", **options)  # type: ignore[arg-type]
    return stream


@pytest.mark.slow
def test_a_merged_batch_is_skipped_with_its_own_ranges_and_refused_with_others(
    spark: SparkSession, tmp_path: Path
) -> None:
    folder = written(_files.parquet, tmp_path, range(1, 6), days(spark))
    before = read(spark, folder)
    assert compact(str(folder)) == 4
    hits = parquet(tmp_path)
    for n in range(1, 6):
        hits.write(spark.range(9).selectExpr("id", "1 as n"), batch(n))
        with pytest.raises(OutputRefused, match=rf"already holds batch {n} .* with the offset ranges .*outdated copy"):
            hits.write(spark.range(9).selectExpr("id", "1 as n"), batch(n, start=70))
    assert read(spark, folder) == before
    with pytest.raises(OutputRefused, match="holds batch 5 .*, but the home has only come to batch 2"):
        hits.check(spark.range(0), batch(2))


@pytest.mark.slow
def test_a_batch_that_was_merged_too_long_ago_to_be_known_is_refused(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_files, "KEPT_BATCHES", 2)
    folder = written(_files.parquet, tmp_path, range(1, 6), days(spark))
    assert compact(str(folder)) == 4
    with pytest.raises(OutputRefused, match="holds batch 4 .*, but the home has only come to batch 2"):
        parquet(tmp_path).write(spark.range(1), batch(2))
    parquet(tmp_path).write(spark.range(1), batch(3))
    assert len(read(spark, folder)) == 10


def rows(spark: SparkSession, folder: Path) -> list[str]:
    """The values of v in all batches, each read by itself."""
    found = [spark.read.parquet(str(path)).collect() for path in folder.glob("batch=*")]
    return sorted(str(row.v) for rows in found for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("types", "merged", "names"),
    [
        (["int", "int", "bigint", "bigint", "bigint"], 4, ["batch=4", "batch=5"]),
        (["bigint", "int", "smallint", "bigint"], 3, ["batch=3", "batch=4"]),
        (["float", "double", "double"], 2, ["batch=2", "batch=3"]),
        (["decimal(10,2)", "decimal(12,3)", "int"], 2, ["batch=2", "batch=3"]),
        (["array<int>", "array<bigint>", "int"], 2, ["batch=2", "batch=3"]),
        (["struct<a: int>", "struct<a: bigint, b: int>", "int"], 2, ["batch=2", "batch=3"]),
    ],
    ids=str,
)
def test_batches_whose_types_became_wider_are_merged(
    types: list[str], merged: int, names: list[str], spark: SparkSession, tmp_path: Path
) -> None:
    hits = parquet(tmp_path)
    for n, kind in enumerate(types, 1):
        value = {"array": f"array({n})", "struct": f"struct({n} as a, 0 as b)"}.get(kind.partition("<")[0], str(n))
        value = f"struct({n} as a)" if kind == "struct<a: int>" else value
        hits.write(spark.sql(f"select cast({value} as {kind}) as v"), batch(n))
    before = [float(v) if "." in v else v for v in rows(spark, tmp_path / "hits")]
    assert compact(str(tmp_path / "hits")) == merged
    assert sorted(path.name for path in (tmp_path / "hits").glob("batch=*")) == names
    after = [float(v) if "." in v else v for v in rows(spark, tmp_path / "hits")]
    assert after == [v if v != "Row(a=1)" else "Row(a=1, b=None)" for v in before]
    assert compact(str(tmp_path / "hits")) == 0


@pytest.mark.slow
def test_batches_that_no_type_holds_together_are_merged_by_themselves_with_a_warning(
    spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hits, folder = parquet(tmp_path), tmp_path / "hits"
    for n, kind in enumerate(["bigint", "bigint", "string", "string", "string"], 1):
        hits.write(spark.sql(f"select cast({n} as {kind}) as v, {n} as n"), batch(n))
    assert compact(str(folder)) == 4
    assert sorted(path.name for path in folder.glob("batch=*")) == ["batch=2", "batch=4", "batch=5"]
    assert rows(spark, folder) == ["1", "2", "3", "4", "5"]
    assert "the batches up to 2 of" in caplog.text and "v bigint before, v string after" in caplog.text
    assert compact(str(folder)) == 0
    hits.write(spark.sql("select '6' as v, 6 as n"), batch(6))
    assert compact(str(folder)) == 2
    assert rows(spark, folder) == ["1", "2", "3", "4", "5", "6"]


def test_the_warning_names_a_column_whose_case_has_changed_too(
    spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for n, column in enumerate(["1 as v", "'2' as V", "'3' as V"], 1):
        parquet(tmp_path).write(spark.sql(f"select {column}, {n} as n"), batch(n))
    assert compact(str(tmp_path / "hits")) == 0
    assert "holds the values of both: v int before, V string after" in caplog.text


@pytest.mark.slow
def test_batches_with_other_partitions_are_merged_by_themselves(spark: SparkSession, tmp_path: Path) -> None:
    for partitions, numbers in (((), (1, 2)), (("day",), (3, 4, 5))):
        for n in numbers:
            frame = spark.sql(f"select {n} as v, if({n} = 2, '', 'x') as day")
            parquet(tmp_path, partition_by=partitions).write(frame, batch(n))
    assert compact(str(tmp_path / "hits")) == 4
    days = {p.name: spark.read.parquet(str(p)).select("v", "day").collect() for p in tmp_path.glob("hits/batch=*")}
    assert {name: sorted(map(tuple, rows)) for name, rows in days.items()} == {
        "batch=2": [(1, "x"), (2, "")],
        "batch=4": [(3, "x"), (4, "x")],
        "batch=5": [(5, "x")],
    }


def test_batches_without_rows_are_left_alone(spark: SparkSession, tmp_path: Path) -> None:
    folder = written(_files.parquet, tmp_path, range(1, 4), days(spark).limit(0), partition_by="the day")
    assert compact(str(folder)) == 0


def test_of_two_compactions_at_once_the_second_is_refused(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.01)
    (tmp_path / "_home").touch()
    held = lease.alone(f"file:{tmp_path}/{_files.COMPACTION}", f"{tmp_path} is being compacted")
    with held, pytest.raises(UsageError, match="is being compacted by process"):
        compact(str(tmp_path))
    assert compact(str(tmp_path)) == 0


def test_a_folder_that_no_parquet_output_wrote_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    folder = written(_files.json, tmp_path, range(1, 4), spark.range(1))
    for wrong in (folder, tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match="is not the folder of a Parquet output: name the one"):
            compact(str(wrong))
    assert len(list(folder.glob("batch=*"))) == 3
