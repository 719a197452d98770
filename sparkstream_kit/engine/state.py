"""State: a frame that each batch updates.

What is in memory only saves time: a state is rebuilt from its newest snapshot and the entries since.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from ..aggregates import Aggregate, Aggregates, Part
from ..bridge import dataframes
from ..columns import Columns, column_names
from ..errors import HomeDamaged, StateRefused
from ..recovery import snapshots, storage
from .graph import BatchContext, Compute, Graph, add_named

log = logging.getLogger(__name__)


def batch_literal(number: float) -> Column:
    """A literal that changes every batch without forcing Spark to recompile.

    Spark writes numeric literals into generated code, so each batch would be compiled again, 25 ms per stage; an array
    is passed to that code as an object (Literal.doGenCode, Spark 4.2.1). The index keeps the optimizer from extracting
    the number.
    """
    return F.get(F.array(F.lit(number)), F.spark_partition_id() * 0)


class StateNode:
    """A frame that each batch turns into the next, in executor memory and, every few batches, in a snapshot.

    `empty(new, time)` returns the rows before the first batch, given its recorded time. `advance(state, new, ctx)`
    returns the rows after a batch, including those that expire with it; `retain(rows, time)` returns the rows that
    stay, and must be idempotent. `localCheckpoint` keeps Spark's binary rows and their partitioning by key, so only the
    new rows of a batch are shuffled.
    """

    def __init__(
        self,
        graph: Graph,
        source: Compute,
        name: str,
        keys: Columns,
        empty: Callable[[DataFrame, int], DataFrame],
        advance: Callable[[DataFrame, DataFrame, BatchContext], DataFrame],
        retain: Callable[[DataFrame, int], DataFrame] = lambda rows, time: rows,
    ):
        self._graph, self._source, self._name, self._keys = graph, source, name, column_names(keys)
        self._empty, self._advance, self._retain = empty, advance, retain
        self._frame: DataFrame | None = None  # checkpointed rows
        self._rows: DataFrame | None = None  # those that exist after batch n
        self._n = 0
        add_named("states", graph.states, name, self)

    def at(self, ctx: BatchContext) -> DataFrame:
        """The rows after a batch, including those that expire with it."""
        if ctx.is_dry_run:
            nothing = self._graph.empty(self._source)
            return self._advance(self._empty(nothing, 0), nothing, ctx)
        if self._rows is None or self._n > ctx.entry.n:
            self._load(ctx.entry.n - 1)  # rows that expire with a batch are not in its snapshot
        for entry in self._graph.log.after(self._n):
            if entry.n > ctx.entry.n:
                break
            self._step(self._graph.context(entry))
        assert self._rows is not None
        return self._rows

    def retained(self, ctx: BatchContext) -> DataFrame:
        """The rows that stay after a batch."""
        return self._retain(self.at(ctx), ctx.entry.time)

    def save(self, n: int, *, final: bool = False) -> None:
        """Write a snapshot of the rows that stay after batch n; twice if it is the final one of this run."""
        if final and snapshots.is_final(self._directory, n):
            return
        rows = self.retained(self._graph.context(self._graph.log[n]))
        assert self._n == n
        snapshots.save(rows, self._directory, n, final=final, epoch=self._graph.log.epoch)

    def oldest_snapshot(self) -> int:
        """The earliest batch from which the state may have to be rebuilt; 0: from the beginning."""
        return snapshots.oldest_needed(self._directory)

    def reset(self) -> None:
        """Drop what is in memory."""
        self._frame = self._rows = None

    @property
    def _directory(self) -> str:
        return self._graph.home / f"state/{self._name}"

    def _load(self, newest: int) -> None:
        first = self._graph.log.after(0)[0]
        start = self._empty(self._graph.empty(self._source), first.time)
        n, frame = snapshots.load(self._graph.session, self._directory, newest, start)
        compacted = self._graph.log.compacted_to.n
        if 0 < n < compacted:
            raise StateRefused(
                f"the state {self._name!r} was last saved after batch {n}, but the log only goes back to batch "
                f"{compacted}: give the state another name= to start it from scratch"
            )
        if n < compacted and storage.names(self._directory):
            raise HomeDamaged(
                f"no snapshot of the state {self._name!r} can be read, and its earlier input is no longer available: "
                f"restore {self._directory} from a backup, or give the state another name= to start it from scratch"
            )
        if n < compacted:
            log.warning(
                "the state %r starts empty after batch %d: its earlier input is no longer available",
                self._name,
                compacted,
            )
        placed = frame.repartition(*self._keys) if self._keys else frame.coalesce(1)
        self._frame = self._rows = placed.localCheckpoint()
        self._n = max(n, compacted)

    def _step(self, ctx: BatchContext) -> None:
        before, rows = self._frame, self._rows
        assert before is not None and rows is not None
        retained = self._retain(before, ctx.before)
        new = ctx.frame(self._source) if ctx.entry.data else None
        if new is None:
            self._rows = retained
        else:
            self._frame = self._rows = self._advance(retained, new, ctx).localCheckpoint()
            dataframes.free(before)
        self._n = ctx.entry.n


def expiring(aggregates: Aggregates) -> Aggregates:
    """The aggregates plus one: the recorded time of the newest batch in which the key was seen."""
    seen = Part(lambda: F.max("__time"), F.max)
    return {**aggregates, "__seen": Aggregate((seen,), lambda time: time)}
