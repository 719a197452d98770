"""Every line that comes in, as it is."""

import sys

from pyspark.streaming import StreamingContext

from sparkstream_kit.job import OutputTo, SourceOf, main


def build(ssc: StreamingContext, source: SourceOf, output: OutputTo) -> None:
    output(source(ssc), name="lines")


if __name__ == "__main__":
    sys.exit(main(build))
