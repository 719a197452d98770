"""Which input files may be removed, because nothing that is in them will be read again."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

from ..contracts import Offset
from ..recovery import storage
from . import _disks
from ._identity import File
from ._journal import Journal, count

UNCHANGED = 3600 * 10**9
"""For how long (ns) a file must not have changed: a server may still write to it."""


def removable(directory: str, taken: Offset, replayed_from: Offset) -> Iterator[str]:
    """The files that were read to their end, have not changed for an hour, and are not needed for a replay.

    `taken` is the offset up to which batches were recorded, `replayed_from` the one after which they may run again.
    Nothing for a source that does not read files.
    """
    if not isinstance(taken, str) or not _is_journal(directory):
        return
    journal = Journal(directory)
    files = journal.load()
    needed = {
        r.file
        for n, r in enumerate(journal.ranges, journal.first)
        if n >= count(taken) or (n >= count(replayed_from) and not _is_local(r.path))
    }
    for file in files:
        if file.id not in needed and file.key and not file.gone and _is_read(file):
            yield file.path


def _is_journal(directory: str) -> bool:
    """Whether this is the journal of a source of files, not something that another source keeps there."""
    with contextlib.suppress(NotADirectoryError):  # a note, as that of the generator
        return any(re.fullmatch(r"\d{12}(-\d{12}|\.base)?", name) for name in storage.names(directory))
    return False


def _is_read(file: File) -> bool:
    """Whether the file is as it was when it was read to its end."""
    disk = _disks.LOCAL if _is_local(file.path) else _disks.REMOTE
    with contextlib.suppress(OSError), disk.open(file.path) as opened:
        found = opened.found
        is_same = (found.key, found.size, found.changed) == (file.key, file.size, file.changed)
        is_whole = file.packed or file.position >= file.size
        return is_same and is_whole and found.changed < time.time_ns() - UNCHANGED
    return False


def _is_local(path: str) -> bool:
    return path.startswith("/")
