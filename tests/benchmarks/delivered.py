"""Where all arms put their results: rows in the driver, or a directory of Parquet files.

Callbacks of DStreams are pickled into the checkpoint, so they find it by its name.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame

Rows = list[tuple[Any, ...]]

_deliveries: list[tuple[float, Rows]] = []
_folder: list[Path] = []


def begin(folder: Path) -> None:
    """Start with an empty result; `folder` is where files go."""
    _deliveries.clear()
    _folder[:] = [folder]


def folder() -> Path:
    return _folder[0]


def out() -> Path:
    """The directory of Parquet files."""
    return folder() / "out"


def deliver(rows: Iterable[Iterable[Any]]) -> None:
    found = [tuple(row) for row in rows]
    _deliveries.append((time.time(), found))


def write(frame: DataFrame) -> None:
    frame.write.mode("append").parquet(str(out()))


def deliveries() -> list[tuple[float, Rows]]:
    """What was delivered so far, and when."""
    return list(_deliveries)


def take() -> Rows:
    """The rows that were delivered since the last call."""
    rows = [row for _, found in _deliveries for row in found]
    _deliveries.clear()
    return rows
