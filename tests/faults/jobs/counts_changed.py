"""The job of counts.py after a code change: functions renamed, outputs moved, and one added."""

import sys

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss

HOW_MANY = {"count": ss.aggregates.count()}


def parsed(text: DataFrame) -> DataFrame:
    fields = F.split("value", " ")
    return text.select(fields[8].alias("status"), fields[5].substr(2, 10).alias("method"), "value")


def build(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    hits = source(ssc).transform(parsed)
    output(hits.reduce_by_key_and_window("status", HOW_MANY, "2s", "1s"), name="window")
    output(hits.reduce_by_key("method", HOW_MANY), name="methods")
    output(hits.update_state_by_key("status", HOW_MANY), name="running")
    output(hits.reduce_by_key("status", HOW_MANY), name="each")
    output(hits.select("value"), name="lines")


if __name__ == "__main__":
    sys.exit(ss.main(build))
