"""Streams in notebooks: the rows of each batch as a table or chart in the output of a cell."""

from __future__ import annotations

import contextlib
import contextvars
import html
import itertools
import math
import numbers
import sys
import uuid
from base64 import b64encode
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, get_args

from pyspark import RDD
from pyspark.sql import DataFrame
from pyspark.sql.types import (
    BooleanType,
    DataType,
    DateType,
    DoubleType,
    StringType,
    StructField,
    StructType,
    TimestampType,
)
from pyspark.streaming import DStream

from ._lazy import load
from .contracts import Batch
from .engine.graph import Output, add_named
from .errors import UsageError
from .frames import FrameStream
from .outputs._panels import EPOCH, MOST_ROWS, Panel, Show
from .redaction import printable

WIDEST = 60
"""Characters of a column of a table as text."""

MIDNIGHT = time(tzinfo=timezone.utc)

MOST_BITS = 1000
"""Larger numbers are infinite: Python itself refuses to print those of more than 4,300 digits."""

NOTHING = StructType()

MOST_LINES = 100
"""Rows of the text that goes with the HTML of a table, for what cannot show that."""

MOST_BARS = 50

NO_FORMULAS = "tex2jax_ignore mathjax_ignore"
"""CSS classes that keep MathJax from typesetting $...$ (its versions 2 and later)."""


def show(
    stream: FrameStream | DStream[Any],
    kind: Show = "table",
    *,
    name: str = "",
    rows: int = 20,
    by: str = "",
    value: str = "",
    x: str = "",
) -> None:
    """Show each batch in the output of the notebook cell that calls this, in place of the batch before.

        ss.show(requests.reduce_by_key("status", {"hits": ss.aggregates.count()}), "bar")

    table    the first `rows` rows of the newest batch
    latest   the newest `rows` rows, of whichever batch
    bar      a bar for each of the first `rows` rows: the column `value`, named by the column `by`
    line     over time, a line for each value of the column `by` with the column `value`; without `by`, one for each
             numeric column, from the first row of the batch. The 8 largest lines are drawn, each with its last 300
             points. `x` is a column with times for streams by event time; else a point is at the time of its batch

    Unless they are named, `value` is the first column with numbers that is not `by`, and `by` the first column of a
    bar, and of a line the first that has neither numbers nor times. Elements of a DStream have the columns _1, _2, ...
    of a tuple, those of a Row or named tuple, or else one column, `value`.

    The display belongs to the cell: it is updated while the job runs, in whichever cell, and also after the cell has
    ended. Charts need the library matplotlib. Outside of notebooks each batch is printed as a table.

    Guarantee: at least once, and nothing lasts. Text is shown as text, whatever is in it; control characters are
    written as repr does. Times are in UTC. What is shown of a batch has the bounds of `outputs.page`, and at most 50
    bars. Of a DStream the first elements of a batch are collected, whole: `rows` of them, and 1,000 for a line.

    Raises UsageError for columns that the stream does not have or that have no numbers (for a DStream, when its first
    batch runs), and for `rows` beyond 1000; MissingLibrary for a chart without matplotlib.

    Cost: grows with `rows`: a Spark job of its own for each batch, and a tenth of a second for a chart.

    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> def build(lines):
    ...     words = ss.FrameStream.of(lines).count_by_value()
    ...     ss.show(words, name="words")
    ...     return words
    >>> _ = run_batches(build, [["a", "b", "b"]])
    words - batch 1 at 00:00:01 UTC
    value  count
    a      1
    b      2
    """
    if not 1 <= rows <= MOST_ROWS:
        raise UsageError(f"got rows={rows} for show, expected 1 to {MOST_ROWS}")
    if kind not in get_args(Show):
        raise UsageError(f"got the kind {kind!r}, expected table, latest, line or bar")
    if kind in ("bar", "line") and _has_displays():
        load(__package__, {"chart": "charts"}, "chart")  # or MissingLibrary
    if isinstance(stream, FrameStream):
        _show_frames(stream, kind, name, rows, by, value, x)
    else:
        _show_elements(stream, Panel("show", name, kind, rows, by, value, x))


