"""jobs/access_log.py, and beside its source the files in $LOGS: one source has a lag in records, one in bytes.

What is not in the format goes to one more output, `others`.
"""

import os
import sys

from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from jobs import access_log
from sparkstream_kit.engine import batches


def build(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    access_log.build(ssc, source, output)
    _, rejected = ss.transforms.access_log.split(ss.sources.files(ssc, os.environ["LOGS"]))
    output(rejected, name="others")


if __name__ == "__main__":
    batches.SNAPSHOT_EVERY = 2  # which is when the rows of a state are counted
    sys.exit(ss.main(build))
