"""Hadoop file systems: what is at a path, atomic small files, listings.

Classes are in org.apache.hadoop.fs, of the Hadoop that Spark 4.2.1 brings (3.5.0).
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

from py4j.protocol import Py4JJavaError

from ..errors import UsageError
from .jvm import context, reason, view

PATTERN = re.compile(r"[\[\]{}*?\\]")
"""What makes a path a pattern (SparkHadoopUtil.isGlobPath)."""


def file_system(path: str) -> tuple[Any, Any]:
    """The Hadoop FileSystem of a path, and the Path (Path.getFileSystem).

    UsageError if the path is not text, but bytes, and if this Spark has no class for its file system.
    """
    if any("\ud800" <= character <= "\udfff" for character in path):  # os.fsdecode: bytes that are not UTF-8
        raise UsageError(f"the path {path!r} is not valid UTF-8, which Hadoop needs: rename it")
    jpath = view().org.apache.hadoop.fs.Path(path)
    try:
        return jpath.getFileSystem(context()._jsc.hadoopConfiguration()), jpath
    except Py4JJavaError as error:
        why = reason(error)
        if not re.search("No FileSystem for scheme|Class .* not found", why):
            raise
        # FileSystem.getFileSystemClass: UnsupportedFileSystemException, or ClassNotFoundException in a RuntimeException
        raise UsageError(
            f"this Spark cannot open {path!r} ({why}): add the jar of that file system, for example with --packages "
            f"org.apache.hadoop:hadoop-aws:{view().org.apache.hadoop.util.VersionInfo.getVersion()}"
        ) from error


def path_exists(path: str) -> bool:
    """Whether a file or directory exists, on any Hadoop file system (FileSystem.exists)."""
    fs, jpath = file_system(path)
    return bool(fs.exists(jpath))


def is_directory(path: str) -> bool:
    """Whether the path is a directory (FileSystem.getFileStatus)."""
    fs, jpath = file_system(path)
    return bool(fs.exists(jpath)) and bool(fs.getFileStatus(jpath).isDirectory())


def others_may_write(path: str) -> bool:
    """Whether its group or everybody can write to a directory (FsPermission.toShort)."""
    fs, jpath = file_system(path)
    return bool(int(fs.getFileStatus(jpath).getPermission().toShort()) & 0o022)


def movable_parents(path: str) -> list[str]:
    """The directories above a path in which everybody may rename what others own (FsPermission, its sticky bit)."""
    fs, jpath = file_system(path)
    found = []
    while (jpath := jpath.getParent()) is not None:
        if int(fs.getFileStatus(jpath).getPermission().toShort()) & 0o1002 == 0o0002:
            found.append(str(jpath.toString()))
    return found


def make_directory(path: str) -> None:
    """Create a directory and its parents; no error if it exists (FileSystem.mkdirs)."""
    fs, jpath = file_system(path)
    if not fs.mkdirs(jpath):
        raise OSError(f"cannot create the directory {path}")


def create_file(path: str) -> None:
    """Create an empty file; no error if it exists (FileSystem.create)."""
    fs, jpath = file_system(path)
    fs.create(jpath, True).close()


def delete(path: str) -> bool:
    """Delete a file or a whole directory; False if it was missing (FileSystem.delete)."""
    fs, jpath = file_system(path)
    return bool(fs.delete(jpath, True))


def rename(source: str, target: str) -> None:
    """Rename to a target that must not exist: FileSystem.rename would move a directory into an existing one."""
    fs, jsource = file_system(source)
    _, jtarget = file_system(target)
    if fs.exists(jtarget) or not fs.rename(jsource, jtarget):
        raise OSError(f"cannot rename {source} to {target}")


def qualified(path: str) -> str:
    """The path with scheme and host (FileSystem.makeQualified).

    Raises UsageError for a name on a local disk that the JVM's locale lacks (sun.jnu.encoding of java.lang.System).
    """
    fs, jpath = file_system(path)
    full = str(fs.makeQualified(jpath).toString())
    if full.startswith("file:") and not full.isascii():
        charset = str(view().java.lang.System.getProperty("sun.jnu.encoding"))
        try:
            full.encode(charset)
        except UnicodeEncodeError:
            raise UsageError(
                f"the JVM runs in a locale of {charset}, which cannot write {path!r}: start the job with "
                "LC_ALL=C.UTF-8, or use a name in ASCII"
            ) from None
        except LookupError:  # unknown to Python
            pass
    return full


def escaped(path: str) -> str:
    """The path as a pattern that matches nothing else, for Spark's readers and streams, which take patterns.

    DataSource.checkAndGlobPathIfNecessary. The option `__globPaths__` does not help: given several paths, Spark reads
    all of them once for each that holds a pattern character (SPARK-58518).

    >>> print(escaped("/logs/[prod]/a*b"), escaped("/logs/prod/ab"))
    /logs/\\[prod\\]/a\\*b /logs/prod/ab

    Raises UsageError for a path that also has a colon: a pattern cannot hold one (Globber, Path).
    """
    found = PATTERN.search(path)
    if found and has_colon(path):
        raise UsageError(
            f"{path!r} has a colon and a {found[0]}, which Spark cannot read: rename one of the directories"
        )
    return PATTERN.sub(r"\\\g<0>", path)


def has_colon(path: str) -> bool:
    """Whether a name in the path has a colon, which local disks have and HDFS refuses."""
    return ":" in re.sub(r"^[A-Za-z][\w+.-]*:(//[^/]*)?", "", path)


def names(path: str) -> list[str]:
    """The sorted names in a directory; none if it is missing."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(status.name for status in list_directory(path))
    return []


