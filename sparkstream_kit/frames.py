"""FrameStream: a DStream whose batches are DataFrames.

It speaks DStream in snake_case. Every operation is a node of the job's graph: a function of a moment to a frame.
`each_frame` brings frames to a bare DStream without any of this.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from pyspark import RDD
from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql.types import StructType
from pyspark.streaming import DStream, StreamingContext

from . import aggregates as agg
from . import bridge, durations
from .aggregates import Aggregates, Keys
from .durations import Duration
from .errors import UsageError
from .graph import Batch, Compute, Graph, Moment, Output, Source, Write, free_name, graph_of
from .recovery import landing, saved_state

log = logging.getLogger(__name__)


def each_frame(
    write: Callable[[DataFrame], object], schema: StructType | str | None = None
) -> Callable[[RDD[Any]], None]:
    """A function of a DataFrame as a callback for `foreachRDD`.

        lines.foreachRDD(each_frame(lambda frame: frame.groupBy("value").count().show()))

    A DStream of text (socketTextStream, textFileStream) becomes a frame with the column value: string,
    without a Python worker. Other RDDs go through createDataFrame with the schema given; without one their
    columns are inferred, and an empty batch, which has nothing to infer from, is skipped.
    """

    def callback(rdd: RDD[Any]) -> None:
        if schema is not None or bridge.is_text(rdd):
            write(to_frame(rdd, schema))
        elif not rdd.isEmpty():
            write(SparkSession.builder.getOrCreate().createDataFrame(rdd))

    return callback


def each_batch(
    write: Write, home_id: str, schema: StructType | str | None = None
) -> Callable[[datetime, RDD[Any]], None]:
    """A function of a frame and its batch, as outputs are, as a callback for `foreachRDD` of a bare DStream.

        table = SqlTable("sqlite:///counts.db", "counts")
        counts.foreachRDD(each_batch(table.write, "word counts", "word string, n int"))

    A bare DStream has no home and no log: `home_id` is a name for the application, and n is the batch time in ms
    since 1970. A batch that Spark runs again after a crash keeps its time, so an output that commits once skips it.

    Guarantee: once for each batch time. That is exactly once where Spark finds the same rows for the same time again
    (receivers with a write-ahead log); where it finds others, those of the first commit stay.
    """

    def callback(time: datetime, rdd: RDD[Any]) -> None:
        # the time is local and without a zone; timestamp() and astimezone() know which of two repeated hours it is
        batch = Batch(round(time.timestamp() * 1000), time.astimezone(timezone.utc), home_id)
        each_frame(lambda frame: write(frame, batch), schema)(rdd)

    return callback


def to_frame(rdd: RDD[Any], schema: StructType | str | None = None) -> DataFrame:
    """An RDD as a frame: strings as the column value, without a Python worker where the JVM holds them."""
    session = SparkSession.builder.getOrCreate()
    if bridge.is_text(rdd):
        return bridge.text_frame(session, rdd)
    return session.createDataFrame(rdd, schema or "string")


class FrameStream:
    """A stream of frames, one for each batch. Made by sources, by `of`, and by the operations below."""

    def __init__(self, graph: Graph, compute: Compute, *, carried: bool = False):
        self._graph = graph
        self._compute = compute
        self._carried = carried  # whether it comes out of a running state, which only knows the present

    @classmethod
    def of(cls, dstream: DStream[Any], schema: StructType | str | None = None, *, name: str = "dstream") -> FrameStream:
        """The batches of a bare DStream: text becomes the column value: string, anything else needs a schema.

        Each batch is first landed under the home, named by its time, and is replayable from then on: at least once
        up to there as far as the DStream promises (a receiver with a write-ahead log does), exactly once after it.
        """
        graph = graph_of(dstream.context())
        name = free_name(name, graph.sources)
        graph.received[name] = (dstream, schema)

        def directory() -> str:
            return graph.home / f"received/{name}"

        source = Source(
            latest=lambda now: landing.latest(directory()),
            read=lambda start, end: landing.read(graph.session, directory(), start, end),
            schema=schema or "value string",
            forget=lambda position: landing.forget(directory(), position),
            drains=False,
        )
        return cls.from_source(dstream.context(), name, source)

    @classmethod
    def from_source(cls, ssc: StreamingContext, name: str, source: Source) -> FrameStream:
        """A replayable source as a stream. The name is its key in the offset log and must stay the same."""
        graph = graph_of(ssc)
        if name in graph.sources:
            raise UsageError(f"two sources are named {name!r}: give one of them another name=")
        graph.sources[name] = source
        nothing = graph.session.createDataFrame([], source.schema)

        def compute(moment: Moment) -> DataFrame:
            start, end = moment.entry.ranges.get(name, (None, None))
            return nothing if start == end else source.read(start, end)

        return cls(graph, compute)

    # --- what works on each batch alone

    def transform(self, function: Callable[[DataFrame], DataFrame]) -> FrameStream:
        """Apply a function of a DataFrame to each batch; it is called every batch, as DStream's is."""

        def compute(moment: Moment) -> DataFrame | None:
            frame = moment.frame(self._compute)
            if frame is None:
                return None
            made = function(frame)
            if not isinstance(made, DataFrame):
                raise UsageError(
                    f"the function {getattr(function, '__name__', function)!r} given to transform returned "
                    f"{type(made).__name__}, expected a DataFrame"
                )
            return made

        return FrameStream(self._graph, compute, carried=self._carried)

    def filter(self, condition: Column | str) -> FrameStream:
        """Keep the rows for which the condition holds."""
        return self.transform(lambda frame: frame.filter(condition))

    def select(self, *columns: Column | str) -> FrameStream:
        """Columns or expressions of each row: DStream's map."""
        return self.transform(lambda frame: frame.select(*columns))

    def count(self) -> FrameStream:
        """Number of rows of each batch. Column: count: bigint."""
        return self.reduce_by_key([], {"count": agg.count()})

    def reduce_by_key(self, keys: Keys, aggregates: Aggregates) -> FrameStream:
        """Aggregates of each batch for each key. Columns: the keys, then one for each aggregate."""

        def compute(frame: DataFrame) -> DataFrame:
            return agg.result(agg.partial(frame, keys, aggregates), keys, aggregates)

        return self.transform(compute)

    def cache(self) -> FrameStream:
        """Keep each batch in memory while its outputs run, for a stream that several of them use."""

        def compute(moment: Moment) -> DataFrame | None:
            frame = moment.frame(self._compute)
            if frame is not None and not moment.is_check:
                moment.cached.append(frame.persist())
            return frame

        return FrameStream(self._graph, compute, carried=self._carried)

    # --- several streams

    def union(self, *others: FrameStream) -> FrameStream:
        """The rows of all streams, by column name. A batch that one of them skips is skipped."""
        return self._with(others, lambda first, *rest: functools.reduce(DataFrame.unionByName, rest, first))

    def join(
        self, other: FrameStream | DataFrame, on: str | list[str] | Column | None = None, how: str = "inner"
    ) -> FrameStream:
        """Join with the same batch of another stream, or with a static frame; without `on` every row with every row."""
        if isinstance(other, DataFrame):
            return self.transform(lambda frame: frame.join(other, on, how))
        return self._with((other,), lambda left, right: left.join(right, on, how))

    def _with(self, others: tuple[FrameStream, ...], function: Callable[..., DataFrame]) -> FrameStream:
        streams = (self, *others)
        computes = [stream._compute for stream in streams]

        def compute(moment: Moment) -> DataFrame | None:
            frames = [moment.frame(c) for c in computes]
            return None if any(frame is None for frame in frames) else function(*frames)

        return FrameStream(self._graph, compute, carried=any(stream._carried for stream in streams))

    # --- windows and state

    def window(self, window: Duration, slide: Duration | None = None) -> FrameStream:
        """The rows of all batches in (T - window, T], T being the recorded time, at every slide.

        They are read again from the source; where only aggregates are needed, `reduce_by_key_and_window` keeps those.
        """
        node = self._window(window, slide, lambda frame: frame, keep=False)

        def compute(moment: Moment) -> DataFrame | None:
            return functools.reduce(DataFrame.union, node.frames(moment)) if moment.fires(node.slide) else None

        return FrameStream(self._graph, compute)

    def reduce_by_key_and_window(
        self, keys: Keys, aggregates: Aggregates, window: Duration, slide: Duration | None = None
    ) -> FrameStream:
        """Aggregates for each key over the batches in (T - window, T], at every slide.

        Columns: the keys, then one for each aggregate. Each batch is aggregated once and kept in that form; a key
        without rows in the window is not there.
        """
        node = self._window(window, slide, lambda frame: agg.partial(frame, keys, aggregates), keep=True)

        def compute(moment: Moment) -> DataFrame | None:
            parts = node.frames(moment)  # also between slides: the batch is aggregated while it is at hand
            if not moment.fires(node.slide):
                return None
            merged = agg.merge(functools.reduce(DataFrame.union, parts), keys, aggregates)
            return agg.result(merged, keys, aggregates)

        return FrameStream(self._graph, compute)

    def update_state_by_key(self, keys: Keys, aggregates: Aggregates, *, name: str | None = None) -> FrameStream:
        """Aggregates for each key over everything since the first batch: all keys, every batch.

        Columns: the keys, then one for each aggregate. The name is the key of the saved state and must stay the same
        when the job changes; without one it is made from the keys.
        """
        graph = self._graph
        name = name or free_name("by-" + ("-".join(agg.key_list(keys)) or "nothing"), graph.states)
        if name in graph.states:
            raise UsageError(f"two states are named {name!r}: give one of them another name=")
        node = graph.states[name] = _State(graph, self._compute, keys, aggregates, name)
        return FrameStream(graph, node.result, carried=True)

    def _window(
        self, window: Duration, slide: Duration | None, make: Callable[[DataFrame], DataFrame], *, keep: bool
    ) -> _Window:
        if self._carried:
            raise UsageError(
                "a window over a running state cannot be rebuilt after a restart: put the window first, the state after"
            )
        interval = self._graph.interval
        length = durations.multiple("window", window, interval)
        step = interval if slide is None else durations.multiple("slide", slide, interval)
        node = _Window(self._graph, self._compute, length, step, make, keep)
        self._graph.windows.append(node)
        return node

    # --- outputs

    def for_each_batch(self, write: Write, *, name: str = "output", check: Write | None = None) -> None:
        """Run a function for each batch: an output. It is tried again until it succeeds.

        `check` is called at every start, with the empty frame and the last batch of the runs before (n = 0: there is
        none), so that it can refuse by a UsageError what could not be written later.

        Guarantee: at least once; exactly once if what it does for (batch.home_id, name, batch.n) is idempotent.
        """
        outputs = self._graph.outputs
        if name in outputs:
            raise UsageError(f"two outputs are named {name!r}: give one of them another name=")
        outputs[name] = Output(self._compute, write, check)

    def for_each_rdd(self, write: Callable[[RDD[Row]], object], *, name: str = "output") -> None:
        """Run a function of an RDD of rows for each batch, as foreachRDD does. Guarantee: at least once."""
        self.for_each_batch(lambda frame, _: write(frame.rdd), name=name)


