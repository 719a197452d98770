"""Alerts: the batches in which a metric of a key is not what was expected.

Each function aggregates a batch for each key and compares the metric with what it expects. Columns of an alert: the
keys; time: timestamp, the recorded time of the batch; since: timestamp, that of the first batch of the unbroken run in
which the key was out of bounds; expected: double; seen: double. A batch without rows of a key says nothing about it and
ends no run; without keys every batch with data counts, also one that has no row of the stream. A metric that is NaN
or infinite is compared as in SQL, where NaN is above every number, and is never what is expected of a later one. Times
are those of the log, so a batch that runs again gives the same alerts.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from .. import aggregates as agg
from .. import durations
from ..aggregates import Aggregate
from ..columns import Columns, column_names
from ..durations import Duration
from ..engine.graph import BatchContext
from ..engine.state import StateNode, batch_literal
from ..errors import UsageError
from ..frames import FrameStream


def threshold(
    stream: FrameStream,
    keys: Columns,
    metric: Aggregate,
    *,
    above: float | None = None,
    below: float | None = None,
    name: str = "threshold",
) -> FrameStream:
    """Alerts of batches whose metric is above or below a limit; expected is the limit that was crossed.

        threshold(requests.filter("status >= 500"), [], agg.count(), above=100)

    >>> from sparkstream_kit.testing import run_batches
    >>> def build(numbers):
    ...     alerts = threshold(FrameStream.of(numbers, "n int"), [], agg.sum("n"), above=5)
    ...     return alerts.select(*(F.unix_seconds(c).alias(c) for c in ("time", "since")), "expected", "seen")
    >>> run_batches(build, [[(6,)], [(2,), (7,)], [(1,)]])
    [[Row(time=1, since=1, expected=5.0, seen=6.0)], [Row(time=2, since=1, expected=5.0, seen=9.0)], []]

    Columns: those of an alert. Raises UsageError without a limit. Grows with: the rows of the batch and the number of
    keys.
    """
    if above is None and below is None:
        raise UsageError("got no limit, expected above= or below= or both")
    seen = F.col("__seen")
    crossed = F.when(F.lit(False), F.lit(0.0))
    if above is not None:
        crossed = crossed.when(seen > above, float(above))
    if below is not None:
        crossed = crossed.when(seen < below, float(below))
    return _alerts(stream, keys, metric, {}, crossed, crossed.isNotNull(), name)


def rate_of_change(
    stream: FrameStream, keys: Columns, metric: Aggregate, *, limit: float, per: Duration, name: str = "rate-of-change"
) -> FrameStream:
    """Alerts of batches whose metric changed faster than `limit` in each `per` of time; expected is the last metric.

    The change is that since the last batch with a metric of the key, over the recorded time between the two.

        rate_of_change(requests, "path", agg.mean("bytes"), limit=1_000, per="1s")

    >>> from sparkstream_kit.testing import run_batches
    >>> def build(numbers):
    ...     fast = rate_of_change(FrameStream.of(numbers, "n int"), [], agg.sum("n"), limit=5, per="1s")
    ...     return fast.select("expected", "seen")
    >>> run_batches(build, [[(2,), (7,)], [(1,)]])
    [[], [Row(expected=9.0, seen=1.0)]]

    Columns: those of an alert. Grows with: the rows of the batch and the number of keys.
    """
    span, seen, time = durations.milliseconds(per), F.col("__seen"), F.col("__time")
    last, at = F.col("__last"), F.col("__at")
    fast = F.abs(seen - last) * span > limit * (time - at)
    return _alerts(
        stream,
        keys,
        metric,
        {"__last": seen, "__at": time.cast("double")},
        last,
        fast,
        name,
    )


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
    """Alerts of batches whose metric is more than `limit` standard anomalies from a moving mean, which is expected.

    Mean and variance are exponentially weighted: the newest metric weighs `alpha`, each one before it less by the
    factor 1 - alpha, and the first what is then left of 1. How they are brought up to date is the last formula of
    T. Finch, Incremental calculation of weighted mean and variance (2009). A key is judged from its metric number
    `after` + 1 on, against what was before that metric; every metric counts for the next ones.

        anomalies(requests, "status", agg.count(), limit=4)

    >>> from sparkstream_kit.testing import run_batches
    >>> def build(numbers):
    ...     odd = anomalies(FrameStream.of(numbers, "n int"), [], agg.sum("n"), alpha=0.5, after=2)
    ...     return odd.select("expected", "seen")
    >>> run_batches(build, [[(10,)], [(12,)], [(30,)]])
    [[], [], [Row(expected=11.0, seen=30.0)]]

    Columns: those of an alert. Grows with: the rows of the batch and the number of keys.
    """
    if not 0 < alpha < 1 or after < 1:
        raise UsageError(f"got alpha={alpha} and after={after}, expected 0 < alpha < 1 and after of at least 1")
    seen, mean, variance, n = F.col("__seen"), F.col("__mean"), F.col("__variance"), F.col("__n")
    apart = seen - mean
    memory = {
        "__mean": F.coalesce(mean + alpha * apart, seen),
        "__variance": F.coalesce((1 - alpha) * (variance + alpha * apart * apart), F.lit(0.0)),
        "__n": F.coalesce(n, F.lit(0.0)) + 1,
    }
    far = (n >= after) & (F.abs(apart) > limit * F.sqrt(variance))
    return _alerts(stream, keys, metric, memory, mean, far, name)


def _alerts(
    stream: FrameStream,
    keys: Columns,
    metric: Aggregate,
    memory: Mapping[str, Column],
    expected: Column,
    wrong: Column,
    name: str,
) -> FrameStream:
    """A state with what is remembered of each key: columns, all double, and how the next batch changes them.

    The columns may speak of `__seen`, the metric of the batch, `__time`, its recorded time in ms, and each other.
    """
    names = column_names(keys)
    remembered = [*memory, "__since"]

    def fresh(new: DataFrame) -> DataFrame:
        metrics = agg.aggregate(new, keys, {"__seen": metric}).withColumn("__seen", F.col("__seen").cast("double"))
        return metrics.withColumns({column: F.lit(None).cast("double") for column in remembered})

    def judged(rows: DataFrame, time: int) -> DataFrame:
        told = F.col("__seen").isNotNull()
        is_finite = told & (F.abs("__seen") < float("inf"))  # one that is not would stay in a moving mean for ever
        is_wrong = told & F.coalesce(wrong, F.lit(False))
        since = F.when(is_wrong, F.coalesce("__since", "__time")).when(~told, F.col("__since"))
        timed = rows.withColumn("__time", batch_literal(float(time)))
        return timed.select(
            *names,
            *(F.when(is_finite, after).otherwise(F.col(column)).alias(column) for column, after in memory.items()),
            since.alias("__since"),
            F.col("__seen"),
            expected.alias("__expected"),
            is_wrong.alias("__wrong"),
        )

    def empty(new: DataFrame, _: int) -> DataFrame:
        return judged(fresh(new), 0).limit(0)

    def advance(kept: DataFrame, new: DataFrame, ctx: BatchContext) -> DataFrame:
        before = kept.withColumn("__seen", F.lit(None).cast("double")).select(*names, *remembered, "__seen")
        both = before.unionByName(fresh(new)).groupBy(*names).agg(*(F.max(c).alias(c) for c in [*remembered, "__seen"]))
        return judged(both, ctx.entry.time)

    def keep(rows: DataFrame, _: int) -> DataFrame:
        return rows.withColumn("__wrong", F.lit(False))

    node = StateNode(stream.graph, stream.compute, name, keys, empty, advance, keep)

    def alerts(ctx: BatchContext) -> DataFrame:
        since = F.timestamp_millis(F.col("__since").cast("bigint")).alias("since")
        time = F.timestamp_millis(batch_literal(ctx.entry.time)).alias("time")
        columns = [time, since, F.col("__expected").alias("expected"), F.col("__seen").alias("seen")]
        return node.at(ctx).filter("__wrong").select(*names, *columns)

    return FrameStream(stream.graph, alerts, stateful=True)
