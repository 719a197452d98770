"""How long a drain of a Kafka topic takes, beside Structured Streaming's: scripts/bench kafka

Both read the same topic of four partitions from its beginning, with a trigger that ends where the topic ended at the
start (availableNow), and collect the same query of each batch. They take turns; the rows of all batches must be equal
in total before anything is printed. The seconds are those of the drain, without the start of Spark and of the job.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pyspark import SparkConf
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import sparkstream_kit as ss
from sparkstream_kit import settings
from sparkstream_kit.context import live_session
from sparkstream_kit.testing import log_lines
from tests.benchmarks.measure import collect_garbage, progress
from tests.support import kafka
from tests.support.kafka import Broker, Client
from tests.support.ticks import job

RECORDS, ROUNDS, TOPIC = 1_000_000, 5, "access"
RESULTS = Path(__file__).with_name("drain_results.md")

Drained = tuple[float, Counter[Any]]
"""Seconds, and the sums of all batches by group."""

QUERIES: dict[str, list[str]] = {
    "records and bytes": [],
    "grouped by status": ["substr(split_part(value, '\"', 3), 2, 3)"],
}


def query(rows: DataFrame, by: list[str]) -> DataFrame:
    return rows.groupBy(F.array(*map(F.expr, by))).agg(F.count("*"), F.sum(F.length("value")))


def kit(brokers: str, by: list[str], most: int | None) -> Drained:
    """The source kafka, in a job with a home."""
    got: list[Any] = []

    def build(ssc: Any) -> dict[str, Any]:
        records = ss.sources.kafka(ssc, brokers, TOPIC)
        records.for_each_batch(lambda rows, batch: got.extend(query(rows, by).collect()), name="all")
        return {}

    with tempfile.TemporaryDirectory() as home, job(build, home, max_per_batch=most, drain=True) as engine:
        started = time.perf_counter()
        engine.tick(1000)
        return time.perf_counter() - started, total(got)


def structured(brokers: str, by: list[str], most: int | None) -> Drained:
    """Structured Streaming with a checkpoint and foreachBatch."""
    got: list[Any] = []
    options = {"kafka.bootstrap.servers": brokers, "subscribe": TOPIC, "startingOffsets": "earliest"}
    if most is not None:
        options["maxOffsetsPerTrigger"] = str(most)
    records = SparkSession.builder.getOrCreate().readStream.format("kafka").options(**options).load()
    rows = records.selectExpr("cast(value as string) value", "offset")
    with tempfile.TemporaryDirectory() as checkpoint:
        writer = rows.writeStream.trigger(availableNow=True).option("checkpointLocation", checkpoint)
        started = time.perf_counter()
        running = writer.foreachBatch(lambda batch, n: got.extend(query(batch, by).collect())).start()
        running.awaitTermination()
        return time.perf_counter() - started, total(got)


ARMS: dict[str, Callable[[str, list[str], int | None], Drained]] = {"kit": kit, "Structured Streaming": structured}


def total(rows: Iterable[Any]) -> Counter[Any]:
    found: Counter[Any] = Counter()
    for group, n, length in rows:
        group = tuple(group)
        found[group, "n"] += n
        found[group, "length"] += length or 0
    return found


def fill(spark: SparkSession, client: Client, records: int) -> None:
    """Send generated lines to four partitions, those of each in their order."""
    client.create(TOPIC, 4)
    lines = min(records, 100_000)
    texts = spark.createDataFrame(
        [(n, line) for n, line in enumerate(log_lines(lines, 0, lines))], "n int, value string"
    )
    texts = texts.repartition(4, "n").cache()
    for _ in range(records // lines):
        client.write(texts.select("value", (F.col("n") % 4).alias("partition")), TOPIC)


def measure(spark: SparkSession, brokers: str, records: int, rounds: int) -> list[str]:
    """The rows of the table; raises AssertionError if the arms differ."""
    table = []
    for most in (None, records // 10):
        for what, by in QUERIES.items():
            times = defaultdict[str, list[float]](list)
            for number in range(rounds + 1):
                sums = {}
                for name, arm in list(ARMS.items())[:: 1 if number % 2 else -1]:
                    progress(f"{what}, at most {most or records:,} records a batch, round {number} of {rounds}: {name}")
                    collect_garbage()
                    seconds, sums[name] = arm(brokers, by, most)
                    if number:  # the first one warms up
                        times[name].append(seconds)
                first, second = sums.values()
                assert first == second, f"{what}: {sums}"
                assert sum(n for (_, column), n in first.items() if column == "n") == records, f"{what}: {first}"
            ratio = statistics.median(times["kit"]) / statistics.median(times["Structured Streaming"])
            cells = [
                f"{statistics.median(t):.2f} ({min(t):.2f} to {max(t):.2f})" for t in (times[name] for name in ARMS)
            ]
            table.append(f"| {what} | {most or records:,} | {' | '.join(cells)} | {ratio:.2f} |")
    return table


def main() -> int:
    """Start a broker, fill a topic, measure, report; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="?", type=int, default=RECORDS, help=f"default: {RECORDS:,}")
    records = parser.parse_args().records
    if records < 10 or records % min(records, 100_000):
        parser.error(f"got {records} records, expected 10 to 100,000, or a multiple of 100,000")
    rounds = ROUNDS if records == RECORDS else 1
    cores = len(os.sched_getaffinity(0))
    conf = SparkConf().setMaster(f"local[{cores}]").set("spark.driver.memory", "2g").set("spark.jars", kafka.jars())
    spark = live_session(conf, settings.LOCAL, settings.FRAMES)
    spark.sparkContext.setLogLevel("OFF")
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder))
        broker.start()
        try:
            fill(spark, Client(broker.address), records)
            table = measure(spark, broker.address, records, rounds)
        finally:
            broker.stop()
    load = f"load of the last 15 minutes {os.getloadavg()[2]:.1f}"
    lines = [
        f"# A drain of {records:,} records from Kafka\n",
        f"`scripts/bench kafka` on {datetime.now(timezone.utc):%Y-%m-%d}, PySpark {spark.version}, {cores} cores, also "
        f"for the broker ({load}). Seconds: median (minimum to maximum) of {rounds} rounds in which both took turns; "
        "the sums of both were equal.\n",
        "| query | records a batch | kit | Structured Streaming | ratio |",
        "|---|---:|---:|---:|---:|",
        *table,
    ]
    report = "\n".join(lines) + "\n"
    print(report)
    if records == RECORDS:
        RESULTS.write_text(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
