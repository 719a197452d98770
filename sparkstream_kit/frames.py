"""FrameStream: a DStream whose batches are DataFrames.

Every operation is a node of the job's graph: a function from a batch context to a DataFrame. What windows and states do
is in `engine`. `each_frame` brings DataFrames to a bare DStream without any of this.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from datetime import datetime
from math import inf
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from pyspark import RDD
from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, StructType
from pyspark.streaming import DStream, StreamingContext

from . import aggregates as agg
from . import durations, workers
from .aggregates import Aggregates
from .columns import Columns, cast_like, check_added, column_names, named, other_columns, schema_of
from .contracts import Batch, Rewind, Source, Write
from .durations import Duration
from .engine import chains
from .engine.graph import BatchContext, Compute, Graph, Output, Slide, add_named, graph_of
from .engine.merges import Merge, together
from .engine.state import StateNode, as_saved, batch_literal, expiring, not_after
from .engine.windows import AggregatedWindow, Window
from .errors import InputLost, UsageError
from .recovery import landing

P = ParamSpec("P")
R = TypeVar("R")

JoinType = Literal["inner", "cross", "full", "left", "right", "semi", "anti"]


def _takes_time(function: Callable[..., DataFrame]) -> bool:
    """Whether a function must be given two arguments."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # of a builtin
        return False
    needed = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(needed) == 2


def _empty_frame(session: SparkSession, schema: StructType | str) -> DataFrame:
    """An empty DataFrame that the JVM creates itself: createDataFrame would start Python workers."""
    return session.range(0).select(*(F.lit(None).cast(f.dataType).alias(f.name) for f in schema_of(schema)))


