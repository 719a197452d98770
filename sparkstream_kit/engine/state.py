"""Nodes that carry frames from batch to batch: windows and state.

What they hold in memory only saves time. A window asks the graph for the moments it lacks; a state starts from its
newest save and replays the entries since.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DecimalType, IntegralType

from .. import aggregates as agg
from ..aggregates import Aggregate, Aggregates, Keys
from ..bridge import dataframes
from ..errors import UsageError
from ..recovery import saved_state, storage
from .graph import Compute, Graph, Moment

log = logging.getLogger(__name__)


def of_the_batch(number: float) -> Column:
    """A number that is another one in each batch.

    Spark writes literals of numbers into the code it generates, so each batch would be compiled anew, 25 ms for each
    stage; an array it passes to the code as an object (Literal.doGenCode, Spark 4.2.1). The index keeps the optimizer
    from taking the number out of it.
    """
    return F.get(F.array(F.lit(number)), F.spark_partition_id() * 0)


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


class Carried:
    """A frame that each batch turns into the next, in the memory of the executors and now and then on disk.

    `empty(new, time)` gives the rows before the first batch, whose recorded time it is told. `advance(kept, new,
    moment)` gives the rows after a batch, some of which may leave with it; `keep(rows, time)` those that go on, and
    the same ones where it is applied twice. `localCheckpoint` keeps Spark's own binary rows and their partitioning by
    key, so only the new rows of a batch are shuffled.
    """

    def __init__(
        self,
        graph: Graph,
        source: Compute,
        name: str,
        keys: Keys,
        empty: Callable[[DataFrame, int], DataFrame],
        advance: Callable[[DataFrame, DataFrame, Moment], DataFrame],
        keep: Callable[[DataFrame, int], DataFrame] = lambda rows, time: rows,
    ):
        if name in graph.states:
            raise UsageError(f"two states are named {name!r}: give one of them another name=")
        self._graph, self._source, self._name, self._keys = graph, source, name, agg.key_list(keys)
        self._empty, self._advance, self._keep = empty, advance, keep
        self._frame: DataFrame | None = None  # checkpointed rows
        self._rows: DataFrame | None = None  # those of them that are there after batch n
        self._n = 0
        graph.states[name] = self

    def at(self, moment: Moment) -> DataFrame:
        """The rows after that moment, those that leave with it included."""
        if moment.is_check:
            nothing = self._graph.empty(self._source)
            return self._advance(self._empty(nothing, 0), nothing, moment)
        if self._rows is None or self._n > moment.entry.n:
            self._load(moment.entry.n - 1)  # what leaves with the batch itself is in no save of it
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

    def _load(self, newest: int) -> None:
        first = self._graph.log.after(0)[0]
        start = self._empty(self._graph.empty(self._source), first.time)
        n, frame = saved_state.load(self._graph.session, self._directory, newest, start)
        floor = self._graph.log.floor.n
        if 0 < n < floor:
            raise UsageError(
                f"the state {self._name!r} was last saved after batch {n}, but the log only goes back to batch "
                f"{floor}: give the state another name= to start it anew"
            )
        if n < floor and storage.names(self._directory):
            raise UsageError(
                f"no save of the state {self._name!r} can be read, and its earlier input is not kept: restore "
                f"{self._directory} from a copy, or give the state another name= to start it anew"
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
            dataframes.free(before)
        self._n = moment.entry.n


def expiring(aggregates: Aggregates) -> Aggregates:
    """The aggregates with one more: the recorded time of the newest batch in which the key was seen."""
    seen = agg.Part(lambda: F.max("__time"), F.max)
    return {**aggregates, "__seen": Aggregate((seen,), lambda time: time)}
