"""FrameStream: a DStream whose batches are DataFrames.

It speaks DStream in snake_case. Every operation is a node of the job's graph: a function from a batch context to a
DataFrame.
`each_frame` brings frames to a bare DStream without any of this.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from pyspark import RDD
from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType
from pyspark.streaming import DStream, StreamingContext

from . import aggregates as agg
from . import durations
from .aggregates import Aggregates
from .columns import Columns, column_names
from .contracts import Source, Write
from .durations import Duration
from .engine.graph import BatchContext, Compute, Graph, Output, add_named, graph_of
from .engine.state import StateNode, batch_literal, expiring
from .engine.windows import AggregatedWindow, Window
from .errors import UsageError
from .recovery import landing

P = ParamSpec("P")
R = TypeVar("R")


def _empty_frame(session: SparkSession, schema: StructType | str) -> DataFrame:
    """A frame without rows that the JVM makes by itself: one of createDataFrame would start Python workers."""
    fields = schema if isinstance(schema, StructType) else StructType.fromDDL(schema)
    assert isinstance(fields, StructType)
    return session.range(0).select(*(F.lit(None).cast(f.dataType).alias(f.name) for f in fields))


class FrameStream:
    """A stream of frames, one for each batch. Made by sources, by `of`, and by the operations below.

    >>> from sparkstream_kit.testing import run_batches
    >>> def build(lines):
    ...     words = FrameStream.of(lines).flat_map(F.split("value", " "), "word")
    ...     return words.filter("word != 'a'").select(F.upper("word").alias("word")).count_by_value()
    >>> run_batches(build, [["a bb", "bb"], ["cc"]])
    [[Row(word='BB', count=2)], [Row(word='CC', count=1)]]

    A batch of a source that brought nothing is no entry of the offset log, and its streams have no frame, where those
    of DStream have an empty one; beside another source that brought something it is an empty frame.

    `graph` and `compute` are for whoever writes an operation: the node is a function of a ctx, and `stateful` where
    it comes out of a running state, which only knows the present.
    """

    def __init__(self, graph: Graph, compute: Compute, *, stateful: bool = False):
        self.graph = graph
        self.compute = compute
        self.stateful = stateful

    @classmethod
    def of(cls, dstream: DStream[Any], schema: StructType | str | None = None, *, name: str = "dstream") -> FrameStream:
        """The batches of a bare DStream: text becomes the column value: string, anything else needs a schema.

        Each batch is first landed under the home, named by its time, and is replayable from then on: at least once
        up to there as far as the DStream promises (a receiver with a write-ahead log does), exactly once after it.
        """
        graph = graph_of(dstream.context())
        add_named("received streams", graph.received, name, (dstream, schema))

        def directory() -> str:
            return graph.home / f"received/{name}"

        source = Source(
            latest_offset=lambda now: landing.latest_offset(directory()),
            read=lambda start, end: landing.read(graph.session, directory(), start, end),
            schema=schema or "value string",
            commit=lambda end: landing.prune(directory(), end),
            bounded=False,
        )
        return cls.from_source(dstream.context(), name, source)

    @classmethod
    def from_source(cls, ssc: StreamingContext, name: str, source: Source) -> FrameStream:
        """A replayable source as a stream. The name is its key in the offset log and must stay the same."""
        graph = graph_of(ssc)
        add_named("sources", graph.sources, name, source)
        nothing = _empty_frame(graph.session, source.schema)

        def compute(ctx: BatchContext) -> DataFrame:
            start, end = ctx.entry.ranges.get(name, (None, None))
            return nothing if start == end else source.read(start, end)

        return cls(graph, compute)

    # --- what works on each batch alone

    def transform(self, function: Callable[[DataFrame], DataFrame]) -> FrameStream:
        """Apply a function of a DataFrame to each batch; it is called every batch, as DStream's is.

        At every start it is called once more, with an empty frame. UsageError if what it returns is no DataFrame.

        >>> from sparkstream_kit.testing import run_batches
        >>> def first(frame):
        ...     return frame.sort("value").limit(1)
        >>> run_batches(lambda lines: FrameStream.of(lines).transform(first), [["b", "a"]])
        [[Row(value='a')]]
        """

        def compute(ctx: BatchContext) -> DataFrame | None:
            frame = ctx.frame(self.compute)
            if frame is None:
                return None
            made = function(frame)
            if not isinstance(made, DataFrame):
                raise UsageError(
                    f"the function {getattr(function, '__name__', function)!r} given to transform returned "
                    f"{type(made).__name__}, expected a DataFrame"
                )
            return made

        return FrameStream(self.graph, compute, stateful=self.stateful)

    def pipe(self, function: Callable[Concatenate[FrameStream, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function with the stream first: `stream.pipe(f, x)` is `f(stream, x)`, read from left to right.

        DStream's own operations are methods; everything else, in `transforms` and of yours, takes the stream first.

        >>> from sparkstream_kit.testing import run_batches
        >>> def longest(stream, keep):
        ...     return stream.transform(lambda frame: frame.orderBy(F.length("value").desc()).limit(keep))
        >>> run_batches(lambda lines: FrameStream.of(lines).pipe(longest, keep=1), [["a", "bb"]])
        [[Row(value='bb')]]
        """
        return function(self, *args, **kwargs)

    def filter(self, condition: Column | str) -> FrameStream:
        """Keep the rows for which the condition holds: `requests.filter("status >= 500")`.

        >>> from sparkstream_kit.testing import run_batches
        >>> run_batches(lambda lines: FrameStream.of(lines).filter("value != 'a'"), [["a", "b"]])
        [[Row(value='b')]]
        """
        return self.transform(lambda frame: frame.filter(condition))

    def select(self, *columns: Column | str) -> FrameStream:
        """Columns or expressions of each row: DStream's map. `requests.select("path", F.col("bytes") / 1024)`.

        >>> from sparkstream_kit.testing import run_batches
        >>> run_batches(lambda lines: FrameStream.of(lines).select("value", F.upper("value").alias("loud")), [["a"]])
        [[Row(value='a', loud='A')]]
        """
        return self.transform(lambda frame: frame.select(*columns))

    def flat_map(self, values: Column, name: str) -> FrameStream:
        """One row for each element of an array: DStream's flatMap. Column: the name given, of the element's type.

        >>> from sparkstream_kit.testing import run_batches
        >>> run_batches(lambda lines: FrameStream.of(lines).flat_map(F.split("value", " "), "word"), [["a b"]])
        [[Row(word='a'), Row(word='b')]]
        """
        return self.transform(lambda frame: frame.select(F.explode(values).alias(name)))

    def map_python(self, function: Callable[[Row], Any], schema: StructType | str) -> FrameStream:
        """Apply a Python function to each row, in Python workers: for what no column expression can say.

        The function gets a Row and returns a tuple, Row or dict that fits the schema. Other steps stay in the JVM; this
        one costs what every row costs that goes to Python and back.

        >>> from sparkstream_kit.testing import run_batches
        >>> def build(lines):
        ...     return FrameStream.of(lines).map_python(lambda row: (row.value[::-1],), "reversed string")
        >>> run_batches(build, [["ab"]])
        [[Row(reversed='ba')]]
        """

        def compute(frame: DataFrame) -> DataFrame:
            return frame.sparkSession.createDataFrame(frame.rdd.map(function), schema)

        return self.transform(compute)

    def sql(self, query: str, **others: FrameStream) -> FrameStream:
        """A SQL query over the batch, which is the table `batch`; other streams are tables of the names given.

        >>> from sparkstream_kit.testing import run_batches
        >>> def build(left, right):
        ...     others = FrameStream.of(right, name="others")
        ...     return FrameStream.of(left).sql("select value from batch except select value from other", other=others)
        >>> run_batches(build, [["a", "b"]], [["b"]])
        [[Row(value='a')]]
        """
        names = ["batch", *others]

        def compute(*frames: DataFrame) -> DataFrame:
            for name, frame in zip(names, frames, strict=True):
                frame.createOrReplaceTempView(name)
            return frames[0].sparkSession.sql(query)

        return self._with(tuple(others.values()), compute)

    def repartition(self, partitions: int, *columns: str) -> FrameStream:
        """The same rows in so many partitions, those with equal columns together.

        >>> from sparkstream_kit.testing import run_batches
        >>> def build(lines):
        ...     return FrameStream.of(lines).repartition(9, "value").select(F.spark_partition_id()).count_by_value()
        >>> [[counted]] = run_batches(build, [["a", "a"]])
        >>> counted["count"]
        2
        """
        return self.transform(lambda frame: frame.repartition(partitions, *columns))

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return self.graph.empty(self.compute).columns

    def count(self) -> FrameStream:
        """Number of rows of each batch. Column: count: bigint.

        >>> from sparkstream_kit.testing import run_batches
        >>> run_batches(lambda lines: FrameStream.of(lines).count(), [["a", "b"]])
        [[Row(count=2)]]
        """
        return self.reduce_by_key([], {"count": agg.count()})

    def reduce_by_key(self, keys: Columns, aggregates: Aggregates) -> FrameStream:
        """Aggregates of each batch for each key. Columns: the keys, then one for each aggregate.

            requests.reduce_by_key("status", {"hits": agg.count(), "bytes": agg.sum("bytes")})

        >>> from sparkstream_kit.testing import run_batches
        >>> def build(lines):
        ...     sizes = FrameStream.of(lines).select("value", F.length("value").alias("size"))
        ...     return sizes.reduce_by_key("size", {"n": agg.count(), "last": agg.max("value")})
        >>> run_batches(build, [["aa", "bb"]])
        [[Row(size=2, n=2, last='bb')]]
        """
        return self.transform(lambda frame: agg.aggregate(frame, keys, aggregates))

    def count_by_value(self) -> FrameStream:
        """How often each row is in the batch. Columns: its own, then count: bigint.

        >>> from sparkstream_kit.testing import run_batches
        >>> run_batches(lambda lines: FrameStream.of(lines).count_by_value(), [["a", "a"]])
        [[Row(value='a', count=2)]]
        """
        return self.reduce_by_key(self.columns, {"count": agg.count()})

    def group_by_key(self, keys: Columns) -> FrameStream:
        """The rows of each key together. Columns: the keys, then values: array of struct of the other columns.

        >>> from sparkstream_kit.testing import run_batches
        >>> def build(lines):
        ...     return FrameStream.of(lines).select("value", F.length("value").alias("size")).group_by_key("size")
        >>> run_batches(build, [["aa"]])
        [[Row(size=2, values=[Row(value='aa')])]]
        """
        names = column_names(keys)

        def compute(frame: DataFrame) -> DataFrame:
            rest = F.struct(*(column for column in frame.columns if column not in names))
            return frame.groupBy(*names).agg(F.collect_list(rest).alias("values"))

        return self.transform(compute)

    def cache(self) -> FrameStream:
        """Keep each batch in memory while its outputs run, for a stream that several of them use.

        >>> from sparkstream_kit.testing import run_batches
        >>> def build(lines):
        ...     words = FrameStream.of(lines).flat_map(F.split("value", " "), "word").cache()
        ...     return words.count(), words.filter("word > 'a'")
        >>> run_batches(build, [["a b"]])
        ([[Row(count=2)]], [[Row(word='b')]])
        """

        def compute(ctx: BatchContext) -> DataFrame | None:
            frame = ctx.frame(self.compute)
            if frame is not None and not ctx.is_dry_run:
                ctx.cached.append(frame.persist())
            return frame

        return FrameStream(self.graph, compute, stateful=self.stateful)

    # --- several streams

    def union(self, *others: FrameStream) -> FrameStream:
        """The rows of all streams, by column name. A batch that one of them skips is skipped.

        >>> from sparkstream_kit.testing import run_batches
        >>> run_batches(lambda a, b: FrameStream.of(a, name="a").union(FrameStream.of(b, name="b")), [["a"]], [["b"]])
        [[Row(value='a'), Row(value='b')]]
        """
        return self._with(others, lambda first, *rest: functools.reduce(DataFrame.unionByName, rest, first))

    def join(
        self, other: FrameStream | DataFrame, on: str | list[str] | Column | None = None, how: str = "inner"
    ) -> FrameStream:
        """Join with the same batch of another stream, or with a static frame; without `on` every row with every row.

        >>> from sparkstream_kit.testing import run_batches
        >>> names = getfixture("spark").createDataFrame([(200, "OK")], "status int, reason string")
        >>> def build(statuses):
        ...     return FrameStream.of(statuses, "status int").join(names, "status", "left")
        >>> run_batches(build, [[(200,)], [(600,)]])
        [[Row(status=200, reason='OK')], [Row(status=600, reason=None)]]
        """
        if isinstance(other, DataFrame):
            return self.transform(lambda frame: frame.join(other, on, how))
        return self._with((other,), lambda left, right: left.join(right, on, how))

    def cogroup(self, other: FrameStream, keys: Columns) -> FrameStream:
        """The rows of both streams for each key: keys, left and right: array of struct, empty where one has none.

            orders.cogroup(payments, "order_id").filter("size(left) != size(right)")

        >>> from sparkstream_kit.testing import run_batches
        >>> def sized(lines, name):
        ...     return FrameStream.of(lines, name=name).select("value", F.length("value").alias("size"))
        >>> run_batches(lambda a, b: sized(a, "a").cogroup(sized(b, "b"), "size"), [["a"]], [["b"]])
        [[Row(size=1, left=[Row(value='a')], right=[Row(value='b')])]]
        """
        left, right = self.group_by_key(keys), other.group_by_key(keys)

        def together(a: DataFrame, b: DataFrame) -> DataFrame:
            both = a.withColumnRenamed("values", "left").join(
                b.withColumnRenamed("values", "right"), column_names(keys), "full"
            )
            filled = (
                F.coalesce(side, F.array().cast(both.schema[side].dataType)).alias(side) for side in ("left", "right")
            )
            return both.select(*column_names(keys), *filled)

        return left._with((right,), together)

    def _with(self, others: tuple[FrameStream, ...], function: Callable[..., DataFrame]) -> FrameStream:
        streams = (self, *others)
        computes = [stream.compute for stream in streams]

        def compute(ctx: BatchContext) -> DataFrame | None:
            frames = [ctx.frame(c) for c in computes]
            return None if any(frame is None for frame in frames) else function(*frames)

        return FrameStream(self.graph, compute, stateful=any(stream.stateful for stream in streams))

    # --- windows and state

    def window(self, window: Duration, slide: Duration | None = None) -> FrameStream:
        """The rows of all batches in (T - window, T], T being the recorded time, at every slide.

        They are read again from the source; where only aggregates are needed, `reduce_by_key_and_window` keeps those.
        Raises UsageError for a window or slide that is no multiple of the batch interval, and over a running state.

        >>> from sparkstream_kit.testing import run_batches
        >>> run_batches(lambda lines: FrameStream.of(lines).window("2s"), [["a"], ["b"], []])
        [[Row(value='a')], [Row(value='a'), Row(value='b')], [Row(value='b')]]
        """
        node = Window(self.graph, self.compute, *self._window(window, slide))
        self.graph.windows.append(node)
        return FrameStream(self.graph, lambda ctx: node.rows(ctx) if ctx.fires(node.slide) else None)

    def reduce_by_key_and_window(
        self, keys: Columns, aggregates: Aggregates, window: Duration, slide: Duration | None = None
    ) -> FrameStream:
        """Aggregates for each key over the batches in (T - window, T], at every slide.

        Columns: the keys, then one for each aggregate. Each batch is aggregated once and kept in that form; a key
        without rows in the window is not there. With counts, and sums and means of whole numbers, a slide adds what
        came and takes back what went: it costs one pass over the keys of the window, however many batches are in it.
        With others all batches of the window are merged anew. Where nothing arrives windows move on until one is empty.
        Errors: those of `window`.

        >>> from sparkstream_kit.testing import run_batches
        >>> def build(lines):
        ...     return FrameStream.of(lines).reduce_by_key_and_window("value", {"n": agg.count()}, "2s", "1s")
        >>> run_batches(build, [["a"], ["a"], [], []])
        [[Row(value='a', n=1)], [Row(value='a', n=2)], [Row(value='a', n=1)], []]
        """
        node = AggregatedWindow(self.graph, self.compute, *self._window(window, slide), keys, aggregates)
        self.graph.windows.append(node)
        return FrameStream(self.graph, node.result)

    def reduce_by_window(self, aggregates: Aggregates, window: Duration, slide: Duration | None = None) -> FrameStream:
        """Aggregates over all rows of the batches in (T - window, T], at every slide: one row.

        >>> from sparkstream_kit.testing import run_batches
        >>> def build(lines):
        ...     return FrameStream.of(lines).reduce_by_window({"n": agg.count(), "last": agg.max("value")}, "2s")
        >>> run_batches(build, [["b"], ["a"]])
        [[Row(n=1, last='b')], [Row(n=2, last='b')]]
        """
        return self.reduce_by_key_and_window([], aggregates, window, slide)

    def count_by_window(self, window: Duration, slide: Duration | None = None) -> FrameStream:
        """Number of rows of the batches in (T - window, T], at every slide. Column: count: bigint.

        >>> from sparkstream_kit.testing import run_batches
        >>> run_batches(lambda lines: FrameStream.of(lines).count_by_window("2s"), [["a", "b"], ["c"]])
        [[Row(count=2)], [Row(count=3)]]
        """
        return self.reduce_by_window({"count": agg.count()}, window, slide)

    def count_by_value_and_window(self, window: Duration, slide: Duration | None = None) -> FrameStream:
        """How often each row is in the batches in (T - window, T], at every slide. Columns: its own, count: bigint.

        A slide that is longer than the batch interval skips the batches in between:

        >>> from sparkstream_kit.testing import run_batches
        >>> run_batches(lambda lines: FrameStream.of(lines).count_by_value_and_window("4s", "2s"), [["a"], ["a"]])
        [None, [Row(value='a', count=2)]]
        """
        return self.reduce_by_key_and_window(self.columns, {"count": agg.count()}, window, slide)

    def update_state_by_key(
        self,
        keys: Columns,
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
        rows like those of the stream, which count as if they had come just before the first batch. Raises UsageError
        for an `expire_after` that is no multiple of the batch interval.

        >>> from sparkstream_kit.testing import run_batches
        >>> def build(lines):
        ...     counts = FrameStream.of(lines).update_state_by_key("value", {"n": agg.count()}, expire_after="2s")
        ...     return counts, counts.expired()
        >>> counts, gone = run_batches(build, [["a"], ["a"], [], []])
        >>> counts
        [[Row(value='a', n=1)], [Row(value='a', n=2)], [Row(value='a', n=2)], []]
        >>> gone
        [[], [], [], [Row(value='a', n=2)]]
        """
        span = None if expire_after is None else self._multiple("expire_after", expire_after)
        parts = expiring(aggregates) if span else aggregates

        def empty(frame: DataFrame, time: int) -> DataFrame:
            return agg.partial(self._timed(frame if initial is None else initial, time, span), keys, parts)

        def advance(kept: DataFrame, new: DataFrame, ctx: BatchContext) -> DataFrame:
            fresh = agg.partial(self._timed(new, ctx.entry.time, span), keys, parts)
            return agg.merge(kept.union(fresh), keys, parts)

        def keep(rows: DataFrame, time: int) -> DataFrame:
            return rows if span is None else rows.filter(F.col("__seen") > batch_literal(time - span))

        def expired(ctx: BatchContext) -> DataFrame:
            rows = node.at(ctx)
            gone = F.lit(False) if span is None else F.col("__seen") <= batch_literal(ctx.entry.time - span)
            return agg.result(rows.filter(gone), keys, aggregates)

        node = StateNode(self.graph, self.compute, name or _by(keys), keys, empty, advance, keep)
        if span is not None:
            step = max(self.graph.interval, span // 10 // self.graph.interval * self.graph.interval)
            self.graph.windows.append(Window(self.graph, self.compute, span + step, step))
        return StateStream(self.graph, lambda ctx: agg.result(node.retained(ctx), keys, aggregates), expired)

    def update_state_by_key_python(
        self,
        keys: Columns,
        function: Callable[[list[Row], Row | None], Any],
        state: StructType | str,
        *,
        name: str | None = None,
    ) -> FrameStream:
        """A state that a Python function updates: DStream's updateStateByKey, for what no aggregate can say.

        Columns: the keys, then those of `state`. The function gets the new rows of a key, in any order and without its
        keys, and the state before or None; it returns a tuple, Row or dict that fits `state`, or None to forget the
        key. It is called for every key in every batch with data, in Python workers: this is the slow, general way,
        and cost grows with the number of all keys. The name is the key of the saved state.

        >>> from sparkstream_kit.testing import run_batches
        >>> def longest(rows, state):
        ...     return (max([row.word for row in rows] + [state.word if state else ""], key=len),)
        >>> def build(pairs):
        ...     words = FrameStream.of(pairs, "k int, word string")
        ...     return words.update_state_by_key_python("k", longest, "word string")
        >>> run_batches(build, [[(1, "bb"), (1, "a")], [(1, "ccc")]])
        [[Row(k=1, word='bb')], [Row(k=1, word='ccc')]]
        """
        names = column_names(keys)
        kind = state if isinstance(state, StructType) else StructType.fromDDL(state)
        # said to be not deterministic, or the optimizer may call it once for the filter and once for the columns
        update = F.udf(lambda rows, before: function(rows or [], before), kind).asNondeterministic()

        def fresh(frame: DataFrame) -> DataFrame:
            rest = F.struct(*(column for column in frame.columns if column not in names))
            rows = frame.groupBy(*names).agg(F.collect_list(rest).alias("__rows"))
            return rows.withColumn("__state", F.lit(None).cast(kind))

        def empty(frame: DataFrame, time: int) -> DataFrame:
            return fresh(frame).select(*names, "__state")

        def advance(kept: DataFrame, new: DataFrame, ctx: BatchContext) -> DataFrame:
            both = kept.unionByName(fresh(new), allowMissingColumns=True).groupBy(*names)
            rows = both.agg(*(F.first(column, ignorenulls=True).alias(column) for column in ("__rows", "__state")))
            return rows.select(*names, update("__rows", "__state").alias("__state")).filter("__state is not null")

        node = StateNode(self.graph, self.compute, name or _by(keys), keys, empty, advance)
        return FrameStream(self.graph, lambda ctx: node.at(ctx).select(*names, "__state.*"), stateful=True)

    @staticmethod
    def _timed(frame: DataFrame, time: int, span: int | None) -> DataFrame:
        return frame if span is None else frame.withColumn("__time", batch_literal(time).cast("bigint"))

    def _window(self, window: Duration, slide: Duration | None) -> tuple[int, int]:
        if self.stateful:
            raise UsageError(
                "a window over a running state cannot be rebuilt after a restart: put the window first, the state after"
            )
        length = self._multiple("window", window)
        return length, self.graph.interval if slide is None else self._multiple("slide", slide)

    def _multiple(self, name: str, duration: Duration) -> int:
        return durations.multiple(name, duration, self.graph.interval)

    # --- outputs

    def for_each_batch(self, write: Write, *, name: str = "output", check: Write | None = None) -> None:
        """Run a function for each batch: an output. It is tried again until it succeeds.

            counts.for_each_batch(lambda frame, batch: print(batch.time, frame.collect()), name="counts")

        `check` is called at every start, with the empty frame and the last batch of the runs before (n = 0: there is
        none), so that it can refuse by a UsageError what could not be written later.

        Guarantee: at least once; exactly once if what it does for (batch.home_id, name, batch.n) is idempotent.

        >>> from sparkstream_kit.testing import run_batches
        >>> def write(frame, batch):
        ...     print(batch.n, batch.time.time(), frame.collect())
        >>> _ = run_batches(lambda lines: FrameStream.of(lines).for_each_batch(write), [[], ["a"]])
        1 00:00:02 [Row(value='a')]
        """
        add_named("outputs", self.graph.outputs, name, Output(self.compute, write, check))

    def for_each_rdd(self, write: Callable[[RDD[Row]], object], *, name: str = "output") -> None:
        """Run a function of an RDD of rows for each batch, as foreachRDD does. Guarantee: at least once.

        >>> from sparkstream_kit.testing import run_batches
        >>> _ = run_batches(lambda lines: FrameStream.of(lines).for_each_rdd(lambda rdd: print(rdd.first())), [["a"]])
        Row(value='a')
        """
        self.for_each_batch(lambda frame, _: write(frame.rdd), name=name)


def _by(keys: Columns) -> str:
    """The default name of a state: it follows from what is said, and not from the order of calls."""
    return f"by-{'-'.join(column_names(keys)) or 'nothing'}"


class StateStream(FrameStream):
    """A running state as a stream: in each batch the rows of all keys."""

    def __init__(self, graph: Graph, compute: Compute, expired: Compute):
        super().__init__(graph, compute, stateful=True)
        self._expired = expired

    def expired(self) -> FrameStream:
        """The rows of the keys that expired with the batch, as they were last.

        >>> from sparkstream_kit.testing import run_batches
        >>> def build(lines):
        ...     counts = FrameStream.of(lines).update_state_by_key("value", {"n": agg.count()}, expire_after="1s")
        ...     return counts.expired()
        >>> run_batches(build, [["a"], ["b"]])
        [[], [Row(value='a', n=1)]]
        """
        return FrameStream(self.graph, self._expired, stateful=True)
