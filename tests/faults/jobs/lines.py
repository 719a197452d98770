"""Every line, unchanged."""

import sys

from pyspark.streaming import StreamingContext

import sparkstream_kit as ss


def build(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    output(source(ssc), name="lines")


if __name__ == "__main__":
    sys.exit(ss.main(build))
