"""Files that arrive in a directory of any Hadoop file system, read as lines.

A offset is the number of files read and a digest of their names and sizes, "3:1f0c2a9b7d3e4f50": it says which files
they were, also to a home that was lost and has to list the directory anew.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable
from hashlib import sha256

from pyspark.sql import DataFrame
from pyspark.streaming import StreamingContext

from ..bridge import hadoop
from ..checks import check_directory
from ..contracts import Offset, Source
from ..durations import Duration, milliseconds
from ..engine.graph import graph_of
from ..errors import InputLost
from ..frames import FrameStream
from ..recovery import storage

log = logging.getLogger(__name__)

Listed = tuple[str, int]
"""A file's path and size."""

PARTS, FULL = 64, 10_000
"""Parts behind the last full one are merged when there are more than so many; a full one holds at least so many."""


def files(
    ssc: StreamingContext, path: str, glob: str = "*", *, min_age: Duration | None = None, name: str = "files"
) -> FrameStream:
    """Lines of the files in a directory, each file once. Column: value: string.

    A file is taken when a listing shows it for the first time, whatever its date, so files moved in late are not
    missed. Move files in when they are whole; where writers cannot, `min_age` leaves a file alone until it has not
    changed for that long. Names that start with `.` or `_` or end with `.tmp` or `._COPYING_` are passed over.

    Guarantee: replayable, exactly once. What was listed is written down under the home before it is used, with each
    file's size; one that has since vanished or changed is an error that names it. Raises UsageError for a path that
    is no directory. `max_per_batch` counts files.
    """
    check_directory(path)
    graph = graph_of(ssc)
    listing = _Listing(
        lambda: graph.home / f"sources/{name}",
        f"{path.rstrip('/')}/{glob}",
        min_age,
        taken=lambda: graph.log.last.end_offsets.get(name),
    )

    def read(start: Offset, end: Offset) -> DataFrame:
        chosen = listing.files(start, end)
        for file, size in chosen:
            _check_unchanged(file, size)
        # names are taken literally: a bracket in one is no pattern
        return graph.session.read.option("__globPaths__", "false").text([file for file, _ in chosen])

    source = Source(lambda now: listing.latest_offset(), read, "value string", listing.limit, initial_batch_size=32)
    return FrameStream.from_source(ssc, name, source)


class _Listing:
    """All files ever seen, in the order they were seen, in parts: `sources/<name>/<offset of the first file>`.

    Small parts are merged into `<offset>-<offset behind the last file>`. No part is ever overwritten: of those that
    begin at one offset the longest counts, whoever wrote it, and what it covers is removed after. `taken` is the
    offset up to which files were given to batches.
    """

    def __init__(
        self, directory: Callable[[], str], pattern: str, min_age: Duration | None, taken: Callable[[], Offset]
    ):
        self._directory, self._pattern, self._taken = directory, pattern, taken
        self._min_age = milliseconds(min_age) if min_age is not None else None
        self._files: list[Listed] | None = None
        self._digests: list[str] = []
        self._seen: set[str] = set()
        self._small: list[int] = []
        """Positions of the parts behind the last full one."""

    def files(self, start: Offset, end: Offset) -> list[Listed]:
        """The files between two end_offsets."""
        return self._checked(end)[_count(start) : _count(end)]

    def limit(self, start: Offset, end: Offset, most: int) -> Offset:
        """The offset at most so many files beyond start."""
        return self._position(min(_count(end), _count(start) + most))

    def latest_offset(self) -> Offset:
        """List the directory, write down what is new, give the offset behind all files seen so far."""
        known = self._checked(self._taken())
        oldest = None if self._min_age is None else round(time.time() * 1000) - self._min_age
        new = [f for f in hadoop.list_files(self._pattern, oldest) if f[0] not in self._seen]
        if new:
            self._write(new)
            if len(self._small) > PARTS:
                self._merge()
        return self._position(len(known))

    def _position(self, count: int) -> Offset:
        return f"{count}:{self._digests[count - 1]}" if count else None

    def _checked(self, offset: Offset) -> list[Listed]:
        """All files known, of which the first are those that the offset counts."""
        known, count = self._known(), _count(offset)
        if len(known) < count or self._position(count) != offset:
            raise InputLost(
                f"the {count} files that were read are not those listed in {self._directory()}, nor can that list be "
                f"made again: {self._pattern} gives others, or gives them with other sizes or in another order of "
                "time; restore the list from a copy, or start with a new home"
            )
        return known

    def _known(self) -> list[Listed]:
        if self._files is None:
            self._files = []
            parts = _parts(self._directory())
            longest = {start: path for start, _, path in sorted(parts)}
            while (part := longest.get(len(self._files))) is not None:
                self._append([(file, size) for file, size in json.loads(storage.read(part))])
            if not self._files and self._taken() is not None:
                self._make_again(self._taken())
        return self._files

    def _make_again(self, taken: Offset) -> None:
        """List the files anew that a lost list had, if the directory still gives them as it did."""
        found = hadoop.list_files(self._pattern, None)[: _count(taken)]
        if _digests(found)[-1:] == [taken.partition(":")[2]]:
            self._write(found)
            log.warning("the list of the %d files that were read was lost; made again from the directory", len(found))

    def _write(self, files: list[Listed]) -> None:
        """Make these the next part."""
        assert self._files is not None
        storage.write_new(f"{self._directory()}/{len(self._files):012d}", json.dumps(files))
        self._append(files)

    def _append(self, files: list[Listed]) -> None:
        """The next part holds these."""
        assert self._files is not None
        self._small = [] if len(files) >= FULL else [*self._small, len(self._files)]
        self._files += files
        self._digests += _digests(files, self._digests[-1] if self._digests else "")
        self._seen.update(file for file, _ in files)

    def _merge(self) -> None:
        """Make one part of all that came since the last full one."""
        first, directory, known = self._small[0], self._directory(), self._known()
        parts = _parts(directory)
        storage.write_new(f"{directory}/{first:012d}-{len(known):012d}", json.dumps(known[first:]))
        for start, _, path in parts:
            if first <= start < len(known):
                storage.delete(path)
        self._small = [] if len(known) - first >= FULL else [first]


def _count(offset: Offset) -> int:
    return 0 if offset is None else int(offset.partition(":")[0])


def _digests(files: list[Listed], before: str = "") -> list[str]:
    """For each file a digest of all up to it."""
    found = []
    for file in files:
        before = sha256(f"{before}{json.dumps(file)}".encode()).hexdigest()[:16]
        found.append(before)
    return found


def _parts(directory: str) -> list[tuple[int, int, str]]:
    """Where each part begins, where it ends if its name tells (else 0), and its path."""
    found = (re.fullmatch(r"(\d+)(?:-(\d+))?", name) for name in storage.names(directory))
    return [(int(m[1]), int(m[2] or 0), f"{directory}/{m[0]}") for m in found if m]


def _check_unchanged(file: str, size: int) -> None:
    found = hadoop.file_size(file)
    if found != size:
        now = "is gone" if found is None else f"has {found} bytes now"
        raise InputLost(
            f"the input file {file} was planned with {size} bytes and {now}: put it back as it was, so that the batch "
            "it belongs to can be read"
        )
