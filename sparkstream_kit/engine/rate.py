"""How much of a backlog one batch takes, learned from how long the batches before it took."""

from __future__ import annotations

from ..contracts import Position, Source

_WORTH = 2
"""A batch may take so many times what the shortest one took, also where an interval is less: half of the time then
goes to records and not to what every batch costs, or a backlog would never become smaller."""


class Pace:
    """Ends batches where they are expected to have taken about an interval.

    What arrives within an interval is taken whole as long as it keeps below that; after a pause of a week the backlog
    comes in such pieces.
    """

    def __init__(self, interval: float):
        self._interval = interval  # s
        self._shortest = float("inf")
        self._limits: dict[str, int] = {}
        self._cut: set[str] = set()

    def end(self, name: str, source: Source, start: Position, end: Position) -> Position:
        """Where the next batch is to end, of all that there is up to `end`."""
        limited = source.limit(start, end, self._limits.setdefault(name, source.trial))
        if limited != end:
            self._cut.add(name)
        return limited

    def learn(self, seconds: float) -> None:
        """The batch took so long: the sources that had more than it took get more or less of the next one."""
        self._shortest = min(self._shortest, seconds)
        wanted = max(self._interval, _WORTH * self._shortest)
        factor = min(max(wanted / max(seconds, 0.001), 0.25), 2.0)
        for name in self._cut:
            self._limits[name] = max(1, round(self._limits[name] * factor))
        self._cut.clear()
