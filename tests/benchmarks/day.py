"""What a job holds after many batches: scripts/bench day

A job reads a live log, to which lines are appended before each batch, and which is rotated every `ROTATED` batches. It
has a running count that forgets, a window, and an upsert into SQLite. The manual clock advances as fast as the batches
run. Every `EVERY` batches, after a garbage collection, it is counted what driver and home hold.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pyspark import SparkConf
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit import settings
from sparkstream_kit.context import live_session
from sparkstream_kit.testing import log_lines

from . import arms, delivered
from .measure import collect_garbage, memory, progress
from .on_frames import busiest
from .on_kit import HITS, deliver, requests
from .workloads import INTERVAL, WINDOW

BATCHES = 20_000
EVERY = 500
ROTATED = 100
KEPT = 3
LINES = 50
EXPIRED = 600
HEAP = "1g"
RESULTS = Path(__file__).with_name("day_results.md")

Held = dict[str, int]


def build(ssc: StreamingContext, folder: Path) -> None:
    found = requests(ss.sources.files(ssc, str(folder / "arriving")))
    window = found.reduce_by_key_and_window("path", HITS, f"{WINDOW}s", f"{INTERVAL}s")
    deliver(window.transform(busiest))
    counts = found.update_state_by_key("client_ip", HITS, expire_after=f"{EXPIRED}s")
    ss.outputs.sql(
        counts, f"sqlite:///{folder}/counts.db", table="counts", mode="upsert", key="client_ip", name="counts"
    )


def held(folder: Path) -> Held:
    """What this process, its JVM and the job's home hold now: MiB, or how many."""
    gc.collect()  # Python's references keep objects of the JVM alive
    spark: Any = SparkSession.builder.getOrCreate()
    collect_garbage()
    management = spark._jvm.java.lang.management.ManagementFactory
    used = management.getMemoryMXBean()
    java = int(management.getRuntimeMXBean().getName().split("@")[0])
    return {
        "heap MiB": used.getHeapMemoryUsage().getUsed() >> 20,
        "metaspace and code MiB": used.getNonHeapMemoryUsage().getUsed() >> 20,
        "JVM MiB": memory("VmRSS", java) >> 20,
        "Python MiB": memory("VmRSS") >> 20,
        "Python blocks": sys.getallocatedblocks(),
        "JVM threads": management.getThreadMXBean().getThreadCount(),
        "Python threads": len(os.listdir("/proc/self/task")),
        "JVM descriptors": len(os.listdir(f"/proc/{java}/fd")),
        "Python descriptors": len(os.listdir("/proc/self/fd")),
        "classes": management.getClassLoadingMXBean().getLoadedClassCount(),
        "stored RDDs": spark.sparkContext._jsc.getPersistentRDDs().size(),
        "files of the home": sum(len(files) for _, _, files in os.walk(folder / "home")),
        "files of Spark": sum(len(files) for _, _, files in os.walk(spark.conf.get("spark.local.dir"))),
    }


def run(batches: int, every: int, folder: Path) -> list[Held]:
    (folder / "arriving").mkdir()

    def start() -> StreamingContext:
        return ss.get_or_create(
            lambda ssc: build(ssc, folder), batch_interval=INTERVAL, home=str(folder / "home"), max_per_batch=arms.ALL
        )

    found, took = [], list[float]()
    with arms.ticking(start) as step:
        for n in range(batches):
            arrive(n, folder)
            took.append(step(folder))
            delivered.take()
            if (n + 1) % every == 0:
                found.append({"batches": n + 1, "ms a batch": round(1000 * statistics.median(took)), **held(folder)})
                progress(", ".join(f"{name} {value:,}" for name, value in found[-1].items()))
                took.clear()
    return found


def arrive(n: int, folder: Path) -> None:
    """Lines are appended to the log; at times it is renamed first, and the oldest of those that were is removed."""
    live = folder / "arriving" / "access.log"
    names = [live, *(live.with_name(f"{live.name}.{age}") for age in range(1, KEPT + 1))]
    if n and n % ROTATED == 0:
        for older, newer in itertools.pairwise(reversed(names)):
            if newer.exists():
                newer.rename(older)
    with live.open("a") as log:
        log.writelines(f"{line}\n" for line in log_lines(1, n * LINES, (n + 1) * LINES))


def counted(batches: int) -> list[tuple[str, int]]:
    """The rows that the table must have: the hits of each client since it was last forgotten."""
    seen = dict[str, tuple[int, int]]()
    for n in range(batches):
        for line in log_lines(1, n * LINES, (n + 1) * LINES):
            client = line.partition(" ")[0]
            last, hits = seen.get(client, (n, 0))
            seen[client] = n, hits + 1 if n - last <= EXPIRED // INTERVAL else 1
    return sorted((client, hits) for client, (_, hits) in seen.items())


def growing(found: list[Held]) -> list[str]:
    """What was more throughout the last quarter than ever in the second one, by 2 %."""
    quarter = len(found) // 4
    names = [name for name in found[0] if name not in ("batches", "ms a batch")]
    early, late = found[quarter : 2 * quarter], found[-quarter:]
    return [name for name in names if min(one[name] for one in late) > 1.02 * max(one[name] for one in early)]


def report(found: list[Held], spark: SparkSession) -> str:
    last, grown = found[-1]["batches"], growing(found)
    step = max(1, len(found) // 10)
    lines = [
        f"# {last:,} batches\n",
        f"`scripts/bench day {last}` on {datetime.now(timezone.utc):%Y-%m-%d}, PySpark {spark.version}, local[2], a "
        f"heap of {HEAP}. {LINES} lines a batch are appended to a live log that is rotated every {ROTATED} batches. A "
        "running count that forgets, a window, an upsert into SQLite, whose rows at the end are those of a plain "
        "Python count.\n",
        f"More throughout the last quarter than ever in the second one, by 2 %: {', '.join(grown) or 'nothing'}.\n",
        f"| {' | '.join(found[0])} |",
        f"|{'---:|' * len(found[0])}",
        *(f"| {' | '.join(f'{value:,}' for value in one.values())} |" for one in found[step - 1 :: step]),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run, compare the table, report; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("batches", nargs="?", type=int, default=BATCHES, help=f"default: {BATCHES:,}")
    batches = parser.parse_args().batches
    if batches < 8:
        parser.error(f"got {batches} batches, expected at least 8: growth is seen between quarters")
    folder = Path(tempfile.mkdtemp(prefix="day-"))
    (folder / "spark").mkdir()
    conf = (
        SparkConf().setMaster("local[2]").set("spark.driver.memory", HEAP).set("spark.local.dir", str(folder / "spark"))
    )
    spark = live_session(conf, settings.LOCAL, settings.FRAMES)
    spark.sparkContext.setLogLevel("OFF")
    try:
        found = run(batches, max(1, min(EVERY, batches // 8)), folder)
        with sqlite3.connect(folder / "counts.db") as database:
            rows = database.execute("select client_ip, hits from counts order by 1").fetchall()
    finally:
        shutil.rmtree(folder)
    if rows != counted(batches):
        print("the rows in SQLite are not those of a plain count", file=sys.stderr)
        return 1
    print(report(found, spark))
    if batches < BATCHES:  # which may end before the JVM is warm
        return 0
    RESULTS.write_text(report(found, spark))
    return 1 if growing(found) else 0


if __name__ == "__main__":
    sys.exit(main())
