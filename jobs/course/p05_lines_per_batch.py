"""5. The number of lines in each batch, from a socket.

Run: python jobs/course/p05_lines_per_batch.py 127.0.0.1 9999 [BATCH_INTERVAL]
First, in another terminal: nc -lk 9999 < jobs/data/access_2000.log
A receiver occupies a core, so the job needs two. An empty batch prints no count.
"""

import sys

import sparkstream_kit as ss

from pyspark.streaming import DStream, StreamingContext


def lines_per_batch(lines: DStream[str]) -> DStream[int]:
    """The number of lines in each batch."""
    return lines.count()


def main(host: str, port: str, batch_interval: str = "1s") -> int:
    """Print the numbers until Ctrl-C."""
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ss.UsageError(f"got port {port!r}, expected a number from 1 to 65535")
    ss.checks.check_port(host, int(port))  # the receiver would retry forever

    def build(ssc: StreamingContext) -> None:  # 2. the definition
        lines_per_batch(ssc.socketTextStream(host, int(port))).pprint()

    ssc = ss.get_or_create(build, batch_interval=batch_interval)  # 1. the context
    return ss.run(ssc)  # 3. start, 4. wait for Ctrl-C


if __name__ == "__main__":
    sys.exit(ss.program(main))
