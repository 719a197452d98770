"""The workloads on a FrameStream of lines, written as the README and the docs of the kit teach them."""

from __future__ import annotations

from collections.abc import Callable

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

import sparkstream_kit as ss

from . import customers, delivered
from .on_frames import busiest, summary
from .workloads import CLIENT, INTERVAL, WINDOW

HITS = {"hits": ss.aggregates.count()}


def deliver(stream: ss.FrameStream) -> None:
    def collect(frame: DataFrame, batch: ss.Batch) -> None:
        delivered.deliver(frame.collect())

    stream.for_each_batch(collect, name="result")


def requests(lines: ss.FrameStream) -> ss.FrameStream:
    return lines.transform(ss.transforms.access_log.parse)


def one_client(lines: ss.FrameStream) -> None:
    deliver(lines.filter(f"startswith(value, '{CLIENT} ')").count())


def sums(lines: ss.FrameStream) -> None:
    aggregates = {"lines": ss.aggregates.count(), "bytes": ss.aggregates.sum("bytes")}
    deliver(requests(lines).reduce_by_key([], aggregates).select("lines", F.coalesce("bytes", F.lit(0))))


def groups(lines: ss.FrameStream) -> None:
    deliver(requests(lines).reduce_by_key(["status", "path"], HITS))


def busiest_paths(lines: ss.FrameStream, window: int = WINDOW) -> None:
    hits = requests(lines).reduce_by_key_and_window("path", HITS, f"{window}s", f"{INTERVAL}s")
    deliver(hits.transform(busiest))


def running_counts(lines: ss.FrameStream) -> None:
    deliver(requests(lines).update_state_by_key("client_ip", HITS).transform(summary))


def enriched(lines: ss.FrameStream) -> None:
    spark = SparkSession.builder.getOrCreate()
    joined = ss.transforms.enrich(requests(lines), lambda: customers.table(spark), on="client_ip")
    columns = ("client_ip", "status", "path", "bytes", "customer")
    ss.outputs.parquet(joined.select(*columns), str(delivered.folder()), name="out")


JOBS: dict[str, Callable[[ss.FrameStream], None]] = {
    "W1": one_client,
    "W2": sums,
    "W3": groups,
    "W4": busiest_paths,
    "W5": running_counts,
    "W6": enriched,
}
