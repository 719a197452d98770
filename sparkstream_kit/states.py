"""What a state holds, as of a batch: read from its snapshots, or computed by the job's own code. Nothing is changed."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, NamedTuple

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import AtomicType, NumericType, TimestampType

from . import aggregates as agg
from . import settings
from .bridge import jvm
from .columns import named, quoted
from .context import Build, existing_home, live_session, observer
from .durations import Duration
from .engine.graph import Graph, State
from .errors import HomeDamaged, UsageError
from .quantities import counted
from .recovery import snapshots, storage
from .recovery.home import Home
from .recovery.offset_log import OffsetLog
from .redaction import printable

WIDEST = 60
"""Characters of a cell."""

UNREADABLE = "the state cannot be read ({}): if the job runs, it may need that input no more; run this again"


class StateAt(NamedTuple):
    """A state as it was after batch n."""

    n: int
    time: datetime | None
    """Recorded time of the batch, in UTC; None if the log no longer knows it, for a state that the job has no more."""
    rows: DataFrame


def read_state(
    home: str,
    name: str,
    *,
    at: int | None = None,
    build: Build | None = None,
    batch_interval: Duration | None = None,
) -> StateAt:
    """The rows of a state after batch `at`, whether or not the job runs: nothing it needs is changed.

    Without `build` they come from a snapshot, which is written every 20 batches and at a graceful stop: from that after
    batch `at`, or the newest. With the `build` that `get_or_create` gets, the batches after the snapshot are computed
    again, by the `batch_interval` that the job has: up to `at`, any that is done and still replayable, or else to the
    newest one.

    Columns: the keys, then a result for each aggregate of `ss.aggregates`. Aggregates of your own are shown in the
    parts in which they are kept; so are, without `build`, those that a development version before 0.1.0 saved. Columns
    that begin with __ are the kit's own; times in them are numbers since 1970.

    Raises UsageError for a home, state or batch that is not there, and if `build` lacks a source that the home has
    read; HomeDamaged for a snapshot that is damaged. If the job runs, collect the rows soon: it keeps its newest two
    snapshots.

    Cost: grows with the state; with `build` also with the rows of the batches that are computed, usually up to 40.

    >>> import tempfile
    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import local_session
    >>> spark, home, done = local_session(), tempfile.mkdtemp(), []
    >>> def build(ssc):
    ...     lines = ss.sources.generator(ssc, count=5)
    ...     total = lines.update_state_by_key([], {"n": ss.aggregates.count()}, name="total")
    ...     total.for_each_batch(lambda frame, batch: done.append(batch.n))
    >>> ssc = ss.get_or_create(build, batch_interval="100ms", home=home, drain=True)
    >>> ss.run(ssc, lambda: done, poll="10ms")
    0
    >>> state = ss.read_state(home, "total")
    >>> state.n, state.rows.collect()
    (1, [Row(n=5)])
    """
    return state_of(existing_home(home), name, at=at, build=build, batch_interval=batch_interval)


@jvm.refusals(UNREADABLE.format, of=jvm.THROWN)
def state_of(
    home: Home, name: str, *, at: int | None = None, build: Build | None = None, batch_interval: Duration | None = None
) -> StateAt:
    """As `read_state`."""
    live_session(None, settings.FRAMES)
    directory = home / f"state/{name}"
    saved = snapshots.numbers(directory) if name in storage.names(home / "state") else []
    log = OffsetLog(home / "offsets")  # after the snapshots: it has the batch of each of them
    node = None if build is None else _node(observer(home, log, build, batch_interval), name)
    last = log.done_to
    if log.again is not None:  # later ones are of the last run of batches that run again
        saved = [n for n in saved if n <= last]
    newest = last if node is not None else max(saved, default=0)
    n = newest if at is None else at
    if n in saved:
        rows = _snapshot(directory, n)
        rows = rows if node is None else node.described(rows)
    elif node is None:
        raise UsageError(_not_saved(home, name, n, saved))
    elif log.compacted_to.n < n <= last:
        rows = _computed(node, log, n)
    else:
        first = log.compacted_to.n + 1
        replayable = f"only batches {first} to {last} are" if first <= last else "no batch is"
        raise UsageError(
            f"the state {name!r} was not saved after batch {n}, and {replayable} replayable{_snapshots(saved)}"
        )
    time = datetime.fromtimestamp(log[n].time / 1000, timezone.utc) if n >= log.compacted_to.n else None
    return StateAt(n, time, _results(rows))


def _snapshot(directory: str, n: int) -> DataFrame:
    try:
        return snapshots.saved(live_session(), directory, n)
    except HomeDamaged:
        if n in snapshots.numbers(directory):
            raise
        raise UsageError(f"the job has removed its snapshot after batch {n} meanwhile: run this again") from None


def _not_saved(home: Home, name: str, n: int, saved: list[int]) -> str:
    states = storage.names(home / "state")
    if name not in states:
        return f"the home has no saved state {name!r}: it has {', '.join(map(repr, states)) or 'none'}"
    batch = f"batch {n}" if n else "any batch yet, as it is every 20 batches"
    return (
        f"the state {name!r} was not saved after {batch}{_snapshots(saved)}. The job can compute it for any replayable "
        f"batch: add --state {name}{f'@{n}' if n else ''} to its command"
    )


def _snapshots(saved: list[int]) -> str:
    return f"; there are snapshots after batch {', '.join(map(str, saved))}" if saved else ""


def _node(graph: Graph, name: str) -> State:
    if name not in graph.states:
        has = ", ".join(map(repr, graph.states)) or "none"
        raise UsageError(f"the job has no state {name!r}: it has {has}")
    graph.fit_shuffles()
    return graph.states[name]


def _computed(node: State, log: OffsetLog, n: int) -> DataFrame:
    graph = node.source.graph
    rows = node.described(node.retained(graph.context(log[n])))
    graph.settle()
    graph.drop_contexts()  # frees what the rows were computed from
    return rows


def _results(rows: DataFrame) -> DataFrame:
    """The rows with results in the place of parts."""
    made = agg.saved(rows.schema)
    parts = {part for part, _ in agg.named_parts(made)}
    others = [column for column in rows.columns if column not in parts]
    results = agg.result(rows, others, made)
    if _PYTHON not in others:
        return results
    rest = [column for column in results.columns if column != _PYTHON]
    return results.select(*named(rest), f"{_PYTHON}.*")


_PYTHON = "__state"
"""The column of `update_state_by_key_python`."""


@jvm.refusals(UNREADABLE.format, of=jvm.THROWN)
def show(state: StateAt, name: str, most: int) -> str:
    """The first rows of a state for people, in the order of its columns; nothing in them commands a terminal."""
    texts = [  # in the time zone of the session, not in that of Python
        value.cast("string") if isinstance(kind.dataType, TimestampType) else value
        for kind, value in zip(state.rows.schema, named(state.rows.columns), strict=True)
    ]
    rows, some = state.rows.count(), _first(state.rows, most).select(*texts).collect()
    when = f" at {state.time:%Y-%m-%d %H:%M:%S} UTC" if state.time else ""
    head = f"state {name!r} after batch {state.n}{when}: {counted(rows, 'row')}"
    cells = [state.rows.columns, *([_cell(value) for value in row] for row in some)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [isinstance(field.dataType, NumericType) for field in state.rows.schema]
    lines = [
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        )
        for row in cells
    ]
    more = [f"and {rows - most:,} more"] if rows > most else []
    return "\n".join([printable(head), "", *(printable(line).rstrip() for line in lines), *more])


@jvm.refusals(UNREADABLE.format, of=jvm.THROWN)
def as_json(state: StateAt, most: int) -> list[str]:
    """The first rows of a state as JSON objects, in the order of its columns."""
    row = F.to_json(F.struct(*named(state.rows.columns)), {"ignoreNullFields": "false"})
    return [line for (line,) in _first(state.rows, most).select(row).collect()]


def _first(frame: DataFrame, most: int) -> DataFrame:
    order = [quoted(field.name) for field in frame.schema if isinstance(field.dataType, AtomicType)]
    return (frame.orderBy(*order) if order else frame).limit(most)


def _cell(value: Any) -> str:
    text = "" if value is None else printable(str(value))
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"
