"""How a job is, in one word and one sentence, from its newest batches. The thresholds are those of the alert rules
in conf/prometheus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Literal, NamedTuple

STALLED_AFTER = 120
"""Seconds without progress after which a job is stalled, or ten batch intervals if those are longer."""

MOST_REJECTED = 0.05
"""Share of rejected records above which the format is likely to be wrong."""

RECENT = 20
"""Batches over which the share of rejected records is taken."""

SLOW = 5
"""A job is slow if this many batches in a row took longer than the interval."""

Level = Literal["good", "warn", "bad", "off"]


class Health(NamedTuple):
    """What to show."""

    state: str
    """One word, such as running, slow, rejecting, retrying, stalled or stopped."""
    level: Level
    reason: str


def health(
    batches: Sequence[Mapping[str, Any]],
    *,
    interval: float,
    now: float,
    idle: float,
    failing: str = "",
    draining: bool = False,
    again: str = "",
) -> Health:
    """The health of a job that runs.

    `batches` is its history, newest last; `now` is in seconds since 1970, `idle` the time in seconds since a batch was
    done or there was nothing to do, and `failing` says what is tried again. A job that is `draining`, or has batches
    run `again`, such as "batches 7 to 9", may take any time for a batch, which comes late by all the batches before it.

    >>> done = {"n": 7, "ended": 1000, "seconds": 0.41, "delay": 0.9, "records": 100, "rejected": 0}
    >>> health([done], interval=2, now=1001, idle=0.5)
    Health(state='running', level='good', reason='batch 7 took 0.41 s of an interval of 2 s')
    >>> health([{**done, "rejected": 30}], interval=2, now=1001, idle=0.5).reason
    '30 % of the records of the newest batches are rejected: does the input have another format?'
    """
    done = f"batch {batches[-1]['n']} took {batches[-1]['seconds']:.2f} s" if batches else "no batch is done yet"
    if draining and not failing and not again:
        return Health("draining", "good", f"what was there at the start is processed, then the job ends; {done}")
    if idle > max(STALLED_AFTER, 10 * interval):
        more = f", as {failing}" if failing else ": the batch hangs, or is too large"
        return Health("stalled", "bad", f"no progress for {idle:.0f} s{more}")
    if failing:
        return Health("retrying", "bad", failing)
    if again:
        return Health("rerunning", "good", f"{again} run again, after a rewind; {done}")
    if not batches:
        return Health("running", "good", "waiting for the first batch")
    last, newest = batches[-1], batches[-SLOW:]
    late = [batch for batch in newest if batch["seconds"] > interval]
    is_later = last["delay"] > 5 * interval and last["delay"] > newest[0]["delay"]
    has_caught_up = now - last["ended"] > 3 * max(interval, last["seconds"])
    if (len(late) == SLOW or is_later) and not has_caught_up:
        took = median(batch["seconds"] for batch in newest)
        late_by = f"batches are done {last['delay']:.0f} s after their time, later and later, and take"
        what = late_by if is_later else f"the last {SLOW} batches were longer than the interval, and took"
        return Health("slow", "warn", f"{what} {took:.1f} s of {interval:g} s")
    share = rejected_share(batches[-RECENT:])
    if share > MOST_REJECTED:
        return Health(
            "rejecting",
            "warn",
            f"{100 * share:.0f} % of the records of the newest batches are rejected: does the input have another "
            "format?",
        )
    if has_caught_up:
        return Health("running", "good", f"there is nothing new after batch {last['n']}")
    return Health("running", "good", f"batch {last['n']} took {last['seconds']:.2f} s of an interval of {interval:g} s")


def rejected_share(batches: Sequence[Mapping[str, Any]]) -> float:
    """The share of rejected records, 0 to 1; 0 if nothing is known."""
    known = [batch for batch in batches if batch["records"] is not None]
    records = sum(batch["records"] for batch in known)
    return sum(batch["rejected"] or 0 for batch in known) / records if records else 0.0


def tried_again(step: str, n: int | None, times: int, error: str) -> str:
    """What is said of a step that fails; `n` is its batch, None while one is planned.

    >>> tried_again("output 'sql:hits'", 47, 2, "connection refused")
    "batch 47: the output 'sql:hits' failed 2 times and is tried again (connection refused)"
    """
    batch, often = f"batch {n}: " if n else "", "once" if times == 1 else f"{times} times"
    return f"{batch}the {step} failed {often} and is tried again ({error})"
