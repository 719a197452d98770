"""2. The first program built in a function, so that the context that is running can be had again.

Run: python jobs/course/p02_get_or_create.py " 404 "
In a notebook the cell may run twice: the second time it gets the running context, not Spark's complaint.
To go on after a crash a job needs a checkpoint too: see p07.
"""

import sys

import sparkstream_kit as ss

from pyspark.streaming import DStream, StreamingContext


def holding(lines: DStream[str], text: str) -> DStream[str]:
    """Only the lines that hold the text."""
    return lines.filter(lambda line: text in line)


def main(text: str = " 404 ", batch_interval: str = "1s") -> int:
    """Print what the filter leaves, until Ctrl-C."""

    def build(ssc: StreamingContext) -> None:  # 2. the definition, called for a new context only
        batches = [ss.testing.log_lines(7, start, start + 100) for start in range(0, 1000, 100)]
        lines = ssc.queueStream([ssc.sparkContext.parallelize(batch) for batch in batches])
        holding(lines, text).pprint()

    ssc = ss.get_or_create(build, batch_interval=batch_interval)  # 1. the context
    ssc.start()  # 3. start
    again = ss.get_or_create(build, batch_interval=batch_interval)
    print("the same context again:", again is ssc)
    return ss.stop_when(again, lambda: False)  # 4. wait for Ctrl-C


if __name__ == "__main__":
    sys.exit(ss.program(main))
