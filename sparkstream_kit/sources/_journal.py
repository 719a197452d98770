"""The ranges that a source of files has ever found, in their order, and what is known of the files: on disk.

    sources/<name>/<n>          the ranges from number n on that one scan found, and the files they are of
    sources/<name>/<n>.base     everything before n that is still needed, and all files: what it covers is deleted
    sources/<name>/given-up     ranges whose bytes are gone, and that somebody gave up

An offset is the number of ranges up to it, and a digest of them: "3:1f0c2a9b7d3e4f50". No part is ever overwritten. The
base with the highest number counts, so a driver that was paused while it wrote one cannot undo a later one.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from ..contracts import Offset
from ..errors import Fenced, HomeDamaged, InputLost
from ..recovery import storage
from ._identity import File

PARTS = 64
"""More parts than this are merged into a base."""


class Range(NamedTuple):
    """Some bytes of a file, uncompressed, which end where a line ends."""

    file: int
    path: str  # where the file was
    start: int
    end: int
    mark: str  # of the end; empty for what formats before 2 recorded
    plain: bool = False
    """Whether these are whole lines of a plain file, as they are."""
    continues: bool = False
    """Whether it begins with the rest of a line that was read before its end came."""


class Journal:
    """The ranges of one source. Those before `first` are done with, and only counted."""

    def __init__(self, directory: str):
        self._directory = directory
        self.first = 0
        self.ranges: list[Range] = []
        self._digests = [""]
        """For each offset from `first` on, a digest of all ranges up to there."""
        self._parts = 0
        self._given_up: list[Range] = []

    def load(self) -> list[File]:
        """Read what is on disk; returns the files."""
        names = storage.names(self._directory)
        files: dict[int, File] = {}
        base = max((name for name in names if name.endswith(".base")), default=None)
        if base is not None:
            stored = self._read(base)
            self.first, self._digests = stored["first"], [stored["digest"]]
            self._append(Range(*item) for item in stored["ranges"])
            files = {file.id: file for file in map(File.from_json, stored["files"])}
        parts = _parts(names)
        while (name := parts.get(len(self))) is not None:
            stored = self._read(name)
            if isinstance(stored, list):  # format 1: path and size of whole files
                stored = _format_1(stored, max(files, default=-1) + 1)
            self._append(Range(*item) for item in stored["ranges"])
            files.update((file.id, file) for file in map(File.from_json, stored["files"]))
            self._parts += 1
        if "given-up" in names:
            self._given_up = [Range(*item) for item in self._read("given-up")]
        return list(files.values())

    def __len__(self) -> int:
        return self.first + len(self.ranges)

    def offset(self, count: int) -> Offset:
        """The offset after this number of ranges."""
        return f"{count}:{self._digests[count - self.first]}" if count else None

    def holds(self, offset: Offset) -> bool:
        """Whether the ranges up to the offset are those that it counts."""
        n = count(offset)
        return self.first <= n <= len(self) and str(self.offset(n)) == str(offset)

    def would_hold(self, ranges: list[Range], offset: Offset) -> bool:
        """Whether an empty journal would hold the offset if these were its ranges."""
        digest = functools.reduce(_digest, ranges[: count(offset)], "")
        return f"{min(count(offset), len(ranges))}:{digest}" == str(offset)

    def between(self, start: Offset, end: Offset) -> list[Range]:
        """The ranges of an offset range."""
        if count(start) < self.first:
            raise InputLost(
                f"the ranges of files before number {self.first} are done with, and {start} is needed: the list in "
                f"{self._directory} is newer than the offset log. Restore both from one backup, or start a new home"
            )
        return self.ranges[count(start) - self.first : count(end) - self.first]

    def write(self, ranges: list[Range], files: Iterable[File]) -> None:
        """Store the ranges of a scan and their files."""
        stored = {"ranges": ranges, "files": [file.to_json() for file in files]}
        try:
            storage.write_new(f"{self._directory}/{len(self):012d}", json.dumps(stored))
        except FileExistsError:
            raise Fenced(f"another driver has written to {self._directory}: this one must stop") from None
        self._append(ranges)
        self._parts += 1

    def is_given_up(self, range_: Range) -> bool:
        """Whether a range was given up."""
        return range_ in self._given_up

    def give_up(self, range_: Range) -> None:
        """Note that a range is given up."""
        self._given_up.append(range_)
        storage.write(f"{self._directory}/given-up", json.dumps(self._given_up))

    def merge(self, done: Offset, files: Mapping[int, File]) -> None:
        """Forget the ranges up to an offset; once there are many parts, merge them into a base."""
        if self._parts <= PARTS:
            return
        first = max(self.first, count(done))
        stored = {
            "first": first,
            "digest": self._digests[first - self.first],
            "ranges": self.ranges[first - self.first :],
            "files": [file.to_json() for file in files.values()],
        }
        directory, n = self._directory, len(self)
        storage.write(f"{directory}/{n:012d}.base", json.dumps(stored))
        for name in storage.names(directory):
            if name != f"{n:012d}.base" and name[:12].isdigit() and int(name[:12]) < n:
                storage.delete(f"{directory}/{name}")
        del self.ranges[: first - self.first], self._digests[: first - self.first]
        self.first, self._parts = first, 0

    def _read(self, name: str) -> Any:
        path = f"{self._directory}/{name}"
        try:
            return json.loads(storage.read(path))
        except (FileNotFoundError, ValueError) as error:
            raise HomeDamaged(
                f"{path}, a list of the input that was read, is damaged ({error}): restore the home from a backup, or "
                "start with a new home"
            ) from None

    def _append(self, ranges: Iterable[Range]) -> None:
        for range_ in ranges:
            self._digests.append(_digest(self._digests[-1], range_))
            self.ranges.append(range_)


def count(offset: Offset) -> int:
    """The number of ranges up to an offset."""
    return 0 if offset is None else int(offset.partition(":")[0])


def _digest(before: str, range_: Range) -> str:
    """A digest of this range and all before it."""
    facts = [range_.path, range_.start, range_.end] if range_.mark else [range_.path, range_.end]
    return sha256(f"{before}{json.dumps(facts)}".encode()).hexdigest()[:16]


def _parts(names: list[str]) -> dict[int, str]:
    """The part that begins with each number; of several, as format 1 merged them, the longest."""
    longest: dict[int, str] = {}
    for name in sorted(names):  # "000000000000-000000000070" after "000000000000"
        first, _, _ = name.partition("-")
        if first.isdigit():
            longest[int(first)] = name
    return longest


def _format_1(stored: list[list[Any]], first: int) -> dict[str, Any]:
    """A part of format 1 in today's form: its files are known by their paths alone, and were read whole."""
    ranges = [Range(first + n, path, 0, size, "") for n, (path, size) in enumerate(stored)]
    files = [
        File(first + n, re.sub("^file:/+", "/", path), None, size, 0, size).to_json()
        for n, (path, size) in enumerate(stored)
    ]
    return {"ranges": ranges, "files": files}
