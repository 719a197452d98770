"""11. Requests per status as text files, one directory per batch: Spark's way, and the kit's beside it.

Run: python jobs/course/p11_text_files.py ARRIVING RESULTS [BATCH_INTERVAL]
Move files of log lines into ARRIVING. RESULTS gets spark-<ms>.txt/ and kit/batch-<ms>.txt/: the kit's directories
appear complete or not at all, and no two batches share a name when daylight saving time ends.
"""

import sys

import sparkstream_kit as ss
from sparkstream_kit.transforms.access_log import Request, parse_line

from pyspark.streaming import DStream, StreamingContext


def save_counts(lines: DStream[str], results: str) -> None:
    """Write (status, requests) of each batch in both ways; a malformed line counts under its reason."""
    parsed = lines.map(parse_line)
    statuses = parsed.map(lambda p: p.status if isinstance(p, Request) else p.reason)
    counts = statuses.countByValue().cache()  # used by two outputs
    counts.saveAsTextFiles(f"{results}/spark", "txt")
    ss.text_files(counts, f"{results}/kit", "txt")


def main(arriving: str, results: str, batch_interval: str = "1s") -> int:
    """Write until Ctrl-C."""

    def build(ssc: StreamingContext) -> None:  # 2. the definition
        save_counts(ssc.textFileStream(ss.checks.check_directory(arriving)), ss.checks.check_writable(results))

    ssc = ss.get_or_create(build, batch_interval=batch_interval)  # 1. the context
    return ss.run(ssc)  # 3. start, 4. wait for Ctrl-C


if __name__ == "__main__":
    sys.exit(ss.program(main))
