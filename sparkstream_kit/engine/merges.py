"""Rows of one kind from several frames, merged by key, of which most stay where they are."""

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
        return self._steps.by_key(together(frames, self._keys), self._keys)


def together(frames: Sequence[DataFrame], keys: Columns) -> DataFrame:
    """The rows of frames with the same columns, those of a key in one partition, in as many as fit their size.

    If rows of the first frame are placed so already, as those of a state are, they stay where they are, unless they
    have become far too many, or too few, for their partitions.
    """
    by = named(keys)
    if not by:
        return union(frames).coalesce(1)
    first, *others = frames
    placed, fitting = placement.partitions(first, column_names(keys)), placement.tasks(frames)
    fits = placed and (fitting is None or (2 * fitting < 3 * placed and 4 * fitting > placed))
    count = placed if placed and fits else fitting or 1
    if count == 1:
        return union(frames).coalesce(1)
    moved = [frame.repartition(count, *by) for frame in (others if fits else frames)]
    return union([first, *moved] if fits else moved)


def union(frames: Sequence[DataFrame]) -> DataFrame:
    """The rows of all frames; in a tree, since each union goes through the plans of both sides again."""
    while len(frames) > 1:
        pairs = itertools.zip_longest(frames[::2], frames[1::2])
        frames = [one if other is None else one.union(other) for one, other in pairs]
    return frames[0]
