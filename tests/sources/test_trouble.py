"""Trouble with files: what cannot be read waits or is left out, nothing comes twice, and there is a way out."""

from __future__ import annotations

import bz2
import errno
import gzip
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from pyspark.sql import SparkSession

from sparkstream_kit.errors import UsageError
from sparkstream_kit.recovery import storage
from sparkstream_kit.sources import _disks, _files, _globs, _identity
from sparkstream_kit.sources._tracker import Directory, Tracker

BANNER = b"".join(b"option %d = default\n" % n for n in range(100))


class Reader:
    """A source without its engine: a tick returns the lines that a batch would have."""

    def __init__(self, logs: Path, home: Path, glob: str = "*", *, inactive_after: int = 60_000):
        self.logs, self.home, self.glob, self.inactive_after = logs, home, glob, inactive_after
        self.may_give_up: set[str] = set()
        self.taken: Any = None
        self.rows: list[bytes] = []
        self.start()

    def start(self) -> None:
        """Start again, as after a crash."""
        directories = [Directory(str(self.logs), _globs.parse(self.glob))]
        self.tracker = Tracker(_disks.LOCAL, directories, self.inactive_after, 0)
        self.source = _files._Lines(
            _disks.LOCAL,
            self.tracker,
            encoding="utf-8",
            directory=lambda: f"file:{self.home}/logs",
            taken=lambda: self.taken,
            may_give_up=self.may_give_up.__contains__,
            is_observer=lambda: False,
        )

    def tick(self, most: int | None = None) -> list[bytes]:
        end = self.source.latest_offset(1)
        if end == self.taken:
            return []
        if most is not None:
            end = self.source.limit(self.taken, end, most)
        end = self.source.prepare(self.taken, end)
        new: list[bytes] = []
        if end != self.taken:
            for n, ranges in self.source._pieces(self.taken, end):
                landed = storage.local(self.source._find_landed(n, ranges))
                assert landed is not None
                new += landed.read_bytes().splitlines()
        self.taken = end
        self.rows += new
        return new


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


@pytest.fixture
def reader(spark: SparkSession, logs: Path, tmp_path: Path) -> Reader:
    return Reader(logs, tmp_path / "home")


def write(file: Path, data: bytes, time: int = 10**9) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    os.utime(file, (time, time))


