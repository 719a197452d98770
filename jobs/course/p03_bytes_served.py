"""3. Bytes served in each batch; malformed lines are saved with the reason, and counted.

Run: python jobs/course/p03_bytes_served.py ARRIVING REJECTED [BATCH_INTERVAL]
Move files of log lines into ARRIVING; REJECTED gets the malformed lines. An empty batch prints no bytes.
"""

import sys
from operator import add

import sparkstream_kit as ss
from sparkstream_kit.transforms.access_log import Request, parse_line

from pyspark.streaming import DStream, StreamingContext


def served(lines: DStream[str]) -> tuple[DStream[int], DStream[str]]:
    """Total bytes of each batch's requests, and "reason<tab>line" for each malformed line."""
    parsed = lines.map(parse_line).cache()  # used by two outputs
    sizes = parsed.flatMap(lambda p: [p.bytes or 0] if isinstance(p, Request) else [])
    rejected = parsed.flatMap(lambda p: [] if isinstance(p, Request) else [f"{p.reason}\t{p.line}"])
    return sizes.reduce(add), rejected


def main(arriving: str, rejected: str, batch_interval: str = "1s") -> int:
    """Print the bytes and the number of rejected lines, and save the rejected lines."""

    def build(ssc: StreamingContext) -> None:  # 2. the definition
        total, others = served(ssc.textFileStream(ss.checks.check_directory(arriving)))
        total.pprint()
        others.count().map(lambda n: f"{n} lines rejected").pprint()
        ss.text_files(others, ss.checks.check_writable(rejected), keep_empty=False)

    return ss.run(ss.get_or_create(build, batch_interval=batch_interval))  # 1. the context, 3. start, 4. wait


if __name__ == "__main__":
    sys.exit(ss.program(main))
