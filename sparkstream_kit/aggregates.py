"""Aggregates that merge: how to start from rows, how to merge partial results and how to finish, in one value.

Windows, states, sessions and plain batches all take the same ones:

    hits = {"hits": ss.aggregates.count(), "bytes": ss.aggregates.sum("bytes")}
    requests.reduce_by_key_and_window("path", hits, "60s", "10s")

Nulls are ignored, as in SQL. The names are those of SQL, and some are those of builtins: write `aggregates.sum`.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from .columns import Columns, column_names
from .errors import UsageError


@dataclass(frozen=True)
class Part:
    """One partial-aggregate column: how to build it from rows, and how to merge two."""

    make: Callable[[], Column]
    merge: Callable[[Column], Column]
    additive: bool = False
    """Whether merging is addition, so that rows are removed again by adding the negative of their part."""


@dataclass(frozen=True)
class Aggregate:
    """How to compute one result column in parts; `result` turns the merged parts into it."""

    parts: tuple[Part, ...]
    result: Callable[..., Column]


Aggregates = Mapping[str, Aggregate]


def count() -> Aggregate:
    """Number of rows: bigint.

    Cost: grows with the keys, one number each.

    >>> import sparkstream_kit as ss
    >>> numbers = ss.testing.local_session().range(1, 5)
    >>> ss.aggregates.aggregate(numbers, [], {"n": ss.aggregates.count()}).first().n
    4
    """
    return Aggregate((_counted(lambda: F.count("*")),), lambda n: n)


def sum(column: str) -> Aggregate:
    """Sum of a column: bigint for integers, else double or decimal; null if every value is null.

    Exact for integers and decimals, also in windows; for doubles it depends on the order of addition. A sum of integers
    that does not fit bigint is an error, as in Spark.

    Cost: grows with the keys, two numbers each.

    >>> import sparkstream_kit as ss
    >>> numbers = ss.testing.local_session().range(1, 5)
    >>> ss.aggregates.aggregate(numbers, [], {"sum": ss.aggregates.sum("id")}).first()["sum"]
    10
    """
    total = Part(lambda: F.sum(column), F.sum, additive=True)
    return Aggregate((total, _counted(lambda: F.count(column))), lambda s, n: F.when(n > 0, s))


def min(column: str) -> Aggregate:
    """Smallest value: the column's type; null if there is none.

    Cost: grows with the keys, one value each.

    >>> import sparkstream_kit as ss
    >>> numbers = ss.testing.local_session().range(1, 5)
    >>> ss.aggregates.aggregate(numbers, [], {"least": ss.aggregates.min("id")}).first().least
    1
    """
    return Aggregate((Part(lambda: F.min(column), F.min),), lambda smallest: smallest)


def max(column: str) -> Aggregate:
    """Largest value: the column's type; null if there is none.

    Cost: grows with the keys, one value each.

    >>> import sparkstream_kit as ss
    >>> numbers = ss.testing.local_session().range(1, 5)
    >>> ss.aggregates.aggregate(numbers, [], {"most": ss.aggregates.max("id")}).first().most
    4
    """
    return Aggregate((Part(lambda: F.max(column), F.max),), lambda largest: largest)


def min_by(column: str, by: str) -> Aggregate:
    """The value in the row with the smallest `by`: the column's type. Among ties the smallest value, null first.

    Rows whose `by` is null are ignored.

    Cost: grows with the keys, two values each.

    >>> import sparkstream_kit as ss
    >>> visits = [("/cart", 7), ("/", 5), ("/pay", None)]
    >>> frame = ss.testing.local_session().createDataFrame(visits, "path string, at int")
    >>> ss.aggregates.aggregate(frame, [], {"entry": ss.aggregates.min_by("path", by="at")}).first().entry
    '/'
    """
    pair = Part(lambda: F.min(F.when(F.col(by).isNotNull(), F.struct(by, F.col(column).alias("value")))), F.min)
    return Aggregate((pair,), lambda smallest: smallest["value"])


def max_by(column: str, by: str) -> Aggregate:
    """The value in the row with the largest `by`: the column's type. Among ties the largest value, null last.

    Rows whose `by` is null are ignored.

    Cost: grows with the keys, two values each.

    >>> import sparkstream_kit as ss
    >>> visits = [("/cart", 7), ("/", 5), ("/pay", None)]
    >>> frame = ss.testing.local_session().createDataFrame(visits, "path string, at int")
    >>> ss.aggregates.aggregate(frame, [], {"exit": ss.aggregates.max_by("path", by="at")}).first().exit
    '/cart'
    """
    pair = Part(lambda: F.max(F.when(F.col(by).isNotNull(), F.struct(by, F.col(column).alias("value")))), F.max)
    return Aggregate((pair,), lambda largest: largest["value"])


def mean(column: str) -> Aggregate:
    """Arithmetic mean: double; null if there is no value.

    Cost: grows with the keys, two numbers each.

    >>> import sparkstream_kit as ss
    >>> numbers = ss.testing.local_session().range(1, 5)
    >>> ss.aggregates.aggregate(numbers, [], {"mean": ss.aggregates.mean("id")}).first().mean
    2.5
    """
    total = Part(lambda: F.sum(column), F.sum, additive=True)
    return Aggregate((total, _counted(lambda: F.count(column))), lambda s, n: F.when(n > 0, s.cast("double") / n))


def variance(column: str) -> Aggregate:
    """Sample variance: double; null for fewer than two values.

    Merged pairwise as by Chan, Golub and LeVeque (1979), which keeps its precision when the mean is large.

    Cost: grows with the keys, three numbers each.

    >>> import sparkstream_kit as ss
    >>> large = ss.testing.local_session().range(10**9, 10**9 + 3)
    >>> ss.aggregates.aggregate(large, [], {"variance": ss.aggregates.variance("id")}).first().variance
    1.0
    """

    def make() -> Column:
        n, centre = F.count(column).cast("double"), F.avg(column)
        return F.struct(n.alias("n"), F.coalesce(centre, F.lit(0.0)).alias("mean"), _squares(column).alias("m2"))

    def merge(part: Column) -> Column:
        nothing = F.struct(F.lit(0.0).alias("n"), F.lit(0.0).alias("mean"), F.lit(0.0).alias("m2"))
        return F.aggregate(F.collect_list(part), nothing, _pair)

    return Aggregate((Part(make, merge),), lambda p: F.when(p["n"] > 1, p["m2"] / (p["n"] - 1)))


def approx_count_distinct(column: str) -> Aggregate:
    """Number of distinct values, with a standard error of 1.6 percent: bigint.

    A HyperLogLog sketch of Apache DataSketches with 2^12 registers (Spark's hll_sketch_agg).

    Cost: grows with the keys, up to 4 kB each.

    >>> import sparkstream_kit as ss
    >>> numbers = ss.testing.local_session().range(1, 5)
    >>> distinct = {"distinct": ss.aggregates.approx_count_distinct("id")}
    >>> ss.aggregates.aggregate(numbers, [], distinct).first()["distinct"]
    4
    """
    sketch = Part(lambda: F.hll_sketch_agg(F.col(column).cast("string")), F.hll_union_agg)
    return Aggregate((sketch,), lambda s: F.coalesce(F.hll_sketch_estimate(s), F.lit(0)))


def approx_percentile(column: str, fraction: float) -> Aggregate:
    """The smallest value that at least this fraction of the values does not exceed: double; null if there is none.

    NaN is ignored, like null. Exact for up to 200 values. Beyond that, the rank is off by at most 1.33 percent of the
    number of values in 99 of 100 cases, and the result may differ when a batch is computed again. A KLL sketch of
    Apache DataSketches (kll_sketch_agg_double of Spark 4.1 and later). Raises UsageError for a fraction outside 0 to 1,
    and on an older Spark.

    Cost: grows with the keys, a few kB each.

    >>> import sparkstream_kit as ss
    >>> numbers = ss.testing.local_session().range(1, 5)
    >>> median = {"median": ss.aggregates.approx_percentile("id", 0.5)}
    >>> ss.aggregates.aggregate(numbers, [], median).first().median
    2.0
    """
    if not 0 <= fraction <= 1:
        raise UsageError(f"got the fraction {fraction}, expected a number from 0 to 1, for example 0.95")
    if not hasattr(F, "kll_merge_agg_double"):
        raise UsageError("approx_percentile needs Spark 4.1 or later: upgrade, or use max and mean")

    def numbers() -> Column:
        value = F.col(column).cast("double")
        return F.when(~F.isnan(value), value)

    sketch = Part(lambda: F.kll_sketch_agg_double(numbers()), F.kll_merge_agg_double)
    return Aggregate(
        (sketch, _counted(lambda: F.count(numbers()))),
        lambda s, n: F.when(n > 0, F.kll_sketch_get_quantile_double(s, F.lit(fraction))),
    )


def collect_set(column: str, limit: int) -> Aggregate:
    """The `limit` smallest distinct values, sorted: array of the column's type.

    Raises UsageError for a limit below 1.

    Cost: grows with the keys, up to `limit` values each.

    >>> import sparkstream_kit as ss
    >>> numbers = ss.testing.local_session().range(1, 5)
    >>> ss.aggregates.aggregate(numbers, [], {"some": ss.aggregates.collect_set("id", limit=3)}).first().some
    [1, 2, 3]
    """
    if limit < 1:
        raise UsageError(f"got the limit {limit}, expected at least 1")

    def smallest(values: Column) -> Column:
        return F.slice(F.array_sort(F.array_distinct(values)), 1, limit)

    some = Part(lambda: smallest(F.collect_set(column)), lambda part: smallest(F.flatten(F.collect_list(part))))
    return Aggregate((some,), lambda values: values)


def top_k(column: str, k: int) -> Aggregate:
    """The k most frequent values, most frequent first: array of struct(item: the column's type, count: bigint).

    Exact for a key with fewer distinct values than are tracked, which is 1,000 or `20 * k` if that is more; beyond
    that, counts are upper bounds. A frequent-items sketch of Apache DataSketches (approx_top_k of Spark 4.1 and later).
    Raises UsageError for k below 1.

    Cost: grows with the keys, up to 1,000 values each, or `20 * k` if that is more.

    >>> import sparkstream_kit as ss
    >>> endings = ss.testing.local_session().range(1, 8).selectExpr("cast(id % 3 as int) as ending")
    >>> ss.aggregates.aggregate(endings, [], {"top": ss.aggregates.top_k("ending", 1)}).first().top
    [Row(item=1, count=3)]
    """
    if k < 1:
        raise UsageError(f"got k = {k}, expected at least 1")
    tracked = builtins.max(1_000, 20 * k)
    sketch = Part(
        lambda: F.call_function("approx_top_k_accumulate", F.col(column), F.lit(tracked)),
        lambda part: F.call_function("approx_top_k_combine", part, F.lit(tracked)),
    )

    def best(part: Column) -> Column:
        # one more than requested, because the sketch also tracks null
        items = F.call_function("approx_top_k_estimate", part, F.lit(k + 1))
        return F.slice(F.filter(items, lambda item: item["item"].isNotNull()), 1, k)

    return Aggregate((sketch,), best)


# --- applying them to DataFrames


def aggregate(frame: DataFrame, keys: Columns, aggregates: Aggregates) -> DataFrame:
    """Aggregate a DataFrame by key. Columns: the keys, then one for each aggregate. Without keys there is one row.

    Cost: grows with the rows of the frame.

    >>> import sparkstream_kit as ss
    >>> even = ss.testing.local_session().range(5).selectExpr("id % 2 = 0 as even", "id")
    >>> summary = {"n": ss.aggregates.count(), "most": ss.aggregates.max("id")}
    >>> ss.aggregates.aggregate(even, "even", summary).sort("even").collect()
    [Row(even=False, n=2, most=3), Row(even=True, n=3, most=4)]
    """
    return result(partial(frame, keys, aggregates), keys, aggregates)


def partial(frame: DataFrame, keys: Columns, aggregates: Aggregates) -> DataFrame:
    """Partial aggregates of a DataFrame by key. Columns: the keys, then the parts `<name>`, `<name>_1`, ...

    Cost: grows with the rows of the frame.

    >>> import sparkstream_kit as ss
    >>> numbers = ss.testing.local_session().range(1, 5)
    >>> ss.aggregates.partial(numbers, [], {"mean": ss.aggregates.mean("id")}).collect()
    [Row(mean=10, mean_1=4)]
    """
    return frame.groupBy(*column_names(keys)).agg(*(part.make().alias(name) for name, part in named_parts(aggregates)))


def merge(frame: DataFrame, keys: Columns, aggregates: Aggregates) -> DataFrame:
    """Merge partial aggregates, of which a key may have several, into one row for each key. Columns: the same.

    Cost: grows with the rows of the frame, which are partial aggregates.

    >>> import sparkstream_kit as ss
    >>> spark, means = ss.testing.local_session(), {"mean": ss.aggregates.mean("id")}
    >>> one, two = (ss.aggregates.partial(spark.range(*ids), [], means) for ids in ((1, 5), (5, 7)))
    >>> ss.aggregates.merge(one.union(two), [], means).collect()
    [Row(mean=21, mean_1=6)]
    """
    types = {field.name: field.dataType for field in frame.schema}  # a sum of decimals would widen at each merge
    merged = (part.merge(F.col(name)).cast(types[name]).alias(name) for name, part in named_parts(aggregates))
    return frame.groupBy(*column_names(keys)).agg(*merged)


def result(frame: DataFrame, keys: Columns, aggregates: Aggregates) -> DataFrame:
    """Turn merged parts into results. Columns: the keys, then one for each aggregate.

    Cost: grows with the rows of the frame, which are partial aggregates.

    >>> import sparkstream_kit as ss
    >>> numbers = ss.testing.local_session().range(1, 5)
    >>> means = {"mean": ss.aggregates.mean("id")}
    >>> ss.aggregates.result(ss.aggregates.partial(numbers, [], means), [], means).collect()
    [Row(mean=2.5)]
    """
    results = [a.result(*map(F.col, _part_names(name, a))).alias(name) for name, a in aggregates.items()]
    return frame.select(*column_names(keys), *results)


def named_parts(aggregates: Aggregates) -> list[tuple[str, Part]]:
    """The columns of partial aggregates: `<name>` for the first part of each aggregate, then `<name>_1`, ...

    Cost: grows with the number of aggregates.

    >>> import sparkstream_kit as ss
    >>> aggregates = {"hits": ss.aggregates.count(), "mean": ss.aggregates.mean("bytes")}
    >>> [name for name, _ in ss.aggregates.named_parts(aggregates)]
    ['hits', 'mean', 'mean_1']
    """
    return [named for name, a in aggregates.items() for named in zip(_part_names(name, a), a.parts, strict=True)]


def _part_names(name: str, aggregate: Aggregate) -> list[str]:
    return [name, *(f"{name}_{i}" for i in range(1, len(aggregate.parts)))]


def _counted(make: Callable[[], Column]) -> Part:
    return Part(make, F.sum, additive=True)


def _squares(column: str) -> Column:
    """Sum of squared differences from the mean."""
    return F.coalesce(F.var_pop(column) * F.count(column), F.lit(0.0))


def _pair(a: Column, b: Column) -> Column:
    n = a["n"] + b["n"]
    apart = b["mean"] - a["mean"]
    share = F.when(n > 0, b["n"] / n).otherwise(0.0)
    return F.struct(
        n.alias("n"),
        (a["mean"] + apart * share).alias("mean"),
        (a["m2"] + b["m2"] + apart * apart * a["n"] * share).alias("m2"),
    )
