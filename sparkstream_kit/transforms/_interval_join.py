"""Joins of two streams by key and event time: an order and its payments, a click and what was shown before it."""

from __future__ import annotations

import functools
import operator

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from .. import durations
from ..bridge.dataframes import unsupported_columns
from ..columns import Columns, check_added, column_names, named, other_columns, quoted
from ..durations import Duration
from ..engine.graph import BatchContext, Compute
from ..engine.merges import Merge
from ..engine.state import StateNode
from ..errors import UsageError
from ..frames import FrameStream
from ._watermarks import ClosedWindows, late_rows, watermark_of

STATE = (
    "__at",
    "__is_left",
    "__left",
    "__right",
    "__is_new",
    "__is_matched",
    "__meets",
    "__is_over",
    "__any",
    "__new",
    "__stretch",
    "__ages",
    "__age",
)
"""The columns of the state beside the keys, and those that it is computed with."""


class JoinedStreams(ClosedWindows):
    """Pairs of rows, each emitted once; its methods have the rows that are in no pair."""

    def __init__(self, source: FrameStream, pairs: Compute, late: Compute, other_late: Compute, *alone: Compute):
        super().__init__(source, pairs, late)
        self._other_late, self._alone = other_late, alone

    def other_late(self) -> FrameStream:
        """The rows of the other stream that are late, or not credible, or without a timestamp, as in `late`.

        >>> import sparkstream_kit as ss
        >>> from pyspark.sql import functions as F
        >>> from sparkstream_kit.testing import run_batches
        >>> def build(left, right):
        ...     clicks = ss.FrameStream.of(left, "k string, s int", name="clicks")
        ...     views = ss.FrameStream.of(right, "k string, t int", name="views")
        ...     at, seen = F.timestamp_seconds("s").alias("at"), F.timestamp_seconds("t").alias("seen")
        ...     clicks, views = clicks.select("k", "s", at), views.select("k", "t", seen)
        ...     times = {"timestamp": "at", "other_timestamp": "seen", "lateness": "1s"}
        ...     return ss.transforms.join_within(clicks, views, "k", "-5s", 0, **times).other_late().select("k", "t")
        >>> run_batches(build, [[("a", 9)], []], [[("a", 7)], [("a", 3)]])
        [[], [Row(k='a', t=3)]]

        Columns: those of the other stream.

        Cost: grows with the rows of the batch.
        """
        return FrameStream(self.graph, self._other_late, self)

    def unmatched(self) -> FrameStream:
        """The rows that found no partner, each in the batch in which that is final.

        That is when the watermark of the other stream has passed all that a row could be joined with. Together with the
        pairs they are a left outer join. A row with a null key is among them.

        >>> import sparkstream_kit as ss
        >>> from pyspark.sql import functions as F
        >>> from sparkstream_kit.testing import run_batches
        >>> def build(left, right):
        ...     clicks = ss.FrameStream.of(left, "k string, s int", name="clicks")
        ...     views = ss.FrameStream.of(right, "k string, t int", name="views")
        ...     at, seen = F.timestamp_seconds("s").alias("at"), F.timestamp_seconds("t").alias("seen")
        ...     clicks, views = clicks.select("k", "s", at), views.select("k", "t", seen)
        ...     times = {"timestamp": "at", "other_timestamp": "seen", "lateness": "1s"}
        ...     return ss.transforms.join_within(clicks, views, "k", "-5s", 0, **times).unmatched().select("k", "s")
        >>> run_batches(build, [[("a", 9), ("b", 9)], []], [[("a", 7)], [("c", 20)]])
        [[], [Row(k='b', s=9)]]

        Columns: those of the stream.

        Cost: grows with the rows that wait for a partner.
        """
        return FrameStream(self.graph, self._alone[0], self)

    def other_unmatched(self) -> FrameStream:
        """The rows of the other stream that found no partner, as in `unmatched`.

        >>> import sparkstream_kit as ss
        >>> from pyspark.sql import functions as F
        >>> from sparkstream_kit.testing import run_batches
        >>> def build(left, right):
        ...     clicks = ss.FrameStream.of(left, "k string, s int", name="clicks")
        ...     views = ss.FrameStream.of(right, "k string, t int", name="views")
        ...     at, seen = F.timestamp_seconds("s").alias("at"), F.timestamp_seconds("t").alias("seen")
        ...     clicks, views = clicks.select("k", "s", at), views.select("k", "t", seen)
        ...     times = {"timestamp": "at", "other_timestamp": "seen", "lateness": "1s"}
        ...     joined = ss.transforms.join_within(clicks, views, "k", "-5s", 0, **times)
        ...     return joined.other_unmatched().select("k", "t")
        >>> run_batches(build, [[("a", 9)], [("a", 20)]], [[("a", 7), ("b", 7)], []])
        [[], [Row(k='b', t=7)]]

        Columns: those of the other stream.

        Cost: grows with the rows that wait for a partner.
        """
        return FrameStream(self.graph, self._alone[1], self)


