"""How many lines came in the last 5 seconds, every 2 seconds.

    spark-submit --py-files sparkstream_kit.zip jobs/lines_in_window.py \
        --source socket:localhost:9999 --home /data/lines.home

Output `lines`, columns: lines: bigint. Window and slide must be multiples of --batch-interval (1s unless given).
"""

import sys

import sparkstream_kit as ss

from pyspark.streaming import StreamingContext


def build(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    """One row at every slide."""
    counted = source(ssc).reduce_by_key_and_window([], {"lines": ss.aggregates.count()}, window="5s", slide="2s")
    output(counted, name="lines")


if __name__ == "__main__":
    sys.exit(ss.main(build))
