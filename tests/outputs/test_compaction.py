"""Compaction keeps every row in fewer files. tests/faults kills it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from sparkstream_kit.contracts import Batch
from sparkstream_kit.errors import UsageError
from sparkstream_kit.outputs import _compaction, _files
from sparkstream_kit.outputs._compaction import compact
from sparkstream_kit.recovery import lease


class Stream:
    """Keeps the function that an output passes to for_each_batch."""

    write: Callable[[DataFrame, Batch], object]

    def for_each_batch(self, write: Callable[[DataFrame, Batch], object], **_: Any) -> None:
        self.write = write


def written(output: Callable[..., None], folder: Path, numbers: range, rows: DataFrame, **options: Any) -> Path:
    """A folder of batches with the same rows, except for `n`, which is the batch number."""
    stream = Stream()
    output(stream, str(folder), name="hits", **options)
    for n in numbers:
        stream.write(
            rows.selectExpr("*", f"{n} as n"), Batch(n, datetime(2015, 5, 17, tzinfo=timezone.utc), "home-a", {})
        )
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


def test_batches_without_rows_are_left_alone(spark: SparkSession, tmp_path: Path) -> None:
    folder = written(_files.parquet, tmp_path, range(1, 4), days(spark).limit(0), partition_by="the day")
    assert compact(str(folder)) == 0


def test_of_two_compactions_at_once_the_second_is_refused(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT", 0.01)
    (tmp_path / "_home").touch()
    with _compaction._alone(f"file:{tmp_path}"), pytest.raises(UsageError, match="is being compacted by process"):
        compact(str(tmp_path))
    assert compact(str(tmp_path)) == 0


def test_a_folder_that_no_parquet_output_wrote_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    folder = written(_files.json, tmp_path, range(1, 4), spark.range(1))
    for wrong in (folder, tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match="is not the folder of a Parquet output: name the one"):
            compact(str(wrong))
    assert len(list(folder.glob("batch=*"))) == 3
