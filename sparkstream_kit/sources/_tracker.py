"""Follow log files through growth and rotation: what each scan of the directories finds, and the ranges to read.

A scan lists the directories. A file that has not changed costs nothing more. One that has is opened, and holds what
was read of it; if not, another file has taken its place. Then each file with an unknown key is compared with those that
are missing: it is one of them, moved, copied or compressed; or a copy of one that is still there, which is not read; or
a new one.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from . import _globs, _identity, _lines
from ._disks import Disk, Found, Key, Opened
from ._identity import HEAD, MARKED, Content, Cut, File, Packed, Plain

log = logging.getLogger(__name__)

FOLLOWED = 3600 * 10**9
"""For how long (ns) a file that does not change is followed under names that no glob matches."""

KEPT, MOST_KEPT = 7 * 86_400_000, 100_000
"""For how long (ms) it is known what was read of a file that is gone, and of how many files at most."""

ALIKE = 1000
"""Files of one name and beginning that are compared with another one."""

_MISSED = 2
"""Scans in a row that do not find a file until it is gone: a listing may miss one that is being renamed."""


class Directory(NamedTuple):
    """A directory and the globs below it."""

    path: str
    globs: list[_globs.Glob]


class Moved(Exception):
    """A file has left the place where the last scan found it."""


class New(NamedTuple):
    """A range that a scan has found."""

    file: File
    cut: Cut
    plain: bool
    """Whether these are whole lines of a plain file, as they are."""
    continues: bool
    """Whether it begins with the rest of a line that was read before its end came."""


class _Held(NamedTuple):
    """A file that is not read."""

    path: str
    size: int
    changed: int
    copied: File | None
    until: int | None  # ns since 1970, when it is looked at again although it has not changed


class Tracker:
    """The files that are known, and where they are."""

    def __init__(self, disk: Disk, directories: list[Directory], inactive_after: int, min_age: int):
        self.files: dict[int, File] = {}
        self.next_id = 0
        self._disk, self.directories = disk, directories
        self._inactive_after, self._min_age = inactive_after * 10**6, min_age * 10**6  # ns
        self._by_key: dict[Key, File] = {}
        self._by_path: dict[str, File] = {}
        self._alike: dict[tuple[str, tuple[int, str]], dict[int, File]] = defaultdict(dict)
        """Files by their names and heads."""
        self._other_heads: Counter[int] = Counter()
        """Offsets of heads, where these are not the usual ones: of short files, and of files with holes."""
        self._held: dict[Key, _Held] = {}
        self._missed: dict[int, int] = {}
        self._unsure: set[int] = set()
        """Files whose keys this scan has found, without seeing what they hold: a key may have been given again."""
        self._warned: dict[str, str] = {}
        self._scan, self._now = 0, 0
        self._unlisted: list[tuple[str, OSError]] = []
        """Directories that the last scan could not list."""
        self._listed: dict[str, Key] = {}
        """What identified the directories when there was something in them."""

    def add(self, file: File) -> None:
        """Know a file: one of an earlier run, or a new one."""
        self.files[file.id] = file
        self.next_id = max(self.next_id, file.id + 1)
        self._by_path[file.path] = file
        if file.key is not None:
            self._by_key[file.key] = file
        self._index_head(file)

    def forget(self) -> None:
        """Forget files that have been gone for long."""
        now = time.time_ns() // 10**6
        gone = sorted((file for file in self.files.values() if file.gone), key=lambda file: file.gone)
        for n, file in enumerate(gone):
            if file.gone < now - KEPT or n < len(gone) - MOST_KEPT:
                self._remove(file)
                self._warned.pop(file.path, None)
                del self.files[file.id]

    @contextmanager
    def open(self, file: File) -> Iterator[Opened]:
        """Open a known file; Moved if it is not where it was, other OSErrors if it cannot be read."""
        if file.key is None or file.gone:
            raise Moved(file.path)
        try:
            with self._disk.open(file.path) as opened:
                if opened.found.key != file.key:
                    raise Moved(file.path)
                yield opened
        except FileNotFoundError:
            raise Moved(file.path) from None

    def is_out_of_sight(self, file: File) -> bool:
        """Whether a file was in a directory that the last scan could not list: it may still be there."""
        return any(file.path.startswith(f"{path.rstrip('/')}/") for path, _ in self._unlisted)

    def waiting(self) -> set[str]:
        """The files that end without the end of a line or of compression, as if they were still being written."""
        held = {held.path for held in self._held.values() if held.until is not None and self._now < held.until}
        return held | {file.path for file in self.files.values() if file.waits and file.seen == self._scan}

    def length(self, file: File) -> int:
        """The uncompressed size of a file; Moved if it is not where it was."""
        with self.open(file) as opened:
            return self._content(opened, ()).size

    def scan(self) -> list[New]:
        """List the directories; returns the new ranges: of known files first, then of the oldest ones."""
        self._scan, self._now, self._unlisted = self._scan + 1, time.time_ns(), []
        self._unsure.clear()
        changed: list[tuple[Found, File]] = []
        unknown: list[Found] = []
        for found in self._walk():
            file = self._by_key.get(found.key) if found.key else self._by_path.get(found.path)
            if file is None:
                if found.size:
                    unknown.append(found)
            elif file.size == found.size and file.changed == found.changed and not file.waits:
                if file.seen != self._scan and file.path != found.path:
                    self._remove(file)
                    file.path, file.key = found.path, found.key
                    self.add(file)
                file.seen, file.gone = self._scan, 0
            else:
                changed.append((found, file))
        if len(self._held) > MOST_KEPT:
            self._held.clear()
        ranges: list[New] = []
        first_new = self.next_id
        for found, file in changed:
            if file.seen != self._scan and not self._revisit(found, file, ranges):  # it may have had two links
                unknown.append(found)
        missing = [
            file
            for file in self.files.values()
            if file.seen != self._scan and not file.gone and not self.is_out_of_sight(file)
        ]
        unlisted = self._neighbours(missing, {found.path for found in unknown})
        unknown = [*self._renamed(unknown, ranges), *self._renamed(unlisted, ranges)]
        for found in sorted(unknown, key=lambda found: (found.changed, found.path)):
            self._identify(found, ranges, listed=found not in unlisted)
        self._missed = {file.id: self._missed.get(file.id, 0) + 1 for file in missing if file.seen != self._scan}
        for number, times in self._missed.items():
            if times >= _MISSED:
                self._give_up(self.files[number])
        ranges.sort(key=lambda new: (new.file.id >= first_new, new.file.changed, new.file.path, new.cut.start))
        return ranges

    # --- the files that a scan has to look at

    def _walk(self) -> Iterator[Found]:
        for directory in self.directories:
            is_empty = True
            try:
                for found in self._disk.walk(*directory, self._unlisted):
                    is_empty = False
                    yield found
                key = self._disk.key(directory.path)
                if is_empty and key != self._listed.get(directory.path, key):
                    raise OSError("is another directory now, and empty, as if a disk were not mounted")
                if not is_empty and key is not None:
                    self._listed[directory.path] = key
            except OSError as error:
                self._unlisted.append((directory.path, error))
        for path, reason in self._unlisted:
            self._warn(path, f"cannot be listed: {reason.strerror or reason}")

    def _renamed(self, unknown: Iterable[Found], ranges: list[New]) -> list[Found]:
        """Revisit known files that have other names; returns the others, with their keys."""
        others = []
        for found in unknown:
            key = found.key or self._disk.key(found.path)
            file = self._by_key.get(key) if key else None
            is_known = file is not None and (file.seen == self._scan or self._revisit(found, file, ranges))
            if key and not is_known:
                others.append(found._replace(key=key))
        return others

    def _revisit(self, found: Found, file: File, ranges: list[New]) -> bool:
        """Look at a file whose key is known; False if it is another one now."""
        file.seen = self._scan  # whatever trouble there may be, it is not missing
        self._unsure.add(file.id)
        if self._is_young(found):
            return True
        is_same = True
        with self._tolerating(found), self._disk.open(found.path) as opened:
            content = self._content(opened, file.marks)
            # a new file, compressed or not, may have the inode of a removed one with the same content
            can_be_same = file.packed == isinstance(content, Packed)
            if opened.found.key != file.key:
                is_same, file.seen = False, 0
            elif can_be_same and self._is_unfinished(opened, content):
                file.waits = True
            elif can_be_same and self._continues(file, content):
                self._unsure.discard(file.id)
                self._take(file, opened, content, ranges)
            else:
                self._drop_place(file)
                is_same, file.seen = False, 0
        if not is_same:
            self._unsure.discard(file.id)
        return is_same

    def _identify(self, found: Found, ranges: list[New], *, listed: bool) -> None:
        """Look at a file whose key is unknown. If no glob matches it, only a known file is of interest."""
        if found.key in self._by_key or self._is_young(found) or self._is_held(found):
            return  # by now it is known through another link
        with self._tolerating(found), self._disk.open(found.path) as opened:
            if opened.found.key != found.key:
                raise Moved(found.path)  # another file has got this name since, perhaps one that this scan has seen
            content = self._content(opened, ())
            file = None if self._is_unfinished(opened, content) else self._origin(found.path, found.size, content)
            if file is None and self._is_unfinished(opened, content):
                self._hold(opened.found, None, look_again=True)
            elif file is not None and file.seen == self._scan:
                self._hold(opened.found, file)
            elif file is not None or listed:
                self._take(file, opened, content, ranges)

    def _neighbours(self, missing: list[File], listed: set[str]) -> list[Found]:
        """Files beside missing ones that no glob matches and that may be those, renamed or compressed."""
        found = []
        folders = defaultdict(list)
        for file in missing:
            is_open = file.position < file.size or self._now - file.changed < FOLLOWED
            if is_open and any(f"{file.path}/".startswith(f"{each.path.rstrip('/')}/") for each in self.directories):
                folders[file.path.rpartition("/")[0]].append(file)
        for folder, files in folders.items():
            keys, names = {file.key for file in files}, {_identity.bare(file.path) for file in files}
            for name, key in self._disk.names(folder):
                path = f"{folder}/{name}"
                here = self._by_path.get(path)
                if path in listed or (here is not None and here.seen == self._scan):
                    continue
                if (key and key in keys) or names & _identity.origins(path):
                    found.append(Found(path, key, 0, 0))
        return found

    def _give_up(self, file: File) -> None:
        """Note that a file is gone. If it comes back, it is known by what it holds; its key may be given again."""
        file.gone = self._now // 10**6
        self._drop_place(file)
        if not file.packed and file.position < file.size:
            rest = file.size - file.position
            self._warn(file.path, f"is gone: its last {rest} bytes were not read and are left out")

    # --- what is in a file

    @contextmanager
    def _tolerating(self, found: Found) -> Iterator[None]:
        """Leave out what cannot be read, with a warning: the next scan tries it again."""
        try:
            yield
        except (FileNotFoundError, Moved):  # renamed, removed or truncated meanwhile
            pass
        except OSError as error:
            self._warn(found.path, f"cannot be read and is left out: {error.strerror or error}")

    def _content(self, opened: Opened, offsets: Iterable[int]) -> Content:
        """What is in a file, ready to tell the marks of these offsets and those of files that begin alike."""
        kind = _lines.packing(opened.read(0, 16))
        if kind is None:
            return Plain(opened)
        head = b""
        with contextlib.suppress(EOFError, ValueError):
            for block in _lines.unpack(kind, opened.stream()):
                head += block
                if len(head) >= HEAD[-1]:
                    break
        alike = self._candidates(opened.found.path, Packed(kind, [head], self._other_heads))
        marks = {at for file in alike for at in file.marks}
        return Packed(kind, _lines.unpack(kind, opened.stream()), {*offsets, *marks, *self._other_heads})

    def _candidates(self, path: str, content: Content) -> list[File]:
        """The known files with names and beginnings like this."""
        heads = content.marks((*HEAD, *self._other_heads)).items()
        keys = itertools.product(_identity.names_of_relatives(path), heads)
        found = {file.id: file for key in keys for file in itertools.islice(self._alike.get(key, {}).values(), ALIKE)}
        folder = path.rpartition("/")[0]
        beside = (self._by_path.get(f"{folder}/{name}") for name in _identity.origins(path))
        return list((found | {file.id: file for file in beside if file is not None}).values())

    def _continues(self, file: File, content: Content) -> bool:
        """Whether the content of a file is what was read of it, and perhaps more."""
        if content.size >= file.position:
            return _identity.holds(content, file)
        if isinstance(content, Packed) or not _identity.holds(content, file):
            return False
        end = max(at for at in file.marks if at <= content.size)  # where a scan found the end of a line
        self._warn(file.path, f"was cut from {file.position} to {content.size} bytes: it is read on from byte {end}")
        key = file.key
        self._remove(file)
        file.move(end, {})
        file.key = key
        self.add(file)
        return True

    def _is_copy(self, content: Content, file: File) -> bool:
        """Whether the content is the beginning of a file that is where it was."""
        if file.packed:
            return content.size >= file.position and _identity.holds(content, file)
        with self.open(file) as original:
            size = min(content.size, original.size())
            marks = [at for at in (*HEAD, size) if at <= size]
            return content.size == size and content.marks(marks) == Plain(original).marks(marks)

    def _origin(self, path: str, size: int, content: Content) -> File | None:
        """The known file that this is; if it is only a copy, the one that was seen in this scan.

        Moved if the next scan has to tell which of the two it is.
        """
        here = self._by_path.get(path)
        if here is not None and not here.marks and size >= here.size:  # known by path and size since format 1
            if isinstance(content, Packed):
                here.position = content.size  # it was read whole
            return here
        moved, copied = [], []
        for file in self._candidates(path, content):
            is_derived = _identity.is_derived(path, file.path)
            is_seen, is_sure = file.seen == self._scan, file.id not in self._unsure
            if is_seen and is_derived and self._is_copy(content, file):
                copied.append(file)
            is_packed = isinstance(content, Packed)
            if not (is_seen and is_sure) and _identity.is_related(path, file.path, packed=is_packed):
                # under the same name, a shorter file is another one
                is_short = content.size < file.position and not is_derived
                if not is_short and _identity.holds(content, file):
                    if not is_sure:
                        raise Moved(file.path)
                    moved.append(file)
        return max(moved or copied, key=lambda file: file.position, default=None)

    def _take(self, file: File | None, opened: Opened, content: Content, ranges: list[New]) -> None:
        """Note where a file is, and add the ranges that are new. Everything is read before anything is noted."""
        found, start = opened.found, file.position if file else 0
        whole = not self._is_active(found)
        if isinstance(content, Packed):
            end = content.end(whole=whole)
            cuts = [Cut(start, *end)] if end.at > start else []
            if content.error:
                self._warn(found.path, f"{content.error}: what can be read, {end.at} bytes, is taken")
        else:
            assert isinstance(content, Plain)
            content.marks([min(found.size, HEAD[0])])
            searched = file.searched if file else 0
            cuts = list(_identity.cuts(opened, start, found.size, most=self._disk.most, searched=searched, whole=whole))
        if file is None and not cuts:
            self._hold(found, None, look_again=not whole)
            return
        position = cuts[-1].end if cuts else start
        marks = content.marks([at for at in {*MARKED, position} if at <= position])
        marks |= {cut.end: cut.mark for cut in cuts[-1:]}
        if isinstance(content, Plain) and not content.is_unchanged():
            raise Moved(found.path)
        if file is None:
            file = File(self.next_id, found.path, found.key, found.size, found.changed)
        self._remove(file)
        file.path, file.key, file.size, file.changed = found.path, found.key, found.size, found.changed
        file.packed, file.gone, file.seen = isinstance(content, Packed), 0, self._scan
        for cut in cuts:
            is_short = cut.end - cut.start <= self._disk.most
            plain = file.ended and cut.ends and not file.packed and cut.start != 1 and is_short
            ranges.append(New(file, cut, plain, not file.ended))
            file.ended = cut.ends
        file.move(position, marks)
        file.waits = position < content.size and not whole
        file.searched = file.size if file.waits and not file.packed else 0
        self.add(file)

    def _is_unfinished(self, opened: Opened, content: Content) -> bool:
        return isinstance(content, Packed) and content.error is not None and self._is_active(opened.found)

    def _is_active(self, found: Found) -> bool:
        return found.changed > self._now - self._inactive_after

    def _is_young(self, found: Found) -> bool:
        return found.changed > self._now - self._min_age

    # --- what is known

    def _index_head(self, file: File) -> None:
        for name in _identity.names(file.path) if file.marks else ():
            alike = self._alike[name, file.head()]
            if file.id not in alike:
                alike[file.id] = file
                if file.head()[0] not in HEAD:
                    self._other_heads[file.head()[0]] += 1

    def _drop_head(self, file: File) -> None:
        for name in _identity.names(file.path) if file.marks else ():
            alike = self._alike[name, file.head()]
            if alike.pop(file.id, None):
                self._other_heads -= Counter([file.head()[0]])  # drops what is zero
            if not alike:
                del self._alike[name, file.head()]

    def _drop_place(self, file: File) -> None:
        """Forget where a file is, but keep its last path, which says what it may be called now."""
        if file.key is not None and self._by_key.get(file.key) is file:
            del self._by_key[file.key]
        if self._by_path.get(file.path) is file:
            del self._by_path[file.path]
        file.key = None

    def _remove(self, file: File) -> None:
        """Take a file out of the indexes."""
        self._drop_head(file)
        self._drop_place(file)

    def _hold(self, found: Found, copied: File | None, *, look_again: bool = False) -> None:
        """Do not read a file until it changes, or the one that it is a copy of is missing."""
        until = found.changed + self._inactive_after if look_again else None
        self._held[found.key or found.path] = _Held(found.path, found.size, found.changed, copied, until)

    def _is_held(self, found: Found) -> bool:
        held = self._held.get(found.key or found.path)
        if held is None or (held.size, held.changed) != (found.size, found.changed):
            return False
        if held.copied is not None and held.copied.seen != self._scan:
            return False
        return held.until is None or self._now < held.until

    def _warn(self, path: str, what: str) -> None:
        """Log a warning once."""
        if self._warned.get(path) != what:
            self._warned[path] = what
            log.warning("%r %s", path, what)