@dataclass
class _Window:
    """The frames of the batches in a window, each made by one function and, if `keep`, made once."""

    graph: Graph
    source: Compute
    length: int
    slide: int
    make: Callable[[DataFrame], DataFrame]
    keep: bool
    kept: dict[int, DataFrame] = field(default_factory=dict)

    def frames(self, moment: Moment) -> list[DataFrame]:
        empty = self.make(self.graph.empty(self.source))
        if moment.is_check:
            return [empty]
        inside = self.graph.moments(moment.entry.time - self.length, moment.entry.time)
        for n in set(self.kept) - {m.entry.n for m in inside}:
            bridge.free(self.kept.pop(n))
        frames = (self._frame(m) for m in inside)
        return [frame for frame in frames if frame is not None] or [empty]

    def forget(self) -> None:
        self.kept.clear()

    def _frame(self, moment: Moment) -> DataFrame | None:
        n = moment.entry.n
        if n in self.kept:
            return self.kept[n]
        frame = moment.frame(self.source)
        if frame is None or not self.keep:
            return None if frame is None else self.make(frame)
        self.kept[n] = self.make(frame).localCheckpoint()
        return self.kept[n]


class _State:
    """Merged parts for each key, carried from batch to batch in the memory of the executors.

    `localCheckpoint` keeps rows as Spark's own binary rows and their partitioning by key, so only the new rows of a
    batch are shuffled.
    """

    def __init__(self, graph: Graph, source: Compute, keys: Keys, aggregates: Aggregates, name: str):
        self._graph, self._source, self._keys, self._aggregates = graph, source, keys, aggregates
        self._name = name
        self._frame: DataFrame | None = None
        self._n = 0

    def result(self, moment: Moment) -> DataFrame:
        return agg.result(self.at(moment), self._keys, self._aggregates)

    def at(self, moment: Moment) -> DataFrame:
        if moment.is_check:
            return self._empty()
        if self._frame is None or self._n > moment.entry.n:
            self._load(moment.entry.n)
        for entry in self._graph.log.after(self._n):
            if entry.n > moment.entry.n:
                break
            self._advance(self._graph.moment(entry))
        assert self._frame is not None
        return self._frame

    def save(self, n: int) -> None:
        assert self._frame is not None and self._n == n
        saved_state.save(self._frame, self._directory, n)

    def oldest_save(self) -> int:
        saves = saved_state.saves(self._directory)
        return saves[0] if len(saves) > 1 else 0

    def forget(self) -> None:
        self._frame = None

    @property
    def _directory(self) -> str:
        return self._graph.home / f"state/{self._name}"

    def _empty(self) -> DataFrame:
        return agg.partial(self._graph.empty(self._source), self._keys, self._aggregates)

    def _load(self, newest: int) -> None:
        n, frame = saved_state.load(self._graph.session, self._directory, newest, self._empty())
        keys = agg.key_list(self._keys)
        self._frame = (frame.repartition(*keys) if keys else frame.coalesce(1)).localCheckpoint()
        floor = self._graph.log.floor.n
        if 0 < n < floor:
            raise UsageError(
                f"the state {self._name!r} was last saved after batch {n}, but the log only goes back to batch "
                f"{floor}: give the state another name= to start it anew"
            )
        if n < floor:
            log.warning("the state %r starts empty after batch %d: its earlier input is not kept", self._name, floor)
        self._n = max(n, floor)

    def _advance(self, moment: Moment) -> None:
        before, new = self._frame, moment.frame(self._source) if moment.entry.data else None
        assert before is not None
        if new is not None:
            parts = before.union(agg.partial(new, self._keys, self._aggregates))
            self._frame = agg.merge(parts, self._keys, self._aggregates).localCheckpoint()
            bridge.free(before)
        self._n = moment.entry.n
