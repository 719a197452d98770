"""The workloads in Spark SQL: functions of a DataFrame of lines, and what hand-written code keeps between batches.

`parse` gives the columns client_ip, status, path and bytes: `access_log.parse`, or `lean`, which checks nothing.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkstream_kit.transforms import access_log

from . import customers
from .delivered import deliver, write
from .workloads import CLIENT, INTERVAL, WINDOW

Parse = Callable[[DataFrame], DataFrame]
Write = Callable[[DataFrame], None]


def parsed(lines: DataFrame) -> DataFrame:
    return access_log.parse(lines)


def lean(lines: DataFrame) -> DataFrame:
    """By position only: what is not a log line gives nonsense."""
    pieces = F.split("value", '"')
    numbers = pieces[2]
    return lines.select(
        F.substring_index("value", " ", 1).alias("client_ip"),
        F.substring_index(F.substring_index(pieces[1], " ", 2), " ", -1).alias("path"),
        F.substring_index(F.substring_index(numbers, " ", 2), " ", -1).cast("int").alias("status"),
        F.nullif(F.substring_index(F.substring_index(numbers, " ", 3), " ", -1), F.lit("-"))
        .cast("bigint")
        .alias("bytes"),
    )


def one_client(lines: DataFrame) -> DataFrame:
    return lines.filter(F.col("value").startswith(f"{CLIENT} ")).groupBy().count()


def sums(requests: DataFrame) -> DataFrame:
    return requests.agg(F.count("*"), F.coalesce(F.sum("bytes"), F.lit(0)))


def groups(requests: DataFrame) -> DataFrame:
    return requests.groupBy("status", "path").count()


def busiest(hits: DataFrame) -> DataFrame:
    return hits.orderBy(F.desc("hits"), "path").limit(10)


def summary(hits: DataFrame) -> DataFrame:
    return hits.agg(F.count("*"), F.sum("hits"), F.sum(F.col("hits") * F.col("hits")))


def enriched(requests: DataFrame, known: DataFrame) -> DataFrame:
    columns = ("client_ip", "status", "path", "bytes", "customer")
    return requests.join(F.broadcast(known), "client_ip", "left").select(*columns)


def collected(compute: Callable[[DataFrame], DataFrame]) -> Write:
    return lambda lines: deliver(compute(lines).collect())


def windowed(parse: Parse) -> Write:
    """The counts of each batch in the window are kept, and added up at every slide."""
    kept: deque[DataFrame] = deque()

    def step(lines: DataFrame) -> None:
        kept.append(parse(lines).groupBy("path").agg(F.count("*").alias("hits")).persist())
        if len(kept) > WINDOW // INTERVAL:
            kept.popleft().unpersist()
        total = functools.reduce(DataFrame.union, kept).groupBy("path").agg(F.sum("hits").alias("hits"))
        deliver(busiest(total).collect())

    return step


def running(parse: Parse) -> Write:
    """The state is a checkpointed DataFrame, to which the counts of a batch are added."""
    state: DataFrame | None = None

    def step(lines: DataFrame) -> None:
        nonlocal state
        fresh = parse(lines).groupBy("client_ip").agg(F.count("*").alias("hits"))
        if state is not None:
            fresh = state.union(fresh).groupBy("client_ip").agg(F.sum("hits").alias("hits"))
        state = fresh.localCheckpoint(eager=False)
        deliver(summary(state).collect())

    return step


def joined(parse: Parse) -> Write:
    known = customers.table(SparkSession.builder.getOrCreate())
    return lambda lines: write(enriched(parse(lines), known))


# What to do with the lines of each batch, when `parse` is given.
WRITES: dict[str, Callable[[Parse], Write]] = {
    "W1": lambda parse: collected(one_client),
    "W2": lambda parse: collected(lambda lines: sums(parse(lines))),
    "W3": lambda parse: collected(lambda lines: groups(parse(lines))),
    "W4": windowed,
    "W5": running,
    "W6": joined,
}
