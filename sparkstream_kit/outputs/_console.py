"""Each batch as a table: live on a terminal, one below the other anywhere else."""

from __future__ import annotations

import logging
import sys
from datetime import datetime, timezone
from typing import Any, Literal, NamedTuple

from pyspark.sql import DataFrame, Row
from pyspark.sql.types import (
    BooleanType,
    DateType,
    NumericType,
    StringType,
    StructField,
    StructType,
    TimestampNTZType,
    TimestampType,
)
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..contracts import Batch
from ..engine.graph import Output, add_named
from ..errors import UsageError
from ..frames import FrameStream

NARROWEST = 38
"""Columns of the terminal that a table needs at least: 80 are enough for two tables side by side."""

SHORTEST = 8
"""Text is not cut below this width; before that, columns at the right are left out."""

GAP = 2

_UNCUT = (BooleanType, DateType, NumericType, TimestampNTZType, TimestampType)
"""Types whose values mislead when their end is missing."""


def console(stream: FrameStream, *, name: str = "console", rows: int = 20) -> None:
    """Show the first rows of each batch. On a terminal all outputs of the job share one live screen.

    On that screen the tables stand in the order of the job's outputs and fit the terminal: where it is too small, long
    texts end in an ellipsis, and columns at the right and rows at the end are replaced by one. Times are in UTC.
    Anywhere else each batch is printed below the one before.

    Guarantee: at least once. What is shown cannot command the terminal: control characters are replaced.
    """
    if rows < 1:
        raise UsageError(f"got rows={rows} for the console, expected at least 1")
    screen = stream.graph.shared.setdefault("console", _Screen())
    screen.add(name)

    def write(frame: DataFrame, batch: Batch) -> None:
        screen.show(_Shown(name, batch.n, batch.time, frame.schema, frame.limit(rows).collect()))

    add_named("outputs", stream.graph.outputs, f"console:{name}", Output(stream.compute, write, lasting=False))


class _Shown(NamedTuple):
    """What an output shows: the first rows of its newest batch."""

    name: str
    n: int
    time: datetime
    schema: StructType
    rows: list[Row]

    def when(self) -> str:
        return f" - batch {self.n} at {self.time:%H:%M:%S}"


class _Screen:
    """The tables of one job, those of its newest batches."""

    def __init__(self) -> None:
        self._console = Console()
        self._tables: dict[str, _Shown | None] = {}
        self._live: Live | None = None

    def add(self, name: str) -> None:
        """Reserve the place of an output, so that tables keep theirs whichever has a batch first."""
        self._tables[name] = None

    def show(self, shown: _Shown) -> None:
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            self._console.print(_plain(shown))
            sys.stdout.flush()
            return
        self._tables[shown.name] = shown
        if self._live is None:
            self._live = _start_live(self._console)
        self._live.update(_picture(self._tables, *self._console.size), refresh=True)


def _start_live(console: Console) -> Live:
    """A live display that needs no end, since a job may be killed: the cursor stays visible, on a line of its own.

    Whatever Python prints or logs from now on appears above the tables and stays there.
    """
    live = Live(console=console, auto_refresh=False, redirect_stderr=sys.stderr.isatty())
    before = sys.stderr
    live.start()
    console.show_cursor(True)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is before:
            handler.setStream(sys.stderr)
    return live


