"""Which file is this? The same one as before under another name, a copy of it, a compressed one, or a new one.

Neither a name nor an inode tells: names are given again by rotation, inodes after a deletion, and copies have new ones.
So a file is known by what it holds: **marks**, digests of the bytes before some offsets, at its beginning and where it
was read to. A name or an inode only says which files to compare with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol

from . import _lines
from ._disks import Key, Opened

HEAD = (64, 256, 512, 1024)
"""Offsets of the marks at the beginning of a file."""

MARKED = (*HEAD, *(4**k for k in range(6, 21)))
"""Offsets of marks that are kept: those of the beginning, and from 4 KiB on one for each fourfold size."""

WIDTH = 256
"""Bytes before its offset that a mark covers."""

RECENT = 8
"""Number of newest marks that are kept where a file was read to."""

_PACKED = re.compile(r"\.(gz|bz2|xz|zst)\Z")
_ROTATED = re.compile(r"[._-](old|bak|prev|save|orig|[0-9][0-9T:._Z-]*)(?=[._-]|\Z)")
_NUMBERED = re.compile(r"(.+)\.([0-9]{1,3})", re.DOTALL)


@dataclass
class File:
    """A file that was read, wherever it is now; offsets are those of its uncompressed bytes."""

    id: int
    path: str
    key: Key | None  # None: what was there has been replaced, and the file not been found elsewhere
    size: int  # bytes on disk when it was last looked at
    changed: int  # ns since 1970
    position: int = 0  # its bytes up to here belong to ranges
    marks: dict[int, str] = field(default_factory=dict)
    packed: bool = False
    gone: int = 0  # ms since 1970; 0 if it is there
    ended: bool = True  # whether a line ends at the position
    seen: int = 0  # number of the scan that last found it
    waits: bool = False  # what it still has must be looked at again, although it has not changed
    searched: int = 0  # no line ends between the position and here, if that is further

    def move(self, position: int, marks: dict[int, str]) -> None:
        """Set the position, given marks up to there that are new."""
        known = {at: mark for at, mark in (self.marks | marks).items() if at <= position}
        recent = sorted(set(known) - set(MARKED))[-RECENT:]
        self.position = position
        self.marks = {at: known[at] for at in sorted(known) if known[at] and (at in MARKED or at in recent)}

    def head(self) -> tuple[int, str]:
        """The mark that is compared first: the last one of the beginning."""
        at = max((at for at in HEAD if at in self.marks), default=min(self.marks))
        return at, self.marks[at]

    def to_json(self) -> list[Any]:
        """What is stored."""
        marks = {str(at): mark for at, mark in self.marks.items()}
        place = [self.id, self.path, self.key, self.size, self.changed]
        return [*place, self.position, marks, self.packed, self.gone, self.ended]

    @classmethod
    def from_json(cls, stored: list[Any]) -> File:
        """What `to_json` returned."""
        id, path, key, size, changed, position, marks, packed, gone, ended = stored
        known = {int(at): mark for at, mark in marks.items()}
        return cls(id, path, key, size, changed, position, known, packed, gone, ended)


def mark(before: bytes) -> str:
    """The mark of an offset, from the bytes before it; empty in a hole, which says nothing about a file."""
    if not before[-WIDTH:].strip(b"\0"):
        return ""
    return blake2b(before[-WIDTH:], digest_size=6).hexdigest()


class Content(Protocol):
    """What is in a file now, uncompressed."""

    size: int

    def marks(self, offsets: Iterable[int]) -> dict[int, str]:
        """The marks of those of the offsets that the content reaches."""


class Plain:
    """The content of a file as it is."""

    def __init__(self, opened: Opened):
        self._opened, self.size = opened, opened.found.size
        self._marks: dict[int, str] = {}

    def marks(self, offsets: Iterable[int]) -> dict[int, str]:
        """The marks, from the file."""
        wanted = [at for at in offsets if at <= self.size]
        for at in wanted:
            if at not in self._marks:
                self._marks[at] = mark(self._opened.read(max(0, at - WIDTH), min(at, WIDTH)))
        return {at: self._marks[at] for at in wanted}

    def is_unchanged(self) -> bool:
        """Whether nothing was cut off or replaced since: what has been read meanwhile is of one file."""
        again = Plain(self._opened)
        return self._opened.size() >= self.size and again.marks(self._marks) == self._marks


class End(NamedTuple):
    """Where the lines of a compressed file end."""

    at: int
    mark: str
    ends: bool


class Packed:
    """The content of a compressed file, read from the beginning to the end or to where it is damaged."""

    def __init__(self, kind: str, blocks: Iterable[bytes], offsets: Iterable[int]):
        self.kind, self.size = kind, 0
        self.error: EOFError | ValueError | None = None
        self._marks: dict[int, str] = {}
        self._end, self._end_mark = 0, ""  # of the last line
        self.ends = False
        """Whether the last line has an end."""
        before, wanted = b"", sorted({*MARKED, *offsets}, reverse=True)
        try:
            for block in blocks:
                both, start = before + block, self.size - len(before)
                self.size += len(block)
                while wanted and wanted[-1] <= self.size:
                    at = wanted.pop()
                    self._marks[at] = mark(both[: at - start])
                if (newline := both.rfind(b"\n") + 1) > len(before):
                    self._end, self._end_mark = start + newline, mark(both[:newline])
                before = both[-WIDTH:]
        except (EOFError, ValueError) as error:
            self.error = error
        self._last_mark = self._marks[self.size] = mark(before)
        self.ends = before.endswith(b"\n") or self.error is not None

    def marks(self, offsets: Iterable[int]) -> dict[int, str]:
        """The marks of those that were among the offsets."""
        return {at: self._marks[at] for at in offsets if at in self._marks}

    def end(self, *, whole: bool) -> End:
        """Where its lines end. A last one without its end is one if the content is whole, and not damaged."""
        if self.error or not (whole or self.ends):
            return End(self._end, self._end_mark, True)
        return End(self.size, self._last_mark, self.ends)


def holds(content: Content, file: File) -> bool:
    """Whether the content begins with what was read of the file, as far as it reaches.

    If it reaches less far, only the newest marks prove something: files may have one header.
    """
    reached = {at: mark for at, mark in file.marks.items() if at <= content.size}
    is_proof = bool(reached) if content.size >= file.position else bool(reached) and max(reached) not in MARKED
    return is_proof and content.marks(reached) == reached


# --- names: who may be a copy of whom


def bare(path: str) -> str:
    """The name of a file without what compression adds."""
    return _PACKED.sub("", path.rpartition("/")[2])


def origins(path: str) -> set[str]:
    """The bare names of files that rotation or compression may have turned into this one.

    >>> "access.log" in origins("/a/access.log.1"), "access.log" in origins("/a/access-20261126.log.gz")
    (True, True)
    >>> "part-1" in origins("/a/part-2"), "access.log" in origins("/a/access.log")
    (False, False)
    """
    name = bare(path)
    ends = [found.start() for found in re.finditer("[._-]", name) if found.start()]
    last = name[ends[-1] :] if ends and name[ends[-1]] == "." else ""
    found = {name[:end] for end in ends} | {name[:end] + last for end in ends[:-1] if last}
    return found | ({name} if _PACKED.search(path) else set())


def is_derived(path: str, origin: str) -> bool:
    """Whether rotation or compression may have made the first name from the second."""
    return bare(origin) in origins(path) and path != origin


def is_related(path: str, origin: str, *, packed: bool) -> bool:
    """Whether a file at `path` may be the one that was last at `origin`: of the same, a derived or a later name.

    >>> is_related("/a/access.log.2", "/a/access.log.1", packed=False)
    True
    >>> is_related("/spool/part-2", "/spool/part-1", packed=False)
    False
    """
    name, before = bare(path), bare(origin)
    was_packed = _PACKED.search(origin)
    if name == before or is_derived(path, origin) or (packed and not was_packed and family(name) == family(before)):
        return True
    now, then = _NUMBERED.fullmatch(name), _NUMBERED.fullmatch(before)
    return bool(now and then and now[1] == then[1] and int(now[2]) > int(then[2]))


def family(name: str) -> str:
    """A bare name without what rotation adds."""
    return _ROTATED.sub("", name)


def names(path: str) -> set[str]:
    """The names under which a file is kept in an index of names."""
    return {bare(path), f"family {family(bare(path))}"}


def names_of_relatives(path: str) -> set[str]:
    """The names under which the files that `path` may be related to are found there."""
    found = origins(path) | {bare(path)}
    return found | names(path) if _PACKED.search(path) or _NUMBERED.fullmatch(bare(path)) else found


# --- where lines end


class Cut(NamedTuple):
    """A range of whole lines."""

    start: int
    end: int
    mark: str
    ends: bool  # whether the last of them has its end


def cuts(opened: Opened, start: int, size: int, *, most: int, searched: int, whole: bool) -> Iterator[Cut]:
    """The ranges of whole lines from `start` to `size`, of at most `most` bytes each if lines are not longer.

    No line ends between `start` and `searched`. A last line without an end is one only if the content is `whole`.
    """
    while start < size:
        end = _end_of_lines(opened, start, min(start + most, size)) or _next_end(opened, max(start, searched), size)
        if end is None and (not whole or _is_hole(opened, start, size)):
            return
        end = end or size
        before = opened.read(max(0, end - WIDTH), min(end, WIDTH))
        yield Cut(start, end, mark(before), before.endswith(b"\n"))
        start = end


def _is_hole(opened: Opened, start: int, size: int) -> bool:
    """Whether there are only NULs up to the end, as a crash of the machine leaves them: no line."""
    while start < size:
        block = opened.read(start, min(_lines.BLOCK, size - start))
        if block.strip(b"\0"):
            return False
        start += max(1, len(block))
    return True


def _end_of_lines(opened: Opened, start: int, end: int) -> int | None:
    """The end of the last line that ends in this range."""
    for back in (1 << 16, end - start):
        begin = max(start, end - back)
        newline = opened.read(begin, end - begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
    return None


def _next_end(opened: Opened, start: int, size: int) -> int | None:
    """The end of the first line that ends after `start`."""
    while start < size:
        block = opened.read(start, min(_lines.BLOCK, size - start))
        if not block:
            return None
        newline = block.find(b"\n")
        if newline >= 0:
            return start + newline + 1
        start += len(block)
    return None
