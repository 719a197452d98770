"""Write rows into Delta tables: Parquet files, and a log of which ones belong to the table."""

from __future__ import annotations

import itertools
import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, RemoveAction
from pyspark.sql import DataFrame

from ..bridge import hadoop
from ..columns import Columns, column_names
from ..contracts import Batch
from ..errors import OutputRefused, UsageError
from ..frames import FrameStream
from ..recovery import storage
from ._committed import KEPT_BATCHES, check_newest, check_same, ranges_of
from ._files import claim


def delta(stream: FrameStream, directory: str, *, partition_by: Columns = (), name: str = "delta") -> None:
    """Append each batch to the Delta table `<directory>/<name>`, which is created if missing.

    >>> import tempfile
    >>> from deltalake import DeltaTable
    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> folder = tempfile.TemporaryDirectory()
    >>> def build(hits):
    ...     ss.outputs.delta(ss.FrameStream.of(hits, "host string, n int"), folder.name, name="hits")
    >>> _ = run_batches(build, [[("a", 1)], [("b", 2)]])
    >>> sorted(DeltaTable(f"{folder.name}/hits").to_pyarrow_dataset().to_table().to_pylist(), key=lambda row: row["n"])
    [{'host': 'a', 'n': 1}, {'host': 'b', 'n': 2}]

    Columns: any that Delta has a type for; those of an existing table, in its order. `partition_by` names one or more
    columns that become folders. Executors write the files and the driver adds them to the table's log, so the directory
    must be on a disk that all of them share. Files that a crash leaves behind belong to no version of the table, and
    are deleted when the batch is written again, but not after a rewind, as versions before that have them.

    Guarantee: exactly once. The commit carries Delta's application transaction (home and name, batch) and the offset
    ranges: a batch that runs again finds it and is skipped, one of its number with other ranges, as of a home that was
    restored from an older copy, is refused, and if two drivers commit the same batch, Delta refuses the second. After
    `sparkstream rewind` or `backfill` a commit replaces the files of its batch; one whose files were merged, by
    OPTIMIZE, is refused.

    Raises OutputRefused at the start for columns or partitions that differ from the table's, and for a table that
    another output or home writes to; UsageError for a directory that is not on a disk or contains a %, a backslash or a
    line break.

    Cost: grows with the rows of the batch, and with the files of the table, whose log is read in every batch.

    URI: delta:DIRECTORY?partition_by=...
    """

    def folder() -> Path:
        here = storage.local(hadoop.qualified(f"{directory}/{name}"))
        if here is None or re.search(r"[%\\\n]", str(here)):  # deltalake takes paths for URLs
            raise UsageError(
                f"got the directory {directory!r} for a Delta table, expected one on a disk and without %, "
                "backslash or line break"
            )
        return here

    def check(frame: DataFrame, before: Batch) -> None:
        table = _table(folder(), frame, columns, before.home_id, name)
        newest = table.transaction_version(f"{before.home_id}/{name}") or 0
        if not before.backfill:
            check_newest(str(folder()), name, newest, before.n, "another directory")
        _is_there(table, folder(), name, before)

    def has(batch: Batch) -> bool:
        return DeltaTable.is_deltatable(str(folder())) and _is_there(DeltaTable(folder()), folder(), name, batch)

    def rewind(before: Batch, until: int) -> None:
        if DeltaTable.is_deltatable(str(folder())):
            _refuse_merged(DeltaTable(folder()), folder(), before.n + 1, until)

    def write(frame: DataFrame, batch: Batch) -> None:
        table = _table(folder(), frame, columns, batch.home_id, name)
        application = f"{batch.home_id}/{name}"
        if _is_there(table, folder(), name, batch) and not batch.again:
            return
        part, known = folder() / f"batch-{batch.n}" / uuid.uuid4().hex, table.version()
        frame.write.partitionBy(*columns).parquet(f"file:{part}")  # not quoted: Hadoop would keep the %20
        added = [_added(folder(), file, batch) for file in sorted(part.rglob("*.parquet"))]
        table.update_incremental()  # others are committed meanwhile, by the job or by a backfill beside it
        is_there = _is_there(table, folder(), name, batch)
        if is_there and not batch.again:  # another driver was faster
            storage.delete(f"file:{part}")
            return
        newest = max(batch.n, table.transaction_version(application) or 0)
        done = CommitProperties(
            custom_metadata={"batch": str(batch.n), "ranges": ranges_of(batch)},
            # an OPTIMIZE that comes between would keep what is removed here
            max_commit_retries=0 if is_there else None,
            # that of the job stays: two commits that change it at once would conflict
            app_transactions=[] if batch.backfill else [Transaction(application, newest)],
        )
        removed: list[RemoveAction] = []
        if is_there:
            _refuse_merged(table, folder(), batch.n, batch.n)
            now, files = round(time.time() * 1000), _parts(table).get(batch.n, {})
            removed = [RemoveAction(path, True, now, size) for path, size in files.items()]
        storage.sync(part.parent)
        if is_there:  # what that took others have used to commit, and a commit on an older version is refused
            table.update_incremental()
            if _parts(table).get(batch.n, {}) != files:
                raise ConnectionError(f"the files of batch {batch.n} in {folder()} have changed meanwhile")
        table.create_write_transaction([*removed, *added], "append", table.schema(), columns, commit_properties=done)
        _sync_log(folder(), known)
        if not is_there:  # else earlier versions of the table have what was removed
            for left in part.parent.iterdir():
                if left != part:  # of dead drivers; Delta refuses them the batch now that it is committed
                    storage.delete(f"file:{left}")

    columns = column_names(partition_by)
    stream.for_each_batch(write, name=f"delta:{name}", check=check, replaces=has, rewind=rewind)


