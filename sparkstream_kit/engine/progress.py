"""Lines in the log about what takes long, so that nobody wonders whether the job hangs."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

T = TypeVar("T")

SAY_AFTER = 2.0
"""Seconds after which a step is worth a line; the next lines come after twice the time, up to SAY_EVERY."""

SAY_EVERY = 60.0


@contextlib.contextmanager
def watched(what: str, how_far: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Log what goes on, for how long and how far it is, if the block takes more than two seconds."""
    over, started = threading.Event(), time.monotonic()

    def say() -> None:
        pause = SAY_AFTER
        while not over.wait(pause):
            far = ""
            with contextlib.suppress(Exception):  # nothing depends on it
                far = how_far()
            if not over.is_set():
                log.info("%s: %.0f s so far%s", what, time.monotonic() - started, far and f", {far}")
            pause = min(2 * pause, SAY_EVERY)

    threading.Thread(target=say, name="progress", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def tasks_done(session: SparkSession) -> str:
    """How many tasks of the stages that run now are done."""
    tracker = session.sparkContext.statusTracker()
    stages = [stage for n in tracker.getActiveStageIds() if (stage := tracker.getStageInfo(n))]
    done, total = sum(stage.numCompletedTasks for stage in stages), sum(stage.numTasks for stage in stages)
    return f"{done} of {total} tasks of the running stages done" if total else ""


def replayed(what: str, batches: Sequence[T]) -> Iterator[T]:
    """The batches, with a line in the log every two seconds if that many are computed again."""
    heard = time.monotonic()
    for number, batch in enumerate(batches, 1):
        if time.monotonic() - heard >= SAY_AFTER:
            heard = time.monotonic()
            log.info("%s: replaying batch %d of %d", what, number, len(batches))
        yield batch
