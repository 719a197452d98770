"""The engine: what runs in Spark's job thread at every batch interval.

Spark's graph holds two kinds of callbacks, functions of this module that look up the live engine: `_land` for each
received stream, then `_dispatch` on a stream that ticks without data. A tick

1. finishes the entries of the log that are not done, with their recorded times and offset ranges: the last one after a
   crash, and those that an operator has run again (rewinds.py);
2. plans a batch: asks each source for its latest offset and writes the next entry;
3. runs the outputs, each until it succeeds or the deadline passes;
4. advances the states, saves snapshots of them every `SNAPSHOT_EVERY` batches, and writes the done mark.

A graceful stop saves them, too.

Every later tick raises the same failure, so that Spark completes no batch after it and keeps them all in its
checkpoint; whatever waits for the context ends the process.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time as clock
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from pyspark import RDD
from pyspark.streaming import StreamingContext

from ..bridge import hadoop, jvm, streaming, surgery
from ..contracts import Offset, OffsetRange, Source
from ..dstreams import to_frame
from ..errors import BatchFailed, Fenced, InputLost
from ..events import JobFailed, JobStarted, JobStopped, StepFailed
from ..recovery import landing
from ..recovery.home import Failure
from ..recovery.lease import Lease
from ..recovery.offset_log import Entry
from ..redaction import redact
from . import clocks, skipped
from .checkpoints import Checkpoints
from .graph import Graph, Output, State
from .meters import Meters
from .progress import SAY_AFTER, tasks_done, watched
from .rate import ALL, RateController
from .reports import Reports, as_json, line, tell
from .retries import RETRY_FOR, StillFailing, until_done

log = logging.getLogger(__name__)

SNAPSHOT_EVERY = 20
"""Batches between two snapshots of the states; a restart replays at most this many."""

NOTE_LIMIT = 5
"""Seconds that a job which ends waits for the home to note why."""


class Engine:
    """Runs the batches of one graph and one home."""

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
        """Batches finished by this process."""
        self.written: Counter[str] = Counter()
        """Rows written by this process, for each output that counts them."""
        self.retries: Counter[str] = Counter()
        """Number of retries of each output and state."""
        self.errors: dict[str, str] = {}
        """The last error of each output and state that was retried."""
        self.reports = Reports(graph)
        self.drained = threading.Event()
        self.stopping = threading.Event()
        """Set when a stop is requested: only what receivers brought is still planned, and retries do not wait."""
        self._ssc, self._lease = ssc, lease
        self._limit, self._retry_for = max_per_batch, retry_for
        self.is_draining = drain
        self._rate = RateController(graph.interval / 1000)
        self._rates: surgery.InputRates | None = None
        self._read = 0
        """Records that this tick has read, without those of receivers, which Spark knows itself."""
        self._checkpoints: Checkpoints | None = None
        self._meters = Meters(self.reports, graph, starts=lease.epoch)
        self._failure: BaseException | None = None
        self._is_reported = self._is_failing = False
        self._is_ahead = False
        """Whether the recorded time was ahead of the clock when that was last looked at."""
        self._planning_tick = 0
        """The newest tick that was waiting when a batch ended: it plans for all the earlier ones."""
        self._idle_since = clock.monotonic()

    def activate(self, ssc: StreamingContext) -> None:
        """Register as this process's engine for `ssc`, and start renewing the lease."""
        global _live
        if _live is not None:
            _live._meters.stop()
        _live, self._ssc = self, ssc
        if self.graph.received:
            self._checkpoints = Checkpoints(self.graph.home / "checkpoint", self.graph.interval)
        if not self.is_draining:
            self.graph.log.end_drain()  # left by a drain that was interrupted
        try:
            self._rates = surgery.InputRates(ssc)
        except Exception as error:  # a job runs without, too
            log.warning("the Streaming tab of Spark shows no input rates: %s", jvm.reason(error))
        self._lease.start_renewing(self._lost, lambda: clock.monotonic() - self.reports.progressed)
        self._is_failing = self.graph.home.failure() is not None  # of an earlier run
        self.check_clock()
        self._meters.start()
        tell(self.graph, JobStarted(self.graph.home.root, self.graph.log.last.n, self._lease.epoch))

    @property
    def context(self) -> StreamingContext:
        """The context that runs the batches."""
        return self._ssc

    def runs_on(self, ssc: StreamingContext) -> bool:
        """Whether this is the engine of that context, not one of a context before it."""
        return self._ssc is ssc

    def _lost(self, error: BaseException) -> None:
        self._failure = self._failure or error

    def stop_requested(self) -> bool:
        """Whether somebody deleted the stop marker of the home."""
        return self.graph.home.stop_requested()

    def check_clock(self) -> None:
        """Warn, once each time it happens, that the recorded time is ahead of the machine's clock."""
        ahead = clocks.ahead_by(self.graph.log)
        if ahead and not self._is_ahead:
            log.warning(
                "the recorded time is %s ahead of this machine's clock: until the clock has caught up, windows do not "
                "slide, keys do not expire, and a job that was running when the clock went back runs no batch. If the "
                "clock is right now, stop the job, run `sparkstream reset-clock %s`, and start it again",
                clocks.about(ahead),
                self.graph.home.root,
            )
        self._is_ahead = ahead > 0

    def log_summary(self) -> None:
        """Log a summary of this run: batches, rows written by each output, retries with their last error."""
        batches = "1 batch" if self.finished == 1 else f"{self.finished} batches"
        log.info("%s%s", batches, ", drained" if self.drained.is_set() else "")
        for name in self.graph.outputs:
            if name in self.written:
                log.info("%s: %d rows written", name, self.written[name])
        for name, error in self.errors.items():
            log.info("%s: retried %d times, last error: %s", name, self.retries[name], error)

    def close(self, *, save: bool = True) -> None:
        """Record a graceful stop and release the lease, with the states saved, so that no old input is needed.

        Without `save` the home is not meant to be used again.
        """
        if save:
            self._save_finally()
        self._forget_failure()
        self.graph.home.mark_stopped(drained=not streaming.has_unprocessed(self._ssc))
        self._lease.release()
        tell(self.graph, JobStopped(self.finished, self.drained.is_set()))
        self._meters.stop()
        global _live
        if _live is self:
            _live = None

    def end(self) -> None:
        """End a job whose context was stopped by somebody else, or never started."""
        with contextlib.suppress(Exception):  # a JVM or SparkContext that is gone took the context with it
            self._ssc.stop(False, False)
        self.abandon()

    def abandon(self) -> None:
        """Release the lease without a graceful stop: this engine writes nothing more, and the next start continues."""
        self._lost(BatchFailed("the job of this context has ended: get a new one by get_or_create"))
        self.stopping.set()  # a step that fails is not tried again
        self._lease.release()
        self._meters.stop()
        global _live
        if _live is self:
            _live = None

    def _save_finally(self) -> None:
        """Save the states at the last batch, and forget the input before it; a failure costs nothing but a replay."""
        log_ = self.graph.log
        n = log_.last.n
        if self._failure is not None or not log_.is_done(n) or n == log_.compacted_to.n:
            return
        self._lease.check()
        try:
            for name, state in self.graph.states.items():
                with watched(f"saving the state {name!r}"):
                    state.save(n, final=True)
                self._lease.check()
            keep_from = self.graph.keep_from
            for state in self.graph.states.values():
                state.prune(keep_from)
            self.graph.drop_contexts()
            self._compact()
        except Fenced:
            raise
        except Exception as error:
            log.warning(
                "the states could not be saved (%s): keep the input of the batches after %d, which the next start "
                "reads again",
                jvm.reason(error),
                log_.compacted_to.n,
            )

    def failed(self, error: BaseException) -> None:
        """Tell listeners and metrics, once, that the job ends with this error."""
        if not self._is_reported:
            self._is_reported = True
            tell(self.graph, JobFailed(jvm.reason(error)))
            self._meters.stop()
            if not isinstance(error, Fenced):
                note = threading.Thread(target=self._note_failure, args=(jvm.reason(error),), daemon=True)
                note.start()
                note.join(NOTE_LIMIT)  # the home may be what failed

    def _note_failure(self, error: str, **facts: Any) -> None:
        """Keep in the home what fails, or why the job ends; nothing depends on it."""
        if isinstance(self._failure, Fenced):  # it is another driver's home now
            return
        self._is_failing = True
        now, epoch = clocks.machine_clock(), self.graph.log.epoch
        with contextlib.suppress(Exception):
            self.graph.home.note_failure(Failure(redact(error), now, epoch, **facts))

    def _forget_failure(self) -> None:
        if self._is_failing and not self._is_reported:
            self._is_failing = False
            with contextlib.suppress(Exception):
                self.graph.home.forget_failure()

    # --- one tick

    def guarded(self, step: Callable[[], None]) -> None:
        """Run a step of a tick; after a failure nothing runs, so every later tick stays pending, too."""
        if self._failure is not None:
            raise self._failure
        try:
            step()
        except BaseException as error:
            self._failure = error
            self.failed(error)
            raise

    def tick(self, time: int) -> None:
        """Handle one tick of Spark's clock."""
        if self._checkpoints is not None:
            self.graph.settled = self._checkpoints.look(time, lambda: streaming.newest_waiting_tick(self._ssc))
        for unfinished in self.graph.log.after(self.graph.log.done_to):
            if self.graph.log.again is None:
                log.info("finishing batch %d of an earlier run", unfinished.n)
            elif self.stopping.is_set():  # the next start goes on
                return
            self._run(unfinished)
        if self.is_draining:
            if not self.drained.is_set():
                self._drain_sources(time)
        elif self._is_superseded(time):
            return
        elif self.stopping.is_set():
            self._finish_received(time)
        else:
            entry = self._plan(time)
            if entry is not None:
                self._run(entry)
        self._note_rate(time)
        self.reports.progress()
        self._forget_failure()

    def _note_rate(self, time: int) -> None:
        """Let Spark know what the batches of a tick have read; nothing depends on it."""
        records, self._read = self._read, 0
        if self._rates is None or not records:
            return
        try:
            self._rates.add(time, records)
        except Exception as error:
            self._rates = None
            log.warning("the Streaming tab of Spark shows no more input rates: %s", jvm.reason(error))

    def _is_superseded(self, time: int) -> bool:
        """Whether this tick and a newer one came due during a batch: the newest of them plans for all.

        So after slow batches the next one is larger, and the queue of ticks does not grow. Ticks that come due while
        others are skipped do not count, so batches run even if every tick is late. Nor does a tick wait if skipping
        the ones before it took an interval, as when landing what they received takes longer than that.
        """
        if time <= self._planning_tick:
            return time < self._planning_tick and not self._has_idled()
        newest = streaming.newest_waiting_tick(self._ssc)
        if newest <= time or self._has_idled():
            return False
        self._planning_tick = newest
        return True

    def _has_idled(self) -> bool:
        return clock.monotonic() - self._idle_since > self.graph.interval / 1000

    def land(self, name: str, time: int, rdd: RDD[Any]) -> None:
        """Store what was received in a tick, so that it can be replayed like any other source."""
        try:
            if not rdd.isEmpty():
                schema = self.graph.received[name][1]
                self._lease.check()
                landing.land(to_frame(rdd, schema), self.graph.home / f"received/{name}", time, self._lease.epoch)
        except Exception as error:
            if not jvm.is_of_worker(error) and not jvm.is_caused_by_data(error):
                raise
            raise BatchFailed(
                f"what the stream {name!r} received cannot be stored ({jvm.reason(error)}), as a function before "
                "FrameStream.of, or its schema, fails on it, and a skip sets only stored input aside: parse after "
                "FrameStream.of, and start once with another name= and --give-up-received (docs/operate.md)"
            ) from error

    def _drain_sources(self, time: int) -> None:
        """Process everything available now; the log keeps the end offsets until they are reached.

        After a stop request the next drain processes the rest.
        """
        latest = self._latest_offsets(None)
        if latest is None:
            return
        ends, begun, heard = self.graph.log.begin_drain(latest), self.graph.log.last.end_offsets, clock.monotonic()
        while not self.stopping.is_set():
            entry = self._plan(time, ends)
            if entry is None:
                self.graph.log.end_drain()
                self.drained.set()
                return
            self._run(entry)
            if clock.monotonic() - heard >= SAY_AFTER:
                heard = clock.monotonic()
                share = self.reports.share(begun, entry.end_offsets, ends)
                if share is not None:
                    log.info("drain: %d %% of the input of this run done", 100 * share)

    def _finish_received(self, time: int) -> None:
        """After a stop request, process what receivers have brought, and nothing of other sources."""
        ends = {
            name: source.latest_offset(None)
            if name in self.graph.received
            else self.graph.log.last.end_offsets.get(name)
            for name, source in self.graph.sources.items()
        }
        while (entry := self._plan(time, ends)) is not None:
            self._run(entry)

    def _plan(self, tick: int, ends: dict[str, Offset] | None = None) -> Entry | None:
        """Write the next entry; None if there is nothing to process."""
        last = self.graph.log.last
        time = max(tick, last.time + 1)
        self.check_clock()
        ranges, available = {}, {}
        with self.reports.phase("plan"):
            all_latest = self._latest_offsets(time) if ends is None else ends
        if all_latest is None:
            return None
        for name, source in self.graph.sources.items():
            start = last.end_offsets.get(name)
            end = latest = all_latest.get(name)
            if latest != start:
                end = self._end_offset(name, source, start, latest, draining=ends is not None)
            if end != start:
                ranges[name] = (start, end)
            if end != latest:
                available[name] = latest
        if not ranges and (ends is not None or not self.graph.is_due(time)):
            return None
        with self.reports.phase("prepare"):
            self._lease.check()
            with watched(f"batch {last.n + 1}: keeping its input"):
                ranges = self._prepared(ranges, draining=ends is not None)
            if not ranges and not self.graph.is_due(time):
                return None
            self._lease.check()
            data, now = bool(ranges), clocks.machine_clock()
            return self.graph.log.append(time, ranges, data=data, available=available, now=now)

    def _latest_offsets(self, time: int | None) -> dict[str, Offset] | None:
        """Where each source could be read to; one that fails, as its server is away, is asked again.

        None if a stop request ends that: nothing is known.
        """
        found: dict[str, Offset] = {}

        def ask(name: str, source: Source) -> None:
            found[name] = source.latest_offset(time)

        sources = self.graph.sources
        try:
            with watched("looking for new input"):
                self._until_done(None, {f"source {name!r}": partial(ask, name, sources[name]) for name in sources})
        except BatchFailed:
            if not self.stopping.is_set():
                raise
            return None
        return found

    def _prepared(self, ranges: dict[str, OffsetRange], *, draining: bool) -> dict[str, OffsetRange]:
        """The ranges that can be read; in a drain InputLost if that is not all, as it could not end."""
        prepared = {}
        for name, (start, end) in ranges.items():
            until = self.graph.sources[name].prepare(start, end)
            if draining and until != end:
                raise InputLost(
                    f"the source {name!r} can be read up to {until} now, and the drain ends at {end}: see the warning "
                    "above, and start the drain again"
                )
            if until != start:
                prepared[name] = (start, until)
        return prepared

    def _end_offset(self, name: str, source: Source, start: Offset, latest: Offset, *, draining: bool) -> Offset:
        """Where a batch ends: at `max_per_batch`; without it the rate decides, and in a drain only the source."""
        if self._limit is None and not draining:
            return self._rate.end_offset(name, source, start, latest)
        return source.limit(start, latest, self._limit or ALL)

    # --- one batch

    def _run(self, entry: Entry) -> None:
        graph, started = self.graph, clock.monotonic()
        log_, written = graph.log, Counter[str]()
        if entry.n in log_.skipped:
            skipped.set_aside(graph, entry)
        graph.fit_shuffles()

        def write(name: str, output: Output) -> None:
            rows = graph.write(output, entry, self._lease.check)
            if isinstance(rows, int):
                written[name] = rows

        def save(state: State) -> None:
            self._lease.check()
            state.save(entry.n)

        timed = self.reports.timed
        outputs = {f"output {name!r}": timed("outputs", partial(write, name, o)) for name, o in graph.outputs.items()}
        states = {f"state {name!r}": state for name, state in graph.states.items()}
        advance = {name: timed("states", partial(_advance, graph, state, entry)) for name, state in states.items()}
        with watched(f"batch {entry.n}", partial(tasks_done, graph.session)):
            self._until_done(entry, outputs | advance)
            self._until_done(entry, {"windows": timed("states", graph.settle)})
            if entry.n % SNAPSHOT_EVERY == 0:
                self._until_done(
                    entry, {name: timed("snapshots", partial(save, state)) for name, state in states.items()}
                )
                keep_from = graph.keep_from
                prune = {name: partial(state.prune, keep_from) for name, state in states.items()}
                self._until_done(entry, prune)
                self.reports.saved()
        self._lease.check()
        seconds = clock.monotonic() - started
        delay = (streaming.clock_ms(self._ssc) - entry.time) / 1000
        report = self.reports.done(entry, seconds=seconds, delay=delay, rows=written, errors=self.errors)
        log_.mark_done(entry.n, self.reports.note())
        self._forget_failure()
        self._tell_sources(entry)
        graph.drop_contexts()
        self.finished += 1
        if entry.n % SNAPSHOT_EVERY == 0:
            self._compact()
        self.written.update(written)
        if entry.data:
            self._rate.update(clock.monotonic() - started)
        log.info("batch %d done in %.1f s: %s", entry.n, seconds, line(report), extra={"event": as_json(report)})
        self._read += sum(size.records or 0 for name, size in report.sizes.items() if name not in graph.received)
        tell(graph, report)
        self._idle_since = clock.monotonic()

    def _tell_sources(self, entry: Entry) -> None:
        for name, (_, end) in entry.ranges.items():
            try:
                self.graph.sources[name].done(end)
            except Exception as error:
                log.warning("the source %r could not note that batch %d is done: %s", name, entry.n, jvm.reason(error))

    def _until_done(self, entry: Entry | None, steps: Mapping[str, Callable[[], object]]) -> None:
        """Run every step of a batch, or of planning one, until it succeeds, the deadline passes, or it is in vain."""
        n = entry.n if entry else None

        def retrying(reasons: Mapping[str, str], pause: float) -> None:
            self.reports.failures += len(reasons)
            self.retries.update(reasons.keys())
            self.reports.retries.update(reasons.keys())
            name, why = next(iter(reasons.items()))
            self._note_failure(why, step=name, n=n, tries=self.reports.retries[name])
            for step, error in reasons.items():
                tell(self.graph, StepFailed(n, step, error, pause))

        try:
            until_done(
                self.graph,
                n,
                steps,
                errors=self.errors,
                retry_for=self._retry_for,
                stopping=self.stopping,
                retrying=retrying,
            )
        except StillFailing as error:
            self.reports.failures += len(error.failures)
            if self._retry_for == 0:
                raise error.cause from error.cause.__cause__
            raise self._step_failed(entry, error) from error.cause

    def _step_failed(self, entry: Entry | None, error: StillFailing) -> Exception:
        if entry is None:
            return BatchFailed(f"{error}; no batch is unfinished, and the next start goes on where this one was")
        if error.in_vain:
            return BatchFailed(
                f"batch {entry.n}: {error}; the batch stays unfinished, and each try fails in the same way: mend the "
                f"job, or set the batch aside, with its input, by sparkstream skip {self.graph.home.root} {entry.n}"
            )
        return BatchFailed(f"batch {entry.n}: {error}; the batch stays unfinished, and the next start finishes it")

    def _compact(self) -> None:
        log_ = self.graph.log
        replayable_from = self.graph.replayable_from()
        log_.compact(replayable_from, self.reports.until(replayable_from))
        for name, source in self.graph.sources.items():
            source.commit(log_.compacted_to.end_offsets.get(name))


def _advance(graph: Graph, state: State, entry: Entry) -> None:
    state.at(graph.context(entry))
    graph.settle()


# --- callbacks: the only part of a job in Spark's checkpoint

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


def register_callbacks(ssc: StreamingContext, graph: Graph, ticks: str) -> None:
    """Register the callbacks on a new context: for each received stream, then for a stream that ticks without data."""
    for name, (dstream, _) in graph.received.items():

        def land(time: datetime, rdd: RDD[Any], name: str = name) -> None:
            _land(name, time, rdd)

        dstream.foreachRDD(land)
    # an empty directory: the only input that ticks without data and survives a checkpoint
    ssc.textFileStream(hadoop.escaped(ticks)).foreachRDD(_dispatch)


def live() -> Engine | None:
    """The newest engine of this process, until its job has ended; somebody else may have stopped its context."""
    return _live


def engine_of(ssc: StreamingContext) -> Engine | None:
    """The engine of a context; None for a job without FrameStreams, and for one that has ended."""
    return _live if _live is not None and _live.runs_on(ssc) else None
