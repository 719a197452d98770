"""Results on the live page: as a table, a line or bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from pyspark.sql import DataFrame, Row
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
from ..engine.graph import Output, add_named
from ..errors import UsageError
from ..frames import FrameStream
from ..page.model import Page
from ..redaction import printable

LONGEST = 500
"""Characters of a text that are shown."""

MOST_ROWS = 1000

POINTS = 300
"""Points of a line."""

LINES = 8
"""Lines of one chart: as many as the page has strokes that can be told apart."""

LARGEST = 2**53
"""JavaScript's numbers are exact up to here."""

Show = Literal["table", "latest", "line", "bar"]

Cell = str | int | float | bool | None


def page(
    stream: FrameStream,
    *,
    name: str = "page",
    show: Show = "table",
    rows: int = 20,
    by: str = "",
    value: str = "",
    x: str = "",
) -> None:
    """Show the rows of each batch on the live page of the job, which `ss.serve_page` or --page serves.

    table    the first `rows` rows of the newest batch
    latest   the newest `rows` rows, of whichever batch: for alerts, and what is rare; so are rejected lines shown
    bar      a bar for each of the first `rows` rows: the column `value`, named by the column `by`
    line     over time, a line for each value of the column `by` with the column `value`; without `by`, one for each
             column with numbers of the one row. The 8 largest lines are drawn, each with its last 300 points. `x` is a
             column with times for streams by event time; without it a point is at the recorded time of its batch

    Unless they are named, `value` is the first column with numbers that is not `by`, and `by` the first column of a
    bar, and of a line the first that has neither numbers nor times.

    Guarantee: at least once, and nothing lasts: after a restart a result is shown with its next batch. Text is shown as
    text, whatever is in it, up to 500 characters; control characters are written as repr does. Times are in UTC.

    Raises UsageError if the job has no page, for columns that the stream does not have or that have no numbers, and for
    `rows` beyond 1000.

    Cost: grows with `rows`: a Spark job of its own for each batch.

    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> def build(lines):
    ...     ss.serve_page(lines.context(), "127.0.0.1:0")
    ...     words = ss.FrameStream.of(lines).update_state_by_key("value", {"n": ss.aggregates.count()})
    ...     ss.outputs.page(words, name="words", show="line")
    ...     return words
    >>> run_batches(build, [["a", "b"]])
    [[Row(value='a', n=1), Row(value='b', n=1)]]
    """
    if not 1 <= rows <= MOST_ROWS:
        raise UsageError(f"got rows={rows} for the page, expected 1 to {MOST_ROWS}")
    shared = stream.graph.shared.get("page")
    if shared is None:
        raise UsageError(
            "the output page: needs a page: start the job with --page 8080, or call ss.serve_page in build"
        )
    assert isinstance(shared, Page)
    panel = _Panel(name, "latest" if stream.rejects and show == "table" else show, rows, by, value, x)
    most = MOST_ROWS if show == "line" and x else rows  # a row for each line, unless rows have times of their own

    def write(frame: DataFrame, batch: Batch) -> int | None:
        found = _short(frame).limit(most + 1).collect()
        shared.show(panel.with_rows(frame.schema, found, batch))
        if not stream.rejects:  # counting costs a job; what is rejected is counted for the health of the job
            return None
        return len(found) if len(found) <= most else frame.count()

    def check(frame: DataFrame, batch: Batch) -> None:
        panel.columns(frame.schema)

    shared.add_panel(name, panel.show)
    output = Output(stream.compute, write, check, lasting=False, rejects=stream.rejects)
    add_named("outputs", stream.graph.outputs, f"page:{name}", output)


def _short(frame: DataFrame) -> DataFrame:
    """The columns, those that are long or nested as short text, so that the driver gets no more than is shown."""
    kept = (NumericType, BooleanType, DateType, TimestampType, TimestampNTZType)
    if all(isinstance(field.dataType, kept) for field in frame.schema):
        return frame
    numbered = frame.toDF(*(f"c{i}" for i in range(len(frame.columns))))  # names may have dots
    return numbered.select(
        *(
            field.name if isinstance(field.dataType, kept) else F.col(field.name).cast("string").substr(1, LONGEST + 1)
            for field in numbered.schema.fields
        )
    )


class _Columns(NamedTuple):
    """Indexes of the columns that a chart takes."""

    by: int | None
    values: list[int]
    x: int | None


