"""Alerts: the batches in which the metric of a key is not as expected.

Each function aggregates each batch by key and compares the result, the metric, with its expected value. It returns the
alerts as a stream, one row for each key that is out of bounds in the batch:

    the keys
    time: timestamp       recorded time of the batch
    since: timestamp      recorded time of the first batch of the unbroken run out of bounds
    expected: double
    actual: double        the metric

A batch without rows for a key leaves that key unchanged and does not end its run. Without keys every batch counts in
which a source of the stream has data, even if the stream has no rows in it. NaN and infinite metrics are compared as in
SQL, where NaN is above every number, and never become the expected value of a later one. Times come from the offset
log, so a retried batch returns the same alerts.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from .. import aggregates as agg
from .. import durations
from ..aggregates import Aggregate
from ..columns import Columns, check_added, column_names, named
from ..durations import Duration
from ..engine.graph import BatchContext
from ..engine.merges import Merge
from ..engine.state import StateNode, batch_literal, not_after
from ..errors import UsageError
from ..frames import FrameStream
from ..recovery.snapshots import MEANS


def threshold(
    stream: FrameStream,
    keys: Columns,
    metric: Aggregate,
    *,
    above: float | None = None,
    below: float | None = None,
    name: str = "threshold",
) -> FrameStream:
    """Alert when a metric is above or below a limit; expected is the limit that was crossed.

        errors = requests.filter("status >= 500")
        ss.transforms.threshold(errors, [], ss.aggregates.count(), above=100)

    >>> import sparkstream_kit as ss
    >>> from pyspark.sql import functions as F
    >>> from sparkstream_kit.testing import run_batches
    >>> def build(numbers):
    ...     stream = ss.FrameStream.of(numbers, "n int")
    ...     alerts = ss.transforms.threshold(stream, [], ss.aggregates.sum("n"), above=5)
    ...     return alerts.select(*(F.unix_seconds(c).alias(c) for c in ("time", "since")), "expected", "actual")
    >>> run_batches(build, [[(6,)], [(2,), (7,)], [(1,)]])
    [[Row(time=1, since=1, expected=5.0, actual=6.0)], [Row(time=2, since=1, expected=5.0, actual=9.0)], []]

    Columns: the keys, time, since: timestamp, expected, actual: double. The state is saved under `name`.

    Raises UsageError if both limits are missing, or if a key is named like one of these columns.

    Cost: grows with the rows of the batch and the number of keys ever seen.
    """
    if above is None and below is None:
        raise UsageError("got no limit, expected above= or below= or both")
    actual = F.col("__actual")
    crossed = F.when(F.lit(False), F.lit(0.0))
    if above is not None:
        crossed = crossed.when(actual > above, float(above))
    if below is not None:
        crossed = crossed.when(actual < below, float(below))
    return _alerts(stream, keys, metric, {}, crossed, crossed.isNotNull(), name)


def rate_of_change(
    stream: FrameStream, keys: Columns, metric: Aggregate, *, limit: float, per: Duration, name: str = "rate-of-change"
) -> FrameStream:
    """Alert when a metric changes by more than `limit` per `per`, up or down; expected is its previous value.

        ss.transforms.rate_of_change(requests, "path", ss.aggregates.mean("bytes"), limit=1_000, per="1s")

    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> def build(numbers):
    ...     stream = ss.FrameStream.of(numbers, "n int")
    ...     alerts = ss.transforms.rate_of_change(stream, [], ss.aggregates.sum("n"), limit=5, per="1s")
    ...     return alerts.select("expected", "actual")
    >>> run_batches(build, [[(2,), (7,)], [(1,)]])
    [[], [Row(expected=9.0, actual=1.0)]]

    The rate is the change since the last batch with rows for the key, divided by the recorded time between the two.

    Columns: the keys, time, since: timestamp, expected, actual: double. The state is saved under `name`.

    Raises UsageError for an invalid duration, or if a key is named like one of these columns.

    Cost: grows with the rows of the batch and the number of keys ever seen.
    """
    span, actual, time = durations.milliseconds(per), F.col("__actual"), F.col("__time")
    last, at = F.col("__last"), F.col("__at")
    fast = F.abs(actual - last) * span > limit * (time - at)
    return _alerts(stream, keys, metric, {"__last": actual, "__at": time.cast("double")}, last, fast, name)


def anomalies(
    stream: FrameStream,
    keys: Columns,
    metric: Aggregate,
    *,
    alpha: float = 0.1,
    limit: float = 3.0,
    after: int = 10,
    name: str = "anomalies",
) -> FrameStream:
    """Alert when a metric is more than `limit` standard deviations from its moving mean, which is the expected value.

        ss.transforms.anomalies(requests, "status", ss.aggregates.count(), limit=4)

    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> def build(numbers):
    ...     stream = ss.FrameStream.of(numbers, "n int")
    ...     alerts = ss.transforms.anomalies(stream, [], ss.aggregates.sum("n"), alpha=0.5, after=2)
    ...     return alerts.select("expected", "actual")
    >>> run_batches(build, [[(10,)], [(12,)], [(30,)]])
    [[], [], [Row(expected=11.0, actual=30.0)]]

    Mean and variance are exponentially weighted: the newest value has the weight `alpha`, each older one 1 - alpha
    times that of the next newer, and the first value the remainder of 1. They are updated incrementally, by the last
    formula of T. Finch, Incremental calculation of weighted mean and variance (2009). The first `after` values of a key
    only train the mean. Later ones are compared with the mean and deviation before them, and train them too.

    Columns: the keys, time, since: timestamp, expected, actual: double. The state is saved under `name`.

    Raises UsageError unless 0 < alpha < 1 and after >= 1, or if a key is named like one of these columns.

    Cost: grows with the rows of the batch and the number of keys ever seen.
    """
    if not 0 < alpha < 1 or after < 1:
        raise UsageError(f"got alpha={alpha} and after={after}, expected 0 < alpha < 1 and after >= 1")
    actual, mean, variance, n = F.col("__actual"), F.col("__mean"), F.col("__variance"), F.col("__n")
    distance = actual - mean
    memory = {
        "__mean": F.coalesce(mean + alpha * distance, actual),
        "__variance": F.coalesce((1 - alpha) * (variance + alpha * distance * distance), F.lit(0.0)),
        "__n": F.coalesce(n, F.lit(0.0)) + 1,
    }
    far = (n >= after) & (F.abs(distance) > limit * F.sqrt(variance))
    return _alerts(stream, keys, metric, memory, mean, far, name)


def _alerts(
    stream: FrameStream,
    keys: Columns,
    metric: Aggregate,
    memory: Mapping[str, Column],
    expected: Column,
    out_of_bounds: Column,
    name: str,
) -> FrameStream:
    """The alerts of a rule, over a state of `memory` columns per key: each a double, with its value after a batch.

    All expressions may use `__actual`, the metric of the batch, `__time`, its recorded time in ms, and the memory
    columns as they were before it.
    """
    names = column_names(keys)
    check_added(names, "time", "since", "expected", "actual")
    remembered = [*memory, "__since"]

    def fresh(new: DataFrame) -> DataFrame:
        metrics = agg.aggregate(new, keys, {"__actual": metric}).withColumn(
            "__actual", F.col("__actual").cast("double")
        )
        return metrics.withColumns({column: F.lit(None).cast("double") for column in remembered})

    def evaluated(rows: DataFrame, time: int) -> DataFrame:
        is_known = F.col("__actual").isNotNull()
        is_finite = is_known & (F.abs("__actual") < float("inf"))  # any other would never leave a moving mean
        is_alert = is_known & F.coalesce(out_of_bounds, F.lit(False))
        since = F.when(is_alert, F.coalesce("__since", "__time")).when(~is_known, F.col("__since"))
        timed = rows.withColumn("__time", batch_literal(float(time)))
        return timed.select(
            *named(names),
            *(F.when(is_finite, after).otherwise(F.col(column)).alias(column) for column, after in memory.items()),
            since.alias("__since"),
            F.col("__actual"),
            expected.alias("__expected"),
            is_alert.alias("__alert"),
        )

    def both(rows: DataFrame) -> DataFrame:
        return rows.groupBy(*named(names)).agg(*(F.max(c).alias(c) for c in [*remembered, "__actual"]))

    merge = Merge(names, both)

    def empty(new: DataFrame, _: int) -> DataFrame:
        return evaluated(fresh(new), 0).limit(0)

    def advance(state: DataFrame, new: DataFrame, ctx: BatchContext) -> DataFrame:
        before = state.withColumn("__actual", F.lit(None).cast("double")).select(*named(names), *remembered, "__actual")
        return evaluated(merge([before, fresh(new).select(*named(before.columns))]), ctx.entry.time)

    def retain(rows: DataFrame, _: int) -> DataFrame:
        return rows.withColumn("__alert", F.lit(False))

    kind = ", ".join(part.means for part in metric.parts if part.means)
    about = {column: {MEANS: f"memory of {kind}"} for column in memory}
    node = StateNode(stream, name, keys, empty, advance, retain, about, not_after("__since"))

    def alerts(ctx: BatchContext) -> DataFrame:
        since = F.timestamp_millis(F.col("__since").cast("bigint")).alias("since")
        time = F.timestamp_millis(batch_literal(ctx.entry.time)).alias("time")
        columns = [time, since, F.col("__expected").alias("expected"), F.col("__actual").alias("actual")]
        return node.at(ctx).filter("__alert").select(*named(names), *columns)

    return FrameStream(stream.graph, alerts, stream, stateful=True)
