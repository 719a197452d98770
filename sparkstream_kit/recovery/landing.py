"""Received batches, landed under the home, where they can be replayed like any file.

    received/<name>/<offset>-<tick>/    Parquet; offsets count up, the tick is the batch time in ms

A batch time is landed only once, as Spark runs its last batches again after every restart, and all batches since its
checkpoint if that is old.
"""

from __future__ import annotations

from pyspark.sql import DataFrame, SparkSession

from ..contracts import Offset, Size
from ..errors import HomeDamaged
from . import snapshots, storage


def land(frame: DataFrame, directory: str, tick: int, epoch: int = 0) -> bool:
    """Store the rows of one batch, under a lease; False if that batch time was landed before."""
    landed = _landed(directory)
    if tick in landed.values():
        return False
    offset = max(landed, default=0) + 1
    return snapshots.write(frame, f"{directory}/{offset:010d}-{tick}", epoch, count=True)


def latest_offset(directory: str) -> Offset:
    """The newest landed offset; None before the first."""
    return max(_landed(directory), default=None)


def size(directory: str, start: Offset, end: Offset) -> Size:
    """The rows and the bytes of Parquet that were landed in (start, end]; no rows if earlier versions landed some."""
    inside = {offset: tick for offset, tick in _landed(directory).items() if (start or 0) < offset <= (end or 0)}
    paths = [f"{directory}/{offset:010d}-{tick}" for offset, tick in inside.items()]
    rows = [snapshots.rows(path) for path in paths]
    known = [n for n in rows if n is not None]
    return Size(sum(known) if known == rows else None, sum(sum(storage.sizes(path).values()) for path in paths))


def read(session: SparkSession, directory: str, start: Offset, end: Offset) -> DataFrame:
    """The rows landed in (start, end], in the order in which they arrived; HomeDamaged if batches are missing."""
    inside = {offset: tick for offset, tick in _landed(directory).items() if (start or 0) < offset <= end}
    if len(inside) < end - (start or 0):
        raise HomeDamaged(
            f"{directory} has {len(inside)} of the received batches {(start or 0) + 1} to {end}: restore it from a "
            "backup, or start with a new home"
        )
    parts = [f"{directory}/{offset:010d}-{tick}" for offset, tick in sorted(inside.items())]
    return snapshots.read_in_order(session, *parts)


def prune(directory: str, end: Offset, settled: int, epoch: int) -> None:
    """Remove what was landed up to the offset in ticks before `settled`, and what earlier drivers left unfinished.

    Spark may run all later ticks again, from a checkpoint that it still has, and then they must be found landed. The
    newest offset stays in any case: it counts on from there.
    """
    landed = sorted(_landed(directory).items())
    for offset, tick in landed[:-1]:
        if offset <= (end or 0) and tick < settled:
            storage.delete(f"{directory}/{offset:010d}-{tick}")
    for unfinished in storage.abandoned(directory, epoch):
        storage.delete(f"{directory}/{unfinished}")


def _landed(directory: str) -> dict[int, int]:
    pairs = (name.partition("-") for name in storage.names(directory) if not name.startswith("."))
    return {int(offset): int(tick) for offset, _, tick in pairs}
