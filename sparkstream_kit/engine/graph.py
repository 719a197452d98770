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
from typing import Any, Protocol, TypeVar

from pyspark.logger import PySparkLogger
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType
from pyspark.streaming import DStream, StreamingContext

from ..bridge import dataframes, jvm, streaming
from ..contracts import Batch, Source, Write
from ..errors import StateRefused, UsageError
from ..recovery import snapshots, storage
from ..recovery.home import Home
from ..recovery.offset_log import Entry, OffsetLog

log = logging.getLogger(__name__)

T = TypeVar("T")

DRY_RUN = Entry(0, 0)
"""Not a batch: at each start every step runs once on empty frames for this entry."""


@dataclass
class BatchContext:
    """One entry of the log and the frames computed for it."""

    entry: Entry
    before: int
    """Recorded time of the previous entry, in ms."""
    frames: dict[Compute, DataFrame | None] = field(default_factory=dict)
    cached: list[DataFrame] = field(default_factory=list)

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


Compute = Callable[[BatchContext], DataFrame | None]


@dataclass(frozen=True)
class Output:
    """A function of a frame and its batch, run once for each batch in which the stream has a frame."""

    compute: Compute
    write: Write
    check: Write | None = None
    """Called at every start with the empty frame and the last batch of earlier runs (n = 0 if there is none)."""


class State(Protocol):
    """A node with a frame that each batch updates."""

    def at(self, ctx: BatchContext) -> DataFrame:
        """The state after a batch, built from the newest snapshot and the entries since."""

    def save(self, n: int, *, final: bool = False) -> None:
        """Write a snapshot of the state after batch n; with `final`, so that nothing before is needed again."""

    def oldest_snapshot(self) -> int:
        """The earliest batch from which the state may have to be rebuilt; 0: from the beginning."""

    def reset(self) -> None:
        """Drop what is in memory."""


