"""What is shown of a result: a table, a line or bars, as JSON values for whatever draws them."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    BooleanType,
    DataType,
    DateType,
    NumericType,
    StringType,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from ..contracts import Batch
from ..errors import UsageError
from ..redaction import printable

LONGEST = 500
"""Characters of a text that are shown."""

MOST_ROWS = 1000

POINTS = 300
"""Points of a line."""

LINES = 8
"""Lines of one chart: as many as the page has strokes that can be told apart."""

LABELS = 100
"""Lines whose points are kept, as any of them may become one of the largest."""

COLUMNS = 50
"""Columns of a table that are shown."""

CHARACTERS = 200_000
"""Characters of a table, so that what browsers are sent has a bound."""

LARGEST = 2**53
"""JavaScript's numbers are exact up to here."""

DRAWN = 1e300
"""Beyond that a sum of them may be infinite."""

MICROSECONDS = 1_000_000

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

Show = Literal["table", "latest", "line", "bar"]

Cell = str | int | float | bool | None


def _plain(frame: DataFrame) -> DataFrame:
    """The columns, named by their numbers, as what Python can take whatever is in them, and not longer than is shown.

    Times become microseconds since 1970: the years of Python end at 9999.
    """
    numbered = frame.toDF(*(f"c{i}" for i in range(len(frame.columns))))  # names may have dots
    return numbered.select(*(_plain_column(F.col(field.name), field.dataType) for field in numbered.schema.fields))


def _plain_column(column: Column, type_: DataType) -> Column:
    if isinstance(type_, NumericType | BooleanType):
        return column
    if isinstance(type_, TimestampType):
        return F.unix_micros(column)
    if isinstance(type_, TimestampNTZType):
        return F.unix_micros(F.concat(column.cast("string"), F.lit("Z")).try_cast("timestamp"))
    if isinstance(type_, DateType):
        return F.unix_date(column) * F.lit(24 * 3600 * MICROSECONDS)
    return column.cast("string").substr(1, LONGEST + 1)


class _Columns(NamedTuple):
    """Indexes of the columns that a chart takes."""

    by: int | None
    values: list[int]
    x: int | None


class Panel:
    """A result that is shown: which columns it takes, and the rows of earlier batches that it still shows."""

    def __init__(self, what: str, name: str, show: Show, rows: int, by: str, value: str, x: str):
        self._options = (what, name, show, rows, by, value, x)
        self._what = what  # as errors call it
        self.name, self.show, self.rows = name, show, rows
        self.rows_of_batch = MOST_ROWS if show == "line" else rows
        self._by, self._value, self._x = by, value, x
        self._lines = Lines()
        self._latest: dict[int, list[list[Cell]]] = {}
        """The rows of the newest batches that had any."""

    def __reduce__(self) -> tuple[type[Panel], tuple[Any, ...]]:
        return Panel, self._options  # Spark's checkpoints have the function that shows it, and need no rows

    def first(self, frame: DataFrame) -> DataFrame:
        """The frame, of a line with the rows that count first."""
        plain, at = _plain(frame), self.columns(frame.schema)
        if self.show != "line" or (at.by is None and at.x is None):
            return plain
        first = F.abs(F.col(f"c{at.values[0]}")) if at.x is None else F.col(f"c{at.x}")
        return plain.orderBy(first.desc_nulls_last())

    def columns(self, schema: StructType) -> _Columns:
        """The columns of a chart; UsageError if the stream does not have them."""
        if self.show in ("table", "latest"):
            return _Columns(None, [], None)
        fields, names = schema.fields, schema.names
        numbers = [i for i, field in enumerate(fields) if isinstance(field.dataType, NumericType)]
        x = self._index(names, "x", self._x)
        if x is not None and not isinstance(fields[x].dataType, TimestampType | TimestampNTZType | DateType):
            raise UsageError(f"got x={self._x} for {self._what}, expected a column with times")
        by = self._index(names, "by", self._by)
        if by is None and self.show == "bar":
            by = 0
        elif by is None:
            texts = [i for i, field in enumerate(fields) if isinstance(field.dataType, StringType | BooleanType)]
            by = texts[0] if texts else None
        value = self._index(names, "value", self._value)
        if value is not None and value not in numbers:
            raise UsageError(f"got value={self._value} for {self._what}, expected a column with numbers")
        values = [value] if value is not None else [i for i in numbers if i not in (by, x)]
        if not values:
            beside = "" if by is None else f" beside {names[by]}, which names what is drawn"
            raise UsageError(f"{self._what} has no column with numbers to draw{beside}: it has {', '.join(names)}")
        return _Columns(by, values if by is None else values[:1], x)

    def _index(self, names: list[str], option: str, wanted: str) -> int | None:
        if not wanted:
            return None
        if wanted not in names:
            raise UsageError(f"got {option}={wanted} for {self._what}, whose columns are {', '.join(names)}")
        return names.index(wanted)

    def with_rows(self, schema: StructType, found: list[list[Any]], batch: Batch) -> dict[str, Any]:
        """What the page shows once it has the plain rows of a batch, which may be one it had before."""
        facts = {"name": self.name, "show": self.show, "n": batch.n, "time": batch.time.timestamp()}
        at, rows, cut = self.columns(schema), found[: self.rows_of_batch], len(found) > self.rows_of_batch
        kinds = [_kind(field.dataType) for field in schema]
        if self.show == "line":
            self._lines.add(_points(schema.names, rows, at, kinds, batch.time.timestamp()))
            return {**facts, **self._lines.largest(cut)}
        if self.show == "bar":
            assert at.by is not None
            bars = [(_label(row[at.by], kinds[at.by]), _number(row[at.values[0]])) for row in rows]
            shown = [{"label": label, "value": number} for label, number in bars]
            return {**facts, "cut": cut, "bars": shown, "value": printable(schema.names[at.values[0]])}
        cells = [[_cell(value, kind) for value, kind in zip(row, kinds[:COLUMNS], strict=False)] for row in rows]
        if self.show == "latest":
            self._latest[batch.n] = cells[::-1]
            cells = self._newest()
            if not cells:  # since the start: a browser that was there before keeps what it has
                return {"name": self.name, "show": self.show, "n": None, "time": None}
        columns = [
            {"name": printable(name), "kind": "time" if kind == "date" else kind}
            for name, kind in zip(schema.names, kinds[:COLUMNS], strict=False)
        ]
        fitting = _fitting(cells)
        cut = cut or len(fitting) < len(cells) or len(kinds) > COLUMNS
        return {**facts, "cut": cut, "columns": columns, "rows": fitting}

    def forget(self) -> None:
        """Drop the rows of earlier batches: those to come have other columns."""
        self._latest.clear()

    def _newest(self) -> list[list[Cell]]:
        """The newest rows first; batches whose rows are no longer shown are dropped."""
        newest: list[list[Cell]] = []
        for n in sorted(self._latest, reverse=True):
            if len(newest) < self.rows and self._latest[n]:
                newest += self._latest[n]
            else:
                del self._latest[n]
        return newest[: self.rows]


