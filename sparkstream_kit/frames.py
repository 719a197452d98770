"""FrameStream: a DStream whose batches are DataFrames.

It speaks DStream in snake_case. Every operation is a node of the job's graph: a function of a moment to a frame.
`each_frame` brings frames to a bare DStream without any of this.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from pyspark import RDD
from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType
from pyspark.streaming import DStream, StreamingContext

from . import aggregates as agg
from . import bridge, durations
from .aggregates import Aggregates, Keys
from .carried import AggregatedWindow, Carried, Window, expiring
from .durations import Duration
from .errors import UsageError
from .graph import Batch, Compute, Graph, Moment, Output, Source, Write, free_name, graph_of
from .recovery import landing


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

    def flat_map(self, values: Column, name: str) -> FrameStream:
        """One row for each element of an array: DStream's flatMap. Column: the name given, of the element's type."""
        return self.transform(lambda frame: frame.select(F.explode(values).alias(name)))

    def map_python(self, function: Callable[[Row], Any], schema: StructType | str) -> FrameStream:
        """Apply a Python function to each row, in Python workers: for what no column expression can say.

        The function gets a Row and returns a tuple, Row or dict that fits the schema. Other steps stay in the JVM; this
        one costs what every row costs that goes to Python and back.
        """

        def compute(frame: DataFrame) -> DataFrame:
            return frame.sparkSession.createDataFrame(frame.rdd.map(function), schema)

        return self.transform(compute)

    def sql(self, query: str, **others: FrameStream) -> FrameStream:
        """A SQL query over the batch, which is the table `batch`; other streams are tables of the names given.

        requests.sql("select status, count(*) as hits from batch group by status")
        """
        names = ["batch", *others]

        def compute(*frames: DataFrame) -> DataFrame:
            for name, frame in zip(names, frames, strict=True):
                frame.createOrReplaceTempView(name)
            return frames[0].sparkSession.sql(query)

        return self._with(tuple(others.values()), compute)

    def repartition(self, partitions: int, *columns: str) -> FrameStream:
        """The same rows in so many partitions, those with equal columns together."""
        return self.transform(lambda frame: frame.repartition(partitions, *columns))

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self._graph.empty(self._compute).columns

    def count(self) -> FrameStream:
        """Number of rows of each batch. Column: count: bigint."""
        return self.reduce_by_key([], {"count": agg.count()})

    def reduce_by_key(self, keys: Keys, aggregates: Aggregates) -> FrameStream:
        """Aggregates of each batch for each key. Columns: the keys, then one for each aggregate."""

        def compute(frame: DataFrame) -> DataFrame:
            return agg.result(agg.partial(frame, keys, aggregates), keys, aggregates)

        return self.transform(compute)

    def count_by_value(self) -> FrameStream:
        """How often each row is in the batch. Columns: its own, then count: bigint."""
        return self.reduce_by_key(self.columns, {"count": agg.count()})

    def group_by_key(self, keys: Keys) -> FrameStream:
        """The rows of each key together. Columns: the keys, then values: array of struct of the other columns."""
        names = agg.key_list(keys)

        def compute(frame: DataFrame) -> DataFrame:
            rest = F.struct(*(column for column in frame.columns if column not in names))
            return frame.groupBy(*names).agg(F.collect_list(rest).alias("values"))

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

    def cogroup(self, other: FrameStream, keys: Keys) -> FrameStream:
        """The rows of both streams for each key: keys, left and right: array of struct, empty where one has none."""
        left, right = self.group_by_key(keys), other.group_by_key(keys)

        def together(a: DataFrame, b: DataFrame) -> DataFrame:
            both = a.withColumnRenamed("values", "left").join(
                b.withColumnRenamed("values", "right"), agg.key_list(keys), "full"
            )
            filled = (
                F.coalesce(side, F.array().cast(both.schema[side].dataType)).alias(side) for side in ("left", "right")
            )
            return both.select(*agg.key_list(keys), *filled)

        return left._with((right,), together)

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
        node = Window(self._graph, self._compute, *self._window(window, slide))
        self._graph.windows.append(node)
        return FrameStream(self._graph, lambda moment: node.rows(moment) if moment.fires(node.slide) else None)

    def reduce_by_key_and_window(
        self, keys: Keys, aggregates: Aggregates, window: Duration, slide: Duration | None = None
    ) -> FrameStream:
        """Aggregates for each key over the batches in (T - window, T], at every slide.

        Columns: the keys, then one for each aggregate. Each batch is aggregated once and kept in that form; a key
        without rows in the window is not there. Counts, and sums and means of whole numbers, cost what came and went
        with the slide, others what is in the window.
        """
        node = AggregatedWindow(self._graph, self._compute, *self._window(window, slide), keys, aggregates)
        self._graph.windows.append(node)
        return FrameStream(self._graph, node.result)

    def reduce_by_window(self, aggregates: Aggregates, window: Duration, slide: Duration | None = None) -> FrameStream:
        """Aggregates over all rows of the batches in (T - window, T], at every slide: one row."""
        return self.reduce_by_key_and_window([], aggregates, window, slide)

    def count_by_window(self, window: Duration, slide: Duration | None = None) -> FrameStream:
        """Number of rows of the batches in (T - window, T], at every slide. Column: count: bigint."""
        return self.reduce_by_window({"count": agg.count()}, window, slide)

    def count_by_value_and_window(self, window: Duration, slide: Duration | None = None) -> FrameStream:
        """How often each row is in the batches in (T - window, T], at every slide. Columns: its own, count: bigint."""
        return self.reduce_by_key_and_window(self.columns, {"count": agg.count()}, window, slide)

    def update_state_by_key(
        self,
        keys: Keys,
        aggregates: Aggregates,
        *,
        expire_after: Duration | None = None,
        initial: DataFrame | None = None,
        name: str | None = None,
    ) -> StateStream:
        """Aggregates for each key over everything since the first batch: all keys, every batch.

        Columns: the keys, then one for each aggregate. The name is the key of the saved state and must stay the same
        when the job changes; without one it is made from the keys.

        `expire_after` forgets a key at the first batch at which it was not seen for that long; while nothing arrives
        that is looked at ten times within the span. `expired()` of the result gives the rows that went. `initial` has
        rows like those of the stream, which count as if they had come before the first batch.
        """
        span = None if expire_after is None else self._multiple("expire_after", expire_after)
        parts = expiring(aggregates) if span else aggregates
        before_all = self._timed(initial, 0, span) if initial is not None else None

        def empty(frame: DataFrame) -> DataFrame:
            nothing = agg.partial(self._timed(frame, 0, span), keys, parts)
            return nothing if before_all is None else agg.partial(before_all, keys, parts)

        def advance(kept: DataFrame, new: DataFrame, moment: Moment) -> DataFrame:
            fresh = agg.partial(self._timed(new, moment.entry.time, span), keys, parts)
            return agg.merge(kept.union(fresh), keys, parts)

        def keep(rows: DataFrame, time: int) -> DataFrame:
            return rows if span is None else rows.filter(F.col("__seen") > time - span)

        def expired(moment: Moment) -> DataFrame:
            rows = node.at(moment)
            gone = rows.filter(F.lit(False) if span is None else F.col("__seen") <= moment.entry.time - span)
            return agg.result(gone, keys, aggregates)

        name = name or free_name("by-" + ("-".join(agg.key_list(keys)) or "nothing"), self._graph.states)
        node = Carried(self._graph, self._compute, name, keys, empty, advance, keep)
        if span is not None:
            step = max(self._graph.interval, span // 10 // self._graph.interval * self._graph.interval)
            self._graph.windows.append(Window(self._graph, self._compute, span + step, step))
        return StateStream(self._graph, lambda moment: agg.result(node.kept(moment), keys, aggregates), expired)

    @staticmethod
    def _timed(frame: DataFrame, time: int, span: int | None) -> DataFrame:
        return frame if span is None else frame.withColumn("__time", F.lit(time).cast("bigint"))

    def _window(self, window: Duration, slide: Duration | None) -> tuple[int, int]:
        if self._carried:
            raise UsageError(
                "a window over a running state cannot be rebuilt after a restart: put the window first, the state after"
            )
        length = self._multiple("window", window)
        return length, self._graph.interval if slide is None else self._multiple("slide", slide)

    def _multiple(self, name: str, duration: Duration) -> int:
        return durations.multiple(name, duration, self._graph.interval)

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


class StateStream(FrameStream):
    """A running state as a stream: in each batch the rows of all keys."""

    def __init__(self, graph: Graph, compute: Compute, expired: Compute):
        super().__init__(graph, compute, carried=True)
        self._expired = expired

    def expired(self) -> FrameStream:
        """The rows of the keys that expired with the batch, as they were last."""
        return FrameStream(self._graph, self._expired, carried=True)