@pytest.mark.parametrize("below", ["", "app"])
def test_a_directory_that_cannot_be_listed_for_a_while_loses_nothing(
    reader: Reader, logs: Path, below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.glob = "**/*"
    reader.start()
    for n in range(6):
        write(logs / below / f"{n}.log", b"line %d\n" % n, 10**9 + n)
    assert reader.tick(most=1) == [b"line 0"]
    scandir, opened = os.scandir, os.open

    def stale(path: str) -> Any:
        if str(path).rstrip("/").endswith(below or "logs"):
            raise OSError(errno.ESTALE, "Stale file handle", path)
        return scandir(path)

    def no_open(path: str, *flags: int) -> int:
        if str(path).endswith(".log"):
            raise OSError(errno.ESTALE, "Stale file handle", path)
        return opened(path, *flags)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", stale)
        patch.setattr(os, "open", no_open)
        assert [reader.tick(most=1) for _ in range(4)] == [[]] * 4
    assert [reader.tick(most=1) for _ in range(6)] == [[b"line %d" % n] for n in range(1, 6)] + [[]]


def test_the_empty_directory_below_a_disk_that_is_not_mounted_loses_nothing(reader: Reader, logs: Path) -> None:
    for n in range(4):
        write(logs / f"{n}.log", b"line %d\n" % n, 10**9 + n)
    assert reader.tick(most=1) == [b"line 0"]
    logs.rename(logs.with_name("mounted"))
    logs.mkdir()
    assert [reader.tick(most=1) for _ in range(4)] == [[]] * 4
    logs.rmdir()
    logs.with_name("mounted").rename(logs)
    assert [reader.tick(most=1) for _ in range(4)] == [[b"line %d" % n] for n in range(1, 4)] + [[]]


def test_what_cannot_be_read_any_more_waits_and_can_be_given_up(
    reader: Reader, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n, name in enumerate(("a.log", "b.log", "c.log")):
        write(logs / name, name.encode() + b"\n", 10**9 + n)
    assert reader.tick(most=1) == [b"a.log"]
    opened = os.open

    def denied(path: str, *flags: int) -> int:
        if str(path).endswith("b.log"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return opened(path, *flags)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", denied)
        for _ in range(2):
            reader.start()
            assert reader.tick() == []
        reader.may_give_up.add(f"{logs}/b.log")
        assert reader.tick() == [b"c.log"]


def test_files_with_one_long_beginning_are_not_taken_for_each_other(reader: Reader, logs: Path) -> None:
    """A server's banner: the log is copied, truncated and written again by a server that has been restarted."""
    old = b"".join(b"old %d\n" % n for n in range(1000))
    new = b"".join(b"new %d\n" % n for n in range(100))
    write(logs / "a.log", BANNER + old)
    reader.tick()
    shutil.copy(logs / "a.log", logs / "a.log.1")
    write(logs / "a.log", BANNER + new, 10**9 + 1)
    for _ in range(3):
        reader.tick()
    assert Counter(reader.rows) == Counter((BANNER + old + BANNER + new).splitlines())


def test_runs_with_one_long_beginning_in_directories_of_their_own_are_all_read(reader: Reader, logs: Path) -> None:
    reader.glob = "**/out.log"
    reader.start()
    write(logs / "run-1" / "out.log", BANNER + b"run 1\n" * 1000)
    reader.tick()
    shutil.rmtree(logs / "run-1")
    for _ in range(3):
        reader.tick()
    write(logs / "run-2" / "out.log", BANNER + b"run 2\n" * 30)
    assert reader.tick() == (BANNER + b"run 2\n" * 30).splitlines()


def test_a_read_error_is_not_damage(reader: Reader, logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b"".join(b"line %d\n" % n for n in range(50_000))
    write(logs / "a.gz", gzip.compress(lines))
    stream = _disks._LocalFile.stream

    class Failing:
        def __init__(self, file: IO[bytes]):
            self.file, self.left = file, 3

        def read(self, size: int = -1) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.EIO, "Input/output error")
            return self.file.read(size)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    with monkeypatch.context() as patch:
        patch.setattr(_disks._LocalFile, "stream", lambda self, at=0: Failing(stream(self, at)))
        assert reader.tick() == []
    assert reader.tick() == lines.splitlines()


def test_a_read_error_while_a_file_is_looked_at_doubles_nothing(
    reader: Reader, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(logs / "a.log", b"0123456789\n" * 300_000)
    read = _disks._LocalFile.read

    def failing(after: int) -> Iterator[None]:
        calls = 0

        def fails(self: Any, at: int, length: int) -> bytes:
            nonlocal calls
            calls += 1
            if calls == after:
                raise OSError(errno.EIO, "Input/output error")
            return read(self, at, length)

        with monkeypatch.context() as patch:
            patch.setattr(_disks._LocalFile, "read", fails)
            yield

    for after in range(1, 40):
        for _ in failing(after):
            reader.tick()
    reader.tick()
    assert len(reader.rows) == 300_000


@pytest.mark.parametrize("then", ["appended", "filled"])
def test_a_tail_of_nuls_is_ignored(reader: Reader, logs: Path, then: str) -> None:
    """A crash of the machine leaves it, or a writer that allocates its file beforehand."""
    reader.inactive_after = 0
    reader.start()
    lines = b"".join(b"line %d\n" % n for n in range(200))
    write(logs / "a.log", lines + bytes(100_000))
    assert reader.tick() == lines.splitlines()
    with (logs / "a.log").open("r+b") as file:
        file.seek(0 if then == "appended" else len(lines), os.SEEK_END if then == "appended" else os.SEEK_SET)
        file.write(b"more\n")
    os.utime(logs / "a.log", (10**9 + 1, 10**9 + 1))
    assert reader.tick() == [b"more"]


def test_a_tail_of_nuls_is_read_once_and_not_in_every_scan(
    reader: Reader, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(logs / "a.log", b"a line\n" + bytes(100_000))
    assert reader.tick() == [b"a line"]

    def opened(self: Any, path: str) -> Any:
        raise AssertionError(f"{path} was opened again")

    monkeypatch.setattr(_disks._Local, "open", opened)
    assert reader.tick() == []


def test_a_file_whose_end_was_cut_off_is_still_known_when_reading_on_fails(
    reader: Reader, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = b"".join(b"line %d\n" % n for n in range(300))
    write(logs / "a.log", lines)
    reader.tick()
    write(logs / "a.log", lines + b"to be cut off\n", 10**9 + 1)
    reader.tick()
    write(logs / "a.log", lines, 10**9 + 2)
    with monkeypatch.context() as patch:
        patch.setattr(_identity.Plain, "is_unchanged", lambda self: False)
        assert reader.tick() == []
    (logs / "a.log").rename(logs / "a.log.1")
    assert reader.tick() == []
    with (logs / "a.log.1").open("ab") as file:
        file.write(b"more\n")
    assert reader.tick() == [b"more"]


def test_a_member_of_gzip_that_ends_within_a_line_waits_for_the_next(reader: Reader, logs: Path) -> None:
    (logs / "a.gz").write_bytes(gzip.compress(b"a\nhal"))
    assert reader.tick() == [b"a"]
    with (logs / "a.gz").open("ab") as file:
        file.write(gzip.compress(b"f line\n"))
    assert reader.tick() == [b"half line"]


def test_compressed_exports_of_several_days_may_be_equal(reader: Reader, logs: Path) -> None:
    write(logs / "status-20260101.gz", gzip.compress(b"all fine\n"))
    assert reader.tick() == [b"all fine"]
    (logs / "status-20260101.gz").unlink()
    for _ in range(3):
        reader.tick()
    write(logs / "status-20260102.gz", gzip.compress(b"all fine\n"), 10**9 + 1)
    assert reader.tick() == [b"all fine"]


def test_text_that_begins_like_bzip2_is_text(reader: Reader, logs: Path) -> None:
    write(logs / "a.log", b"BZhang logged in\n")
    write(logs / "b.log", bz2.compress(b"packed\n"), 10**9 + 1)
    assert reader.tick() == [b"BZhang logged in", b"packed"]


def test_a_home_that_the_glob_reads_is_refused(spark: SparkSession, logs: Path) -> None:
    write(logs / "a.log", b"a line\n")
    with pytest.raises(UsageError, match="the home is below .*, and the glob reads what the job writes there"):
        Reader(logs, logs / "home", "**/*").tick()
    assert Reader(logs, logs / "home", "**/*.log").tick() == [b"a line"]


def test_what_is_known_of_files_that_are_gone_for_long_is_forgotten(reader: Reader, logs: Path) -> None:
    for n in range(50):
        write(logs / f"part-{n}.csv", b"line %d of a file with more bytes than the shortest mark covers, 64\n" % n)
    reader.tick()
    for file in logs.iterdir():
        file.unlink()
    for _ in range(3):
        reader.tick()
    assert all(file.gone for file in reader.tracker.files.values())
    for file in reader.tracker.files.values():
        file.gone = 1  # in 1970
    reader.tracker.forget()
    assert (reader.tracker.files, reader.tracker._alike, reader.tracker._by_path) == ({}, {}, {})


def test_directories_and_pipes_do_not_use_up_descriptors(logs: Path) -> None:
    os.mkfifo(logs / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    for path in (logs, logs / "pipe"):
        with pytest.raises(FileNotFoundError), _disks.LOCAL.open(str(path)):
            pass
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_system_of_hadoop_that_refuses_a_file_does_not_stop_the_others(
    spark: SparkSession, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.log", "b.log"):
        write(logs / name, b"a line\n")
    tracker = Tracker(_disks.REMOTE, [Directory(f"file:{logs}", _globs.parse("*"))], 0, 0)
    read = _disks._RemoteFile.read

    def removed_meanwhile(self: Any, at: int, length: int) -> bytes:
        (logs / "b.log").unlink(missing_ok=True)
        return read(self, at, length)

    monkeypatch.setattr(_disks._RemoteFile, "read", removed_meanwhile)
    assert [new.file.path for new in tracker.scan()] == [f"file:{logs}/a.log"]


@pytest.mark.parametrize("trouble", [FileNotFoundError, PermissionError])
def test_a_compressed_file_waits_while_it_is_not_known_what_has_its_key_now(
    reader: Reader, logs: Path, trouble: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system gave the number of a removed file to the next log, which was renamed before it was looked at."""
    lines = b"".join(b"line %d\n" % n for n in range(2000))
    write(logs / "a.log.1", lines)
    assert reader.tick() == lines.splitlines()
    write(logs / "a.log.2.gz", gzip.compress(lines))
    (logs / "a.log.1").rename(logs / "a.log")
    write(logs / "a.log", b"another log\n" * 3, 10**9 + 1)  # in place, so it has the same key
    local = _disks._Local.open

    def opened(self: Any, path: str) -> Any:
        if path == str(logs / "a.log"):
            raise trouble(path)
        return local(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(_disks._Local, "open", opened)
        assert reader.tick() == []
    (logs / "a.log").rename(logs / "a.log.1")
    assert reader.tick() == [b"another log"] * 3
    assert reader.tick() == []


def test_a_known_file_that_gets_the_name_of_a_new_one_before_that_is_looked_at_is_not_read_again(
    reader: Reader, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = b"".join(b"line %d\n" % n for n in range(2000))
    write(logs / "a.log.1.gz", gzip.compress(lines))
    assert reader.tick() == lines.splitlines()
    write(logs / "a.log.2.gz", gzip.compress(b"another log\n"), 10**9 + 1)
    local = _disks._Local.open

    def opened(self: Any, path: str) -> Any:
        if path == str(logs / "a.log.2.gz") and (logs / "a.log.1.gz").exists():
            (logs / "a.log.2.gz").rename(logs / "a.log.3.gz")
            (logs / "a.log.1.gz").rename(logs / "a.log.2.gz")
        return local(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(_disks._Local, "open", opened)
        assert reader.tick() == []
    assert reader.tick() == [b"another log"]
    assert reader.tick() == []
