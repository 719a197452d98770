"""What a home knows of its job, read without changing it: for people, monitors and programs (docs/operate.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any, NamedTuple

from .contracts import Size
from .engine import clocks, reports
from .engine.checkpoints import stale_after
from .engine.reports import TOTALS
from .errors import HomeDamaged
from .health import Health, health, tried_again
from .quantities import counted, of_bytes
from .recovery import landing, lease, snapshots, storage
from .recovery.home import BACKFILL_LEASE, FORMAT, Failure, Home
from .recovery.offset_log import Again, Entry, OffsetLog
from .redaction import printable
from .sources import _removable

EXIT_CODES = {
    "running": 0,
    "draining": 0,
    "rerunning": 0,
    "stopping": 0,
    "stopped": 0,
    "slow": 1,
    "rejecting": 1,
    "retrying": 1,
    "down": 3,
    "stalled": 4,
}
"""Exit code of `sparkstream status` for each health.

running     batches are done in time, or there is nothing new
draining    what was there at the start is processed, then the job ends
rerunning   batches run again, as sparkstream rewind asked for, and then new ones
stopping    a stop was requested, and the driver has not finished it yet
stopped     the last run stopped gracefully; start it again when you like
slow        batches take longer than the interval, or are done later and later
rejecting   more than 5 % of the newest records are rejected
retrying    a step failed, and is tried again
down        no driver runs, and the last run was cut off: start it again
stalled     a driver runs, and has made no progress for two minutes, or ten intervals if those are longer
"""

SILENT_AFTER = 120
"""Seconds without a heartbeat after which a driver is taken for dead; the clocks of two machines may differ."""

SHOWN = 40
"""Batches of which something is shown."""

UNKNOWN_INTERVAL = 60.0
"""Seconds, until the first batch is done and says what the interval is."""

UNKNOWN = {"time": None, "age": None}

MARKS = {"good": "●", "warn": "▲", "bad": "■", "off": "○"}
COLOURS = {"good": 32, "warn": 33, "bad": 31, "off": 2}
"""Of a terminal, as numbers of SGR."""


def status(home: Home) -> dict[str, Any]:
    """The facts, as JSON values; times are ISO 8601 in UTC, ages are seconds."""
    log, holder = OffsetLog(home / "offsets"), lease.holder(home / "lease")
    last, noted, run = log.last, reports.noted(log), _run(home)
    compacted, batches = log.compacted_to.end_offsets, reports.history(log, SHOWN)
    found = _health(home, log, holder, run, batches, noted.interval)
    return {
        "format": FORMAT,
        "home": home.root,
        "id": home.id,
        "health": found.state,
        "level": found.level,
        "reason": found.reason,
        "driver": holder or None,
        "run": {"number": run.epoch, **(_time(run.started) if run.started else UNKNOWN)} if run.epoch else None,
        "stop_pending": home.stop_pending(),
        "last_batch": _batch(log, last) if last.n else None,
        "failure": _failure(run.failure) if run.failure else None,
        "interval": noted.interval,
        "batches": batches,
        "totals": {name: noted.totals.get(name, 0) for name in TOTALS} if noted.totals else None,
        "recorded_ahead": round(clocks.ahead_by(log) / 1000, 3),
        "sources": {
            name: {
                "end_offset": offset,
                "available": last.available.get(name, offset),
                "lag": noted.lags.get(name, Size())._asdict(),
                "removable_files": list(_removable.removable(home / f"sources/{name}", offset, compacted.get(name))),
            }
            for name, offset in sorted(last.end_offsets.items())
        },
        "outputs": {name: _output(name, noted) for name in sorted({*home.outputs(), *noted.rows})},
        "again": _rewound(log.again) if log.again else None,
        "backfill": _backfill(home),
        "replayable": {"first": log.compacted_to.n + 1, "last": last.n} if last.n > log.compacted_to.n else None,
        "skipped": sorted(int(n) for n in storage.names(home / "skipped")),
        "states": {name: _state(home / f"state/{name}") for name in storage.names(home / "state")},
        "checkpoint": _checkpoint(home, holder),
    }


def left(home: Home) -> list[str]:
    """What the last run has left to process; empty after a graceful stop that drained the job."""
    log, rest = OffsetLog(home / "offsets"), list[str]()
    if log.again is not None:
        rest.append(f"{_again(log)} run again, after a rewind")
    elif home.was_drained():
        return []
    elif not log.is_done(log.last.n):
        rest.append(f"batch {log.last.n} is unfinished")
    ends = {**log.last.given_up, **log.last.end_offsets}
    for name in storage.names(home / "received"):
        landed, read = landing.latest_offset(home / f"received/{name}"), ends.get(name)
        if landed != read:
            rest.append(f"{name} has {landed - (read or 0)} received batches that no batch has read")
    if storage.names(home / "checkpoint/receivedData"):
        rest.append("the write-ahead log may hold records")
    cut_off = not storage.exists(home / "STOPPED")
    return rest or ([f"the last run was cut off after batch {log.last.n}"] if cut_off else [])


def describe(facts: dict[str, Any], *, coloured: bool = False) -> str:
    """The facts for people, one a line, the health first. Nothing in them commands a terminal."""
    lines = {printable(name): printable(fact) for name, fact in _lines(facts)}
    mark = f"{MARKS[facts['level']]} {lines['health']}"
    lines["health"] = f"\x1b[{COLOURS[facts['level']]}m{mark}\x1b[0m" if coloured else mark
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {fact}" for name, fact in lines.items())


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    last, replayable, checkpoint, run = (facts[name] for name in ("last_batch", "replayable", "checkpoint", "run"))
    yield "health", f"{facts['health']}: {facts['reason']}"
    yield "home", facts["home"]
    yield "id", facts["id"]
    since = f", run {run['number']}{f', since {_when(run)}' if run['time'] else ''}" if run else ""
    yield "driver", f"{facts['driver']}{since}" if facts["driver"] else "nobody holds the lease"
    if facts["stop_pending"]:
        yield "stop", "requested"
    if last:
        yield "last batch", f"{last['n']} at {_when(last)}{'' if last['done'] else f' ({_unfinished(facts)})'}"
    else:
        yield "last batch", "none yet"
    if facts["batches"]:
        yield from _figures(facts)
    for name, (start, end) in sorted(last["ranges"].items()) if last else ():
        yield f"range {name}", f"{json.dumps(start)} to {json.dumps(end)}"
    if facts["recorded_ahead"]:
        ahead = clocks.about(round(1000 * facts["recorded_ahead"]))
        yield "clock", f"the recorded time is {ahead} ahead of it: stop the job and run sparkstream reset-clock"
    for name, source in facts["sources"].items():
        more = source["available"] != source["end_offset"]
        waiting = _amount(**source["lag"]) or ("more" if more else "")
        read = f"read up to {json.dumps(source['end_offset'])}"
        lag = f", {waiting} waiting" if waiting else ", nothing waiting"
        if more:
            lag += f", available up to {json.dumps(source['available'])}"
        if source["removable_files"]:
            lag += f"; {counted(len(source['removable_files']), 'file')} may be removed (--json lists them)"
        yield f"source {name}", read + lag
    for name, output in facts["outputs"].items():
        rows = (
            "rows are not counted" if output["rows"] is None else f"{counted(output['rows'], 'row')} in the last batch"
        )
        total = f"{counted(output['total_rows'], 'row')} in all" if output["total_rows"] else ""
        retries = f"{output['retries']:,} retries in all" if output["retries"] else ""
        yield f"output {name}", ", ".join(filter(None, [rows if not total or output["rows"] else "", total, retries]))
    for name, state in facts["states"].items():
        rows = f"{counted(state['rows'], 'row')}, " if state["rows"] is not None else ""
        yield (
            f"state {name}",
            f"{rows}snapshots after batch {', '.join(map(str, state['snapshots'])) or 'none'}",
        )
    if facts["again"]:
        once_more = ", ".join(facts["again"]["once_more"])
        more = f", written once more by {once_more}" if once_more else ""
        which = Again(facts["again"]["first"] - 1, facts["again"]["last"]).batches
        yield "rewound", f"{which} to run again{more}"
    if facts["backfill"]:
        asked = facts["backfill"]
        of = f"{asked['done']} of {asked['last'] - asked['first'] + 1} done"
        who = f"by {asked['driver']}" if asked["driver"] else "not running"
        yield "backfill", f"{Again(asked['first'] - 1, asked['last']).batches}, {of}, {who}"
    yield "replayable", f"batches {replayable['first']} to {replayable['last']}" if replayable else "no batches"
    if facts["skipped"]:
        yield "skipped", f"batches {', '.join(map(str, facts['skipped']))}: their input is kept in skipped/<n>"
    if checkpoint:
        written = f"of {_when(checkpoint)}" if checkpoint["time"] else "not written yet"
        written += ", stale: Spark cannot write it, see the log of the job" if checkpoint["stale"] else ""
        yield "checkpoint", ", ".join([written, *(f"{k}: {v}" for k, v in checkpoint["made_with"].items())])


def _figures(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What the newest batches read, and how long they took."""
    batches, totals = facts["batches"], facts["totals"]
    newest, seconds = batches[-1], [batch["seconds"] for batch in batches]
    read = [_amount(newest["records"], newest["bytes"]), newest["rejected"] and f"{newest['rejected']:,} rejected"]
    took = f"in {newest['seconds']:.2f} s, {newest['delay']:.1f} s after its time"
    yield "done", ", ".join(filter(None, [f"{newest['n']} {took}", *read]))
    of = f" of an interval of {facts['interval']:g} s" if facts["interval"] else ""
    yield "newest", f"{_bars(seconds)} {min(seconds):.2f} to {max(seconds):.2f} s{of}"
    if totals:
        parts = [
            f"{totals['batches']:,} batch{'' if totals['batches'] == 1 else 'es'}",
            _amount(totals["records"], totals["bytes"]),
        ]
        parts += [f"{totals[name]:,} {name}" for name in ("rejected", "retries") if totals[name]]
        yield "in all", ", ".join(filter(None, parts))


