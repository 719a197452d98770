"""Merge the small files that the Parquet output leaves with every batch into few large ones."""

from __future__ import annotations

import contextlib
import json
import logging
import uuid
from collections.abc import Iterator, Sequence
from functools import reduce
from shlex import quote
from typing import NamedTuple
from urllib.parse import unquote

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from ..bridge import dataframes, hadoop, jvm
from ..errors import UsageError
from ..recovery import lease, storage
from ._files import AGAIN, COMPACTING, COMPACTION, backfilled_by, batches, forget_given_up, keep_ranges, note_compacted
from ._widening import wider

log = logging.getLogger(__name__)

FILE_BYTES = 128 * 1024 * 1024
"""Size of a compacted file, measured on the files merged into it: what one Spark task reads at once."""


def compact(folder: str) -> int:
    """Merge the batches of a Parquet output, all but the newest, into few large files; returns how many it merged.

    Merged rows get the number of the newest batch merged. Columns that came later are null in the rows before; where a
    type became a wider one (int, then bigint), all rows get that. Where it changed in another way (int, then string),
    or the partitions did, a warning names the columns, and the batches before and after are merged by themselves.

    The job may keep running, since it only adds newer batches. A reader that runs during the exchange misses rows or
    fails: where readers never pause, use a Delta table. The folder needs twice its space meanwhile.

    Guarantee: no row is lost or doubled. The exchange is recorded before the first batch is deleted, so the next
    compaction finishes one that was killed. Of two at once, the second is refused. The offset ranges of the newest
    1,000 batches merged are kept, so that a home restored from an older copy is still refused.

    Raises UsageError for a folder that no Parquet output wrote, and while another compaction runs or batches run again.

    Cost: grows with the bytes of the folder.
    """
    root = hadoop.qualified(folder)
    if not storage.exists(f"{root}/_home") or any(_kinds(root, n) - {"parquet", "folder"} for n in batches(root)):
        raise UsageError(
            f"{folder!r} is not the folder of a Parquet output: name the one it writes to, DIRECTORY/NAME for "
            "parquet:DIRECTORY"
        )
    with lease.alone(f"{root}/{COMPACTION}", f"{root} is being compacted") as held:  # two would delete what is merged
        note = f"{root}/{COMPACTING}"
        if storage.exists(note):
            _exchange(root, held, **json.loads(storage.read(note)))
        if storage.exists(f"{root}/{AGAIN}"):
            raise UsageError(
                f"{folder!r} has batches that run again, after a rewind: compact it when they are done; if the job has "
                f"given this output up, delete {root}/{AGAIN}"
            )
        if home := backfilled_by(root):
            raise UsageError(
                f"{folder!r} has batches that a backfill runs again: compact it when that is done, or give it up by "
                f"sparkstream backfill {quote(home)} --cancel"
            )
        forget_given_up(root)
        for name in storage.hidden(root):
            if name.startswith(".compacted-"):  # of a compaction killed before its exchange began
                storage.delete(f"{root}/{name}")
        merged = batches(root)[:-1]
        groups = _groups(root, [n for n in merged if _kinds(root, n)])  # Spark cannot read zero files
        count = 0
        for i, group in enumerate(groups):
            # batches without files go with those before them
            first = group.batches[0] if i else 0
            after = groups[i + 1].batches[0] if i + 1 < len(groups) else merged[-1] + 1
            numbers = [n for n in merged if first <= n < after]
            if len(numbers) < 2:
                continue
            temporary = f".compacted-{uuid.uuid4().hex}"
            _merge(root, group, f"{root}/{temporary}")
            keep_ranges(root, numbers[-1], f"{root}/{temporary}")
            held.check()
            note_compacted(root, numbers)
            storage.write(note, json.dumps({"batches": numbers, "temporary": temporary}))
            _exchange(root, held, numbers, temporary)
            count += len(numbers)
        return count


def _kinds(root: str, n: int) -> set[str]:
    """What the folder of a batch holds: "folder" for folders of partitions, and the extensions of its files."""
    shown = [name for name in storage.names(f"{root}/batch={n}") if not name.startswith((".", "_"))]
    return {"folder" if "=" in name else name.rpartition(".")[2] for name in shown}


# --- what can be merged