def sizes(path: str) -> dict[str, int]:
    """The files in a directory that Spark reads data from, with their sizes in bytes (FileSystem.listStatus).

    Cost: three py4j calls per file.
    """
    fs, jpath = file_system(path)
    found = ((str(status.getPath().getName()), int(status.getLen())) for status in fs.listStatus(jpath))
    return {name: size for name, size in found if not name.startswith((".", "_"))}


def read_file(path: str) -> str:
    """The text of a small file; FileNotFoundError if it is missing (FileSystem.open, commons-io's IOUtils)."""
    fs, jpath = file_system(path)
    if not fs.exists(jpath):
        raise FileNotFoundError(path)
    stream = fs.open(jpath)
    try:
        return bytes(view().org.apache.commons.io.IOUtils.toByteArray(stream)).decode()
    finally:
        stream.close()


def write_new_file(path: str, text: str) -> None:
    """Create a file with its text, or raise FileExistsError: `rename_new` decides who wins (FileContext.rename)."""
    temporary = _write_beside(path, text)
    if not rename_new(temporary, path):
        delete(temporary)
        raise FileExistsError(path)


def replace_file(path: str, text: str) -> None:
    """Create or replace a file atomically."""
    replace(_write_beside(path, text), path)


def replace(source: str, target: str) -> None:
    """Rename a file to a name that may be taken, atomically (FileContext.rename with OVERWRITE)."""
    _rename(source, target, "OVERWRITE")


def rename_new(source: str, target: str) -> bool:
    """Rename a file or directory; False if the name is taken.

    FileContext.rename with NONE: atomic on HDFS, but on file:// two racing writers can both win.
    """
    try:
        _rename(source, target, "NONE")
    except Py4JJavaError as error:
        if "FileAlreadyExistsException" in error.java_exception.getClass().getName():
            return False
        raise
    return True


def _write_beside(path: str, text: str) -> str:
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}.{uuid.uuid4().hex}"
    write_file(temporary, text.encode())
    return temporary


def write_file(path: str, data: bytes) -> None:
    """Create or replace a file and force it to disk (FileSystem.create, FSDataOutputStream.hsync)."""
    fs, jpath = file_system(path)
    stream = fs.create(jpath, True)
    stream.write(data)
    stream.hsync()
    stream.close()


def _rename(source: str, target: str, how: str) -> None:
    """Rename with an option of Options.Rename (FileContext.rename)."""
    hadoop = view().org.apache.hadoop.fs
    options = getattr(hadoop, "Options$Rename")
    gateway: Any = context()._gateway
    chosen = gateway.new_array(options, 1)
    chosen[0] = options.valueOf(how)
    files = hadoop.FileContext.getFileContext(hadoop.Path(source).toUri(), context()._jsc.hadoopConfiguration())
    files.rename(hadoop.Path(source), hadoop.Path(target), chosen)


@contextlib.contextmanager
def _file_errors() -> Iterator[None]:
    """Raise Java's FileNotFoundException and other IOExceptions as FileNotFoundError and OSError (Class.isInstance)."""
    try:
        yield
    except Py4JJavaError as error:
        java, of = error.java_exception, view().java.lang.Class.forName
        if of("java.io.FileNotFoundException").isInstance(java):
            raise FileNotFoundError(reason(error)) from None
        if of("java.io.IOException").isInstance(java):
            raise OSError(reason(error)) from None
        raise


class Status(NamedTuple):
    """An entry of a directory."""

    name: str
    is_directory: bool
    size: int  # bytes
    changed: int  # ms since 1970


_STATUS = re.compile(
    r"[\w$]+\{path=(.*?); isDirectory=(?:true|false(?:; length=([0-9]+))).*?; modification_time=([0-9]+);.*?\}",
    re.DOTALL,
)


