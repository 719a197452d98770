"""Aggregates that merge: one value says how to start from rows, how to merge partial results and how to finish.

Windows, running state and sessions all use the same values:

    requests.reduce_by_key_and_window("path", {"hits": count(), "bytes": sum("bytes")}, "60s", "10s")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

Keys = str | Sequence[str]


@dataclass(frozen=True)
class Aggregate:
    """How to compute one result column in parts.

    `partial` are aggregate expressions over rows, one for each part that is kept; `merge` the functions that merge
    each part with more of its kind; `result` makes the result of the merged parts. `subtract`, where there is one,
    takes from merged parts those of rows that are gone.
    """

    partial: tuple[Callable[[], Column], ...]
    merge: tuple[Callable[[Column], Column], ...]
    result: Callable[..., Column]
    subtract: tuple[Callable[[Column, Column], Column], ...] | None = None


def _total(part: Column) -> Column:
    return F.sum(part)


def _minus(whole: Column, gone: Column) -> Column:
    return whole - gone


def count() -> Aggregate:
    """Number of rows: bigint."""
    return Aggregate((lambda: F.count("*"),), (_total,), lambda n: n, (_minus,))


def sum(column: str) -> Aggregate:
    """Sum of a column, null counting as nothing; null where every value was null.

    Exact for whole numbers and decimals.
    """
    return Aggregate((lambda: F.sum(column),), (_total,), lambda total: total)


Aggregates = Mapping[str, Aggregate]


def partial(frame: DataFrame, keys: Keys, aggregates: Aggregates) -> DataFrame:
    """One row for each key with the parts of all aggregates: columns keys, then `<name>`, `<name>_1`, ..."""
    parts = [
        make().alias(part)
        for name, aggregate in aggregates.items()
        for part, make in zip(_parts(name, aggregate), aggregate.partial, strict=True)
    ]
    return frame.groupBy(*key_list(keys)).agg(*parts)


def merge(frame: DataFrame, keys: Keys, aggregates: Aggregates) -> DataFrame:
    """Partial rows, several for a key, merged to one row for each key; same columns."""
    parts = [
        how(F.col(part)).alias(part)
        for name, aggregate in aggregates.items()
        for part, how in zip(_parts(name, aggregate), aggregate.merge, strict=True)
    ]
    return frame.groupBy(*key_list(keys)).agg(*parts)


def result(frame: DataFrame, keys: Keys, aggregates: Aggregates) -> DataFrame:
    """Merged parts turned into results: columns keys, then one for each aggregate."""
    results = [
        aggregate.result(*map(F.col, _parts(name, aggregate))).alias(name) for name, aggregate in aggregates.items()
    ]
    return frame.select(*key_list(keys), *results)


def key_list(keys: Keys) -> list[str]:
    """One column name or several, as a list."""
    return [keys] if isinstance(keys, str) else list(keys)


def _parts(name: str, aggregate: Aggregate) -> list[str]:
    return [name, *(f"{name}_{i}" for i in range(1, len(aggregate.partial)))]
