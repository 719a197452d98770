"""The machine's clock beside the recorded time: what is done when the clock was wrong.

The recorded time of the offset log never goes back, so a clock that was a year ahead once leaves it a year ahead:
windows and expiry stand still until the clock has caught up. `reset` is the way back.
"""

from __future__ import annotations

import time

from ..errors import UsageError
from ..recovery import lease, snapshots, storage
from ..recovery.home import Home
from ..recovery.offset_log import OffsetLog
from . import checkpoints

TOLERANCE = 60_000
"""Milliseconds by which the recorded time may be ahead of the clock unnoticed, as after a drain in many batches."""


def machine_clock() -> int:
    """The clock of this machine, in ms since 1970."""
    return round(1000 * time.time())


def ahead_by(log: OffsetLog) -> int:
    """Milliseconds by which the recorded time is ahead of the machine's clock; 0 if that is within the tolerance."""
    ahead = max(log.last.time, log.last.clock) - machine_clock()
    return ahead if ahead > TOLERANCE else 0


def about(ms: int) -> str:
    """A long time as people say it.

    >>> about(90_000), about(7_200_000), about(364 * 86_400_000)
    ('90 seconds', '120 minutes', '364 days')
    """
    for unit, size in (("days", 86_400_000), ("hours", 3_600_000), ("minutes", 60_000)):
        if ms >= 3 * size or (unit == "minutes" and ms >= 2 * size):
            return f"{ms // size} {unit}"
    return f"{ms // 1000} seconds"


def reset(home: Home) -> int:
    """Bring times that were recorded ahead of the machine's clock back to it; returns by how many ms that was.

    Everything that was recorded ahead then counts as recorded now. The job must have stopped gracefully: an unfinished
    batch has the time it was recorded with, and some of its outputs may have been written. Raises UsageError for a home
    that is not, and HomeInUse while a driver holds it.
    """
    held = lease.acquire(home / "lease", "sparkstream reset-clock")
    try:
        log = OffsetLog(home / "offsets", held.epoch)
        ahead, last = ahead_by(log), log.last
        if not ahead:
            return 0
        again = "start the job once more and stop it with `sparkstream stop`, then reset its clock"
        if not (storage.exists(home / "STOPPED") and log.is_done(last.n)):
            raise UsageError(f"the job of {home.root} did not stop gracefully: {again}")
        for name in storage.names(home / "state"):
            newest = max(snapshots.numbers(home / f"state/{name}"), default=last.n)
            if log.compacted_to.n <= newest < last.n:
                raise UsageError(
                    f"the state {name!r} was last saved after batch {newest}, and the job stopped after batch "
                    f"{last.n}: {again}; if the job no longer uses that state, delete {home / f'state/{name}'}"
                )
        checkpoints.set_aside_before_reset(home)
        log.reset_clock(machine_clock())
        return ahead
    finally:
        held.release()
