"""The job that is killed: the lines, and a stateless, a running and a windowed count of them."""

import sys

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss

COUNT = {"count": ss.aggregates.count()}


def with_status(lines: DataFrame) -> DataFrame:
    return lines.select("value", F.split("value", " ")[8].alias("status"))


def build(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    requests = source(ssc).transform(with_status)
    output(requests.select("value"), name="lines")
    output(requests.reduce_by_key("status", COUNT), name="each")
    output(requests.update_state_by_key("status", COUNT), name="running")
    if ssc.sparkContext.getConf().get("spark.kind") != "without windows":
        output(requests.reduce_by_key_and_window("status", COUNT, "2s", "1s"), name="window")


if __name__ == "__main__":
    sys.exit(ss.main(build))
