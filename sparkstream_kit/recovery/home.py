"""The home of a job: one directory that outlives its processes.

format          version of this layout; a newer one is refused
id              created once; part of every ledger key, so a new home never matches an old ledger
checkpoint/     Spark's, only for jobs with receivers or plain DStreams; see also fingerprint.json and downtime.json
offsets/        the offset log
sources/        what sources record: ranges of files and copies of them, the first start of a generator
received/       landed batches of receivers
outputs         the outputs that the last start had, as JSON, and whether they replace a batch that runs again
enrichment/     versions of the tables that streams are joined with
skipped/        input of batches that an operator set aside
rejected/       lines that parsers rejected, by output
state/          snapshots of states
lease/          which driver runs the job
page/           the token of the live page, if it has one
backfill/       which batches a backfill runs again, how far it is, the outputs that have had some, and its lease
failure         what fails, or why the job ended, as JSON; only read to tell people
ticks/          always empty: the stream on it ticks without data
RUNNING         delete it to stop the job gracefully
STOPPED         the last run stopped gracefully; if both are missing, a stop is pending
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import uuid
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from ..bridge import hadoop
from ..errors import HomeDamaged, NewerFormat, UsageError
from . import storage
from .offset_log import Entry, rebuild

FORMAT = 2
"""Version of the layout, raised by a release whose homes an older one would misread (VERSIONING.md)."""

_DRAINED = "drained\n"
_REBUILDING = "REBUILDING"
_RESTORE = "restore the home from a backup, rebuild it from the ledger of a SQL output, or start with a new home"


class Failure(NamedTuple):
    """What a step fails with, or, without a step, what the job ended with. Times are in ms since 1970."""

    error: str
    time: int
    epoch: int
    """Of the lease that the driver had."""
    step: str = ""
    n: int | None = None
    """Its batch; None while one is planned."""
    tries: int = 0


BACKFILL_LEASE = "backfill/lease"

BEFORE = "-before"
"""End of the name of what a backfill is about to replace."""


class Backfill(NamedTuple):
    """The batches that run again beside the job, as an operator asked."""

    id: str
    after: int
    """The newest batch before them."""
    until: int
    """The last of them."""
    done: int
    """The newest of them that is done; `after` if none is."""
    kept_from: int
    """The newest batch that they do not need: states start after it."""
    outputs: tuple[str, ...] = ()
    """The outputs that write them once more, as they cannot replace what they have."""
    into: tuple[str, ...] = ()
    """All outputs that get them, once it has begun."""


@dataclass(frozen=True)
class Home:
    """A home that exists and can be written."""

    root: str
    id: str

    @classmethod
    def open(cls, path: str) -> Home:
        """Open the home, creating it if missing; UsageError if it cannot be written, or if others can write or move it.

        Loading a checkpoint executes code, so a home is trusted like code.
        """
        root = _qualified(path)
        try:
            storage.make_directory(root)
            _refuse_if_others_can_write(root)
            _refuse_if_others_can_move(root)
            if storage.exists(f"{root}/checkpoint"):
                _refuse_if_others_can_write(f"{root}/checkpoint")
            if not storage.exists(f"{root}/id"):
                if storage.names(f"{root}/offsets"):
                    raise HomeDamaged(f"{root} has an offset log, but no file `id`: {_RESTORE}")
                for part in ("offsets", "sources", "received", "state", "lease", "ticks"):
                    storage.make_directory(f"{root}/{part}")
                cls(root, "")._begin(uuid.uuid4().hex)
            return cls.existing(root)
        except OSError as error:
            raise UsageError(
                f"cannot write the home {path!r} ({error.strerror or error}): name a directory that this user can write"
            ) from None

    @classmethod
    def existing(cls, root: str) -> Home:
        """The home at a qualified path; HomeDamaged if parts are lost, NewerFormat if a newer version wrote it."""
        found = _read(root, "format", "[0-9]+")
        if int(found) > FORMAT:
            raise NewerFormat(
                f"{root} has the format {found}, and this version of sparkstream_kit reads up to {FORMAT}: use the "
                "version that wrote it, or a newer one"
            )
        if "offsets" not in storage.names(root):
            raise HomeDamaged(f"{root} has lost its offset log, the directory `offsets`: {_RESTORE}")
        return cls(root, _read(root, "id", ".+"))

    @classmethod
    def rebuilt(cls, path: str, id: str, entries: dict[int, Entry]) -> tuple[Home, Entry]:
        """A new home with the id and log of a lost one, and the newest entry that cannot be replayed.

        UsageError if there is anything in the directory, except what a rebuild left that was killed.
        """
        root = _qualified(path)
        if storage.exists(f"{root}/id"):
            raise UsageError(f"{path!r} is already a home: name a new directory")
        found = storage.names(root)
        if found and _REBUILDING not in found:
            raise UsageError(f"{path!r} is not empty: name a new directory")
        home = cls(root, id)
        storage.write(home / _REBUILDING, "")
        compacted = rebuild(f"{root}/offsets", entries)
        home._begin(id)
        storage.delete(home / _REBUILDING)
        return home, compacted

    def _begin(self, id: str) -> None:
        self.mark_stopped()  # before the id: a new home has no pending stop
        with contextlib.suppress(FileExistsError):
            storage.write_new(self / "format", f"{FORMAT}\n")
        with contextlib.suppress(FileExistsError):
            storage.write_new(self / "id", id)  # last: without an id there is no home

    def upgrade(self) -> None:
        """Mark a home of an earlier format as one of this format, which the job is going to write."""
        if _read(self.root, "format", "[0-9]+") != str(FORMAT):
            storage.write(self / "format", f"{FORMAT}\n")

    def __truediv__(self, name: str) -> str:
        return f"{self.root}/{name}"

    def outputs(self) -> dict[str, bool]:
        """The outputs that the last start had, and whether each replaces a batch that runs again.

        There are none in a home from before they were kept, and none replaces one in a home from before that was.
        """
        try:
            kept = json.loads(storage.read(self / "outputs"))
        except FileNotFoundError:
            return {}
        return {str(name): isinstance(kept, dict) and kept[name] is True for name in kept}

    def note_outputs(self, outputs: dict[str, bool]) -> None:
        """Keep the outputs of this start."""
        if outputs != self.outputs():
            storage.write(self / "outputs", json.dumps(outputs, sort_keys=True))

    def backfill(self) -> Backfill | None:
        """The backfill that is asked for and not done; until then the job keeps what its batches need."""
        path = self / "backfill/request"
        try:
            known = {name: value for name, value in json.loads(storage.read(path)).items() if name in Backfill._fields}
            after, until, done, kept_from = (int(known[name]) for name in ("after", "until", "done", "kept_from"))
            outputs, into = (tuple(map(str, known.get(name, ()))) for name in ("outputs", "into"))
            return Backfill(str(known["id"]), after, until, done, kept_from, outputs, into)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise HomeDamaged(
                f"{path} is damaged ({error}): give that backfill up by sparkstream backfill {quote(self.root)} "
                "--cancel"
            ) from None

    def backfilled(self) -> list[str]:
        """The outputs that have had batches of a backfill."""
        try:
            return list(map(str, json.loads(storage.read(self / "backfill/outputs"))))
        except FileNotFoundError:
            return []
        except (ValueError, TypeError) as error:
            raise HomeDamaged(
                f"{self / 'backfill/outputs'} is damaged ({error}): delete it; outputs that only a backfill has "
                "written then count as new"
            ) from None

    def note_backfill(self, backfill: Backfill) -> None:
        """Keep what a backfill is to do, or how far it is."""
        had = self.backfilled()
        if not set(had).issuperset(backfill.into):
            storage.write(self / "backfill/outputs", json.dumps(sorted({*had, *backfill.into})))
        storage.write(self / "backfill/request", json.dumps(backfill._asdict()))

    def forget_backfill(self) -> None:
        """The backfill is done, or given up: rejected lines that it was replacing return."""
        made = self / "backfill/made"
        for output in storage.names(made):
            for name in storage.names(f"{made}/{output}"):
                target = self / f"rejected/{output}/{name.partition('-')[0]}"
                if name.endswith(BEFORE) and not storage.exists(target):
                    storage.publish(f"{made}/{output}/{name}", target)
        for name in ("made", "request"):
            storage.delete(self / f"backfill/{name}")

    def note_failure(self, failure: Failure) -> None:
        """Keep what fails, for `sparkstream status`."""
        storage.write(self / "failure", json.dumps(failure._asdict()))

    def failure(self) -> Failure | None:
        """What failed last, in whichever run; None if the job has gone on since."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            found = Failure(**json.loads(storage.read(self / "failure")))
            wanted = (str, int, int, str, int | None, int)
            if all(isinstance(value, kind) for value, kind in zip(found, wanted, strict=True)):
                return found
        return None

    def forget_failure(self) -> None:
        """The job goes on."""
        storage.delete(self / "failure")

    def stop_pending(self) -> bool:
        """Whether a stop was requested and not carried out: RUNNING is gone, and the last run ended in a crash."""
        return self.stop_requested() and not storage.exists(self / "STOPPED")

    def mark_starting(self) -> None:
        """Create RUNNING, unless the job was cut off: a stop can be requested from now on."""
        if storage.exists(self / "STOPPED"):
            storage.write(self / "RUNNING", "Delete this file to stop the job gracefully.\n")

    def mark_running(self) -> None:
        """Record that the job runs. If RUNNING was deleted since `mark_starting`, it is to stop again at once."""
        storage.delete(self / "STOPPED")

    def mark_stopped(self, *, drained: bool = False) -> None:
        """Record that the job stopped gracefully: the next start continues, whether or not RUNNING is there."""
        storage.write(self / "STOPPED", _DRAINED if drained else "")

    def was_drained(self) -> bool:
        """Whether the last run stopped gracefully and processed everything it had received."""
        return storage.exists(self / "STOPPED") and storage.read(self / "STOPPED") == _DRAINED

    def stop_requested(self) -> bool:
        """Whether somebody deleted RUNNING."""
        return not storage.exists(self / "RUNNING")


