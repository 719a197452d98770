"""Files that arrive in a directory of any Hadoop file system, read as lines."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

from pyspark.sql import DataFrame
from pyspark.streaming import StreamingContext

from .. import bridge
from ..checks import check_directory
from ..durations import Duration, milliseconds
from ..errors import UsageError
from ..frames import FrameStream
from ..graph import Source, graph_of
from ..recovery import storage
from ..recovery.offset_log import Position

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
    listing = _Listing(lambda: graph.home / f"sources/{name}", f"{path.rstrip('/')}/{glob}", min_age)

    def read(start: Position, end: Position) -> DataFrame:
        chosen = listing.files(start or 0, end)
        for file, size in chosen:
            _check_unchanged(file, size)
        # names are taken literally: a bracket in one is no pattern
        return graph.session.read.option("__globPaths__", "false").text([file for file, _ in chosen])

    def latest(now: int | None) -> Position:
        found, taken = listing.latest(now), graph.log.last.positions.get(name)
        if (taken or 0) > (found or 0):
            raise UsageError(
                f"the source {name!r} was read up to file {taken}, and its home only knows of {found or 0}: restore "
                f"{graph.home / 'sources'}/{name} from a copy, or start with a new home"
            )
        return found

    return FrameStream.from_source(ssc, name, Source(latest, read, "value string", trial=32))


class _Listing:
    """All files ever seen, in the order they were seen, in parts: `sources/<name>/<position of the first file>`.

    Small parts are merged into `<position>-<position behind the last file>`. No part is ever overwritten: of those that
    begin at one position the longest counts, whoever wrote it, and what it covers is removed after.
    """

    def __init__(self, directory: Callable[[], str], pattern: str, min_age: Duration | None):
        self._directory, self._pattern = directory, pattern
        self._min_age = milliseconds(min_age) if min_age is not None else None
        self._files: list[Listed] | None = None
        self._seen: set[str] = set()
        self._small: list[int] = []
        """Positions of the parts behind the last full one."""

    def files(self, start: int, end: int) -> list[Listed]:
        """The files with the positions start + 1 to end."""
        return self._known()[start:end]

    def latest(self, now: int | None) -> Position:
        """List the directory, write down what is new, give the number of files seen so far."""
        known = self._known()
        oldest = None if self._min_age is None else round(time.time() * 1000) - self._min_age
        new = [f for f in bridge.list_files(self._pattern, oldest) if f[0] not in self._seen]
        if new:
            storage.write_new(f"{self._directory()}/{len(known):012d}", json.dumps(new))
            self._append(new)
            if len(self._small) > PARTS:
                self._merge()
        return len(known) or None

    def _known(self) -> list[Listed]:
        if self._files is None:
            self._files = []
            parts = _parts(self._directory())
            longest = {start: path for start, _, path in sorted(parts)}
            while (part := longest.get(len(self._files))) is not None:
                self._append([(file, size) for file, size in json.loads(storage.read(part))])
        return self._files

    def _append(self, files: list[Listed]) -> None:
        """The next part holds these."""
        assert self._files is not None
        self._small = [] if len(files) >= FULL else [*self._small, len(self._files)]
        self._files += files
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


def _parts(directory: str) -> list[tuple[int, int, str]]:
    """Where each part begins, where it ends if its name tells (else 0), and its path."""
    found = (re.fullmatch(r"(\d+)(?:-(\d+))?", name) for name in storage.names(directory))
    return [(int(m[1]), int(m[2] or 0), f"{directory}/{m[0]}") for m in found if m]


def _check_unchanged(file: str, size: int) -> None:
    found = bridge.file_size(file)
    if found != size:
        now = "is gone" if found is None else f"has {found} bytes now"
        raise UsageError(
            f"the input file {file} was planned with {size} bytes and {now}: put it back as it was, so that the batch "
            "it belongs to can be read"
        )
