"""The number of lines that arrived in the last 5 seconds, every 2 seconds.

    spark-submit --py-files sparkstream_kit.zip jobs/lines_in_window.py \
        --source socket:localhost:9999 --home /data/lines.home

Without a server to read from, try it on generated lines:

    python jobs/lines_in_window.py --source generator: --stop-after 10batches

Output `lines`, one row per slide: lines: bigint. Window and slide must be multiples of --batch-interval (default: 1s).
"""

import sys

import sparkstream_kit as ss

from pyspark.streaming import StreamingContext

LINES = {"lines": ss.aggregates.count()}
WINDOW, SLIDE = "5s", "2s"


def build(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    """A windowed count without keys: one row at every slide."""
    lines = source(ssc).reduce_by_key_and_window([], LINES, window=WINDOW, slide=SLIDE)
    output(lines, name="lines")


if __name__ == "__main__":
    sys.exit(ss.main(build))
