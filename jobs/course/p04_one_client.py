"""4. The lines of one client address only.

Run: python jobs/course/p04_one_client.py ARRIVING ADDRESS [BATCH_INTERVAL]
Move files of log lines into the directory ARRIVING.
"""

import sys

import sparkstream_kit as ss
from sparkstream_kit.transforms.access_log import Request, parse_line

from pyspark.streaming import DStream, StreamingContext


def requests_from(address: str, lines: DStream[str]) -> DStream[str]:
    """The lines whose client is the address; elsewhere in a line it does not count."""

    def is_from(line: str) -> bool:
        request = parse_line(line)
        return isinstance(request, Request) and request.client_ip == address

    return lines.filter(is_from)


def main(arriving: str, address: str, batch_interval: str = "1s") -> int:
    """Print up to 100 lines of each batch, until Ctrl-C."""

    def build(ssc: StreamingContext) -> None:  # 2. the definition
        requests_from(address, ssc.textFileStream(ss.checks.check_directory(arriving))).pprint(100)

    ssc = ss.get_or_create(build, batch_interval=batch_interval)  # 1. the context
    return ss.run(ssc)  # 3. start, 4. wait for Ctrl-C


if __name__ == "__main__":
    sys.exit(ss.program(main))
