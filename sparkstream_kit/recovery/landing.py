"""Received batches, landed under the home: from then on they are as replayable as any file.

    received/<name>/<position>-<tick>/     Parquet; positions count up, the tick is the batch time in ms

A batch time is landed once for ever: Spark runs the last batches again after every restart.
"""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession

from ..contracts import Position
from ..errors import UsageError
from . import snapshots, storage

_KEPT_TICKS = 20
"""Landed batches kept although they are done, since a restarted context may run them again."""


def land(frame: DataFrame, directory: str, tick: int) -> bool:
    """Keep the rows of one batch; False if that batch time was landed before."""
    landed = _landed(directory)
    if tick in landed.values():
        return False
    position = max(landed, default=0) + 1
    return snapshots.keep(frame, f"{directory}/{position:010d}-{tick}")


def latest(directory: str) -> Position:
    """The newest landed position; None before the first."""
    return max(_landed(directory), default=None)


def read(session: SparkSession, directory: str, start: Position, end: Position) -> DataFrame:
    """The rows landed in (start, end]; UsageError if some of these batches are gone."""
    inside = {p: tick for p, tick in _landed(directory).items() if (start or 0) < p <= end}
    if len(inside) < end - (start or 0):
        raise UsageError(
            f"{directory} has {len(inside)} of the received batches {(start or 0) + 1} to {end}: restore it from a "
            "copy, or start with a new home"
        )
    return snapshots.read(session, *(f"{directory}/{p:010d}-{tick}" for p, tick in sorted(inside.items())))


def forget(directory: str, position: Position) -> None:
    """Remove what was landed up to the position, but for the last few, and what drivers that died were landing."""
    landed = sorted(_landed(directory).items())
    for p, tick in landed[:-_KEPT_TICKS]:
        if p <= (position or 0):
            storage.delete(f"{directory}/{p:010d}-{tick}")
    for unfinished in storage.hidden(directory):
        storage.delete(f"{directory}/{unfinished}")


def _landed(directory: str) -> dict[int, int]:
    pairs = (name.partition("-") for name in storage.names(directory) if not name.startswith("."))
    return {int(position): int(tick) for position, _, tick in pairs}
