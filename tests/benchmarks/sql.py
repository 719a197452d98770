"""Rows per second of the SQL outputs, and the driver's memory per batch: scripts/bench sql

Each figure is for whole batches, from the frame to the commit, into a table that earlier batches have filled; half of
the keys of an upsert exist already, except in the first batch. Databases and modes take turns. Before anything is
printed, the contents of the tables are compared with the input. Python's peak is VmHWM, which is reset for each batch;
the peak of the heap is the sum over its pools, garbage included, in a JVM limited to `HEAP`.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pyspark import SparkConf
from pyspark.sql import DataFrame, SparkSession

from sparkstream_kit.context import live_session
from sparkstream_kit.contracts import Batch
from sparkstream_kit.outputs._sql import parse_url, sql_table
from tests.benchmarks.measure import memory
from tests.servers.conftest import Postgres

HEAP = "1g"
WARM_UP = 1_000
RESULTS = Path(__file__).with_name("sql_results.md")

NOT_MEASURED = """\
A figure from a single batch, or under a load above the number of cores, is an indication and not a measurement.

Not measured yet: batches of a running job (these are single calls of the output), batches whose frame is expensive to
compute, rows wider than these six columns of about 60 bytes, accumulate, more indexes than the key, a server on another
machine or with durable writes (fsync is off here), executors on other machines, and Redis, files, Delta and webhooks.
"""


@dataclass(frozen=True)
class Measured:
    """One batch: seconds, and bytes of memory."""

    seconds: float
    python_before: int
    python: int
    heap: int


def requests(spark: SparkSession, first: int, count: int) -> DataFrame:
    return spark.range(first, first + count).selectExpr(
        "id",
        "concat('10.0.', id % 250, '.', id % 199) as host",
        "concat('/path/', id % 1000) as path",
        "cast(200 + id % 5 as int) as status",
        "id * 7 % 65536 as bytes",
        "timestamp_seconds(1700000000 + id) as time",
    )


def measured(spark: SparkSession, url: str, mode: str, count: int, n: int) -> Measured:
    """Write the n-th batch of `count` rows; half of its ids were in the batch before."""
    table = sql_table(url, f"{mode}_{count}", mode=mode, key="id" if mode == "upsert" else (), name=f"{mode} {count}")
    frame = requests(spark, n * count // 2, count)
    jvm: Any = spark._jvm
    jvm.System.gc()
    heap = [
        p for p in jvm.java.lang.management.ManagementFactory.getMemoryPoolMXBeans() if p.getType().name() == "HEAP"
    ]
    for pool in heap:
        pool.resetPeakUsage()
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    started = time.perf_counter()
    written = table.write(frame, Batch(n, datetime.fromtimestamp(n, timezone.utc), "bench", {"ids": (n - 1, n)}))
    seconds = time.perf_counter() - started
    assert written == count
    return Measured(seconds, before, memory("VmHWM"), sum(pool.getPeakUsage().getUsed() for pool in heap))


def check(url: str, mode: str, count: int, batches: int) -> None:
    """The table holds the input: ids that overlap by half, each as often as the mode says."""
    ids = [i for n in range(1, batches + 1) for i in range(n * count // 2, n * count // 2 + count)]
    expected = ids if mode == "append" else set(ids)
    query = sa.text(f"select count(*), sum(id), sum(bytes) from {mode}_{count}")
    with sa.create_engine(parse_url(url), poolclass=sa.NullPool).connect() as connection:
        found = tuple(int(value) for value in connection.execute(query).one())
    assert found == (len(expected), sum(expected), sum(i * 7 % 65536 for i in expected)), (url, mode, count)


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    folder, data = Path(tempfile.mkdtemp(prefix="bench-")), Path(tempfile.mkdtemp(prefix="postgres-"))
    server = Postgres(data)
    try:
        yield {"SQLite": f"sqlite:///{folder}/bench.db", "PostgreSQL": server.create_database()}
    finally:
        server.kill()
        shutil.rmtree(folder)
        shutil.rmtree(data)


def versions(spark: SparkSession, urls: dict[str, str]) -> str:
    with sa.create_engine(parse_url(urls["PostgreSQL"])).connect() as connection:
        server = str(connection.scalar(sa.text("show server_version"))).split()[0]
    with sa.create_engine(urls["SQLite"]).connect() as connection:
        lite = connection.scalar(sa.text("select sqlite_version()"))
    java = spark._jvm.System.getProperty("java.version")  # type: ignore[union-attr]
    libraries = ", ".join(f"{name} {version(name)}" for name in ("pyspark", "sqlalchemy", "psycopg"))
    return f"Python {platform.python_version()}, Java {java}, {libraries}, SQLite {lite}, PostgreSQL {server}"


def main() -> None:
    """Measure, compare, and write sql_results.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = ["10000x5", "100000x5", "1000000x5"]
    parser.add_argument("sizes", nargs="*", default=usual, metavar="ROWSxBATCHES", help=f"default: {' '.join(usual)}")
    sizes = [tuple(map(int, size.split("x"))) for size in parser.parse_args().sizes]
    cores = len(os.sched_getaffinity(0))
    conf = SparkConf().setMaster(f"local[{cores}]").set("spark.driver.memory", HEAP).set("spark.ui.enabled", "false")
    spark = live_session(conf)
    found: dict[tuple[int, str, str], list[Measured]] = defaultdict(list)
    with databases() as urls:
        made_with = versions(spark, urls)
        kinds = [(database, mode) for mode in ("append", "upsert") for database in urls]
        for database, mode in kinds:
            for n in range(1, 6):  # connections, classes, compiled code
                measured(spark, urls[database], mode, WARM_UP, n)
        for count, batches in sizes:
            for n in range(1, batches + 1):
                for database, mode in kinds:
                    one = measured(spark, urls[database], mode, count, n)
                    print(f"{count} rows, {mode}, {database}: {one.seconds:.1f} s", flush=True)
                    found[count, database, mode].append(one)
            for database, mode in kinds:
                check(urls[database], mode, count, batches)
    load = os.getloadavg()[2]
    lines = [
        "# Results\n",
        f"`scripts/bench sql` on {datetime.now(timezone.utc):%Y-%m-%d}, {cores} cores (load of the last 15 minutes "
        f"{load:.1f}), JVM heap of {HEAP}; {made_with}.\n",
        "## SQL outputs\n",
        "Medians over the batches (minimum to maximum). Memory in MiB: the driver's Python before the batch and at its "
        "peak, and the peak of the heap.\n",
        "| rows | batches | database | mode | rows/s | seconds | Python before | Python peak | heap peak |",
        "|---:|---:|---|---|---:|---:|---:|---:|---:|",
        *(_line(*kind, batches) for kind, batches in found.items()),
        "",
        NOT_MEASURED,
    ]
    RESULTS.write_text("\n".join(lines).rstrip() + "\n")
    print(RESULTS.read_text())


def _line(count: int, database: str, mode: str, batches: list[Measured]) -> str:
    seconds = sorted(one.seconds for one in batches)
    rate = count / statistics.median(seconds)
    memory = [max(getattr(one, name) for one in batches) >> 20 for name in ("python_before", "python", "heap")]
    took = f"{statistics.median(seconds):.2f} ({seconds[0]:.2f} to {seconds[-1]:.2f})"
    return (
        f"| {count:,} | {len(batches)} | {database} | {mode} | {rate:,.0f} | {took} | {' | '.join(map(str, memory))} |"
    )


if __name__ == "__main__":
    main()
