"""The smallest batch interval at which a streaming arm keeps up, under the real clock, for W3.

A batch arrives in every interval, 60 in all. Once the first 20 are over, an arm keeps up if nearly every batch has its
own result, and the delay from a batch's arrival to its result does not grow. The second condition is the one that
matters; the first is needed because the kit and Structured Streaming answer a backlog with larger batches.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pyspark.streaming import StreamingContext

from sparkstream_kit.context import end_previous

from . import arms, delivered, on_dstreams
from .extract import QUICK
from .inputs import Inputs
from .measure import collect_garbage, progress
from .workloads import GROUP

BATCHES = 60
MILLISECONDS = (1000, 700, 500, 350, 250, 175, 125, 100)
SECONDS = (8, 4, 2, 1, 0.5)
NAMES = ("A2", "A3", "A5")


@contextmanager
def _started(ssc: StreamingContext) -> Iterator[None]:
    ssc.start()
    try:
        yield
    finally:
        ssc.stop(stopSparkContext=False)
        end_previous()


@contextmanager
def running(name: str, folder: Path, seconds: float) -> Iterator[None]:
    """An arm that runs W3 at this interval."""
    if name == "A2":
        with _started(arms.dstream_context(lambda lines: on_dstreams.groups(lines, QUICK), folder, seconds)):
            yield
    elif name == "A3":
        with _started(arms.kit_context(GROUP, folder, seconds)):
            yield
    else:
        query = arms.query_on(GROUP, folder, f"{round(1000 * seconds)} milliseconds")
        try:
            yield
        finally:
            with contextlib.suppress(Exception):
                query.stop()


def smallest(name: str, intervals: Sequence[float], rate: int | None, inputs: Inputs) -> float | None:
    """The smallest of the intervals, given from large to small, before the first that is not stable."""
    best = None
    for seconds in intervals:
        lines = 1_000 if rate is None else round(rate * seconds)
        progress(f"{GROUP.name}: {name} with {lines:,} lines every {seconds} s")
        if not keeps_up(*observed(name, seconds, inputs.batches(lines, BATCHES), lines), seconds):
            break
        best = seconds
    return best


def observed(name: str, seconds: float, batches: Sequence[Path], lines: int) -> tuple[list[float], list[float]]:
    """When each batch arrived, and when its result was there: infinite if that took too long."""
    folder = Path(tempfile.mkdtemp(prefix="arm-", dir=batches[0].parent.parent))
    (folder / "arriving").mkdir()
    delivered.begin(folder)
    collect_garbage()
    arrived = []
    try:
        with running(name, folder, seconds):
            start = time.time() + 2 * seconds
            for n, batch in enumerate(batches):
                time.sleep(max(0.0, start + n * seconds - time.time()))
                _arrive_now(batch, folder)
                arrived.append(time.time())
            deadline = time.time() + max(10.0, 20 * seconds)
            while sum(_lines_of(rows) for _, rows in delivered.deliveries()) < len(batches) * lines:
                if time.time() > deadline:
                    break
                time.sleep(0.05)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results = [(at, _lines_of(rows)) for at, rows in delivered.deliveries() if rows]
    return arrived, ends(len(arrived), results, lines)


def _lines_of(rows: delivered.Rows) -> int:
    return sum(hits for _, _, hits in rows)


def _arrive_now(batch: Path, folder: Path) -> None:
    """As `inputs.arrive`, with the time of now, which textFileStream asks for: so the files are copied."""
    coming = folder / "coming"
    shutil.copytree(batch, coming, copy_function=shutil.copyfile)
    for file in coming.iterdir():
        os.utime(file)
    coming.rename(folder / "arriving" / batch.name)


def ends(batches: int, results: Sequence[tuple[float, int]], lines: int) -> list[float]:
    """For each batch the time of the result that had its last line, given the time and lines of each result."""
    found, left, seen, at = [], list(results), 0, float("inf")
    for n in range(1, batches + 1):
        while seen < n * lines and left:
            at, more = left.pop(0)
            seen += more
        found.append(at if seen >= n * lines else float("inf"))
    return found


def keeps_up(arrived: Sequence[float], ended: Sequence[float], seconds: float) -> bool:
    """Whether, after the first third, nearly every batch had its own result and the delay did not grow."""
    third = len(arrived) // 3
    delay = [end - start for start, end in zip(arrived, ended, strict=True)]
    grown = statistics.median(delay[-third:]) - statistics.median(delay[third : 2 * third])
    return len(set(ended[third:])) >= 0.9 * len(ended[third:]) and grown < seconds