def join_within(
    stream: FrameStream,
    other: FrameStream,
    keys: Columns,
    lower: Duration,
    upper: Duration,
    *,
    timestamp: str,
    other_timestamp: str,
    lateness: Duration = "1min",
    name: str = "join",
) -> JoinedStreams:
    """Join rows of two streams with equal keys whose timestamps are `lower` to `upper` apart, across batches.

        paid = ss.transforms.join_within(
            orders, payments, "order_id", "-5min", "10min", timestamp="ordered_at", other_timestamp="paid_at"
        )

    >>> import sparkstream_kit as ss
    >>> from pyspark.sql import functions as F
    >>> from sparkstream_kit.testing import run_batches
    >>> def build(left, right):
    ...     orders = ss.FrameStream.of(left, "id string, s int", name="orders")
    ...     payments = ss.FrameStream.of(right, "id string, t int", name="payments")
    ...     orders = orders.select("id", "s", F.timestamp_seconds("s").alias("ordered_at"))
    ...     payments = payments.select("id", "t", F.timestamp_seconds("t").alias("paid_at"))
    ...     times = {"timestamp": "ordered_at", "other_timestamp": "paid_at"}
    ...     return ss.transforms.join_within(orders, payments, "id", "-5s", "10s", **times).select("id", "s", "t")
    >>> run_batches(build, [[("a", 10), ("b", 10)]], [[("b", 4)], [("a", 20)]])
    [[], [Row(id='a', s=10, t=20)]]

    Two rows are a pair if `timestamp + lower <= other_timestamp <= timestamp + upper`, as in Flink's interval join.
    Either bound may be negative or zero. A pair comes once, in the batch in which the later of its rows arrives; two
    equal rows are in two pairs. A null key equals no other. Without keys (`[]`) the timestamps alone decide.
    Columns: the keys, the others of the stream, the others of the other stream.

    Each stream has a watermark of its own, as that of `event_time_window`. Its late rows, those without a timestamp,
    and those far ahead of the clock are in `late()` and `other_late()` of the result, and in no pair. Of all other rows
    the pairs are those of one batch computation, in whatever order they arrive, across restarts; those without a
    partner are in `unmatched()` and `other_unmatched()`. A row is kept until the watermark of the opposite stream has
    passed all that it could be joined with, so while one stream is silent the rows of the opposite one pile up.

    Raises UsageError for an invalid duration, for `lower` above `upper`, for a key that has two types or is named like
    a column of the state, for a column that both streams have beside the keys, for one that no state can hold, such as
    a calendar interval, and at the start for a column that is not a timestamp.

    Wider bounds than in the run before hold for what comes from then on: what the narrower ones gave up is gone. The
    state has whole rows: select what the pairs need.

    Cost: grows with the pairs, the rows of the batch and those that wait for a partner, which each batch sorts.
    """
    low, high = (1000 * durations.offset_milliseconds(d) for d in (lower, upper))
    if low > high:
        raise UsageError(f"got lower={lower!r} and upper={upper!r}, expected lower <= upper: exchange them")
    wait, names = 1000 * durations.milliseconds(lateness), column_names(keys)
    check_added(names, *STATE)
    left, right = stream.cache(), other.cache()
    columns = _columns(left, right, names)
    is_left, is_new, at = F.col("__is_left"), F.col("__is_new"), F.col("__at")

    def both(ctx: BatchContext) -> DataFrame | None:
        """The rows of both sides; one may skip a batch in which the other has rows."""
        asked = [ctx.is_dry_run or ctx.reaches(side) for side in (left, right)]  # as their watermarks are
        ours, theirs = (
            ctx.frame(side.compute) if ask else None for side, ask in zip((left, right), asked, strict=True)
        )
        if ours is None and theirs is None:
            return None
        ours = left.graph.empty(left.compute) if ours is None else ours
        theirs = left.graph.empty(right.compute) if theirs is None else theirs
        rows = _tagged(ours, names, timestamp, is_left=True)
        return rows.unionByName(_tagged(theirs, names, other_timestamp, is_left=False), allowMissingColumns=True)

    def meet(rows: DataFrame) -> DataFrame:
        """Which rows have a partner by now, and which have one that makes a pair of this batch."""
        in_order = Window.partitionBy(*named(names)).orderBy("__at")

        def last(which: Column, until: int) -> Column:
            return F.max(F.when(which, at)).over(in_order.rangeBetween(Window.unboundedPreceding, until))

        def has(partners: Column) -> Column:
            """Whether the last of these that is not beyond reach is within it."""
            ours, theirs = last(~is_left & partners, high) >= at + low, last(is_left & partners, -low) >= at - high
            found = F.coalesce(F.when(is_left, ours).otherwise(theirs), F.lit(False))
            return functools.reduce(operator.and_, (key.isNotNull() for key in named(names)), found)

        rows = rows.withColumns({"__any": has(F.lit(True)), "__new": has(is_new)})
        flags = {
            "__is_matched": F.col("__is_matched") | F.col("__any"),
            "__meets": F.when(is_new, F.col("__any")).otherwise(F.col("__new")),
        }
        return rows.withColumns(flags).drop("__any", "__new")

    # A row of the state is a row of either side, with flags: whether it is of this batch, ever had a partner, is in a
    # pair of this batch, and can find no partner any more.
    def advance(state: DataFrame, new: DataFrame, ctx: BatchContext) -> DataFrame:
        marks, other_marks = watermark(ctx), other_watermark(ctx)
        on_time = F.when(is_left, marks.is_on_time(at)).otherwise(other_marks.is_on_time(at))
        fresh = new.filter(on_time).withColumns({"__is_new": F.lit(True), "__is_matched": F.lit(False)})
        over = F.when(is_left, at + high < other_marks.after).otherwise(at - low < marks.after)
        return met([state.drop("__meets", "__is_over"), fresh]).withColumn("__is_over", over)

    def empty(new: DataFrame, _: int) -> DataFrame:
        return new.withColumns(_unset("__is_new", "__is_matched", "__meets", "__is_over")).limit(0)

    def retain(rows: DataFrame, _: int) -> DataFrame:
        return rows.filter("not __is_over").withColumns(_unset("__is_new", "__meets"))

    rows, met = FrameStream(left.graph, both, left, right).cache(), Merge(names, meet)
    node = StateNode(rows, name, keys, empty, advance, retain)
    watermark = watermark_of(_times(left, timestamp), wait, f"{name}-watermark")
    other_watermark = watermark_of(_times(right, other_timestamp), wait, f"{name}-other-watermark")

    def pairs(ctx: BatchContext) -> DataFrame:
        return _pairs(node.at(ctx).filter("__meets"), names, low, high).select(*columns)

    def alone(side: str, which: str) -> Compute:
        return lambda ctx: node.at(ctx).filter(f"{which} and __is_over and not __is_matched").select(f"{side}.*")

    return JoinedStreams(
        rows,
        pairs,
        late_rows(left, timestamp, watermark),
        late_rows(right, other_timestamp, other_watermark),
        alone("__left", "__is_left"),
        alone("__right", "not __is_left"),
    )