def _show_frames(stream: FrameStream, kind: Show, name: str, rows: int, by: str, value: str, x: str) -> None:
    outputs = stream.graph.outputs
    if not name:  # nothing that lasts is found by it
        names = (f"show {n}" for n in itertools.count(1))
        name = next(free for free in names if f"show:{free}" not in outputs)
    panel, display = Panel(f"show:{name}", name, kind, rows, by, value, x), _Display(name)

    def write(frame: DataFrame, batch: Batch) -> None:
        found = panel.first(frame).limit(panel.rows_of_batch + 1).collect()
        display.show(panel.with_rows(frame.schema, [*map(list, found)], batch), f"batch {batch.n}")

    def check(frame: DataFrame, batch: Batch) -> None:
        panel.columns(frame.schema)

    add_named("outputs", outputs, f"show:{name}", Output(stream.compute, write, check, lasting=False))
    display.open()


def _show_elements(stream: DStream[Any], panel: Panel) -> None:
    display, schema = _Display(panel.name), StructType()

    def write(at: datetime, rdd: RDD[Any]) -> None:
        nonlocal schema
        found, before = rdd.take(panel.rows_of_batch + 1), schema
        if found:
            schema, cells = table_of(found, before)
        elif not schema.fields:
            return  # no batch so far had columns
        if schema.names != before.names:
            panel.forget()
        batch = Batch(round(at.timestamp() * 1000), at.astimezone(timezone.utc), "")
        display.show(panel.with_rows(schema, cells if found else [], batch))

    stream.foreachRDD(write)
    display.open()


def table_of(elements: list[Any], before: StructType = NOTHING) -> tuple[StructType, list[list[Any]]]:
    """Elements of an RDD as the columns and plain rows that a panel takes; `before` has those of earlier elements.

    >>> schema, rows = table_of([("/index", 3), ("/faq", 2)])
    >>> schema.simpleString(), rows
    ('struct<_1:string,_2:double>', [['/index', 3], ['/faq', 2]])
    >>> schema, rows = table_of([("a", (1, 2)), None])
    >>> schema.simpleString(), rows
    ('struct<value:string>', [["('a', (1, 2))"], [None]])
    """
    split = [_fields(element) for element in elements]
    names = split[0][0]
    if any(others != names for others, _ in split):
        names, split = ("value",), [(("value",), (element,)) for element in elements]
    earlier = [before[name].dataType if name in before.names else DoubleType() for name in names]
    values_of = zip(*(values for _, values in split), strict=True)
    columns = [_column(values, type_) for values, type_ in zip(values_of, earlier, strict=True)]
    fields = [StructField(name, type_) for name, (type_, _) in zip(names, columns, strict=True)]
    return StructType(fields), [list(row) for row in zip(*(values for _, values in columns), strict=True)]


