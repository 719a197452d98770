"""Sessions: what one visitor did without a long pause, by the timestamps in the rows."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from .. import aggregates as agg
from .. import durations
from ..aggregates import Aggregates
from ..columns import Columns, column_names, named
from ..durations import Duration
from ..engine.graph import BatchContext
from ..engine.merges import together
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
    """Aggregates for each session of a key, emitted once, when the watermark passes its end.

        visits = ss.transforms.sessions(requests, "client_ip", "timestamp", {
            "hits": ss.aggregates.count(),
            "bytes": ss.aggregates.sum("bytes"),
            "first": ss.aggregates.min_by("path", by="timestamp"),
            "last": ss.aggregates.max_by("path", by="timestamp"),
        })

    >>> import sparkstream_kit as ss
    >>> from pyspark.sql import functions as F
    >>> from sparkstream_kit.testing import run_batches
    >>> def build(clicks):
    ...     stream = ss.FrameStream.of(clicks, "who string, s int")
    ...     timed = stream.select("who", F.timestamp_seconds("s").alias("at"))
    ...     hits = {"hits": ss.aggregates.count()}
    ...     closed = ss.transforms.sessions(timed, "who", "at", hits, gap="30s", lateness="10s")
    ...     return closed.select("who", *(F.unix_seconds(c).alias(c) for c in ("start", "end")), "hits")
    >>> run_batches(build, [[("ann", 0), ("ann", 20)], [("bob", 90), ("ann", 15)]])
    [[], [Row(who='ann', start=0, end=20, hits=3)]]

    A session is a run of rows of one key, ordered by timestamp, without a pause longer than `gap`. A session longer
    than `longest` is emitted in pieces, cut at multiples of `longest` from its start. `timestamp` names a column of
    type timestamp. Columns: the keys, start and end: timestamp (of the first and the last row), then one for each
    aggregate.

    The watermark is the largest timestamp seen minus `lateness`, taken at the end of each batch. Rows older than the
    watermark before their batch, those whose timestamp is null, and those that are ahead of the machine's clock by more
    than `lateness` and a day, are in `late()` of the result, and in no session. The result equals one batch computation
    over all other rows, in whatever order they arrive. Only data moves the watermark. A timestamp ahead of the
    machine's clock moves it as that clock would; its session closes once the clock, and other data, have passed it.
    Sessions that are still open when a job stops stay in the state, under `name`.

    Raises UsageError for an invalid duration, for a key or aggregate named start or end, and at the start for a column
    that is not a timestamp.

    Cost: grows with the rows of the batch and the timestamps of open sessions, which each batch sorts.
    """
    pause_limit, length, wait = (1000 * durations.milliseconds(d) for d in (gap, longest, lateness))
    names = column_names(keys)
    parts = parts_at(stream, keys, timestamp, aggregates)

    # A row of the state is a timestamp with its parts while it is open, and a piece once it is closed. Of a session
    # that continues after a closed piece the newest piece stays, and records where the session began.
    extent = {"__first": agg.min("__first"), "__at": agg.max("__at"), "__stays": agg.max("__stays")}
    kept_parts = [part for part, _ in agg.named_parts(aggregates)]

    def advance(state: DataFrame, new: DataFrame, ctx: BatchContext) -> DataFrame:
        marks = watermark(ctx)
        at, begin = F.col("__at"), F.col("__begin")
        began = F.when(F.col("__emitted"), begin)
        fresh = new.filter(marks.is_on_time(at)).withColumn("__origin", F.lit(None).cast("bigint"))
        rows = together([state.withColumn("__origin", began).select(*named(fresh.columns)), fresh], names)

        in_order = Window.partitionBy(*named(names)).orderBy("__at").rowsBetween(Window.unboundedPreceding, 0)
        pause = at - F.lag("__at").over(Window.partitionBy(*named(names)).orderBy("__at"))
        starts = F.when(pause.isNull() | (pause > pause_limit), F.coalesce("__origin", at))
        rows = rows.withColumn("__begin", F.last(starts, ignorenulls=True).over(in_order))

        session = Window.partitionBy(*named(names), "__begin")
        over = F.max("__at").over(session) + pause_limit < marks.after
        piece = at - (at - begin) % length  # where the row's piece starts
        rows = rows.withColumns({"__over": over, "__piece": piece, "__emitted": F.col("__origin").isNotNull()})
        closed = F.col("__emitted") | F.col("__over") | (F.col("__piece") + length <= marks.after)
        rows = rows.withColumn("__closed", closed)
        newest = F.max(F.when(F.col("__closed"), at)).over(session)
        rows = rows.withColumns(
            {
                "__first": at,
                "__stays": ~F.col("__over") & F.coalesce(at == newest, F.lit(False)),
                "__slot": F.when(F.col("__closed"), F.col("__piece")).otherwise(at),
            }
        )
        by = [*names, "__begin", "__emitted", "__closed", "__slot"]
        return agg.merge(rows, by, {**extent, **aggregates}).drop("__slot")

    def empty(new: DataFrame, _: int) -> DataFrame:
        nothing = {
            "__emitted": F.lit(False),
            "__begin": F.col("__at"),
            "__closed": F.lit(False),
            "__stays": F.lit(False),
        }
        rows = new.withColumns(nothing).withColumn("__first", F.col("__at")).limit(0)
        return rows.select(
            *named(names), "__begin", "__emitted", "__closed", "__first", "__at", "__stays", *named(kept_parts)
        )

    def retain(rows: DataFrame, _: int) -> DataFrame:
        return rows.filter("not __closed or __stays").withColumn("__emitted", F.col("__closed"))

    node = StateNode(parts, name, keys, empty, advance, retain, agg.metadata(aggregates))
    watermark = watermark_of(parts, wait, f"{name}-watermark")

    def closed(ctx: BatchContext) -> DataFrame:
        rows = node.at(ctx).filter("__closed and not __emitted")
        return final_rows(rows, keys, aggregates, F.col("__first"), F.col("__at"))

    return ClosedWindows(stream, closed, late_rows(stream, timestamp, watermark))
