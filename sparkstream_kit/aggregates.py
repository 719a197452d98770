"""Aggregates that merge: one value says how to start from rows, how to merge partial results and how to finish.

Windows, running state, sessions and plain batches all use the same values:

    requests.reduce_by_key_and_window("path", {"hits": count(), "bytes": sum("bytes")}, "60s", "10s")

Null values count as nothing, as in SQL. Names are those of SQL, too: use them as `aggregates.sum`.
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
    """One column that is kept: made of rows, merged with more of its kind."""

    make: Callable[[], Column]
    merge: Callable[[Column], Column]
    additive: bool = False
    """Whether merging is adding, so that rows which are gone can be taken back by adding their negative."""


@dataclass(frozen=True)
class Aggregate:
    """How to compute one result column in parts; `result` makes it of the merged parts."""

    parts: tuple[Part, ...]
    result: Callable[..., Column]


Aggregates = Mapping[str, Aggregate]


def count() -> Aggregate:
    """Number of rows: bigint.

    >>> aggregate(getfixture("spark").range(1, 5), [], {"n": count()}).first().n
    4
    """
    return Aggregate((_counted(lambda: F.count("*")),), lambda n: n)


def sum(column: str) -> Aggregate:
    """Sum of a column: bigint of whole numbers, else double or decimal; null where every value was null.

    Exact, and exact in windows, for whole numbers and decimals. Of doubles it is as exact as the order of addition.

    >>> aggregate(getfixture("spark").range(1, 5), [], {"sum": sum("id")}).first()["sum"]
    10

    A total of whole numbers that leaves bigint is an error, as Spark's is.
    """
    total = Part(lambda: F.sum(column), F.sum, additive=True)
    return Aggregate((total, _counted(lambda: F.count(column))), lambda s, n: F.when(n > 0, s))


def min(column: str) -> Aggregate:
    """Smallest value: the column's type; null where there was none.

    >>> aggregate(getfixture("spark").range(1, 5), [], {"least": min("id")}).first().least
    1
    """
    return Aggregate((Part(lambda: F.min(column), F.min),), lambda smallest: smallest)


def max(column: str) -> Aggregate:
    """Largest value: the column's type; null where there was none.

    >>> aggregate(getfixture("spark").range(1, 5), [], {"most": max("id")}).first().most
    4
    """
    return Aggregate((Part(lambda: F.max(column), F.max),), lambda largest: largest)


def min_by(column: str, by: str) -> Aggregate:
    """The value in the row with the smallest `by`: the column's type. Of equal rows the smallest value, null first.

    >>> visits = getfixture("spark").createDataFrame([("/cart", 7), ("/", 5), ("/pay", None)], "path string, at int")
    >>> aggregate(visits, [], {"entry": min_by("path", by="at")}).first().entry
    '/'
    """
    pair = Part(lambda: F.min(F.when(F.col(by).isNotNull(), F.struct(by, F.col(column).alias("value")))), F.min)
    return Aggregate((pair,), lambda smallest: smallest["value"])


def max_by(column: str, by: str) -> Aggregate:
    """The value in the row with the largest `by`: the column's type. Of equal rows the largest value, null last.

    >>> visits = getfixture("spark").createDataFrame([("/cart", 7), ("/", 5), ("/pay", None)], "path string, at int")
    >>> aggregate(visits, [], {"exit": max_by("path", by="at")}).first().exit
    '/cart'
    """
    pair = Part(lambda: F.max(F.when(F.col(by).isNotNull(), F.struct(by, F.col(column).alias("value")))), F.max)
    return Aggregate((pair,), lambda largest: largest["value"])


def mean(column: str) -> Aggregate:
    """Arithmetic mean: double; null where there was no value.

    >>> aggregate(getfixture("spark").range(1, 5), [], {"mean": mean("id")}).first().mean
    2.5
    """
    total = Part(lambda: F.sum(column), F.sum, additive=True)
    return Aggregate((total, _counted(lambda: F.count(column))), lambda s, n: F.when(n > 0, s.cast("double") / n))


def variance(column: str) -> Aggregate:
    """Sample variance: double; null below two values.

    Merged by the pairwise update of Chan, Golub and LeVeque (1979), which does not lose digits where the mean is large.

    >>> aggregate(getfixture("spark").range(10**9, 10**9 + 3), [], {"variance": variance("id")}).first().variance
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
    """Number of different values, with a standard error of 1.6 percent: bigint.

    A HyperLogLog sketch of Apache DataSketches with 2^12 registers (Spark's hll_sketch_agg): up to 4 kB for each key.

    >>> aggregate(getfixture("spark").range(1, 5), [], {"different": approx_count_distinct("id")}).first().different
    4
    """
    sketch = Part(lambda: F.hll_sketch_agg(F.col(column).cast("string")), F.hll_union_agg)
    return Aggregate((sketch,), lambda s: F.coalesce(F.hll_sketch_estimate(s), F.lit(0)))


