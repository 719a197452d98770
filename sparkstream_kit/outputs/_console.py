"""Tables on the terminal: live where it is one, one after the other where it is not."""

from __future__ import annotations

import sys
from typing import Any

from pyspark.sql import DataFrame
from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..contracts import Batch
from ..frames import FrameStream


def console(stream: FrameStream, *, name: str = "console", rows: int = 20) -> None:
    """Show the first rows of each batch. On a terminal all outputs share one live screen.

    Guarantee: at least once. What is shown cannot command the terminal: control characters are replaced.
    """

    def write(frame: DataFrame, batch: Batch) -> None:
        _screen.show(name, _table(frame, f"{name} - batch {batch.n} at {batch.time:%H:%M:%S}", rows))

    stream.for_each_batch(write, name=f"console:{name}")


def _table(frame: DataFrame, title: str, rows: int) -> Table:
    table = Table(title=title, title_justify="left", min_width=len(title))
    for field in frame.schema:
        table.add_column(field.name, justify="left" if field.dataType.simpleString() == "string" else "right")
    for row in frame.limit(rows).collect():
        table.add_row(*map(_cell, row))
    return table


def _cell(value: Any) -> Text:
    plain = f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)
    return Text(
        "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in plain),
        overflow="ellipsis",
        no_wrap=True,
    )


class _Screen:
    """The newest table of each output."""

    def __init__(self) -> None:
        self._console = Console()
        self._tables: dict[str, Table] = {}
        self._live: Live | None = None

    def show(self, name: str, table: Table) -> None:
        if not self._console.is_terminal:
            self._console.print(table)
            sys.stdout.flush()
            return
        self._tables[name] = table
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(Columns(self._tables.values()), refresh=True)


_screen = _Screen()
