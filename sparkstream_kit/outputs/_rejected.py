"""Keep rows that could not be parsed under the home, until somebody replays them.

    rejected/<name>/<n>/            Parquet: the rejected rows of batch n
    rejected/<name>/no-line-<n>/    those of them that a replay could not return

Anybody who can send lines can make them invalid, so a batch and all batches together are bounded, in rows and in bytes.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import operator

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from ..bridge import hadoop
from ..columns import quoted
from ..contracts import Batch
from ..errors import OutputRefused, UsageError
from ..frames import FrameStream
from ..recovery import snapshots, storage
from ..recovery.home import BEFORE, Home
from ..recovery.offset_log import OffsetLog
from ._files import check_types

log = logging.getLogger(__name__)

ROWS, BATCH_BYTES = 10_000, 16 * 1024 * 1024
"""Rows and bytes kept per batch, measured on the values as text, before Parquet compresses them."""

BATCHES, BYTES = 1_000, 256 * 1024 * 1024
"""Batches and bytes kept per output; the oldest batches are dropped first."""


def rejected(stream: FrameStream, *, name: str = "rejected") -> None:
    """Keep the rejected lines of each batch under the home, for `sparkstream replay-rejected`.

        requests, failed = ss.transforms.access_log.split(lines)
        ss.outputs.rejected(failed)

    Columns: line: string. Others, such as the reason, are kept with it. The output keeps the first 10,000 rows or 16
    MiB of a batch, and the newest 1,000 batches or 256 MiB. A warning says what was dropped, and the log of a batch how
    many rows were kept.

    Guarantee: exactly once. After `sparkstream rewind` or `backfill` a batch replaces its rows, but lines that
    `sparkstream replay-rejected` has returned are rejected lines of a batch once more: run batches again before you
    return their lines, or not at all.

    Raises OutputRefused at the start without a column line, and for a column of a type that Parquet does not hold.

    Cost: grows with the rejected rows of the batch, at most 10,000, and with the batches kept.

    URI: rejected:
    """

    def check(frame: DataFrame, before: Batch) -> None:
        if "line" not in frame.columns:
            raise OutputRefused(f"the output {name!r} needs a column line, got {', '.join(frame.columns)}: select it")
        check_types(frame, name, "parquet")

    def write(frame: DataFrame, batch: Batch) -> int:
        directory = _directory(stream.graph.home, name)
        target = f"{directory}/{batch.n}"
        if storage.exists(target) and not batch.again:
            return 0
        # what a backfill has not finished lies where the job does not look for what dead drivers left
        made = f"{stream.graph.home / 'backfill/made'}/{name}/{batch.n}" if batch.backfill else target
        storage.delete(made)
        rows, size = frame.select(F.count("*"), F.sum(_bytes(frame))).collect()[0]
        if rows == 0:
            for empty in (target, f"{made}{BEFORE}"):
                storage.delete(empty)
            return 0
        kept, fits = int(rows), rows <= ROWS and size <= BATCH_BYTES
        snapshots.write(frame if fits else _bounded(frame), made)
        if made != target:
            if storage.exists(target):  # else it is aside already, or there was none
                storage.delete(f"{made}{BEFORE}")
                storage.publish(target, f"{made}{BEFORE}")
            storage.make_directory(directory)
            storage.publish(made, target)
            storage.delete(f"{made}{BEFORE}")
        if not fits:
            kept = snapshots.read(SparkSession.builder.getOrCreate(), target).count()
            log.warning(
                "batch %d has %d rejected rows of %d bytes: dropped %d of them, as a batch keeps up to %d rows and %d "
                "bytes",
                *(batch.n, rows, size, rows - kept, ROWS, BATCH_BYTES),
            )
        _remove_old(directory, batch.n)
        return kept

    def has(batch: Batch) -> bool:
        return storage.exists(f"{_directory(stream.graph.home, name)}/{batch.n}")

    stream.for_each_batch(write, name=f"rejected:{name}", check=check, replaces=has)


def _bytes(frame: DataFrame) -> Column:
    """The bytes of a row, as text."""
    values = (F.col(quoted(name)).cast("string") for name in frame.columns)
    return functools.reduce(operator.add, (F.coalesce(F.octet_length(value), F.lit(0)) for value in values))


def _bounded(frame: DataFrame) -> DataFrame:
    """As many of the first rows as a batch keeps."""
    first = frame.limit(ROWS)
    rows = first.select(F.struct("*").alias("row"), _bytes(first).alias("size"))
    so_far = Window.orderBy("n").rowsBetween(Window.unboundedPreceding, Window.currentRow)
    numbered = rows.select("*", F.monotonically_increasing_id().alias("n"))
    return (
        numbered.select("row", F.sum("size").over(so_far).alias("total"))
        .where(f"total <= {BATCH_BYTES}")
        .select("row.*")
    )


def _is_line() -> Column:
    """Whether the source of files reads what was written as this one line."""
    return F.coalesce(~F.col("line").rlike("[\\r\\n]"), F.lit(False))


def replay(home: Home, directory: str, name: str = "rejected") -> tuple[int, int]:
    """Write the lines of each batch as a new file into a directory that a job reads; returns the numbers of both.

    Written rows are removed from the home. Each line is replayed once: a file that a killed replay has written is not
    written again, and a batch that the job may still re-run is left to a later replay. What would not come back as the
    same line, because it is null or has a line break in it, stays in the home, with a warning.

    Raises UsageError if the directory does not exist.
    """
    if not hadoop.is_directory(directory):
        raise UsageError(f"{directory!r} is not a directory: name the one that a job reads as files:DIRECTORY")
    kept_in, log_ = _directory(home, name), OffsetLog(home / "offsets")
    lines = files = 0
    for n in _batches(kept_in):
        if n > log_.last.n or (n > log_.compacted_to.n and not log_.is_done(n)):
            break
        target = f"{storage.qualify(directory)}/rejected-{home.id[:8]}-{name}-{n}.log"
        if not storage.exists(target):
            rows = snapshots.read(SparkSession.builder.getOrCreate(), f"{kept_in}/{n}")
            whole = rows.where(_is_line()).select("line").collect()
            left = rows.where(~_is_line())
            if number := left.count():
                snapshots.write(left, f"{kept_in}/no-line-{n}")
                log.warning(
                    "%d rejected rows of batch %d are null or have line breaks, so that a file cannot return them: "
                    "they stay in %s, as Parquet",
                    *(number, n, f"{kept_in}/no-line-{n}"),
                )
            if whole:
                storage.write_new(target, "".join(f"{row.line}\n" for row in whole))
                lines, files = lines + len(whole), files + 1
        storage.delete(f"{kept_in}/{n}")
    return lines, files


def _directory(home: Home, name: str) -> str:
    return home / f"rejected/{name}"


def _batches(directory: str) -> list[int]:
    return sorted(int(n) for n in storage.names(directory) if n.isdigit())


def _remove_old(directory: str, newest: int) -> None:
    left, removed = BYTES, []
    for i, n in enumerate(reversed(_batches(directory))):
        with contextlib.suppress(FileNotFoundError):  # a backfill is replacing it
            left -= sum(storage.sizes(f"{directory}/{n}").values())
        if i and (left < 0 or i >= BATCHES):
            storage.delete(f"{directory}/{n}")
            removed.append(n)
    if removed:
        log.warning("dropped the rejected rows of the oldest batches, %d to %d", removed[-1], removed[0])
    for unfinished in storage.hidden(directory):
        number = unfinished[1:].partition("-")[0]
        if not number.isdigit() or int(number) <= newest:  # a later one belongs to a driver that has taken over
            storage.delete(f"{directory}/{unfinished}")
