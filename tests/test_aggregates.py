"""Aggregates against plain Python, however rows are split and in whatever order the parts are merged."""

from __future__ import annotations

import functools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from sparkstream_kit import aggregates as agg
from sparkstream_kit.errors import UsageError
from sparkstream_kit.testing import local_session
from tests.support.ticks import few


class Line(NamedTuple):
    """A row, and the part of the input that it belongs to."""

    split: int
    k: str
    v: int | None
    x: float | None
    at: int | None


SCHEMA = "split int, k string, v bigint, x double, at bigint"
FAR = 1e9  # a mean so large that the textbook formula for the variance would lose every digit

LINES = st.lists(
    st.builds(
        Line,
        st.integers(0, 3),
        st.sampled_from("ab"),
        st.none() | st.integers(-3, 3),
        st.none() | st.integers(-100, 100).map(lambda n: FAR + n / 8),
        st.none() | st.integers(0, 2),
    ),
    min_size=1,
    max_size=25,
)


def nulls_first(value: Any) -> tuple[bool, Any]:
    return (value is not None, value)


def values(lines: Sequence[Line], column: str) -> list[Any]:
    return [value for line in lines if (value := getattr(line, column)) is not None]


def at_rank(numbers: Sequence[float], fraction: float) -> float | None:
    return sorted(numbers)[max(math.ceil(fraction * len(numbers)) - 1, 0)] if numbers else None


# each aggregate, and the same in plain Python over all rows of a key
AGGREGATES: dict[str, tuple[agg.Aggregate, Callable[[Sequence[Line]], Any]]] = {
    "count": (agg.count(), len),
    "sum": (agg.sum("v"), lambda lines: sum(values(lines, "v")) if values(lines, "v") else None),
    "min": (agg.min("v"), lambda lines: min(values(lines, "v"), default=None)),
    "max": (agg.max("v"), lambda lines: max(values(lines, "v"), default=None)),
    "mean": (agg.mean("x"), lambda lines: statistics.fmean(values(lines, "x")) if values(lines, "x") else None),
    "variance": (
        agg.variance("x"),
        lambda lines: statistics.variance(values(lines, "x")) if len(values(lines, "x")) > 1 else None,
    ),
    "first": (
        agg.min_by("v", by="at"),
        lambda lines: min(((line.at, nulls_first(line.v)) for line in lines if line.at is not None), default=None),
    ),
    "last": (
        agg.max_by("v", by="at"),
        lambda lines: max(((line.at, nulls_first(line.v)) for line in lines if line.at is not None), default=None),
    ),
    "different": (agg.approx_count_distinct("v"), lambda lines: len(set(values(lines, "v")))),
    "median": (agg.approx_percentile("x", 0.5), lambda lines: at_rank(values(lines, "x"), 0.5)),
    "p90": (agg.approx_percentile("v", 0.9), lambda lines: at_rank(values(lines, "v"), 0.9)),
    "smallest": (agg.collect_set("v", limit=3), lambda lines: sorted(set(values(lines, "v")))[:3]),
    "top": (agg.top_k("v", 2), lambda lines: sorted(Counter(values(lines, "v")).values(), reverse=True)[:2]),
}
ALL = {name: aggregate for name, (aggregate, _) in AGGREGATES.items()}


def merged(parts: Sequence[DataFrame], at_once: bool) -> DataFrame:
    """All parts merged at once, or one after the other."""
    if at_once:
        return agg.merge(functools.reduce(DataFrame.union, parts), "k", ALL)
    return functools.reduce(lambda a, b: agg.merge(a.union(b), "k", ALL), parts)


def in_plain_python(name: str, lines: Sequence[Line]) -> Any:
    expected = AGGREGATES[name][1](lines)
    return expected[1][1] if name in ("first", "last") and expected is not None else expected