def _bars(values: list[float]) -> str:
    """A bar for each value, as high as it is beside the largest.

    >>> _bars([0, 1, 2, 4])
    '▁▃▅█'
    """
    most = max(values) or 1
    return "".join("▁▂▃▄▅▆▇█"[round(7 * value / most)] for value in values)


def _amount(records: int | None, bytes: int | None) -> str:
    """Records and bytes as far as they are known, and if there are any.

    >>> _amount(1204, 5_000_000), _amount(None, 318), _amount(0, 0), _amount(None, None)
    ('1,204 records of 4.8 MiB', '318 B', '', '')
    """
    size = of_bytes(bytes) if bytes else ""
    if not records:
        return size
    return f"{counted(records, 'record')}{f' of {size}' if size else ''}"


def _unfinished(facts: dict[str, Any]) -> str:
    skip = facts["last_batch"]["skip"]
    if facts["again"]:
        return "it runs again"
    if facts["driver"]:
        return "not finished"
    if skip is not None:
        return f"not finished; the next start skips it, as requested: {skip}"
    return (
        "not finished; the next start runs it again. If it fails each time, read the log of the job and sparkstream "
        "skip --help"
    )


class _Run(NamedTuple):
    """What is known of the newest run."""

    epoch: int
    started: int | None
    """In ms since 1970."""
    failure: Failure | None
    """Of an earlier run, if this one has made no progress."""
    idle: float
    """Seconds without progress."""
    silent: float
    """Seconds since it said so."""


