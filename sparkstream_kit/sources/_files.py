"""Read the lines of log files, on any Hadoop file system, while servers write and rotate them.

A scan (`_tracker`) finds new ranges of lines and notes them in the journal (`_journal`). Before a batch is recorded,
its ranges on this machine's disks are copied into the home as clean lines (`_lines`): a file there can be truncated or
replaced at any moment, and Spark would read fewer lines of it without a word. On other file systems Spark reads plain
ranges where they are.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import IO

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

from ..bridge import hadoop
from ..bridge import ranges as exact
from ..checks import check_directory
from ..contracts import Offset, Size, Source
from ..durations import Duration, milliseconds
from ..engine.chains import Steps
from ..engine.graph import graph_of
from ..errors import InputLost, UsageError
from ..frames import FrameStream
from ..recovery import storage
from . import _globs, _lines
from ._disks import Disk, Opened, disk_of
from ._identity import WIDTH, File, mark
from ._journal import Journal, Range, count
from ._tracker import Directory, Moved, Tracker

log = logging.getLogger(__name__)

FIRST_BATCH = 32 << 20
"""Bytes that a batch takes of a backlog until it is known how long they take."""

_TRIES = 3
"""Scans until a file that is renamed again and again is given up as gone."""


def files(
    ssc: StreamingContext,
    path: str | Sequence[str],
    glob: str | Sequence[str] = "*",
    *,
    inactive_after: Duration = "1min",
    min_age: Duration | None = None,
    encoding: str = "utf-8",
    name: str = "files",
) -> FrameStream:
    """Read the lines of the files in a directory, each line once, while servers write, rotate and compress them.

    >>> import pathlib, tempfile
    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> folder = tempfile.TemporaryDirectory()
    >>> _ = pathlib.Path(folder.name, "access.log").write_text("a line\\nthe next one, half writ")
    >>> def build(ticks):
    ...     return ss.sources.files(ticks.context(), folder.name, "access*", name="logs")
    >>> run_batches(build, [[]])
    [[Row(value='a line')]]

    Columns: value: string, a line without its end, which is LF, CR or CRLF.

    `glob` is relative to each `path` and may reach into directories: `*.log`, `{nginx,apache2}/access*`,
    `**/*.log`. Names that start with `.` or `_`, or end like those of unfinished files (`.tmp`, `.part`, `~`), only
    match a glob that does so, too. Compressed files (gzip, bzip2, xz, zstd) are known by their first bytes.

    A file is known by what it holds, not by its name: a renamed, copied or compressed one goes on where it was, one
    that was truncated or replaced is new. docs/files.md has the promise for each way of rotating.

    A last line without its end waits until the file has not changed for `inactive_after`, and so does the end of a
    compressed file that is cut off. `min_age` is for writers that change what they have written: a file is not looked
    at until it has not changed for that long. `encoding` is any that Python knows and that contains ASCII; other bytes
    become U+FFFD. Of a line longer than 1 MiB the rest is dropped, with a warning.

    `max_per_batch` counts bytes; a batch takes at least one range: up to 1 MiB of a plain file (16 MiB on HDFS), or a
    compressed file.

    Guarantee: replayable, exactly once. Ranges of bytes are recorded under the home before a batch uses them, and on
    local disks copied there: a file may be removed once it was read (`sparkstream status`).

    Raises UsageError for a path that is not a directory, a wrong glob or an unknown encoding. Raises InputLost, naming
    the file, if bytes that a recorded batch needs are gone.

    Cost: grows with the files below the directories, which are listed in every batch, and with the new bytes, which are
    copied once on local disks.

    URI: files:PATH?glob=...&inactive_after=...&min_age=...&encoding=...
    """
    paths = [path] if isinstance(path, str) else list(path)
    globs = [glob] if isinstance(glob, str) else list(glob)
    disks = [disk_of(check_directory(each)) for each in paths]
    if len({id(disk) for disk, _ in disks}) != 1:
        raise UsageError(f"got {paths}, expected one or more directories on one file system: use a source for each")
    parsed = list(itertools.chain.from_iterable(map(_globs.parse, globs)))
    tracker = Tracker(
        disks[0][0],
        [Directory(directory, parsed) for _, directory in disks],
        inactive_after=milliseconds(inactive_after),
        min_age=milliseconds(min_age) if min_age is not None else 0,
    )
    graph = graph_of(ssc)
    lines = _Lines(
        disks[0][0],
        tracker,
        encoding=_lines.check_encoding(encoding),
        directory=lambda: graph.home / f"sources/{name}",
        taken=lambda: graph.log.last.end_offsets.get(name),
        may_give_up=lambda path: path in graph.give_up_files,
        is_observer=lambda: graph.is_observer,
    )
    source = Source(
        lines.latest_offset,
        functools.partial(lines.read, graph.session),
        "value string",
        lines.limit,
        size=lines.size,
        prepare=lines.prepare,
        commit=lines.commit,
        initial_batch_size=FIRST_BATCH,
    )
    return FrameStream.from_source(ssc, name, source)


class _Lines:
    """The lines of the files that a tracker follows.

    `taken` returns the offset up to which batches have been recorded, `may_give_up` whether bytes of a file may be
    missing. An observer of a job that another process runs writes nothing into its home.
    """

    def __init__(
        self,
        disk: Disk,
        tracker: Tracker,
        *,
        encoding: str,
        directory: Callable[[], str],
        taken: Callable[[], Offset],
        may_give_up: Callable[[str], bool],
        is_observer: Callable[[], bool],
    ):
        self._disk, self._tracker, self._encoding = disk, tracker, encoding
        self._cleaned = Steps(functools.partial(_cleaned, encoding=encoding))
        self._directory, self._taken, self._may_give_up = directory, taken, may_give_up
        self._is_observer = is_observer
        self._opened: Journal | None = None
        self._found: tuple[Offset, Offset] | None = None  # the range of offsets of the last `prepare`

    # --- what a source is

    def latest_offset(self, now: int | None) -> Offset:
        """Scan the directories and note new ranges; returns the offset after all ranges."""
        journal = self._scan()
        waiting = sorted(self._tracker.waiting()) if now is None else []
        if waiting:
            log.warning(
                "%d files end within a line, which is left to a later start (inactive_after): %s",
                len(waiting),
                ", ".join(map(repr, waiting[:3])),
            )
        return journal.offset(len(journal))

    def limit(self, start: Offset, end: Offset, most: int) -> Offset:
        """The offset after at most this number of bytes, and at least one range."""
        sizes = (r.end - r.start for r in self._between(start, end))
        fitting = sum(1 for total in itertools.accumulate(sizes) if total <= most)
        return self._journal().offset(count(start) + max(1, fitting))

    def size(self, start: Offset, end: Offset) -> Size:
        """The bytes between two offsets, uncompressed, and the lines if they were copied into the home."""
        ranges = self._between(start, end)
        copy = None if self._disk.in_place else storage.local(self._landed(count(start), ranges))
        lines = _lines.count(copy) if copy is not None and ranges and copy.exists() else None
        return Size(lines, sum(r.end - r.start for r in ranges))

    def prepare(self, start: Offset, end: Offset) -> Offset:
        """Copy what Spark cannot read where it is into the home; returns the offset up to which that was possible.

        What is gone is left out, with a warning. What cannot be read now waits for the next batch.
        """
        for n, ranges in self._pieces(start, end):
            if not self._is_in_place(ranges[0]):
                try:
                    self._land(n, ranges, lost=self._leave_out)
                except _NotNow as wait:
                    end = self._journal().offset(n + wait.landed)
                    if self._disk.in_place or not wait.landed:
                        break
                    self._land(n, ranges[: wait.landed], lost=self._leave_out)
        self._found = (start, end)
        return end

    def read(self, session: SparkSession, start: Offset, end: Offset) -> DataFrame:
        """The lines of an offset range, in their order."""
        was_found, self._found = self._found == (start, end), None
        pieces = self._pieces(start, end)
        if not self._disk.in_place:
            ((n, ranges),) = pieces
            landed = self._find_landed(n, ranges)
            return exact.lines(session, [(landed, 0, hadoop.file_status(landed).size)])
        places = []
        for n, ranges in pieces:
            path = self._path(ranges[0], look=not was_found) if self._is_in_place(ranges[0]) else None
            if path is not None:
                places.append((path, ranges[0].start, ranges[0].end))
            else:
                landed = self._find_landed(n, ranges)
                places.append((landed, 0, hadoop.file_status(landed).size))
        return self._cleaned(exact.lines(session, [place for place in places if place[2]]))

    def commit(self, end: Offset) -> None:
        """Remove what was landed up to the offset."""
        self._tracker.forget()
        self._journal().merge(end, self._tracker.files)
        for name in storage.names(f"{self._directory()}/landed"):
            last = name.partition("-")[2]
            if name.startswith(".") or (last.isdigit() and int(last) <= count(end)):
                storage.delete(f"{self._directory()}/landed/{name}")

    # --- the journal

    def _journal(self) -> Journal:
        if self._opened is None:
            self._refuse_own_files()
            journal = Journal(self._directory())
            for file in sorted(journal.load(), key=lambda file: file.id):
                self._tracker.add(file)
            if not len(journal) and self._taken() is not None:
                self._recreate(journal)
            if not journal.holds(self._taken()):
                raise InputLost(
                    f"the {count(self._taken())} ranges of files that batches have read do not match the list in "
                    f"{self._directory()}, and the directory cannot replace it: files are missing, have "
                    "changed or have another order of times. Restore the list from a backup, or start with a new home"
                )
            self._opened = journal
        return self._opened

    def _refuse_own_files(self) -> None:
        """UsageError if the source would read its own copies."""
        here = storage.local(self._directory()) if not self._disk.in_place else None
        copy = str(here / "landed" / self._landed(0, []).rpartition("/")[2]) if here else self._landed(0, [])
        for directory, globs in self._tracker.directories:
            if copy.startswith(f"{directory.rstrip('/')}/") and _globs.matches(
                globs, copy[len(directory) :].strip("/")
            ):
                raise UsageError(
                    f"the home is below {directory!r}, and the glob reads what the job writes there: move the home, "
                    "or narrow the glob"
                )

    def _scan(self) -> Journal:
        journal = self._journal()
        new = self._tracker.scan()
        if new and not self._is_observer():
            ranges = [Range(new.file.id, new.file.path, *new.cut[:3], new.plain, new.continues) for new in new]
            journal.write(ranges, {id(each.file): each.file for each in new}.values())
        return journal

    def _recreate(self, journal: Journal) -> None:
        """Recreate a list that was lost, if the directory still has the files that were read, and nothing before."""
        new = self._tracker.scan()
        trial = [Range(new.file.id, new.file.path, *new.cut[:3], new.plain, new.continues) for new in new]
        if not self._is_observer() and journal.would_hold(trial, self._taken()):
            journal.write(trial, self._tracker.files.values())
            log.warning("the list of the files read so far was lost; recreated it from the directory")

    def _between(self, start: Offset, end: Offset) -> list[Range]:
        return self._journal().between(start, end)

    def _pieces(self, start: Offset, end: Offset) -> list[tuple[int, list[Range]]]:
        """What is copied or read together, with the number of the first range: on local disks everything."""
        n, ranges = count(start), self._between(start, end)
        return [(n + i, [r]) for i, r in enumerate(ranges)] if self._disk.in_place else [(n, ranges)]

    # --- where the bytes of a range are

    def _is_in_place(self, range_: Range) -> bool:
        """Whether Spark can read a range where it is, unless the file has been compressed since."""
        return self._disk.in_place and range_.plain

    def _path(self, range_: Range, *, look: bool) -> str | None:
        """A path under which Spark finds a range, whatever the file is called by now; None if it is compressed or gone.

        A range that the last scan found is taken to be there, unless told to look.
        """
        for _ in range(_TRIES):
            file = self._tracker.files.get(range_.file)
            if file is not None and file.key is not None and not file.gone:
                if file.packed:
                    return None
                if not look:
                    return self._disk.lasting_path(file.path, file.key)
                with contextlib.suppress(Moved), self._tracker.open(file) as opened:
                    if opened.found.size >= range_.end:
                        return self._disk.lasting_path(file.path, file.key)
            self._scan()
        return None

    def _find_landed(self, n: int, ranges: list[Range]) -> str:
        """The copy of ranges in the home. If it is lost, it is made again; InputLost if the files are gone, too."""
        landed = self._landed(n, ranges)
        if not storage.exists(landed):
            if self._is_observer():
                raise UsageError(
                    f"{landed} is not there: the job has gone on and needs that input no more; look at a later batch"
                )
            self._land(n, ranges, lost=self._give_up)
        return landed

    def _landed(self, n: int, ranges: list[Range]) -> str:
        return f"{self._directory()}/landed/{n:012d}-{n + len(ranges):012d}"

    def _give_up(self, range_: Range) -> None:
        """Note that a range is given up; InputLost if nobody has said so."""
        if self._journal().is_given_up(range_):
            return
        if not self._may_give_up(range_.path):
            raise InputLost(
                f"bytes {range_.start} to {range_.end} of the input file {range_.path!r} are gone or have changed: "
                f"restore it, or give them up by --give-up {range_.path}"
            )
        self._journal().give_up(range_)
        log.warning("%r: its bytes %d to %d are gone, and given up", range_.path, range_.start, range_.end)

    def _leave_out(self, range_: Range) -> None:
        """Note that a range which is not part of a batch yet is gone, unless its directory cannot be listed."""
        file = self._tracker.files.get(range_.file)
        if file is not None and self._tracker.is_out_of_sight(file):
            raise _Unreadable("its directory cannot be listed")
        log.warning(
            "%r is gone: its bytes %d to %d were not read and are left out", range_.path, range_.start, range_.end
        )

    # --- landing

    def _land(self, n: int, ranges: list[Range], lost: Callable[[Range], None]) -> None:
        """Copy ranges into the home as clean lines; calls `lost` for those that are gone."""
        gone = set()
        with storage.writing(self._landed(n, ranges)) as target:
            for landed, range_ in enumerate(ranges):
                try:
                    if range_.file in gone or not self._copy(range_, target):
                        gone.add(range_.file)
                        lost(range_._replace(start=self._copy_beginning(range_, target)))
                except _Unreadable as error:
                    log.warning("%r cannot be read: %s", range_.path, error)
                    if not self._may_give_up(range_.path):
                        raise _NotNow(landed) from error
                    self._give_up(range_)

    def _copy(self, range_: Range, target: IO[bytes]) -> bool:
        """Append the lines of a range; False if its file is gone."""
        before = target.tell()
        for _ in range(_TRIES):
            try:
                for block in self._clean(range_):
                    target.write(block)
                return True
            except (Moved, EOFError, ValueError):
                target.seek(before)
                target.truncate()
            self._scan()  # it may be found under another name
        return False

    def _copy_beginning(self, range_: Range, target: IO[bytes]) -> int:
        """Append the lines of a range that are left of it; returns the offset where they end.

        What is left of a truncated file is a copy that was made before the last lines came.
        """
        file = self._tracker.files.get(range_.file)
        with contextlib.suppress(Moved, EOFError, ValueError):
            size = self._tracker.length(file) if file is not None else 0
            if range_.start < size < range_.end:
                shorter = range_._replace(end=size, mark="")
                for block in self._clean(shorter):
                    target.write(block)
                return size
        return range_.start

    def _clean(self, range_: Range) -> Iterator[bytes]:
        """The lines of a range; Moved, EOFError or ValueError if its bytes are not where they were."""
        file = self._tracker.files.get(range_.file)
        if file is None:
            raise Moved(range_.path)
        try:
            with self._tracker.open(file) as opened:
                yield from self._clean_opened(range_, file, opened)
        except OSError as error:
            raise _Unreadable(error.strerror or str(error)) from error

    def _clean_opened(self, range_: Range, file: File, opened: Opened) -> Iterator[bytes]:
        if file.packed:
            begin, blocks = 0, _lines.unpack(_lines.packing(opened.read(0, 16)) or "", opened.stream())
            if range_.mark:  # format 1 read compressed files whole
                blocks = _lines.part(blocks, 0, range_.end)
        else:
            begin = max(0, range_.start - WIDTH)
            blocks = _lines.blocks_of(opened.stream(begin), range_.end - begin)
        seen = _lines.Tail(blocks, WIDTH)
        inside = _lines.part(seen, range_.start - begin, range_.end - range_.start) if range_.start > begin else seen
        if range_.continues:
            inside = _lines.without_line_end(inside)
        cut = functools.partial(_warn_cut, range_)
        encoding = None if self._disk.in_place else self._encoding  # what is read in place is decoded by Spark
        yield from _lines.clean(inside, encoding, first=not range_.start, cut=cut)
        if range_.mark and mark(seen.bytes) != range_.mark:
            raise Moved(range_.path)


class _Unreadable(Exception):
    """A file is there, and the system refuses to read it."""


class _NotNow(Exception):
    """A range cannot be read now; as many before it can."""

    def __init__(self, landed: int):
        self.landed = landed


def _cleaned(lines: DataFrame, encoding: str) -> DataFrame:
    """Lines that Spark has read, as `_lines.clean` would have made them."""
    line = F.col("value")
    plain = F.make_valid_utf8(line) if encoding == "utf-8" else F.decode(line.cast("binary"), encoding)
    return lines.select(F.ltrim(plain, F.lit("\0")).alias("value"))


def _warn_cut(range_: Range, dropped: int) -> None:
    log.warning(
        "%r has a line of more than %d bytes, between %d and %d: its last %d bytes are dropped",
        range_.path,
        _lines.MAX_LINE,
        range_.start,
        range_.end,
        dropped,
    )