def _is_there(table: DeltaTable, folder: Path, name: str, batch: Batch) -> bool:
    """Whether the batch is committed; OutputRefused if another batch with its number, or only a later one is."""
    newest = table.transaction_version(f"{batch.home_id}/{name}") or 0
    if newest < batch.n and not batch.again:  # a backfill may have brought it to a table that the job does not write
        return False
    known = _commit(folder, newest, batch)
    if known is not None:
        check_same(str(folder), name, batch, known["ranges"], "another directory")
    elif batch.again:  # nothing was written, or the table has dropped that part of its log
        return batch.n in _parts(table)
    else:
        check_newest(str(folder), name, newest, batch.n, "another directory")
    return True


def _commit(folder: Path, newest: int, batch: Batch) -> dict[str, Any] | None:
    """What the newest commit of a batch says; None if it is too old."""
    # a commit from before numbers were kept is the newest one with ranges, as batches come in their order
    commits = itertools.islice(_commits(folder), None if batch.again else KEPT_BATCHES)
    return next((c for c in commits if "ranges" in c and c.get("batch", str(newest)) == str(batch.n)), None)


def _commits(folder: Path) -> Iterator[dict[str, Any]]:
    """What the commits of a table say, newest first, with the number of files that each added as `added`.

    DeltaTable.history finds none below a # or ?.
    """
    versions = sorted(file for file in (folder / "_delta_log").glob("*.json") if file.stem.isdigit())
    for file in reversed(versions):
        with file.open(encoding="utf-8") as lines:
            actions = [json.loads(line) for line in lines]
        info: dict[str, Any] = next((action["commitInfo"] for action in actions if "commitInfo" in action), {})
        yield info | {"added": sum("add" in action for action in actions)}


def _parts(table: DeltaTable) -> dict[int, dict[str, int]]:
    """The files that the table has of each batch, with their sizes."""
    paths, sizes = (table.get_add_actions().column(name).to_pylist() for name in ("path", "size_bytes"))
    found: dict[int, dict[str, int]] = {}
    for path, size in zip(map(unquote, paths), sizes, strict=True):  # the log has them quoted
        n = path.partition("/")[0].removeprefix("batch-")
        if n.isdigit():
            found.setdefault(int(n), {})[path] = size
    return found


def _refuse_merged(table: DeltaTable, folder: Path, first: int, last: int) -> None:
    """OutputRefused if a batch has lost its files to others: they cannot be taken out of these."""
    parts, seen = _parts(table), set[int]()
    for commit in _commits(folder):
        n = int(commit.get("batch", 0))
        if n not in seen and first <= n <= last and commit["added"] != len(parts.get(n, ())):
            raise OutputRefused(
                f"the Delta table {folder} has the files of batch {n} merged into others, so that it cannot be "
                f"replaced: only batches after {n} can, unless you restore a version of the table from before that"
            )
        seen.add(n)


def _table(folder: Path, frame: DataFrame, partition_by: list[str], home_id: str, name: str) -> DeltaTable:
    """The table, created if missing; OutputRefused if it does not fit the frame or belongs to another output."""
    try:
        wanted = Schema.from_json(json.dumps(_nullable(frame.schema.jsonValue())))
        table = DeltaTable(folder) if DeltaTable.is_deltatable(str(folder)) else None
        if table is not None:
            _check_fits(table, folder, wanted, partition_by)
        folder.mkdir(parents=True, exist_ok=True)
        claim(f"file:{folder}", home_id, f"delta:{name}")
        return table or DeltaTable.create(folder, wanted, mode="ignore", partition_by=partition_by)
    except (DeltaError, ValueError, TypeError) as error:
        raise OutputRefused(f"the Delta table {folder} cannot take the frame: {error}") from None


def _check_fits(table: DeltaTable, folder: Path, wanted: Schema, partition_by: list[str]) -> None:
    there, mine = _columns(table.schema()), _columns(wanted)
    if there != mine:
        wrong = ", ".join(f"{name} {kind}" for name, kind in sorted(set(there) ^ set(mine)))
        raise OutputRefused(
            f"the columns of the Delta table {folder} differ from those of the frame ({wrong or 'in their order'}): "
            "change the frame, or give the output another name="
        )
    if table.metadata().partition_columns != partition_by:
        raise OutputRefused(
            f"the Delta table {folder} is partitioned by {table.metadata().partition_columns}, not by {partition_by}: "
            "keep its partitioning, or give the output another name="
        )


def _nullable(schema: dict[str, object]) -> dict[str, object]:
    """The schema without NOT NULL, which holds for one frame and not for the table."""
    fields = schema["fields"]
    assert isinstance(fields, list)
    return {**schema, "fields": [{**field, "nullable": True, "metadata": {}} for field in fields]}


def _columns(schema: Schema) -> list[tuple[str, str]]:
    return [(field["name"], json.dumps(field["type"])) for field in json.loads(schema.to_json())["fields"]]


def _sync_log(folder: Path, known: int) -> None:
    """fsync the commits after a known one, which deltalake does not do: from here on the batch counts as done."""
    for version in itertools.count(known + 1):
        try:
            with open(folder / "_delta_log" / f"{version:020}.json", "rb") as commit:
                os.fsync(commit.fileno())
        except FileNotFoundError:
            break
    for changed in (folder / "_delta_log", folder):
        storage.sync_directory(changed)


def _added(folder: Path, file: Path, batch: Batch) -> AddAction:
    values: dict[str, str | None] = {}
    for part in file.relative_to(folder).parts[2:-1]:
        column, _, value = part.partition("=")
        values[unquote(column)] = None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value)
    written = round(batch.time.timestamp() * 1000)
    return AddAction(str(file.relative_to(folder)), file.stat().st_size, values, written, True, "{}")
