"""Where log files are: this machine's disks, read by Python, and all other file systems, read through Hadoop.

Both have the same functions: `walk` finds the files that globs match, `names` lists a directory, `open` opens a file.
On local disks every name is fine, Hadoop cannot hold some of them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple, Protocol

from ..bridge import hadoop
from . import _globs

Key = str
"""What identifies a file on its disk, whatever its name: device and inode, or HDFS's file id."""


class Found(NamedTuple):
    """A file that a walk found."""

    path: str
    key: Key | None  # None: to be asked for when the file is opened
    size: int  # bytes
    changed: int  # ns since 1970


class Opened(Protocol):
    """A file that is open: its name may go, or stand for another one, and it stays the same."""

    found: Found

    def size(self) -> int:
        """Its size now."""

    def read(self, at: int, length: int) -> bytes:
        """Up to this many bytes from an offset."""

    def stream(self, at: int = 0) -> IO[bytes]:
        """The bytes from an offset on."""


class Disk(Protocol):
    """A file system."""

    in_place: bool
    """Whether Spark can read ranges where they are: what a path stands for does not change while it is read."""
    most: int
    """Bytes of a range, if its lines are not longer."""

    def walk(
        self, directory: str, globs: Sequence[_globs.Glob], unlisted: list[tuple[str, OSError]] | None = None
    ) -> Iterator[Found]:
        """The files that globs match; OSError if the directory cannot be listed.

        What cannot be listed below it is added to `unlisted`, with the reason.
        """

    def key(self, path: str) -> Key | None:
        """The key of a file; None if it is missing."""

    def names(self, directory: str) -> list[tuple[str, Key | None]]:
        """All names in a directory; none if it is missing."""

    def lasting_path(self, path: str, key: Key) -> str:
        """A path under which Hadoop finds the file even after it was renamed, if there is one."""

    def open(self, path: str) -> contextlib.AbstractContextManager[Opened]:
        """Open a file; OSError if it is missing or cannot be read."""


def disk_of(path: str) -> tuple[Disk, str]:
    """The disk that a path is on, and the path as the functions of that disk expect it."""
    full = hadoop.qualified(path)
    if full.startswith("file:"):
        return LOCAL, "/" + full.removeprefix("file:").lstrip("/")
    return REMOTE, full


# --- this machine's disks


class _LocalFile:
    def __init__(self, file: IO[bytes], path: str):
        self._file = file
        status = os.fstat(file.fileno())
        self.found = Found(path, _local_key(status), status.st_size, status.st_mtime_ns)

    def size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def read(self, at: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, at)

    def stream(self, at: int = 0) -> IO[bytes]:
        self._file.seek(at)
        return self._file


class _Local:
    in_place = False
    most = 1 << 20

    def walk(
        self,
        directory: str,
        globs: Sequence[_globs.Glob],
        unlisted: list[tuple[str, OSError]] | None = None,
        above: tuple[Key, ...] = (),
    ) -> Iterator[Found]:
        globs = _globs.reached(globs)
        wanted, deep = _globs.files_in(globs), any(len(glob) > 1 for glob in globs)
        folders = []
        with os.scandir(directory) as entries:
            for entry in entries:
                if wanted is not None and wanted.match(entry.name):
                    with contextlib.suppress(OSError):  # it has just gone, or is a link to nothing
                        status = entry.stat()
                        if stat.S_ISREG(status.st_mode):
                            yield Found(entry.path, _local_key(status), status.st_size, status.st_mtime_ns)
                            continue
                if deep and (deeper := _globs.below(globs, entry.name)) and entry.is_dir():
                    folders.append((entry.path, deeper))
        if folders:
            above = (*above, _local_key(os.stat(directory)))
        for path, deeper in sorted(folders):
            try:
                if _local_key(os.stat(path)) not in above:  # a link back up
                    yield from self.walk(path, deeper, unlisted, above)
            except FileNotFoundError:  # removed meanwhile
                pass
            except OSError as error:
                if unlisted is not None:
                    unlisted.append((path, error))

    def key(self, path: str) -> Key | None:
        with contextlib.suppress(OSError):
            return _local_key(os.stat(path))
        return None

    def names(self, directory: str) -> list[tuple[str, Key | None]]:
        try:
            device = os.stat(directory).st_dev
            with os.scandir(directory) as entries:
                return [(entry.name, f"{device}:{entry.inode()}") for entry in entries]
        except OSError:
            return []

    def lasting_path(self, path: str, key: Key) -> str:
        return f"file:{path}"

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[Opened]:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe under this name must not block
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileNotFoundError(errno.ENOENT, "is not a regular file", path)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            yield _LocalFile(file, path)


def _local_key(status: os.stat_result) -> Key:
    return f"{status.st_dev}:{status.st_ino}"


# --- all others


class _RemoteFile:
    def __init__(self, found: Found, folder: str):
        self.found, self._folder = found, folder

    def size(self) -> int:
        return self.found.size  # what was written cannot be changed

    def read(self, at: int, length: int) -> bytes:
        return hadoop.read_bytes(self.found.path, at, length)

    def stream(self, at: int = 0) -> IO[bytes]:
        copy = os.path.join(self._folder, "copy")
        if not os.path.exists(copy):
            hadoop.copy_to_local(self.found.path, copy)
        file = open(copy, "rb")  # noqa: SIM115 - closed with its folder
        file.seek(at)
        return file


class _Remote:
    in_place = True
    most = 16 << 20  # each range of a file costs calls to the JVM

    def walk(
        self, directory: str, globs: Sequence[_globs.Glob], unlisted: list[tuple[str, OSError]] | None = None
    ) -> Iterator[Found]:
        globs = _globs.reached(globs)
        wanted = _globs.files_in(globs)
        for status in sorted(hadoop.list_directory(directory)):
            path = f"{directory.rstrip('/')}/{status.name}"
            if not status.is_directory and wanted is not None and wanted.match(status.name):
                yield Found(path, None, status.size, status.changed * 1_000_000)
            elif status.is_directory and (deeper := _globs.below(globs, status.name)):
                try:
                    yield from self.walk(path, deeper, unlisted)
                except FileNotFoundError:
                    pass
                except OSError as error:
                    if unlisted is not None:
                        unlisted.append((path, error))

    def key(self, path: str) -> Key | None:
        with contextlib.suppress(FileNotFoundError):
            return hadoop.file_status(path).id or path
        return None

    def names(self, directory: str) -> list[tuple[str, Key | None]]:
        with contextlib.suppress(FileNotFoundError):
            return [(status.name, None) for status in hadoop.list_directory(directory)]
        return []

    def lasting_path(self, path: str, key: Key) -> str:
        if key == path:
            return path
        host = path.partition("://")[2].partition("/")[0]
        return f"hdfs://{host}/.reserved/.inodes/{key}"  # where HDFS has each file under its id

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[Opened]:
        status = hadoop.file_status(path)
        found = Found(path, status.id or path, status.size, status.changed * 1_000_000)
        with tempfile.TemporaryDirectory(prefix="sparkstream-") as folder:
            yield _RemoteFile(found, folder)


LOCAL: Disk = _Local()
REMOTE: Disk = _Remote()
