"""The command behind scripts/bench nexmark: run the queries, compare them with DuckDB, kill them, and report."""

from __future__ import annotations

import argparse
import os
import platform
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit.testing import local_session

from .. import measure
from ..arms import ALL, ticking
from ..inputs import START, arrive
from ..run import HEAP, session
from . import events, queries, structured
from .events import Size
from .expected import Expected

INTERVAL = 5
"""Seconds of the manual clock between two batches."""

QUICK = Size(4_000, 3, 100)
USUAL = Size(100_000, 10, 1_000)
ROUNDS = 3
RESULTS = Path(__file__).parents[1] / "nexmark_results.md"
ROOT = Path(__file__).parents[3]
NAMES = list(queries.QUERIES)


# --- the arms: each runs one query or more over the same batches, and returns the seconds of each batch


def kit(names: Sequence[str], batches: Sequence[Path], folder: Path) -> list[float]:
    """One job of the kit on the batches that have not arrived yet: after a crash, it continues where it was."""
    arriving = folder / "arriving"
    arriving.mkdir(exist_ok=True)
    arrived = len(list(arriving.iterdir()))

    def context() -> StreamingContext:
        def build(ssc: StreamingContext) -> None:
            lines = ss.sources.files(ssc, str(arriving), "*/*")
            queries.write(list(names), lines, str(folder / "out"))

        return ss.get_or_create(build, batch_interval=INTERVAL, home=str(folder / "home"), max_per_batch=ALL)

    # the clock goes on from the last arrival, whose batch may be unfinished or not even planned
    begin = START + INTERVAL * max(arrived - 1, 0)
    with ticking(context, begin, INTERVAL) as step:
        if arrived:
            step(arriving)
        return [step(arrive(batch, folder)) for batch in batches[arrived:]]


def results(name: str, out: Path) -> str:
    """The files with the result of the kit: those of all batches, or of the last one of an update stream."""
    last = max((int(batch.name.partition("=")[2]) for batch in (out / name).glob("batch=*")), default=0)
    return f"{out}/{name}/batch={last if name in queries.UPDATES else '*'}/**/*.parquet"


# --- checks


def check_all(batches: Sequence[Path], expected: Expected, folder: Path) -> None:
    """All queries in one job."""
    kit(NAMES, batches, folder)
    for name in NAMES:
        rows = expected.compare(name, "kit", results(name, folder / "out"))
        print(f"{name}: {rows} rows equal", flush=True)


def check_killed(
    names: Sequence[str], batches: Sequence[Path], expected: Expected, folder: Path, kills: int, seed: int
) -> str:
    """These queries in one job of another process, which is killed at random; returns what happened.

    A kill comes within two seconds after a batch was recorded: within it, between it and the next one, or later.
    """
    chance, happened = random.Random(seed), []
    for n in sorted(chance.sample(range(1, len(batches)), kills)):
        running = _started(names, batches, folder)
        try:
            _wait_for_batch(running, folder, n)
            time.sleep(2 * chance.random())
        finally:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
        happened.append(_left(folder))
    if _started(names, batches, folder).wait() != 0:
        raise RuntimeError(f"the job failed after {' and '.join(happened)}: {(folder / 'log').read_text()[-3000:]}")
    for name in names:
        expected.compare(name, f"kit, killed (seed {seed})", results(name, folder / "out"))
    return " and ".join(happened)


def _started(names: Sequence[str], batches: Sequence[Path], folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", __spec__.name, "--child", str(folder), str(batches[0].parent), *names]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def child(folder: str, given: str, *names: str) -> int:
    """The job that is killed, in its own process: it runs the batches that have not arrived in the folder yet."""
    local_session()
    kit(names, batches_in(Path(given)), Path(folder))
    return 0


def _wait_for_batch(running: subprocess.Popen[bytes], folder: Path, n: int) -> None:
    while _newest(folder) < n:
        if running.poll() is not None:
            raise RuntimeError(f"the job ended before batch {n}: {(folder / 'log').read_text()[-3000:]}")
        time.sleep(0.01)


def _left(folder: Path) -> str:
    last = _newest(folder)
    return f"{'after' if (folder / 'home' / 'offsets' / f'{last}.done').exists() else 'in'} batch {last}"


def _newest(folder: Path) -> int:
    """The newest batch in the offset log."""
    return max(
        (int(entry.name) for entry in (folder / "home" / "offsets").glob("[0-9]*") if "." not in entry.name), default=0
    )


def batches_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("batch-*"), key=lambda batch: int(batch.name.partition("-")[2]))


# --- figures


Arm = Callable[[str, Sequence[Path], Path], tuple[list[float], str]]


def kit_alone(name: str, batches: Sequence[Path], folder: Path) -> tuple[list[float], str]:
    return kit([name], batches, folder), results(name, folder / "out")


def structured_alone(name: str, batches: Sequence[Path], folder: Path) -> tuple[list[float], str]:
    return structured.run(name, list(batches), folder), f"{folder}/{name}/**/*.parquet"


ARMS: dict[str, Arm] = {"kit": kit_alone, "Structured Streaming": structured_alone}
Seconds = dict[tuple[str, str], list[float]]


def measured(batches: Sequence[Path], expected: Expected, folder: Path) -> Iterator[Seconds]:
    """The seconds of each query and arm so far, after each round but the first, which only warms up.

    All results are compared.
    """
    found: Seconds = defaultdict(list)
    for number in range(ROUNDS + 1):
        for name in NAMES:
            for arm in list(ARMS)[:: 1 if number % 2 else -1]:
                if arm != "kit" and name in structured.NOT_HERE:
                    continue
                work = Path(tempfile.mkdtemp(prefix="arm-", dir=folder))
                measure.collect_garbage()
                seconds, files = ARMS[arm](name, batches, work)
                expected.compare(name, arm, files)
                shutil.rmtree(work)
                measure.progress(f"round {number} of {ROUNDS}: {name} {arm} {sum(seconds):.1f} s")
                if number:
                    found[name, arm].append(sum(seconds))
        if number:
            yield found


