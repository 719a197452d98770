"""What a home knows of its job, read without changing it: for people, monitors and programs (docs/operate.md)."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

from .engine import clocks
from .engine.checkpoints import stale_after
from .recovery import landing, lease, snapshots, storage
from .recovery.home import FORMAT, Home
from .recovery.offset_log import Entry, OffsetLog
from .sources import _removable

EXIT_CODES = {"running": 0, "stopping": 0, "stopped": 0, "down": 3, "stalled": 4}
"""Exit code of `sparkstream status` for each health.

running     a driver holds the lease
stopping    a stop was requested, and the driver has not finished it yet
stopped     the last run stopped gracefully; start it again when you like
down        no driver runs, and the last run was cut off: start it again
stalled     a driver runs, and a batch has been unfinished for more than STALLED_AFTER seconds: read its log
"""

STALLED_AFTER = 600


def status(home: Home) -> dict[str, Any]:
    """The facts, as JSON values; times are ISO 8601 in UTC, ages are seconds."""
    log = OffsetLog(home / "offsets")
    last, holder = log.last, lease.holder(home / "lease")
    compacted = log.compacted_to.end_offsets
    states = {name: snapshots.numbers(home / f"state/{name}") for name in storage.names(home / "state")}
    return {
        "format": FORMAT,
        "home": home.root,
        "id": home.id,
        "health": _health(home, log, holder),
        "driver": holder or None,
        "stop_pending": home.stop_pending(),
        "last_batch": _batch(log, last) if last.n else None,
        "recorded_ahead": round(clocks.ahead_by(log) / 1000, 3),
        "sources": {
            name: {
                "end_offset": offset,
                "available": last.available.get(name, offset),
                "removable_files": list(_removable.removable(home / f"sources/{name}", offset, compacted.get(name))),
            }
            for name, offset in sorted(last.end_offsets.items())
        },
        "replayable": {"first": log.compacted_to.n + 1, "last": last.n} if last.n > log.compacted_to.n else None,
        "skipped": sorted(int(n) for n in storage.names(home / "skipped")),
        "states": {name: {"snapshots": numbers} for name, numbers in states.items()},
        "checkpoint": _checkpoint(home, holder),
    }


def left(home: Home) -> list[str]:
    """What the last run has left to process; empty after a graceful stop that drained the job."""
    if home.was_drained():
        return []
    log, rest = OffsetLog(home / "offsets"), []
    if not log.is_done(log.last.n):
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


def describe(facts: dict[str, Any]) -> str:
    """The facts for people, one a line."""
    last, replayable, checkpoint = facts["last_batch"], facts["replayable"], facts["checkpoint"]
    lines = {
        "home": facts["home"],
        "id": facts["id"],
        "health": facts["health"],
        "driver": facts["driver"] or "nobody holds the lease",
        "stop": "requested" if facts["stop_pending"] else "not requested",
        "last batch": "none yet",
    }
    if last:
        lines["last batch"] = f"{last['n']} at {_when(last)}{'' if last['done'] else f' ({_unfinished(facts)})'}"
        for name, (start, end) in sorted(last["ranges"].items()):
            lines[f"range {name}"] = f"{json.dumps(start)} to {json.dumps(end)}"
    if facts["recorded_ahead"]:
        ahead = clocks.about(round(1000 * facts["recorded_ahead"]))
        lines["clock"] = f"the recorded time is {ahead} ahead of it: stop the job and run sparkstream reset-clock"
    for name, source in facts["sources"].items():
        more = source["available"] != source["end_offset"]
        lag = f", available up to {json.dumps(source['available'])}" if more else ", everything there was"
        if source["removable_files"]:
            n = len(source["removable_files"])
            lag += f"; {n} {'file' if n == 1 else 'files'} may be removed (--json lists them)"
        lines[f"source {name}"] = f"read up to {json.dumps(source['end_offset'])}{lag}"
    lines["replayable"] = f"batches {replayable['first']} to {replayable['last']}" if replayable else "no batches"
    if facts["skipped"]:
        lines["skipped"] = f"batches {', '.join(map(str, facts['skipped']))}: their input is kept in skipped/<n>"
    for name, state in facts["states"].items():
        lines[f"state {name}"] = f"snapshots after batch {', '.join(map(str, state['snapshots'])) or 'none'}"
    if checkpoint:
        written = f"of {_when(checkpoint)}" if checkpoint["time"] else "not written yet"
        written += ", stale: Spark cannot write it, see the log of the job" if checkpoint["stale"] else ""
        lines["checkpoint"] = ", ".join([written, *(f"{k}: {v}" for k, v in checkpoint["made_with"].items())])
    else:
        lines["checkpoint"] = "none: the offset log is all this job needs"
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {fact}" for name, fact in lines.items())


def _unfinished(facts: dict[str, Any]) -> str:
    skip = facts["last_batch"]["skip"]
    if facts["driver"]:
        return "not finished"
    if skip is not None:
        return f"not finished; the next start skips it, as requested: {skip}"
    return (
        "not finished; the next start runs it again. If it fails each time, read the log of the job and sparkstream "
        "skip --help"
    )


def _health(home: Home, log: OffsetLog, holder: str) -> str:
    if not holder:
        return "stopped" if storage.exists(home / "STOPPED") else "down"
    if home.stop_requested() and not storage.exists(home / "STOPPED"):  # with it, the job is only starting
        return "stopping"
    last = log.last
    # an unfinished batch of an earlier driver was not started when it was recorded
    started_here = not log.is_done(last.n) and last.epoch == lease.epoch(home / "lease")
    return "stalled" if started_here and _age(last.time) > STALLED_AFTER else "running"


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
    return {**(_time(newest) if newest else {"time": None, "age": None}), "stale": stale, "made_with": made_with}


def _time(ms: int) -> dict[str, Any]:
    time = datetime.fromtimestamp(ms / 1000, timezone.utc)
    return {"time": time.isoformat(timespec="milliseconds"), "age": round(_age(ms), 3)}


def _age(ms: int) -> float:
    return (clocks.machine_clock() - ms) / 1000


def _when(fact: dict[str, Any]) -> str:
    age = f"{fact['age']:.0f} s ago" if fact["age"] >= 0 else f"{-fact['age']:.0f} s ahead of the clock"
    return f"{fact['time'].replace('T', ' ')}, {age}"
