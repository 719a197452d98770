"""From ticks to batches: what happens in Spark's job thread at every batch interval.

Spark's graph holds two kinds of callbacks, both functions of this module that look up the live engine: `_land` for
each received stream, then `_dispatch` on a stream that ticks without data. A tick

1. finishes the last entry of the log if it is not done, with its recorded time and ranges;
2. claims what there is: asks each source how far it can read and writes the next entry;
3. runs the outputs, each until it succeeds or the deadline has passed;
4. keeps state, now and then on disk; writes the done mark.

A failure is raised, and again by every later tick, so that Spark completes no batch after it and keeps them all in
its checkpoint; whoever waits for the context ends the process.
"""

from __future__ import annotations

import logging
import threading
import time as clock
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

from pyspark import RDD
from pyspark.streaming import StreamingContext

from ..bridge import jvm, streaming
from ..contracts import Position, Source
from ..dstreams import to_frame
from ..errors import BatchFailed, KitError
from ..recovery import landing
from ..recovery.lease import Lease
from ..recovery.offset_log import Entry
from .graph import Graph
from .rate import Pace

log = logging.getLogger(__name__)

SAVE_EVERY = 20
"""State is saved after every so many batches; a restart replays at most these."""

RETRY_FOR = 600.0
"""Seconds that a failing output is tried again: longer than most outages of a database."""


