"""Ways in which files are written and rotated: each line comes once, however the job is stopped in between.

`support/steps.py` says what a case is, and how the job lives meanwhile. No case waits: the times of files are set.
"""

from __future__ import annotations

import bz2
import gzip
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import pytest
from pyspark.sql import SparkSession

from tests.support import rotation
from tests.support.steps import RUNS, Line, Steps, is_down_before_it_reads, text

pytestmark = pytest.mark.slow

HEADER = "#Fields: " + " ".join(f"column-{n:03d}" for n in range(250))  # longer than 2 KiB
LONG = 3 << 20  # bytes


class Logs:
    """The directory of a case: what writers do to it, and how the job is asked to read it."""

    def __init__(self, root: Path, case: Case):
        self.root, self.path, self.home = root, root / "logs", str(root / "home")
        self.glob, self.options = case.glob, case.options
        self._now = time.time_ns() - 10**10
        self.path.mkdir()

    def __truediv__(self, name: str | bytes) -> Path:
        return self.path / os.fsdecode(name)

    def put(self, name: str | bytes, data: bytes, mode: str = "ab") -> None:
        """Write bytes in one of the ways of `open`; each file is newer than what was written before."""
        (self / name).parent.mkdir(parents=True, exist_ok=True)
        with (self / name).open(mode) as file:
            file.write(data)
        self.touch(name)

    def touch(self, name: str | bytes) -> None:
        self._now += 10**7
        os.utime(self / name, ns=(self._now, self._now)) if (self / name).exists() else self.put(name, b"")

    def age(self, name: str, seconds: int) -> None:
        """Make it look as if nobody had written for this long."""
        at = time.time() - seconds
        os.utime(self / name, (at, at))

    def append(self, name: str | bytes, *lines: Line) -> None:
        self.put(name, text(*lines))

    def hold(self, name: str) -> Callable[..., None]:
        """Open a file as a server does: it is the same file whatever its name becomes."""
        descriptor = os.open(self / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

        def write(*lines: Line) -> None:
            self._now += 10**7
            os.write(descriptor, text(*lines))
            os.utime(descriptor, ns=(self._now, self._now))

        return write

    def move(self, old: str, new: str) -> None:
        (self / new).parent.mkdir(parents=True, exist_ok=True)
        (self / old).rename(self / new)

    def copy(self, old: str, new: str, size: int | None = None) -> None:
        """Copy the first bytes, or all, into a file of its own, as logrotate's `copy` does."""
        self.put(new, (self / old).read_bytes()[:size], "wb")

    def truncate(self, name: str) -> None:
        self.put(name, b"", "r+b")
        os.truncate(self / name, 0)
        self.touch(name)

    def compress(self, old: str, new: str, how: Callable[[bytes], bytes] = gzip.compress) -> None:
        """Replace a file by a compressed one with its time, as gzip does."""
        times = (self / old).stat()
        (self / new).write_bytes(how((self / old).read_bytes()))
        os.utime(self / new, ns=(times.st_atime_ns, times.st_mtime_ns))
        (self / old).unlink()

    def replace(self, name: str, data: bytes) -> None:
        """Write another file and give it this name, as rsync, sed -i and editors do."""
        self.put(f".{name}.Xa81Kq", data, "wb")
        self.move(f".{name}.Xa81Kq", name)


def zstd(data: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


class Case(NamedTuple):
    do: Callable[[Logs], Steps]
    glob: str
    options: dict[str, Any]
    warns: str | None
    loses: bool
    """Whether a step takes away what was written before, so that it must be read at once."""


CASES: list[Case] = []


def case(
    glob: str = "*", *, warns: str | None = None, loses: bool = False, **options: Any
) -> Callable[[Callable[[Logs], Steps]], Callable[[Logs], Steps]]:
    def add(do: Callable[[Logs], Steps]) -> Callable[[Logs], Steps]:
        CASES.append(Case(do, glob, options, warns, loses))
        return do

    return add


# --- files that grow


@case()
def a_file_grows(logs: Logs) -> Steps:
    logs.append("access.log", 1, 2)
    yield [1, 2]
    logs.append("access.log", 3)
    yield [3]
    yield []
    logs.append("access.log", 4, 5, 6)
    yield [4, 5, 6]


@case()
def a_file_of_short_lines_grows(logs: Logs) -> Steps:
    logs.append("app.log", "a")
    yield ["a"]
    logs.append("app.log", "a", "a")
    yield ["a", "a"]
    logs.append("app.log", "", "b")
    yield ["", "b"]


@case()
def many_files_grow(logs: Logs) -> Steps:
    names = [f"{n:02d}.log" for n in range(40)]
    for step in range(3):
        for n, name in enumerate(names):
            logs.append(name, 1000 * n + step)
        yield Counter(1000 * n + step for n in range(40))
    logs.append("07.log", 7777)
    yield [7777]


@case()
def a_file_is_touched_and_written_later(logs: Logs) -> Steps:
    logs.touch("access.log")
    yield []
    logs.append("access.log", 1)
    yield [1]
    logs.append("access.log", 2)
    yield [2]


@case()
def a_line_is_written_in_pieces(logs: Logs) -> Steps:
    line = text(2)
    logs.put("access.log", text(1) + line[:40])
    yield [1]
    logs.put("access.log", line[40:-1])
    yield []
    logs.put("access.log", line[-1:] + text(3))
    yield [2, 3]


@case(loses=True)
def a_line_without_its_end_is_read_once_its_writer_is_inactive(logs: Logs) -> Steps:
    logs.put("access.log", text(1) + b"cut")
    yield [1]
    logs.age("access.log", 90)
    yield ["cut"]
    logs.put("access.log", b"\n" + text(2))
    yield [2]


@case(inactive_after="10min")
def how_long_a_line_waits_for_its_end_is_an_option(logs: Logs) -> Steps:
    logs.put("access.log", text(1) + b"cut")
    logs.age("access.log", 90)
    yield [1]
    logs.age("access.log", 660)
    yield ["cut"]


@case()
def a_character_is_cut_in_the_middle(logs: Logs) -> Steps:
    line = "größe 😀 ende\n".encode()
    logs.put("access.log", line[:9])
    yield []
    logs.put("access.log", line[9:])
    yield ["größe 😀 ende"]


@case()
def a_line_is_longer_than_any_buffer(logs: Logs) -> Steps:
    logs.append("access.log", 1, "x" * LONG, 2)
    yield [1, "long", 2]
    logs.put("access.log", b"x" * LONG)
    yield []
    logs.append("access.log", "x", 3)
    yield ["long", 3]


@case(loses=True)
def a_file_is_deleted_before_it_was_read(logs: Logs) -> Steps:
    logs.append("access.log", 1)
    logs.append("other.log", 10)
    yield Counter([1, 10])
    logs.append("access.log", 2)
    (logs / "access.log").unlink()
    logs.append("other.log", 11)
    yield [11]
    logs.append("access.log", 3)
    yield [3]


@case(loses=True)
def a_file_that_was_read_is_deleted(logs: Logs) -> Steps:
    logs.append("monday.log", 1)
    yield [1]
    (logs / "monday.log").unlink()
    logs.append("tuesday.log", 2)
    yield [2]


@case()
def a_file_may_not_be_read_for_a_while(logs: Logs) -> Steps:
    logs.append("a.log", 1)
    (logs / "a.log").chmod(0)
    waits = not os.access(logs / "a.log", os.R_OK)  # root reads everything
    logs.append("b.log", 2)
    yield [2] if waits else [1, 2]
    (logs / "a.log").chmod(0o600)
    logs.append("a.log", 3)
    yield [1, 3] if waits else [3]


# --- rotation by renaming


@case("access.log*")
def rotated(logs: Logs) -> Steps:
    logs.append("access.log", 1, 2)
    yield [1, 2]
    logs.move("access.log", "access.log.1")
    yield []
    logs.append("access.log", 3, 4)
    yield [3, 4]
    logs.append("access.log", 5)
    yield [5]


@case("access.log*")
def rotated_with_a_rest_that_was_not_read(logs: Logs) -> Steps:
    logs.append("access.log", 1, 2)
    yield [1, 2]
    logs.append("access.log", 3)
    logs.move("access.log", "access.log.1")
    logs.append("access.log", 4)
    yield [3, 4]


@case("*.log")
def rotated_out_of_the_glob(logs: Logs) -> Steps:
    logs.append("access.log", 1, 2)
    yield [1, 2]
    logs.append("access.log", 3)
    logs.move("access.log", "access.log.1")
    logs.append("access.log", 4)
    yield [3, 4]
    logs.move("access.log.1", "access.log.2")
    logs.move("access.log", "access.log.1")
    logs.append("access.log", 5)
    yield [5]


@case("*.log")
def rotated_into_another_name_of_the_glob(logs: Logs) -> Steps:
    logs.append("app.log", 1, 2)
    yield [1, 2]
    logs.append("app.log", 3)
    logs.move("app.log", "app-2026-11-26.log")
    logs.append("app.log", 4)
    yield [3, 4]
    logs.move("app.log", "app-2026-11-27.log")
    logs.append("app.log", 5)
    yield [5]


@case("access.log*")
def numbers_move_up(logs: Logs) -> Steps:
    for n in range(1, 6):
        logs.append("access.log", n)
        yield [n]
        for number in range(n - 1, 0, -1):
            logs.move(f"access.log.{number}", f"access.log.{number + 1}")
        logs.move("access.log", "access.log.1")
    yield []


@case("access.log*")
def rotated_twice_between_two_batches(logs: Logs) -> Steps:
    logs.append("access.log", 1, 2)
    yield [1, 2]
    logs.append("access.log", 3)
    logs.move("access.log", "access.log.1")
    logs.append("access.log", 4)
    logs.move("access.log.1", "access.log.2")
    logs.move("access.log", "access.log.1")
    logs.append("access.log", 5)
    yield [3, 4, 5]


@case("*.log")
def rotated_twice_out_of_the_glob_between_two_batches(logs: Logs) -> Steps:
    logs.append("access.log", 1, 2)
    yield [1, 2]
    logs.append("access.log", 3)
    logs.move("access.log", "access.log.1")
    logs.move("access.log.1", "access.log.2")
    logs.append("access.log", 4)
    yield [3, 4]


@case("access.log*")
def a_server_writes_on_until_it_opens_the_new_file(logs: Logs) -> Steps:
    old = logs.hold("access.log")
    old(1, 2)
    yield [1, 2]
    logs.move("access.log", "access.log.1")
    old(3)
    yield [3]
    new = logs.hold("access.log")
    yield []
    old(4)
    new(5)
    yield Counter([4, 5])
    old(6)
    yield [6]


@case("*.log")
def a_server_writes_on_in_a_file_that_left_the_glob(logs: Logs) -> Steps:
    old = logs.hold("access.log")
    old(1, 2)
    yield [1, 2]
    logs.move("access.log", "access.log.1")
    old(3)
    yield [3]
    new = logs.hold("access.log")
    old(4)
    new(5)
    yield Counter([4, 5])


@case("access.log*")
def everything_is_there_at_the_first_start(logs: Logs) -> Steps:
    logs.append("access.log.3", 1, 2)
    logs.compress("access.log.3", "access.log.3.gz")
    logs.append("access.log.2", 3)
    logs.append("access.log.1", 4)
    logs.append("access.log", 5)
    yield [1, 2, 3, 4, 5]
    logs.append("access.log", 6)
    yield [6]


@case("**/access*")
def rotated_into_a_folder_below(logs: Logs) -> Steps:
    logs.append("access.log", 1, 2)
    yield [1, 2]
    logs.append("access.log", 3)
    logs.move("access.log", "old/access.log.1")
    logs.append("access.log", 4)
    yield [3, 4]


# --- rotation that compresses


@case("access.log*")
def rotated_by_date_and_compressed_a_day_later(logs: Logs) -> Steps:
    logs.append("access.log", 1, 2)
    yield [1, 2]
    logs.move("access.log", "access.log-20261126")
    logs.append("access.log", 3)
    yield [3]
    logs.compress("access.log-20261126", "access.log-20261126.gz")
    yield []
    logs.append("access.log", 4)
    logs.move("access.log", "access.log-20261127")
    logs.append("access.log", 5)
    yield [4, 5]


@case("access.log*")
def rotated_and_compressed_at_once_with_a_rest_that_was_not_read(logs: Logs) -> Steps:
    logs.append("access.log", 1, 2)
    yield [1, 2]
    logs.append("access.log", 3)
    logs.move("access.log", "access.log.1")
    logs.compress("access.log.1", "access.log.1.gz")
    logs.append("access.log", 4)
    yield [3, 4]
    logs.move("access.log.1.gz", "access.log.2.gz")
    yield []


@case("access.log*")
def a_file_that_was_never_read_is_compressed(logs: Logs) -> Steps:
    logs.append("access.log", 1)
    yield [1]
    logs.append("access.log", 2)
    logs.move("access.log", "access.log.1")
    logs.append("access.log", 3)
    logs.compress("access.log.1", "access.log.2.gz")
    logs.move("access.log", "access.log.1")
    logs.append("access.log", 4)
    yield [2, 3, 4]


@case("access.log*")
def compressed_one_rotation_later(logs: Logs) -> Steps:
    for n in range(1, 8, 2):
        logs.append("access.log", n)
        yield [n]
        logs.append("access.log", n + 1)
        if (logs / "access.log.1").exists():
            logs.compress("access.log.1", f"access.log.{n}.gz")
        logs.move("access.log", "access.log.1")
        yield [n + 1]


@case("access.log*")
def compressed_in_place_while_both_are_there(logs: Logs) -> Steps:
    logs.append("access.log.1", 1, 2)
    yield [1, 2]
    packed = gzip.compress((logs / "access.log.1").read_bytes())
    logs.put("access.log.1.gz", packed[:20])
    yield []
    logs.put("access.log.1.gz", packed[20:])
    yield []
    (logs / "access.log.1").unlink()
    yield []


@case("*")
def compressed_files_are_known_by_their_content(logs: Logs) -> Steps:
    ways = {"a.gz": gzip.compress, "b.bz2": bz2.compress, "c.zst": zstd, "d.gz": bytes}
    ways |= {"e.log": gzip.compress, "f.old": bz2.compress, "g.1": zstd}
    for n, (name, how) in enumerate(ways.items()):
        logs.put(name, how(text(n, "end")))
        yield [n, "end"]


@case("*")
def several_gzip_members_are_one_file(logs: Logs) -> Steps:
    logs.put("a.gz", gzip.compress(text(1)) + gzip.compress(text(2)))
    yield [1, 2]


@case("*")
def a_compressed_file_arrives_in_pieces(logs: Logs) -> Steps:
    packed = gzip.compress(text(*range(1000)))
    logs.put("a.gz", packed[: len(packed) // 2])
    logs.append("b.log", 2000)
    yield [2000]
    logs.put("a.gz", packed[len(packed) // 2 :])
    yield list(range(1000))


@case("*", warns="a.gz")
def a_damaged_compressed_file_does_not_block_others(logs: Logs) -> Steps:
    logs.put("a.gz", gzip.compress(text(1, 2))[:12])
    logs.age("a.gz", 7200)
    logs.append("b.log", 3)
    yield [3]
    logs.append("b.log", 4)
    yield [4]


# --- rotation by copying and truncating


@case("access.log*")
def copied_and_truncated(logs: Logs) -> Steps:
    write = logs.hold("access.log")
    write(1, 2)
    yield [1, 2]
    logs.copy("access.log", "access.log.1")
    logs.truncate("access.log")
    yield []
    write(3)
    yield [3]
    logs.move("access.log.1", "access.log.2")
    logs.copy("access.log", "access.log.1")
    logs.truncate("access.log")
    write(4)
    yield [4]


@case("access.log*")
def copied_and_truncated_with_a_rest_that_was_not_read(logs: Logs) -> Steps:
    write = logs.hold("access.log")
    write(1, 2)
    yield [1, 2]
    write(3)
    logs.copy("access.log", "access.log.1")
    logs.truncate("access.log")
    write(4)
    yield [3, 4]


@case("access.log*", loses=True)
@case("*.log", loses=True)
def as_large_as_before_after_a_truncation(logs: Logs) -> Steps:
    write = logs.hold("access.log")
    write(1, 2)
    yield [1, 2]
    logs.copy("access.log", "access.log.1")
    logs.truncate("access.log")
    write(3, 4)
    yield [3, 4]


@case("access.log*", loses=True)
@case("*.log", loses=True)
def larger_than_before_after_a_truncation(logs: Logs) -> Steps:
    write = logs.hold("access.log")
    write(1, 2)
    yield [1, 2]
    logs.copy("access.log", "access.log.1")
    logs.truncate("access.log")
    write(*range(3, 30))
    yield list(range(3, 30))


@case("access.log*")
def listed_between_copy_and_truncation(logs: Logs) -> Steps:
    write = logs.hold("access.log")
    write(1, 2)
    yield [1, 2]
    write(3)
    logs.copy("access.log", "access.log.1")
    yield [3]
    logs.truncate("access.log")
    yield []
    write(4)
    yield [4]


@case("access.log*")
def listed_while_the_copy_grows(logs: Logs) -> Steps:
    write = logs.hold("access.log")
    write(1, 2, 3, 4)
    yield [1, 2, 3, 4]
    logs.copy("access.log", "access.log.1", size=0)
    yield []
    logs.copy("access.log", "access.log.1", size=250)
    yield []
    logs.copy("access.log", "access.log.1")
    yield []
    logs.truncate("access.log")
    write(5)
    yield [5]


@case("access.log*", loses=True)
def written_between_copy_and_truncation_and_read(logs: Logs) -> Steps:
    """The line is in neither file afterwards: whoever read it before is lucky, and must not read others twice."""
    write = logs.hold("access.log")
    write(1, 2)
    logs.copy("access.log", "access.log.1")
    yield [1, 2]
    write(3)
    logs.truncate("access.log")
    write(4)
    yield [4]


@case("access.log*")
def copied_truncated_and_compressed(logs: Logs) -> Steps:
    write = logs.hold("access.log")
    write(1, 2)
    yield [1, 2]
    write(3)
    logs.copy("access.log", "access.log.1")
    logs.truncate("access.log")
    logs.compress("access.log.1", "access.log.1.gz")
    write(4)
    yield [3, 4]


@case("access.log*")
def a_writer_that_does_not_append_leaves_a_hole(logs: Logs) -> Steps:
    logs.append("access.log", 1, 2)
    yield [1, 2]
    logs.copy("access.log", "access.log.1")
    size = (logs / "access.log").stat().st_size
    logs.truncate("access.log")
    logs.put("access.log", b"\0" * size + text(3))
    yield [3]
    logs.append("access.log", 4)
    yield [4]


@case("access.log*")
def a_hole_is_larger_than_a_fingerprint(logs: Logs) -> Steps:
    logs.append("access.log", *range(100))
    yield list(range(100))
    logs.copy("access.log", "access.log.1")
    size = (logs / "access.log").stat().st_size
    logs.truncate("access.log")
    logs.put("access.log", b"\0" * size + text(100))
    yield [100]
    logs.copy("access.log", "access.log.2")
    logs.truncate("access.log")
    logs.put("access.log", b"\0" * (size + len(text(100))) + text(101))
    yield [101]


# --- files that are replaced, mirrored, moved


@case(loses=True)
def replaced_by_another_file(logs: Logs) -> Steps:
    logs.append("access.log", 1, 2)
    yield [1, 2]
    logs.replace("access.log", text(3, 4, 5))
    yield [3, 4, 5]
    logs.replace("access.log", text(6))
    yield [6]


@case()
def replaced_by_a_longer_copy_of_itself(logs: Logs) -> Steps:
    logs.append("access.log", 1, 2)
    yield [1, 2]
    logs.replace("access.log", text(1, 2, 3))
    yield [3]
    logs.replace("access.log", text(1, 2, 3))
    yield []
    logs.append("access.log", 4)
    yield [4]


@case("access.log*")
def a_mirror_of_rotated_files(logs: Logs) -> Steps:
    """rsync of a directory that rotates: every name gets the content of another one, and no inode stays."""
    logs.replace("access.log", text(1, 2))
    yield [1, 2]
    logs.replace("access.log.1", text(1, 2, 3))
    logs.replace("access.log", text(4))
    yield [3, 4]
    logs.replace("access.log.2", text(1, 2, 3))
    logs.replace("access.log.1", text(4, 5))
    logs.replace("access.log", text(6))
    yield [5, 6]


@case(loses=True)
def an_inode_is_used_again(logs: Logs) -> Steps:
    logs.append("monday.log", 1, 2, 3)
    yield [1, 2, 3]
    logs.move("monday.log", "tuesday.log")
    logs.truncate("tuesday.log")
    logs.append("tuesday.log", 4)
    yield [4]
    logs.move("tuesday.log", "wednesday.log")
    logs.truncate("wednesday.log")
    logs.append("wednesday.log", *range(5, 20))
    yield list(range(5, 20))


@case()
def files_with_the_same_header(logs: Logs) -> Steps:
    logs.append("one.log", HEADER, 1)
    logs.append("two.log", HEADER, 2)
    yield Counter([HEADER, 1, HEADER, 2])
    logs.append("one.log", 3)
    logs.append("three.log", HEADER)
    yield Counter([3, HEADER])
    logs.append("three.log", 4)
    yield [4]


@case("u_ex*")
def rotated_files_with_the_same_header(logs: Logs) -> Steps:
    logs.append("u_ex.log", HEADER, 1)
    yield [HEADER, 1]
    logs.move("u_ex.log", "u_ex.log.1")
    logs.append("u_ex.log", HEADER)
    yield [HEADER]
    logs.append("u_ex.log", 2)
    yield [2]
    logs.compress("u_ex.log.1", "u_ex.log.1.gz")
    yield []


@case("u_ex*")
def a_header_comes_back_after_a_truncation(logs: Logs) -> Steps:
    logs.append("u_ex.log", HEADER, 1, 2)
    yield [HEADER, 1, 2]
    logs.copy("u_ex.log", "u_ex.log.1")
    logs.truncate("u_ex.log")
    logs.append("u_ex.log", HEADER, 3, 4, 5)
    yield [HEADER, 3, 4, 5]


@case()
def unrelated_files_with_equal_content(logs: Logs) -> Steps:
    logs.append("shop.log", 1, 2)
    logs.append("mail.log", 1, 2)
    yield Counter([1, 1, 2, 2])
    logs.append("shop.log", 3)
    yield [3]
    logs.append("mail.log", 3)
    yield [3]
    logs.append("blog.log", 1, 2, 3)
    yield [1, 2, 3]


@case("*.log*")
def unrelated_files_with_equal_content_are_compressed(logs: Logs) -> Steps:
    logs.append("shop.log.1", 1, 2)
    logs.append("mail.log.1", 1, 2)
    yield Counter([1, 1, 2, 2])
    logs.compress("shop.log.1", "shop.log.1.gz")
    yield []
    logs.compress("mail.log.1", "mail.log.1.gz")
    yield []


@case("access.log*")
def a_file_is_compressed_into_its_own_inode(logs: Logs) -> Steps:
    """As cat does with the output of gzip, and a copy over the file."""
    logs.append("access.log.1", 1, 2)
    yield [1, 2]
    logs.put("access.log.1", gzip.compress(text(1, 2)), "wb")
    yield []
    logs.append("access.log", 3)
    yield [3]


@case("*.log*")
def an_inode_is_given_to_another_compressed_file(logs: Logs) -> Steps:
    """The inode of a file that was compressed and removed becomes that of another one, compressed after it."""
    logs.append("shop.log.1", 1, 2)
    logs.append("mail.log.1", 1, 2)
    yield Counter([1, 1, 2, 2])
    logs.put("shop.log.1.gz", gzip.compress(text(1, 2)))
    logs.move("shop.log.1", "mail.log.1.gz")
    logs.put("mail.log.1.gz", gzip.compress(text(1, 2)), "wb")
    (logs / "mail.log.1").unlink()
    yield []
    logs.move("shop.log.1.gz", "blog.log")
    logs.put("blog.log", text(1, 2, 3), "wb")
    yield [1, 2, 3]


@case("access.log*")
def a_writer_starts_again_with_the_same_lines(logs: Logs) -> Steps:
    """After a rotation the new file begins as the old one did: `server started`, say."""
    logs.append("access.log", "server started")
    yield ["server started"]
    logs.move("access.log", "access.log.1")
    logs.append("access.log", "server started")
    yield ["server started"]
    logs.append("access.log", 1)
    yield [1]


@case()
def a_directory_is_renamed(logs: Logs) -> Steps:
    logs.append("access.log", 1, 2)
    yield [1, 2]
    logs.path = logs.path.rename(logs.root / "archive")
    logs.append("access.log", 3)
    yield [3]


@case()
def a_directory_is_reached_by_a_link(logs: Logs) -> Steps:
    logs.append("access.log", 1, 2)
    yield [1, 2]
    (logs.root / "link").symlink_to(logs.path)
    logs.path = logs.root / "link"
    logs.append("access.log", 3)
    yield [3]


@case()
def a_directory_is_copied_to_another_machine(logs: Logs) -> Steps:
    logs.append("access.log", 1, 2)
    yield [1, 2]
    shutil.copytree(logs.path, logs.root / "copy")
    logs.path = logs.root / "copy"
    yield []
    logs.append("access.log", 3)
    yield [3]


@case()
def a_link_beside_its_target(logs: Logs) -> Steps:
    logs.append("access.log", 1, 2)
    (logs / "current.log").symlink_to("access.log")
    yield [1, 2]
    logs.append("current.log", 3)
    yield [3]


@case("*.log")
def a_link_moves_on_beside_its_targets(logs: Logs) -> Steps:
    logs.append("web-1.log", 1, 2)
    (logs / "current.log").symlink_to("web-1.log")
    yield [1, 2]
    logs.append("web-1.log", 3)
    logs.append("web-2.log", 4)
    (logs / "current.log").unlink()
    (logs / "current.log").symlink_to("web-2.log")
    yield [3, 4]
    logs.append("current.log", 5)
    yield [5]


@case("current.log")
def a_link_moves_on_and_only_it_is_read(logs: Logs) -> Steps:
    for n in range(1, 4):
        logs.append(f"web-{n}.log", 2 * n)
        (logs / "current.log").unlink(missing_ok=True)
        (logs / "current.log").symlink_to(f"web-{n}.log")
        yield [2 * n]
        logs.append("current.log", 2 * n + 1)
        yield [2 * n + 1]


@case()
def a_link_to_nothing_and_one_to_itself(logs: Logs) -> Steps:
    (logs / "nowhere.log").symlink_to("gone.txt")
    (logs / "loop.log").symlink_to("loop.log")
    logs.append("access.log", 1)
    yield [1]
    logs.append("gone.txt", 2)
    yield [2]


@case()
def a_hard_link(logs: Logs) -> Steps:
    logs.append("access.log", 1, 2)
    yield [1, 2]
    os.link(logs / "access.log", logs / "same.log")
    yield []
    logs.append("same.log", 3)
    yield [3]
    (logs / "access.log").unlink()
    yield []
    logs.append("same.log", 4)
    yield [4]


@case("**/*.log")
def folders_below(logs: Logs) -> Steps:
    logs.append("access.log", 1)
    logs.append("shop/access.log", 2)
    logs.append("shop/eu/access.log", 3)
    yield Counter([1, 2, 3])
    logs.append("mail/access.log", 4)
    yield [4]
    logs.move("shop", "store")
    logs.append("store/eu/access.log", 5)
    yield [5]


@case("*.log")
def a_directory_and_a_pipe_with_the_name_of_a_log(logs: Logs) -> Steps:
    (logs / "folder.log").mkdir()
    os.mkfifo(logs / "pipe.log")
    logs.append("access.log", 1)
    yield [1]
    logs.append("access.log", 2)
    yield [2]


# --- names


@case()
def names_are_only_names(logs: Logs) -> Steps:
    names = ["a[1].log", "b[2].log", "{c,d}.log", "e*.log", "f?.log", "g\\h.log", "100%.log", "%41.log", "i#j.log"]
    names += ["k,l.log", "m n.log", "o\np.log", "+q&r=s.log", "é.log", "plain.log", "a1.log", "'\".log", "~t.log"]
    for step in (0, 100):
        for n, name in enumerate(names):
            logs.append(name, step + n)
        yield Counter(range(step, step + len(names)))
    for name in names:
        logs.move(name, f"{name}.1")
    logs.append("plain.log", 1000)
    yield [1000]


@case()
def names_that_hadoop_cannot_hold(logs: Logs) -> Steps:
    logs.append("12:30.log", 1)
    logs.append(b"caf\xe9.log", 2)
    logs.append("access.log", 3)
    yield [1, 2, 3]
    logs.append("12:30.log", 4)
    logs.append("access.log", 5)
    yield [4, 5]


@case("*.log")
def the_directory_has_a_name_with_brackets(logs: Logs) -> Steps:
    logs.path = logs.path.rename(logs.root / "[prod] {a,b} 100%")
    logs.append("access.log", 1)
    yield [1]
    logs.append("access.log", 2)
    logs.append("b.log", 3)
    yield Counter([2, 3])


@case("*.log")
def a_file_beside_has_a_colon(logs: Logs) -> Steps:
    logs.append("12:30.txt", 1)
    logs.append("access.log", 2)
    yield [2]


@case()
def unfinished_files_are_read_under_their_final_names(logs: Logs) -> Steps:
    names = ["x.log.part", "x.log.filepart", "x.log.tmp", "x.log._COPYING_", ".x.log.Xa81Kq", "_x.log", ".x.log.swp"]
    for n, name in enumerate(names):
        logs.append(name, n)
        yield []
        logs.move(name, f"{n}.log")
        yield [n]


@case()
def a_writer_renames_a_file_that_was_read(logs: Logs) -> Steps:
    logs.append("x.new", 1, 2)
    yield [1, 2]
    logs.move("x.new", "x.log")
    yield []
    logs.append("x.log", 3)
    yield [3]


# --- encodings and shapes


@case()
def a_byte_order_mark(logs: Logs) -> Steps:
    logs.put("access.log", b"\xef\xbb\xbf")
    yield []
    logs.append("access.log", 1, 2)
    yield [1, 2]
    logs.put("other.log", b"\xef\xbb\xbf" + text(3))
    yield [3]


@case()
def lines_end_as_on_windows(logs: Logs) -> Steps:
    logs.put("access.log", b"1\r\n2\r\n")
    yield ["1", "2"]
    logs.put("access.log", b"3\r")
    yield []
    logs.put("access.log", b"\n4\r\n")
    yield ["3", "4"]


@case()
def a_lone_carriage_return_ends_a_line(logs: Logs) -> Steps:
    logs.put("access.log", b"1\r2\n3\n")
    yield ["1", "2", "3"]


@case()
def bytes_that_are_not_utf_8(logs: Logs) -> Steps:
    logs.put("access.log", b"caf\xe9\n" + text(1))
    yield ["caf�", 1]


# --- the runs of a job


@pytest.fixture
def logs(request: pytest.FixtureRequest, tmp_path: Path) -> Logs:
    return Logs(tmp_path, request.param)


HARDEST = RUNS[-1]
"""What every case goes through in every run of the tests; of the others each run takes a share."""

TRIALS = [(case, HARDEST) for case in CASES] + rotation.share(
    [(case, run) for case in CASES for run in RUNS if run is not HARDEST], rotation.current()
)


@pytest.mark.parametrize(
    ("case", "run", "logs"),
    [(case, run, case) for case, run in TRIALS],
    ids=[f"{case.do.__name__}-{case.glob}-{run.__name__}" for case, run in TRIALS],
    indirect=["logs"],
)
def test_each_line_comes_once(
    spark: SparkSession, case: Case, logs: Logs, run: Callable[[Steps, Logs], None], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run(case.do(logs), logs)
    if case.warns is not None:
        warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert sum(case.warns in warning for warning in warnings) >= 1, warnings


@pytest.mark.parametrize(
    ("case", "logs"),
    [(c, c) for c in CASES if not c.loses],
    ids=[f"{c.do.__name__}-{c.glob}" for c in CASES if not c.loses],
    indirect=["logs"],
)
def test_what_was_planned_is_found_wherever_it_went_before_it_was_read(
    spark: SparkSession, case: Case, logs: Logs
) -> None:
    is_down_before_it_reads(case.do(logs), logs)