def _picture(tables: dict[str, _Shown | None], width: int, height: int) -> RenderableType:
    """All tables side by side and one below the other, within the terminal, and an empty last line for the cursor."""
    across = min(len(tables), max(1, (width + GAP) // (NARROWEST + GAP)))
    each = (width - GAP * (across - 1)) // across
    down = -(-len(tables) // across)
    names = list(tables)
    grid = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
    stacks = []
    for first in range(0, len(names), down):
        grid.add_column(width=each)
        stacks.append(_stack({name: tables[name] for name in names[first : first + down]}, each, height - 1))
    grid.add_row(*stacks)
    return Group(grid, "")


def _stack(tables: dict[str, _Shown | None], width: int, height: int) -> Group:
    """Tables one below the other; if they are too high, the longest lose rows first."""
    found = [shown for shown in tables.values() if shown is not None]
    room = height - (len(tables) - 1) - len(tables) - 2 * len(found)  # without empty lines, titles and headers
    rows = iter(_cut([len(shown.rows) for shown in found], [1] * len(found), room))
    parts: list[RenderableType] = []
    for name, shown in tables.items():
        parts += [""] if parts else []
        if shown is None:
            parts.append(_text(f"{name} - no batch yet", "dim"))
        else:
            parts += [_title(shown, width), _compact(shown, width, next(rows))]
    return Group(*parts)


def _title(shown: _Shown, width: int) -> Text:
    """Name and batch; a long name is cut, the batch is not."""
    name = _text(shown.name, "bold")
    name.truncate(max(1, width - len(shown.when())), overflow="ellipsis")
    return name.append(shown.when(), "default")


def _compact(shown: _Shown, width: int, rows: int) -> Table:
    """As many columns and rows as fit; an ellipsis stands for the others."""
    fields = shown.schema.fields
    cells = [[_brief(value, field, shown.time) for value, field in zip(row, fields, strict=True)] for row in shown.rows]
    wanted = [
        min(width, max(text.cell_len for text in [_text(field.name), *(row[i] for row in cells)]))
        for i, field in enumerate(fields)
    ]
    least = [
        size if isinstance(f.dataType, _UNCUT) else min(size, SHORTEST) for f, size in zip(fields, wanted, strict=True)
    ]

    def room(columns: int) -> int:
        return width - GAP * (columns - 1) - (GAP + 1 if columns < len(fields) else 0)

    some = len(fields)
    while some > 1 and sum(least[:some]) > room(some):
        some -= 1
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for field, size in zip(fields, _cut(wanted[:some], least[:some], room(some)), strict=False):
        table.add_column(_text(field.name), justify=_side(field), width=size)
    if some < len(fields):
        table.add_column("…", width=1)
    for row in cells if len(cells) <= rows else cells[: max(1, rows - 1)]:
        table.add_row(*row[:some])
    if 1 < rows < len(cells):
        table.add_row("…")
    return table


def _cut(sizes: list[int], least: list[int], room: int) -> list[int]:
    """Sizes that fit into a room together: the largest are cut first, and none below its least.

    >>> _cut([10, 3, 6], [1, 1, 1], 12)
    [4, 3, 5]
    """
    cut = list(sizes)
    while sum(cut) > room:
        larger = [i for i in range(len(cut)) if cut[i] > least[i]]
        if not larger:
            break
        cut[max(larger, key=cut.__getitem__)] -= 1
    return cut


def _plain(shown: _Shown) -> Table:
    title = f"{shown.name}{shown.when()}"
    table = Table(title=_text(title), title_justify="left", min_width=len(title))
    for field in shown.schema.fields:
        table.add_column(_text(field.name), justify=_side(field))
    for row in shown.rows:
        table.add_row(*map(_cell, row))
    return table


def _side(field: StructField) -> Literal["left", "right"]:
    return "left" if isinstance(field.dataType, StringType) else "right"


def _brief(value: Any, field: StructField, time: datetime) -> Text:
    """A cell where room is scarce: a timestamp in whole seconds, on the batch's own day without the date."""
    if isinstance(value, datetime):
        at = value.astimezone(timezone.utc) if isinstance(field.dataType, TimestampType) else value
        return _text(f"{at:%H:%M:%S}" if at.date() == time.date() else f"{at:%Y-%m-%d %H:%M:%S}")
    return _cell(value)


def _cell(value: Any) -> Text:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return _text(f"{value:,}" if is_number else "" if value is None else str(value))


def _text(plain: str, style: str = "") -> Text:
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in plain)
    return Text(printable, style, overflow="ellipsis", no_wrap=True)
