"""8. Requests per client in each batch.

Run: python jobs/course/p08_requests_per_client.py ARRIVING [BATCH_INTERVAL]
Move files of log lines into ARRIVING. A malformed line counts under its reason.
"""

import sys
from operator import add

import sparkstream_kit as ss
from sparkstream_kit.transforms.access_log import Request, parse_line

from pyspark.streaming import DStream, StreamingContext


def client(line: str) -> str | None:
    """The client that sent the request, or the reason why the line is malformed."""
    request = parse_line(line)
    return request.client_ip if isinstance(request, Request) else request.reason


def requests_per_client(lines: DStream[str]) -> DStream[tuple[str | None, int]]:
    """(client, number of requests) for each client in the batch."""
    return lines.map(lambda line: (client(line), 1)).reduceByKey(add)


def main(arriving: str, batch_interval: str = "1s") -> int:
    """Print up to 20 clients of each batch, until Ctrl-C."""

    def build(ssc: StreamingContext) -> None:  # 2. the definition
        requests_per_client(ssc.textFileStream(ss.checks.check_directory(arriving))).pprint(20)

    ssc = ss.get_or_create(build, batch_interval=batch_interval)  # 1. the context
    return ss.run(ssc)  # 3. start, 4. wait for Ctrl-C


if __name__ == "__main__":
    sys.exit(ss.program(main))
