from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from sparkstream_kit.errors import HomeDamaged
from sparkstream_kit.recovery import landing, storage


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return f"file:{tmp_path}/received/socket"


def lines(spark: SparkSession, *values: str) -> DataFrame:
    return spark.createDataFrame([(value,) for value in values], "value string")


def read(spark: SparkSession, directory: str, start: int | None, end: int) -> list[str]:
    return sorted(row.value for row in landing.read(spark, directory, start, end).collect())


def test_landed_rows_are_read_by_offset_range(spark: SparkSession, directory: str) -> None:
    assert landing.latest_offset(directory) is None
    for tick, value in enumerate("abc"):
        assert landing.land(lines(spark, value), directory, 1000 * tick)
    assert landing.latest_offset(directory) == 3
    assert read(spark, directory, None, 2) == ["a", "b"]
    assert read(spark, directory, 1, 3) == ["b", "c"]


def test_rows_are_read_in_the_order_of_arrival_whatever_the_sizes_of_the_files(
    spark: SparkSession, directory: str
) -> None:
    arrived = []
    for tick, (rows, width) in enumerate([(3, 1), (400, 9), (0, 0), (5, 100), (90, 50)]):
        # the second file of a batch is larger than the first, and Spark reads the largest file first
        values = [f"{tick} {i} {'x' * (width * i // 2)}" for i in range(rows)]
        landing.land(spark.createDataFrame([(v,) for v in values], "value string").coalesce(2), directory, 1000 * tick)
        arrived.append(values)
    for start, end in [(None, 5), (1, 4), (3, 5), (2, 3)]:
        found = [row.value for row in landing.read(spark, directory, start, end).collect()]
        assert found == [value for values in arrived[start or 0 : end] for value in values]


def test_landed_columns_of_all_types_come_back_as_they_were(spark: SparkSession, directory: str) -> None:
    frame = spark.sql(
        "SELECT id, map('a', array(id)) AS m, struct(id AS `a.b`, null AS n) AS s, CAST(id AS decimal(20, 2)) AS d,"
        " timestamp '2026-01-01 00:00:00' AS t, date '2026-01-01' AS day, CAST(null AS string) AS nothing,"
        " X'00FF' AS bytes, id / 3 AS `x` FROM range(5)"
    ).drop("s")
    landing.land(frame, directory, 1000)
    landing.land(frame, directory, 2000)
    found = landing.read(spark, directory, None, 2)
    assert found.columns == frame.columns
    assert found.collect() == [*frame.collect(), *frame.collect()]
    assert found.filter("d > 2").select("id", "m").collect() == 2 * frame.filter("d > 2").select("id", "m").collect()


def test_a_landed_batch_that_is_missing_is_refused_as_damage(spark: SparkSession, directory: str) -> None:
    for tick, value in enumerate("abc"):
        landing.land(lines(spark, value), directory, 1000 * tick)
    storage.delete(f"{directory}/0000000002-1000")
    with pytest.raises(
        HomeDamaged, match=f"{directory} has 2 of the received batches 1 to 3: restore it from a backup"
    ):
        landing.read(spark, directory, None, 3)


def test_a_batch_time_is_landed_only_once(spark: SparkSession, directory: str) -> None:
    assert landing.land(lines(spark, "a"), directory, 1000)
    assert landing.land(lines(spark, "b"), directory, 2000)
    assert not landing.land(lines(spark, "a", "more"), directory, 1000)
    assert read(spark, directory, None, 2) == ["a", "b"]


def test_what_a_killed_driver_left_unfinished_is_ignored_and_pruned(spark: SparkSession, directory: str) -> None:
    lines(spark, "half").write.parquet(f"{directory}/.dead")
    assert landing.latest_offset(directory) is None
    landing.land(lines(spark, "a"), directory, 1000)
    assert read(spark, directory, None, 1) == ["a"]
    landing.prune(directory, 1, 0, 1)
    assert storage.names(directory) == ["0000000001-1000"]


def test_finished_batches_are_pruned_except_those_that_spark_may_run_again(directory: str) -> None:
    for offset in range(1, 31):
        storage.make_directory(f"{directory}/{offset:010d}-{1000 * offset}")
    landing.prune(directory, 30, 0, 1)
    assert len(storage.names(directory)) == 30, "no tick is settled"
    landing.prune(directory, 5, 20_000, 1)
    assert storage.names(directory)[0] == "0000000006-6000", "batches need what came later"
    landing.prune(directory, 30, 11_000, 1)
    assert [name.partition("-")[2] for name in storage.names(directory)] == [str(1000 * p) for p in range(11, 31)]
    landing.prune(directory, 30, 99_000, 1)
    assert landing.latest_offset(directory) == 30


def test_a_driver_that_lost_its_lease_removes_nothing_that_its_successor_writes(
    spark: SparkSession, directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = storage.publish

    def prune_first(temporary: str, target: str) -> bool:
        landing.prune(directory, 1, 0, 7)  # of the driver before, which was paused and wakes up now
        return publish(temporary, target)

    monkeypatch.setattr(storage, "publish", prune_first)
    assert landing.land(lines(spark, "a"), directory, 1000, 8)
    assert read(spark, directory, None, 1) == ["a"]
