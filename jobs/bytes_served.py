"""Requests and bytes served in each batch.

    spark-submit --py-files sparkstream_kit.zip jobs/bytes_served.py \
        --source "files:/var/log/apache2?glob=access*" --output json:/data/served --home /data/served.home

Without a log to read, try it on generated lines:

    python jobs/bytes_served.py --source generator: --stop-after 5batches

Output `served`, one row per batch: lines: bigint (valid log lines), bytes: bigint.
"""

import sys

import sparkstream_kit as ss

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext


def served(requests: DataFrame) -> DataFrame:
    """The number of requests and their total bytes, which are 0 in an empty batch."""
    return requests.agg(F.count("*").alias("lines"), F.coalesce(F.sum("bytes"), F.lit(0)).alias("bytes"))


def build(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    """Parse the log lines, dropping malformed ones, and add up each batch."""
    requests, _ = ss.transforms.access_log.split(source(ssc), source.log_format)
    output(requests.transform(served), name="served")


if __name__ == "__main__":
    sys.exit(ss.main(build))
