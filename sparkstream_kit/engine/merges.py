"""Frames merged by key, as a batch into a state: rows that are placed by their key already do not move."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from pyspark.sql import DataFrame

from ..bridge import placement
from ..columns import Columns, column_names, named
from .chains import Step, Steps


class Merge:
    """A step that makes rows from all rows of a key, whatever those of other keys are."""

    def __init__(self, keys: Columns, step: Step):
        self._keys, self._steps = keys, Steps(step)

    def __call__(self, frames: Sequence[DataFrame]) -> DataFrame:
        """What the step makes of the rows of all frames."""
        count, stay = _partitions(frames, self._keys)
        made = self._steps.of_few(frames) if count == 1 else None
        return self._steps.by_key(_moved(frames, self._keys, count, stay), self._keys) if made is None else made


def together(frames: Sequence[DataFrame], keys: Columns) -> DataFrame:
    """The rows of frames with the same columns, those of a key in one partition, in as many as fit their size.

    If rows of the first frame are placed so already, as those of a state are, they stay where they are, unless they
    have become far too many, or too few, for their partitions.
    """
    return _moved(frames, keys, *_partitions(frames, keys))


def _moved(frames: Sequence[DataFrame], keys: Columns, count: int, stay: bool) -> DataFrame:
    if count == 1:
        return union(frames).coalesce(1)
    first, *others = frames
    moved = [frame.repartition(count, *named(keys)) for frame in (others if stay else frames)]
    return union([first, *moved] if stay else moved)


def _partitions(frames: Sequence[DataFrame], keys: Columns) -> tuple[int, bool]:
    """How many partitions their rows need, and whether those of the first frame are in as many, placed by the keys."""
    if not column_names(keys):
        return 1, False
    placed, fitting = placement.partitions(frames[0], column_names(keys)), placement.tasks(frames)
    stay = placed is not None and (fitting is None or (2 * fitting < 3 * placed and 4 * fitting > placed))
    return (placed if placed is not None and stay else fitting or 1), stay


def union(frames: Sequence[DataFrame]) -> DataFrame:
    """The rows of all frames; in a tree, since each union goes through the plans of both sides again."""
    while len(frames) > 1:
        pairs = itertools.zip_longest(frames[::2], frames[1::2])
        frames = [one if other is None else one.union(other) for one, other in pairs]
    return frames[0]
