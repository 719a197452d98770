"""Nodes that carry frames from batch to batch: windows and state.

What they hold in memory only saves time. A window asks the graph for the moments it lacks; a state starts from its
newest save and replays the entries since.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from .. import aggregates as agg
from ..aggregates import Aggregate, Aggregates, Keys
from ..bridge import dataframes
from ..errors import UsageError
from ..recovery import snapshots, storage
from .graph import Compute, Graph, Moment

log = logging.getLogger(__name__)


def of_the_batch(number: float) -> Column:
    """A number that is another one in each batch.

    Spark writes literals of numbers into the code it generates, so each batch would be compiled anew, 25 ms for each
    stage; an array it passes to the code as an object (Literal.doGenCode, Spark 4.2.1). The index keeps the optimizer
    from taking the number out of it.
    """
    return F.get(F.array(F.lit(number)), F.spark_partition_id() * 0)


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
        snapshots.save(self.kept(self._graph.moment(self._graph.log[n])), self._directory, n)

    def oldest_save(self) -> int:
        """The batch from which it could still have to be made again; 0: the very first."""
        saves = snapshots.saves(self._directory)
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
        n, frame = snapshots.load(self._graph.session, self._directory, newest, start)
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
