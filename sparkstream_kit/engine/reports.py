"""What a batch did: measured while it runs, and told to the log, to listeners and to Spark's metrics."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from ..bridge import jvm
from ..contracts import Size
from ..events import BatchDone, Event
from ..recovery.offset_log import Entry, OffsetLog
from . import clocks
from .graph import Graph

log = logging.getLogger(__name__)

LONGEST = 1000
"""Characters of an offset range in a line of the log."""

HISTORY = 200
"""Batches that are remembered, also across restarts: as many as a page shows side by side."""

TOTALS = ("records", "bytes", "rejected", "batches", "retries")
"""Those of the job as a whole."""

PHASES = ("plan", "prepare", "outputs", "states", "snapshots")


class Reports:
    """Measures the batches of one job; `totals` are sums since its home was made."""

    def __init__(self, graph: Graph):
        self._graph = graph
        self.totals = Counter[str](noted(graph.log).totals)
        self.history = deque[dict[str, Any]](history(graph.log, HISTORY), maxlen=HISTORY)
        """The newest batches in short, those of earlier runs included."""
        self.failures = 0
        """Tries of steps that failed in this process."""
        self.retries = Counter[str]()
        """How often each step was tried again since the last batch was done."""
        self.last: BatchDone | None = None
        """The last batch of this process."""
        self.ended = self.progressed = time.monotonic()
        """When the last batch was done, and when a batch was done or there was nothing to do."""
        self._phases = defaultdict[str, float](float)
        self._states: dict[str, Size] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what the block takes as part of a phase."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._phases[name] += time.monotonic() - started

    def timed(self, phase: str, step: Callable[[], object]) -> Callable[[], None]:
        """The step, measured as part of a phase."""

        def run() -> None:
            with self.phase(phase):
                step()

        return run

    def progress(self) -> None:
        """A batch is done, or there was nothing to do: what was measured belongs to no later batch."""
        self._phases.clear()
        self.progressed = time.monotonic()

    def saved(self) -> None:
        """The states were saved, so their rows are known."""
        self._states = {name: state.size() for name, state in self._graph.states.items()}

    def done(
        self, entry: Entry, *, seconds: float, delay: float, rows: Mapping[str, int], errors: Mapping[str, str]
    ) -> BatchDone:
        """The report of a batch, whose figures are added to the totals."""
        if not self._states:
            self.saved()
        skipped = entry.n in self._graph.log.skipped
        sizes = {name: Size(0, 0) if skipped else self._size(name, *at) for name, at in entry.ranges.items()}
        lags = {name: self._size(name, end, entry.available.get(name, end)) for name, end in entry.end_offsets.items()}
        rejecting = [rows[name] for name, output in self._graph.outputs.items() if output.rejects and name in rows]
        rejected = max(rejecting) if rejecting else None
        retries, self.retries = dict(self.retries), Counter()
        self._add(sizes, rows, rejected or 0, retries)
        self.ended = time.monotonic()
        phases = {name: self._phases[name] for name in PHASES}
        self.progress()
        self.last = BatchDone(
            n=entry.n,
            time=self._graph.time(entry),
            seconds=seconds,
            delay=max(delay, seconds),
            ended=clocks.machine_clock() / 1000,
            phases=phases,
            ranges=entry.ranges,
            sizes=sizes,
            lags=lags,
            rows=dict(rows),
            rejected=rejected,
            retries=retries,
            errors={name: errors[name] for name in retries if name in errors},
            states=self._states,
            totals=dict(self.totals),
        )
        self.history.append(brief(self.last))
        return self.last

    def share(self, start: Mapping[str, Any], now: Mapping[str, Any], end: Mapping[str, Any]) -> float | None:
        """How much of what the sources have between two offsets is done, that of the slowest; None if unknown."""
        shares = []
        for name in end:
            done, total = (self._size(name, start.get(name), until.get(name)) for until in (now, end))
            unit = 0 if None not in (done.records, total.records) else 1
            part, whole = done[unit], total[unit]
            if part is None or whole is None:
                return None
            shares.append(part / whole if whole else 1.0)
        return min(shares, default=None)

    def _size(self, name: str, start: Any, end: Any) -> Size:
        """What a source says of a range; nothing if it fails, as a batch does not hang on that."""
        if start == end:
            return Size(0, 0)
        try:
            return self._graph.sources[name].size(start, end)
        except Exception as error:
            log.debug("the source %r does not know how much is after %s: %s", name, start, jvm.reason(error))
            return Size()

    def _add(
        self, sizes: Mapping[str, Size], rows: Mapping[str, int], rejected: int, retries: Mapping[str, int]
    ) -> None:
        totals = self.totals
        totals["batches"] += 1
        totals["rejected"] += rejected
        totals["retries"] += sum(retries.values())
        for source, size in sizes.items():
            for unit, amount in size._asdict().items():
                totals[unit] += amount or 0
                totals[f"source.{source}.{unit}"] += amount or 0
        for output in self._graph.outputs:
            totals[f"output.{output}.rows"] += rows.get(output, 0)
            totals[f"output.{output}.retries"] += retries.get(f"output {output!r}", 0)

    def note(self) -> str:
        """What is kept of a batch beside its done mark."""
        assert self.last is not None
        lags = {name: list(lag) for name, lag in self.last.lags.items()}
        now = {"interval": self._graph.interval / 1000, "lags": lags, "rows": self.last.rows}
        return json.dumps({"totals": self.totals, "batch": self.history[-1], **now})

    def until(self, n: int) -> list[dict[str, Any]]:
        """The history up to batch n."""
        return [batch for batch in self.history if batch["n"] <= n]


class Noted(NamedTuple):
    """What `Reports.note` said of the last batch that was done; empty if an earlier version did not note it."""

    totals: dict[str, int]
    interval: float | None
    """Batch interval in seconds."""
    lags: dict[str, Size]
    rows: dict[str, int]


def noted(log: OffsetLog) -> Noted:
    """The note of the last batch that is done."""
    try:
        note = json.loads(log.note(log.done_to))
        totals, rows = ({str(k): int(v) for k, v in note.get(part, {}).items()} for part in ("totals", "rows"))
        lags = {str(name): Size(*lag) for name, lag in note.get("lags", {}).items()}
        interval = float(note["interval"]) if "interval" in note else None
        known = [interval, *totals.values(), *rows.values(), *(amount for lag in lags.values() for amount in lag)]
        if not all(value is None or (isinstance(value, int | float) and math.isfinite(value)) for value in known):
            return Noted({}, None, {}, {})
        return Noted(totals, interval, lags, rows)
    except (ValueError, TypeError, AttributeError):
        return Noted({}, None, {}, {})


def history(log: OffsetLog, most: int) -> list[dict[str, Any]]:
    """The newest batches in short, as far as the log has notes of them, oldest first."""
    found = log.history()
    for entry in log.after(log.done_to - most):  # a long window keeps many more
        if entry.n > log.done_to:  # what is noted of a batch that runs again is of its last run
            break
        with contextlib.suppress(ValueError, TypeError, KeyError):
            found.append(json.loads(log.note(entry.n))["batch"])
    return [batch for batch in found if _is_brief(batch)][-most:]


def _is_brief(batch: Any) -> bool:
    """Whether this is what `brief` makes of a batch."""
    if not isinstance(batch, dict) or not isinstance(batch.get("phases"), dict):
        return False
    known = [batch.get(name) for name in ("n", "time", "ended", "seconds", "delay", "retries")]
    maybe = [batch.get(name, "") for name in ("records", "bytes", "rejected")]
    return all(
        isinstance(value, int | float) and math.isfinite(value)
        for value in [*known, *(value for value in maybe if value is not None)]
    )


def brief(report: BatchDone) -> dict[str, Any]:
    """A batch as few JSON values, for a history; times are seconds since 1970."""
    return {
        "n": report.n,
        "time": report.time.timestamp(),
        "ended": round(report.ended, 3),
        "seconds": round(report.seconds, 3),
        "delay": round(report.delay, 3),
        "records": report.records,
        "bytes": report.bytes,
        "rejected": report.rejected,
        "retries": sum(report.retries.values()),
        "phases": {name: round(seconds, 3) for name, seconds in report.phases.items()},
    }


def tell(graph: Graph, event: Event) -> None:
    """Call the job's listeners; one that raises is logged, and called again with the next event."""
    for listener in graph.listeners:
        try:
            listener(event)
        except BaseException as error:  # sys.exit, too, would end the batch
            name = getattr(listener, "__qualname__", repr(listener))
            log.warning("the listener %s failed on %s: %s", name, type(event).__name__, jvm.reason(error))


