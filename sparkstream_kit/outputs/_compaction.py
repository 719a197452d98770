"""Few large files instead of the many small ones that `files.parquet` leaves, batch after batch."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from pyspark.sql import SparkSession

from ..bridge import hadoop
from ..errors import HomeInUse, UsageError
from ..recovery import lease, storage

FILE_BYTES = 128 * 1024 * 1024
"""Size of a compacted file before it is compressed anew: what one task of Spark reads at once."""


def compact(folder: str) -> int:
    """Make few large files of what `files.parquet` wrote into a folder; gives the number of batches merged.

    All batches but the newest become one, whose rows then have the number of the last of them. The job may run
    meanwhile: it writes newer batches only. A reader that runs during the exchange misses rows or files, so
    readers that never rest need a Delta table. Twice the room of the folder is needed for a while.

    Guarantee: no row is lost or doubled. What is exchanged for what is noted before the first batch is removed, so a
    compaction that is killed is finished by the next one; of two at once the second is refused.

    Raises UsageError for a folder that `files.parquet` did not write.
    """
    root = hadoop.qualified(folder)
    if not storage.exists(f"{root}/_home") or any(_kinds(root, n) - {"parquet", "folder"} for n in _batches(root)):
        raise UsageError(
            f"{folder!r} is no folder of Parquet batches: name the one that the output writes to, DIRECTORY/NAME of "
            "parquet:DIRECTORY"
        )
    with _alone(root) as held:
        note = f"{root}/_compacting"
        if storage.exists(note):
            _exchange(root, held, **json.loads(storage.read(note)))
        for name in storage.hidden(root):
            if name.startswith(".compacted-"):  # by one that was killed before it took the place of anything
                storage.delete(f"{root}/{name}")
        merged = _batches(root)[:-1]
        full = [f"{root}/batch={n}" for n in merged if _kinds(root, n)]  # Spark cannot read nothing
        if len(merged) < 2 or not full:
            return 0
        temporary = f".compacted-{uuid.uuid4().hex}"
        _merge(root, full, f"{root}/{temporary}")
        held.check()
        storage.write(note, json.dumps({"batches": merged, "temporary": temporary}))
        _exchange(root, held, merged, temporary)
        return len(merged)


def _batches(root: str) -> list[int]:
    return sorted(int(n) for kind, _, n in (name.partition("=") for name in storage.names(root)) if kind == "batch")


def _kinds(root: str, n: int) -> set[str]:
    """What the folder of a batch holds: folders of partitions, and files by the ends of their names."""
    shown = [name for name in storage.names(f"{root}/batch={n}") if not name.startswith((".", "_"))]
    return {"folder" if "=" in name else name.rpartition(".")[2] for name in shown}


@contextmanager
def _alone(root: str) -> Iterator[lease.Lease]:
    """Hold the folder: two compactions at once would remove what the other one has just put in its place."""
    place = f"{root}/_compaction"
    storage.make_directory(place)
    try:
        held = lease.acquire(place)
    except HomeInUse:
        raise UsageError(f"{root} is being compacted by {lease.holder(place)}: wait until that has ended") from None
    held.start_renewing(lambda _: None)  # `check` says so before the next step
    try:
        yield held
    finally:
        held.release()


def _merge(root: str, batches: list[str], target: str) -> None:
    session = SparkSession.builder.getOrCreate()
    inference = "spark.sql.sources.partitionColumnTypeInference.enabled"
    before = session.conf.get(inference)
    session.conf.set(inference, "false")  # or a folder day=01 would come back as day=1
    try:
        frame = session.read.option("basePath", root).option("mergeSchema", "true").parquet(*batches).drop("batch")
    finally:
        session.conf.set(inference, before or "true")
    files = [unquote(file) for file in frame.inputFiles()]  # they come as URIs
    size = sum(hadoop.file_size(file) or 0 for file in files)
    below = [folder for file in files for folder in file.rpartition("/batch=")[2].split("/")[1:-1]]
    folders = list(dict.fromkeys(unquote(folder.partition("=")[0]) for folder in below))
    frame.coalesce(max(1, round(size / FILE_BYTES))).write.partitionBy(*folders).parquet(target)


def _exchange(root: str, held: lease.Lease, batches: list[int], temporary: str) -> None:
    """Put what was merged in the place of its batches; whatever part of that was done before a crash."""
    if storage.exists(f"{root}/{temporary}"):
        for n in batches:
            held.check()
            storage.delete(f"{root}/batch={n}")
            if storage.exists(f"{root}/batch={n}"):  # its rows would be there twice
                raise OSError(f"cannot remove {root}/batch={n}")
        storage.publish(f"{root}/{temporary}", f"{root}/batch={batches[-1]}")
    storage.delete(f"{root}/_compacting")
