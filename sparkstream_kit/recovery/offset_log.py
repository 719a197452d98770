"""The offset log: which input belongs to which batch, written before any output of the batch.

    offsets/<n>             entry n: recorded time, offset range of each source, epoch of the lease that wrote it
    offsets/<n>.done        all outputs of batch n are written; its text is a note of the batch and the totals so far
    offsets/<n>.skipped     why an operator set the input of batch n aside
    offsets/<n>.compacted   a copy of entry n, written before it and all entries before it are removed, with a short
                            history of these batches
    offsets/again           which batches run again, as an operator asked; removed when the last of them is done
    offsets/drain           the end offsets of a drain, from its start until it has reached them
    offsets/resets          when the clock was reset, and after which batch: no earlier one is read with a later time

At most the newest entry lacks its done mark. One write of `again` takes back those of all batches that it names, and as
they are done again it moves on. An entry is never overwritten: a second driver that writes n finds it
there, or finds that the log has been compacted beyond it. The highest compacted entry counts, so a driver that was
paused during a compaction cannot undo a later one.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, NamedTuple

from ..contracts import Offset, OffsetRange
from ..errors import Fenced, HomeDamaged
from . import storage


@dataclass(frozen=True)
class Entry:
    """Batch n: its recorded time in ms since 1970, and the offset range of each source that had data."""

    n: int
    time: int
    ranges: dict[str, OffsetRange] = field(default_factory=dict)
    end_offsets: dict[str, Offset] = field(default_factory=dict)
    """Where each source has been read to, this batch included."""
    data: bool = True
    """False for a batch that only lets windows slide."""
    last_data: int = 0
    """Recorded time of the newest batch with data, this one included."""
    epoch: int = 0
    available: dict[str, Offset] = field(default_factory=dict)
    """Latest offsets of the sources that had more than the batch took."""
    now: int | None = None
    """The machine's clock when the batch was planned, in ms, but never before that of the entry before; None in entries
    of earlier versions. The recorded time differs from it under a manual clock, and after the clock went back."""
    given_up: dict[str, Offset] = field(default_factory=dict)
    """Where each source had been read to that was given up, in case it comes back."""

    @property
    def clock(self) -> int:
        """`now`, or what is nearest to it."""
        return self.time if self.now is None else self.now

    def not_after(self, time: int) -> Entry:
        """The entry with all of its times brought back to this one at the latest."""
        now = None if self.now is None else min(self.now, time)
        return replace(self, time=min(self.time, time), last_data=min(self.last_data, time), now=now)


class Again(NamedTuple):
    """The batches that run again, as an operator asked, with the offset ranges that they have."""

    after: int
    """The newest batch before them; as they are done again, the newest of these."""
    until: int
    """The last of them."""
    outputs: tuple[str, ...] = ()
    """The outputs that write them once more, as they cannot replace what they have."""
    begun: bool = False
    """Whether a driver has begun: what was made of them is gone, or going."""

    @property
    def batches(self) -> str:
        """Those that are left, in words.

        >>> Again(4, 9).batches, Again(8, 9).batches
        ('batches 5 to 9', 'batch 9')
        """
        first = self.after + 1
        return f"batches {first} to {self.until}" if first < self.until else f"batch {first}"


FIELDS = frozenset(f.name for f in fields(Entry))


class OffsetLog:
    """The entries that are still needed, in memory and on disk."""

    def __init__(self, root: str, epoch: int = 0):
        self._root = root
        self.epoch = epoch
        """Epoch of the lease that writes the entries."""
        while True:
            names = storage.names(root)
            try:
                return self._load(names)
            except HomeDamaged:
                if _compacted_to(storage.names(root)) == _compacted_to(names):
                    raise
                # another process compacts the log while `sparkstream status` reads it

    def _load(self, names: list[str]) -> None:
        self._first = _compacted_to(names)
        first = self._read(f"{self._first}.compacted") if self._first else Entry(0, 0, data=False)
        self._last = max([first.n, *(int(name) for name in names if name.isdigit())])
        self._entries = {first.n: first} | {n: self._read(str(n)) for n in range(first.n + 1, self._last + 1)}
        self._done = {first.n} | {int(name.removesuffix(".done")) for name in names if name.endswith(".done")}
        skipped = (name for name in names if name.endswith(".skipped"))
        self.skipped = {int(name.removesuffix(".skipped")): storage.read(f"{self._root}/{name}") for name in skipped}
        """The batches whose input is set aside, and why."""
        self.again = self._read_again() if _AGAIN in names else None
        """The batches that run again; None if there are none."""
        self._resets = self._read_resets() if _RESETS in names else []
        self._bring_back()

    def _read(self, name: str) -> Entry:
        """An entry, without fields that a newer version added; HomeDamaged if it is missing or unreadable."""
        path = f"{self._root}/{name}"
        try:
            known = {key: value for key, value in json.loads(storage.read(path)).items() if key in FIELDS}
            known["ranges"] = {source: (start, end) for source, (start, end) in known["ranges"].items()}
            return Entry(**known)
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise _damaged(path, error) from None

    @property
    def last(self) -> Entry:
        """The newest entry; entry 0 at time 0 before the first batch."""
        return self._entries[self._last]

    @property
    def compacted_to(self) -> Entry:
        """The newest entry that can no longer be replayed."""
        return self._entries[self._first]

    def __getitem__(self, n: int) -> Entry:
        return self._entries[n]

    def is_done(self, n: int) -> bool:
        """Whether all outputs of batch n are written, and it is not to run again."""
        return n in self._done and not self.runs_again(n)

    def runs_again(self, n: int) -> bool:
        """Whether batch n is one that runs again, and is not done yet."""
        return self.again is not None and n > self.again.after

    @property
    def done_to(self) -> int:
        """The newest batch that is done with all before it."""
        if self.again is not None:
            return self.again.after
        return self._last if self._last in self._done else self._last - 1

    def after(self, n: int) -> list[Entry]:
        """The replayable entries after n, oldest first."""
        return [self._entries[k] for k in range(max(n, self._first) + 1, self._last + 1)]

    def since(self, time: int) -> list[Entry]:
        """The replayable entries recorded after a time, oldest first."""
        newest_first = (self._entries[k] for k in range(self._last, self._first, -1))
        return list(itertools.takewhile(lambda entry: entry.time > time, newest_first))[::-1]

    def append(
        self,
        time: int,
        ranges: dict[str, OffsetRange],
        data: bool,
        available: dict[str, Offset] | None = None,
        now: int | None = None,
    ) -> Entry:
        """Write the next entry; raises Fenced if another driver has written it.

        `now` is the machine's clock, which is recorded as the latest one so far.
        """
        last = self.last
        now = None if now is None else max(now, last.clock)
        end_offsets = {**last.end_offsets, **{source: end for source, (_, end) in ranges.items()}}
        last_data = time if data else last.last_data
        available, given_up = available or {}, last.given_up
        entry = Entry(last.n + 1, time, ranges, end_offsets, data, last_data, self.epoch, available, now, given_up)
        try:
            storage.write_new(f"{self._root}/{entry.n}", json.dumps(asdict(entry)))
        except FileExistsError:
            raise Fenced(f"another driver has written batch {entry.n}: this one must stop") from None
        if _compacted_to(storage.names(self._root)) >= entry.n:
            storage.delete(f"{self._root}/{entry.n}")
            raise Fenced(f"another driver has compacted the log beyond batch {entry.n}: this one must stop")
        self._entries[entry.n] = entry
        self._last = entry.n
        return entry

    def mark_done(self, n: int, note: str = "") -> None:
        """Record that all outputs of batch n are written, with a note."""
        storage.write(f"{self._root}/{n}.done", note)
        self._done.add(n)
        if self.again is not None:
            self._write_again(self.again._replace(after=n))

    @property
    def reset_after(self) -> int:
        """The newest batch that a reset of the clock brought back; 0 if there was none."""
        return max((n for n, _ in self._resets), default=0)

    def run_again(self, after: int, outputs: Collection[str] = ()) -> Again:
        """Take back that the batches after one are done, so that the next start runs them again.

        What an earlier request named, and is not done again, is included, with its outputs.
        """
        before = self.again or Again(self._last, self._last)
        again = Again(after, self._last, tuple(sorted({*before.outputs, *outputs})))
        self._write_again(again)
        return again

    def begin_again(self) -> None:
        """Record that what was made of the batches that run again is forgotten."""
        assert self.again is not None
        self._write_again(self.again._replace(begun=True))

    def cancel_again(self) -> None:
        """Leave the batches as they were done; only before a driver has begun."""
        storage.delete(f"{self._root}/{_AGAIN}")
        self.again = None

    def _write_again(self, again: Again) -> None:
        if again.after < again.until:
            storage.write(f"{self._root}/{_AGAIN}", json.dumps(again._asdict()))
            self.again = again
        else:
            self.cancel_again()

    def _read_again(self) -> Again | None:
        path = f"{self._root}/{_AGAIN}"
        try:
            found = Again(**json.loads(storage.read(path)))
            return found._replace(after=int(found.after), until=int(found.until), outputs=tuple(found.outputs))
        except FileNotFoundError:  # the last of them is done
            return None
        except (ValueError, TypeError) as error:
            raise _damaged(path, error) from None

    def note(self, n: int) -> str:
        """The note of a batch that is done; empty if nothing was noted."""
        try:
            return storage.read(f"{self._root}/{n}.done")
        except FileNotFoundError:  # compacted
            pass
        try:
            return str(json.loads(storage.read(f"{self._root}/{n}.compacted")).get(_NOTE, ""))
        except FileNotFoundError:
            return ""

    def history(self) -> list[Any]:
        """What the last compaction kept of the batches before; nothing if an earlier version wrote it."""
        try:
            return list(json.loads(storage.read(f"{self._root}/{self._first}.compacted")).get(_HISTORY, []))
        except FileNotFoundError:
            return []

    def skip(self, n: int, why: str) -> None:
        """Set the input of a batch aside: it runs without."""
        storage.write(f"{self._root}/{n}.skipped", why)
        self.skipped[n] = why

    def keep_sources(self, sources: Collection[str]) -> None:
        """Give up all other sources in the next entries; one that comes back continues where it was given up."""
        offsets = {**self.last.given_up, **self.last.end_offsets}
        kept = {name: offset for name, offset in offsets.items() if name in sources}
        given_up = {name: offset for name, offset in offsets.items() if name not in sources}
        self._entries[self._last] = replace(self.last, end_offsets=kept, given_up=given_up)

    def begin_drain(self, ends: dict[str, Offset]) -> dict[str, Offset]:
        """The end offsets of a drain: `ends`, or those of an earlier run of the same drain that was interrupted.

        A source that the job did not have then has its offset of `ends`.
        """
        with contextlib.suppress(FileExistsError):
            storage.write_new(f"{self._root}/drain", json.dumps(ends))
        fixed: dict[str, Offset] = json.loads(storage.read(f"{self._root}/drain"))
        if not ends.keys() <= fixed.keys():
            fixed = {**ends, **fixed}
            storage.write(f"{self._root}/drain", json.dumps(fixed))
        return fixed

    def end_drain(self) -> None:
        """Remove the end offsets of the drain: the next one sets its own."""
        storage.delete(f"{self._root}/drain")

    def reset_clock(self, time: int) -> None:
        """Read the entries so far as recorded at this time if they were recorded later; the entries stay as they are.

        Their order stays, too: those that were ahead have one time from then on.
        """
        self._resets = [*((n, at) for n, at in self._resets if n >= self._first), (self._last, time)]
        storage.write(f"{self._root}/{_RESETS}", json.dumps(self._resets))
        self._bring_back()

    def _bring_back(self) -> None:
        for n, time in self._resets:
            self._entries |= {k: entry.not_after(time) for k, entry in self._entries.items() if k <= n}

    def _read_resets(self) -> list[tuple[int, int]]:
        """The newest batch at each reset, and the time of the reset."""
        path = f"{self._root}/{_RESETS}"
        try:
            return [(int(n), int(time)) for n, time in json.loads(storage.read(path))]
        except (FileNotFoundError, ValueError, TypeError) as error:
            raise _damaged(path, error) from None

    def compact(self, n: int, history: Sequence[Any] = ()) -> None:
        """Remove the entries up to n if it is done; the end offsets of their sources are kept, with a history."""
        if n <= self._first or not self.is_done(n) or self.again is not None:  # windows look back
            return
        kept = {**asdict(self._entries[n]), _NOTE: self.note(n), _HISTORY: list(history)}
        storage.write(f"{self._root}/{n}.compacted", json.dumps(kept))
        covered = [name for name in storage.names(self._root) if _is_covered(name, n)]
        unfinished = [name for name in storage.hidden(self._root) if _is_covered(name[1:].rpartition(".")[0], n)]
        for name in covered + unfinished:  # not of a driver that may have taken over meanwhile: it writes later ones
            storage.delete(f"{self._root}/{name}")
        self._entries = {k: entry for k, entry in self._entries.items() if k >= n}
        self._done = {k for k in self._done if k >= n}
        self._first = n


def rebuild(root: str, entries: dict[int, Entry]) -> Entry:
    """Write a log from known entries; returns the newest entry that cannot be replayed.

    The newest entry stays unfinished, since it is unknown which outputs have written it. If older ones are missing, the
    log starts with the newest.
    """
    storage.delete(root)
    last = entries[max(entries)]
    read = {source: end for n in sorted(entries) for source, end in entries[n].end_offsets.items()}
    given_up = {source: end for source, end in read.items() if source not in last.end_offsets}
    entries = {**entries, last.n: replace(last, given_up=given_up)}
    first = 0 if len(entries) == last.n else last.n - 1
    compacted = Entry(0, 0, data=False)
    if first:
        starts = {source: start for source, (start, _) in last.ranges.items()}
        compacted = Entry(first, last.time - 1, {}, {**last.end_offsets, **starts}, data=False)
        storage.write(f"{root}/{first}.compacted", json.dumps(asdict(compacted)))
    for n in range(first + 1, last.n + 1):
        storage.write_new(f"{root}/{n}", json.dumps(asdict(entries[n])))
        if n < last.n:
            storage.write(f"{root}/{n}.done", "")
    return compacted


def _damaged(path: str, error: Exception) -> HomeDamaged:
    return HomeDamaged(
        f"{path} of the offset log is damaged ({type(error).__name__}: {error}): restore the home from a backup, or "
        "start with a new home"
    )


_AGAIN = "again"

_RESETS = "resets"

_NOTE = "note"
"""In a compacted entry: what its done mark said."""

_HISTORY = "history"


def _compacted_to(names: list[str]) -> int:
    numbers = (name.removesuffix(".compacted") for name in names if name.endswith(".compacted"))
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _is_covered(name: str, n: int) -> bool:
    """Whether a compaction up to n makes a file unnecessary, or an interrupted compaction left it behind."""
    number, _, kind = name.partition(".")
    return number.isdigit() and (int(number) < n or (int(number) == n and kind != "compacted"))
