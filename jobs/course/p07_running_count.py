"""7. Requests per HTTP status since the first start; after a crash the counts continue.

Run: python jobs/course/p07_running_count.py ARRIVING HOME [BATCH_INTERVAL]
Move files of log lines into ARRIVING. HOME gets counts/, the checkpoint and a marker file named running: delete
it to stop the job gracefully. A malformed line counts under its reason.
"""

import sys

import sparkstream_kit as ss
from sparkstream_kit.transforms.access_log import Request, parse_line

from pyspark.streaming import DStream, StreamingContext


def count_by_status(lines: DStream[str]) -> DStream[tuple[str, int]]:
    """(status, requests since the first start) for each status seen."""
    parsed = lines.map(parse_line)
    keys = parsed.map(lambda p: str(p.status) if isinstance(p, Request) else p.reason)
    return keys.map(lambda key: (key, 1)).updateStateByKey(ss.running_sum)


def main(arriving: str, home: str, batch_interval: str = "1s") -> int:
    """Write the counts of each batch until the marker is deleted."""

    def build(ssc: StreamingContext) -> None:  # 2. the definition
        counts = count_by_status(ssc.textFileStream(ss.checks.check_directory(arriving)))
        ss.text_files(counts.map(lambda count: f"{count[0]}\t{count[1]}"), f"{home}/counts", "tsv")

    ssc = ss.get_or_create(build, checkpoint=f"{home}/checkpoint", batch_interval=batch_interval)  # 1. the context
    return ss.run(ssc, marker=f"{home}/running")  # 3. start, 4. wait


if __name__ == "__main__":
    sys.exit(ss.program(main))
