"""Watermarks: how far event time has advanced, for operations that emit only final results.

The watermark is the largest timestamp seen so far minus a lateness, taken at the end of each batch. Rows older than the
watermark before their batch, and rows without a timestamp, are late and dropped; what is older than the watermark after
the batch is final. Only data moves the watermark: an idle stream closes nothing, and a timestamp far in the future
closes everything, so filter out impossible ones.
"""

from __future__ import annotations

from collections.abc import Callable

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from .. import aggregates as agg
from ..aggregates import Aggregates
from ..columns import Columns, column_names
from ..engine.graph import BatchContext, Compute
from ..engine.state import StateNode, batch_literal
from ..frames import FrameStream

Watermark = Callable[[BatchContext], tuple[Column, Column]]
"""The watermark before and after a batch, in microseconds since 1970."""

NEVER = -(2**62)


class ClosedWindows(FrameStream):
    """Final rows, each emitted once; `late()` has the rows that came too late to count."""

    def __init__(self, source: FrameStream, compute: Compute, late: Compute):
        super().__init__(source.graph, compute, source, stateful=True)
        self._late = late

    def late(self) -> FrameStream:
        """The late rows: older than the watermark before their batch, or without a timestamp.

        >>> import sparkstream_kit as ss
        >>> from pyspark.sql import functions as F
        >>> from sparkstream_kit.testing import run_batches
        >>> def build(clicks):
        ...     timed = ss.FrameStream.of(clicks, "s int").select("s", F.timestamp_seconds("s").alias("at"))
        ...     hits = {"hits": ss.aggregates.count()}
        ...     closed = ss.transforms.event_time_window(timed, [], "at", hits, "1min", lateness="10s")
        ...     return closed.late().select("s")
        >>> run_batches(build, [[(70,)], [(59,), (60,)]])
        [[], [Row(s=59)]]

        Columns: those of the stream.

        Cost: grows with the rows of the batch.
        """
        return FrameStream(self.graph, self._late, self)


def parts_at(stream: FrameStream, keys: Columns, timestamp: str, aggregates: Aggregates) -> FrameStream:
    """Partial aggregates for each key and timestamp, computed once per batch. Columns: keys, __at: bigint, parts."""

    def compute(frame: DataFrame) -> DataFrame:
        timed = frame.withColumn("__at", F.unix_micros(timestamp)).filter(F.col("__at").isNotNull())
        return agg.partial(timed, [*column_names(keys), "__at"], aggregates)

    return stream.transform(compute).cache()


def watermark_of(parts: FrameStream, lateness: int, name: str) -> Watermark:
    """The watermark of a stream with the column __at: a state of one row. The lateness is in microseconds."""
    both = {"before": agg.max("before"), "after": agg.max("after")}

    def row(frame: DataFrame, before: Column, after: Column) -> DataFrame:
        return agg.merge(frame.select(before.alias("before"), after.alias("after")), [], both)

    def empty(new: DataFrame, _: int) -> DataFrame:
        return row(new, F.lit(None).cast("bigint"), F.lit(None).cast("bigint"))

    def advance(state: DataFrame, new: DataFrame, _: BatchContext) -> DataFrame:
        nothing = F.lit(None).cast("bigint")
        was = state.select(F.col("after").alias("before"), "after")
        return row(was.union(new.select(nothing, F.col("__at") - lateness)), F.col("before"), F.col("after"))

    node = StateNode(parts, name, [], empty, advance)
    known: dict[int, list[int | None]] = {}

    def watermark(ctx: BatchContext) -> tuple[Column, Column]:
        if ctx.entry.n not in known:
            known.clear()
            known[ctx.entry.n] = [None, None] if ctx.is_dry_run else list(node.at(ctx).collect()[0])
        before, after = (batch_literal(NEVER if mark is None else mark) for mark in known[ctx.entry.n])
        return before, after

    return watermark


def late_rows(stream: FrameStream, timestamp: str, watermark: Watermark) -> Compute:
    """The rows that are older than the watermark before their batch, or have no timestamp. Columns: the stream's."""

    def compute(ctx: BatchContext) -> DataFrame | None:
        frame = ctx.frame(stream.compute)
        if frame is None:
            return None
        at = F.unix_micros(timestamp)
        return frame.filter(at.isNull() | (at < watermark(ctx)[0]))

    return compute


def final_rows(rows: DataFrame, keys: Columns, aggregates: Aggregates, start: Column, end: Column) -> DataFrame:
    """Columns: the keys, start and end: timestamp (from microseconds), then one for each aggregate."""
    timed = rows.withColumn("start", F.timestamp_micros(start)).withColumn("end", F.timestamp_micros(end))
    return agg.result(timed, [*column_names(keys), "start", "end"], aggregates)
