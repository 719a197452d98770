"""The graph that a job builds: its sources, states, windows and outputs, and the batches they are computed for.

A stream is a function from a `BatchContext` (one entry of the offset log) to a DataFrame, or to None in a batch that a
slide skips. Everything follows from the log: the context of an earlier batch returns the same DataFrame again, so
windows and states are rebuilt from the batches they need. What is kept in memory only saves time.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from shlex import quote
from typing import Any, Protocol, TypeVar

from pyspark.logger import PySparkLogger
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType
from pyspark.streaming import DStream, StreamingContext

from ..bridge import dataframes, jvm, placement, rows, streaming
from ..columns import check_unique
from ..contracts import Batch, Rewind, Size, Source, Write
from ..errors import HomeDamaged, StateRefused, UsageError
from ..events import Listener
from ..recovery import snapshots, storage
from ..recovery.home import Backfill, Home
from ..recovery.offset_log import Entry, OffsetLog

log = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_NAME = 200
"""Bytes of a name: file systems take 255, of which temporary names need some."""

DRY_RUN = Entry(0, 0)
"""Not a batch: at each start every step runs once on empty frames for this entry."""


@dataclass
class BatchContext:
    """One entry of the log and the frames computed for it."""

    entry: Entry
    before: int
    """Recorded time of the previous entry, in ms."""
    frames: dict[Compute, DataFrame | None] = field(default_factory=dict)
    cached: dict[Compute, DataFrame] = field(default_factory=dict)
    """The frames that are kept in Spark's cache, each with its node."""

    def frame(self, compute: Compute) -> DataFrame | None:
        """The frame of a node in this batch, computed once."""
        if compute not in self.frames:
            self.frames[compute] = compute(self)
        return self.frames[compute]

    @property
    def is_dry_run(self) -> bool:
        """Whether this is the check of the graph on empty frames rather than a batch."""
        return self.entry.n == 0

    def fires(self, slide: int) -> bool:
        """Whether this is the first entry at or after a multiple of the slide."""
        return self.is_dry_run or self.entry.time // slide > self.before // slide

    def reaches(self, stream: Stream) -> bool:
        """Whether a stream can have rows in this batch: by new data of its sources, or because it looks back."""
        if stream.look_back and self.entry.last_data > self.entry.time - stream.look_back:
            return True
        return self.entry.data if stream.sources is None else not stream.sources.isdisjoint(self.entry.ranges)


Compute = Callable[[BatchContext], DataFrame | None]


class Stream(Protocol):
    """A node of the graph, as windows and states see it: `frames.FrameStream`."""

    graph: Graph
    compute: Compute
    stateful: bool
    """Whether its past cannot be computed again."""
    look_back: float
    """How long after new data, in ms, it can still have rows: those of a window leave, those of a state never do."""
    sources: frozenset[str] | None
    """The sources it reads; None: unknown, so any."""


@dataclass(frozen=True)
class Output:
    """A function of a frame and its batch, run once for each batch in which the stream has a frame."""

    compute: Compute
    write: Write
    check: Write | None = None
    """Called at every start with the empty frame and the last batch of earlier runs (n = 0 if there is none)."""
    lasting: bool = True
    """Whether what it writes stays, so that a start without it would leave a gap; False for a screen."""
    rejects: bool = False
    """Whether its rows are lines that a parser rejected."""
    replaces: bool = False
    """Whether it replaces what it has written of a batch that runs again."""
    has: Callable[[Batch], bool] | None = None
    """Whether it has something of a batch, which becomes empty if the stream has no frame when it runs again."""
    rewind: Rewind | None = None
    """Called before batches run again: one that replaces refuses those that it cannot; any other, if the operator has
    accepted that it writes them once more, forgets that it has."""