def approx_percentile(column: str, fraction: float) -> Aggregate:
    """The smallest value that at least that fraction of the values does not exceed: double; null without values.

    NaN is no value.

    Exact for up to 200 values; of more, the rank of the value is off by at most 1.33 percent of their number in 99 of
    100 cases, and may differ when a batch is computed again. A KLL sketch of Apache DataSketches (Spark's
    kll_sketch_agg_double), which Spark has from 4.1 on: UsageError before.

    >>> aggregate(getfixture("spark").range(1, 5), [], {"median": approx_percentile("id", 0.5)}).first().median
    2.0
    """
    if not 0 <= fraction <= 1:
        raise UsageError(f"got the fraction {fraction}, expected a number from 0 to 1, for example 0.95")
    if not hasattr(F, "kll_merge_agg_double"):
        raise UsageError("approx_percentile needs the KLL sketches of a newer Spark: upgrade, or use max and mean")

    def numbers() -> Column:
        value = F.col(column).cast("double")
        return F.when(~F.isnan(value), value)

    sketch = Part(lambda: F.kll_sketch_agg_double(numbers()), F.kll_merge_agg_double)
    return Aggregate(
        (sketch, _counted(lambda: F.count(numbers()))),
        lambda s, n: F.when(n > 0, F.kll_sketch_get_quantile_double(s, F.lit(fraction))),
    )


def collect_set(column: str, limit: int) -> Aggregate:
    """Different values, sorted, at most `limit` of them, the smallest ones: array of the column's type.

    Raises UsageError for a limit below 1.

    >>> aggregate(getfixture("spark").range(1, 5), [], {"some": collect_set("id", limit=3)}).first().some
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

    A frequent-items sketch of Apache DataSketches (Spark's approx_top_k, from 4.1 on) that tracks 1,000 values or more:
    exact while a key has fewer different values than that, beyond it counts are estimates from above. Raises
    UsageError for k below 1.

    >>> endings = getfixture("spark").range(1, 8).selectExpr("cast(id % 3 as int) as ending")
    >>> aggregate(endings, [], {"top": top_k("ending", 1)}).first().top
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
        # one more than asked for: the sketch also tracks null
        items = F.call_function("approx_top_k_estimate", part, F.lit(k + 1))
        return F.slice(F.filter(items, lambda item: item["item"].isNotNull()), 1, k)

    return Aggregate((sketch,), best)


# --- applying them to frames


def aggregate(frame: DataFrame, keys: Columns, aggregates: Aggregates) -> DataFrame:
    """One row for each key: columns keys, then one for each aggregate. Without keys one row for all.

    >>> even = getfixture("spark").range(5).selectExpr("id % 2 = 0 as even", "id")
    >>> aggregate(even, "even", {"n": count(), "most": max("id")}).sort("even").collect()
    [Row(even=False, n=2, most=3), Row(even=True, n=3, most=4)]
    """
    return result(partial(frame, keys, aggregates), keys, aggregates)


def partial(frame: DataFrame, keys: Columns, aggregates: Aggregates) -> DataFrame:
    """One row for each key with the parts of all aggregates: columns keys, then `<name>`, `<name>_1`, ...

    >>> partial(getfixture("spark").range(1, 5), [], {"mean": mean("id")}).collect()
    [Row(mean=10, mean_1=4)]
    """
    return frame.groupBy(*column_names(keys)).agg(*(part.make().alias(name) for name, part in named_parts(aggregates)))


def merge(frame: DataFrame, keys: Columns, aggregates: Aggregates) -> DataFrame:
    """Partial rows, several for a key, merged to one row for each key; same columns.

    >>> spark, means = getfixture("spark"), {"mean": mean("id")}
    >>> one, two = partial(spark.range(1, 5), [], means), partial(spark.range(5, 7), [], means)
    >>> merge(one.union(two), [], means).collect()
    [Row(mean=21, mean_1=6)]
    """
    types = {field.name: field.dataType for field in frame.schema}  # a sum of decimals would widen at each merge
    merged = (part.merge(F.col(name)).cast(types[name]).alias(name) for name, part in named_parts(aggregates))
    return frame.groupBy(*column_names(keys)).agg(*merged)


def result(frame: DataFrame, keys: Columns, aggregates: Aggregates) -> DataFrame:
    """Merged parts turned into results: columns keys, then one for each aggregate.

    >>> means = {"mean": mean("id")}
    >>> result(partial(getfixture("spark").range(1, 5), [], means), [], means).collect()
    [Row(mean=2.5)]
    """
    results = [a.result(*map(F.col, _part_names(name, a))).alias(name) for name, a in aggregates.items()]
    return frame.select(*column_names(keys), *results)


def named_parts(aggregates: Aggregates) -> list[tuple[str, Part]]:
    """The columns that are kept: `<name>` for the first part of an aggregate, then `<name>_1`, ...

    >>> [name for name, _ in named_parts({"hits": count(), "mean": mean("bytes")})]
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
