"""What could not be parsed, kept under the home until somebody has looked at it.

    rejected/<name>/<n>/    Parquet: the rejected rows of batch n

Hostile senders can make any number of such lines, so there are bounds: of a batch, and of all batches.
"""

from __future__ import annotations

import logging

from pyspark.sql import DataFrame, SparkSession

from ..bridge import hadoop
from ..contracts import Batch
from ..errors import OutputRefused, UsageError
from ..frames import FrameStream
from ..recovery import snapshots, storage
from ..recovery.home import Home
from ..recovery.offset_log import OffsetLog

log = logging.getLogger(__name__)

ROWS = 10_000
"""Rows kept of a batch."""

BATCHES, BYTES = 1_000, 256 * 1024 * 1024
"""Batches and bytes kept of an output; the oldest batches go first."""


def rejected(stream: FrameStream, *, name: str = "rejected") -> None:
    """Keep the rejected lines of each batch under the home, for `sparkstream replay-rejected`. Column: line: string.

    Other columns, such as the reason, are kept with it. Of a batch the first 10,000 rows are kept, and of all batches
    the newest 256 MiB; what is left out is told in the log.

    Guarantee: exactly once. Raises UsageError at the start where the frame has no column line.
    """

    def check(frame: DataFrame, before: Batch) -> None:
        if "line" not in frame.columns:
            raise OutputRefused(f"the rejected rows have no column line, only {', '.join(frame.columns)}: select it")

    def write(frame: DataFrame, batch: Batch) -> int:
        directory = _directory(stream.graph.home, name)
        found = frame.limit(ROWS + 1).count()
        if found == 0 or storage.exists(f"{directory}/{batch.n}"):
            return found
        if found > ROWS:
            log.warning("batch %d has more than %d rejected rows: the others are not kept", batch.n, ROWS)
        snapshots.write(frame.limit(ROWS), f"{directory}/{batch.n}")
        _remove_old(directory)
        return min(found, ROWS)

    stream.for_each_batch(write, name=f"rejected:{name}", check=check)


def replay(home: Home, directory: str, name: str = "rejected") -> tuple[int, int]:
    """Write the lines of each batch as a new file into a directory that a job reads; how many lines, in how many files.

    What was written is kept no more. Each line is given back once: the file of a batch that a killed replay has
    written is not written again, and a batch that the job may still run again is left to a later replay. UsageError
    where there is no such directory.
    """
    if not hadoop.is_directory(directory):
        raise UsageError(f"{directory!r} is no directory: name the one that a job reads as files:DIRECTORY")
    kept_in, log_ = _directory(home, name), OffsetLog(home / "offsets")
    lines = files = 0
    for n in _batches(kept_in):
        if n > log_.last.n or (n > log_.compacted_to.n and not log_.is_done(n)):
            break
        target = f"{storage.qualify(directory)}/rejected-{home.id[:8]}-{name}-{n}.log"
        if not storage.exists(target):
            rows = snapshots.read(SparkSession.builder.getOrCreate(), f"{kept_in}/{n}").select("line").collect()
            storage.write_new(target, "".join(f"{row.line}\n" for row in rows))
            lines, files = lines + len(rows), files + 1
        storage.delete(f"{kept_in}/{n}")
    return lines, files


def _directory(home: Home, name: str) -> str:
    return home / f"rejected/{name}"


def _batches(directory: str) -> list[int]:
    return sorted(int(n) for n in storage.names(directory) if n.isdigit())


def _remove_old(directory: str) -> None:
    left, removed = BYTES, []
    for i, n in enumerate(reversed(_batches(directory))):
        left -= sum(storage.sizes(f"{directory}/{n}").values())
        if i and (left < 0 or i >= BATCHES):
            storage.delete(f"{directory}/{n}")
            removed.append(n)
    if removed:
        log.warning("the rejected rows of batches %d to %d are not kept any more", removed[-1], removed[0])
    for unfinished in storage.hidden(directory):
        storage.delete(f"{directory}/{unfinished}")
