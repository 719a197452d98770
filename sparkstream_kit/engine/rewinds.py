"""Batches that an operator has run again, by `sparkstream rewind`: which can be, and what is forgotten before."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from ..errors import UsageError
from ..recovery import snapshots, storage
from ..recovery.home import Home
from ..recovery.offset_log import OffsetLog
from .graph import Graph

log = logging.getLogger(__name__)


def earliest(home: Home, log: OffsetLog) -> int:
    """The earliest batch after which all others can run again, as far as a home tells without its job.

    The log has their ranges, and each state has a snapshot to start from.
    """
    first = log.compacted_to.n
    saved = (snapshots.numbers(home / f"state/{name}") for name in storage.names(home / "state"))
    return max([first, *(numbers[0] for numbers in saved if numbers)]) if first else 0


def reach(home: Home, log: OffsetLog) -> str:
    """Which batches of a home can run again, for people."""
    first, last = earliest(home, log), log.done_to
    kept = _kept(home.outputs())
    more = f"\nonly with --again: {', '.join(kept)}" if kept else ""
    if first >= last:
        return f"no batch up to {last} can run again: --keep-batches of the job keeps some (sparkstream rewind --help)"
    return f"{_batches(log, first)} can run again: --to {first} runs all of them{more}"


def request(home: Home, log: OffsetLog, to: str, again: Sequence[str]) -> str:
    """Have the batches after one run again at the next start; returns what that does, for people.

    `to` is the number of the batch, or a time. UsageError for a batch that is not there or too old, and for an output
    that cannot replace its batches and is not named in `again`.
    """
    if log.again is not None and not log.again.begun:  # this request takes its place
        log.again = None
    after, first, outputs = _batch(log, to), earliest(home, log), home.outputs()
    if not first <= after < log.done_to:
        possible = f"expected one from {first} to {log.done_to - 1}" if first < log.done_to else "and there is none"
        raise UsageError(f"got --to {to}, {possible}: sparkstream rewind {home.root} says what can run again, and why")
    unknown = [name for name in again if name not in outputs]
    if unknown:
        raise UsageError(f"the home has no output {unknown[0]!r}: it has {', '.join(outputs) or 'none'}")
    named = {*again, *(log.again.outputs if log.again else ())}
    kept = [name for name in _kept(outputs) if name not in named]
    if kept:
        raise UsageError(once_more(kept, after + 1, log.last.n, home.root))
    once = [name for name in again if not outputs[name]]
    log.run_again(after, once)
    says = [f"the next start runs {_batches(log, after)} again, with the code that the job has then"]
    states = _snapshots(home, after)
    if states < after and storage.names(home / "state"):
        says.append(f"states are computed with that code from batch {states + 1} on, where they have a snapshot")
    replaced = [name for name, replaces in outputs.items() if replaces]
    says += [f"replaced: {', '.join(replaced)}"] if replaced else []
    says += [f"written once more: {', '.join(once)}"] if once else []
    return "\n".join([*says, f"until then, sparkstream rewind {home.root} --cancel takes that back"])


def cancel(log: OffsetLog) -> str:
    """Take a request back; UsageError if there is none, or if a start has begun to carry it out."""
    if log.again is None:
        raise UsageError("no batch is to run again: there is nothing to cancel")
    if log.again.begun:
        raise UsageError(
            f"the job has begun to run batches {log.again.after + 1} to {log.again.until} again, and what it had made "
            "of them is gone: start it, and it goes on"
        )
    log.cancel_again()
    return "no batch runs again"


def _batch(log: OffsetLog, to: str) -> int:
    """The batch of a number, or the newest that was recorded up to a time."""
    if to.isdecimal():
        return int(to)
    try:
        time = datetime.fromisoformat(to)
    except ValueError:
        raise UsageError(f"got --to {to}, expected the number of a batch or a time such as 2026-11-29 08:30") from None
    ms = (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp() * 1000
    newer = next((entry.n for entry in log.after(0) if entry.time > ms), log.last.n + 1)
    if newer == log.compacted_to.n + 1 and log.compacted_to.time > ms:
        raise UsageError(f"got --to {to}, and the oldest batch that can run again is of {_time(log, newer)} UTC")
    return newer - 1


def _batches(log: OffsetLog, after: int) -> str:
    first, last = after + 1, log.last.n
    return f"batches {first} to {last} (recorded {_time(log, first)} to {_time(log, last)} UTC)"


def _time(log: OffsetLog, n: int) -> str:
    return f"{datetime.fromtimestamp(log[n].time / 1000, timezone.utc):%Y-%m-%d %H:%M:%S}"


def _snapshots(home: Home, n: int) -> int:
    """The newest batch up to n after which every saved state has a snapshot; 0 if there is none."""
    saved = (snapshots.numbers(home / f"state/{name}") for name in storage.names(home / "state"))
    return min((max((k for k in numbers if k <= n), default=0) for numbers in saved), default=0)


def _kept(outputs: Mapping[str, bool]) -> list[str]:
    """The outputs that cannot replace what they have of a batch."""
    return [name for name, replaces in outputs.items() if not replaces]


def begin(graph: Graph) -> None:
    """Forget what was made of the batches that run again, if an operator asked for some; UsageError if they cannot.

    Killed in the middle, it is done again by the next start.
    """
    again = graph.log.again
    if again is None:
        return
    first, last = again.after + 1, again.until
    log.info("batches %d to %d run again, as requested by sparkstream rewind", first, last)
    if again.begun:
        return
    _check(graph)
    for name in storage.names(graph.home / "state"):
        snapshots.forget(graph.home / f"state/{name}", again.after)
    before = graph.batch(graph.log[again.after])
    for output in graph.outputs.values():
        if output.rewind is not None:
            output.rewind(before, again.until)
    graph.log.begin_again()


def _check(graph: Graph) -> None:
    again, home = graph.log.again, graph.home
    assert again is not None
    way_out = f"or take the request back by sparkstream rewind {home.root} --cancel"
    first = again.after + 1
    reach = max(earliest(home, graph.log), graph.rewindable_from())
    if again.after < reach:
        raise UsageError(
            f"batch {first} cannot run again, as a window or a state needs batches that are gone: rewind to batch "
            f"{reach} at the earliest, {way_out}"
        )
    known, named = home.outputs(), again.outputs
    kept = [name for name, o in graph.outputs.items() if name in known and not o.replaces and name not in named]
    if kept:
        raise UsageError(f"{once_more(kept, first, again.until, home.root)}, {way_out}")


def once_more(names: list[str], first: int, last: int, root: str) -> str:
    """What to say of outputs that cannot replace batches, and that nobody named."""
    options = " ".join(f"--again {name}" for name in names)
    return (
        f"batches {first} to {last} would be written once more by {', '.join(names)}, which cannot replace what is "
        f"there: rows then count twice, or rows that no longer come stay. Accept that by sparkstream rewind {root} "
        f"--to {first - 1} {options}"
    )