def _qualified(path: str) -> str:
    root = storage.qualify(path)
    if hadoop.has_colon(root):  # FileInputDStream, which ticks, would fail to list it at every batch
        raise UsageError(f"the path of the home {root} has a colon, which Spark cannot list: use one without")
    return root


def _read(root: str, name: str, expected: str) -> str:
    """The line in a small file of the home; HomeDamaged if it is lost or is not what it must be."""
    try:
        text = storage.read(f"{root}/{name}").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        text = ""
    if not re.fullmatch(expected, text, re.ASCII):
        old = "; if a version before 0.1.0 wrote it, start with a new home" if name == "format" else ""
        raise HomeDamaged(f"{root} has no valid file `{name}`: {_RESTORE}{old}")
    return text


def _refuse_if_others_can_move(root: str) -> None:
    """UsageError if other users may rename a directory above the home, and so put one of theirs in its place.

    As sshd's StrictModes, links on the way included. Anybody may write into a directory with the sticky bit, such as
    /tmp, but rename only what is theirs.
    """
    here = storage.local(root)
    if here is None:
        found = dict.fromkeys(hadoop.movable_parents(root), "anybody")
    else:
        found = {str(path): _who_else_can_rename_in(path) for path in [here, *here.parents, *here.resolve().parents]}
    for path, who in found.items():
        if who:
            raise UsageError(
                f"{who} can rename what is in {path}, and so put another home in the place of {root}, which can run "
                f"code in the job: chown {path} to yourself or root and chmod o-w it, or name another home"
            )


def _who_else_can_rename_in(path: Path) -> str:
    status = path.lstat()
    if status.st_uid not in (0, os.geteuid()):
        return "another user, who owns it,"
    is_open = stat.S_ISDIR(status.st_mode) and status.st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH
    return "anybody" if is_open else ""


def _refuse_if_others_can_write(directory: str) -> None:
    here = storage.local(directory)
    if here is None:
        open_, mine = hadoop.others_may_write(directory), True
    else:
        found = here.stat()
        open_, mine = bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)), found.st_uid in (0, os.geteuid())
    if open_ or not mine:
        whose = "other users can write to" if open_ else "another user owns"
        raise UsageError(f"{whose} {directory}, and so can run code in the job: chown it to yourself and chmod go-w it")
