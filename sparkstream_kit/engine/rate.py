"""The size of a batch while there is a backlog, adjusted to how long earlier batches took."""

from __future__ import annotations

from ..contracts import Offset, Source

MIN_FACTOR = 2
"""A batch may take this many times the shortest so far, even beyond the interval: otherwise fixed costs would use up
the interval and a backlog would never shrink."""


ALL = 1 << 62
"""More records or bytes than a source has."""


class RateController:
    """Limits batches to what is expected to take about one interval.

    What arrives within an interval is taken whole as long as it takes less than one; after a week of downtime the
    backlog is read in batches of about one interval each.
    """

    def __init__(self, interval: float):
        self._interval = interval  # s
        self._shortest = float("inf")
        self._limits: dict[str, int] = {}
        self._limited: set[str] = set()

    def end_offset(self, name: str, source: Source, start: Offset, latest: Offset) -> Offset:
        """The end offset of the next batch."""
        end = source.limit(start, latest, self._limits.setdefault(name, source.initial_batch_size))
        if end != latest and end != source.limit(start, latest, ALL):  # not by a limit of the source's own
            self._limited.add(name)
        return end

    def update(self, seconds: float) -> None:
        """Adjust the limits of the sources that had more than the batch took; `seconds` is how long it ran."""
        self._shortest = min(self._shortest, seconds)
        wanted = max(self._interval, MIN_FACTOR * self._shortest)
        factor = min(max(wanted / max(seconds, 0.001), 0.25), 2.0)
        for name in self._limited:
            self._limits[name] = max(1, round(self._limits[name] * factor))
        self._limited.clear()