def markdown(size: Size, found: Seconds, expected: Expected, killed: str, spark: SparkSession) -> str:
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[2]
    java = spark._jvm.System.getProperty("java.version")  # type: ignore[union-attr]
    libraries = ", ".join(f"{name} {version(name)}" for name in ("pyspark", "duckdb"))
    every, other = ARMS
    lines = [
        "# Nexmark\n",
        f"`scripts/bench nexmark` on {datetime.now(timezone.utc):%Y-%m-%d}, {cores} cores (load of the last 15 minutes "
        f"{load:.1f}), JVM heap of {HEAP}; Python {platform.python_version()}, Java {java}, {libraries}.\n",
        f"{size.events:,} events in {size.batches} batches, {size.rate:,} a second of event time. The final rows of "
        "every run equal those of DuckDB over all events at once, each as often. Seconds are those of all batches "
        f"together: medians of {len(found['q0', every])} rounds (minimum to maximum) in which the arms took turns, "
        "after one that only warmed up. Both arms parse JSON lines and write Parquet. An update stream (u) writes its "
        "whole result in each batch, and the last is compared. `tests/benchmarks/arms.py` says what seconds are.\n",
        f"| query | what it computes | rows | {every}: s | {other}: s | {every} / {other} |",
        "|---|---|---:|---:|---:|---:|",
        *(_line(name, found, expected) for name in NAMES),
        "",
        *(f"- {name} not in {other}: {reason}." for name, reason in structured.NOT_HERE.items()),
        "",
        f"All queries in one job, killed with SIGKILL {killed} and started again, had the same rows.\n",
        NOTES,
    ]
    return "\n".join(lines).rstrip() + "\n"


def _line(name: str, found: Seconds, expected: Expected) -> str:
    what = (queries.QUERIES[name].__doc__ or "").rstrip(".")
    mark = " (u)" if name in queries.UPDATES else ""
    ours, theirs = (sorted(found[name, arm]) for arm in ARMS)
    ratio = f"{statistics.median(ours) / statistics.median(theirs):.2f}" if theirs else "-"
    return f"| {name}{mark} | {what} | {expected.count(name):,} | {_took(ours)} | {_took(theirs)} | {ratio} |"


def _took(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({seconds[0]:.2f} to {seconds[-1]:.2f})" if seconds else "-"


NOTES = """\
What the kit cannot say, or only in another way:

- It has no join of two streams over time. q3, q4, q6, q9 and q20 build it from two states (`matched` in
  `tests/benchmarks/nexmark/queries.py`): a row is joined with all that came before or comes later. Nothing is dropped
  once an auction has expired, since keys expire by batch time only.
- A result cannot wait for a time that is in the row, such as the end of an auction. q4, q6 and q9 are the winning bids
  so far, as in the SQL of nexmark/nexmark, not those of auctions that have closed.
- An update stream returns all its rows in each batch, and not the changes.
- No aggregate counts distinct values exactly. q15 and q16 count the rows of two states, by bidder and by auction.
- The catalog has no aggregates for counts with a condition, for all values, and for the highest rows with their ties:
  queries.py adds them, in a few lines each. q19 has its ten bids from `collect_set`: of two equal bids it keeps one.
- q10 writes a folder for each batch, and in it those of days and minutes; nothing marks a minute as complete.
- q12 counts batches by their recorded time: all bids of a batch have the same processing time.

A figure from a single round, or under a load above the number of cores, is an indication and not a measurement.
"""


def parse_size(text: str) -> Size:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected EVENTSxBATCHES, for example 100000x10")
    count, batches = map(int, found.groups())
    return Size(count, batches, max(count // 100, 1))


def main(arguments: list[str]) -> int:
    """Run the benchmark; returns the exit code."""
    if arguments[:1] == ["--child"]:
        return child(*arguments[1:])
    parser = argparse.ArgumentParser(prog="scripts/bench nexmark", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only check that all rows are equal; writes nothing")
    usual = f"default: {USUAL.events}x{USUAL.batches}"
    parser.add_argument("size", nargs="?", type=parse_size, default=USUAL, metavar="EVENTSxBATCHES", help=usual)
    options = parser.parse_args(arguments)
    size = QUICK if options.quick else options.size
    folder = Path(tempfile.mkdtemp(prefix="nexmark-"))
    try:
        spark = local_session() if options.quick else session()
        batches = events.write(size, folder / "input", files=2)
        expected = Expected(folder / "input", START, INTERVAL)
        killed = folder / "killed"
        killed.mkdir()
        if options.quick:
            check_all(batches, expected, folder)
            happened = check_killed(KILLED, batches, expected, killed, kills=1, seed=time.time_ns())
            print(f"{', '.join(KILLED)}: equal after a kill {happened}")
            return 0
        happened = check_killed(NAMES, batches, expected, killed, kills=3, seed=time.time_ns())
        measure.progress(f"all queries in one job: equal after kills {happened}")
        for found in measured(batches, expected, folder):
            RESULTS.write_text(markdown(size, found, expected, happened, spark))
        print(RESULTS.read_text())
        return 0
    except measure.OutputsDiffer as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


KILLED = ["q1", "q7", "q18"]
"""For the quick check: stateless, a window, a state."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
