"""9. map, filter, reduceByKey, groupByKey, union, join, and transform with a function used twice.

Run: python jobs/course/p09_basic_operations.py ARRIVING [BATCH_INTERVAL] (then move files of log lines there)
"""

import sys

import sparkstream_kit as ss
from sparkstream_kit.transforms.access_log import Request, parse_line

from pyspark import RDD
from pyspark.streaming import DStream, StreamingContext


def _counted(keys: RDD[str | None]) -> RDD[tuple[str | None, int]]:
    return keys.map(lambda key: (key, 1)).reduceByKey(lambda a, b: a + b)


def dead_links(lines: DStream[str]) -> DStream[object]:
    """(client, (((requests, dead links), bytes), dead paths)) for clients that followed dead links: 404 or 301."""
    requests = lines.map(parse_line).flatMap(lambda r: [r] if isinstance(r, Request) else [])
    dead = requests.filter(lambda r: r.status == 404).union(requests.filter(lambda r: r.status == 301))
    visits, misses = (s.map(lambda r: r.client_ip).transform(_counted) for s in (requests, dead))
    served = requests.map(lambda r: (r.client_ip, r.bytes or 0)).reduceByKey(lambda a, b: a + b)
    paths = dead.map(lambda r: (r.client_ip, r.path)).groupByKey().mapValues(set)
    return visits.join(misses).join(served).join(paths)


def main(arriving: str, batch_interval: str = "1s") -> int:
    """Print up to ten of them per batch, until Ctrl-C."""

    def build(ssc: StreamingContext) -> None:  # 2. the definition
        dead_links(ssc.textFileStream(ss.checks.check_directory(arriving))).pprint()

    return ss.run(ss.get_or_create(build, batch_interval=batch_interval))  # 1. the context, 3. start, 4. wait


if __name__ == "__main__":
    sys.exit(ss.program(main))