def _run(home: Home) -> _Run:
    at = home / "lease"
    return _Run(lease.epoch(at), lease.since(at), home.failure(), *lease.idle(at))


def _health(
    home: Home, log: OffsetLog, holder: str, run: _Run, batches: list[dict[str, Any]], interval: float | None
) -> Health:
    n, failure = log.last.n, run.failure
    is_stopped = storage.exists(home / "STOPPED")
    if not holder and is_stopped:
        then = f"; the next start runs {_again(log)} again" if log.again else ""
        why = f"it stopped gracefully after batch {n}" if n else "it has not started yet"
        return Health("stopped", "off", f"{why}{then}")
    if not holder:
        why = _said(failure) if failure else "the last run was cut off"
        then = f"start it again: it runs {_again(log)} again" if log.again else "start it again"
        then = "the next start only stops it, as requested" if home.stop_pending() else then
        return Health("down", "bad", f"{why}; {then}")
    if run.silent > SILENT_AFTER:
        return Health(
            "stalled",
            "bad",
            f"no sign of life for {run.silent:.0f} s: its machine is gone or paused, or the start takes long",
        )
    is_failing = failure is not None and bool(failure.step) and failure.epoch == run.epoch
    found = health(
        batches,
        interval=UNKNOWN_INTERVAL if interval is None else interval,
        now=clocks.machine_clock() / 1000,
        idle=run.idle + run.silent,
        failing=_said(failure) if failure and is_failing else "",
        draining=storage.exists(home / "offsets/drain"),
        again=_again(log),
    )
    if found.state != "stalled" and home.stop_requested() and not is_stopped:  # with it, the job is only starting
        return Health("stopping", "off", "a stop was requested: the batch that runs is finished first")
    return found


