"""Windows over batches, by reading their rows again or by merging the partial aggregates of each batch."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import DecimalType, IntegralType

from .. import aggregates as agg
from .. import durations
from ..aggregates import Aggregates
from ..columns import Columns, check_added, column_names, named, quoted
from .chains import Steps, after
from .graph import BatchContext, Slide, Stream
from .merges import Merge, union
from .progress import replayed
from .state import batch_literal

log = logging.getLogger(__name__)

FANOUT = 8
"""Batches, or blocks of them, in the next larger block."""


@dataclass
class Window:
    """The rows of the batches in (T - length, T], read from the source again."""

    source: Stream
    length: int
    slide: int
    is_read: bool = field(default=False, init=False)
    """Whether something has asked for its rows, be it in the check of the start."""
    _is_whole: bool = False

    def __post_init__(self) -> None:
        self.graph = self.source.graph
        self.graph.windows.append(self)
        self.reach = self.length + self.source.look_back
        """How far back the data may be that a result has, in ms."""
        self.graph.slides.append(Slide(self.slide, self.reach))

    @property
    def look_back(self) -> float:
        """How far back it may read the batches of its sources, in ms."""
        return self.reach

    def inside(self, ctx: BatchContext) -> list[BatchContext]:
        """The batches inside the window in which the source can have rows."""
        self.is_read = True
        if ctx.is_dry_run:
            return []
        if not self._is_whole:
            self._warn_if_partial(ctx.entry.time)
        return self.graph.contexts(self.source, ctx.entry.time - self.length, ctx.entry.time)

    def rows(self, ctx: BatchContext) -> DataFrame:
        """All rows of the window."""
        frames = [frame for batch in self.inside(ctx) if (frame := batch.frame(self.source.compute)) is not None]
        return union(frames or [self.graph.empty(self.source.compute)])

    def reset(self) -> None:
        """Nothing is in memory."""

    def _warn_if_partial(self, time: int) -> None:
        """Once: a window that was added, or made longer, may look back further than the log does."""
        self._is_whole, first = True, self.graph.log.compacted_to
        if first.n and first.time > time - self.reach:
            whole = datetime.fromtimestamp((first.time + self.reach) / 1000, timezone.utc)
            log.warning(
                "a window of %s is new or longer than before, and the batches up to %d are no longer known: until "
                "%s UTC its results are without them",
                durations.text(self.length),
                first.n,
                f"{whole:%Y-%m-%d %H:%M:%S}",
            )


@dataclass
class AggregatedWindow(Window):
    """One row of partial aggregates for each key over the batches in (T - length, T].

    The partial aggregates of each batch stay in memory. If all of them are invertible, so does the merged window of the
    last slide: a slide then adds the batches that entered and subtracts those that left, however long the window is.
    Otherwise those of full blocks of batches, of blocks of blocks and so on stay, too, so that a slide merges as many
    frames as the logarithm of the batches. After a restart the batches of a block are read as one.
    """

    keys: Columns = ()
    aggregates: Aggregates = field(default_factory=dict)
    _parts: dict[tuple[int, int], DataFrame | None] = field(default_factory=dict)
    """By level and number: those of the batches of a block, None if it has none; at level 0 a block is a batch."""
    _stored: list[tuple[int, DataFrame]] = field(default_factory=list)
    """Local checkpoints that hold parts, each with its last batch."""
    _merged: DataFrame | None = None
    _merged_n: int = 0
    _merged_batches: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_added([*column_names(self.keys), *self.aggregates], "__n", "__rows")
        # counts the rows of each key, so that a key without rows in the window is dropped
        self._counted: Aggregates = {**self.aggregates, "__rows": agg.count()}
        self._partials = after(self.source.compute, self._partial)
        self._merge_parts = Merge(self.keys, self._in_window)
        self._negative = Steps(self._inverse)

    @property
    def look_back(self) -> float:
        """How far back it may read the batches of its sources, in ms: a slide subtracts what left since the last."""
        return self.reach + self.slide

    def merged(self, ctx: BatchContext) -> DataFrame | None:
        """The partial aggregates of the window if the slide fires; otherwise None, after aggregating the batch."""
        inside = self.inside(ctx)
        self._read(replayed("a window", [batch for batch in inside if (0, batch.entry.n) not in self._parts]))
        numbers = frozenset(batch.entry.n for batch in inside)
        self._forget(min(numbers | self._merged_batches, default=ctx.entry.n))
        if not ctx.fires(self.slide):
            return None
        return self._merge(numbers, ctx.entry.n)

    def reset(self) -> None:
        """Drop all partial aggregates."""
        self._parts.clear()
        self._stored.clear()
        self._merged, self._merged_batches = None, frozenset()

    def _read(self, batches: Iterable[BatchContext]) -> None:
        """Aggregate batches, those of a block in one pass."""
        blocks = itertools.groupby(batches, lambda batch: batch.entry.n // FANOUT)
        for number, (block, group) in enumerate(blocks):
            if number:
                self.graph.settle()  # a replay is computed block by block
            inside = list(group)
            compute = self._partials if len(inside) == 1 else self.source.compute
            frames = {batch.entry.n: batch.frame(compute) for batch in inside}
            parts: dict[tuple[int, int], DataFrame | None] = {(0, n): None for n in frames}
            found = {n: frame for n, frame in frames.items() if frame is not None}
            if len(found) == 1:
                [(n, frame)] = found.items()
                parts[0, n] = self._store(n, frame if compute is self._partials else self._partial(frame))
            elif found:
                tagged = [frame.withColumn("__n", _number(n)) for n, frame in found.items()]
                rows = agg.partial(union(tagged), ["__n", *column_names(self.keys)], self._counted)
                if not column_names(self.keys):  # a batch without rows has a part all the same, as if read alone
                    each = F.explode(F.array(*map(_number, found))).alias("__n")
                    rows = rows.union(self._partial(self._nothing).select(each, "*"))
                together = self._store(max(found), rows)
                parts |= {(0, n): together.filter(F.col("__n") == _number(n)).drop("__n") for n in found}
                if len(frames) == FANOUT:
                    parts[1, block] = together.drop("__n")
            self._parts |= parts

    def _forget(self, before: int) -> None:
        """Drop what only has batches before this one."""
        for key in [(level, i) for level, i in self._parts if (i + 1) * FANOUT**level <= before]:
            del self._parts[key]
        for stored in [stored for stored in self._stored if stored[0] < before]:
            self._stored.remove(stored)
            self.graph.discard(stored[1])

    def _merge(self, inside: frozenset[int], n: int) -> DataFrame:
        last = self._merged
        if last is not None and self._merged_n == n:
            return last
        if last is None or self._merged_n > n or not all((0, k) in self._parts for k in self._merged_batches):
            frames = list(self._blocks(inside))
        else:
            entered = self._batches(inside - self._merged_batches)
            left = map(self._negative, self._batches(self._merged_batches - inside))
            frames = [last, *entered, *left]
        merged = self._merge_parts(frames or [self._partial(self._nothing)])
        if self._is_invertible and n:
            merged = self.graph.store(merged)
            if last is not None:
                self.graph.discard(last)
            self._merged, self._merged_n, self._merged_batches = merged, n, inside
        return merged

    def _batches(self, numbers: Iterable[int]) -> list[DataFrame]:
        return [part for n in sorted(numbers) if (part := self._parts[0, n]) is not None]

    def _blocks(self, inside: frozenset[int]) -> Iterator[DataFrame]:
        """The parts of the batches inside, in as few frames as there are."""
        if not inside:
            return
        n, last = min(inside), max(inside)
        while n <= last:
            level, size = 0, 1
            while n % (size * FANOUT) == 0 and n + size * FANOUT <= last + 1:
                level, size = level + 1, size * FANOUT
            part = self._block(level, n // size)
            if part is not None:
                yield part
            n += size

    def _block(self, level: int, i: int) -> DataFrame | None:
        if level and (level, i) not in self._parts:
            children = (self._block(level - 1, k) for k in range(i * FANOUT, (i + 1) * FANOUT))
            parts = [child for child in children if child is not None]
            last = (i + 1) * FANOUT**level - 1
            self._parts[level, i] = self._store(last, self._merge_parts(parts)) if parts else None
        return self._parts.get((level, i))

    def _store(self, last: int, frame: DataFrame) -> DataFrame:
        stored = self.graph.store(frame)
        self._stored.append((last, stored))
        return stored

    def _partial(self, frame: DataFrame) -> DataFrame:
        return agg.partial(frame, self.keys, self._counted)

    def _in_window(self, parts: DataFrame) -> DataFrame:
        """Those of the keys that have rows in the window."""
        merged = agg.merge(parts, self.keys, self._counted)
        return merged.filter("__rows > 0") if column_names(self.keys) else merged

    def _inverse(self, partial: DataFrame) -> DataFrame:
        names = [name for name, _ in agg.named_parts(self._counted)]
        negative = ((-F.col(quoted(name))).alias(name) for name in names)
        return partial.select(*named(self.keys), *negative)

    @property
    def _nothing(self) -> DataFrame:
        return self.graph.empty(self.source.compute)

    @functools.cached_property
    def _is_invertible(self) -> bool:
        types = {f.name: f.dataType for f in self._partial(self._nothing).schema}
        return all(
            part.additive and isinstance(types[name], (IntegralType, DecimalType))
            for name, part in agg.named_parts(self._counted)
        )


def _number(n: int) -> Column:
    return batch_literal(n).cast("bigint")