class State(Protocol):
    """A node with a frame that each batch updates."""

    source: Stream

    def at(self, ctx: BatchContext) -> DataFrame:
        """The state after a batch, built from the newest snapshot and the entries since."""

    def retained(self, ctx: BatchContext) -> DataFrame:
        """The rows that stay after a batch."""

    def described(self, rows: DataFrame) -> DataFrame:
        """Rows of the state, with what is known of its columns."""

    def restore(self) -> None:
        """Load the newest snapshot; StateRefused if it does not fit the job."""

    def forget(self, n: int) -> None:
        """Remove the snapshots of batches after n."""

    def save(self, n: int, *, final: bool = False) -> None:
        """Write a snapshot of the state after batch n; with `final`, so that nothing before is needed again."""

    def prune(self, keep_from: int) -> None:
        """Remove the snapshots that are not needed once all states are saved, nor to rewind to a batch."""

    def oldest_snapshot(self) -> int:
        """The earliest batch from which the state may have to be rebuilt; 0: from the beginning."""

    def first_snapshot(self) -> int:
        """The batch of the oldest snapshot; 0 if there is none."""

    def size(self) -> Size:
        """Its rows, as of the newest snapshot, and its bytes in the executors."""

    def reset(self) -> None:
        """Drop what is in memory."""


class Window(Protocol):
    """A node that looks back over earlier batches."""

    source: Stream
    is_read: bool
    """Whether something has asked for its rows."""

    @property
    def look_back(self) -> float:
        """How far back it may read the batches of its sources, in ms."""

    def reset(self) -> None:
        """Drop what is in memory."""


@dataclass(frozen=True)
class Slide:
    """Batches that are due without data: one in each `every` ms, until the last data is more than `after` ms ago."""

    every: int
    after: float

    def is_due(self, last: Entry, time: int) -> bool:
        """Whether one is due at this time."""
        newest = last.time // self.every * self.every
        return time // self.every > last.time // self.every and last.last_data > newest - self.after


