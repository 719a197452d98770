"""Atomic small files: all or nothing, and `write_new` never replaces one.

On local disks this is plain Python with fsync and hard links, on HDFS a rename that does not replace. Hadoop's own
rename on a local disk lets two writers win, so it is not used there; file systems with neither are refused.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..bridge import hadoop
from ..errors import UsageError


def qualify(path: str) -> str:
    """The path with its file system, as all functions here expect it: `file:/a` or `hdfs://host/a`."""
    full = hadoop.qualified(path)
    scheme = full.partition(":")[0]
    if scheme not in ("file", "hdfs"):
        raise UsageError(
            f"{path!r} is on a {scheme} file system, which cannot refuse to overwrite a file: put the home on "
            "HDFS or a local disk"
        )
    return full


def local(path: str) -> Path | None:
    """The path on this machine's disk; None if it is elsewhere."""
    return Path("/" + path[len("file:") :].lstrip("/")) if path.startswith("file:") else None


def exists(path: str) -> bool:
    """Whether the path exists."""
    here = local(path)
    return here.exists() if here else hadoop.path_exists(path)


def names(path: str) -> list[str]:
    """The sorted names in a directory; none if the directory is missing."""
    here = local(path)
    if here is None:
        return hadoop.names(path)
    try:
        return sorted(os.listdir(here))
    except FileNotFoundError:
        return []


def checkpoint_times(path: str) -> list[int]:
    """The times in ms of the checkpoints of Spark in a directory: checkpoint-<time>, or that with .bk."""
    found = (name.removesuffix(".bk").partition("-") for name in names(path))
    return [int(ms) for kind, _, ms in found if kind == "checkpoint" and ms.isdigit()]


def sizes(path: str) -> dict[str, int]:
    """The data files in a directory, with their sizes in bytes."""
    here = local(path)
    if here is None:
        return hadoop.sizes(path)
    return {file.name: file.stat().st_size for file in here.iterdir() if not file.name.startswith((".", "_"))}


def changed(path: str) -> int:
    """When a file was written, in ms since 1970 by the clock of its file system; FileNotFoundError if it is missing."""
    here = local(path)
    return here.stat().st_mtime_ns // 1_000_000 if here else hadoop.file_status(path).changed


def hidden(path: str) -> list[str]:
    """The names of unfinished files; if there is only one writer, those that killed writers left behind."""
    return [name for name in names(path) if name.startswith(".")]


def attempt(path: str, epoch: int) -> str:
    """A new hidden name beside the path, for what is moved there once it is complete, under the epoch of a lease."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/.{name}-{uuid.uuid4().hex}.{epoch}"


def abandoned(path: str, epoch: int) -> list[str]:
    """The names of unfinished files in a directory that drivers of earlier epochs left.

    Those of this driver and of later ones may still be written: a driver that has lost its lease without knowing it
    removes nothing of its successor.
    """
    return [name for name in hidden(path) if _epoch(name) < epoch]


def _epoch(name: str) -> int:
    """The epoch in the name of an attempt; -1 without one."""
    number = name.rpartition(".")[2]
    return int(number) if number.isdigit() else -1


def make_directory(path: str) -> None:
    """Create a directory and its parents, accessible to this user only; no error if it exists."""
    here = local(path)
    if here is None:
        hadoop.make_directory(path)
    else:
        here.mkdir(mode=0o700, parents=True, exist_ok=True)


def delete(path: str) -> None:
    """Delete a file or a whole directory; no error if it is missing."""
    here = local(path)
    if here is None:
        hadoop.delete(path)
    elif here.is_dir():
        shutil.rmtree(here, ignore_errors=True)
    elif os.path.lexists(here):  # a read-only disk refuses to delete even what is missing
        here.unlink(missing_ok=True)


def read(path: str) -> str:
    """The text of a file; FileNotFoundError if it is missing."""
    here = local(path)
    return here.read_text("utf-8") if here else hadoop.read_file(path)


def write_new(path: str, text: str) -> None:
    """Create the file with its whole text, or raise FileExistsError: of several writers exactly one wins."""
    here = local(path)
    if here is None:
        hadoop.write_new_file(path, text)
        return
    temporary = _write_beside(here, text)
    try:
        os.link(temporary, here)
    finally:
        temporary.unlink()
    sync_directory(here.parent)


def write(path: str, text: str) -> None:
    """Create or replace the file; a reader sees either the old text or the new one, never part of it."""
    here = local(path)
    if here is None:
        hadoop.replace_file(path, text)
        return
    os.replace(_write_beside(here, text), here)
    sync_directory(here.parent)


@contextlib.contextmanager
def writing(path: str) -> Iterator[IO[bytes]]:
    """A file to write, which is at the path, whole and forced to disk, when the block ends without an error."""
    here = local(path)
    if here is not None:
        here.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder, _, name = path.rpartition("/")
    hidden_name = f".{name}.{uuid.uuid4().hex}"
    temporary = here.with_name(hidden_name) if here else Path(tempfile.mkdtemp(prefix="sparkstream-"), name)
    try:
        with open(temporary, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if here is None:
            hadoop.copy_from_local(str(temporary), f"{folder}/{hidden_name}")
            hadoop.replace(f"{folder}/{hidden_name}", path)
        else:
            os.replace(temporary, here)
            sync_directory(here.parent)
    finally:
        temporary.unlink(missing_ok=True)
        if here is None:
            temporary.parent.rmdir()


def publish(temporary: str, target: str) -> bool:
    """Rename a finished directory; if the target exists, remove the temporary directory and return False.

    A plain Hadoop rename would move the directory *into* the existing one.
    """
    here = local(temporary)
    if here is None:
        done = hadoop.rename_new(temporary, target)
    else:
        there = local(target)
        assert there is not None
        sync(here)
        try:
            os.rename(here, there)  # fails if there is a directory that is not empty
            sync_directory(there.parent)
            done = True
        except OSError:
            if not there.exists():
                raise
            done = False
    if not done:
        delete(temporary)
    return done


def sync(directory: Path) -> None:
    """fsync a directory and everything in it, so that it survives a power loss."""
    for folder, _, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(FileNotFoundError), open(Path(folder, name), "rb") as file:
                os.fsync(file.fileno())
        sync_directory(Path(folder))


def _write_beside(here: Path, text: str) -> Path:
    here.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = here.with_name(f".{here.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # do not fill a full disk further
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def sync_directory(directory: Path) -> None:
    """fsync a directory, so that new names survive a power loss."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
