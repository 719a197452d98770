"""10. The window operations, over the last ten seconds, every two.

Run: python jobs/course/p10_windows.py ARRIVING HOME [WINDOW [SLIDE [BATCH_INTERVAL]]]
Move files of log lines into ARRIVING. HOME gets the checkpoint that operations with an inverse function need.
"""

import sys
from operator import add, sub

import sparkstream_kit as ss
from sparkstream_kit.transforms.access_log import parse_line

from pyspark.streaming import DStream, StreamingContext


def windows(lines: DStream[str], window: str, slide: str) -> tuple[DStream[object], ...]:
    """For each window: longest line, number of lines, characters, and lines per status in two ways."""
    spans = ss.window_and_slide(lines.context(), window, slide)
    longest: DStream[int] = lines.map(len).window(*spans).reduce(max)
    number = lines.countByWindow(*spans)
    characters = lines.map(len).reduceByWindow(add, sub, *spans)
    statuses = lines.map(parse_line).map(lambda r: getattr(r, "status", "rejected"))
    ones = statuses.map(lambda status: (status, 1))  # the filter drops a status when its count falls to 0
    counts = ones.reduceByKeyAndWindow(add, sub, *spans, filterFunc=lambda count: count[1] > 0)
    return longest, number, characters, counts, statuses.countByValueAndWindow(*spans)


def main(arriving: str, home: str, window: str = "10s", slide: str = "2s", batch_interval: str = "1s") -> int:
    """Print all of them at every slide, until Ctrl-C."""

    def build(ssc: StreamingContext) -> None:  # 2. the definition
        for output in windows(ssc.textFileStream(ss.checks.check_directory(arriving)), window, slide):
            output.pprint()

    return ss.run(ss.get_or_create(build, checkpoint=home, batch_interval=batch_interval))  # 1., 3. and 4.


if __name__ == "__main__":
    sys.exit(ss.program(main))