class Graph:
    """The sources, states, windows and outputs of one job, and the home they live in."""

    def __init__(self, ssc: StreamingContext):
        self.interval = streaming.batch_interval_ms(ssc)
        self.session = SparkSession.builder.getOrCreate()
        self.sources: dict[str, Source] = {}
        self.received: dict[str, tuple[DStream[Any], StructType | str | None]] = {}
        self.receivers: dict[str, str] = {}
        """Address and number of a stream's receivers, if known; a checkpoint can only be resumed with the same ones."""
        self.states: dict[str, State] = {}
        self.windows: list[Window] = []
        self.slides: list[Slide] = []
        self.enrichments: dict[str, object] = {}
        self.outputs: dict[str, Output] = {}
        self.listeners: list[Listener] = []
        self.shared: dict[str, Any] = {}
        """What the outputs of one kind share, such as the screen of a terminal."""
        self.first_start_checks: list[Callable[[], None]] = []
        """Checks for the first start only: later, pending batches have to run whatever the checks would say."""
        self.give_up_files: Collection[str] = ()
        """Paths of input files whose bytes may be missing."""
        self.keep_batches = 0
        """How many batches stay replayable in any case, so that they can run again."""
        self.is_observer = False
        """Whether another process may run the job: whatever writes to the home asks this first."""
        self.backfill: Backfill | None = None
        """The backfill whose batches this graph runs, as an observer."""
        self.settled = 0
        """Spark runs no tick before this time again, as all of its checkpoints are newer."""
        self._home: Home | None = None
        self._log: OffsetLog | None = None
        self._dry_run = BatchContext(DRY_RUN, 0)
        self._contexts: dict[int, BatchContext] = {}
        self._cores = 0 if placement.follows_cores(self.session) else None
        """The most that the executors have had, which is the number of tasks of a shuffle; None if that was set."""
        self._stored: list[DataFrame] = []
        self._discarded: list[DataFrame] = []

    def bind(self, home: Home, log: OffsetLog) -> None:
        """Set the home and log that the graph reads and writes."""
        self._home, self._log = home, log

    @property
    def home(self) -> Home:
        """The home; set by `bind`."""
        assert self._home is not None
        return self._home

    @property
    def log(self) -> OffsetLog:
        """The offset log; set by `bind`."""
        assert self._log is not None
        return self._log

    def check_names(self, give_up_sources: Collection[str] = (), give_up_outputs: Collection[str] = ()) -> None:
        """Refuse a job that lacks a source, state or output which its home knows by name: it may have been renamed.

        Under a new name all input would be read once more, a state would start from what the log still has, and what an
        output misses no later batch brings. Sources in `give_up_sources` and outputs in `give_up_outputs` are left out,
        with a warning; a source that comes back continues where it was given up.
        """
        last, mine = self.log.last, ", ".join(map(repr, sorted(self.sources)))
        for entry in self.log.after(self.log.done_to):
            gone = [name for name in entry.ranges if name not in self.sources]
            if gone:
                raise UsageError(
                    f"batch {entry.n} is unfinished and has input from the source {gone[0]!r}, which the job no longer "
                    f"has: start it with that source once more{self.way_back()}"
                )
        for name, offset in last.end_offsets.items():
            if name in self.sources:
                continue
            if name not in give_up_sources:
                raise UsageError(
                    f"the home has read the source {name!r} up to {offset}, and the job has no source of that name, "
                    f"only {mine}: keep the name= of a source that continues; give up one that was removed, with the "
                    f"input it may still have, by --give-up-source {name}"
                )
            log.warning("the source %r is given up; it was read up to %s", name, offset)
        for name in self.sources:
            if name in last.given_up:
                log.warning(
                    "the source %r is back; it continues after %s, as it had been read", name, last.given_up[name]
                )
        self.log.keep_sources(self.sources)
        has = ", ".join(map(repr, sorted(self.outputs)))
        for name in self.home.outputs():
            if name in self.outputs:
                continue
            if name not in give_up_outputs:
                raise UsageError(
                    f"the job wrote the output {name!r} before, and has no output of that name now, only {has}: it "
                    "would miss every batch from here on; bring it back under that name, or give it up by "
                    f"--give-up-output {name}"
                )
            log.warning("the output %r is given up after batch %d", name, last.n)
        self.check_states()

    def check_states(self) -> None:
        """Refuse a new state that would start empty beside a saved one that is not used: it may have been renamed."""
        saved = [name for name in storage.names(self.home / "state") if snapshots.numbers(self.home / f"state/{name}")]
        unused = [name for name in saved if name not in self.states]
        new = [name for name in self.states if name not in saved]
        if self.log.compacted_to.n and new and unused:
            raise StateRefused(
                f"the state {new[0]!r} is new, its earlier input is no longer available, and the home has a state "
                f"{unused[0]!r} that the job does not use: keep the name= of a state that continues, or delete "
                f"{self.home / f'state/{unused[0]}'} to start {new[0]!r} empty"
            )

    def note_outputs(self) -> None:
        """Keep the names of the outputs whose results stay, so that the next start misses one that is left out."""
        self.home.note_outputs({name: output.replaces for name, output in self.outputs.items() if output.lasting})

    def check(self) -> None:
        """Run every step on empty frames, so that a wrong column raises UsageError before the first batch.

        An error names the line of the program that made an expression: noting these takes half of the time, so the
        steps run with them only after they failed without.
        """
        if self.log.last.n == 0:
            for check in self.first_start_checks:
                check()
        try:
            with dataframes.without_lines():
                self._check_steps()
        except UsageError:
            self._dry_run = BatchContext(DRY_RUN, 0)
            self._check_steps()

    def reads_windows(self) -> bool:
        """Whether an output or a state looks back through a window; one that none of them reads is never computed."""
        needed = [output.compute for output in self.outputs.values()]
        needed += [state.source.compute for state in self.states.values()]
        with contextlib.suppress(UsageError), _usage_errors("a step of the job"), dataframes.without_lines():
            for compute in needed:
                self._dry_run.frame(compute)
            return any(window.is_read for window in self.windows)
        return bool(self.windows)  # `check` says what is wrong with the step

    def way_back(self) -> str:
        """What to add to an error of the start if batches run again."""
        if self.log.again is None or self.log.again.begun:
            return ""
        return f", or take the request back by sparkstream rewind {quote(self.home.root)} --cancel"

    def restore(self) -> None:
        """Load the newest snapshot of each state, and forget those of batches that were not finished.

        Other code may have made them, if it was changed since.
        """
        for state in self.states.values():
            state.restore()
        for state in self.states.values():
            state.forget(self.log.done_to)

    def _check_steps(self) -> None:
        for name, output in self.outputs.items():
            with _usage_errors(f"the output {name!r}"):
                frame = self._dry_run.frame(output.compute)
                _refuse_clock(frame)
                if output.check is not None and frame is not None:
                    check_unique(frame.columns)
                    output.check(frame, self.batch(self.log.last))
        cut = [node.source for node in self.states.values()] + [node.source for node in self.windows]
        for source in cut:  # the plan of a result ends at a state or window
            with _usage_errors("a state or window"):
                _refuse_clock(self._dry_run.frame(source.compute))

    def empty(self, compute: Compute) -> DataFrame:
        """No rows, with the columns and types of a node: for no data a node may have some, such as a count of 0."""
        with _usage_errors("a step of the job"):
            frame = self._dry_run.frame(compute)
        assert frame is not None
        return frame.limit(0)

    def batch(self, entry: Entry) -> Batch:
        """What outputs are passed for an entry."""
        again, backfill = self.log.runs_again(entry.n), self.backfill.id if self.backfill else ""
        facts = (entry.n, self.time(entry), self.home.id, entry.ranges, entry.end_offsets)
        return Batch(*facts, again or self.backfill is not None, backfill)

    def write(self, output: Output, entry: Entry, ready: Callable[[], object]) -> object:
        """Call `ready`, then write a batch into an output; what that returns, or None if the stream has no frame.

        There may have been rows when a batch ran before, and none now: they are replaced by no rows.
        """
        frame, batch = self.context(entry).frame(output.compute), self.batch(entry)
        ready()
        if frame is None and batch.again and output.has is not None and output.has(batch):
            frame = self.empty(output.compute)
        return None if frame is None else output.write(frame, batch)

    def time(self, entry: Entry) -> datetime:
        """The recorded time of an entry, in UTC."""
        return datetime.fromtimestamp(entry.time / 1000, timezone.utc)

    def context(self, entry: Entry) -> BatchContext:
        """The context of an entry, the same one until `drop_contexts`."""
        if entry.n not in self._contexts:
            before = self.log[entry.n - 1].time if entry.n > 1 else entry.time - self.interval
            self._contexts[entry.n] = BatchContext(entry, before)
        return self._contexts[entry.n]

    def contexts(self, stream: Stream, after: int, until: int) -> list[BatchContext]:
        """The batches with a recorded time in (after, until] in which a stream can have rows, oldest first."""
        contexts = (self.context(entry) for entry in self.log.since(after) if entry.time <= until)
        return [ctx for ctx in contexts if ctx.reaches(stream)]

    def is_due(self, time: int) -> bool:
        """Whether a batch is due at this time even without new data: a window slides, or a key may expire."""
        last = self.log.last
        return last.last_data > 0 and any(slide.is_due(last, time) for slide in self.slides)

    def fit_shuffles(self) -> None:
        """Let what Spark shuffles have a task for each core, unless the number of tasks was set."""
        if self._cores is not None:
            self._cores = placement.widen_shuffles(self.session, self._cores)

    def store(self, frame: DataFrame) -> DataFrame:
        """The frame in the memory of the executors, computed once: by the first job that reads it, or by `settle`."""
        stored = rows.stored(frame)
        self._stored.append(stored)
        return stored

    def settle(self) -> None:
        """Compute what was stored and not read yet, so that what it is made of can be discarded."""
        for frame in self._stored:
            if not dataframes.is_computed(frame):
                dataframes.compute(frame)
        self._stored.clear()

    def discard(self, frame: DataFrame) -> None:
        """Free a local checkpoint when the batch is over; until then query plans may read it."""
        self._discarded.append(frame)

    def drop_contexts(self, *, keep_cached: bool = False) -> None:
        """Drop the frames of all batches, because the batch is over or will be retried.

        A retry keeps what is in Spark's cache: an output that has been written saw it, and the others must see the same
        rows, whatever the steps before it draw by chance.
        """
        for ctx in self._contexts.values():
            kept = {c: frame for c, frame in ctx.cached.items() if keep_cached and dataframes.is_cached(frame)}
            for compute, frame in ctx.cached.items():
                if compute not in kept:
                    frame.unpersist()
            ctx.frames, ctx.cached = dict(kept), kept
        if keep_cached:
            return
        for frame in self._discarded:
            dataframes.free(frame)
        self._contexts.clear()
        self._stored.clear()
        self._discarded.clear()

    def drop_everything(self) -> None:
        """Drop states and windows in memory, too: blocks were lost, so rebuild everything from snapshots and log."""
        self.drop_contexts()
        for state in self.states.values():
            state.reset()
        for window in self.windows:
            window.reset()

    def why_needed(self, entry: Entry) -> str:
        """Why an entry is computed, perhaps again, and until when that can happen."""
        last, look_back = self.log.last, self.look_back()
        if not self.log.is_done(entry.n):
            return "the batch is unfinished"
        if entry.time > last.time - look_back:
            until = datetime.fromtimestamp((entry.time + look_back) / 1000, timezone.utc)
            return f"a window needs the batch until {until:%Y-%m-%d %H:%M:%S} UTC"
        if entry.n > last.n - self.keep_batches:
            return f"the job keeps {self.keep_batches} batches replayable"
        if self.keep_from < last.n - self.keep_batches:
            return "a backfill that is asked for may need the batch"
        return "a state needs the batch until all states are saved, which a graceful stop does"

    @property
    def keep_from(self) -> int:
        """The newest batch after which others stay replayable in any case."""
        kept = self.log.last.n - self.keep_batches
        try:
            backfill = self.home.backfill()
        except (HomeDamaged, OSError) as error:  # no reason for the job to end: it removes nothing meanwhile
            log.warning("the home does not say what a backfill needs, so all is kept that is there: %s", error)
            return self.log.compacted_to.n
        return max(0, min(kept, backfill.kept_from) if backfill else kept)

    def replayable_from(self) -> int:
        """The newest batch that will not be needed again: states and windows only look back to later ones."""
        last = self.log.last
        first = min(self.keep_from, *(state.oldest_snapshot() for state in self.states.values()), last.n)
        oldest = self.log[first + 1] if first < last.n and first >= self.log.compacted_to.n else last
        if first < self.log.compacted_to.n:
            return self.log.compacted_to.n
        needed = self.log.since(oldest.time - self.look_back())
        return min(first, needed[0].n - 1 if needed else last.n)

    def rewindable_from(self) -> int:
        """The newest batch after which a window still has all that it looks back to."""
        first, look_back = self.log.compacted_to, self.look_back()
        reached = (entry.n - 1 for entry in self.log.after(0) if entry.time - look_back >= first.time)
        return next(reached, self.log.last.n) if first.n and look_back else first.n

    def known_from(self) -> int:
        """The batch from which on all states can be had; a new state, which may read any of them, starts there."""
        if self.log.compacted_to.n == 0:
            return 0
        return max([self.log.compacted_to.n, *(state.first_snapshot() for state in self.states.values())])

    def look_back(self) -> int:
        """How far back a window reads batches, in ms; 0 without windows."""
        return int(max((window.look_back for window in self.windows), default=0))