class Lines:
    """The points of a chart over time: bounded numbers of times and of labels."""

    def __init__(self) -> None:
        self._points: dict[float, dict[str, float | None]] = {}
        self._is_cut = False

    def add(self, points: Iterable[tuple[float, str, float | None]]) -> None:
        """Add points (time, label, value): the newest value counts."""
        for time, label, value in points:
            self._points.setdefault(time, {})[label] = value
        self._points = {time: self._points[time] for time in sorted(self._points)[-POINTS:]}
        beyond = self._by_size()[LABELS:]
        self._is_cut = self._is_cut or bool(beyond)
        for label in beyond:
            for values in self._points.values():
                values.pop(label, None)

    def _by_size(self) -> list[str]:
        """The labels, those with the largest values first."""
        totals: dict[str, float] = {}
        for values in self._points.values():
            for label, value in values.items():
                totals[label] = totals.get(label, 0) + abs(value or 0)
        return sorted(totals, key=lambda label: (-totals[label], label))

    def largest(self, cut: bool) -> dict[str, Any]:
        """The lines that are drawn; `cut` says that there may be others."""
        labels = self._by_size()
        lines = [
            {"label": label, "values": [values.get(label) for values in self._points.values()]}
            for label in sorted(labels[:LINES])
        ]
        return {"x": list(self._points), "lines": lines, "cut": cut or self._is_cut or len(labels) > LINES}


def _points(
    names: list[str], rows: list[list[Any]], at: _Columns, kinds: list[str], now: float
) -> Iterator[tuple[float, str, float | None]]:
    """The points of the rows: time in seconds since 1970, label, value."""
    for row in rows if at.by is not None or at.x is not None else rows[:1]:
        time = now if at.x is None else row[at.x] and row[at.x] / MICROSECONDS
        for i in at.values if time is not None else []:
            yield time, printable(names[i]) if at.by is None else _label(row[at.by], kinds[at.by]), _number(row[i])


def _fitting(rows: list[list[Cell]]) -> list[list[Cell]]:
    """The first rows, up to the characters that a table may have."""
    sizes = itertools.accumulate(sum(len(str(cell)) for cell in row) for row in rows)
    return [row for row, size in zip(rows, sizes, strict=True) if size <= CHARACTERS]


def _kind(type_: DataType) -> str:
    if isinstance(type_, NumericType):
        return "number"
    if isinstance(type_, DateType):
        return "date"
    if isinstance(type_, TimestampType | TimestampNTZType):
        return "time"
    return "text"


def _cell(value: Any, kind: str) -> Cell:
    """A plain value as JSON that a browser shows as it is."""
    if value is None or isinstance(value, bool):
        return value
    if kind in ("time", "date"):
        return _time(value, of_day=kind == "time")
    if isinstance(value, int):
        return value if abs(value) <= LARGEST else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    text = printable(str(value))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _label(value: Any, kind: str) -> str:
    """A plain value as the name of a line or bar."""
    cell = _cell(value, kind)
    return cell if isinstance(cell, str) else json.dumps(cell)


def _time(micros: int, *, of_day: bool = True) -> str:
    """Microseconds since 1970 in words, in UTC.

    >>> _time(1_769_860_800_000_000), _time(253402300800_000_000, of_day=False), _time(-62135596800_000_000)
    ('2026-01-31 12:00:00', '253402300800 s since 1970', '0001-01-01 00:00:00')
    """
    try:
        at = EPOCH.replace(tzinfo=None) + timedelta(microseconds=micros)
        return at.isoformat(" ", "seconds") if of_day else at.date().isoformat()
    except OverflowError:  # beyond the years 1 to 9999
        return f"{micros // MICROSECONDS} s since 1970"


def _number(value: Any) -> float | None:
    """A value as a number that can be drawn."""
    if value is None or not abs(value) < DRAWN:  # NaN is not less, either
        return None
    number: float = float(value) if isinstance(value, Decimal) or abs(value) > LARGEST else value
    return number
