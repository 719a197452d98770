"""What a web server does, from its access log: the main job of this project, and the one that scripts/demo runs.

    spark-submit --py-files sparkstream_kit.zip jobs/access_log.py \
        --source "files:/var/log/apache2?glob=access*" --output console: --home /data/access.home

Lines in another format than Apache's common or combined need a --format, such as main for nginx: see --help.

Outputs:
    totals     lines, bytes, rejected: bigint           of each batch
    statuses   status: int, count: bigint               since the first start
    alerts     those of ss.transforms.threshold         batches with more than 25 answers 404
    paths      path: string, hits: bigint               the 10 most requested in the last minute, every 10 s
    clients    client_ip: string, hits, bytes: bigint   the 10 busiest in the last minute, every 10 s
    rejected   line, reason: string                     lines that are not in the format
"""

import sys

import sparkstream_kit as ss

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

COUNT = {"count": ss.aggregates.count()}
HITS = {"hits": ss.aggregates.count()}
TRAFFIC = {"hits": ss.aggregates.count(), "bytes": ss.aggregates.sum("bytes")}


def served(requests: DataFrame) -> DataFrame:
    """Number of requests, and bytes sent in answer to them."""
    return requests.agg(F.count("*").alias("requests"), F.coalesce(F.sum("bytes"), F.lit(0)).alias("bytes"))


def totals(both: DataFrame) -> DataFrame:
    """Requests, bytes and rejected lines side by side."""
    return both.select((F.col("requests") + F.col("count")).alias("lines"), "bytes", F.col("count").alias("rejected"))


def top10(frame: DataFrame) -> DataFrame:
    """The ten rows with the most hits; ties are sorted by the first column."""
    return frame.orderBy(F.desc("hits"), frame.columns[0]).limit(10)


def by_status(frame: DataFrame) -> DataFrame:
    """Sorted by status."""
    return frame.orderBy("status")


def build(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    """All outputs from one read of the log lines."""
    requests, rejected = ss.transforms.access_log.split(source(ssc).cache(), source.log_format)
    output(requests.transform(served).join(rejected.count()).transform(totals), name="totals")
    output(requests.update_state_by_key("status", COUNT).transform(by_status), name="statuses")
    output(ss.transforms.threshold(requests.filter("status = 404"), [], ss.aggregates.count(), above=25), name="alerts")
    output(requests.reduce_by_key_and_window("path", HITS, "1min", "10s").transform(top10), name="paths")
    output(requests.reduce_by_key_and_window("client_ip", TRAFFIC, "1min", "10s").transform(top10), name="clients")
    output(rejected, name="rejected")


if __name__ == "__main__":
    sys.exit(ss.main(build))
