"""Update functions for `DStream.updateStateByKey`: what a key's state becomes after a batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def running_sum(new_values: Iterable[Number], total: Number | None) -> Number:
    """Add a batch's values to the total so far.

    Pass it as it is: `pairs.updateStateByKey(running_sum)`.

    >>> running_sum([2, 3], 10)
    15

    A key seen for the first time has no total yet, and one that is absent from a batch keeps what it had:

    >>> running_sum([2, 3], None)
    5
    >>> running_sum([], 15)
    15

    The result is never None, so Spark never drops a key: state grows with the number of distinct keys.
    """
    return sum(new_values) + (total or 0)