@_file_errors()
def list_directory(path: str) -> list[Status]:
    """What is in a directory, on any Hadoop file system, in no order; FileNotFoundError if it is missing.

    FileSystem.listStatusIterator, RemoteIterators.toList and FileStatus.toString: three py4j calls, whatever is in
    there. A name that reads like several entries is found out by their number, and then each entry is asked for.
    """
    fs, jpath = file_system(path)
    if not fs.exists(jpath):
        raise FileNotFoundError(path)
    iterators = view().org.apache.hadoop.util.functional.RemoteIterators
    statuses = iterators.toList(fs.listStatusIterator(jpath))
    text = str(statuses.toString())
    prefix = str(fs.makeQualified(jpath).toString()).rstrip("/") + "/"
    found = [
        Status(path[len(prefix) :], size is None, int(size or 0), int(changed))
        for path, size, changed in _STATUS.findall(text)
    ]
    if len(found) == statuses.size() and all("/" not in status.name for status in found):
        return found
    return [
        Status(
            str(status.getPath().getName()),
            bool(status.isDirectory()),
            int(status.getLen()),
            int(status.getModificationTime()),
        )
        for status in (statuses.get(i) for i in range(statuses.size()))
    ]


class FileStatus(NamedTuple):
    """A file: its size in bytes, when it was changed (ms since 1970), and on HDFS its id, which a rename keeps."""

    size: int
    changed: int
    id: str | None


@_file_errors()
def file_status(path: str) -> FileStatus:
    """The status of a file; FileNotFoundError if it is missing (FileSystem.getFileStatus, HdfsFileStatus.getFileId)."""
    fs, jpath = file_system(path)
    if not fs.exists(jpath):
        raise FileNotFoundError(path)
    status = fs.getFileStatus(jpath)
    key = str(status.getFileId()) if fs.getScheme() == "hdfs" else None
    return FileStatus(int(status.getLen()), int(status.getModificationTime()), key)


@_file_errors()
def read_bytes(path: str, at: int, length: int) -> bytes:
    """Up to `length` bytes of a file from an offset (FSDataInputStream.seek, commons-io's BoundedInputStream)."""
    fs, jpath = file_system(path)
    io = view().org.apache.commons.io
    stream = fs.open(jpath)
    try:
        stream.seek(at)
        bounded = io.input.BoundedInputStream.builder().setInputStream(stream).setMaxCount(length).get()
        return bytes(io.IOUtils.toByteArray(bounded))
    finally:
        stream.close()


@_file_errors()
def copy_to_local(path: str, target: str) -> None:
    """Copy a file to this machine's disk (FileSystem.copyToLocalFile)."""
    fs, jpath = file_system(path)
    fs.copyToLocalFile(False, jpath, view().org.apache.hadoop.fs.Path(target), True)


def copy_from_local(source: str, path: str) -> None:
    """Copy a file of this machine's disk, replacing what is there (FileSystem.copyFromLocalFile)."""
    fs, jpath = file_system(path)
    fs.copyFromLocalFile(False, True, view().org.apache.hadoop.fs.Path(source), jpath)


def unpack_zstd(source: str, target: str) -> str | None:
    """Unpack a file of this machine's disk as far as it is sound; returns what is wrong with the rest, if anything.

    zstd-jni's ZstdInputStream, which Spark brings, and commons-io's IOUtils.copyLarge.
    """
    jvm = view()
    output = jvm.java.io.FileOutputStream(target)
    packed = jvm.java.io.FileInputStream(source)
    try:
        jvm.org.apache.commons.io.IOUtils.copyLarge(jvm.com.github.luben.zstd.ZstdInputStream(packed), output)
    except Py4JJavaError as error:
        if "Zstd" not in str(error.java_exception.getClass().getName()):  # a full disk, not a damaged file
            raise OSError(reason(error)) from None
        return reason(error)
    finally:
        packed.close()
        output.close()
    return None


def changes(path: str) -> dict[str, tuple[int, int]]:
    """Size in bytes and modification time (ms since 1970) of each file at or below a path, or what a glob matches.

    What exists under the very name is meant, even if it looks like a glob. FileSystem.getFileStatus, globStatus and
    listFiles. Names that Spark reads no data from are skipped. Cost: six py4j calls per file.
    """
    fs, jpath = file_system(path)
    found = {}
    for match in [fs.getFileStatus(jpath)] if fs.exists(jpath) else fs.globStatus(jpath) or ():
        root = str(match.getPath().toString())
        files = fs.listFiles(match.getPath(), True)
        while files.hasNext():
            status = files.next()
            path = str(status.getPath().toString())
            if not any(name.startswith((".", "_")) and "=" not in name for name in path[len(root) :].split("/")):
                found[path] = (int(status.getLen()), int(status.getModificationTime()))
    return found


def file_size(path: str) -> int | None:
    """Size in bytes; None if the file is missing (FileSystem.getFileStatus)."""
    fs, jpath = file_system(path)
    return int(fs.getFileStatus(jpath).getLen()) if fs.exists(jpath) else None
