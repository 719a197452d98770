"""6. How many lines arrived in the last five seconds, every two seconds.

Run: python jobs/course/p06_last_five_seconds.py ARRIVING [WINDOW [SLIDE [BATCH_INTERVAL]]]
ARRIVING is the directory into which files of log lines are moved. Window and slide are multiples of the batch
interval. A window without lines prints nothing.
"""

import sys

from pyspark.streaming import DStream, StreamingContext

from sparkstream_kit.checks import check_directory
from sparkstream_kit.context import get_or_create
from sparkstream_kit.dstreams import window_and_slide
from sparkstream_kit.job import program
from sparkstream_kit.lifecycle import run


def recent_lines(lines: DStream[str], window: str, slide: str) -> DStream[int]:
    """The number of lines in the window, once in each slide."""
    return lines.window(*window_and_slide(lines.context(), window, slide)).count()


def main(arriving: str, window: str = "5s", slide: str = "2s", batch_interval: str = "1s") -> int:
    """Print the numbers until Ctrl-C."""

    def build(ssc: StreamingContext) -> None:  # 2. the definition
        recent_lines(ssc.textFileStream(check_directory(arriving)), window, slide).pprint()

    ssc = get_or_create(build, batch_interval=batch_interval)  # 1. the context
    return run(ssc)  # 3. start, 4. wait for Ctrl-C


if __name__ == "__main__":
    sys.exit(program(main))