@pytest.mark.slow
@few(5)
@given(lines=LINES, order=st.permutations(range(4)), at_once=st.booleans())
def test_every_aggregate_is_correct_however_rows_are_split_and_merged(
    lines: list[Line], order: list[int], at_once: bool, spark: SparkSession
) -> None:
    frame = spark.createDataFrame(lines, SCHEMA).cache()
    parts = [agg.partial(frame.filter(F.col("split") == split), "k", ALL) for split in order]
    rows = {row["k"]: row for row in agg.result(merged(parts, at_once), "k", ALL).collect()}
    frame.unpersist()
    assert rows.keys() == {line.k for line in lines}
    for k, row in rows.items():
        of_key = [line for line in lines if line.k == k]
        counts = Counter(values(of_key, "v"))
        assert all(counts[item] == count for item, count in row["top"])
        for name in AGGREGATES:
            got = [count for _, count in row["top"]] if name == "top" else row[name]
            expected = in_plain_python(name, of_key)
            assert got == expected or got == pytest.approx(expected, rel=1e-4), name


def test_without_values_counts_are_zero_and_everything_else_is_empty_or_null(spark: SparkSession) -> None:
    nothing = spark.createDataFrame([], SCHEMA)
    for frame in (nothing, spark.createDataFrame([Line(0, "a", None, None, None)], SCHEMA)):
        (row,) = agg.result(agg.partial(frame, [], ALL), [], ALL).collect()
        zero = {"count": frame.count(), "different": 0, "smallest": [], "top": []}
        assert row.asDict() == {name: zero.get(name) for name in AGGREGATES}


@pytest.mark.parametrize("size", [100, 5_000, 50_000])
def test_sketches_stay_within_their_documented_error(size: int, spark: SparkSession) -> None:
    frame = spark.range(size).selectExpr("id * 7919 % 100003 as v", "cast(id % 7 as int) as split")
    sketches = {
        "different": agg.approx_count_distinct("v"),
        **{f"p{p}": agg.approx_percentile("v", p / 100) for p in (1, 50, 95)},
    }
    parts = [agg.partial(frame.filter(F.col("split") == split), [], sketches) for split in range(7)]
    (row,) = agg.result(agg.merge(functools.reduce(DataFrame.union, parts), [], sketches), [], sketches).collect()
    ranked = sorted(i * 7919 % 100003 for i in range(size))
    assert row["different"] == pytest.approx(size, rel=3 * 0.016)
    for p in (1, 50, 95):
        rank = sum(v <= row[f"p{p}"] for v in ranked) / size
        assert rank == pytest.approx(p / 100, abs=2 * 0.0133)


def test_top_k_finds_the_frequent_values_among_more_than_it_tracks(spark: SparkSession) -> None:
    often = spark.range(3_000).selectExpr("cast(id % 3 as int) as v")
    once = spark.range(20_000).selectExpr("cast(id + 100 as int) as v")
    top = {"top": agg.top_k("v", 3)}
    parts = [agg.partial(often, [], top), agg.partial(once, [], top)]
    (row,) = agg.result(agg.merge(parts[0].union(parts[1]), [], top), [], top).collect()
    assert {item for item, _ in row["top"]} == {0, 1, 2}
    assert all(1_000 <= count <= 1_100 for _, count in row["top"])


