"""Nodes that carry frames from batch to batch: windows and state.

What they hold in memory only saves time. A window asks the graph for the moments it lacks; a state starts from its
newest save and replays the entries since.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DecimalType, IntegralType

from . import aggregates as agg
from . import bridge
from .aggregates import Aggregate, Aggregates, Keys
from .errors import UsageError
from .graph import Compute, Graph, Moment
from .recovery import saved_state

log = logging.getLogger(__name__)


@dataclass
class Window:
    """The frames of the batches in (T - length, T], each made anew by reading the source again."""

    graph: Graph
    source: Compute
    length: int
    slide: int

    def moments(self, moment: Moment) -> dict[int, Moment]:
        """The moments inside the window in which the source has a frame, by their number."""
        if moment.is_check:
            return {}
        inside = self.graph.moments(moment.entry.time - self.length, moment.entry.time)
        return {m.entry.n: m for m in inside if m.frame(self.source) is not None}

    def rows(self, moment: Moment) -> DataFrame:
        """All rows of the window."""
        frames = [frame for m in self.moments(moment).values() if (frame := m.frame(self.source)) is not None]
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
        inside = self.moments(moment)
        for n in [n for n in self._kept if n not in inside and n not in self._inside]:
            bridge.free(self._kept.pop(n))
        for n, m in inside.items():
            if n not in self._kept:
                self._kept[n] = self._parts(m.frame(self.source)).localCheckpoint()
        if not moment.fires(self.slide):
            return None
        merged = self._merge(frozenset(inside), moment.entry.n)
        return agg.result(merged, self.keys, self.aggregates)

    def forget(self) -> None:
        """Drop all parts."""
        self._kept.clear()
        self._merged, self._inside = None, frozenset()

    def _merge(self, inside: frozenset[int], n: int) -> DataFrame:
        if self._merged is not None and self._merged_n == n:
            return self._merged
        before, goes_back = self._merged, self._can_go_back
        if before is None or not goes_back or self._merged_n > n or not self._inside <= self._kept.keys():
            frames, before = [self._kept[k] for k in sorted(inside)], None
        else:
            came = [self._kept[k] for k in sorted(inside - self._inside)]
            gone = [self._negated(self._kept[k]) for k in sorted(self._inside - inside)]
            frames = [before, *came, *gone]
        if not frames:
            frames = [self._parts(self.graph.empty(self.source))]
        merged = agg.merge(functools.reduce(DataFrame.union, frames), self.keys, self._counted)
        if agg.key_list(self.keys):
            merged = merged.filter("__rows > 0")
        if goes_back:
            merged = merged.localCheckpoint()
            if self._merged is not None:
                bridge.free(self._merged)
            self._merged, self._merged_n, self._inside = merged, n, inside
        return merged

    def _parts(self, frame: DataFrame | None) -> DataFrame:
        assert frame is not None
        return agg.partial(frame, self.keys, self._counted)

    def _negated(self, parts: DataFrame) -> DataFrame:
        names = [name for name, _ in agg.named_parts(self._counted)]
        return parts.select(*agg.key_list(self.keys), *((-F.col(name)).alias(name) for name in names))

    @functools.cached_property
    def _can_go_back(self) -> bool:
        types = {f.name: f.dataType for f in self._parts(self.graph.empty(self.source)).schema}
        return all(
            part.additive and isinstance(types[name], (IntegralType, DecimalType))
            for name, part in agg.named_parts(self._counted)
        )


class Carried:
    """A frame that each batch turns into the next, in the memory of the executors and now and then on disk.

    `advance(kept, new, moment)` gives the rows after a batch, some of which may leave with it; `keep(rows, time)` those
    that go on. `localCheckpoint` keeps Spark's own binary rows and their partitioning by key, so only the new rows of
    a batch are shuffled.
    """

    def __init__(
        self,
        graph: Graph,
        source: Compute,
        name: str,
        keys: Keys,
        empty: Callable[[DataFrame], DataFrame],
        advance: Callable[[DataFrame, DataFrame, Moment], DataFrame],
        keep: Callable[[DataFrame, int], DataFrame] = lambda rows, time: rows,
    ):
        if name in graph.states:
            raise UsageError(f"two states are named {name!r}: give one of them another name=")
        self._graph, self._source, self._name, self._keys = graph, source, name, agg.key_list(keys)
        self._start, self._advance, self._keep = empty, advance, keep
        self._frame: DataFrame | None = None  # checkpointed rows
        self._rows: DataFrame | None = None  # those of them that are there after batch n
        self._n = 0
        graph.states[name] = self

    def at(self, moment: Moment) -> DataFrame:
        """The rows after that moment, those that leave with it included."""
        if moment.is_check:
            start = self._empty()
            return self._advance(start, self._graph.empty(self._source), moment)
        if self._rows is None or self._n > moment.entry.n:
            self._load(moment.entry.n)
        for entry in self._graph.log.after(self._n):
            if entry.n > moment.entry.n:
                break
            self._step(self._graph.moment(entry))
        assert self._rows is not None
        return self._rows

    def kept(self, moment: Moment) -> DataFrame:
        """The rows that go on after that moment."""
        return self._keep(self.at(moment), moment.entry.time)

    def save(self, n: int) -> None:
        """Keep what goes on after batch n on disk."""
        assert self._n == n
        saved_state.save(self.kept(self._graph.moment(self._graph.log[n])), self._directory, n)

    def oldest_save(self) -> int:
        """The batch from which it could still have to be made again; 0: the very first."""
        saves = saved_state.saves(self._directory)
        return saves[0] if len(saves) > 1 else 0

    def forget(self) -> None:
        """Drop what is in memory."""
        self._frame = self._rows = None

    @property
    def _directory(self) -> str:
        return self._graph.home / f"state/{self._name}"

    def _empty(self) -> DataFrame:
        return self._start(self._graph.empty(self._source))

    def _load(self, newest: int) -> None:
        n, frame = saved_state.load(self._graph.session, self._directory, newest, self._empty())
        floor = self._graph.log.floor.n
        if 0 < n < floor:
            raise UsageError(
                f"the state {self._name!r} was last saved after batch {n}, but the log only goes back to batch "
                f"{floor}: give the state another name= to start it anew"
            )
        if n < floor:
            log.warning("the state %r starts empty after batch %d: its earlier input is not kept", self._name, floor)
        placed = frame.repartition(*self._keys) if self._keys else frame.coalesce(1)
        self._frame = self._rows = placed.localCheckpoint()
        self._n = max(n, floor)

    def _step(self, moment: Moment) -> None:
        before, rows = self._frame, self._rows
        assert before is not None and rows is not None
        kept = self._keep(before, moment.before)
        new = moment.frame(self._source) if moment.entry.data else None
        if new is None:
            self._rows = kept
        else:
            self._frame = self._rows = self._advance(kept, new, moment).localCheckpoint()
            bridge.free(before)
        self._n = moment.entry.n


def expiring(aggregates: Aggregates) -> Aggregates:
    """The aggregates with one more: the recorded time of the newest batch in which the key was seen."""
    seen = agg.Part(lambda: F.max("__time"), F.max)
    return {**aggregates, "__seen": Aggregate((seen,), lambda time: time)}
