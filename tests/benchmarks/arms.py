"""The arms: ways to run a workload, one batch at a time. A table of them is at the end.

`start(work, folder)` sets a job up, and yields a function that runs it on the batch that has just arrived in
`folder`/arriving and returns the seconds it took. Every arm reads the files itself, and has its result in `delivered`
before it returns. The seconds are

- for DStreams and the kit: from the tick of the manual clock until Spark reports that the batch has completed, so with
  listing files, planning, scheduling, the jobs, and whatever the arm writes down to survive a crash;
- for Structured Streaming: `triggerExecution` of the batch as Spark reports it, which is the same work without the time
  that a poller waits for the next poll;
- otherwise: those of the call that reads the batch and computes the result.

All arms share one JVM and its SparkContext, and take turns; Spark allows one running StreamingContext at a time.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.streaming import DStream, StreamingContext

import sparkstream_kit as ss
from sparkstream_kit.bridge import streaming
from sparkstream_kit.bridge.callbacks import callback_errors
from sparkstream_kit.context import end_previous, new_context
from sparkstream_kit.testing import _Progress

from . import on_dstreams, on_frames, on_kit, on_lines
from .delivered import deliver
from .extract import CHECKED, QUICK, Extract
from .inputs import START, read_lines
from .workloads import INTERVAL, Workload

Step = Callable[[Path], float]
"""Runs one batch, given the directory in which it has arrived; returns the seconds."""

ALL = 1 << 40
"""A limit per batch that no batch reaches: otherwise the kit would cut large batches until it knows their pace."""


class Arm(NamedTuple):
    """One way to run the workloads. `without` names those that it cannot or need not run, with the reason."""

    name: str
    what: str
    start: Callable[[Workload, Path], AbstractContextManager[Step]]
    without: dict[str, str]


def _timed(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _job(jobs: dict[str, Any], work: Workload) -> Callable[..., Any]:
    job: Callable[..., Any] = jobs[work.name]
    return job if work.window is None else functools.partial(job, window=work.window)


# --- one process, one job


@contextmanager
def one_process(work: Workload, folder: Path) -> Iterator[Step]:
    compute = _job(on_lines.STEPS, work)()
    yield lambda batch: _timed(lambda: deliver(compute(read_lines(batch))))


@contextmanager
def one_job(work: Workload, folder: Path) -> Iterator[Step]:
    spark, write = SparkSession.builder.getOrCreate(), on_frames.WRITES[work.name](on_frames.parsed)
    yield lambda batch: _timed(lambda: write(spark.read.text(str(batch))))


# --- DStreams and the kit, under the manual clock


@contextmanager
def ticking(make: Callable[[], StreamingContext], start: int = START, interval: int = INTERVAL) -> Iterator[Step]:
    """Start the context that `make` returns; each step is one tick of this many seconds."""
    with streaming.manual_clock():
        ssc = make()
    progress, errors, now = _Progress(), list[BaseException](), start
    try:
        ssc.addStreamingListener(progress)
        streaming.advance_clock(ssc, 1000 * start)
        with callback_errors(errors.append):
            ssc.start()
            threading.Thread(target=progress.wait_for_errors, args=(ssc,), daemon=True).start()

            def step(_: Path) -> float:
                nonlocal now
                now += interval
                started = time.perf_counter()
                streaming.advance_clock(ssc, 1000 * interval)
                failure = progress.wait(1000 * now)
                if failure is not None:
                    raise (errors or [failure])[0]
                return time.perf_counter() - started

            yield step
    finally:
        ssc.stop(stopSparkContext=False)
        end_previous()


def dstream_context(
    build: Callable[[DStream[str]], None], folder: Path, interval: float, *, saved: bool = False
) -> StreamingContext:
    """A context with the lines of the files as a plain DStream, for which `build` defines what to do."""
    ssc = new_context(SparkSession.builder.getOrCreate(), round(1000 * interval))
    if saved:
        ssc.checkpoint(f"file://{folder}/checkpoint")
    build(ssc.textFileStream(f"file://{folder}/arriving/*"))
    return ssc


def lambdas(extract: Extract, work: Workload, folder: Path) -> AbstractContextManager[Step]:
    job, saved = _job(on_dstreams.JOBS, work), work.name in on_dstreams.CHECKPOINTED
    return ticking(lambda: dstream_context(lambda lines: job(lines, extract), folder, INTERVAL, saved=saved))


def for_each_rdd(parse: on_frames.Parse, work: Workload, folder: Path) -> AbstractContextManager[Step]:
    write = ss.each_frame(on_frames.WRITES[work.name](parse))
    return ticking(lambda: dstream_context(lambda lines: lines.foreachRDD(write), folder, INTERVAL))


def kit_context(work: Workload, folder: Path, interval: float) -> StreamingContext:
    """A context with the lines of the same files as a FrameStream of the kit, and a home."""

    def build(ssc: StreamingContext) -> None:
        _job(on_kit.JOBS, work)(ss.sources.files(ssc, str(folder / "arriving"), "*/*"))

    return ss.get_or_create(build, batch_interval=interval, home=str(folder / "home"), max_per_batch=ALL)


def kit(work: Workload, folder: Path) -> AbstractContextManager[Step]:
    return ticking(lambda: kit_context(work, folder, INTERVAL))


# --- Structured Streaming


def query_on(work: Workload, folder: Path, trigger: str) -> Any:
    """A query that has started: the DataFrame functions of the other arms, in foreachBatch."""
    spark = SparkSession.builder.getOrCreate()
    lines = spark.readStream.text(f"file://{folder}/arriving/*")
    mode = "append"
    if work.name == "W5":  # the state is Spark's: the running count of each key
        lines = on_frames.parsed(lines).groupBy("client_ip").agg(F.count("*").alias("hits"))
        write, mode = on_frames.collected(on_frames.summary), "complete"
    else:
        write = on_frames.WRITES[work.name](on_frames.parsed)

    def for_each(frame: DataFrame, _: int) -> None:
        write(frame)

    started = lines.writeStream.outputMode(mode).foreachBatch(for_each).trigger(processingTime=trigger)
    return started.option("checkpointLocation", f"file://{folder}/checkpoint").start()


@contextmanager
def structured(work: Workload, folder: Path) -> Iterator[Step]:
    query, n = query_on(work, folder, "0 seconds"), -1

    def step(_: Path) -> float:
        nonlocal n
        n += 1
        query.processAllAvailable()
        (progress,) = (found for found in query.recentProgress if found.batchId == n and found.numInputRows)
        return float(progress.durationMs["triggerExecution"]) / 1000

    try:
        yield step
    finally:
        with contextlib.suppress(Exception):
            query.stop()


# --- the table

NO_WINDOW = {"W4": "one batch alone has no window", "W5": "one batch alone has no state"}
CHECKS_NOTHING = {"W1": "no arm parses lines for it"}
KIT = "A3"

ARMS = (
    Arm("A1", "one Python process: re and Counter", one_process, {}),
    Arm("A2", "DStream, Python lambdas", functools.partial(lambdas, QUICK), {}),
    Arm("A2s", "the same, lines checked as parse does", functools.partial(lambdas, CHECKED), CHECKS_NOTHING),
    Arm(KIT, "this kit", kit, {}),
    Arm("A4", "the kit's functions in foreachRDD", functools.partial(for_each_rdd, on_frames.parsed), {}),
    Arm("A5", "Structured Streaming", structured, {"W4": "it has no windows of batches"}),
    Arm("A6", "one batch job", one_job, NO_WINDOW),
    Arm(
        "A8", "SQL that checks nothing, in foreachRDD", functools.partial(for_each_rdd, on_frames.lean), CHECKS_NOTHING
    ),
)
