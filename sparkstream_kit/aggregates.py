"""Aggregates that merge: how to start from rows, how to merge partial results and how to finish, in one value.

Windows, states, sessions and plain batches all take the same ones:

    hits = {"hits": ss.aggregates.count(), "bytes": ss.aggregates.sum("bytes")}
    requests.reduce_by_key_and_window("path", hits, "60s", "10s")

Nulls are ignored, as in SQL. The names are those of SQL, and some are those of builtins: write `aggregates.sum`.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ParamSpec

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, IntegralType, LongType, StructType

from .columns import Columns, check_unique, column_names, named, quoted
from .errors import UsageError
from .recovery.snapshots import MEANS


@dataclass(frozen=True)
class Part:
    """One partial-aggregate column: how to build it from the rows of a frame, and how to merge several."""

    make: Callable[[DataFrame], Column]
    merge: Callable[..., Column]
    """Called with the columns of all parts of the aggregate."""
    means: str = ""
    """What it is, such as "sum(bytes)": a saved state whose column meant something else is refused."""
    empty: Callable[[DataType], Column] | None = None
    """What takes the place of null, for a merge that cannot bear it; given the type of the column. A key that was saved
    before its aggregate was added has null."""
    additive: bool = False
    """Whether merging is addition, so that rows are removed again by adding the negative of their part."""


@dataclass(frozen=True)
class Aggregate:
    """How to compute one result column in parts; `result` turns the merged parts into it."""

    parts: tuple[Part, ...]
    result: Callable[..., Column]
    column: str = ""
    of_integers: Aggregate | None = None
    """Used instead if `column` has integers; its first part is then bigint, and it has as many parts."""
    call: tuple[Any, ...] = field(default=(), init=False)
    """The function of this module that made it, by its name, and the arguments; empty for one of yours, and for a copy
    by `dataclasses.replace`, which may have another result."""


Aggregates = Mapping[str, Aggregate]

CALL = "call"
"""Key of the call that made an aggregate, in the metadata of its first column."""

P = ParamSpec("P")


def _noted(make: Callable[P, Aggregate]) -> Callable[P, Aggregate]:
    """A function whose aggregates know that it made them, so that a saved state can be read without its job."""

    @functools.wraps(make)
    def noted(*arguments: P.args, **options: P.kwargs) -> Aggregate:
        made, bound = make(*arguments, **options), inspect.signature(make).bind(*arguments, **options)
        object.__setattr__(made, "call", (make.__name__, *bound.arguments.values()))
        return made

    return noted


_LOW = 2**32 - 1
"""The lower 32 bits."""


@_noted
def count() -> Aggregate:
    """Number of rows: bigint.

    Cost: grows with the keys, one number each.

    >>> import sparkstream_kit as ss
    >>> numbers = ss.testing.local_session().range(1, 5)
    >>> ss.aggregates.aggregate(numbers, [], {"n": ss.aggregates.count()}).first().n
    4
    """
    return Aggregate((Part(lambda _: F.count("*"), F.sum, "count(*)", additive=True),), lambda n: n)


@_noted
def sum(column: str) -> Aggregate:
    """Sum of a column: bigint for integers, else double or decimal; null if every value is null.

    Exact for integers and decimals, also in windows; for doubles it depends on the order of addition. While a sum of
    integers does not fit bigint it is null; it is kept in 96 bits, so it comes back when the window has passed.

    Cost: grows with the keys, three numbers each.

    >>> import sparkstream_kit as ss
    >>> numbers = ss.testing.local_session().range(1, 5)
    >>> ss.aggregates.aggregate(numbers, [], {"sum": ss.aggregates.sum("id")}).first()["sum"]
    10
    """

    def fitting(low: Column, n: Column, high: Column) -> Column:
        top = _carried(low, high)
        fits = (n > 0) & (top >= -(2**31)) & (top < 2**31)
        return F.when(fits, F.shiftleft(top, 32).bitwiseOR(low.bitwiseAND(_LOW)))

    return _total(column, lambda total, n: F.when(n > 0, total), fitting)


@_noted
def min(column: str) -> Aggregate:
    """Smallest value: the column's type; null if there is none.

    Cost: grows with the keys, one value each.

    >>> import sparkstream_kit as ss
    >>> numbers = ss.testing.local_session().range(1, 5)
    >>> ss.aggregates.aggregate(numbers, [], {"least": ss.aggregates.min("id")}).first().least
    1
    """
    least = Part(lambda frame: F.min(_column(frame, column)), F.min, f"min({column})")
    return Aggregate((least,), lambda smallest: smallest)


@_noted
def max(column: str) -> Aggregate:
    """Largest value: the column's type; null if there is none.

    Cost: grows with the keys, one value each.

    >>> import sparkstream_kit as ss
    >>> numbers = ss.testing.local_session().range(1, 5)
    >>> ss.aggregates.aggregate(numbers, [], {"most": ss.aggregates.max("id")}).first().most
    4
    """
    most = Part(lambda frame: F.max(_column(frame, column)), F.max, f"max({column})")
    return Aggregate((most,), lambda largest: largest)


@_noted
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
    pair = Part(lambda frame: F.min(_pair_of(frame, by, column)), F.min, f"min_by({column}, {by})")
    return Aggregate((pair,), lambda smallest: smallest["value"])


@_noted
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
    pair = Part(lambda frame: F.max(_pair_of(frame, by, column)), F.max, f"max_by({column}, {by})")
    return Aggregate((pair,), lambda largest: largest["value"])


@_noted
def mean(column: str) -> Aggregate:
    """Arithmetic mean: double; null if there is no value.

    Cost: grows with the keys, three numbers each.

    >>> import sparkstream_kit as ss
    >>> numbers = ss.testing.local_session().range(1, 5)
    >>> ss.aggregates.aggregate(numbers, [], {"mean": ss.aggregates.mean("id")}).first().mean
    2.5
    """

    def wide(low: Column, n: Column, high: Column) -> Column:
        return F.when(n > 0, (_carried(low, high).cast("double") * 2.0**32 + low.bitwiseAND(_LOW)) / n)

    return _total(column, lambda total, n: F.when(n > 0, total.cast("double") / n), wide)


@_noted
def variance(column: str) -> Aggregate:
    """Sample variance: double; null for fewer than two values.

    Merged pairwise as by Chan, Golub and LeVeque (1979), which keeps its precision when the mean is large.

    Cost: grows with the keys, three numbers each.

    >>> import sparkstream_kit as ss
    >>> large = ss.testing.local_session().range(10**9, 10**9 + 3)
    >>> ss.aggregates.aggregate(large, [], {"variance": ss.aggregates.variance("id")}).first().variance
    1.0
    """

    def make(frame: DataFrame) -> Column:
        values = _column(frame, column).cast("double")
        n, centre = F.count(values).cast("double"), F.avg(values)
        return F.struct(n.alias("n"), F.coalesce(centre, F.lit(0.0)).alias("mean"), _squares(values).alias("m2"))

    def merge(part: Column) -> Column:
        nothing = F.struct(F.lit(0.0).alias("n"), F.lit(0.0).alias("mean"), F.lit(0.0).alias("m2"))
        return F.aggregate(F.collect_list(part), nothing, _pair)

    return Aggregate((Part(make, merge, f"variance({column})"),), lambda p: F.when(p["n"] > 1, p["m2"] / (p["n"] - 1)))


@_noted
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
    sketch = Part(
        lambda frame: F.hll_sketch_agg(_column(frame, column).cast("string")),
        F.hll_union_agg,
        f"approx_count_distinct({column})",
    )
    return Aggregate((sketch,), lambda s: F.coalesce(F.hll_sketch_estimate(s), F.lit(0)))


@_noted
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

    def numbers(frame: DataFrame) -> Column:
        value = _column(frame, column).cast("double")
        return F.when(~F.isnan(value), value)

    sketch = Part(
        lambda frame: F.kll_sketch_agg_double(numbers(frame)),
        lambda s, n: F.kll_merge_agg_double(s),
        f"approx_percentile({column})",
    )
    counted = Part(
        lambda frame: F.count(numbers(frame)), lambda s, n: F.sum(n), f"count of numbers({column})", additive=True
    )
    return Aggregate(
        (sketch, counted),
        lambda s, n: F.when(n > 0, F.kll_sketch_get_quantile_double(s, F.lit(fraction))),
    )


@_noted
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

    some = Part(
        lambda frame: smallest(F.collect_set(_column(frame, column))),
        lambda part: smallest(F.flatten(F.collect_list(part))),
        f"collect_set({column}, {limit})",
    )
    return Aggregate((some,), lambda values: values)


@_noted
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
        lambda frame: F.call_function("approx_top_k_accumulate", _column(frame, column), F.lit(tracked)),
        lambda part: F.call_function("approx_top_k_combine", part, F.lit(tracked)),
        f"top_k({column})",
        functools.partial(_empty_sketch, tracked),
    )

    def best(part: Column) -> Column:
        # one more than requested, because the sketch also tracks null
        items = F.call_function("approx_top_k_estimate", part, F.lit(k + 1))
        return F.slice(F.filter(items, lambda item: item["item"].isNotNull()), 1, k)

    return Aggregate((sketch,), best)


# --- applying them to DataFrames


def aggregate(frame: DataFrame, keys: Columns, aggregates: Aggregates) -> DataFrame:
    """Aggregate a DataFrame by key. Columns: the keys, then one for each aggregate. Without keys there is one row.

    Raises the errors of `partial`.

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

    Raises UsageError if two of them have one name.

    Cost: grows with the rows of the frame.

    >>> import sparkstream_kit as ss
    >>> numbers = ss.testing.local_session().range(1, 5)
    >>> ss.aggregates.partial(numbers, [], {"mean": ss.aggregates.mean("id")}).collect()
    [Row(mean=10, mean_1=4, mean_2=0)]
    """
    check_unique([*column_names(keys), *(name for name, _ in named_parts(aggregates))])
    typed = {
        name: a.of_integers if a.of_integers and _has_integers(frame, a.column) else a for name, a in aggregates.items()
    }
    parts = (part.make(frame).alias(name) for name, part in named_parts(typed))
    return frame.groupBy(*named(keys)).agg(*parts)


def merge(frame: DataFrame, keys: Columns, aggregates: Aggregates) -> DataFrame:
    """Merge partial aggregates, of which a key may have several, into one row for each key. Columns: the same.

    Cost: grows with the rows of the frame, which are partial aggregates.

    >>> import sparkstream_kit as ss
    >>> spark, means = ss.testing.local_session(), {"mean": ss.aggregates.mean("id")}
    >>> one, two = (ss.aggregates.partial(spark.range(*ids), [], means) for ids in ((1, 5), (5, 7)))
    >>> ss.aggregates.merge(one.union(two), [], means).collect()
    [Row(mean=21, mean_1=6, mean_2=0)]
    """
    types = {field.name: field.dataType for field in frame.schema}  # a sum of decimals would widen at each merge
    merged = []
    for name, a in aggregates.items():
        names, parts = _part_names(name, a), _typed(a, types[name]).parts
        columns = [
            F.coalesce(column, part.empty(types[name])) if part.empty else column
            for name, column, part in zip(names, named(names), parts, strict=True)
        ]
        merged += [part.merge(*columns).cast(types[n]).alias(n) for n, part in zip(names, parts, strict=True)]
    if not column_names(keys) and any(part.empty for _, part in named_parts(aggregates)):
        frame = frame.coalesce(1)  # such a merge fails in a partition without rows, too
    return frame.groupBy(*named(keys)).agg(*merged)


def result(frame: DataFrame, keys: Columns, aggregates: Aggregates) -> DataFrame:
    """Turn merged parts into results. Columns: the keys, then one for each aggregate.

    Cost: grows with the rows of the frame, which are partial aggregates.

    >>> import sparkstream_kit as ss
    >>> numbers = ss.testing.local_session().range(1, 5)
    >>> means = {"mean": ss.aggregates.mean("id")}
    >>> ss.aggregates.result(ss.aggregates.partial(numbers, [], means), [], means).collect()
    [Row(mean=2.5)]
    """
    types = {field.name: field.dataType for field in frame.schema}
    results = (
        _typed(a, types[name]).result(*named(_part_names(name, a))).alias(name) for name, a in aggregates.items()
    )
    return frame.select(*named(keys), *results)


def named_parts(aggregates: Aggregates) -> list[tuple[str, Part]]:
    """The columns of partial aggregates: `<name>` for the first part of each aggregate, then `<name>_1`, ...

    Cost: grows with the number of aggregates.

    >>> import sparkstream_kit as ss
    >>> aggregates = {"hits": ss.aggregates.count(), "mean": ss.aggregates.mean("bytes")}
    >>> [name for name, _ in ss.aggregates.named_parts(aggregates)]
    ['hits', 'mean', 'mean_1', 'mean_2']
    """
    return [named for name, a in aggregates.items() for named in zip(_part_names(name, a), a.parts, strict=True)]


def _part_names(name: str, aggregate: Aggregate) -> list[str]:
    return [name, *(f"{name}_{i}" for i in range(1, len(aggregate.parts)))]


def metadata(aggregates: Aggregates) -> dict[str, dict[str, str]]:
    """What is saved of the columns of partial aggregates: what each `means`, and the `call` that made an aggregate.

    Cost: grows with the number of aggregates.

    >>> import sparkstream_kit as ss
    >>> ss.aggregates.metadata({"hits": ss.aggregates.count(), "most": ss.aggregates.max("bytes")})
    {'hits': {'means': 'count(*)', 'call': '["count"]'}, 'most': {'means': 'max(bytes)', 'call': '["max", "bytes"]'}}
    """
    about: dict[str, dict[str, str]] = {
        name: {MEANS: part.means} for name, part in named_parts(aggregates) if part.means
    }
    for name, aggregate in aggregates.items():
        if aggregate.call:
            about.setdefault(name, {})[CALL] = json.dumps(aggregate.call, default=str)
    return about


def saved(schema: StructType) -> dict[str, Aggregate]:
    """The aggregates whose parts are columns of a schema, by their `metadata`; those of your own are not known.

    Cost: grows with the columns.

    >>> import sparkstream_kit as ss
    >>> from pyspark.sql.types import StructType
    >>> about = ss.aggregates.metadata({"n": ss.aggregates.count()})
    >>> [*ss.aggregates.saved(StructType().add("client", "string").add("n", "long", metadata=about["n"]))]
    ['n']
    """
    found = {}
    for column in schema:
        with contextlib.suppress(ValueError, TypeError, KeyError, UsageError):
            name, *arguments = json.loads(column.metadata[CALL])
            found[column.name] = BUILT_IN[name](*arguments)
    return {name: aggregate for name, aggregate in found.items() if {*_part_names(name, aggregate)} <= {*schema.names}}


def _column(frame: DataFrame, name: str) -> Column:
    """The column of that very name, whatever it contains, or else the field of a struct: request.bytes."""
    return F.col(quoted(name) if name in frame.columns else name)


def _total(column: str, result: Callable[..., Column], of_integers: Callable[..., Column]) -> Aggregate:
    """An aggregate of the sum of a column, and of the number of its values.

    A sum of integers is kept as low + high * 2**32, so that it never overflows: two lines with 2**63 - 1 bytes in a log
    would otherwise stop the job for good. A low that was saved before there was a high has all 64 bits.
    """
    count = Part(
        lambda frame: F.count(_column(frame, column)),
        lambda total, n, high: F.sum(n),
        f"count({column})",
        additive=True,
    )
    means = f"sum({column})"
    total = Part(lambda frame: F.sum(_column(frame, column)), lambda total, n, high: F.sum(total), means, additive=True)
    unused = Part(lambda frame: F.lit(None).cast("bigint"), lambda total, n, high: F.sum(high), additive=True)

    def integers(frame: DataFrame) -> Column:
        return _column(frame, column).cast("bigint")

    low = Part(
        lambda frame: F.sum(integers(frame).bitwiseAND(_LOW)),
        lambda low, n, high: F.sum(low.bitwiseAND(_LOW)),
        means,
        additive=True,
    )
    high = Part(
        lambda frame: F.sum(F.shiftright(integers(frame), 32)),
        lambda low, n, high: F.sum(_carried(low, high)),
        additive=True,
    )
    wide = Aggregate((low, count, high), of_integers)
    return Aggregate((total, count, unused), lambda total, n, high: result(total, n), column, wide)


def _carried(low: Column, high: Column) -> Column:
    """The high with what the low has above 32 bits."""
    return F.coalesce(high, F.lit(0)) + F.shiftright(low, 32)


def _typed(aggregate: Aggregate, first: DataType) -> Aggregate:
    """The aggregate, or the one of integers, by the type of its first part."""
    return aggregate.of_integers if aggregate.of_integers and isinstance(first, LongType) else aggregate


def _has_integers(frame: DataFrame, column: str) -> bool:
    field = frame.schema[column] if column in frame.columns else frame.select(column).schema[0]
    return isinstance(field.dataType, IntegralType)


def _empty_sketch(tracked: int, kind: DataType) -> Column:
    """What approx_top_k_accumulate (Spark 4.2.1) returns for no rows: an ItemsSketch of Apache DataSketches.

    That is its preamble of one word, version 1, family 10, the logarithms of the largest and the current size, and the
    flag that it is empty; nine bytes are zero or unused.
    """
    assert isinstance(kind, StructType)
    largest = math.ceil(math.log2(tracked / 0.75))
    values = {
        "sketch": F.lit(bytes([1, 1, 10, largest, 3, 5]) + bytes(10)),
        "maxItemsTracked": F.lit(tracked),
        "itemDataType": F.lit(None),
        "itemDataTypeDDL": F.lit(f"item {kind['itemDataType'].dataType.simpleString()} not null"),
    }
    return F.struct(*(values[field.name].cast(field.dataType).alias(field.name) for field in kind))


def _pair_of(frame: DataFrame, by: str, column: str) -> Column:
    order, value = _column(frame, by), _column(frame, column)
    name = "by" if by.lower() == "value" else by  # saved states have its name
    return F.when(order.isNotNull(), F.struct(order.alias(name), value.alias("value")))


def _squares(values: Column) -> Column:
    """Sum of squared differences from the mean."""
    return F.coalesce(F.var_pop(values) * F.count(values), F.lit(0.0))


def _pair(a: Column, b: Column) -> Column:
    n = a["n"] + b["n"]
    apart = b["mean"] - a["mean"]
    share = F.when(n > 0, b["n"] / n).otherwise(0.0)
    return F.struct(
        n.alias("n"),
        (a["mean"] + apart * share).alias("mean"),
        (a["m2"] + b["m2"] + apart * apart * a["n"] * share).alias("m2"),
    )


BUILT_IN: Mapping[str, Callable[..., Aggregate]] = MappingProxyType(
    {
        make.__name__: make
        for make in (
            count,
            sum,
            min,
            max,
            min_by,
            max_by,
            mean,
            variance,
            approx_count_distinct,
            approx_percentile,
            collect_set,
            top_k,
        )
    }
)
"""The functions that make aggregates, by their names."""
