"""The workloads on a plain DStream of lines, with Python lambdas, as Spark's programming guide teaches them.

Partitions are aggregated in Python before anything is shuffled, there is one shuffle partition for each core, windows
have an inverse function, and the state is saved with every tenth batch, which the guide advises. `extract` says whether
lines are trusted (arm A2) or checked as `access_log.parse` checks them (A2s).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from operator import add, sub
from typing import Any

from pyspark import RDD
from pyspark.sql import SparkSession
from pyspark.streaming import DStream

from . import customers
from .delivered import deliver, write
from .extract import Extract
from .workloads import CLIENT, INTERVAL, WINDOW

Job = Callable[[DStream[str], Extract], None]

SAVE_EVERY = 10 * INTERVAL
"""Seconds between two checkpoints of a state."""


def counted(of: Callable[[str], Any]) -> Callable[[Iterable[str]], Iterable[tuple[Any, int]]]:
    """A function for mapPartitions: how often each value comes."""

    def count(lines: Iterable[str]) -> Iterable[tuple[Any, int]]:
        counts = Counter(map(of, lines))
        counts.pop(None, None)  # refused lines
        return counts.items()

    return count


def cores(lines: DStream[Any]) -> int:
    return lines.context().sparkContext.defaultParallelism


def one_client(lines: DStream[str], extract: Extract) -> None:
    prefix = f"{CLIENT} "

    def matching(part: Iterable[str]) -> Iterator[int]:
        yield sum(line.startswith(prefix) for line in part)

    lines.foreachRDD(lambda rdd: deliver([(sum(rdd.mapPartitions(matching).collect()),)]))


def sums(lines: DStream[str], extract: Extract) -> None:
    def summed(part: Iterable[str]) -> Iterator[tuple[int, int]]:
        sizes = [size for size in map(extract.size, part) if size is not None]
        yield len(sizes), sum(sizes)

    def total(rdd: RDD[str]) -> None:
        parts = rdd.mapPartitions(summed).collect()
        deliver([tuple(map(sum, zip(*parts, strict=True)))])

    lines.foreachRDD(total)


def groups(lines: DStream[str], extract: Extract) -> None:
    hits = lines.mapPartitions(counted(extract.status_and_path)).reduceByKey(add)
    hits.foreachRDD(lambda rdd: deliver((*key, count) for key, count in rdd.collect()))


def busiest_paths(lines: DStream[str], extract: Extract, window: int = WINDOW) -> None:
    counts = lines.mapPartitions(counted(extract.path))
    hits = counts.reduceByKeyAndWindow(add, sub, window, INTERVAL, cores(lines), lambda item: item[1] > 0)
    hits.checkpoint(SAVE_EVERY)
    hits.foreachRDD(lambda rdd: deliver(rdd.takeOrdered(10, lambda item: (-item[1], item[0]))))


def running_counts(lines: DStream[str], extract: Extract) -> None:
    def update(new: list[int], total: int | None) -> int:
        return sum(new) + (total or 0)

    def summed(part: Iterable[tuple[str, int]]) -> Iterator[tuple[int, int, int]]:
        hits = [count for _, count in part]
        yield len(hits), sum(hits), sum(count * count for count in hits)

    def total(rdd: RDD[tuple[str, int]]) -> None:
        parts = rdd.mapPartitions(summed).collect()
        deliver([tuple(map(sum, zip(*parts, strict=True)))])

    # no reduceByKey before it: it would be a second shuffle of what is counted already
    state = lines.mapPartitions(counted(extract.client)).updateStateByKey(update, cores(lines))
    state.checkpoint(SAVE_EVERY)
    state.foreachRDD(total)


def enriched(lines: DStream[str], extract: Extract) -> None:
    known = lines.context().sparkContext.broadcast(customers.customers())

    def joined(part: Iterable[str]) -> Iterator[tuple[Any, ...]]:
        of = known.value
        return ((*fields, of.get(fields[0])) for fields in map(extract.enriched, part) if fields is not None)

    def save(rdd: RDD[str]) -> None:
        spark = SparkSession.builder.getOrCreate()
        write(spark.createDataFrame(rdd.mapPartitions(joined), customers.SCHEMA, verifySchema=False))

    lines.foreachRDD(save)


JOBS: dict[str, Job] = {
    "W1": one_client,
    "W2": sums,
    "W3": groups,
    "W4": busiest_paths,
    "W5": running_counts,
    "W6": enriched,
}
CHECKPOINTED = {"W4", "W5"}
"""What Spark refuses to compute without a checkpoint; the others have no state to save."""
