"""The home of a job: one directory that outlives its processes.

id             made once; part of every ledger key, so a new home never meets an old ledger
checkpoint/    Spark's, only for jobs with receivers or plain DStreams; fingerprint.json and downtime.json beside it
progress/      the offset log
sources/       what sources must remember: listings of files, the first start of a generator
received/      landed batches of receivers
enrichment/    versions of the frames that streams are joined with
rejected/      what parsers gave back, for each output of that kind
state/         saved state
lease/         who may write
ticks/         always empty: the stream on it ticks without data
RUNNING        delete it, and the job drains and stops
STOPPED        the last run ended in order; RUNNING missing without it means: stay stopped
"""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from dataclasses import dataclass

from ..bridge import hadoop
from ..errors import UsageError
from . import storage
from .offset_log import Entry, rebuild

_DRAINED = "drained\n"


@dataclass(frozen=True)
class Home:
    """A home that is there and may be written."""

    root: str
    id: str

    @classmethod
    def open(cls, path: str) -> Home:
        """Find or found the home; UsageError if it cannot be written, or if other users can write to it.

        Loading a checkpoint executes code, so a home is trusted like code.
        """
        root = storage.qualify(path)
        try:
            storage.make_directory(root)
            _refuse_if_others_can_write(root)
            if storage.exists(f"{root}/checkpoint"):
                _refuse_if_others_can_write(f"{root}/checkpoint")
            for part in ("progress", "sources", "received", "state", "lease", "ticks"):
                storage.make_directory(f"{root}/{part}")
            if not storage.exists(f"{root}/id"):
                cls(root, "").mark_stopped()  # before the id: nobody can have asked a new home to stop
                with contextlib.suppress(FileExistsError):
                    storage.write_new(f"{root}/id", uuid.uuid4().hex)
            return cls(root, storage.read(f"{root}/id"))
        except OSError as error:
            raise UsageError(
                f"cannot write the home {path!r} ({error.strerror or error}): name a directory that this user can write"
            ) from None

    @classmethod
    def rebuilt(cls, path: str, id: str, entries: dict[int, Entry]) -> tuple[Home, Entry]:
        """A home with the id of one that was lost, its log made anew; the entry below which nothing can be replayed."""
        root = storage.qualify(path)
        if storage.exists(f"{root}/id"):
            raise UsageError(f"{path!r} is a home already: name a new directory")
        floor = rebuild(f"{root}/progress", entries)
        home = cls(root, id)
        home.mark_stopped()
        storage.write_new(f"{root}/id", id)  # last: before it there is no home
        return home, floor

    def __truediv__(self, name: str) -> str:
        return f"{self.root}/{name}"

    def must_stay_stopped(self) -> bool:
        """Whether a stop was asked for that no run has carried out: RUNNING gone, and the last run was cut off."""
        return self.asked_to_stop() and not storage.exists(self / "STOPPED")

    def mark_running(self) -> None:
        """The job runs from here on, until RUNNING is deleted; where the last run was cut off, it may be already."""
        if storage.exists(self / "STOPPED"):
            storage.write(self / "RUNNING", "delete this file to stop the job in order\n")
            storage.delete(self / "STOPPED")

    def mark_stopped(self, *, drained: bool = False) -> None:
        """The job ended in order: the next start goes on, whatever the marker says."""
        storage.write(self / "STOPPED", _DRAINED if drained else "")

    def has_drained(self) -> bool:
        """Whether the last run ended in order and left nothing of what it had received."""
        return storage.exists(self / "STOPPED") and storage.read(self / "STOPPED") == _DRAINED

    def asked_to_stop(self) -> bool:
        """Whether somebody deleted RUNNING."""
        return not storage.exists(self / "RUNNING")


def _refuse_if_others_can_write(directory: str) -> None:
    here = storage.local(directory)
    if here is None:
        open_, mine = hadoop.others_may_write(directory), True
    else:
        found = here.stat()
        open_, mine = bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)), found.st_uid in (0, os.geteuid())
    if open_ or not mine:
        whose = "other users can write to" if open_ else "another user owns"
        raise UsageError(f"{whose} {directory}, and so can run code in the job: chown it to yourself, chmod go-w it")