def _again(log: OffsetLog) -> str:
    """The batches that run again; empty if there are none."""
    return log.again.batches if log.again else ""


def _backfill(home: Home) -> dict[str, Any] | None:
    try:
        asked = home.backfill()
    except HomeDamaged:  # the log of the job says so
        return None
    if asked is None:
        return None
    done, driver = asked.done - asked.after, lease.holder(home / BACKFILL_LEASE) or None
    once_more = list(asked.outputs)
    return {"first": asked.after + 1, "last": asked.until, "done": done, "once_more": once_more, "driver": driver}


def _rewound(again: Again) -> dict[str, Any]:
    return {"first": again.after + 1, "last": again.until, "once_more": list(again.outputs), "begun": again.begun}


def _said(failure: Failure) -> str:
    return tried_again(failure.step, failure.n, failure.tries, failure.error) if failure.step else failure.error


def _failure(failure: Failure) -> dict[str, Any]:
    return {
        "step": failure.step or None,
        "batch": failure.n,
        "error": failure.error,
        "tries": failure.tries,
        **_time(failure.time),
    }


def _output(name: str, noted: reports.Noted) -> dict[str, Any]:
    total, retries = (noted.totals.get(f"output.{name}.{what}", 0) for what in ("rows", "retries"))
    return {"rows": noted.rows.get(name), "total_rows": total, "retries": retries}


def _state(directory: str) -> dict[str, Any]:
    found = snapshots.numbers(directory)
    return {"rows": snapshots.saved_rows(directory, found[-1]) if found else None, "snapshots": found}


def _batch(log: OffsetLog, last: Entry) -> dict[str, Any]:
    done, skip = log.is_done(last.n), log.skipped.get(last.n)
    return {"n": last.n, **_time(last.time), "done": done, "skip": skip, "ranges": last.ranges}


def _checkpoint(home: Home, holder: str) -> dict[str, Any] | None:
    """Spark's checkpoint, if the job has one: when it was written and what it was made with."""
    try:
        made_with = json.loads(storage.read(home / "fingerprint.json"))
    except FileNotFoundError:
        return None
    newest = max(storage.checkpoint_times(home / "checkpoint"), default=None)
    interval = int(made_with.get("batch interval", "0 ms").partition(" ")[0])
    stale = bool(holder and newest and 1000 * _age(newest) > stale_after(interval))
    return {**(_time(newest) if newest else UNKNOWN), "stale": stale, "made_with": made_with}


def _time(ms: int) -> dict[str, Any]:
    time = datetime.fromtimestamp(ms / 1000, timezone.utc)
    return {"time": time.isoformat(timespec="milliseconds"), "age": round(_age(ms), 3)}


def _age(ms: int) -> float:
    return (clocks.machine_clock() - ms) / 1000


def _when(fact: dict[str, Any]) -> str:
    age = f"{fact['age']:.0f} s ago" if fact["age"] >= 0 else f"{-fact['age']:.0f} s ahead of the clock"
    return f"{fact['time'].replace('T', ' ')}, {age}"