class FrameStream:
    """A stream of DataFrames, one for each batch. Sources and `of` create one; its methods derive others.

    DStream's own operations are methods, under their DStream names in snake_case (`map` is `select`, `transformWith` is
    `sql`). Everything else, in `transforms` and in your own code, is a function that takes the stream first;
    `stream.pipe(function, ...)` lets a chain of them read from left to right.

    >>> import sparkstream_kit as ss
    >>> from pyspark.sql import functions as F
    >>> from sparkstream_kit.testing import run_batches
    >>> def build(lines):
    ...     words = ss.FrameStream.of(lines).flat_map(F.split("value", " "), "word")
    ...     return words.filter("word != 'a'").select(F.upper("word").alias("word")).count_by_value()
    >>> run_batches(build, [["a bb", "bb"], ["cc"]])
    [[Row(word='BB', count=2)], [Row(word='CC', count=1)]]

    When no source has new data, no batch is recorded and a FrameStream yields nothing, where a DStream yields an empty
    RDD. When only some sources have new data, the streams of the others yield an empty DataFrame. Windows and states
    see a stream in the batches in which one of its sources has data, and for as long as windows or states below it have
    rows: a row that stands for no data, such as a count of 0, is not among theirs.

    To write an operation of your own from scratch: `compute` returns the DataFrame of a batch context, or None if the
    stream skips that batch; `parents` are the streams that it is computed from. `stateful` marks what is derived from a
    state, which is only known for the newest batch. `look_back` is how long after new data it still has rows, in ms.
    """

    def __init__(
        self, graph: Graph, compute: Compute, *parents: FrameStream, stateful: bool = False, look_back: float = 0
    ):
        self.graph = graph
        self.compute = compute
        self.stateful: bool = stateful or any(parent.stateful for parent in parents)
        self.look_back: float = look_back + max((parent.look_back for parent in parents), default=0)
        self.rejects = False
        """Whether its rows are lines that a parser rejected, so that an output of them is counted as such."""
        read = [parent.sources for parent in parents]
        known = [names for names in read if names is not None]
        self.sources: frozenset[str] | None = frozenset().union(*known) if read and known == read else None

    @classmethod
    def of(cls, dstream: DStream[Any], schema: StructType | str | None = None, *, name: str = "dstream") -> FrameStream:
        """The batches of a bare DStream. Text becomes the column value: string; anything else needs a schema.

        Each batch is first landed under the home, once for each batch time, and is replayable from then on. `name`
        identifies the stream after a restart: keep it. Raises UsageError if two streams have the same name.

        Guarantee: at least once until a batch has landed, as far as the DStream promises it (a receiver with a
        write-ahead log does); exactly once from then on.

        Cost: grows with the rows of the batch, which are written to disk once.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> run_batches(lambda numbers: ss.FrameStream.of(numbers, "n int").filter("n > 1"), [[(1,), (2,)]])
        [[Row(n=2)]]
        """
        graph = graph_of(dstream.context())
        add_named("received streams", graph.received, name, (dstream, schema))

        def directory() -> str:
            return graph.home / f"received/{name}"

        source = Source(
            latest_offset=lambda now: landing.latest_offset(directory()),
            read=lambda start, end: landing.read(graph.session, directory(), start, end),
            size=lambda start, end: landing.size(directory(), start, end),
            schema=schema or "value string",
            commit=lambda end: landing.prune(directory(), end, graph.settled, graph.log.epoch),
            bounded=False,
        )
        return cls.from_source(dstream.context(), name, source)

    @classmethod
    def from_source(cls, ssc: StreamingContext, name: str, source: Source) -> FrameStream:
        """The stream of a replayable source. Columns: those of its schema.

        `name` is the key of the source in the offset log: keep it across restarts. Raises UsageError if two sources
        have the same name.

        Cost: grows with the rows that the source reads for the batch.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> spark = ss.testing.local_session()
        >>> two_per_second = ss.Source(
        ...     latest_offset=lambda now: 10 if now is None else now // 500,
        ...     read=lambda start, end: spark.range(start or 0, end),
        ...     schema="id bigint",
        ... )
        >>> def build(lines):
        ...     return ss.FrameStream.from_source(lines.context(), "numbers", two_per_second)
        >>> run_batches(build, [[], []])
        [[Row(id=0), Row(id=1)], [Row(id=2), Row(id=3)]]
        """
        graph = graph_of(ssc)
        add_named("sources", graph.sources, name, source)
        nothing = _empty_frame(graph.session, source.schema)

        def compute(ctx: BatchContext) -> DataFrame:
            start, end = ctx.entry.ranges.get(name, (None, None))
            if start == end or ctx.entry.n in graph.log.skipped:
                return nothing
            try:
                return source.read(start, end)
            except InputLost as lost:
                raise InputLost(f"batch {ctx.entry.n} cannot be read: {lost}; {graph.why_needed(ctx.entry)}") from None

        stream = cls(graph, compute)
        stream.sources = frozenset([name])
        return stream

    # --- each batch on its own

    def transform(
        self, function: Callable[[DataFrame], DataFrame] | Callable[[datetime, DataFrame], DataFrame]
    ) -> FrameStream:
        """Apply a function from DataFrame to DataFrame to each batch. As DStream's, it is called for every batch.

        The kit's own, such as `access_log.parse`, are called less often: their result depends on the rows alone.

        A function of two arguments gets the recorded time of the batch first, a datetime in UTC. Spark's
        `current_timestamp` and the like are refused at the start: they would change when a batch runs again.

        The function is also called once at each start, with an empty DataFrame. Raises UsageError if it returns
        anything but a DataFrame.

        Cost: grows with what the function does.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> def first(frame):
        ...     return frame.sort("value").limit(1)
        >>> run_batches(lambda lines: ss.FrameStream.of(lines).transform(first), [["b", "a"]])
        [[Row(value='a')]]

        >>> from pyspark.sql import functions as F
        >>> def stamped(time, frame):
        ...     return frame.select("value", F.unix_seconds(F.lit(time)).alias("at"))
        >>> run_batches(lambda lines: ss.FrameStream.of(lines).transform(stamped), [["a"], ["b"]])
        [[Row(value='a', at=1)], [Row(value='b', at=2)]]
        """
        call: Callable[..., DataFrame] = function
        if chains.is_same(call):
            return self._each(call)
        takes_time = _takes_time(call)

        def compute(ctx: BatchContext) -> DataFrame | None:
            frame = ctx.frame(self.compute)
            if frame is None:
                return None
            made = call(self.graph.time(ctx.entry), frame) if takes_time else call(frame)
            if not isinstance(made, DataFrame):
                raise UsageError(
                    f"the function {getattr(function, '__name__', function)!r} given to transform returned "
                    f"{type(made).__name__}, expected a DataFrame: return the transformed one"
                )
            return made

        return FrameStream(self.graph, compute, self)

    def _each(self, step: Callable[[DataFrame], DataFrame]) -> FrameStream:
        """Apply a step that is the same for every batch."""
        return FrameStream(self.graph, chains.after(self.compute, step), self)

    def pipe(self, function: Callable[Concatenate[FrameStream, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function with the stream first: `stream.pipe(f, x)` is `f(stream, x)`, but reads from left to right.

        Cost: grows with what the function does.

        >>> import sparkstream_kit as ss
        >>> from pyspark.sql import functions as F
        >>> from sparkstream_kit.testing import run_batches
        >>> def longest(stream, limit):
        ...     return stream.transform(lambda frame: frame.orderBy(F.length("value").desc()).limit(limit))
        >>> run_batches(lambda lines: ss.FrameStream.of(lines).pipe(longest, limit=1), [["a", "bb"]])
        [[Row(value='bb')]]
        """
        return function(self, *args, **kwargs)

    def filter(self, condition: Column | str) -> FrameStream:
        """Keep the rows for which a condition holds: `requests.filter("status >= 500")`.

        Cost: grows with the rows of the batch.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> run_batches(lambda lines: ss.FrameStream.of(lines).filter("value != 'a'"), [["a", "b"]])
        [[Row(value='b')]]
        """
        return self._each(lambda frame: frame.filter(condition))

    def select(self, *columns: Column | str) -> FrameStream:
        """Select columns or expressions, as DStream's map does: `requests.select("path", F.col("bytes") / 1024)`.

        Cost: grows with the rows of the batch.

        >>> import sparkstream_kit as ss
        >>> from pyspark.sql import functions as F
        >>> from sparkstream_kit.testing import run_batches
        >>> run_batches(lambda lines: ss.FrameStream.of(lines).select("value", F.upper("value").alias("loud")), [["a"]])
        [[Row(value='a', loud='A')]]
        """
        return self._each(lambda frame: frame.select(*columns))

    def flat_map(self, values: Column, name: str) -> FrameStream:
        """One row for each element of an array, as DStream's flatMap. Column: `name`, of the type of the elements.

        Cost: grows with the rows that come out.

        >>> import sparkstream_kit as ss
        >>> from pyspark.sql import functions as F
        >>> from sparkstream_kit.testing import run_batches
        >>> run_batches(lambda lines: ss.FrameStream.of(lines).flat_map(F.split("value", " "), "word"), [["a b"]])
        [[Row(word='a'), Row(word='b')]]
        """
        return self._each(lambda frame: frame.select(F.explode(values).alias(name)))

    def map_python(self, function: Callable[[Row], Any], schema: StructType | str) -> FrameStream:
        """Apply a Python function to each row, for logic that cannot be written as a column expression.

        The function gets a Row and returns a tuple, Row or dict that fits `schema`, which is checked. It runs in Python
        workers, to which every row is sent and back; the other steps stay in the JVM. Rows go through Arrow, two to
        three times as fast, where Spark lets its own functions use it (spark.sql.execution.pythonUDF.arrow.enabled, the
        default since Spark 4.2, with PyArrow and pandas on driver and executors) and all columns are strings, integers,
        floats, booleans, dates or timestamps. The rows are the same, except that a value for a column of strings
        must be a str, int, bool or None.

        Cost: grows with the rows of the batch, each of which goes to Python and back.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> def build(lines):
        ...     return ss.FrameStream.of(lines).map_python(lambda row: (row.value[::-1],), "reversed string")
        >>> run_batches(build, [["ab"]])
        [[Row(reversed='ba')]]
        """
        return self.transform(lambda frame: workers.map_rows(frame, function, schema))

    def sql(self, query: str, **others: FrameStream) -> FrameStream:
        """Run a SQL query on each batch, which is the table `batch`; each other stream is a table named by its keyword.

        If one of the streams skips a batch, so does the result.

        Cost: grows with what the query does.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> def build(left, right):
        ...     others = ss.FrameStream.of(right, name="others")
        ...     query = "select value from batch except select value from other"
        ...     return ss.FrameStream.of(left).sql(query, other=others)
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
        """Repartition each batch, hashed by `columns` if given.

        Cost: grows with the rows of the batch, which are shuffled.

        >>> import sparkstream_kit as ss
        >>> from pyspark.sql import functions as F
        >>> from sparkstream_kit.testing import run_batches
        >>> def build(lines):
        ...     return ss.FrameStream.of(lines).repartition(9, "value").select(F.spark_partition_id()).count_by_value()
        >>> [[counted]] = run_batches(build, [["a", "a"]])
        >>> counted["count"]
        2
        """
        return self.transform(lambda frame: frame.repartition(partitions, *columns))

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in order.

        Cost: grows with the steps that lead to this stream, which run once on empty DataFrames.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> _ = run_batches(lambda lines: print(ss.FrameStream.of(lines).columns), [["a"]])
        ['value']
        """
        return self.graph.empty(self.compute).columns

    def count(self) -> FrameStream:
        """Count the rows of each batch. Column: count: bigint.

        Cost: grows with the rows of the batch.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> run_batches(lambda lines: ss.FrameStream.of(lines).count(), [["a", "b"]])
        [[Row(count=2)]]
        """
        return self.reduce_by_key([], {"count": agg.count()})

    def reduce_by_key(self, keys: Columns, aggregates: Aggregates) -> FrameStream:
        """Aggregate each batch by key. Columns: the keys, then one for each aggregate.

            requests.reduce_by_key("status", {"hits": ss.aggregates.count(), "bytes": ss.aggregates.sum("bytes")})

        Without keys (`[]`) there is one row, also for an empty batch.

        Cost: grows with the rows of the batch.

        >>> import sparkstream_kit as ss
        >>> from pyspark.sql import functions as F
        >>> from sparkstream_kit.testing import run_batches
        >>> def build(lines):
        ...     sizes = ss.FrameStream.of(lines).select("value", F.length("value").alias("size"))
        ...     return sizes.reduce_by_key("size", {"n": ss.aggregates.count(), "last": ss.aggregates.max("value")})
        >>> run_batches(build, [["aa", "bb"]])
        [[Row(size=2, n=2, last='bb')]]
        """
        return self._each(lambda frame: agg.aggregate(frame, keys, aggregates))

    def count_by_value(self) -> FrameStream:
        """Count equal rows in each batch. Columns: those of the stream, then count: bigint.

        Raises UsageError if the stream has a column count.

        Cost: grows with the rows of the batch.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> run_batches(lambda lines: ss.FrameStream.of(lines).count_by_value(), [["a", "a"]])
        [[Row(value='a', count=2)]]
        """
        return self.reduce_by_key(self._columns_but("count"), {"count": agg.count()})

    def group_by_key(self, keys: Columns) -> FrameStream:
        """Collect the rows of each key. Columns: the keys, then values: array of struct of the other columns.

        Raises UsageError for a key named values.

        Cost: grows with the rows of the batch; those of one key must fit into the memory of an executor.

        >>> import sparkstream_kit as ss
        >>> from pyspark.sql import functions as F
        >>> from sparkstream_kit.testing import run_batches
        >>> def build(lines):
        ...     return ss.FrameStream.of(lines).select("value", F.length("value").alias("size")).group_by_key("size")
        >>> run_batches(build, [["aa"]])
        [[Row(size=2, values=[Row(value='aa')])]]
        """
        names = column_names(keys)
        check_added(names, "values")

        def compute(frame: DataFrame) -> DataFrame:
            rest = F.struct(*other_columns(frame, *names))
            return frame.groupBy(*named(names)).agg(F.collect_list(rest).alias("values"))

        return self._each(compute)

    def cache(self) -> FrameStream:
        """Keep each batch in memory while its outputs run, for a stream that several of them use.

        All of them see the same rows, also if a step before draws by chance, as `uuid()` does, and while an output is
        retried; a batch that runs again after a restart, or after an executor was lost, draws again.

        Cost: grows with the rows of the batch.

        >>> import sparkstream_kit as ss
        >>> from pyspark.sql import functions as F
        >>> from sparkstream_kit.testing import run_batches
        >>> def build(lines):
        ...     words = ss.FrameStream.of(lines).flat_map(F.split("value", " "), "word").cache()
        ...     return words.count(), words.filter("word > 'a'")
        >>> run_batches(build, [["a b"]])
        ([[Row(count=2)]], [[Row(word='b')]])
        """

        def compute(ctx: BatchContext) -> DataFrame | None:
            frame = ctx.frame(self.compute)
            if frame is not None and not ctx.is_dry_run:
                ctx.cached[compute] = frame.persist()
            return frame

        return FrameStream(self.graph, compute, self)

    # --- several streams

    def union(self, *others: FrameStream) -> FrameStream:
        """The rows of all streams, matched by column name. If one of them skips a batch, so does the union.

        Cost: grows with the rows of all streams.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> def build(a, b):
        ...     return ss.FrameStream.of(a, name="a").union(ss.FrameStream.of(b, name="b"))
        >>> run_batches(build, [["a"]], [["b"]])
        [[Row(value='a'), Row(value='b')]]
        """
        return self._with(others, lambda first, *rest: functools.reduce(DataFrame.unionByName, rest, first))

    def join(
        self, other: FrameStream | DataFrame, on: str | list[str] | Column | None = None, how: JoinType = "inner"
    ) -> FrameStream:
        """Join with the same batch of another stream, or with a static DataFrame; without `on`, a cross join.

        `on` and `how` mean what they mean in DataFrame.join. If one of the streams skips a batch, so does the result.

        Cost: grows with the rows of both sides.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> spark = ss.testing.local_session()
        >>> names = spark.createDataFrame([(200, "OK")], "status int, reason string")
        >>> def build(statuses):
        ...     return ss.FrameStream.of(statuses, "status int").join(names, "status", "left")
        >>> run_batches(build, [[(200,)], [(600,)]])
        [[Row(status=200, reason='OK')], [Row(status=600, reason=None)]]
        """
        if isinstance(other, DataFrame):
            return self.transform(lambda frame: frame.join(other, on, how))
        return self._with((other,), lambda left, right: left.join(right, on, how))

    def cogroup(self, other: FrameStream, keys: Columns) -> FrameStream:
        """Collect the rows of two streams by key. Columns: the keys, then left and right, each an array of struct.

        An array is empty if its stream has no row of that key. Raises UsageError for a key named left, right or values.

            orders.cogroup(payments, "order_id").filter("size(left) != size(right)")

        Cost: grows with the rows of both streams.

        >>> import sparkstream_kit as ss
        >>> from pyspark.sql import functions as F
        >>> from sparkstream_kit.testing import run_batches
        >>> def sized(lines, name):
        ...     return ss.FrameStream.of(lines, name=name).select("value", F.length("value").alias("size"))
        >>> run_batches(lambda a, b: sized(a, "a").cogroup(sized(b, "b"), "size"), [["a"]], [["b"]])
        [[Row(size=1, left=[Row(value='a')], right=[Row(value='b')])]]
        """
        check_added(column_names(keys), "left", "right", "values")
        left, right = self.group_by_key(keys), other.group_by_key(keys)

        def together(a: DataFrame, b: DataFrame) -> DataFrame:
            # not a join, for which null keys differ
            sides = [a.withColumnRenamed("values", "left"), b.withColumnRenamed("values", "right")]
            both = sides[0].unionByName(sides[1], allowMissingColumns=True)
            filled = (
                F.coalesce(F.first(side, ignorenulls=True), F.array().cast(both.schema[side].dataType)).alias(side)
                for side in ("left", "right")
            )
            return both.groupBy(*named(keys)).agg(*filled)

        return left._with((right,), together)

    def _with(self, others: tuple[FrameStream, ...], function: Callable[..., DataFrame]) -> FrameStream:
        streams = (self, *others)
        computes = [stream.compute for stream in streams]

        def compute(ctx: BatchContext) -> DataFrame | None:
            frames = [ctx.frame(c) for c in computes]
            return None if any(frame is None for frame in frames) else function(*frames)

        return FrameStream(self.graph, compute, *streams)

    # --- windows and state

    def window(self, window: Duration, slide: Duration | None = None) -> FrameStream:
        """All rows of the batches in (T - window, T] at every slide, where T is the recorded time.

        They are read from the source again; if you only need aggregates, `reduce_by_key_and_window` keeps those
        instead. Raises UsageError if window or slide is not a multiple of the batch interval, or if the stream is
        derived from a state, whose past cannot be rebuilt.

        Cost: grows with the rows of the window, which are read again.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> run_batches(lambda lines: ss.FrameStream.of(lines).window("2s"), [["a"], ["b"], []])
        [[Row(value='a')], [Row(value='a'), Row(value='b')], [Row(value='b')]]
        """
        node = Window(self, *self._window(window, slide))
        return self._windowed(node, lambda ctx: node.rows(ctx) if ctx.fires(node.slide) else None)

    def reduce_by_key_and_window(
        self, keys: Columns, aggregates: Aggregates, window: Duration, slide: Duration | None = None
    ) -> FrameStream:
        """Aggregate the batches in (T - window, T] by key at every slide. Columns: the keys, then the aggregates.

        A key without rows in the window has no row. Each batch is aggregated once and kept in that form. Counts, and
        sums and means of integers and decimals, can be subtracted: a slide adds the batches that entered the window and
        subtracts those that left, so it takes one pass over the keys, however long the window. With any other
        aggregate, all batches of the window are merged again. Without new data, windows keep sliding until they are
        empty. Raises the errors of `window`.

        Cost: grows with the keys of the window, and with its slides if any aggregate cannot be subtracted.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> def build(lines):
        ...     counts = {"n": ss.aggregates.count()}
        ...     return ss.FrameStream.of(lines).reduce_by_key_and_window("value", counts, "2s", "1s")
        >>> run_batches(build, [["a"], ["a"], [], []])
        [[Row(value='a', n=1)], [Row(value='a', n=2)], [Row(value='a', n=1)], []]
        """
        node = AggregatedWindow(self, *self._window(window, slide), keys=keys, aggregates=aggregates)
        return self._windowed(node, chains.after(node.merged, lambda frame: agg.result(frame, keys, aggregates)))

    def reduce_by_window(self, aggregates: Aggregates, window: Duration, slide: Duration | None = None) -> FrameStream:
        """Aggregate all rows of the batches in (T - window, T] at every slide, into one row. Columns: the aggregates.

        Raises the errors of `window`.

        Cost: grows with the rows of the batch, and with the slides of the window if any aggregate cannot be subtracted.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> def build(lines):
        ...     summary = {"n": ss.aggregates.count(), "last": ss.aggregates.max("value")}
        ...     return ss.FrameStream.of(lines).reduce_by_window(summary, "2s")
        >>> run_batches(build, [["b"], ["a"]])
        [[Row(n=1, last='b')], [Row(n=2, last='b')]]
        """
        return self.reduce_by_key_and_window([], aggregates, window, slide)

    def count_by_window(self, window: Duration, slide: Duration | None = None) -> FrameStream:
        """Count the rows of the batches in (T - window, T] at every slide. Column: count: bigint.

        Raises the errors of `window`.

        Cost: grows with the rows of the batch.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> run_batches(lambda lines: ss.FrameStream.of(lines).count_by_window("2s"), [["a", "b"], ["c"]])
        [[Row(count=2)], [Row(count=3)]]
        """
        return self.reduce_by_window({"count": agg.count()}, window, slide)

    def count_by_value_and_window(self, window: Duration, slide: Duration | None = None) -> FrameStream:
        """Count equal rows of the batches in (T - window, T] at every slide. Columns: the stream's, then count: bigint.

        Raises the errors of `window`, and UsageError if the stream has a column count.

        Cost: grows with the distinct rows of the window.

        A slide longer than the batch interval skips the batches in between:

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> run_batches(lambda lines: ss.FrameStream.of(lines).count_by_value_and_window("4s", "2s"), [["a"], ["a"]])
        [None, [Row(value='a', count=2)]]
        """
        return self.reduce_by_key_and_window(self._columns_but("count"), {"count": agg.count()}, window, slide)

    def update_state_by_key(
        self,
        keys: Columns,
        aggregates: Aggregates,
        *,
        expire_after: Duration | None = None,
        initial: DataFrame | None = None,
        name: str | None = None,
    ) -> StateStream:
        """Aggregate by key everything since the first batch; each batch returns all keys.

        Columns: the keys, then one for each aggregate. `name` identifies the saved state: keep it across restarts and
        changes of the job. Its default is made from the names of the keys. `initial` has rows like those of the stream,
        which count as if they had arrived just before the first batch; its columns are cast to the stream's types.

        `expire_after` drops a key in the first batch in which it has been idle this long; `expired()` of the result
        returns what was dropped. While no data arrives, expiry is checked ten times per `expire_after`. Raises
        UsageError if it is not a multiple of the batch interval, if two states have the same name, and at the start if
        a value of `initial` does not fit the stream's type.

        Cost: grows with the rows of the batch, which are shuffled, and with all keys, which are scanned.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> def build(lines):
        ...     rows = {"n": ss.aggregates.count()}
        ...     counts = ss.FrameStream.of(lines).update_state_by_key("value", rows, expire_after="2s")
        ...     return counts, counts.expired()
        >>> counts, dropped = run_batches(build, [["a"], ["a"], [], []])
        >>> counts
        [[Row(value='a', n=1)], [Row(value='a', n=2)], [Row(value='a', n=2)], []]
        >>> dropped
        [[], [], [], [Row(value='a', n=2)]]
        """
        span = None if expire_after is None else self._multiple("expire_after", expire_after)
        parts = expiring(aggregates) if span else aggregates
        if span:
            check_added([*column_names(keys), *aggregates], "__seen", "__time")

        merge = Merge(keys, lambda rows: agg.merge(rows, keys, parts))

        @functools.cache  # reads `initial` to check it
        def fitting() -> DataFrame | None:
            return None if initial is None else cast_like(initial, self.graph.empty(self.compute), "initial")

        def partial(frame: DataFrame, time: int) -> DataFrame:
            return agg.partial(self._timed(frame, time, span), keys, parts)

        def empty(_: DataFrame, time: int) -> DataFrame:
            before = fitting()
            return partial(self.graph.empty(self.compute) if before is None else before, time)

        def advance(before: DataFrame, new: DataFrame, ctx: BatchContext) -> DataFrame:
            fresh = new if span is None else partial(new, ctx.entry.time)
            if span is not None:  # keys that were saved before anything could expire
                seen = F.coalesce("__seen", batch_literal(ctx.before).cast("bigint"))
                before = before.withColumn("__seen", seen)
            return merge([before, fresh])

        def retain(rows: DataFrame, time: int) -> DataFrame:
            return rows if span is None else rows.filter(~_idle(time - span))

        def expired(ctx: BatchContext) -> DataFrame:
            gone = F.lit(False) if span is None else _idle(ctx.entry.time - span)
            return agg.result(node.at(ctx).filter(gone), keys, aggregates)

        # without times the partial aggregates of every batch are the same function of its rows
        source = self if span else self._each(lambda frame: agg.partial(frame, keys, parts))
        about, loaded = agg.metadata(aggregates), as_saved if span is None else not_after("__seen")
        node = StateNode(source, name or _by(keys), keys, empty, advance, retain, about, loaded)
        look_back = inf
        if span is not None:
            step = max(self.graph.interval, span // 10 // self.graph.interval * self.graph.interval)
            look_back = span + step
            self.graph.slides.append(Slide(step, self.look_back + look_back))

        retained = self._unless_skipped(node.retained)
        rows = chains.after(retained, lambda frame: agg.result(frame, keys, aggregates))
        return StateStream(self, rows, expired, look_back)

    def update_state_by_key_python(
        self,
        keys: Columns,
        function: Callable[[list[Row], Row | None], Any],
        state: StructType | str,
        *,
        name: str | None = None,
    ) -> FrameStream:
        """Update a state by key in Python, as DStream's updateStateByKey does, for logic that no aggregate covers.

        Columns: the keys, then those of `state`. The function gets the new rows of a key, in any order and without the
        key, and the previous state or None. It returns a tuple, Row or dict that fits `state`, which is checked, or
        None to drop the key. It runs in Python workers, for every key in every batch that has data: general, but slow.
        Rows and states go through Arrow as in `map_python`, from Spark 4.1 on. `name` identifies the saved state, as in
        `update_state_by_key`. Raises UsageError if two states have the same name.

        Cost: grows with all keys, each of which goes to Python and back.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> def longest(rows, state):
        ...     return (max([row.word for row in rows] + [state.word if state else ""], key=len),)
        >>> def build(pairs):
        ...     words = ss.FrameStream.of(pairs, "k int, word string")
        ...     return words.update_state_by_key_python("k", longest, "word string")
        >>> run_batches(build, [[(1, "bb"), (1, "a")], [(1, "ccc")]])
        [[Row(k=1, word='bb')], [Row(k=1, word='ccc')]]
        """
        names = column_names(keys)
        kind = schema_of(state)

        @functools.cache  # its parts are pickled once
        def update(row: DataType) -> Callable[[str, str], Column]:
            return workers.state_update(self.graph.session, function, row, kind)

        def fresh(frame: DataFrame) -> DataFrame:
            rest = F.struct(*other_columns(frame, *names))
            rows = frame.groupBy(*named(names)).agg(F.collect_list(rest).alias("__rows"))
            return rows.withColumn("__state", F.lit(None).cast(kind))

        def empty(frame: DataFrame, time: int) -> DataFrame:
            return fresh(frame).select(*named(names), "__state")

        def advance(before: DataFrame, new: DataFrame, ctx: BatchContext) -> DataFrame:
            rows = fresh(new)
            several = rows.schema["__rows"].dataType
            assert isinstance(several, ArrayType)
            nothing = F.lit(None).cast(several).alias("__rows")
            both = together([before.select(*named(names), nothing, "__state"), rows], names).groupBy(*named(names))
            each = both.agg(*(F.first(column, ignorenulls=True).alias(column) for column in ("__rows", "__state")))
            updated = update(several.elementType)("__rows", "__state").alias("__state")
            return each.select(*named(names), updated).filter("__state is not null")

        node = StateNode(self, name or _by(keys), keys, empty, advance)
        rows = self._unless_skipped(lambda ctx: node.at(ctx).select(*named(names), "__state.*"))
        return FrameStream(self.graph, rows, self, stateful=True, look_back=inf)

    def _columns_but(self, added: str) -> list[str]:
        columns = self.columns
        check_added(columns, added)
        return columns

    def _unless_skipped(self, compute: Compute) -> Compute:
        """Skip the batches that this stream skips, as it does between two slides."""
        return lambda ctx: None if ctx.frame(self.compute) is None else compute(ctx)

    @staticmethod
    def _timed(frame: DataFrame, time: int, span: int | None) -> DataFrame:
        return frame if span is None else frame.withColumn("__time", batch_literal(time).cast("bigint"))

    def _windowed(self, node: Window, compute: Compute) -> FrameStream:
        return FrameStream(self.graph, compute, self, look_back=node.length)

    def _window(self, window: Duration, slide: Duration | None) -> tuple[int, int]:
        if self.stateful:
            raise UsageError(
                "a window over a state cannot be rebuilt after a restart: apply the window first, then the state"
            )
        length = self._multiple("window", window)
        return length, self.graph.interval if slide is None else self._multiple("slide", slide)

    def _multiple(self, name: str, duration: Duration) -> int:
        return durations.multiple(name, duration, self.graph.interval)

    # --- outputs

    def for_each_batch(
        self,
        write: Write,
        *,
        name: str = "output",
        check: Write | None = None,
        replaces: bool | Callable[[Batch], bool] = False,
        rewind: Rewind | None = None,
    ) -> None:
        """Call a function with each batch, as an output. It is retried until it succeeds, up to a deadline.

            counts.for_each_batch(lambda frame, batch: print(batch.time, frame.collect()), name="counts")

        `name` identifies the output: keep it across restarts. `check` is called at each start, with an empty DataFrame
        and the last batch of earlier runs (n = 0 if there is none), so that it can refuse with a UsageError what could
        not be written later. Raises UsageError if two outputs have the same name.

        An operator can have batches run again (`sparkstream rewind`). `replaces` says that `write` then replaces what
        is there of a batch, as it must if `batch.again` is true; a function instead of True says whether there is
        something of a batch, which is then replaced by no rows where the stream has no frame any more. For an output
        without `replaces` the operator has to accept that its batches are written once more. `rewind` is called before,
        with the last batch that stays and the number of the last one that runs again: an output that replaces can
        refuse, any other can forget which batches it has written. With `batch.backfill` (`sparkstream backfill`) the
        batches after these stay, too, and `rewind` is called only for an output that replaces.

        Guarantee: at least once; exactly once if what it does is idempotent for (batch.home_id, name, batch.n).

        Cost: grows with what the function does.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> def write(frame, batch):
        ...     print(batch.n, batch.time.time(), frame.collect())
        >>> _ = run_batches(lambda lines: ss.FrameStream.of(lines).for_each_batch(write), [[], ["a"]])
        1 00:00:02 [Row(value='a')]
        """
        has = None if isinstance(replaces, bool) else replaces
        output = Output(
            self.compute, write, check, rejects=self.rejects, replaces=replaces is not False, has=has, rewind=rewind
        )
        add_named("outputs", self.graph.outputs, name, output)

    def for_each_rdd(self, write: Callable[[RDD[Row]], object], *, name: str = "output") -> None:
        """Call a function with the RDD of rows of each batch, as foreachRDD does. Guarantee: at least once.

        It is an output like that of `for_each_batch`, and retried like it.

        Cost: grows with what the function does.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> def build(lines):
        ...     ss.FrameStream.of(lines).for_each_rdd(lambda rdd: print(rdd.first()))
        >>> _ = run_batches(build, [["a"]])
        Row(value='a')
        """
        self.for_each_batch(lambda frame, _: write(frame.rdd), name=name)


def _idle(since: int) -> Column:
    """Whether a key has had no rows since that time; what is not known yet is false."""
    return F.coalesce(F.col("__seen") <= batch_literal(since), F.lit(False))


def _by(keys: Columns) -> str:
    """The default name of a state: it follows from its keys, not from the order of calls."""
    return f"by-{'-'.join(column_names(keys)) or 'nothing'}"


class StateStream(FrameStream):
    """A state as a stream: each batch has the rows of all keys."""

    def __init__(self, source: FrameStream, compute: Compute, expired: Compute, look_back: float):
        super().__init__(source.graph, compute, source, stateful=True, look_back=look_back)
        self._expired = expired

    def expired(self) -> FrameStream:
        """The keys that expired in this batch, with their last aggregates. Columns: those of the state.

        Cost: grows with the keys of the state.

        >>> import sparkstream_kit as ss
        >>> from sparkstream_kit.testing import run_batches
        >>> def build(lines):
        ...     rows = {"n": ss.aggregates.count()}
        ...     counts = ss.FrameStream.of(lines).update_state_by_key("value", rows, expire_after="1s")
        ...     return counts.expired()
        >>> run_batches(build, [["a"], ["b"]])
        [[], [Row(value='a', n=1)]]
        """
        return FrameStream(self.graph, self._expired, self)
