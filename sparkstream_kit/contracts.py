"""What a source, an output and a transformation are: read this to write one of your own.

A transformation is a function of a FrameStream, or of a DataFrame for `FrameStream.transform`. A source is a `Source`
given to `FrameStream.from_source`. An output is a function of a DataFrame and its `Batch`, given to
`FrameStream.for_each_batch`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql.types import StructType

Position = Any
"""How far a source has been read: any JSON value; None before the first record."""


def count_on(start: Position, end: Position, limit: int) -> Position:
    """The position at most `limit` records beyond start, where positions count records."""
    return min(end, (start or 0) + limit)


@dataclass(frozen=True)
class Source:
    """A replayable input: `read(start, end)` gives the records in (start, end], any number of times.

    `latest(now)` says how far it can be read at a time (ms since 1970; None: as far as there is anything).
    `limit(start, end, n)` is the position at most n records beyond start. Positions are JSON values; None is before
    the first record.
    """

    latest: Callable[[int | None], Position]
    read: Callable[[Position, Position], DataFrame]
    schema: StructType | str
    limit: Callable[[Position, Position, int], Position] = count_on
    forget: Callable[[Position], None] = lambda position: None
    """Told that what is up to this position will never be read again."""
    trial: int = 100_000
    """How many records a batch takes of a backlog as long as nobody knows how long they take."""
    drains: bool = True
    """False for receivers, which have no end."""


@dataclass(frozen=True)
class Batch:
    """What an output may know of the batch it writes; (home id, name of the output, n) names it for ever."""

    n: int
    time: datetime
    """The recorded time, in UTC."""
    home_id: str
    ranges: dict[str, tuple[Position, Position]] = field(default_factory=dict)
    """What each source gave to the batch, as the offset log has it."""
    positions: dict[str, Position] = field(default_factory=dict)
    """How far each source was read when the batch had been taken."""


Write = Callable[[DataFrame, Batch], object]