def test_a_plain_dataframe_is_aggregated_the_same_way(spark: SparkSession) -> None:
    frame = spark.createDataFrame([("a", 1), ("a", 2), (None, 3)], "k string, v bigint")
    sums = {"n": agg.count(), "sum": agg.sum("v")}
    assert sorted(map(tuple, agg.aggregate(frame, "k", sums).collect()), key=repr) == [("a", 2, 3), (None, 1, 3)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: agg.approx_percentile("v", 95), "got the fraction 95, expected a number from 0 to 1"),
        (lambda: agg.top_k("v", 0), "got k = 0, expected at least 1"),
        (lambda: agg.collect_set("v", 0), "got the limit 0, expected at least 1"),
    ],
)
def test_a_parameter_out_of_range_is_refused(make: Callable[[], agg.Aggregate], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


@pytest.mark.parametrize("by", ["value", "Value", "by"])
def test_a_value_may_be_chosen_by_a_column_of_any_name(by: str, spark: SparkSession) -> None:
    rows = spark.createDataFrame([("a", 1), ("c", 2), ("b", 3)], f"k string, {by} bigint")
    chosen = {"first": agg.min_by("k", by=by), "last": agg.max_by("k", by=by), "most": agg.max_by(by, by="k")}
    parts = agg.partial(rows, [], chosen)
    assert agg.result(agg.merge(parts.union(parts), [], chosen), [], chosen).collect() == [("a", "b", 2)]


def test_a_percentile_ignores_nan_even_if_there_is_nothing_else(spark: SparkSession) -> None:
    rows = spark.createDataFrame([("a", 1.0), ("a", float("nan")), ("b", float("nan"))], "k string, x double")
    found = agg.aggregate(rows, "k", {"median": agg.approx_percentile("x", 0.5)}).orderBy("k").collect()
    assert [row.median for row in found] == [1.0, None]


# --- sums beyond 64 bits

LARGEST, SMALLEST = 2**63 - 1, -(2**63)
EXTREMES = st.sampled_from([LARGEST, SMALLEST, 2**32, -(2**32), 2**32 - 1, 1, -1, 0, None])


@given(st.lists(st.tuples(st.integers(0, 3), EXTREMES), min_size=1, max_size=12))
@few(25)
def test_sums_of_any_integers_are_exact_or_null_while_they_do_not_fit(rows: list[tuple[int, int | None]]) -> None:
    spark = local_session()
    aggregates = {"sum": agg.sum("v"), "mean": agg.mean("v")}
    frames = [spark.createDataFrame([(v,) for part, v in rows if part == k], "v bigint") for k in range(4)]
    parts = [agg.partial(frame, [], aggregates) for frame in frames]
    tree = agg.merge(parts[0].union(parts[1]), [], aggregates).union(
        agg.merge(parts[2].union(parts[3]), [], aggregates)
    )
    [found] = agg.result(agg.merge(tree, [], aggregates), [], aggregates).collect()
    numbers = [v for _, v in rows if v is not None]
    total = sum(numbers) if numbers else None
    assert found["sum"] == (total if total is not None and SMALLEST <= total <= LARGEST else None)
    assert found["mean"] == (pytest.approx(sum(numbers) / len(numbers), rel=1e-15, abs=1) if numbers else None)


def test_a_sum_saved_before_it_had_a_high_part_goes_on(spark: SparkSession) -> None:
    aggregates = {"sum": agg.sum("v")}
    saved = spark.createDataFrame([(LARGEST - 1, 2, None)], "sum bigint, sum_1 bigint, sum_2 bigint")
    for new, expected in [(1, LARGEST), (2, None), (-5, LARGEST - 6)]:
        fresh = agg.partial(spark.createDataFrame([(new,)], "v bigint"), [], aggregates)
        merged = agg.merge(saved.union(fresh), [], aggregates)
        assert agg.result(merged, [], aggregates).collect()[0]["sum"] == expected


@pytest.mark.parametrize("column", ["v", "k", "x"])
def test_a_key_saved_before_top_k_was_added_has_an_empty_sketch(column: str, spark: SparkSession) -> None:
    lines = spark.createDataFrame([Line(0, "a", 1, 1.5, 1), Line(0, "a", 2, 2.5, 2)], SCHEMA)
    top = {"top": agg.top_k(column, 5)}
    part = agg.partial(lines, ["k"], top)
    saved = spark.createDataFrame([("a",), ("b",)], "k string").withColumn(
        "top", F.lit(None).cast(part.schema["top"].dataType)
    )
    merged = agg.merge(agg.merge(saved, ["k"], top).union(part), ["k"], top)
    found = {row["k"]: row["top"] for row in agg.result(merged, ["k"], top).collect()}
    fresh = agg.aggregate(lines, ["k"], top).collect()[0]["top"]
    assert found == {"a": fresh, "b": []}
    empty = agg.partial(lines.limit(0), [], top).union(agg.partial(lines, [], top)).repartition(5)
    [all_] = agg.result(agg.merge(empty, [], top), [], top).collect()
    assert sorted(all_["top"]) == sorted(agg.aggregate(lines, [], top).collect()[0]["top"])