class _Group(NamedTuple):
    """Batches that can be merged, oldest first, as frames of some of them each."""

    batches: list[int]
    frames: list[DataFrame]
    schema: T.StructType
    """Holds the rows of all frames unchanged."""
    partitions: list[str]
    """Columns that are folders."""
    files: list[str]


def _groups(root: str, full: list[int]) -> list[_Group]:
    """The batches in as few groups as their types allow."""
    groups: list[_Group] = []
    for run in _runs(root, full):
        last = groups[-1] if groups else None
        schema = wider(last.schema, run.schema) if last else None
        if last is None or schema is None or last.partitions != run.partitions:
            if last is not None:
                log.warning(
                    "the batches up to %d of %s are merged without those from %d on, as no type holds the values of "
                    "both: %s before, %s after",
                    last.batches[-1],
                    root,
                    run.batches[0],
                    *_differences(last, run),
                )
            groups.append(run)
        else:
            assert isinstance(schema, T.StructType)
            frames, files = [*last.frames, *run.frames], [*last.files, *run.files]
            groups[-1] = _Group([*last.batches, *run.batches], frames, schema, last.partitions, files)
    return groups


def _runs(root: str, full: Sequence[int]) -> Iterator[_Group]:
    """Batches that Spark reads in one: where it cannot merge their columns, it is asked for each half."""
    if not full:
        return
    try:
        with dataframes.expected_failures() if len(full) > 1 else contextlib.nullcontext():
            frame = _read(root, full)
    except (PySparkException, jvm.JavaError):  # CANNOT_MERGE_SCHEMAS, conflicting partitions
        if len(full) == 1:
            raise
        half = len(full) // 2
        yield from _runs(root, full[:half])
        yield from _runs(root, full[half:])
        return
    files = [unquote(file) for file in frame.inputFiles()]  # these are URIs
    below = [folder for file in files for folder in file.rpartition("/batch=")[2].split("/")[1:-1]]
    partitions = list(dict.fromkeys(unquote(folder.partition("=")[0]) for folder in below))
    yield _Group(list(full), [frame], frame.schema, partitions, files)


def _read(root: str, numbers: Sequence[int]) -> DataFrame:
    session = SparkSession.builder.getOrCreate()
    inference = "spark.sql.sources.partitionColumnTypeInference.enabled"
    before = session.conf.get(inference)
    session.conf.set(inference, "false")  # or the folder day=01 would become day=1
    try:
        reader = session.read.option("basePath", root).option("mergeSchema", "true")
        return reader.parquet(*(hadoop.escaped(f"{root}/batch={n}") for n in numbers)).drop("batch")
    finally:
        session.conf.set(inference, before or "true")


def _differences(before: _Group, after: _Group) -> tuple[str, str]:
    """The columns that keep two groups apart, as each has them."""
    if before.partitions != after.partitions:
        return f"partitions {before.partitions}", f"partitions {after.partitions}"
    pairs = [(one, other) for one in before.schema for other in after.schema if one.name.lower() == other.name.lower()]
    differ = [pair for pair in pairs if wider(pair[0].dataType, pair[1].dataType) is None]
    said = [", ".join(f"{pair[i].name} {pair[i].dataType.simpleString()}" for pair in differ) for i in (0, 1)]
    return said[0], said[1]


# --- the merge


def _merge(root: str, group: _Group, target: str) -> None:
    frame = reduce(DataFrame.union, [frame.to(group.schema) for frame in group.frames])
    size = sum(hadoop.file_size(file) or 0 for file in group.files)
    frame.coalesce(max(1, round(size / FILE_BYTES))).write.partitionBy(*group.partitions).parquet(target)


def _exchange(root: str, held: lease.Lease, batches: list[int], temporary: str) -> None:
    """Replace the batches by what they were merged into; continues an exchange that a crash interrupted."""
    if storage.exists(f"{root}/{temporary}"):
        for n in batches:
            held.check()
            storage.delete(f"{root}/batch={n}")
            if storage.exists(f"{root}/batch={n}"):  # its rows would be doubled
                raise OSError(f"cannot remove {root}/batch={n}")
        storage.publish(f"{root}/{temporary}", f"{root}/batch={batches[-1]}")
    storage.delete(f"{root}/{COMPACTING}")
