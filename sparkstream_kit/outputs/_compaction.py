"""Merge the small files that the Parquet output leaves with every batch into few large ones."""

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
"""Size of a compacted file, measured on the files merged into it: what one Spark task reads at once."""


def compact(folder: str) -> int:
    """Merge the batches of a Parquet output, all but the newest, into few large files; returns how many it merged.

    Merged rows get the number of the newest batch merged. The job may keep running, since it only adds newer batches. A
    reader that runs during the exchange misses rows or fails: where readers never pause, use a Delta table. The folder
    needs twice its space meanwhile.

    Guarantee: no row is lost or doubled. The exchange is recorded before the first batch is deleted, so the next
    compaction finishes one that was killed. Of two at once, the second is refused.

    Raises UsageError for a folder that no Parquet output wrote, and while another compaction runs.

    Cost: grows with the bytes of the folder.
    """
    root = hadoop.qualified(folder)
    if not storage.exists(f"{root}/_home") or any(_kinds(root, n) - {"parquet", "folder"} for n in _batches(root)):
        raise UsageError(
            f"{folder!r} is not the folder of a Parquet output: name the one it writes to, DIRECTORY/NAME for "
            "parquet:DIRECTORY"
        )
    with _alone(root) as held:
        note = f"{root}/_compacting"
        if storage.exists(note):
            _exchange(root, held, **json.loads(storage.read(note)))
        for name in storage.hidden(root):
            if name.startswith(".compacted-"):  # of a compaction killed before its exchange began
                storage.delete(f"{root}/{name}")
        merged = _batches(root)[:-1]
        full = [f"{root}/batch={n}" for n in merged if _kinds(root, n)]  # Spark cannot read zero files
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
    """What the folder of a batch holds: "folder" for folders of partitions, and the extensions of its files."""
    shown = [name for name in storage.names(f"{root}/batch={n}") if not name.startswith((".", "_"))]
    return {"folder" if "=" in name else name.rpartition(".")[2] for name in shown}


@contextmanager
def _alone(root: str) -> Iterator[lease.Lease]:
    """Lock the folder: each of two compactions at once would delete the other's result."""
    place = f"{root}/_compaction"
    storage.make_directory(place)
    try:
        held = lease.acquire(place)
    except HomeInUse:
        raise UsageError(f"{root} is being compacted by {lease.holder(place)}: wait until it has finished") from None
    held.start_renewing(lambda _: None)  # a lost lease is noticed by `check`, before the next step
    try:
        yield held
    finally:
        held.release()


def _merge(root: str, batches: list[str], target: str) -> None:
    session = SparkSession.builder.getOrCreate()
    inference = "spark.sql.sources.partitionColumnTypeInference.enabled"
    before = session.conf.get(inference)
    session.conf.set(inference, "false")  # or the folder day=01 would become day=1
    try:
        reader = session.read.option("basePath", root).option("mergeSchema", "true")
        frame = reader.parquet(*map(hadoop.escaped, batches)).drop("batch")
    finally:
        session.conf.set(inference, before or "true")
    files = [unquote(file) for file in frame.inputFiles()]  # these are URIs
    size = sum(hadoop.file_size(file) or 0 for file in files)
    below = [folder for file in files for folder in file.rpartition("/batch=")[2].split("/")[1:-1]]
    folders = list(dict.fromkeys(unquote(folder.partition("=")[0]) for folder in below))
    frame.coalesce(max(1, round(size / FILE_BYTES))).write.partitionBy(*folders).parquet(target)


def _exchange(root: str, held: lease.Lease, batches: list[int], temporary: str) -> None:
    """Replace the batches by what they were merged into; continues an exchange that a crash interrupted."""
    if storage.exists(f"{root}/{temporary}"):
        for n in batches:
            held.check()
            storage.delete(f"{root}/batch={n}")
            if storage.exists(f"{root}/batch={n}"):  # its rows would be doubled
                raise OSError(f"cannot remove {root}/batch={n}")
        storage.publish(f"{root}/{temporary}", f"{root}/batch={batches[-1]}")
    storage.delete(f"{root}/_compacting")
