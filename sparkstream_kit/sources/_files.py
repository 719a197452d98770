"""Read the lines of files that arrive in a directory, on any Hadoop file system.

An offset is the number of files read and a digest of their names and sizes, "3:1f0c2a9b7d3e4f50". The digest identifies
the files even for a home that was lost and has to list the directory again.
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
"""More than this many parts after the last full one are merged; a full part lists at least this many files."""


def files(
    ssc: StreamingContext, path: str, glob: str = "*", *, min_age: Duration | None = None, name: str = "files"
) -> FrameStream:
    """Read the lines of the files that arrive in a directory, each file once.

    >>> import pathlib, tempfile
    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> folder = tempfile.TemporaryDirectory()
    >>> _ = pathlib.Path(folder.name, "web.log").write_text("a line")
    >>> def build(ticks):
    ...     return ss.sources.files(ticks.context(), folder.name, "*.log", name="logs")
    >>> run_batches(build, [[]])
    [[Row(value='a line')]]

    Columns: value: string. A file is read when a listing first shows it, whatever its date, so late ones are not
    missed. Move complete files into the directory. Where writers cannot do that, `min_age` waits until a file has not
    changed for that long. Names that start with `.` or `_` or end with `.tmp` or `._COPYING_` are ignored.
    `max_per_batch` counts files.

    Guarantee: replayable, exactly once. Names and sizes of new files are recorded under the home before a batch uses
    them.

    Raises UsageError for a path that is not a directory. Raises InputLost, naming the file, if a file that is still
    needed is gone or has another size.

    Cost: grows with the files in the directory, which is listed in every batch, and with the bytes of new ones.

    URI: files:PATH?glob=...&min_age=...
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
        # a bracket in a name is not a pattern
        return graph.session.read.option("__globPaths__", "false").text([file for file, _ in chosen])

    source = Source(lambda now: listing.latest_offset(), read, "value string", listing.limit, initial_batch_size=32)
    return FrameStream.from_source(ssc, name, source)


class _Listing:
    """All files ever seen, in that order, stored in parts: `sources/<name>/<index of the first file>`.

    Small parts are merged into `<index of the first file>-<index after the last>`. No part is ever overwritten: of
    those with the same first file the longest counts, whoever wrote it, and the parts it covers are deleted afterwards.
    `taken` returns the offset up to which batches have taken files.
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
        """Index of the first file of each part after the last full one."""

    def files(self, start: Offset, end: Offset) -> list[Listed]:
        """The files of an offset range."""
        return self._checked(end)[_count(start) : _count(end)]

    def limit(self, start: Offset, end: Offset, most: int) -> Offset:
        """The offset at most this many files after start."""
        return self._offset(min(_count(end), _count(start) + most))

    def latest_offset(self) -> Offset:
        """List the directory and record new files; returns the offset after all files seen so far."""
        known = self._checked(self._taken())
        oldest = None if self._min_age is None else round(time.time() * 1000) - self._min_age
        new = [f for f in hadoop.list_files(self._pattern, oldest) if f[0] not in self._seen]
        if new:
            self._write(new)
            if len(self._small) > PARTS:
                self._merge()
        return self._offset(len(known))

    def _offset(self, count: int) -> Offset:
        return f"{count}:{self._digests[count - 1]}" if count else None

    def _checked(self, offset: Offset) -> list[Listed]:
        """All known files; InputLost if the first of them are not those that the offset counts."""
        known, count = self._known(), _count(offset)
        if len(known) < count or self._offset(count) != offset:
            raise InputLost(
                f"the {count} files read so far do not match the list in {self._directory()}, and {self._pattern} "
                "cannot replace it: files are missing, changed in size or changed in order of modification time. "
                "Restore the list from a backup, or start with a new home"
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
                self._recreate(self._taken())
        return self._files

    def _recreate(self, taken: Offset) -> None:
        """Recreate a lost list, if the directory still lists the files that were taken first and unchanged."""
        found = hadoop.list_files(self._pattern, None)[: _count(taken)]
        if _digests(found)[-1:] == [taken.partition(":")[2]]:
            self._write(found)
            log.warning("the list of the %d files read so far was lost; recreated it from the directory", len(found))

    def _write(self, files: list[Listed]) -> None:
        """Store these as the next part."""
        assert self._files is not None
        storage.write_new(f"{self._directory()}/{len(self._files):012d}", json.dumps(files))
        self._append(files)

    def _append(self, files: list[Listed]) -> None:
        """Remember these as the next part."""
        assert self._files is not None
        self._small = [] if len(files) >= FULL else [*self._small, len(self._files)]
        self._files += files
        self._digests += _digests(files, self._digests[-1] if self._digests else "")
        self._seen.update(file for file, _ in files)

    def _merge(self) -> None:
        """Merge all parts after the last full one."""
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
    """For each file, a digest of all files up to and including it."""
    found = []
    for file in files:
        before = sha256(f"{before}{json.dumps(file)}".encode()).hexdigest()[:16]
        found.append(before)
    return found


def _parts(directory: str) -> list[tuple[int, int, str]]:
    """For each part: the index of its first file, the index after its last one (0 if not in its name), its path."""
    found = (re.fullmatch(r"(\d+)(?:-(\d+))?", name) for name in storage.names(directory))
    return [(int(m[1]), int(m[2] or 0), f"{directory}/{m[0]}") for m in found if m]


def _check_unchanged(file: str, size: int) -> None:
    found = hadoop.file_size(file)
    if found != size:
        now = "is gone" if found is None else f"has {found} bytes now"
        raise InputLost(
            f"input file {file} {now}, but an unfinished batch, a state or a window still needs its {size} bytes: "
            "restore it unchanged"
        )
