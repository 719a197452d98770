"""Run arms in turn on the same batches, and compare what they computed before anything is said about time."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from pyspark.sql import SparkSession

from . import customers, delivered
from .arms import Arm
from .inputs import Inputs, arrive
from .workloads import Size, Workload

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class OutputsDiffer(Exception):
    """Two arms computed different rows: no figure of this run means anything."""


class Measured(NamedTuple):
    """One batch: seconds, CPU seconds of all processes (None if unknown), and what came out."""

    seconds: float
    cpu: float | None
    digest: str
    rows: list[tuple[Any, ...]]
    """The first few, to show what differs."""


Cells = dict[tuple[Workload, int, str], list[Measured]]
"""The measured batches of each workload, number of lines and arm."""


def progress(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def cells(
    arms: Sequence[Arm], workloads: Iterable[Workload], sizes: Sequence[Size], rounds: int, inputs: Inputs
) -> Iterator[Cells]:
    """Measure all arms on all workloads and sizes; yields all that is there so far, after each workload."""
    found: Cells = {}
    for work in workloads:
        for lines, warm, measured in sizes:
            batches = inputs.batches(lines, max(warm + measured, work.batches), work.keys)
            seen = interleaved(arms, work, f"{lines:,} lines", batches, rounds, measured)
            found |= {(work, lines, name): results for name, results in seen.items()}
        yield dict(found)


def interleaved(
    arms: Sequence[Arm], work: Workload, which: str, batches: Sequence[Path], rounds: int, measured: int
) -> dict[str, list[Measured]]:
    """The last `measured` batches of each round: in each of them every arm runs the same batches, from scratch."""
    found: dict[str, list[Measured]] = defaultdict(list)
    able = [arm for arm in arms if work.name not in arm.without]
    for number in range(rounds):
        seen = {}
        for arm in able[number % len(able) :] + able[: number % len(able)]:
            progress(f"{work.name} {work.what}, {which}, round {number + 1} of {rounds}: {arm.name} {arm.what}")
            seen[arm.name] = run(arm, work, batches)
        compare(work, which, seen)
        for name, results in seen.items():
            found[name] += results[-measured:]
    return found


def run(arm: Arm, work: Workload, batches: Sequence[Path]) -> list[Measured]:
    """One job of one arm on these batches, in a folder of its own beside theirs."""
    folder = Path(tempfile.mkdtemp(prefix="arm-", dir=batches[0].parent.parent))
    (folder / "arriving").mkdir()
    delivered.begin(folder)
    results = []
    collect_garbage()
    try:
        with arm.start(work, folder) as step:
            for batch in batches:
                arrived = arrive(batch, folder)
                before = cpu_seconds()
                seconds = step(arrived)
                after = cpu_seconds()
                rows = result(work)
                cpu = None if before is None or after is None else after - before
                results.append(Measured(seconds, cpu, digest(work, rows), rows[:5]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return results


def result(work: Workload) -> list[tuple[Any, ...]]:
    """What the batch delivered; of a workload that writes files, all that is there so far."""
    rows = delivered.take()
    if delivered.out().exists():
        rows += [
            tuple(row)
            for row in customers.digest(SparkSession.builder.getOrCreate().read.parquet(str(delivered.out())))
        ]
    return rows if work.ordered else sorted(rows, key=repr)


def digest(work: Workload, rows: list[tuple[Any, ...]]) -> str:
    """A hash of the rows, each as often as it is there."""
    return sha256(repr(rows).encode()).hexdigest()


def compare(work: Workload, which: str, seen: dict[str, list[Measured]]) -> None:
    """Raise OutputsDiffer unless all arms had the same rows in every batch, and any at all."""
    names = list(seen)
    for n, batch in enumerate(zip(*seen.values(), strict=True), 1):
        if not all(one.rows for one in batch):
            empty = ", ".join(name for name, one in zip(names, batch, strict=True) if not one.rows)
            raise OutputsDiffer(f"{work.name}, {which}, batch {n}: no rows from {empty}")
        if len({one.digest for one in batch}) > 1:
            shown = "\n".join(f"  {name}: {one.rows} {one.digest[:8]}" for name, one in zip(names, batch, strict=True))
            raise OutputsDiffer(f"{work.name}, {which}, batch {n}: the arms differ, so there are no figures\n{shown}")


def collect_garbage() -> None:
    """Each arm starts from a heap without the garbage of the one before."""
    jvm: Any = SparkSession.builder.getOrCreate()._jvm
    jvm.System.gc()


def memory(name: str, process: int | str = "self") -> int:
    """Bytes that Linux says of a process: VmRSS now, or VmHWM at its peak; proc(5)."""
    (line,) = (line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def cpu_seconds() -> float | None:
    """CPU time so far of this process and all below it: the JVM and the Python workers. None without /proc."""
    if not Path("/proc/self/stat").exists():
        return None
    children, times = defaultdict(list), {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        pid = int(stat.parent.name)
        children[int(fields[1])].append(pid)
        times[pid] = sum(map(int, fields[11:15]))  # its own, and of children that have ended; proc(5)
    total, below = 0, [os.getpid()]
    while below:
        pid = below.pop()
        total += times.get(pid, 0)
        below += children[pid]
    return total / TICKS_PER_SECOND


def fitted(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """a and b of T(n) = a + b * n, by least squares of the relative errors, so that small batches count as much."""
    weights = [1 / seconds**2 for _, seconds in points]
    total = sum(weights)
    x = sum(w * n for w, (n, _) in zip(weights, points, strict=True)) / total
    y = sum(w * t for w, (_, t) in zip(weights, points, strict=True)) / total
    over = sum(w * (n - x) * (t - y) for w, (n, t) in zip(weights, points, strict=True))
    b = over / sum(w * (n - x) ** 2 for w, (n, _) in zip(weights, points, strict=True))
    return y - b * x, b


def median(measured: Sequence[Measured]) -> float:
    return statistics.median(one.seconds for one in measured)
