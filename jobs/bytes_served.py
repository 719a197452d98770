"""Requests and bytes served in each batch.

    spark-submit --py-files sparkstream_kit.zip jobs/bytes_served.py \
        --source "files:/var/log/apache2?glob=*.log" --output json:/data/served --home /data/served.home

Output `served`, columns: lines: bigint, bytes: bigint.
"""

import sys

import sparkstream_kit as ss

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext


def served(requests: DataFrame) -> DataFrame:
    """How many requests there were, and how many bytes went out."""
    return requests.agg(F.count("*").alias("lines"), F.coalesce(F.sum("bytes"), F.lit(0)).alias("bytes"))


def build(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    """One row for each batch."""
    requests = source(ssc).transform(ss.transforms.access_log.parse)
    output(requests.transform(served), name="served")


if __name__ == "__main__":
    sys.exit(ss.main(build))