class Window(Protocol):
    """A node that looks back over the batches of the last `length` ms, every `slide` ms."""

    length: int
    slide: int

    def reset(self) -> None:
        """Drop what is in memory."""


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
        self.enrichments: dict[str, object] = {}
        self.outputs: dict[str, Output] = {}
        self.shared: dict[str, Any] = {}
        """What the outputs of one kind share, such as the screen of a terminal."""
        self.first_start_checks: list[Callable[[], None]] = []
        """Checks for the first start only: later, pending batches have to run whatever the checks would say."""
        self.give_up_files: Collection[str] = ()
        """Paths of input files whose bytes may be missing."""
        self.settled = 0
        """Spark runs no tick before this time again, as all of its checkpoints are newer."""
        self._home: Home | None = None
        self._log: OffsetLog | None = None
        self._dry_run = BatchContext(DRY_RUN, 0)
        self._contexts: dict[int, BatchContext] = {}
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

    def check_names(self, give_up_sources: Collection[str] = ()) -> None:
        """Refuse a job that lacks a source or state which its home knows by name: it may have been renamed.

        Under a new name all input would be read once more, and a state would start from what the log still has. Sources
        in `give_up_sources` are forgotten, with a warning.
        """
        last, mine = self.log.last, ", ".join(map(repr, sorted(self.sources)))
        for name in [] if self.log.is_done(last.n) else last.ranges:
            if name not in self.sources:
                raise UsageError(
                    f"batch {last.n} is unfinished and has input from the source {name!r}, which the job no longer "
                    "has: start it with that source once more"
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
        self.log.give_up([name for name in last.end_offsets if name not in self.sources])
        saved = [name for name in storage.names(self.home / "state") if snapshots.numbers(self.home / f"state/{name}")]
        unused = [name for name in saved if name not in self.states]
        new = [name for name in self.states if name not in saved]
        if self.log.compacted_to.n and new and unused:
            raise StateRefused(
                f"the state {new[0]!r} is new, its earlier input is no longer available, and the home has a state "
                f"{unused[0]!r} that the job does not use: keep the name= of a state that continues, or delete "
                f"{self.home / f'state/{unused[0]}'} to start {new[0]!r} empty"
            )

    def check(self) -> None:
        """Run every step on empty frames, so that a wrong column raises UsageError before the first batch."""
        if self.log.last.n == 0:
            for check in self.first_start_checks:
                check()
        for name, output in self.outputs.items():
            with _usage_errors(f"the output {name!r}"):
                frame = self._dry_run.frame(output.compute)
                if output.check is not None and frame is not None:
                    output.check(frame, self.batch(self.log.last))

    def empty(self, compute: Compute) -> DataFrame:
        """The frame of a node before any data: its columns and types."""
        with _usage_errors("a step of the job"):
            frame = self._dry_run.frame(compute)
        assert frame is not None
        return frame

    def batch(self, entry: Entry) -> Batch:
        """What outputs are passed for an entry."""
        time = datetime.fromtimestamp(entry.time / 1000, timezone.utc)
        return Batch(entry.n, time, self.home.id, entry.ranges, entry.end_offsets)

    def context(self, entry: Entry) -> BatchContext:
        """The context of an entry, the same one until `drop_contexts`."""
        if entry.n not in self._contexts:
            before = self.log[entry.n - 1].time if entry.n > 1 else entry.time - self.interval
            self._contexts[entry.n] = BatchContext(entry, before)
        return self._contexts[entry.n]

    def contexts(self, after: int, until: int) -> list[BatchContext]:
        """Contexts of the batches with data and a recorded time in (after, until], oldest first."""
        return [self.context(e) for e in self.log.since(after) if e.time <= until and e.data]

    def window_due(self, time: int) -> bool:
        """Whether a window must slide at this time even without new data: its last result was not empty."""
        last = self.log.last
        return last.last_data > 0 and any(
            time // w.slide > last.time // w.slide and last.last_data > last.time // w.slide * w.slide - w.length
            for w in self.windows
        )

    def discard(self, frame: DataFrame) -> None:
        """Free a local checkpoint when the batch is over; until then query plans may read it."""
        self._discarded.append(frame)

    def drop_contexts(self) -> None:
        """Drop the frames of all batches, because the batch is over or will be retried."""
        for ctx in self._contexts.values():
            for frame in ctx.cached:
                frame.unpersist()
        for frame in self._discarded:
            dataframes.free(frame)
        self._contexts.clear()
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
        last, look_back = self.log.last, sum(window.length for window in self.windows)
        if not self.log.is_done(entry.n):
            return "the batch is unfinished"
        if entry.time > last.time - look_back:
            until = datetime.fromtimestamp((entry.time + look_back) / 1000, timezone.utc)
            return f"a window needs the batch until {until:%Y-%m-%d %H:%M:%S} UTC"
        return "a state needs the batch until all states are saved, which a graceful stop does"

    def replayable_from(self) -> int:
        """The newest batch that will not be needed again: states and windows only look back to later ones."""
        last = self.log.last
        first = min([state.oldest_snapshot() for state in self.states.values()], default=last.n)
        oldest = self.log[first + 1] if first < last.n and first >= self.log.compacted_to.n else last
        if first < self.log.compacted_to.n:
            return self.log.compacted_to.n
        needed = self.log.since(oldest.time - sum(w.length for w in self.windows))
        return min(first, needed[0].n - 1 if needed else last.n)


def add_named(kind: str, nodes: dict[str, T], name: str, node: T) -> None:
    """Register a node of a kind ("states") by the name that identifies it after a restart; UsageError if it is taken.

    Names are never derived from the order of calls: reordering them would exchange what the names stand for.
    """
    if not name or "/" in name or name.startswith((".", "_")):
        raise UsageError(f"got the name {name!r}, expected one without / that starts with neither . nor _")
    if name in nodes:
        raise UsageError(f"two {kind} are named {name!r}: give each a name= of its own, and keep it across restarts")
    nodes[name] = node


@contextlib.contextmanager
def _usage_errors(what: str) -> Iterator[None]:
    """Raise errors as UsageError, in one sentence and without the Java stack that Spark would log."""
    loggers = [PySparkLogger.getLogger(f"{kind}QueryContextLogger") for kind in ("DataFrame", "SQL")]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{what} cannot work: {jvm.reason(error)}") from error
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
