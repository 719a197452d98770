"""2. The first program built in a function, so that a second call returns the running context.

Run: python jobs/course/p02_get_or_create.py " 404 "
In a notebook the cell may run twice: the second run gets the running context instead of an error from Spark.
To continue after a crash a job also needs a checkpoint: see p07.
"""

import sys

import sparkstream_kit as ss

from pyspark.streaming import DStream, StreamingContext


def containing(lines: DStream[str], text: str) -> DStream[str]:
    """Only the lines that contain the text."""
    return lines.filter(lambda line: text in line)


def main(text: str = " 404 ", batch_interval: str = "1s") -> int:
    """Print the matching lines until Ctrl-C."""

    def build(ssc: StreamingContext) -> None:  # 2. the definition, called only for a new context
        batches = [ss.testing.log_lines(7, start, start + 100) for start in range(0, 1000, 100)]
        lines = ssc.queueStream([ssc.sparkContext.parallelize(batch) for batch in batches])
        containing(lines, text).pprint()

    ssc = ss.get_or_create(build, batch_interval=batch_interval)  # 1. the context
    ssc.start()  # 3. start
    again = ss.get_or_create(build, batch_interval=batch_interval)
    print("the same context again:", again is ssc)
    return ss.stop_when(again, lambda: False)  # 4. wait for Ctrl-C


if __name__ == "__main__":
    sys.exit(ss.program(main))
