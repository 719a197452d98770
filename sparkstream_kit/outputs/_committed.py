"""What an output knows of the batches it has committed: the offset ranges beside each, compared with those of a home.

A number alone proves nothing: a home restored from an older copy counts on from there, with other input. So a batch is
skipped only if its offset ranges are those of the one that is there.
"""

from __future__ import annotations

import json

from ..contracts import Batch
from ..errors import OutputRefused

KEPT_BATCHES = 1_000
"""Batches of each output whose offset ranges are kept. The newest would suffice, since at most one batch is ever
unfinished (a bare DStream runs its few pending ones again). The others let `rebuild` restore states, and show what was
written when."""


def ranges_of(batch: Batch) -> str:
    """The offset ranges of a batch as outputs keep them: JSON, the same text for the same ranges."""
    return json.dumps(batch.ranges, sort_keys=True)


def check_same(place: str, name: str, batch: Batch, known: str, instead: str) -> None:
    """OutputRefused if the batch that `place` holds under this number has other offset ranges."""
    if known != ranges_of(batch):
        raise OutputRefused(
            f"{place} already holds batch {batch.n} of the output {name!r} with the offset ranges {known}, but this "
            f"one has {ranges_of(batch)}: the home is an outdated copy; use a new home and {instead}"
        )


def check_newest(place: str, name: str, newest: int, n: int, instead: str) -> None:
    """OutputRefused if `place` holds a batch after n, which the home neither runs nor has run."""
    if newest > n:
        raise OutputRefused(
            f"{place} already holds batch {newest} of the output {name!r}, but the home has only come to batch {n}: "
            f"the home is an outdated copy; use a new home and {instead}"
        )
