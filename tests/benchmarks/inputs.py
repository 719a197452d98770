"""Input: batches of access-log lines, the same in every run.

A batch is a directory with one file for each core, as if that many servers wrote logs: Spark reads a small file in one
task, and no arm should leave a core idle. It arrives as a whole, by a rename. The lines are those of the kit's
generator, of 159 bytes on average: a thousand clients of which the busiest sends a tenth, 26 paths, nine statuses. A
workload with `keys` has lines of that many clients instead, all equally likely, and a first batch with a line of each.

The n-th batch was last changed half an interval before the n-th tick of the manual clock: textFileStream ignores files
that are newer than its batch, and those that are much older.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from sparkstream_kit.sources._generator import line_column
from sparkstream_kit.testing import log_lines

from .workloads import INTERVAL

START = 1_000_000
"""Seconds of the manual clock at the start, a multiple of every slide."""


class Inputs:
    """Batches below a folder, generated when they are first needed."""

    def __init__(self, spark: SparkSession, folder: Path):
        self._spark, self._folder = spark, folder

    def batches(self, lines: int, count: int, keys: int | None = None) -> list[Path]:
        """This many batches of this many lines, and before them, with `keys`, the one with a line of each client."""
        made = [] if keys is None else [self._batch(0, keys, F.col("id"), keys)]
        client = None if keys is None else F.pmod(F.xxhash64("id"), F.lit(keys))
        return made + [self._batch(len(made) + n, lines, client, keys) for n in range(count)]

    def small_files(self, count: int) -> Path:
        """A batch of this many files with a line each."""
        batch = self._folder / f"files-{count}"
        if not batch.exists():
            batch.mkdir()
            for number, line in enumerate(log_lines(1, 0, count)):
                (batch / f"{number}.log").write_text(f"{line}\n")
                _set_time(batch / f"{number}.log", 0)
        return batch

    def _batch(self, n: int, lines: int, client: Column | None, keys: int | None) -> Path:
        batch = self._folder / f"{lines}-{keys}-{n}"
        if not batch.exists():
            ids = self._spark.range(n * lines, (n + 1) * lines).select("id", line_column(0, F.col("id")).alias("value"))
            rest = F.expr("substr(value, instr(value, ' '))")
            value = F.col("value") if client is None else F.concat(address(client), rest)
            unfinished = self._folder / "unfinished"
            ids.select(value.alias("value")).write.text(str(unfinished))
            for number, part in enumerate(sorted(unfinished.glob("part-*"))):
                part.rename(unfinished / f"{number}.log")
                _set_time(unfinished / f"{number}.log", n)
            for other in [*unfinished.glob("_*"), *unfinished.glob(".*")]:
                other.unlink()
            unfinished.rename(batch)
        return batch


def _set_time(file: Path, n: int) -> None:
    at = START + INTERVAL * n + INTERVAL // 2
    os.utime(file, (at, at))


def address(client: Column) -> Column:
    """An address for each number below 2**24."""
    parts = (F.shiftright(client, bits).bitwiseAND(255).cast("string") for bits in (16, 8, 0))
    return F.concat_ws(".", F.lit("10"), *parts)


def arrive(batch: Path, folder: Path) -> Path:
    """Let a batch arrive in `folder`/arriving; returns it there. The files are hard links, so nothing is copied."""
    coming, arrived = folder / "coming", folder / "arriving" / batch.name
    shutil.copytree(batch, coming, copy_function=os.link)
    return coming.rename(arrived)


def read_lines(batch: Path) -> Iterator[str]:
    for file in sorted(batch.iterdir()):
        with file.open(encoding="utf-8") as lines:
            yield from (line.rstrip("\n") for line in lines)
