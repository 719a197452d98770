"""The queries in Structured Streaming, as far as it has them: the same functions where a DataFrame has them, too.

A batch is the files of one batch, as `maxFilesPerTrigger` cuts them in the order of their times. The seconds are
`triggerExecution`, as everywhere in the benchmark. Update streams run in complete mode, and the last batch stays.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from . import queries
from .queries import LATENESS, SIDE_ROWS, Streams

NOT_HERE = {
    "q4": "it has no aggregate of an aggregate without windows",
    "q6": "it has no aggregate of a join without windows, and no such window functions",
    "q9": "it has no aggregate of a join without windows",
    "q12": "its processing time is the clock of the machine, so no two runs have equal rows",
}


def watermarked(events: DataFrame) -> DataFrame:
    return events.withWatermark("dateTime", LATENESS.replace("s", " seconds"))


def q3(s: Streams) -> DataFrame:
    sellers = s.persons.filter("state in ('OR', 'ID', 'CA')").select(
        F.col("id").alias("seller"), "name", "city", "state"
    )
    return s.auctions.filter("category = 10").join(sellers, "seller").select("name", "city", "state", "id")


def q5(s: Streams) -> DataFrame:
    bids = watermarked(s.bids).groupBy(F.window("dateTime", "10 seconds", "2 seconds").alias("window"), "auction")
    counts = bids.agg(F.count("*").alias("num"))
    all_counts = F.collect_list(F.struct("num", "auction")).alias("counts")
    most = counts.groupBy("window").agg(F.max("num").alias("most"), all_counts)
    hot = most.select("window", "most", F.explode("counts").alias("c")).filter("c.num = most")
    return hot.select("c.auction", "c.num", "window.start", "window.end")


def q7(s: Streams) -> DataFrame:
    bids = watermarked(s.bids).select("dateTime", queries.priced()).groupBy(F.window("dateTime", "10 seconds"))
    return bids.agg(queries.of_highest(F.collect_list("bid")).alias("bids")).select(F.inline("bids"))


def q8(s: Streams) -> DataFrame:
    both = watermarked(queries.comers(s)).groupBy("id", F.window("dateTime", "10 seconds").alias("window"))
    found = both.agg(F.max("name").alias("name"), F.sum("opened").alias("opened"))
    return found.filter("name is not null and opened > 0").select("id", "name", F.col("window.start").alias("stime"))


def q11(s: Streams) -> DataFrame:
    sessions = watermarked(s.bids).groupBy("bidder", F.session_window("dateTime", "10 seconds").alias("session"))
    return sessions.agg(F.count("*").alias("n")).select("bidder", "n", "session.start", "session.end")


def q13(s: Streams) -> DataFrame:
    bids = s.bids.withColumn("key", F.col("auction") % SIDE_ROWS)
    return bids.join(queries.side_input(), "key").select("auction", "bidder", "price", "dateTime", "value")


def q15(s: Streams) -> DataFrame:
    return queries.dated(s.bids).groupBy("day").agg(*report())


def q16(s: Streams) -> DataFrame:
    return queries.dated(s.bids).groupBy("channel", "day").agg(F.max("minute").alias("minute"), *report())


def q17(s: Streams) -> DataFrame:
    return (
        queries.dated(s.bids)
        .groupBy("auction", "day")
        .agg(
            *counts(),
            F.min("price").alias("min_price"),
            F.max("price").alias("max_price"),
            F.expr("sum(price) div count(*) as avg_price"),
            F.sum("price").alias("sum_price"),
        )
    )


def q18(s: Streams) -> DataFrame:
    last = F.max(F.struct("dateTime", "price", "channel", "url", "extra")).alias("last")
    found = s.bids.groupBy("auction", "bidder").agg(last)
    return found.select("auction", "bidder", "last.price", "last.channel", "last.url", "last.dateTime", "last.extra")


def q19(s: Streams) -> DataFrame:
    best = F.slice(F.sort_array(F.collect_list("bid")), 1, 10).alias("best")
    return queries.ranks(s.bids.select("auction", queries.falling()).groupBy("auction").agg(best))


def q20(s: Streams) -> DataFrame:
    items = s.auctions.filter("category = 10").withColumnsRenamed({"id": "auction", "dateTime": "at", "extra": "more"})
    return s.bids.join(items, "auction").select(
        *("auction", "bidder", "price", "channel", "url", "dateTime", "extra"),
        *("itemName", "description", "initialBid", "reserve", "at", "expires", "seller", "category", "more"),
    )


def counts() -> list[Any]:
    levels = (F.count_if(F.expr(condition)).alias(f"{rank}_bids") for rank, condition in queries.RANKS.items())
    return [F.count("*").alias("total_bids"), *levels]


def report() -> list[Any]:
    columns = counts()
    for what in ("bidder", "auction"):
        columns.append(F.size(F.collect_set(what)).alias(f"total_{what}s"))
        for rank, condition in queries.RANKS.items():
            chosen = F.collect_set(F.when(F.expr(condition), F.col(what)))
            columns.append(F.size(chosen).alias(f"{rank}_{what}s"))
    return columns


SAME = ("q0", "q1", "q2", "q10", "q14", "q21", "q22")
QUERIES: dict[str, Callable[[Streams], Any]] = {name: queries.QUERIES[name] for name in SAME} | {
    query.__name__: query for query in (q3, q5, q7, q8, q11, q13, q15, q16, q17, q18, q19, q20)
}


def run(name: str, batches: list[Path], folder: Path) -> list[float]:
    """Run a query over these batches, with its result in `folder`/`name`; returns the seconds of each."""
    spark = SparkSession.builder.getOrCreate()
    files = len(list(batches[0].iterdir()))
    lines = spark.readStream.option("maxFilesPerTrigger", files).text(f"file://{batches[0].parent}/batch-*")
    rows, out = QUERIES[name](Streams(queries.parsed(lines))), f"file://{folder}/{name}"
    writer = rows.writeStream.option("checkpointLocation", f"file://{folder}/checkpoint").trigger(availableNow=True)
    if name in queries.UPDATES:
        writer = writer.outputMode("complete").foreachBatch(lambda frame, _: frame.write.mode("overwrite").parquet(out))
    else:
        partitions = queries.PARTITIONS.get(name, [])
        writer = writer.format("parquet").option("path", out).partitionBy(*partitions)
    query = writer.start()
    query.awaitTermination()
    return [progress.durationMs["triggerExecution"] / 1000 for progress in query.recentProgress]