def _fields(element: Any) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Names and values of the columns of an element."""
    if not isinstance(element, tuple) or not element:
        return ("value",), (element,)
    names = getattr(element, "_fields", None) or getattr(element, "__fields__", None)  # a named tuple or a Row
    return tuple(names or (f"_{i}" for i in range(1, len(element) + 1))), tuple(element)


def _column(values: Iterable[Any], empty: DataType) -> tuple[DataType, list[Any]]:
    """The type that fits all values of a column, and the values as `Panel.with_rows` takes them.

    A column without values has the type `empty`.
    """
    values = list(values)
    some = [value for value in values if value is not None]
    if not some:
        return empty, values
    for type_, fits, plain in (
        (BooleanType(), _is_bool, bool),
        (DoubleType(), _is_number, _number),
        (TimestampType(), _is_time, _micros),
        (DateType(), _is_date, _micros),
    ):
        if all(map(fits, some)):
            with contextlib.suppress(ArithmeticError, ValueError):  # times beyond the years 1 to 9999 are text
                return type_, [None if value is None else plain(value) for value in values]
    return StringType(), [None if value is None else _words(value) for value in values]


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real | Decimal) and not isinstance(value, bool)


def _is_time(value: object) -> bool:
    return isinstance(value, datetime)


def _is_date(value: object) -> bool:
    return isinstance(value, date) and not isinstance(value, datetime)


def _number(value: Any) -> Any:
    """A number as Python has it. Numbers too large to print are infinite; what is not a number is NaN."""
    if isinstance(value, Decimal):
        return value if value.is_finite() else math.nan
    value = value.item() if hasattr(value, "item") else value  # numpy's
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        return math.inf if value > 0 else -math.inf
    return value if isinstance(value, int) else float(value)


def _micros(at: date) -> int:
    """Microseconds since 1970; a time without a zone is local, as everywhere in Python, and a day begins in UTC."""
    moment = at.astimezone(timezone.utc) if isinstance(at, datetime) else datetime.combine(at, MIDNIGHT)
    return (moment - EPOCH) // timedelta(microseconds=1)


def _words(value: object) -> str:
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _has_displays() -> bool:
    """Whether Python runs as the kernel of a notebook; a terminal, of IPython as well, has only text."""
    ipython = sys.modules.get("IPython")
    shell = ipython and ipython.get_ipython()
    return hasattr(shell, "kernel")


class _Display:
    """A place in the output of a cell, which changes with each batch; without cells, lines on stdout.

    It keeps the context of the thread in which it was made: by that ipykernel 7 knows the cell, whichever runs now.
    """

    def __init__(self, name: str):
        self._name, self._id, self._is_open = name, uuid.uuid4().hex, False
        self._context = contextvars.copy_context()

    def __reduce__(self) -> tuple[type[_Display], tuple[str]]:
        return _Display, (self._name,)  # after a recovery from a checkpoint, a new one where it first shows something

    def open(self) -> None:
        """Show the place, before the first batch."""
        if _has_displays():
            wait = f"{printable(self._name) or 'stream'} - no batch yet"
            self._put({"text/plain": wait, "text/html": _html(wait, [], [])})

    def show(self, panel: dict[str, Any], batch: str = "batch") -> None:
        """Show a result in place of the one before."""
        at = datetime.fromtimestamp(panel["time"], timezone.utc) if panel["time"] is not None else None
        if len(panel.get("bars", [])) > MOST_BARS:
            panel = {**panel, "bars": panel["bars"][:MOST_BARS], "cut": True}
        name = f"{printable(self._name)} - " if self._name else ""
        caption = name + (f"{batch} at {at:%H:%M:%S} UTC" if at else "no rows yet")
        if panel.get("cut"):
            caption += ", not all is shown"
        columns, cells = _cells(panel)
        if not _has_displays():
            print(caption, *_lines(columns, cells), sep="\n", flush=True)
            return
        text = "\n".join([caption, *_lines(columns, cells[:MOST_LINES])])
        data = {"text/plain": text, "text/html": _html(caption, columns, cells)}
        if panel["show"] in ("bar", "line"):
            picture = load(__package__, {"chart": "charts"}, "chart")(panel, caption)
            data["text/html"] = (
                f'<img alt="{html.escape(text)}" src="data:image/png;base64,{b64encode(picture).decode()}">'
            )
        self._put(data)

    def _put(self, data: dict[str, str]) -> None:
        from IPython.display import display, update_display

        put = update_display if self._is_open else display
        self._is_open = True
        self._context.copy().run(put, data, raw=True, display_id=self._id)


def _cells(panel: dict[str, Any]) -> tuple[list[tuple[str, bool]], list[list[Any]]]:
    """The columns of a panel, each with whether it has numbers, and its rows; of lines the newest points."""
    if panel["show"] == "bar":
        return [("", False), (panel["value"], True)], [[bar["label"], bar["value"]] for bar in panel["bars"]]
    if panel["show"] == "line":
        return [("", False), ("newest", True)], [[line["label"], line["values"][-1]] for line in panel["lines"]]
    columns = [(column["name"], column["kind"] == "number") for column in panel.get("columns", [])]
    return columns, panel.get("rows", [])


def _text(cell: Any) -> str:
    return "null" if cell is None else str(cell)


def _lines(columns: list[tuple[str, bool]], rows: list[list[Any]]) -> list[str]:
    """A table as text."""
    table = [[name for name, _ in columns], *([_text(cell) for cell in row] for row in rows)]
    brief = [[cell if len(cell) <= WIDEST else f"{cell[: WIDEST - 1]}…" for cell in row] for row in table]
    widths = [max(map(len, column)) for column in zip(*brief, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in brief]


def _html(caption: str, columns: list[tuple[str, bool]], rows: list[list[Any]]) -> str:
    sides = ["right" if is_number else "left" for _, is_number in columns]

    def row(tag: str, cells: list[Any]) -> str:
        parts = (
            f'<{tag} style="text-align: {side}">{html.escape(_text(cell))}</{tag}>'
            for side, cell in zip(sides, cells, strict=True)
        )
        return f"<tr>{''.join(parts)}</tr>"

    if not columns:
        return f'<div class="{NO_FORMULAS}">{html.escape(caption)}</div>'
    head, body = row("th", [name for name, _ in columns]), "".join(row("td", cells) for cells in rows)
    table = f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"
    return f'<div class="{NO_FORMULAS}"><div>{html.escape(caption)}</div>{table}</div>'
