"""The offset log: which input belongs to which batch, written before any output of the batch.

    progress/<n>        entry n: its recorded time, the range of each source, the epoch of the lease that wrote it
    progress/<n>.done   everything of batch n is out
    progress/drain      how far a drain goes, from its start until it is there
    progress/<n>.floor  a copy of entry n, made before it and those before it are removed; the highest counts

At most the newest entry is without its done mark. An entry is never overwritten: a second driver that writes n finds
it there. Where n was removed since, the floor tells; a driver that was paused in a compaction cannot lower it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from dataclasses import asdict, dataclass, field

from ..contracts import Position
from ..errors import Fenced, UsageError
from . import storage


@dataclass(frozen=True)
class Entry:
    """Batch n: recorded time in ms since 1970, and for each source the range (start, end] of its positions."""

    n: int
    time: int
    ranges: dict[str, tuple[Position, Position]] = field(default_factory=dict)
    positions: dict[str, Position] = field(default_factory=dict)
    data: bool = True
    """False for a batch that only lets windows move on."""
    last_data: int = 0
    """Recorded time of the newest batch with data, this one included."""
    epoch: int = 0
    left: dict[str, Position] = field(default_factory=dict)
    """How far sources could have been read that had more than the batch took."""


class OffsetLog:
    """The entries that are still needed, in memory and on disk."""

    def __init__(self, root: str, epoch: int = 0):
        self._root = root
        self.epoch = epoch
        """That of the lease with which entries are written."""
        while True:
            names = storage.names(root)
            try:
                return self._load(names)
            except UsageError:
                if self._floor(storage.names(root)) == self._floor(names):
                    raise
                # compacted while it was read, by the driver whose status is asked for

    def _load(self, names: list[str]) -> None:
        self._first = self._floor(names)
        floor = self._read(f"{self._first}.floor") if self._first else Entry(0, 0, data=False)
        self._last = max([floor.n, *(int(name) for name in names if name.isdigit())])
        self._entries = {floor.n: floor} | {n: self._read(str(n)) for n in range(floor.n + 1, self._last + 1)}
        self._done = {floor.n} | {int(name[:-5]) for name in names if name.endswith(".done")}

    def _floor(self, names: list[str]) -> int:
        return max((int(name[:-6]) for name in names if name.endswith(".floor") and name[:-6].isdigit()), default=0)

    def _read(self, name: str) -> Entry:
        """An entry; UsageError where somebody removed or changed it, since nobody but this module may."""
        path = f"{self._root}/{name}"
        try:
            fields = json.loads(storage.read(path))
            fields["ranges"] = {source: (start, end) for source, (start, end) in fields["ranges"].items()}
            return Entry(**fields)
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(
                f"the entry {path} of the offset log cannot be read ({type(error).__name__}: {error}): restore the "
                "home from a copy, or start with a new home"
            ) from None

    @property
    def last(self) -> Entry:
        """The newest entry; entry 0 at time 0 before the first batch."""
        return self._entries[self._last]

    @property
    def floor(self) -> Entry:
        """The newest entry whose range can no longer be replayed."""
        return self._entries[self._first]

    def __getitem__(self, n: int) -> Entry:
        return self._entries[n]

    def is_done(self, n: int) -> bool:
        """Whether everything of batch n is out."""
        return n in self._done

    def after(self, n: int) -> list[Entry]:
        """Entries with a number above n, oldest first; the floor is none of them."""
        return [self._entries[k] for k in range(max(n, self.floor.n) + 1, self.last.n + 1)]

    def since(self, time: int) -> list[Entry]:
        """Entries with a recorded time after that one, oldest first; the floor is none of them."""
        newest_first = (self._entries[k] for k in range(self.last.n, self.floor.n, -1))
        return list(itertools.takewhile(lambda entry: entry.time > time, newest_first))[::-1]

    def append(
        self,
        time: int,
        ranges: dict[str, tuple[Position, Position]],
        data: bool,
        left: dict[str, Position] | None = None,
    ) -> Entry:
        """Write the next entry; raises Fenced if another driver wrote it."""
        last = self.last
        positions = {**last.positions, **{source: end for source, (_, end) in ranges.items()}}
        last_data = time if data else last.last_data
        entry = Entry(last.n + 1, time, ranges, positions, data, last_data, self.epoch, left or {})
        try:
            storage.write_new(f"{self._root}/{entry.n}", json.dumps(asdict(entry)))
        except FileExistsError:
            raise Fenced(f"another driver has written batch {entry.n}: this one must not go on") from None
        if self._floor(storage.names(self._root)) >= entry.n:
            storage.delete(f"{self._root}/{entry.n}")
            raise Fenced(f"other drivers have gone on beyond batch {entry.n}: this one must not go on")
        self._entries[entry.n] = entry
        self._last = entry.n
        return entry

    def mark_done(self, n: int) -> None:
        """Everything of batch n is out."""
        storage.write(f"{self._root}/{n}.done", "")
        self._done.add(n)

    def fixed_ends(self, ends: dict[str, Position]) -> dict[str, Position]:
        """The ends of a drain: those given, unless an earlier run of the same drain has fixed others."""
        with contextlib.suppress(FileExistsError):
            storage.write_new(f"{self._root}/drain", json.dumps(ends))
        fixed: dict[str, Position] = json.loads(storage.read(f"{self._root}/drain"))
        return fixed

    def reached_ends(self) -> None:
        """The drain is over: the next one fixes its own ends."""
        storage.delete(f"{self._root}/drain")

    def compact(self, floor: int) -> None:
        """Remove the entries up to n = floor, which must be done; how far their sources were read stays known."""
        if floor <= self._first or not self.is_done(floor):
            return
        storage.write(f"{self._root}/{floor}.floor", json.dumps(asdict(self._entries[floor])))
        unneeded = [name for name in storage.names(self._root) if _is_covered(name, floor)]
        for name in unneeded + storage.hidden(self._root):
            storage.delete(f"{self._root}/{name}")
        self._entries = {n: entry for n, entry in self._entries.items() if n >= floor}
        self._done = {n for n in self._done if n >= floor}
        self._first = floor


def rebuild(root: str, entries: dict[int, Entry]) -> Entry:
    """Write a log anew from what is known of its entries; gives the one below which nothing can be replayed.

    The newest entry is left to be finished: nobody knows which outputs have it. Where an older one is not known, the
    log begins with the newest.
    """
    storage.delete(root)
    last = entries[max(entries)]
    first = 0 if len(entries) == last.n else last.n - 1
    floor = Entry(0, 0, data=False)
    if first:
        started = {source: start for source, (start, _) in last.ranges.items()}
        floor = Entry(first, last.time - 1, {}, {**last.positions, **started}, data=False)
        storage.write(f"{root}/{first}.floor", json.dumps(asdict(floor)))
    for n in range(first + 1, last.n + 1):
        storage.write_new(f"{root}/{n}", json.dumps(asdict(entries[n])))
        if n < last.n:
            storage.write(f"{root}/{n}.done", "")
    return floor


def _is_covered(name: str, floor: int) -> bool:
    """Whether the floor makes a file unnecessary; also what a compaction that was cut off has left."""
    number, _, kind = name.partition(".")
    return number.isdigit() and (int(number) < floor or (int(number) == floor and kind != "floor"))