def _columns(stream: FrameStream, other: FrameStream, names: list[str]) -> list[Column]:
    """The columns of a pair; UsageError if those of the streams do not fit each other, or no state."""
    left, right = (side.graph.empty(side.compute) for side in (stream, other))
    if wrong := unsupported_columns(left, "parquet") + unsupported_columns(right, "parquet"):
        raise UsageError(f"got the column {wrong[0]}, which no state can hold: cast or drop it before the join")
    types = [{field.name.lower(): field.dataType.simpleString() for field in frame.schema} for frame in (left, right)]
    for key in names:
        ours, theirs = (of.get(key.lower(), "no column") for of in types)
        if ours != theirs:
            raise UsageError(f"got the key {key} as {ours} and {theirs}, expected one type in both streams")
    mine, others = (other_columns(frame, *names) for frame in (left, right))
    known = {column.lower() for column in mine}
    for column in others:
        if column.lower() in known:
            raise UsageError(f"both streams have a column {column}: rename it in one of them before the join")
    keys = [F.col(f"__left.{quoted(key)}").alias(key) for key in names]
    return keys + [F.col(f"__left.{column}") for column in mine] + [F.col(f"__right.{column}") for column in others]


def _tagged(frame: DataFrame, names: list[str], timestamp: str, *, is_left: bool) -> DataFrame:
    """The rows of one side that have a timestamp. Columns: the keys, __at: bigint, __is_left, and the row itself."""
    keys = (F.col(quoted(key)).alias(key) for key in names)
    row = F.struct("*").alias("__left" if is_left else "__right")
    rows = frame.select(*keys, F.unix_micros(timestamp).alias("__at"), F.lit(is_left).alias("__is_left"), row)
    return rows.filter("__at is not null")


