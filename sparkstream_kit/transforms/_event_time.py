"""Event time: windows by the timestamps in the rows, in whatever order rows arrive."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from .. import aggregates as agg
from .. import durations
from ..aggregates import Aggregates
from ..columns import Columns, column_names
from ..durations import Duration
from ..engine.graph import BatchContext
from ..engine.merges import Merge
from ..engine.state import StateNode
from ..frames import FrameStream
from ._watermarks import ClosedWindows, final_rows, late_rows, parts_at, watermark_of


def event_time_window(
    stream: FrameStream,
    keys: Columns,
    timestamp: str,
    aggregates: Aggregates,
    window: Duration,
    slide: Duration | None = None,
    *,
    lateness: Duration,
    name: str = "event-windows",
) -> ClosedWindows:
    """Aggregates per key over event-time windows, each emitted once, when the watermark passes its end.

    >>> import sparkstream_kit as ss
    >>> from pyspark.sql import functions as F
    >>> from sparkstream_kit.testing import run_batches
    >>> def build(clicks):
    ...     timed = ss.FrameStream.of(clicks, "s int").select(F.timestamp_seconds("s").alias("at"))
    ...     hits = {"hits": ss.aggregates.count()}
    ...     closed = ss.transforms.event_time_window(timed, [], "at", hits, "1min", lateness="10s")
    ...     return closed.select(*(F.unix_seconds(c).alias(c) for c in ("start", "end")), "hits")
    >>> run_batches(build, [[(30,), (65,)], [(58,), (70,)]])
    [[], [Row(start=0, end=60, hits=2)]]

    A window is [start, start + window). Starts are multiples of `slide` since 1970 (UTC); without a slide windows do
    not overlap. `timestamp` names a column of type timestamp. Columns: the keys, start and end: timestamp, then one
    for each aggregate.

    The watermark is the largest timestamp seen minus `lateness`, taken at the end of each batch. Rows older than the
    watermark before their batch, those whose timestamp is null, and those that are ahead of the machine's clock by more
    than `lateness` and a day, are in `late()` of the result, and in no window. The result equals one batch computation
    over all other rows. Only data moves the watermark. A timestamp ahead of the machine's clock moves it as that clock
    would; its window closes once the clock, and other data, have passed it. Windows that are still open when a job
    stops stay in the state, under `name`.

    Raises UsageError for an invalid duration, for a key or aggregate named start or end, and at the start for a column
    that is not a timestamp.

    Cost: grows with the rows of the batch, times window / slide, and the keys of open windows.
    """
    length, step, wait = (
        1000 * durations.milliseconds(d) for d in (window, window if slide is None else slide, lateness)
    )
    by = [*column_names(keys), "__start"]
    parts = parts_at(stream, keys, timestamp, aggregates)

    def in_windows(new: DataFrame) -> DataFrame:
        newest = F.col("__at") - F.pmod("__at", F.lit(step))
        starts = (
            F.sequence(newest, newest - (length - 1) // step * step, F.lit(-step)) if length > step else F.array(newest)
        )
        placed = new.withColumn("__start", F.explode(starts)).filter(F.col("__at") < F.col("__start") + length)
        return agg.merge(placed.drop("__at"), by, aggregates)

    def empty(new: DataFrame, _: int) -> DataFrame:
        return in_windows(new).withColumn("__closed", F.lit(False))

    def advance(state: DataFrame, new: DataFrame, ctx: BatchContext) -> DataFrame:
        marks = watermark(ctx)
        fresh = in_windows(new.filter(marks.is_on_time(F.col("__at"))))
        return merge([state.drop("__closed"), fresh]).withColumn("__closed", F.col("__start") + length <= marks.after)

    merge = Merge(by, lambda rows: agg.merge(rows, by, aggregates))
    about = agg.metadata(aggregates)
    node = StateNode(parts, name, by, empty, advance, lambda rows, _: rows.filter("not __closed"), about)
    watermark = watermark_of(parts, wait, f"{name}-watermark")

    def closed(ctx: BatchContext) -> DataFrame:
        return final_rows(
            node.at(ctx).filter("__closed"), keys, aggregates, F.col("__start"), F.col("__start") + length
        )

    return ClosedWindows(stream, closed, late_rows(stream, timestamp, watermark))
