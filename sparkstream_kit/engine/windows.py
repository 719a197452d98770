"""Windows over batches: rows read again, or partial aggregates that are kept and merged."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DecimalType, IntegralType

from .. import aggregates as agg
from ..aggregates import Aggregates, Keys
from .graph import Compute, Graph, Moment


@dataclass
class Window:
    """The frames of the batches in (T - length, T], each made anew by reading the source again."""

    graph: Graph
    source: Compute
    length: int
    slide: int

    def inside(self, moment: Moment) -> list[Moment]:
        """The moments with data inside the window."""
        return [] if moment.is_check else self.graph.moments(moment.entry.time - self.length, moment.entry.time)

    def rows(self, moment: Moment) -> DataFrame:
        """All rows of the window."""
        frames = [frame for m in self.inside(moment) if (frame := m.frame(self.source)) is not None]
        return functools.reduce(DataFrame.union, frames or [self.graph.empty(self.source)])

    def forget(self) -> None:
        """Nothing is held."""


@dataclass
class AggregatedWindow(Window):
    """One row of parts for each key over the batches in (T - length, T].

    The parts of each batch are kept. Where all of them can be taken back exactly, so is the merged window of the slide
    before: then a slide costs what came and what went, however long the window is.
    """

    keys: Keys
    aggregates: Aggregates
    _kept: dict[int, DataFrame] = field(default_factory=dict)
    _merged: DataFrame | None = None
    _merged_n: int = 0
    _inside: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        # counts the rows of each key, so that a key is known to be gone
        self._counted: Aggregates = {**self.aggregates, "__rows": agg.count()}

    def result(self, moment: Moment) -> DataFrame | None:
        """The results of the window, where the slide fires; else only the parts of the batch are made."""
        inside = self.inside(moment)
        for m in inside:
            if m.entry.n not in self._kept:
                frame = m.frame(self.source)
                self._kept[m.entry.n] = self._parts(self._nothing if frame is None else frame).localCheckpoint()
        numbers = frozenset(m.entry.n for m in inside)
        for n in self._kept.keys() - numbers - self._inside:
            self.graph.discard(self._kept.pop(n))
        if not moment.fires(self.slide):
            return None
        return agg.result(self._merge(numbers, moment.entry.n), self.keys, self.aggregates)

    def forget(self) -> None:
        """Drop all parts."""
        self._kept.clear()
        self._merged, self._inside = None, frozenset()

    def _merge(self, inside: frozenset[int], n: int) -> DataFrame:
        before = self._merged
        if before is not None and self._merged_n == n:
            return before
        if before is None or self._merged_n > n or not self._inside <= self._kept.keys():
            frames = [self._kept[k] for k in sorted(inside)]
        else:
            came = [self._kept[k] for k in sorted(inside - self._inside)]
            gone = [self._negated(self._kept[k]) for k in sorted(self._inside - inside)]
            frames = [before, *came, *gone]
        frames = frames or [self._parts(self._nothing)]
        merged = agg.merge(functools.reduce(DataFrame.union, frames), self.keys, self._counted)
        if agg.key_list(self.keys):
            merged = merged.filter("__rows > 0")
        if self._can_go_back:
            merged = merged.localCheckpoint()
            if before is not None:
                self.graph.discard(before)
            self._merged, self._merged_n, self._inside = merged, n, inside
        return merged

    def _parts(self, frame: DataFrame) -> DataFrame:
        return agg.partial(frame, self.keys, self._counted)

    def _negated(self, parts: DataFrame) -> DataFrame:
        names = [name for name, _ in agg.named_parts(self._counted)]
        return parts.select(*agg.key_list(self.keys), *((-F.col(name)).alias(name) for name in names))

    @property
    def _nothing(self) -> DataFrame:
        return self.graph.empty(self.source)

    @functools.cached_property
    def _can_go_back(self) -> bool:
        types = {f.name: f.dataType for f in self._parts(self._nothing).schema}
        return all(
            part.additive and isinstance(types[name], (IntegralType, DecimalType))
            for name, part in agg.named_parts(self._counted)
        )
