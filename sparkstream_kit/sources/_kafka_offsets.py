"""The offsets of the source kafka, and what they have of each partition.

An offset has of each topic its id, and for each partition where reading began and where it goes on:

    {"access": {"id": "9GZ2Rm4sTcGfX3cbl0GPdw", "first": [0, 0, 7, 0], "next": [120, 98, 7, 131]}}

So a range of the log is enough to read its records again, also those of a partition that was new in it, and a topic
that was deleted and created again is not taken for the old one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..bridge import placement
from ..bridge.kafka import OffsetRange
from ..contracts import Offset, Size

RECORD = 200
"""Bytes that a record is taken to have, to cut a batch into tasks."""


class Piece(NamedTuple):
    """Records of a partition of a topic, known by its id, from an offset on, up to but not including another."""

    topic: str
    id: str
    partition: int
    start: int
    end: int


def pieces_of(start: Offset, end: Offset) -> list[Piece]:
    """What an offset range has of each partition.

    >>> new = {"logs": {"id": "x", "first": [0, 5], "next": [3, 9]}}
    >>> [piece[2:] for piece in pieces_of(None, new)]
    [(0, 0, 3), (1, 5, 9)]
    >>> [piece[2:] for piece in pieces_of({"logs": {"id": "x", "first": [0], "next": [3]}}, new)]
    [(1, 5, 9)]
    """
    pieces = []
    for name, topic in (end or {}).items():
        known = (start or {}).get(name)
        since = known["next"] if known and known["id"] == topic["id"] else []
        since = since if len(since) <= len(topic["next"]) else []  # brokers before 2.8 have no ids
        since = [*since, *topic["first"][len(since) :]]
        spans = enumerate(zip(since, topic["next"], strict=True))
        pieces += [Piece(name, topic["id"], n, first, until) for n, (first, until) in spans if first < until]
    return pieces


def size_of(start: Offset, end: Offset) -> Size:
    """The records between two offsets, with what transactions and compaction leave empty."""
    return Size(sum(piece.end - piece.start for piece in pieces_of(start, end)))


def tasks_of(pieces: Sequence[Piece]) -> list[list[OffsetRange]]:
    """The ranges of each task, in order: tasks of the same size, which may end within a partition."""
    total = sum(piece.end - piece.start for piece in pieces)
    most = max(1, -(-placement.task_size(total * RECORD) // RECORD))
    tasks, left = list[list[OffsetRange]]([[]]), most
    for piece in pieces:
        at = piece.start
        while at < piece.end:
            if left == 0:
                tasks.append([])
                left = most
            until = min(at + left, piece.end)
            tasks[-1].append(OffsetRange(piece.topic, piece.partition, at, until))
            left, at = left - (until - at), until
    return tasks


def shares_of(sizes: Sequence[int], most: int) -> list[int]:
    """What to take of each, so that it is `most` in all, in proportion; what is left over goes to the largest.

    >>> shares_of([60, 30, 10, 0], 10), shares_of([1, 2, 1], 2), shares_of([5, 2], 100)
    ([6, 3, 1, 0], [1, 1, 0], [5, 2])
    """
    total = sum(sizes)
    if total <= most:
        return list(sizes)
    shares, seen, given = [0] * len(sizes), 0, 0
    for n in sorted(range(len(sizes)), key=lambda n: -sizes[n]):
        seen += sizes[n]
        shares[n] = min(seen, -(-seen * most // total)) - given
        given += shares[n]
    return shares


def covers(note: str, lost: Piece) -> bool:
    """Whether a note says that records were given up.

    >>> lost = Piece("logs", "9GZ2", 3, 120, 250)
    >>> covers("9GZ2.3.100-250", lost), covers("9GZ2.3.100-200", lost)
    (True, False)
    """
    id_, partition, span = note.rsplit(".", 2)
    start, _, end = span.partition("-")
    return (id_, int(partition)) == (lost.id, lost.partition) and int(start) <= lost.start and lost.end <= int(end)
