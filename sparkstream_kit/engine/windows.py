"""Windows over batches, by reading their rows again or by merging the partial aggregates of each batch."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DecimalType, IntegralType

from .. import aggregates as agg
from ..aggregates import Aggregates
from ..columns import Columns, column_names
from .graph import BatchContext, Compute, Graph, replayed


@dataclass
class Window:
    """The rows of the batches in (T - length, T], read from the source again."""

    graph: Graph
    source: Compute
    length: int
    slide: int

    def inside(self, ctx: BatchContext) -> list[BatchContext]:
        """The batches with data inside the window."""
        return [] if ctx.is_dry_run else self.graph.contexts(ctx.entry.time - self.length, ctx.entry.time)

    def rows(self, ctx: BatchContext) -> DataFrame:
        """All rows of the window."""
        frames = [frame for batch in self.inside(ctx) if (frame := batch.frame(self.source)) is not None]
        return functools.reduce(DataFrame.union, frames or [self.graph.empty(self.source)])

    def reset(self) -> None:
        """Nothing is in memory."""


@dataclass
class AggregatedWindow(Window):
    """One row of partial aggregates for each key over the batches in (T - length, T].

    The partial aggregates of each batch stay in memory. If all of them are invertible, so does the merged window of the
    last slide: a slide then adds the batches that entered and subtracts those that left, however long the window is.
    """

    keys: Columns
    aggregates: Aggregates
    _parts: dict[int, DataFrame] = field(default_factory=dict)
    _merged: DataFrame | None = None
    _merged_n: int = 0
    _merged_batches: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        # counts the rows of each key, so that a key without rows in the window is dropped
        self._counted: Aggregates = {**self.aggregates, "__rows": agg.count()}

    def result(self, ctx: BatchContext) -> DataFrame | None:
        """The result of the window if the slide fires; otherwise None, after aggregating the batch."""
        inside = self.inside(ctx)
        for batch in replayed("a window", [batch for batch in inside if batch.entry.n not in self._parts]):
            frame = batch.frame(self.source)
            partial = self._partial(self._nothing if frame is None else frame)
            self._parts[batch.entry.n] = partial.localCheckpoint()
        numbers = frozenset(batch.entry.n for batch in inside)
        for n in self._parts.keys() - numbers - self._merged_batches:
            self.graph.discard(self._parts.pop(n))
        if not ctx.fires(self.slide):
            return None
        return agg.result(self._merge(numbers, ctx.entry.n), self.keys, self.aggregates)

    def reset(self) -> None:
        """Drop all partial aggregates."""
        self._parts.clear()
        self._merged, self._merged_batches = None, frozenset()

    def _merge(self, inside: frozenset[int], n: int) -> DataFrame:
        last = self._merged
        if last is not None and self._merged_n == n:
            return last
        if last is None or self._merged_n > n or not self._merged_batches <= self._parts.keys():
            frames = [self._parts[k] for k in sorted(inside)]
        else:
            entered = [self._parts[k] for k in sorted(inside - self._merged_batches)]
            left = [self._inverse(self._parts[k]) for k in sorted(self._merged_batches - inside)]
            frames = [last, *entered, *left]
        frames = frames or [self._partial(self._nothing)]
        merged = agg.merge(functools.reduce(DataFrame.union, frames), self.keys, self._counted)
        if column_names(self.keys):
            merged = merged.filter("__rows > 0")
        if self._is_invertible:
            merged = merged.localCheckpoint()
            if last is not None:
                self.graph.discard(last)
            self._merged, self._merged_n, self._merged_batches = merged, n, inside
        return merged

    def _partial(self, frame: DataFrame) -> DataFrame:
        return agg.partial(frame, self.keys, self._counted)

    def _inverse(self, partial: DataFrame) -> DataFrame:
        names = [name for name, _ in agg.named_parts(self._counted)]
        return partial.select(*column_names(self.keys), *((-F.col(name)).alias(name) for name in names))

    @property
    def _nothing(self) -> DataFrame:
        return self.graph.empty(self.source)

    @functools.cached_property
    def _is_invertible(self) -> bool:
        types = {f.name: f.dataType for f in self._partial(self._nothing).schema}
        return all(
            part.additive and isinstance(types[name], (IntegralType, DecimalType))
            for name, part in agg.named_parts(self._counted)
        )