def add_named(kind: str, nodes: dict[str, T], name: str, node: T) -> None:
    """Register a node of a kind ("states") by the name that identifies it after a restart; UsageError if it is taken.

    Names are never derived from the order of calls: reordering them would exchange what the names stand for.
    """
    if not name or "/" in name or name.startswith((".", "_")):
        raise UsageError(f"got the name {name!r}, expected one without / that starts with neither . nor _")
    if len(name.encode(errors="replace")) > LONGEST_NAME:
        raise UsageError(
            f"got a name of {len(name)} characters, {name[:20]}..., expected at most {LONGEST_NAME} bytes, as "
            "directories are named after it: give a shorter name="
        )
    if name in nodes:
        raise UsageError(f"two {kind} are named {name!r}: give each a name= of its own, and keep it across restarts")
    nodes[name] = node


def _refuse_clock(frame: DataFrame | None) -> None:
    if frame is not None and dataframes.uses_clock(frame):
        raise UsageError(
            "the job uses current_timestamp or its like, which changes when a batch runs again: take the recorded time "
            "of the batch, by transform(lambda time, frame: ...)"
        )


@contextlib.contextmanager
def _usage_errors(what: str) -> Iterator[None]:
    """Raise errors as UsageError, in one sentence and without the Java stack that Spark would log."""
    loggers = [PySparkLogger.getLogger(f"{kind}QueryContextLogger") for kind in ("DataFrame", "SQL")]
    for logger in loggers:
        logger.disabled = True
    try:
        with jvm.refusals(lambda why: f"{what} cannot work: {why}"):
            yield
    finally:
        for logger in loggers:
            logger.disabled = False


def graph_of(ssc: StreamingContext) -> Graph:
    """The graph being built on a context, kept as an attribute of the context."""
    graph = vars(ssc).get("_sparkstream_kit_graph")
    if graph is None:
        graph = vars(ssc)["_sparkstream_kit_graph"] = Graph(ssc)
    assert isinstance(graph, Graph)
    return graph
