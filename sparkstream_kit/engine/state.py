"""State: a frame that each batch updates.

What is in memory only saves time: a state is rebuilt from its newest snapshot and the entries since.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from ..aggregates import Aggregate, Aggregates, Part
from ..bridge import placement
from ..columns import Columns, column_names
from ..contracts import Size
from ..errors import HomeDamaged, StateRefused
from ..recovery import snapshots, storage
from ..recovery.offset_log import Entry
from .graph import BatchContext, Slide, Stream, add_named
from .merges import together
from .progress import replayed

log = logging.getLogger(__name__)


def batch_literal(number: float) -> Column:
    """A literal that changes every batch without forcing Spark to recompile.

    Spark writes numeric literals into generated code, so each batch would be compiled again, 25 ms per stage; an array
    is passed to that code as an object (Literal.doGenCode, Spark 4.2.1). The index keeps the optimizer from extracting
    the number.
    """
    return F.get(F.array(F.lit(number)), F.spark_partition_id() * 0)


def as_saved(rows: DataFrame, _: Entry) -> DataFrame:
    """The rows of a snapshot that holds no times."""
    return rows


class StateNode:
    """A frame that each batch turns into the next, in executor memory and, every few batches, in a snapshot.

    `empty(new, time)` returns the rows before the first batch, given its recorded time. `advance(state, new, ctx)`
    returns the rows after a batch, including those that expire with it; `retain(rows, time)` returns the rows that
    stay, and must be idempotent. `about` has metadata of columns, as of `aggregates.metadata`: what they mean, such as
    "sum(bytes)", is saved with them, and a state that meant something else is refused. `loaded(rows, entry)` returns
    the rows of a snapshot without times that are later than its entry, as they are once the clock was reset.
    `localCheckpoint` keeps Spark's binary rows and their partitioning by key, so only the new rows of a batch are
    shuffled.
    """

    def __init__(
        self,
        source: Stream,
        name: str,
        keys: Columns,
        empty: Callable[[DataFrame, int], DataFrame],
        advance: Callable[[DataFrame, DataFrame, BatchContext], DataFrame],
        retain: Callable[[DataFrame, int], DataFrame] = lambda rows, time: rows,
        about: snapshots.Metadata = snapshots.NOTHING,
        loaded: Callable[[DataFrame, Entry], DataFrame] = as_saved,
    ):
        self.source = source
        self._graph, self._name, self._keys = source.graph, name, column_names(keys)
        self._empty, self._advance, self._retain, self._loaded = empty, advance, retain, loaded
        self._about = about
        self._frame: DataFrame | None = None  # checkpointed rows
        self._rows: DataFrame | None = None  # those that exist after batch n
        self._n = 0
        self._saved: int | None = None  # rows of the newest snapshot
        add_named("states", self._graph.states, name, self)
        if source.stateful and source.look_back:  # a state has rows at every tick, so this one sees every tick
            self._graph.slides.append(Slide(self._graph.interval, source.look_back))

    def at(self, ctx: BatchContext) -> DataFrame:
        """The rows after a batch, including those that expire with it."""
        if ctx.is_dry_run:
            nothing = self._graph.empty(self.source.compute)
            return self._advance(self._empty(nothing, 0), nothing, ctx)
        if self._rows is None or self._n > ctx.entry.n:
            self._load(ctx.entry.n - 1)  # rows that expire with a batch are not in its snapshot
        entries = [entry for entry in self._graph.log.after(self._n) if entry.n <= ctx.entry.n]
        for entry in replayed(f"state {self._name!r}", entries):
            if entry is not entries[0]:
                self._graph.settle()  # a replay is computed batch by batch
            self._step(self._graph.context(entry))
        assert self._rows is not None
        return self._rows

    def retained(self, ctx: BatchContext) -> DataFrame:
        """The rows that stay after a batch."""
        return self._retain(self.at(ctx), ctx.entry.time)

    def described(self, rows: DataFrame) -> DataFrame:
        """Rows of the state, with what is known of its columns."""
        return snapshots.described(rows, self._about)

    def restore(self) -> None:
        """Load the newest snapshot, if there is one; StateRefused if it does not fit the job."""
        log = self._graph.log
        if self._rows is None and snapshots.numbers(self._directory):
            self._load(log.done_to)

    def forget(self, n: int) -> None:
        """Remove the snapshots of batches after n."""
        snapshots.forget(self._directory, n)

    def save(self, n: int, *, final: bool = False) -> None:
        """Write a snapshot of the rows that stay after batch n; twice if it is the final one of this run."""
        if final and snapshots.is_final(self._directory, n):
            return
        rows = self.retained(self._graph.context(self._graph.log[n]))
        assert self._n == n
        snapshots.save(rows, self._directory, n, self._about, final=final, epoch=self._graph.log.epoch)
        self._saved = snapshots.rows(f"{self._directory}/{n}")

    def size(self) -> Size:
        """Its rows, as of the newest snapshot, and its bytes in the executors."""
        return Size(self._saved, placement.stored_bytes(self._frame) if self._frame is not None else None)

    def prune(self, keep_from: int) -> None:
        """Remove the snapshots that are not needed once all states are saved, nor to rewind to a batch."""
        snapshots.prune(self._directory, self._graph.log.epoch, keep_from)

    def oldest_snapshot(self) -> int:
        """The earliest batch from which the state may have to be rebuilt; 0: from the beginning."""
        return snapshots.oldest_needed(self._directory)

    def first_snapshot(self) -> int:
        """The batch of the oldest snapshot; 0 if there is none."""
        return next(iter(snapshots.numbers(self._directory)), 0)

    def reset(self) -> None:
        """Drop what is in memory."""
        self._frame = self._rows = None

    @property
    def _directory(self) -> str:
        return self._graph.home / f"state/{self._name}"

    def _load(self, newest: int) -> None:
        first = next(iter(self._graph.log.after(0)), self._graph.log.last)
        start = self._empty(self._graph.empty(self.source.compute), first.time)
        compacted, known = self._graph.log.compacted_to.n, self._graph.known_from()
        if self._graph.backfill is not None:  # later ones are of the code that the job has
            newest = min(newest, self._graph.backfill.after)
        n, frame = snapshots.load(
            self._graph.session,
            self._directory,
            newest,
            start,
            self._about,
            replayable=not compacted,
            changes=not self._graph.is_observer,
        )
        if 0 < n < compacted:
            raise StateRefused(
                f"the state {self._name!r} was last saved after batch {n}, but the log only goes back to batch "
                f"{compacted}: give the state another name= to start it from scratch"
            )
        if n < compacted and storage.names(self._directory):
            raise HomeDamaged(
                f"no snapshot of the state {self._name!r} up to batch {newest} can be read, and its input before that "
                f"is no longer available: restore {self._directory} from a backup, or give the state another name= to "
                "start it from scratch"
            )
        if not n and known:
            log.warning(
                "the state %r starts empty after batch %d: its earlier input is no longer available",
                self._name,
                known,
            )
        if n:  # not before `compacted`, which was refused above
            self._saved = snapshots.rows(f"{self._directory}/{n}")
            frame = self._loaded(frame, self._graph.log[n])
        if self._frame is not None:
            self._graph.discard(self._frame)
        self._frame = self._rows = self._graph.store(together([frame], self._keys))
        self._graph.settle()
        self._n = n or known

    def _step(self, ctx: BatchContext) -> None:
        before, rows = self._frame, self._rows
        assert before is not None and rows is not None
        retained = self._retain(before, ctx.before)
        new = ctx.frame(self.source.compute) if ctx.reaches(self.source) else None
        if new is None:
            self._rows = retained
        else:
            self._frame = self._rows = self._graph.store(self._advance(retained, new, ctx))
            self._graph.discard(before)  # not at once: another state that replays may have yet to read it
        self._n = ctx.entry.n


def expiring(aggregates: Aggregates) -> Aggregates:
    """The aggregates plus one: the recorded time of the newest batch in which the key was seen."""
    seen = Part(lambda _: F.max("__time"), F.max)
    return {**aggregates, "__seen": Aggregate((seen,), lambda time: time)}


def not_after(column: str) -> Callable[[DataFrame, Entry], DataFrame]:
    """For `loaded`: a column of times in ms that is at most the recorded time of the entry."""

    def loaded(rows: DataFrame, entry: Entry) -> DataFrame:
        kind = rows.schema[column].dataType
        at_most = F.when(F.col(column) > entry.time, F.lit(entry.time).cast(kind)).otherwise(F.col(column))
        return rows.withColumn(column, at_most)

    return loaded
