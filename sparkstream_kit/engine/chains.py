"""Steps that are the same for every batch: later batches run the code that Spark generated for the first one.

For a thousand rows Spark takes longer to analyze, plan and generate code for a chain of steps than to run it. Results
are the same, as the steps are functions of the rows alone; whatever else a chain has, such as a function of the user's,
is built for each batch. `bridge.rows` tells the one from the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pyspark.sql import DataFrame, SparkSession

from ..bridge import rows
from ..columns import Columns, column_names

if TYPE_CHECKING:
    from .graph import BatchContext, Compute

F = TypeVar("F", bound=Callable[..., DataFrame])
Step = Callable[[DataFrame], DataFrame]

SETTING = "spark.sparkstream.reuseCode"
"""A property of Spark; with `false` the steps are built for every batch."""

_MARK = "_same_for_every_batch"


def same_for_every_batch(function: F) -> F:
    """Mark a function whose result depends on nothing but the rows of its frame and its other arguments."""
    vars(function)[_MARK] = function  # itself, since functools.wraps copies what a function has to others
    return function


def is_same(function: Callable[..., Any]) -> bool:
    """Whether a function, or the one of a partial, is marked."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, _MARK, None) is function


def is_on(session: SparkSession) -> bool:
    """Whether code is kept."""
    return session.conf.get(SETTING, "true") != "false"


class Steps:
    """Functions of a frame, one after the other."""

    def __init__(self, *steps: Step):
        self._steps = steps
        self._codes: dict[bool, rows.Code | None] = {}  # for frames in one partition, and for others

    @property
    def _is_off(self) -> bool:
        """Whether no code can be kept: steps that have none for rows in one partition have none for others either."""
        return True in self._codes and self._codes[True] is None

    def then(self, step: Step) -> Steps:
        """The same with a step more."""
        return Steps(*self._steps, step)

    def __call__(self, frame: DataFrame) -> DataFrame:
        """What they make of a frame."""
        made = self.reused(frame)
        return self._built(frame) if made is None else made

    def reused(self, frame: DataFrame) -> DataFrame | None:
        """What their code makes of a frame; None if there is none that serves any frame."""
        if self._is_off:
            return None
        source = rows.rows(frame) if is_on(frame.sparkSession) else None
        return None if source is None else self._run(frame, source)

    def of_few(self, frames: Sequence[DataFrame]) -> DataFrame | None:
        """What their code makes of the rows of several frames; None if these are not there, each in one partition."""
        if self._is_off or not is_on(frames[0].sparkSession):
            return None
        source = rows.united(frames)
        return None if source is None else self._run(frames[0], source)

    def by_key(self, frame: DataFrame, keys: Columns) -> DataFrame:
        """What they make of a frame with all rows of a key in one partition, if they treat each key by itself."""
        names = column_names(keys)
        source = None if self._is_off or not is_on(frame.sparkSession) else rows.placed(frame, names)
        made = None if source is None else self._run(frame, source, names)
        return self._built(frame) if made is None else made

    def _run(self, frame: DataFrame, source: rows.Rows, keys: Sequence[str] = ()) -> DataFrame | None:
        kind, session = source.in_one_partition, frame.sparkSession
        code = self._codes.get(kind)
        made = rows.run(code, source, session, keys) if code else None
        if made is None and (code or kind not in self._codes):  # none yet, or it is out of date
            code = self._codes[kind] = self._code(frame, rows.in_one_partition(source) if keys else source)
            made = rows.run(code, source, session, keys) if code else None
        return made

    def _code(self, frame: DataFrame, source: rows.Rows) -> rows.Code | None:
        if rows.has_alias(frame):
            return None
        # for the rows alone, as Spark may know more of this frame: how it is placed, or that nothing is null
        circumstances = rows.circumstances(frame.sparkSession)
        alone = rows.frame(frame.sparkSession, source.rdd, source.schema)
        return rows.code(source, self._built(alone), self._built(alone), circumstances)

    def _built(self, frame: DataFrame) -> DataFrame:
        return functools.reduce(lambda made, step: step(made), self._steps, frame)


def after(node: Compute, step: Step) -> Compute:
    """A node whose frame a step makes from that of another node."""
    if isinstance(node, Chain):
        return Chain(node.base, node.steps.then(step), node, step)
    return Chain(node, Steps(step), node, step)


@dataclass(frozen=True, eq=False)
class Chain:
    """A node whose frame steps make from that of another node, `base`; the last of them from that of `before`."""

    base: Compute
    steps: Steps
    before: Compute
    last: Step

    def __call__(self, ctx: BatchContext) -> DataFrame | None:
        """The frame of a batch; unless its code is there, from the one that all steps after `before` share."""
        frame = ctx.frame(self.base)
        made = None if frame is None else self.steps.reused(frame)
        if frame is None or made is not None:
            return made
        before = ctx.frame(self.before)
        return None if before is None else self.last(before)