class Engine:
    """Runs the batches of one graph on one home."""

    def __init__(
        self,
        ssc: StreamingContext,
        graph: Graph,
        lease: Lease,
        *,
        max_per_batch: int | None = None,
        drain: bool = False,
        retry_for: float = RETRY_FOR,
    ):
        self.graph = graph
        self.finished = 0
        """Batches done by this process."""
        self.written: Counter[str] = Counter()
        """Rows written by this process, for each output that counts them."""
        self.retries: Counter[str] = Counter()
        """How often each output had to be tried again."""
        self.errors: dict[str, str] = {}
        """Why each of them failed last."""
        self.drained = threading.Event()
        self.stopping = threading.Event()
        """Set when a stop was asked for: nothing more is claimed, and retries do not wait."""
        self._ssc, self._lease = ssc, lease
        self._limit, self._drain, self._retry_for = max_per_batch, drain, retry_for
        self._pace = Pace(graph.interval / 1000)
        self._failure: BaseException | None = None
        self._claiming_tick = 0
        """The newest tick that waited when a batch was over: it claims for all before it."""

    def go_on(self, ssc: StreamingContext) -> None:
        """Be the engine that callbacks find, on the context that will be started, and keep the lease."""
        global _live
        _live, self._ssc = self, ssc
        if not self._drain:
            self.graph.log.reached_ends()  # of a drain that was cut off
        self._lease.keep(self._lost)

    def _lost(self, error: BaseException) -> None:
        self._failure = self._failure or error

    def asked_to_stop(self) -> bool:
        """Whether somebody deleted the marker of the home."""
        return self.graph.home.asked_to_stop()

    def tell(self) -> None:
        """Say what came of this run: batches, and of each output the rows it counts and what it had to try again."""
        log.info("%d batches%s", self.finished, ", drained" if self.drained.is_set() else "")
        for name in self.graph.outputs:
            told = [f"{self.written[name]} rows written"] if name in self.written else []
            if name in self.errors:
                told.append(f"tried again {self.retries[name]} times, last error: {self.errors[name]}")
            if told:
                log.info("%s: %s", name, ", ".join(told))

    def end(self) -> None:
        """The job has stopped in order: another driver may go on."""
        self.graph.home.mark_stopped(drained=not streaming.owes_received(self._ssc))
        self._lease.release()
        global _live
        _live = None

    # --- one tick

    def guarded(self, step: Callable[[], None]) -> None:
        """Run a step of a tick; after a failure nothing runs any more, so every later tick stays owed, too."""
        if self._failure is not None:
            raise self._failure
        try:
            step()
        except BaseException as error:
            self._failure = error
            raise

    def tick(self, time: int) -> None:
        """Everything that is to be done at a tick of Spark's clock."""
        last = self.graph.log.last
        if not self.graph.log.is_done(last.n):
            log.info("finishing batch %d of an earlier run", last.n)
            self._run(last)
        if self._drain:
            if not self.drained.is_set():
                self._run_to_the_end(time)
        elif not self.stopping.is_set() and not self._leave_to_a_newer_tick(time):
            entry = self._claim(time)
            if entry is not None:
                self._run(entry)

    def _leave_to_a_newer_tick(self, time: int) -> bool:
        """Whether the tick came up during a batch and a newer one did, too: the newest of them claims for all.

        So a slow patch makes one big batch of many ticks, however long it was. Ticks that come up while the others are
        left are not waited for, so where ticks are always late batches still come.
        """
        if time <= self._claiming_tick:
            return time < self._claiming_tick
        newest = streaming.newest_waiting_tick(self._ssc)
        if newest <= time:
            return False
        self._claiming_tick = newest
        return True

    def land(self, name: str, time: int, rdd: RDD[Any]) -> None:
        """Keep what was received in a tick, so that it can be read like any other source."""
        if not rdd.isEmpty():
            schema = self.graph.received[name][1]
            self._lease.check()
            landing.land(to_frame(rdd, schema), self.graph.home / f"received/{name}", time)

    def _run_to_the_end(self, time: int) -> None:
        """Everything that is there now; what "now" is stays fixed in the log until the end is reached.

        A stop that is asked for meanwhile leaves the rest to the next drain.
        """
        ends = self.graph.log.fixed_ends({name: s.latest(None) for name, s in self.graph.sources.items()})
        while not self.stopping.is_set():
            entry = self._claim(time, ends)
            if entry is None:
                self.graph.log.reached_ends()
                self.drained.set()
                return
            self._run(entry)

    def _claim(self, tick: int, ends: dict[str, Position] | None = None) -> Entry | None:
        """Write the next entry; None if there is nothing to do."""
        last = self.graph.log.last
        time = max(tick, last.time + 1)
        if tick < last.time and ends is None:
            log.warning("the clock went back by %d ms: batches are recorded at later times", last.time - tick)
        ranges, left = {}, {}
        for name, source in self.graph.sources.items():
            start = last.positions.get(name)
            end = found = source.latest(time) if ends is None else ends.get(name)
            if found != start:
                end = self._limited(name, source, start, found, draining=ends is not None)
            if end != start:
                ranges[name] = (start, end)
            if end != found:
                left[name] = found
        if not ranges and (ends is not None or not self.graph.window_due(time)):
            return None
        self._lease.check()
        return self.graph.log.append(time, ranges, data=bool(ranges), left=left)

    def _limited(self, name: str, source: Source, start: Position, end: Position, *, draining: bool) -> Position:
        """Where a batch ends: at the limit that was asked for; without one a drain takes all, else the pace decides."""
        if self._limit is not None:
            return source.limit(start, end, self._limit)
        return end if draining else self._pace.end(name, source, start, end)

    # --- one batch

    def _run(self, entry: Entry) -> None:
        graph, started, before = self.graph, clock.monotonic(), self.retries.copy()
        written = self._write_outputs(entry)
        for state in graph.states.values():
            state.at(graph.moment(entry))
        if entry.n % SAVE_EVERY == 0:
            self._lease.check()
            for state in graph.states.values():
                state.save(entry.n)
        self._lease.check()
        graph.log.mark_done(entry.n)
        graph.forget_moments()
        self.finished += 1
        if entry.n % SAVE_EVERY == 0:
            self._compact()
        self.written.update(written)
        if entry.data:
            self._pace.learn(clock.monotonic() - started)
        told = [_told(entry), *(f"{name} {rows} rows" for name, rows in written.items())]
        retries = self.retries - before
        told += [f"{name} tried again {n} times ({self.errors[name]})" for name, n in retries.items()]
        log.info("batch %d done in %.1f s: %s", entry.n, clock.monotonic() - started, ", ".join(told))

    def _write_outputs(self, entry: Entry) -> dict[str, int]:
        """Run every output until it succeeds; the rows written by those that count them."""
        graph = self.graph
        batch = graph.batch(entry)
        written: dict[str, int] = {}
        waiting, deadline, pause = dict(graph.outputs), clock.monotonic() + self._retry_for, 0.5
        while True:
            failures: dict[str, Exception] = {}
            for name, output in list(waiting.items()):
                try:
                    frame = graph.moment(entry).frame(output.compute)
                    self._lease.check()
                    if frame is not None:
                        rows = output.write(frame, batch)
                        if isinstance(rows, int):
                            written[name] = rows
                    del waiting[name]
                except KitError:
                    raise
                except Exception as error:
                    failures[name] = error
            if not failures:
                return written
            self.errors |= {name: jvm.reason(failure) for name, failure in failures.items()}
            left = deadline - clock.monotonic()
            if left <= 0 or self.stopping.is_set():
                raise self._given_up(entry, failures)
            self.retries.update(failures.keys())
            for name in failures:
                log.warning(
                    "batch %d: the output %r failed (%s); trying again in %.1f s, for %.0f s more",
                    entry.n,
                    name,
                    self.errors[name],
                    pause,
                    left,
                )
            if any("heckpoint block" in str(failure) for failure in failures.values()):
                graph.forget_everything()
            else:
                graph.forget_moments()
            self.stopping.wait(min(pause, left))
            pause = min(2 * pause, 30.0)

    def _given_up(self, entry: Entry, failures: dict[str, Exception]) -> Exception:
        name, failure = next(iter(failures.items()))
        if self._retry_for == 0:
            return failure
        error = BatchFailed(
            f"batch {entry.n}: the output {name!r} still fails ({jvm.reason(failure)}); the batch is owed and the "
            "next start finishes it"
        )
        error.__cause__ = failure
        return error

    def _compact(self) -> None:
        log_ = self.graph.log
        floor = self.graph.replayable_from()
        log_.compact(floor)
        for name, source in self.graph.sources.items():
            source.forget(log_.floor.positions.get(name))


def _told(entry: Entry) -> str:
    return ", ".join(f"{name} {start} to {end}" for name, (start, end) in entry.ranges.items()) or "no data"


# --- callbacks: all that Spark's checkpoint knows of a job

_live: Engine | None = None


def _dispatch(time: datetime, _: RDD[Any]) -> None:
    engine = _engine()
    engine.guarded(lambda: engine.tick(round(time.timestamp() * 1000)))


def _land(name: str, time: datetime, rdd: RDD[Any]) -> None:
    engine = _engine()
    engine.guarded(lambda: engine.land(name, round(time.timestamp() * 1000), rdd))


def _engine() -> Engine:
    assert _live is not None, "no job is running"
    return _live


def attach(ssc: StreamingContext, graph: Graph, ticks: str) -> None:
    """Put the callbacks on a context that is not started: each received stream, then the stream that only ticks."""
    for name, (dstream, _) in graph.received.items():

        def land(time: datetime, rdd: RDD[Any], name: str = name) -> None:
            _land(name, time, rdd)

        dstream.foreachRDD(land)
    # An always empty directory: the one input that ticks without data and survives a checkpoint.
    ssc.textFileStream(ticks).foreachRDD(_dispatch)


def live() -> Engine | None:
    """The engine of the job that runs in this process, if it has streams of frames."""
    return _live
