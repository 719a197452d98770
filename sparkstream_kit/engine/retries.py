"""Steps of a batch that are tried until they succeed, or until more tries would be in vain."""

from __future__ import annotations

import contextlib
import logging
import threading
import time as clock
from collections import Counter
from collections.abc import Callable, Mapping

from ..bridge import dataframes, jvm
from ..errors import KitError
from .graph import Graph

log = logging.getLogger(__name__)

SAME_FAILURES = 5
"""Tries after which a step that fails on its data, each time with the same error, is given up: it is in vain."""

RETRY_FOR = 600.0
"""Seconds for which a failing step is retried: longer than most database outages."""


class StillFailing(Exception):
    """Some steps of a batch have failed for the last time; in vain are those that fail on their data."""

    def __init__(self, failures: Mapping[str, Exception], in_vain: list[str]):
        self.failures, self.in_vain = failures, in_vain
        self.step = next(iter(in_vain or failures))
        super().__init__(f"the {self.step} still fails ({jvm.reason(self.cause)})")

    @property
    def cause(self) -> Exception:
        """What the step raised."""
        return self.failures[self.step]


def until_done(
    graph: Graph,
    n: int | None,
    steps: Mapping[str, Callable[[], object]],
    *,
    errors: dict[str, str],
    retry_for: float = RETRY_FOR,
    stopping: threading.Event | None = None,
    retrying: Callable[[Mapping[str, str], float], None] = lambda reasons, pause: None,
) -> None:
    """Run every step of batch n, or of planning one, until it succeeds, the deadline passes, or it is in vain.

    `errors` gets the last error of each step, and `retrying` those of a try and the pause in seconds after it. Raises
    StillFailing, and the errors of the kit as they are.
    """
    waiting, same, stopping = dict(steps), Counter[str](), stopping or threading.Event()
    batch = f"batch {n}" if n else "the next batch"
    deadline, pause = clock.monotonic() + retry_for, 0.5
    while True:
        # a try after a failure notes which line of the program it comes from
        with contextlib.nullcontext() if same else dataframes.without_lines():
            failures = _failures(waiting)
        if not failures:
            return
        reasons = {name: jvm.reason(failure) for name, failure in failures.items()}
        for name, why in reasons.items():
            same[name] = same[name] + 1 if why == errors.get(name) else 1
        errors |= reasons
        left = deadline - clock.monotonic()
        on_data = {name for name, failure in failures.items() if jvm.is_caused_by_data(failure)}
        in_vain = [name for name in failures if n and same[name] >= SAME_FAILURES and name in on_data]
        if left <= 0 or in_vain or stopping.is_set():
            raise StillFailing(failures, in_vain)
        retrying(reasons, min(pause, left))
        for name, why in reasons.items():
            tries = f"as try {same[name] + 1} of {SAME_FAILURES}" if name in on_data else f"for another {left:.0f} s"
            log.warning("%s: the %s failed (%s); retrying in %.1f s, %s", batch, name, why, pause, tries)
        if any("heckpoint block" in str(failure) for failure in failures.values()):
            graph.drop_everything()
        else:
            graph.drop_contexts(keep_cached=True)
        stopping.wait(min(pause, left))
        pause = min(2 * pause, 30.0)


def _failures(waiting: dict[str, Callable[[], object]]) -> dict[str, Exception]:
    """Run every step; those that succeed no longer wait."""
    failures: dict[str, Exception] = {}
    for name, step in list(waiting.items()):
        try:
            step()
            del waiting[name]
        except KitError:
            raise
        except Exception as error:
            failures[name] = error
    return failures
