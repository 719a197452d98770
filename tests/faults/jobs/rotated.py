"""Every line, unchanged, and how many requests of each method there were so far."""

import sys

from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss


def build(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    lines = source(ssc)
    methods = lines.select(F.split_part("value", F.lit('"'), F.lit(2)).alias("request"))
    methods = methods.select(F.split_part("request", F.lit(" "), F.lit(1)).alias("method"))
    output(lines, name="lines")
    output(methods.update_state_by_key("method", {"count": ss.aggregates.count()}), name="running")


if __name__ == "__main__":
    sys.exit(ss.main(build))
