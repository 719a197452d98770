"""Watermarks: how far event time has advanced, for operations that emit only final results.

The watermark is the largest timestamp seen so far minus a lateness, taken at the end of each batch. Rows older than the
watermark before their batch, and rows without a timestamp, are late and dropped; what is older than the watermark after
the batch is final. Only data moves the watermark: an idle stream closes nothing.

A timestamp ahead of the machine's clock counts as that clock, so that one wrong row does not make all others late. One
that is ahead by more than the lateness and a day is not credible, and its row counts as late. The clock is the one that
was recorded when the batch was planned, so a batch that runs again gives the same rows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from .. import aggregates as agg
from ..aggregates import Aggregates
from ..columns import Columns, check_added, column_names
from ..engine.graph import BatchContext, Compute
from ..engine.state import StateNode, batch_literal
from ..frames import FrameStream
from ..recovery.offset_log import Entry

log = logging.getLogger(__name__)

NEVER = -(2**62)

CREDIBLE = 24 * 3600 * 10**6
"""Microseconds by which a timestamp may be ahead of the clock and the lateness: local times that were written without
their zone are ahead by up to 14 hours."""


class Watermark(NamedTuple):
    """The watermark before and after a batch, and the largest credible timestamp, in microseconds since 1970."""

    before: Column
    after: Column
    credible: Column

    def is_on_time(self, at: Column) -> Column:
        """Whether a row with this timestamp counts in the batch."""
        return (at >= self.before) & (at <= self.credible)


WatermarkOf = Callable[[BatchContext], Watermark]


class ClosedWindows(FrameStream):
    """Final rows, each emitted once; `late()` has the rows that do not count."""

    def __init__(self, source: FrameStream, compute: Compute, late: Compute):
        super().__init__(source.graph, compute, source, stateful=True)
        self._late = late

    def late(self) -> FrameStream:
        """The rows that are late, or too far ahead to be credible, or without a timestamp.

        Late means older than the watermark before their batch. Too far ahead means later than the machine's clock by
        more than the lateness and a day. Every row of the stream counts in the result or is here, and never both.

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
    """Partial aggregates for each key and timestamp, computed once per batch. Columns: keys, __at: bigint, parts.

    Raises UsageError if a key or aggregate is named like a column that `final_rows` adds.
    """
    check_added([*column_names(keys), *aggregates], "start", "end")

    def compute(frame: DataFrame) -> DataFrame:
        timed = frame.withColumn("__at", F.unix_micros(timestamp)).filter(F.col("__at").isNotNull())
        return agg.partial(timed, [*column_names(keys), "__at"], aggregates)

    return stream.transform(compute).cache()


def watermark_of(parts: FrameStream, lateness: int, name: str) -> WatermarkOf:
    """The watermark of a stream with the column __at: a state of one row. The lateness is in microseconds."""
    columns = {"before": agg.max("before"), "after": agg.max("after"), "incredible": agg.max("incredible")}
    nothing = F.lit(None).cast("bigint")

    def row(frame: DataFrame, *values: Column) -> DataFrame:
        named = [value.alias(column) for value, column in zip(values, columns, strict=True)]
        return agg.merge(frame.select(*named), [], columns)

    def empty(new: DataFrame, _: int) -> DataFrame:
        return row(new, nothing, nothing, nothing)

    def advance(state: DataFrame, new: DataFrame, ctx: BatchContext) -> DataFrame:
        clock, limit = (batch_literal(number) for number in (_clock(ctx.entry), _credible(ctx.entry, lateness)))
        at, is_credible = F.col("__at"), F.col("__at") <= limit
        seen = F.when(is_credible, F.greatest(F.least(at, clock), F.lit(NEVER)) - lateness)
        was = state.select(F.col("after").alias("before"), "after", nothing.alias("incredible"))
        now = new.select(nothing.alias("before"), seen.alias("after"), F.when(~is_credible, at).alias("incredible"))
        return row(was.union(now), *(F.col(column) for column in columns))

    def loaded(rows: DataFrame, entry: Entry) -> DataFrame:
        latest = F.lit(_clock(entry) - lateness)
        return rows.withColumns({c: F.when(F.col(c) > latest, latest).otherwise(F.col(c)) for c in ("before", "after")})

    node = StateNode(parts, name, [], empty, advance, loaded=loaded)
    known: dict[int, tuple[int | None, int | None]] = {}
    warned = False

    def watermark(ctx: BatchContext) -> Watermark:
        nonlocal warned
        entry = ctx.entry
        if entry.n not in known:
            before, after, incredible = [None] * 3 if ctx.is_dry_run else node.at(ctx).collect()[0]
            known.clear()
            known[entry.n] = before, after
            if incredible is not None and not warned:
                warned = True
                log.warning(
                    "batch %d: rows of %r have timestamps up to %s, and the clock said %s: those rows are in late(); "
                    "this is the only warning of this run",
                    entry.n,
                    name.removesuffix("-watermark"),
                    _text(incredible),
                    _text(_clock(entry)),
                )
        marks = (NEVER if mark is None else mark for mark in known[entry.n])
        return Watermark(*map(batch_literal, (*marks, _credible(entry, lateness))))

    return watermark


def _clock(entry: Entry) -> int:
    return 1000 * entry.clock


def _credible(entry: Entry, lateness: int) -> int:
    """The latest timestamp that a row of this batch can have."""
    return _clock(entry) + lateness + CREDIBLE


def _text(micros: int) -> str:
    try:
        return f"{datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=micros):%Y-%m-%d %H:%M:%S} UTC"
    except OverflowError:
        return f"{micros // 10**6} s after 1970"


def late_rows(stream: FrameStream, timestamp: str, watermark: WatermarkOf) -> Compute:
    """The rows that do not count in their batch, or have no timestamp. Columns: the stream's."""

    def compute(ctx: BatchContext) -> DataFrame | None:
        frame = ctx.frame(stream.compute)
        if frame is None:
            return None
        at = F.unix_micros(timestamp)
        return frame.filter(at.isNull() | ~watermark(ctx).is_on_time(at))

    return compute


def final_rows(rows: DataFrame, keys: Columns, aggregates: Aggregates, start: Column, end: Column) -> DataFrame:
    """Columns: the keys, start and end: timestamp (from microseconds), then one for each aggregate."""
    timed = rows.withColumn("start", F.timestamp_micros(start)).withColumn("end", F.timestamp_micros(end))
    return agg.result(timed, [*column_names(keys), "start", "end"], aggregates)
