"""Every record with its place, and how many there were so far of each value."""

import sys

from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss


def build(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    records = source(ssc)
    output(records.select(F.concat_ws(" ", "partition", "offset", "value").alias("value")), name="records")
    output(records.update_state_by_key("value", {"count": ss.aggregates.count()}), name="running")


if __name__ == "__main__":
    sys.exit(ss.main(build))
