"""The graph that a job builds: sources, outputs, and moments at which its streams have frames.

A stream is a function of a *moment* (one entry of the offset log) to a frame, or to None where a slide makes it skip
the moment. Everything follows from the log: a moment of the past gives the same frame again, so windows and state
are rebuilt by asking for the moments they need. What is kept in memory is only kept to save time.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Protocol

from pyspark.logger import PySparkLogger
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType
from pyspark.streaming import DStream, StreamingContext

from ..bridge import dataframes, jvm, streaming
from ..contracts import Batch, Source, Write
from ..errors import UsageError
from ..recovery.home import Home
from ..recovery.offset_log import Entry, OffsetLog


class State(Protocol):
    """A node that carries a frame from batch to batch."""

    def at(self, moment: Moment) -> DataFrame:
        """The state after that moment, made from the newest save and the entries since."""

    def save(self, n: int) -> None:
        """Keep what it is after batch n on disk."""

    def oldest_save(self) -> int:
        """The batch from which it could still have to be made again; 0: the very first."""

    def forget(self) -> None:
        """Drop what is in memory."""


class Window(Protocol):
    """A node that looks back over the batches of the last `length` ms, at every `slide` ms."""

    length: int
    slide: int

    def forget(self) -> None:
        """Drop what is in memory."""


Compute = Callable[["Moment"], DataFrame | None]


@dataclass(frozen=True)
class Output:
    """A function of a frame and its batch, run once for each batch in which the stream has a frame."""

    compute: Compute
    write: Write
    check: Write | None = None
    """Called at every start, with the empty frame and the last batch of the runs before (n = 0: there is none)."""


@dataclass
class Moment:
    """One entry of the log, with the frames that were made for it."""

    entry: Entry
    before: int
    """Recorded time of the entry before."""
    frames: dict[Compute, DataFrame | None] = field(default_factory=dict)
    cached: list[DataFrame] = field(default_factory=list)

    def frame(self, compute: Compute) -> DataFrame | None:
        """What a node gives at this moment, computed once."""
        if compute not in self.frames:
            self.frames[compute] = compute(self)
        return self.frames[compute]

    @property
    def is_check(self) -> bool:
        """Whether this is no batch, but the check of the graph on empty frames."""
        return self.entry.n == 0

    def fires(self, slide: int) -> bool:
        """Whether this is the first entry at or past a multiple of the slide."""
        return self.is_check or self.entry.time // slide > self.before // slide


CHECK = Entry(0, 0)


class Graph:
    """The sources, states, windows and outputs of one job, and the home they live in."""

    def __init__(self, ssc: StreamingContext):
        self.interval = streaming.batch_interval_ms(ssc)
        self.session = SparkSession.builder.getOrCreate()
        self.sources: dict[str, Source] = {}
        self.outputs: dict[str, Output] = {}
        self.received: dict[str, tuple[DStream[Any], StructType | str | None]] = {}
        self.receivers: list[str] = []
        """How many receivers there are of what, where a source tells; a checkpoint only goes on with the same."""
        self.states: dict[str, State] = {}
        self.windows: list[Window] = []
        self.first_start: list[Callable[[], None]] = []
        """Checks that only a first start must pass: later, batches may be owed whatever the world looks like."""
        self._home: Home | None = None
        self._log: OffsetLog | None = None
        self._check = Moment(CHECK, 0)
        self._moments: dict[int, Moment] = {}
        self._discarded: list[DataFrame] = []

    def attach(self, home: Home, log: OffsetLog) -> None:
        """Give the graph the home it reads from and writes to."""
        self._home, self._log = home, log

    @property
    def home(self) -> Home:
        """The home; only there once a job is being started."""
        assert self._home is not None
        return self._home

    @property
    def log(self) -> OffsetLog:
        """The offset log; only there once a job is being started."""
        assert self._log is not None
        return self._log

    def check(self) -> None:
        """Run every step on empty frames, so that a wrong column fails before the first batch."""
        if self.log.last.n == 0:
            for check in self.first_start:
                check()
        for name, output in self.outputs.items():
            with _usage_errors(f"the output {name!r}"):
                frame = self._check.frame(output.compute)
                if output.check is not None and frame is not None:
                    output.check(frame, self.batch(self.log.last))

    def empty(self, compute: Compute) -> DataFrame:
        """The frame of a node when nothing has arrived: its columns and types."""
        with _usage_errors("a step of the job"):
            frame = self._check.frame(compute)
        assert frame is not None
        return frame

    def batch(self, entry: Entry) -> Batch:
        """What an output may know of an entry."""
        time = datetime.fromtimestamp(entry.time / 1000, timezone.utc)
        return Batch(entry.n, time, self.home.id, entry.ranges, entry.positions)

    def moment(self, entry: Entry) -> Moment:
        """The moment of an entry, the same one until `forget`."""
        if entry.n not in self._moments:
            before = self.log[entry.n - 1].time if entry.n > 1 else entry.time - self.interval
            self._moments[entry.n] = Moment(entry, before)
        return self._moments[entry.n]

    def moments(self, after: int, until: int) -> list[Moment]:
        """Moments with data and a recorded time in (after, until], oldest first."""
        return [self.moment(e) for e in self.log.since(after) if e.time <= until and e.data]

    def window_due(self, time: int) -> bool:
        """Whether a window has to move on at this time although nothing arrived: it was not seen empty yet."""
        last = self.log.last
        return last.last_data > 0 and any(
            time // w.slide > last.time // w.slide and last.last_data > last.time // w.slide * w.slide - w.length
            for w in self.windows
        )

    def discard(self, frame: DataFrame) -> None:
        """Free a local checkpoint once the batch is over: until then plans may read it."""
        self._discarded.append(frame)

    def forget_moments(self) -> None:
        """Drop the frames of all moments: the batch is over, or is tried again."""
        for moment in self._moments.values():
            for frame in moment.cached:
                frame.unpersist()
        for frame in self._discarded:
            dataframes.free(frame)
        self._moments.clear()
        self._discarded.clear()

    def forget_everything(self) -> None:
        """Drop what nodes carry too: blocks were lost, and all is made again from saves and log."""
        self.forget_moments()
        for state in self.states.values():
            state.forget()
        for window in self.windows:
            window.forget()

    def replayable_from(self) -> int:
        """The newest batch that nothing will need again: what states and windows look back to is newer."""
        last = self.log.last
        first = min([state.oldest_save() for state in self.states.values()], default=last.n)
        oldest = self.log[first + 1] if first < last.n and first >= self.log.floor.n else last
        if first < self.log.floor.n:
            return self.log.floor.n
        needed = self.log.since(oldest.time - sum(w.length for w in self.windows))
        return min(first, needed[0].n - 1 if needed else last.n)


@contextlib.contextmanager
def _usage_errors(what: str) -> Iterator[None]:
    """Errors as UsageError, in one sentence: Spark would print Java's stack, too."""
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


_graphs: weakref.WeakKeyDictionary[StreamingContext, Graph] = weakref.WeakKeyDictionary()


def graph_of(ssc: StreamingContext) -> Graph:
    """The graph that is being built on a context."""
    if ssc not in _graphs:
        _graphs[ssc] = Graph(ssc)
    return _graphs[ssc]


def free_name(name: str, taken: dict[str, Any]) -> str:
    """The name, or the name with a number behind where it is taken."""
    candidates = (name if i == 1 else f"{name}-{i}" for i in range(1, len(taken) + 2))
    return next(c for c in candidates if c not in taken)
