"""Logs on a real HDFS that are appended to, renamed and created again: each line once, however the job is stopped."""

from __future__ import annotations

import gzip
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from tests.support import log_writer, rotation
from tests.support.steps import RUNS, Line, Steps, text
from tests.support.supervisor import Job, Point, finish, kill_at_point


class HdfsLogs:
    """A directory of HDFS: what writers do to it, and how a job is asked to read it."""

    def __init__(self, spark: SparkSession, path: str, home: Path, glob: str = "access.log*"):
        self.path, self.glob, self.home = path, glob, str(home)
        self.options: dict[str, Any] = {}
        self._jvm: Any = spark._jvm
        # a client of its own, as a writer has, and files on the one DataNode that there is
        conf = self._jvm.org.apache.hadoop.conf.Configuration(spark._jsc.hadoopConfiguration())
        conf.setInt("dfs.replication", 1)
        self._fs = self._jvm.org.apache.hadoop.fs.FileSystem.newInstance(self._path("").toUri(), conf)
        self._now = round(time.time() * 1000) - 10_000
        self._fs.mkdirs(self._path(""))

    def _path(self, name: str) -> Any:
        return self._jvm.org.apache.hadoop.fs.Path(f"{self.path}/{name}")

    def _touch(self, name: str) -> None:
        """Make it newer than what was written before, by more than a clock of milliseconds may show."""
        self._now += 10
        self._fs.setTimes(self._path(name), self._now, -1)

    def hold(self, name: str) -> Callable[..., None]:
        """Open a file to append to it, as one writer at a time may; without lines it is closed."""
        path = self._path(name)
        stream = self._fs.append(path) if self._fs.exists(path) else self._fs.create(path, False)
        flags = self._jvm.java.util.EnumSet.of(
            getattr(self._jvm.org.apache.hadoop.hdfs.client, "HdfsDataOutputStream$SyncFlag").UPDATE_LENGTH
        )

        def write(*lines: Line) -> None:
            if lines:
                stream.write(text(*lines))
                stream.hsync(flags)
            else:
                stream.close()
                self._touch(name)

        return write

    def put(self, name: str, data: bytes) -> None:
        path = self._path(name)
        stream = self._fs.append(path) if self._fs.exists(path) else self._fs.create(path, False)
        stream.write(data)
        stream.close()
        self._touch(name)

    def append(self, name: str, *lines: Line) -> None:
        self.put(name, text(*lines))

    def move(self, old: str, new: str) -> None:
        assert self._fs.rename(self._path(old), self._path(new))

    def move_all(self, path: str) -> None:
        """Rename the directory itself."""
        assert self._fs.rename(self._path(""), self._jvm.org.apache.hadoop.fs.Path(path))
        self.path = path

    def delete(self, name: str) -> None:
        assert self._fs.delete(self._path(name), False)


def appended_renamed_and_created_again(logs: HdfsLogs) -> Steps:
    logs.append("access.log", 1, 2)
    yield [1, 2]
    logs.append("access.log", 3)
    yield [3]
    logs.append("access.log", 4)
    logs.move("access.log", "access.log.1")
    logs.append("access.log", 5)
    yield [4, 5]
    logs.append("access.log", 6)
    logs.move("access.log.1", "access.log.2")
    logs.move("access.log", "access.log.1")
    logs.append("access.log", 7)
    yield [6, 7]
    yield []


def renamed_out_of_the_glob(logs: HdfsLogs) -> Steps:
    logs.glob = "*.log"
    logs.append("access.log", 1, 2)
    yield [1, 2]
    logs.append("access.log", 3)
    logs.move("access.log", "access.log.1")
    logs.append("access.log", 4)
    yield [3, 4]


def open_while_it_is_read(logs: HdfsLogs) -> Steps:
    write = logs.hold("access.log")
    write(1, 2)
    yield [1, 2]
    write(3)
    yield [3]
    logs.move("access.log", "access.log.1")
    write(4)
    logs.append("access.log", 5)
    yield Counter([4, 5])
    write()
    yield []


def a_line_in_two_appends(logs: HdfsLogs) -> Steps:
    line = text(2)
    logs.put("access.log", text(1) + line[:50])
    yield [1]
    logs.put("access.log", line[50:] + text(3))
    yield [2, 3]


def compressed_and_in_another_directory(logs: HdfsLogs) -> Steps:
    logs.append("access.log", 1, 2)
    yield [1, 2]
    logs.append("access.log", 3)
    logs.put("access.log.1.gz", gzip.compress(text(1, 2, 3)))
    logs.delete("access.log")
    logs.append("access.log", 4)
    yield [3, 4]
    logs.move_all(f"{logs.path}.moved")
    logs.append("access.log", 5)
    yield [5]


def uploaded_under_another_name(logs: HdfsLogs) -> Steps:
    logs.glob = "*"
    for n, name in enumerate(("access.log._COPYING_", "access.log.tmp")):  # hdfs dfs -put, Flume
        logs.append(name, n)
        yield []
        logs.move(name, f"{n}.log")
        yield [n]


def an_empty_line_before_all_others(logs: HdfsLogs) -> Steps:
    logs.append("access.log", "")
    yield [""]
    logs.append("access.log", 1)
    yield [1]
    logs.append("access.log", 2)
    yield [2]


CASES = [
    appended_renamed_and_created_again,
    renamed_out_of_the_glob,
    open_while_it_is_read,
    a_line_in_two_appends,
    compressed_and_in_another_directory,
    uploaded_under_another_name,
    an_empty_line_before_all_others,
]


@pytest.mark.parametrize("run", RUNS[-1:] if rotation.current() != rotation.ALL else RUNS, ids=lambda run: run.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_each_line_of_a_log_on_hdfs_comes_once(
    spark: SparkSession, hdfs: str, tmp_path: Path, case: Callable[[HdfsLogs], Steps], run: Callable[[Steps, Any], None]
) -> None:
    logs = HdfsLogs(spark, f"{hdfs}/{case.__name__}/{run.__name__}", tmp_path / "home")
    run(case(logs), logs)


KILLS: list[Point] = [("append", 1, "after"), ("publish", 1, "after"), ("free", 1, "before"), ("done", 1, "before")]


def test_a_job_killed_while_its_log_on_hdfs_is_rotated_brings_each_line_once(
    spark: SparkSession, hdfs: str, tmp_path: Path
) -> None:
    """Before each kill there are new lines in the log and in the one that was rotated, and afterwards it rotates."""
    logs, job, seed, count = HdfsLogs(spark, f"{hdfs}/killed", tmp_path), Job(tmp_path, script="rotated.py"), 9, 0
    arguments = ["--source", f"files:{logs.path}?glob=access*", "--batch-interval", "200ms"]
    arguments += ["--output", f"lines=text:{job.out}", "--output", f"running=json:{job.out}"]

    def append(lines: int) -> None:
        nonlocal count
        logs.append("access.log", *(log_writer.line(seed, n) for n in range(count, count + lines)))
        count += lines

    def rotate(turn: int) -> None:
        for number in range(turn, 0, -1):
            logs.move(f"access.log.{number}", f"access.log.{number + 1}")
        logs.move("access.log", "access.log.1")

    try:
        for turn, point in enumerate(KILLS):
            append(300)
            kill_at_point(job, arguments, point, most=None)
            append(200)
            rotate(turn)
            append(100)
        finish(job, arguments)
        came = sum(job.rows("text", "lines").values(), Counter[str]())
        written = log_writer.lines(seed, count)
        job.report("log on HDFS", count, (written - came).total(), (came - written).total())
    finally:
        job.close()
