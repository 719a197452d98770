"""Sessions: what one visitor did without a long pause, by the time that rows tell."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from .. import aggregates as agg
from .. import durations
from ..aggregates import Aggregates
from ..columns import Columns, column_names
from ..durations import Duration
from ..engine.graph import BatchContext
from ..engine.state import StateNode
from ..frames import FrameStream
from ._watermarks import ClosedWindows, final_rows, late_rows, parts_at, watermark_of


def sessions(
    stream: FrameStream,
    keys: Columns,
    timestamp: str,
    aggregates: Aggregates,
    *,
    gap: Duration = "30min",
    longest: Duration = "12h",
    lateness: Duration = "1min",
    name: str = "sessions",
) -> ClosedWindows:
    """Aggregates for each session of a key, given once, when the watermark has passed its end.

    Rows of a key are taken in the order of their timestamps; a session starts where the pause since the row before is
    longer than `gap`. One that is longer than `longest` is given in pieces, cut at multiples of `longest` from its
    start. `timestamp` names a column of that type; rows where it is null are left out. Columns: the keys, start and
    end: timestamp (of the first and the last row), then one for each aggregate.

        visits = sessions(requests, "client_ip", "timestamp", {
            "hits": agg.count(),
            "bytes": agg.sum("bytes"),
            "first": agg.min_by("path", by="timestamp"),
            "last": agg.max_by("path", by="timestamp"),
        })

    >>> from sparkstream_kit.testing import run_batches
    >>> def build(clicks):
    ...     timed = FrameStream.of(clicks, "who string, s int").select("who", F.timestamp_seconds("s").alias("at"))
    ...     closed = sessions(timed, "who", "at", {"hits": agg.count()}, gap="30s", lateness="10s")
    ...     return closed.select("who", *(F.unix_seconds(c).alias(c) for c in ("start", "end")), "hits")
    >>> run_batches(build, [[("ann", 0), ("ann", 20)], [("bob", 90), ("ann", 15)]])
    [[], [Row(who='ann', start=0, end=20, hits=3)]]

    Rows may come in any order within `lateness`: the result equals one batch computation over all rows that were not
    late, and those are in `late()` of the result. What a watermark is, `watermarks` says. A session that is still open
    stays in the state when a job stops. The name is the key of the saved state.

    Grows with: the rows of the batch, and the timestamps of open sessions, which are put in order in each batch.
    """
    longest_pause, length, wait = (1000 * durations.milliseconds(d) for d in (gap, longest, lateness))
    names = column_names(keys)
    parts = parts_at(stream, keys, timestamp, aggregates)

    # A row of the state is a timestamp with its parts while it is open, and a piece once it is closed. Of a session
    # that goes on after a closed piece the newest one stays, and says where the session began.
    extent = {"__first": agg.min("__first"), "__at": agg.max("__at"), "__stays": agg.max("__stays")}
    kept_parts = [part for part, _ in agg.named_parts(aggregates)]

    def advance(kept: DataFrame, new: DataFrame, ctx: BatchContext) -> DataFrame:
        before, after = watermark(ctx)
        at, begin = F.col("__at"), F.col("__begin")
        began = F.when(F.col("__given"), begin)
        fresh = new.filter(at >= before).withColumn("__origin", F.lit(None).cast("bigint")).repartition(*names)
        rows = kept.withColumn("__origin", began).select(*fresh.columns).union(fresh)

        in_order = Window.partitionBy(*names).orderBy("__at").rowsBetween(Window.unboundedPreceding, 0)
        pause = at - F.lag("__at").over(Window.partitionBy(*names).orderBy("__at"))
        starts = F.when(pause.isNull() | (pause > longest_pause), F.coalesce("__origin", at))
        rows = rows.withColumn("__begin", F.last(starts, ignorenulls=True).over(in_order))

        session = Window.partitionBy(*names, "__begin")
        over = F.max("__at").over(session) + longest_pause < after
        piece = at - (at - begin) % length  # where the row's piece starts
        rows = rows.withColumns({"__over": over, "__piece": piece, "__given": F.col("__origin").isNotNull()})
        closed = F.col("__given") | F.col("__over") | (F.col("__piece") + length <= after)
        rows = rows.withColumn("__closed", closed)
        newest = F.max(F.when(F.col("__closed"), at)).over(session)
        rows = rows.withColumns(
            {
                "__first": at,
                "__stays": ~F.col("__over") & F.coalesce(at == newest, F.lit(False)),
                "__slot": F.when(F.col("__closed"), F.col("__piece")).otherwise(at),
            }
        )
        by = [*names, "__begin", "__given", "__closed", "__slot"]
        return agg.merge(rows, by, {**extent, **aggregates}).drop("__slot")

    def empty(new: DataFrame, _: int) -> DataFrame:
        nothing = {"__given": F.lit(False), "__begin": F.col("__at"), "__closed": F.lit(False), "__stays": F.lit(False)}
        rows = new.withColumns(nothing).withColumn("__first", F.col("__at")).limit(0)
        return rows.select(*names, "__begin", "__given", "__closed", "__first", "__at", "__stays", *kept_parts)

    def keep(rows: DataFrame, _: int) -> DataFrame:
        return rows.filter("not __closed or __stays").withColumn("__given", F.col("__closed"))

    node = StateNode(stream.graph, parts.compute, name, keys, empty, advance, keep)
    watermark = watermark_of(parts, wait, f"{name}-watermark")

    def closed(ctx: BatchContext) -> DataFrame:
        rows = node.at(ctx).filter("__closed and not __given")
        return final_rows(rows, keys, aggregates, F.col("__first"), F.col("__at"))

    return ClosedWindows(stream.graph, closed, late_rows(stream, timestamp, watermark))
