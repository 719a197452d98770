"""Files that arrive in a directory of any Hadoop file system, read as lines."""

from __future__ import annotations

import json
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
    """All files ever seen, in the order they were seen, kept as `sources/<name>/<position of the first>`."""

    def __init__(self, directory: Callable[[], str], pattern: str, min_age: Duration | None):
        self._directory, self._pattern = directory, pattern
        self._min_age = milliseconds(min_age) if min_age is not None else None
        self._files: list[Listed] | None = None
        self._seen: set[str] = set()

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
            known.extend(new)
            self._seen.update(file for file, _ in new)
        return len(known) or None

    def _known(self) -> list[Listed]:
        if self._files is None:
            directory = self._directory()
            self._files = []
            for part in storage.names(directory):
                if part.isdigit():
                    self._files += [(file, size) for file, size in json.loads(storage.read(f"{directory}/{part}"))]
            self._seen = {file for file, _ in self._files}
        return self._files


def _check_unchanged(file: str, size: int) -> None:
    found = bridge.file_size(file)
    if found != size:
        now = "is gone" if found is None else f"has {found} bytes now"
        raise UsageError(
            f"the input file {file} was planned with {size} bytes and {now}: put it back as it was, so that the batch "
            "it belongs to can be read"
        )
