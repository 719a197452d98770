"""Rows that arrive again, as sources and senders that say "at least once" deliver them."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from .. import durations
from ..columns import Columns, check_added, column_names, named
from ..durations import Duration
from ..engine.graph import BatchContext
from ..engine.merges import Merge, together
from ..engine.state import StateNode
from ..frames import FrameStream
from ._watermarks import ClosedWindows, late_rows, watermark_of

EXACT = {
    "timeZone": "UTC",
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
    "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
}
"""Options of JSON that tells all timestamps apart, in every time zone in the same way."""

BLOCK = 256
"""Times that are added to an array one by one, each of which copies it."""


STATE = ("__at", "__is_new", "__is_over", "__is_near", "__times", "__row", "__stays")
"""The columns of the state beside the keys, and those that it is computed with."""


def drop_duplicates(
    stream: FrameStream,
    keys: Columns,
    timestamp: str,
    *,
    within: Duration,
    lateness: Duration = "1min",
    name: str = "duplicates",
) -> ClosedWindows:
    """Drop rows whose keys a row before them had, at most `within` earlier or later by their timestamps.

        requests = ss.transforms.drop_duplicates(records, "topic, partition, offset", "timestamp", within="1h")

    >>> import sparkstream_kit as ss
    >>> from pyspark.sql import functions as F
    >>> from sparkstream_kit.testing import run_batches
    >>> def build(rows):
    ...     timed = ss.FrameStream.of(rows, "k string, s int").select("*", F.timestamp_seconds("s").alias("at"))
    ...     return ss.transforms.drop_duplicates(timed, "k", "at", within="10s").select("k", "s")
    >>> run_batches(build, [[("a", 0), ("a", 8)], [("a", 3), ("b", 5), ("a", 16)]])
    [[Row(k='a', s=0)], [Row(k='a', s=16), Row(k='b', s=5)]]

    Rows count in the order of their batches, and in a batch in the order of their timestamps; rows that are equal in
    both, by their JSON. A row that is dropped does not make others drop: of rows at 0, 8 and 16 seconds, with
    `within="10s"`, those at 0 and 16 stay. A null in a key equals another one. `timestamp` names a column of type
    timestamp. Columns: those of the stream.

    The watermark is that of `event_time_window`. Late rows, those without a timestamp, and those far ahead of the clock
    are in `late()` of the result, and neither stay nor make others drop. All other rows are treated exactly so, across
    batches and restarts: a key is remembered as long as a row that is on time could be within reach of it.

    Raises UsageError for an invalid duration, for a key named like a column of the state, and at the start for a column
    that is not a timestamp.

    A longer `within` than in the run before holds for what comes from then on: what the shorter one forgot is gone.

    Cost: grows with the rows of the batch and the keys of the last `within` and `lateness`, which each batch sorts.
    """
    reach, wait = (1000 * durations.milliseconds(d) for d in (within, lateness))
    names = column_names(keys)
    check_added(names, *STATE)
    batch = stream.cache()

    def timed(frame: DataFrame, *columns: Column) -> DataFrame:
        return frame.select(*named(names), F.unix_micros(timestamp).alias("__at"), *columns)

    times = batch.transform(lambda frame: timed(frame).filter("__at is not null"))

    def decide(rows: DataFrame) -> DataFrame:
        """The new times that stay: none near a time of the state, and none near a new one that stays."""
        up_to = Window.partitionBy(*named(names)).orderBy("__at").rangeBetween(Window.unboundedPreceding, reach)
        at, known = F.col("__at"), F.max(F.when(~F.col("__is_new"), F.col("__at"))).over(up_to)
        rows = rows.withColumn("__is_near", F.coalesce(known >= at - reach, F.lit(False)))
        of_key = rows.filter("__is_new and not __is_near").groupBy(*named(names))
        new = of_key.agg(F.array_sort(F.collect_list(at)).alias("__times"))
        stay = F.explode(apart("__times", reach)).alias("__at")
        return new.select(*named(names), stay, F.lit(True).alias("__is_new"))

    # A row of the state is the time of a row that stayed; the row itself is taken from its batch.
    def advance(state: DataFrame, new: DataFrame, ctx: BatchContext) -> DataFrame:
        marks, known = watermark(ctx), state.drop("__is_over")
        fresh = new.filter(marks.is_on_time(F.col("__at"))).withColumn("__is_new", F.lit(True))
        rows = together([known, decided([known, fresh])], names)
        return rows.withColumn("__is_over", F.col("__at") + reach < marks.after)

    def empty(new: DataFrame, _: int) -> DataFrame:
        return new.withColumns({"__is_new": F.lit(False), "__is_over": F.lit(False)}).limit(0)

    def retain(rows: DataFrame, _: int) -> DataFrame:
        return rows.filter("not __is_over").withColumn("__is_new", F.lit(False))

    def choose(rows: DataFrame) -> DataFrame:
        """Of the rows of each time that stays the first one, by its JSON."""
        first, stays = F.min_by("__row", F.to_json("__row", EXACT)), F.max("__is_new")
        of_time = rows.groupBy(*named(names), "__at").agg(first.alias("__row"), stays.alias("__stays"))
        return of_time.filter("__stays").select(*named(names), "__row")

    decided, chosen = Merge(names, decide), Merge(names, choose)
    node = StateNode(times, name, keys, empty, advance, retain)
    watermark = watermark_of(times, wait, f"{name}-watermark")

    def stay(ctx: BatchContext) -> DataFrame | None:
        frame = ctx.frame(batch.compute)
        if frame is None:
            return None
        rows = timed(frame, F.struct("*").alias("__row"), F.lit(False).alias("__is_new"))
        nothing = F.lit(None).cast(rows.schema["__row"].dataType)
        new = node.at(ctx).filter("__is_new").select(*named(names), "__at", nothing.alias("__row"), "__is_new")
        return chosen([new, rows]).select("__row.*")

    return ClosedWindows(stream, stay, late_rows(batch, timestamp, watermark))


def apart(times: str, reach: int) -> Column:
    """Of a column of sorted times the first, then each that is more than `reach` after the last one taken."""

    def take(taken: Column, at: Column) -> Column:
        is_near = at - F.try_element_at(taken, F.lit(-1)) <= reach
        return F.when(is_near, taken).otherwise(F.concat(taken, F.array(at)))

    def take_block(taken: Column, block: Column) -> Column:
        return F.concat(taken, F.aggregate(block, F.slice(taken, -1, 1), take))  # the last one again

    count = F.floor(F.size(times) / BLOCK).cast("int")
    blocks = F.transform(F.sequence(F.lit(0), count), lambda n: F.slice(times, n * BLOCK + 1, BLOCK))
    return F.array_distinct(F.aggregate(blocks, F.array().cast("array<bigint>"), take_block))
