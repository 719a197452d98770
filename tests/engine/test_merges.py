"""Rows merged by key: in partitions that fit their size, with the same results, and only new rows move."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

from sparkstream_kit import aggregates as agg
from sparkstream_kit.bridge import placement
from sparkstream_kit.engine.chains import SETTING
from sparkstream_kit.engine.merges import together
from sparkstream_kit.frames import FrameStream
from tests.support.ticks import Seen, given, job, run_ticks

SCHEMA = "k string, v bigint"
AGGREGATES = {"n": agg.count(), "sum": agg.sum("v"), "some": agg.collect_set("v", 3)}
SUMS = {"n": agg.count(), "sum": agg.sum("v")}
TICKS = range(1, 15)


@pytest.fixture
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task for each kB or so of rows in memory, however few cores there are."""
    monkeypatch.setattr(placement, "LEAST", 1 << 10)
    monkeypatch.setattr(placement, "MOST", 1 << 10)


def batches_of_many_keys_then_few() -> list[list[tuple[str | None, int]]]:
    """More and more keys, one of them null, and from the tenth batch on one."""
    chance = random.Random(7)
    grow = [[(chance.choice([*map(str, range(n * n)), None]), n) for _ in range(12 * n)] for n in range(1, 10)]
    return [*grow, *([("1", n)] for n in range(10, 15))]  # type: ignore[list-item]


def aggregated(rows: list[tuple[str | None, int]], *, with_set: bool = True) -> list[Any]:
    found: dict[str | None, list[int]] = {}
    for key, value in rows:
        found.setdefault(key, []).append(value)
    return sorted(
        ((k, len(v), sum(v), *([sorted(set(v))[:3]] if with_set else [])) for k, v in found.items()), key=repr
    )


Reads = Callable[[FrameStream], FrameStream]
OPERATIONS: dict[str, tuple[Reads, int, bool]] = {
    "state": (lambda rows: rows.update_state_by_key("k", AGGREGATES), 99, True),
    "sliding sums": (lambda rows: rows.reduce_by_key_and_window("k", SUMS, "4s"), 4, False),
    "sliding sets": (lambda rows: rows.reduce_by_key_and_window("k", AGGREGATES, "4s"), 4, True),
}


@pytest.mark.parametrize("kept", ["true", "false"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_rows_are_merged_whatever_their_number_and_after_restarts(
    operation: str, kept: str, tmp_path: Path, small_tasks: None, spark: SparkSession, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: spark.conf.unset(SETTING))
    spark.conf.set(SETTING, kept)
    step, length, with_set = OPERATIONS[operation]
    rows = batches_of_many_keys_then_few()

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        return {"merged": step(given(ssc, rows, SCHEMA))}

    seen: Seen = {}
    for life in (TICKS[:6], TICKS[6:7], TICKS[7:]):
        run_ticks(build, tmp_path, life, seen)
    for tick in TICKS:
        inside = [row for batch in rows[max(0, tick - length) : tick] for row in batch]
        assert seen["merged"][tick] == aggregated(inside, with_set=with_set), tick


def test_a_state_has_as_many_partitions_as_fit_its_size_and_each_key_is_in_one_of_them(
    tmp_path: Path, small_tasks: None, spark: SparkSession
) -> None:
    if spark.version < "4.1":
        pytest.skip("Spark 4.0 does not know how the rows of a union are placed, and exchanges all of them")
    rows = [[(str(n), 1) for n in range(2**i)] for i in (3, 5, 8, 8, 8, 8)] + [[("0", 1)]] * 30
    partitions = []

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        return {"state": given(ssc, rows, SCHEMA).update_state_by_key("k", SUMS, expire_after="9s")}

    with job(build, tmp_path) as engine:
        [state] = engine.graph.states.values()
        for tick in range(1, len(rows) + 1):
            engine.tick(1000 * tick)
            frame = state.at(engine.graph.context(engine.graph.log.last))
            at = frame.select("k", F.spark_partition_id()).collect()
            assert len(at) == len(set(at)) == len({k for k, _ in at}), "a key is in one partition, once"
            partitions.append(frame.rdd.getNumPartitions())
    assert partitions[0] == 1 < max(partitions) < 256, "about a kB each, not one for each key"
    assert partitions[-1] == 1, "after the keys have expired"


def test_only_new_rows_are_moved(small_tasks: None, spark: SparkSession) -> None:
    if spark.version < "4.1":
        pytest.skip("Spark 4.0 does not know how the rows of a union are placed")
    many = spark.range(500).select(F.col("id").cast("string").alias("k"), F.lit(1).alias("v"))
    state = together([many.localCheckpoint()], "k").localCheckpoint()
    assert state.rdd.getNumPartitions() > 1
    merged = together([state.filter("k != '7'"), many.limit(5)], "k").groupBy("k").agg(F.sum("v"))
    assert merged.count() == 499, "without 7"
    plan = merged._jdf.queryExecution().executedPlan().toString()
    assert plan.count("Exchange hashpartitioning") == 1, plan
    assert "Scan ExistingRDD" in plan.split("Exchange hashpartitioning")[0], plan


def jobs(spark: SparkSession) -> int:
    """How many jobs Spark has started."""
    return int(spark.sparkContext._jsc.sc().dagScheduler().numTotalJobs())


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_batch_that_an_output_reads_is_one_job(operation: str, tmp_path: Path, spark: SparkSession) -> None:
    rows = [[("a", 1), ("b", 2)]] * 4

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        return {"merged": OPERATIONS[operation][0](given(ssc, rows, SCHEMA))}

    with job(build, tmp_path, {}) as engine:
        engine.tick(1000)
        before = jobs(spark)
        for tick in (2, 3, 4):
            engine.tick(1000 * tick)
            assert jobs(spark) == before + tick - 1


def test_what_no_output_reads_in_a_batch_is_stored_before_its_input_is_forgotten(tmp_path: Path) -> None:
    rows = [[("a", n), ("b", 2 * n)] for n in range(1, 9)]

    def seldom(time: Any, frame: DataFrame) -> DataFrame:
        return frame if time.second % 4 == 0 else frame.limit(0)

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        return {"sums": given(ssc, rows, SCHEMA).update_state_by_key("k", SUMS).transform(seldom)}

    seen: Seen = {}
    with job(build, tmp_path, seen) as engine:
        for tick in range(1, 9):
            engine.tick(1000 * tick)
            assert engine.graph._stored == []
    assert seen["sums"][8] == [("a", 8, 36), ("b", 8, 72)]
    assert seen["sums"][7] == []
