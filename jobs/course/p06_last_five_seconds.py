"""6. The number of lines that arrived in the last five seconds, every two seconds.

Run: python jobs/course/p06_last_five_seconds.py ARRIVING [WINDOW [SLIDE [BATCH_INTERVAL]]]
Move files of log lines into the directory ARRIVING. Window and slide must be multiples of the batch interval. An
empty window prints no count.
"""

import sys

import sparkstream_kit as ss

from pyspark.streaming import DStream, StreamingContext


def recent_lines(lines: DStream[str], window: str, slide: str) -> DStream[int]:
    """The number of lines in each window, once per slide."""
    return lines.window(*ss.window_and_slide(lines.context(), window, slide)).count()


def main(arriving: str, window: str = "5s", slide: str = "2s", batch_interval: str = "1s") -> int:
    """Print the numbers until Ctrl-C."""

    def build(ssc: StreamingContext) -> None:  # 2. the definition
        recent_lines(ssc.textFileStream(ss.checks.check_directory(arriving)), window, slide).pprint()

    ssc = ss.get_or_create(build, batch_interval=batch_interval)  # 1. the context
    return ss.run(ssc)  # 3. start, 4. wait for Ctrl-C


if __name__ == "__main__":
    sys.exit(ss.program(main))