def _times(side: FrameStream, timestamp: str) -> FrameStream:
    return side.transform(lambda frame: frame.select(F.unix_micros(timestamp).alias("__at")).filter("__at is not null"))


def _unset(*flags: str) -> dict[str, Column]:
    return dict.fromkeys(flags, F.lit(False))


def _pairs(rows: DataFrame, names: list[str], low: int, high: int) -> DataFrame:
    """The pairs of which a row is new. Columns: __left, __right.

    They are joined by key, by stretch of time, as long as what a row reaches, so that it reaches into two at most, and
    by age: a new row of the left meets all of the right; an old one only the new ones, which are there under both ages.
    """
    length, at, is_new = high - low + 1, F.col("__at"), F.col("__is_new")

    def start(time: Column) -> Column:
        return time - F.pmod(time, F.lit(length))

    def side(which: str, row: str, stretches: Column, ages: Column) -> DataFrame:
        placed = rows.filter(which).select("*", F.explode(stretches).alias("__stretch"), ages.alias("__ages"))
        by = F.struct(*named(names), "__stretch", "__age").alias("__by")
        return placed.withColumn("__age", F.explode("__ages")).select(by, at.alias(f"{row}_at"), row)

    new, old = F.lit(0), F.lit(1)
    reached = F.sequence(start(at + low), start(at + high), F.lit(length))
    left = side("__is_left", "__left", reached, F.when(is_new, F.array(new)).otherwise(F.array(old)))
    right = side(
        "not __is_left", "__right", F.array(start(at)), F.when(is_new, F.array(new, old)).otherwise(F.array(new))
    )
    apart = F.col("__right_at") - F.col("__left_at")
    return left.join(right, "__by").filter(apart.between(low, high)).select("__left", "__right")
