"""How the time of a batch of 1,000 lines grows with the slides of a window and with the files that are known already.

Growth with the keys of a state needs no runs of its own: it is in the cells of W5.
"""

from __future__ import annotations

from collections.abc import Iterable

from .arms import ARMS
from .inputs import Inputs
from .measure import Measured, interleaved
from .workloads import INTERVAL, STATE, SUM, TOP, Workload

LINES = 1_000
MEASURED = 10

Growth = dict[int, dict[str, list[Measured]]]
"""The measured batches of each arm, for each number of what grows."""


def _arms(*names: str) -> list:
    return [arm for arm in ARMS if arm.name in names]


def windows(slides: Iterable[int], inputs: Inputs) -> Growth:
    """The busiest paths of windows of this many slides, once they are full; the script checks the two others."""
    found = {}
    for count in slides:
        work = TOP._replace(window=count * INTERVAL, what=f"ten busiest paths of {count} slides")
        batches = inputs.batches(LINES, count + MEASURED)
        found[count] = interleaved(_arms("A1", "A2", "A3"), work, f"{LINES:,} lines", batches, 1, MEASURED)
        del found[count]["A1"]
    return found


def known_files(counts: Iterable[int], inputs: Inputs) -> Growth:
    """Bytes and lines of two new files beside this many that are done."""
    found = {}
    for count in counts:
        # the first batch is the known files, so the others are one tick later than their times: not too old by far
        batches = [inputs.small_files(count), *inputs.batches(LINES, MEASURED)]
        which = f"{LINES:,} lines beside {count:,} files"
        found[count] = interleaved(_arms("A2", "A3", "A5"), SUM, which, batches, 1, MEASURED)
    return found


def states(found: dict[tuple[Workload, int, str], list[Measured]]) -> Growth:
    """What the cells say of states."""
    growth: Growth = {}
    for (work, lines, arm), measured in found.items():
        if work.name == STATE.name and work.keys and lines == LINES and arm in ("A2", "A3", "A4", "A5"):
            growth.setdefault(work.keys, {})[arm] = measured
    return growth
