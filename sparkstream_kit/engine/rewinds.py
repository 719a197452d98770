"""Batches that an operator has run again, by `sparkstream rewind`: which can be, and what is forgotten before."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from shlex import quote

from ..errors import UsageError
from ..recovery import snapshots, storage
from ..recovery.home import Home
from ..recovery.offset_log import Again, OffsetLog
from .graph import Graph, Output

log = logging.getLogger(__name__)

LONGEST = 19
"""Digits of a number that is taken for a batch."""


def earliest(home: Home, log: OffsetLog) -> int:
    """The earliest batch after which all others can run again, as far as a home tells without its job.

    The log has their ranges, each state has a snapshot to start from, and their times are those they had.
    """
    first = log.compacted_to.n
    saved = (snapshots.numbers(home / f"state/{name}") for name in storage.names(home / "state"))
    return max([first, log.reset_after, *(numbers[0] for numbers in saved if numbers and first)])


def reach(home: Home, log: OffsetLog) -> str:
    """Which batches of a home can run again, for people."""
    first, last = earliest(home, log), log.done_to
    kept = not_replacing(home.outputs())
    more = f"\nonly with --again: {', '.join(kept)}" if kept else ""
    if first >= last:
        return f"no batch up to {last} can run again: --keep-batches of the job keeps some (sparkstream rewind --help)"
    return f"{batches(log, first, log.last.n)} can run again: --to {first} runs all of them{more}"


def request(home: Home, log: OffsetLog, to: str, again: Sequence[str]) -> str:
    """Have the batches after one run again at the next start; returns what that does, for people.

    `to` is the number of the batch, or a time. UsageError for a batch that is not there or too old, and for an output
    that cannot replace its batches and is not named in `again`.
    """
    if log.again is not None and not log.again.begun:  # this request takes its place
        log.again = None
    backfill = home.backfill()
    if backfill is not None:
        raise UsageError(
            f"a backfill of {Again(backfill.after, backfill.until).batches} is not done: finish it first, or give it "
            f"up by sparkstream backfill {quote(home.root)} --cancel"
        )
    after, first, outputs = batch_at(log, "--to", to), earliest(home, log), home.outputs()
    if not first <= after < log.done_to:
        possible = f"expected one from {first} to {log.done_to - 1}" if first < log.done_to else "and there is none"
        raise UsageError(f"got --to {to}, {possible}: sparkstream rewind {home.root} says what can run again")
    unknown = [name for name in again if name not in {*outputs, *home.backfilled()}]
    if unknown and outputs:  # a home of an earlier version knows none
        raise UsageError(f"the home has no output {unknown[0]!r}: it has {', '.join(outputs)}")
    named = {*again, *(log.again.outputs if log.again else ())}
    kept = [name for name in not_replacing(outputs) if name not in named]
    if kept:
        raise UsageError(once_more(kept, Again(after, log.last.n), home.root))
    once = log.run_again(after, [name for name in again if not outputs.get(name, False)]).outputs
    says = [f"the next start runs {batches(log, after, log.last.n)} again, with the code that the job has then"]
    states = saved_to(home, storage.names(home / "state"), after)
    if states < after and storage.names(home / "state"):
        start = f"from their snapshots after batch {states}" if states else "empty"
        says.append(f"states start {start}, and take {Again(states, after).batches} with that code, too")
    replaced = [name for name, replaces in outputs.items() if replaces]
    says += [f"replaced: {', '.join(replaced)}"] if replaced else []
    says += [f"written once more: {', '.join(once)}"] if once else []
    skipped = [str(n) for n in sorted(log.skipped) if n > after]
    says += [f"without their input, as sparkstream skip has set it aside: {', '.join(skipped)}"] if skipped else []
    return "\n".join([*says, f"until then, sparkstream rewind {quote(home.root)} --cancel takes that back"])


def cancel(log: OffsetLog) -> str:
    """Take a request back; UsageError if there is none, or if a start has begun to carry it out."""
    if log.again is None:
        raise UsageError("no batch is to run again: there is nothing to cancel")
    if log.again.begun:
        raise UsageError(
            f"the job has begun to run {log.again.batches} again, and what it had made of them is gone: start it, and "
            "let it go on"
        )
    log.cancel_again()
    return "no batch runs again"


def batch_at(log: OffsetLog, option: str, text: str) -> int:
    """The batch of a number, or the newest that was recorded up to a time; UsageError for anything else."""
    if text.isdecimal() and len(text) < LONGEST:
        return int(text)
    got = f"got {option} {text}"
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{got}, expected the number of a batch or a time such as 2026-11-29 08:30") from None
    ms = (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp() * 1000
    gone = log.compacted_to
    if gone.n and gone.time > ms:
        raise UsageError(f"{got}, and no batch up to {gone.n}, of {_time(log, gone.n)} UTC, can run again")
    return next((entry.n for entry in log.after(0) if entry.time > ms), log.last.n + 1) - 1


def batches(log: OffsetLog, after: int, last: int) -> str:
    """The batches after one up to another, and when they were recorded, in words."""
    first = after + 1
    times = _time(log, first) if first == last else f"{_time(log, first)} to {_time(log, last)}"
    return f"{Again(after, last).batches} (recorded {times} UTC)"


def _time(log: OffsetLog, n: int) -> str:
    return f"{datetime.fromtimestamp(log[n].time / 1000, timezone.utc):%Y-%m-%d %H:%M:%S}"


def saved_to(home: Home, states: Iterable[str], n: int, default: int = 0) -> int:
    """The newest batch up to n after which each of these states has a snapshot; 0 if none, `default` without states."""
    saved = (snapshots.numbers(home / f"state/{name}") for name in states)
    return min((max((k for k in numbers if k <= n), default=0) for numbers in saved), default=default)


def not_replacing(outputs: Mapping[str, bool]) -> list[str]:
    """The outputs that cannot replace what they have of a batch."""
    return [name for name, replaces in outputs.items() if not replaces]


def check(graph: Graph) -> None:
    """UsageError or OutputRefused if batches cannot run again that an operator asked for; nothing is changed."""
    again = graph.log.again
    if again is None:
        return
    first, home = again.after + 1, graph.home
    log.info("%s run again, as requested by sparkstream rewind", again.batches)
    if again.begun:
        return
    reach = max(earliest(home, graph.log), graph.rewindable_from())
    if again.after < reach:
        raise UsageError(
            f"batch {first} cannot run again, as a window or a state needs batches that are gone: rewind to batch "
            f"{reach} at the earliest{graph.way_back()}"
        )
    known, named, backfilled = home.outputs(), again.outputs, home.backfilled()
    kept = [
        name
        for name, output in graph.outputs.items()
        if output.lasting and not output.replaces and (name in {*known, *backfilled} or not known) and name not in named
    ]
    if kept:
        raise UsageError(f"{once_more(kept, again, home.root)}{graph.way_back()}")
    for output in graph.outputs.values():
        if output.replaces:
            _tell(graph, output)


def begin(graph: Graph) -> None:
    """Let outputs forget the batches that they write once more, and note that these have begun to run.

    Killed in the middle, it is done again by the next start.
    """
    again = graph.log.again
    if again is None or again.begun:
        return
    for name, output in graph.outputs.items():
        if name in again.outputs and not output.replaces:
            _tell(graph, output)
    graph.log.begin_again()


def _tell(graph: Graph, output: Output) -> None:
    again = graph.log.again
    assert again is not None
    if output.rewind is not None:
        output.rewind(graph.batch(graph.log[again.after]), again.until)


def once_more(names: list[str], again: Again, root: str) -> str:
    """What to say of outputs that cannot replace batches, and that nobody named."""
    options = " ".join(f"--again {quote(name)}" for name in names)
    return (
        f"{again.batches} would be written once more by {', '.join(names)}, which cannot replace what is "
        f"there: rows then count twice, or rows that no longer come stay. Accept that by sparkstream rewind "
        f"{quote(root)} --to {again.after} {options}"
    )
