"""1. Lines that contain a text, in ten batches of generated log lines.

Run: python jobs/course/p01_filter.py " 404 "
One batch per second; stops by itself after the tenth.
"""

import sys
from datetime import datetime

import sparkstream_kit as ss

from pyspark.streaming import DStream, StreamingContext


def containing(lines: DStream[str], text: str) -> DStream[str]:
    """Only the lines that contain the text."""
    return lines.filter(lambda line: text in line)


def main(text: str = " 404 ") -> int:
    """Print the matching lines of ten batches."""
    sc = ss.live_session().sparkContext
    ssc = StreamingContext(sc, 1)  # 1. the context, with batches of one second

    batches = [ss.testing.log_lines(7, start, start + 100) for start in range(0, 1000, 100)]  # 2. the definition
    lines = ssc.queueStream([sc.parallelize(batch) for batch in batches])
    containing(lines, text).pprint()
    done: list[datetime] = []
    lines.foreachRDD(lambda time, rdd: done.append(time))

    ssc.start()  # 3. start
    return ss.stop_when(ssc, lambda: len(done) >= len(batches))  # 4. wait for the ten batches, or for Ctrl-C


if __name__ == "__main__":
    sys.exit(ss.program(main))