# --- the line of a batch in the log


def line(report: BatchDone) -> str:
    """A batch as words name=value, those with spaces or quotes as JSON.

    >>> from datetime import datetime, timezone
    >>> at = datetime(2026, 1, 31, tzinfo=timezone.utc)
    >>> read = {"ranges": {"files": (None, "1:a0")}, "sizes": {"files": Size(2, 318)}, "lags": {"files": Size(0, 64)}}
    >>> made = {"rows": {"sql:hits": 7}, "rejected": 3, "retries": {}, "errors": {}, "states": {}}
    >>> print(line(BatchDone(7, at, 0.412, 1.5, 0, {"plan": 0.01}, **read, **made)).replace(" offsets", "\\n offsets"))
    time=2026-01-31T00:00:00.000Z delay=1.5 records=2 bytes=318 rejected=3 plan=0.01
     offsets.files=[null,"1:a0"] lag.files=0 rows.sql:hits=7
    """
    words: dict[str, Any] = {
        "time": f"{report.time:%Y-%m-%dT%H:%M:%S}.{report.time.microsecond // 1000:03d}Z",
        "delay": round(report.delay, 3),
        "records": report.records,
        "bytes": report.bytes,
        "rejected": report.rejected,
        **{name: round(seconds, 3) for name, seconds in report.phases.items()},
        **{f"offsets.{name}": _short(range_) for name, range_ in report.ranges.items()},
        **{f"lag.{name}": _amount(lag) for name, lag in report.lags.items()},
        **{f"rows.{name}": rows for name, rows in report.rows.items()},
        "retries": sum(report.retries.values()) or None,
        "errors": ", ".join(f"{step} {n} times ({report.errors.get(step)})" for step, n in report.retries.items())
        or None,
    }
    return " ".join(f"{_word(name)}={_word(value)}" for name, value in words.items() if value is not None)


def _short(offsets: Any) -> Any:
    """The offsets; None if they would fill the log, as those of many partitions do: the home has them."""
    return offsets if len(json.dumps(offsets)) <= LONGEST else None


def _amount(size: Size) -> str | None:
    """In records, else in bytes."""
    return str(size.records) if size.records is not None else f"{size.bytes}B" if size.bytes is not None else None


def _word(value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value, separators=(",", ":"))
    plain = value and value.isprintable() and not set(value) & set(' "=')
    return value if plain else json.dumps(value)


def as_json(event: Event) -> dict[str, Any]:
    """An event as JSON values: its type and fields, times in ISO 8601 and in UTC."""
    values = {f.name: getattr(event, f.name) for f in fields(event)}
    if isinstance(event, BatchDone):
        values |= {"records": event.records, "bytes": event.bytes}
        values["ranges"] = {name: _short(range_) for name, range_ in event.ranges.items()}
    return {"type": type(event).__name__, **{name: _json(value) for name, value in values.items()}}


def _json(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat(timespec="milliseconds")
    if isinstance(value, Size):
        return value._asdict()
    if isinstance(value, Mapping):
        return {str(name): _json(one) for name, one in value.items()}
    return round(value, 6) if isinstance(value, float) else value