class _Panel:
    """A result on the page; of lines it keeps the points so far."""

    def __init__(self, name: str, show: Show, rows: int, by: str, value: str, x: str):
        self.name, self.show, self.rows = name, show, rows
        self._by, self._value, self._x = by, value, x
        self._points: dict[float, dict[str, float | None]] = {}
        """Of a line: at each time the value of each label."""
        self._latest: dict[int, list[list[Cell]]] = {}
        """The rows of the newest batches that had any."""

    def columns(self, schema: StructType) -> _Columns:
        """The columns of a chart; UsageError if the stream does not have them."""
        if self.show in ("table", "latest"):
            return _Columns(None, [], None)
        fields, names = schema.fields, schema.names
        numbers = [i for i, field in enumerate(fields) if isinstance(field.dataType, NumericType)]
        x = self._index(names, "x", self._x)
        if x is not None and not isinstance(fields[x].dataType, TimestampType | TimestampNTZType | DateType):
            raise UsageError(f"got x={self._x} for page:{self.name}, expected a column with times")
        by = self._index(names, "by", self._by)
        if by is None and self.show == "bar":
            by = 0
        elif by is None:
            texts = [i for i, field in enumerate(fields) if isinstance(field.dataType, StringType | BooleanType)]
            by = texts[0] if texts else None
        value = self._index(names, "value", self._value)
        if value is not None and value not in numbers:
            raise UsageError(f"got value={self._value} for page:{self.name}, expected a column with numbers")
        values = [value] if value is not None else [i for i in numbers if i not in (by, x)]
        if not values:
            raise UsageError(f"page:{self.name} has no column with numbers to draw: it has {', '.join(names)}")
        return _Columns(by, values if by is None else values[:1], x)

    def _index(self, names: list[str], option: str, wanted: str) -> int | None:
        if not wanted:
            return None
        if wanted not in names:
            raise UsageError(f"got {option}={wanted} for page:{self.name}, whose columns are {', '.join(names)}")
        return names.index(wanted)

    def with_rows(self, schema: StructType, found: list[Row], batch: Batch) -> dict[str, Any]:
        """What the page shows once it has the rows of a batch, which may be one it had before."""
        rows = [[_in_utc(value, field.dataType) for value, field in zip(row, schema, strict=True)] for row in found]
        rows, cut = rows if self._x else rows[: self.rows], len(rows) > self.rows
        facts = {"name": self.name, "show": self.show, "n": batch.n, "time": batch.time.timestamp(), "cut": cut}
        at = self.columns(schema)
        if self.show == "bar":
            assert at.by is not None
            bars = [{"label": str(_cell(row[at.by])), "value": _number(row[at.values[0]])} for row in rows]
            return {**facts, "bars": bars, "value": printable(schema.names[at.values[0]])}
        if self.show == "line":
            return {**facts, **self._lines(schema.names, rows, at, batch)}
        cells = [[_cell(value) for value in row] for row in rows]
        if self.show == "latest":
            self._latest[batch.n] = cells[::-1]
            cells = self._newest()
            if not cells:  # since the start: a browser that was there before keeps what it has
                return {"name": self.name, "show": self.show, "n": None, "time": None}
        columns = [{"name": printable(field.name), "kind": _kind(field.dataType)} for field in schema.fields]
        return {**facts, "columns": columns, "rows": cells}

    def _newest(self) -> list[list[Cell]]:
        """The newest rows first; batches whose rows are no longer shown are dropped."""
        newest: list[list[Cell]] = []
        for n in sorted(self._latest, reverse=True):
            if len(newest) < self.rows and self._latest[n]:
                newest += self._latest[n]
            else:
                del self._latest[n]
        return newest[: self.rows]

    def _lines(self, names: list[str], rows: Sequence[list[Any]], at: _Columns, batch: Batch) -> dict[str, Any]:
        for row in rows if at.by is not None or at.x is not None else rows[:1]:
            time = batch.time.timestamp() if at.x is None else _seconds(row[at.x])
            if time is None:
                continue
            labels = [names[i] for i in at.values] if at.by is None else [str(_cell(row[at.by]))]
            values = {label: _number(row[i]) for label, i in zip(labels, at.values, strict=True)}
            self._points[time] = {**self._points.get(time, {}), **values}
        self._points = {time: self._points[time] for time in sorted(self._points)[-POINTS:]}
        totals: dict[str, float] = {}
        for values in self._points.values():
            for label, number in values.items():
                totals[label] = totals.get(label, 0) + abs(number or 0)
        largest = sorted(totals, key=lambda label: -totals[label])
        lines = [
            {"label": printable(label), "values": [values.get(label) for values in self._points.values()]}
            for label in sorted(largest[:LINES])
        ]
        return {"x": list(self._points), "lines": lines, "cut": len(largest) > LINES}


def _kind(type_: DataType) -> str:
    if isinstance(type_, NumericType):
        return "number"
    return "time" if isinstance(type_, TimestampType | TimestampNTZType | DateType) else "text"


def _in_utc(value: Any, type_: DataType) -> Any:
    """The value; a timestamp, which PySpark gives in local time, in UTC."""
    return value.astimezone(timezone.utc) if value is not None and isinstance(type_, TimestampType) else value


def _cell(value: Any) -> Cell:
    """A value as JSON that a browser shows as it is."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) <= LARGEST else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    text = str(value)
    return printable(text if len(text) <= LONGEST else f"{text[:LONGEST]}…")


def _number(value: Any) -> float | None:
    """A value as a number that can be drawn."""
    if isinstance(value, int | float | Decimal) and math.isfinite(value):
        return float(value) if isinstance(value, Decimal) or abs(value) > LARGEST else value
    return None


def _seconds(value: Any) -> float | None:
    """A time in seconds since 1970; a date or a time without a zone is taken as in UTC."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=timezone.utc)).timestamp()
    return None if value is None else datetime(value.year, value.month, value.day, tzinfo=timezone.utc).timestamp()
