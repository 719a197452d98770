"""The contracts of a source, an output and a transformation: read this to write your own (docs/extend.md does).

A **transformation** takes a FrameStream first and returns one; most are `stream.transform(function)` with a function
from DataFrame to DataFrame. A **source** is a `Source`, made a stream by `FrameStream.from_source`. An **output** is a
`Write`, a function of a DataFrame and its `Batch`, given to `FrameStream.for_each_batch`.

The words are those of PySpark's DataSourceStreamReader: offsets, latest offset, read, commit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql.types import StructType

Offset = Any
"""How far a source has been read: any JSON value; None before the first record."""

OffsetRange = tuple[Offset, Offset]
"""The records after the first offset, up to and including the second."""


def limit_by_count(start: Offset, end: Offset, limit: int) -> Offset:
    """The offset at most `limit` records after `start`, for sources whose offsets count records.

    >>> limit_by_count(None, 1000, 300), limit_by_count(900, 1000, 300)
    (300, 1000)
    """
    return min(end, (start or 0) + limit)


class Size(NamedTuple):
    """How much an offset range or a state has, as far as that is known."""

    records: int | None = None
    """Records, or rows."""
    bytes: int | None = None


def size_by_count(start: Offset, end: Offset) -> Size:
    """The records between two offsets, for sources whose offsets count records; of others nothing is known.

    >>> size_by_count(None, 1000), size_by_count("1:a0", "2:b7")
    (Size(records=1000, bytes=None), Size(records=None, bytes=None))
    """
    counts = isinstance(end, int) and (start is None or isinstance(start, int))
    return Size(end - (start or 0)) if counts else Size()


@dataclass(frozen=True)
class Source:
    """A replayable input: `read(start, end)` returns the same records every time it is called with the same offsets."""

    latest_offset: Callable[[int | None], Offset]
    """Where the source could be read to at a recorded time (ms since 1970); with None, where its data ends."""
    read: Callable[[Offset, Offset], DataFrame]
    """The records of an offset range, as a DataFrame with the columns of `schema`."""
    schema: StructType | str
    """The columns, as a StructType or in DDL."""
    limit: Callable[[Offset, Offset, int], Offset] = limit_by_count
    """The offset at most n records after a start: `limit(start, end, n)`."""
    size: Callable[[Offset, Offset], Size] = size_by_count
    """How much is between two offsets, for the log, metrics and lag. It is asked after each batch, also for what the
    source has beyond it, so it must be quick; what it does not know it leaves out."""
    prepare: Callable[[Offset, Offset], Offset] = lambda start, end: end
    """Called before a batch with this offset range is recorded, for what can be read later only if it is kept now;
    returns the offset up to which that was possible."""
    done: Callable[[Offset], None] = lambda end: None
    """Called when all outputs of the batch that ends there are written, for others who watch how far a job is. What it
    raises is only logged, and it is not called again."""
    commit: Callable[[Offset], None] = lambda end: None
    """Called with an offset up to which nothing will be read again; what is before it may be removed."""
    initial_batch_size: int = 100_000
    """Records that a batch takes of a backlog until it is known how long they take."""
    bounded: bool = True
    """Whether `latest_offset(None)` is an end that a drain can reach; False for receivers."""


@dataclass(frozen=True)
class Batch:
    """What an output knows of the batch it writes. Home id, output name and n identify it forever."""

    n: int
    """Number of the batch, counted from 1."""
    time: datetime
    """Recorded time, in UTC."""
    home_id: str
    ranges: dict[str, OffsetRange] = field(default_factory=dict)
    """The offset range of each source that had data."""
    end_offsets: dict[str, Offset] = field(default_factory=dict)
    """Where each source has been read to, this batch included."""
    again: bool = False
    """Whether it runs again, as an operator asked. An output that can do so replaces what it wrote the first time."""
    backfill: str = ""
    """The id of the backfill that runs it again, while the job writes later batches; empty in the job itself."""


Rewind = Callable[[Batch, int], None]
"""Called with a batch and a number before the batches after it, up to that number, run again."""

Write = Callable[[DataFrame, Batch], object]
"""Writes one batch, and may be called again for the same one: skip or replace what is there. An int that it returns is
logged as the number of rows written; an exception makes the engine try again."""
