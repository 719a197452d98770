"""Directories of files, one for each batch: text, JSON lines, Parquet."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from pyspark.sql import DataFrame

from ..bridge import hadoop
from ..columns import column_names
from ..contracts import Batch
from ..errors import OutputRefused
from ..frames import FrameStream
from ..recovery import storage


def text(stream: FrameStream, directory: str, *, name: str = "text") -> None:
    """Write each batch as lines of text into `<directory>/<name>/batch=<n>/`; the frame has one string column.

    Guarantee: exactly once. See `parquet`.
    """
    _write_files(stream, directory, name, "text")


def json(stream: FrameStream, directory: str, *, name: str = "json") -> None:
    """Write each batch as JSON lines into `<directory>/<name>/batch=<n>/`. Guarantee: exactly once. See `parquet`."""
    _write_files(stream, directory, name, "json")


def parquet(
    stream: FrameStream, directory: str, *, partition_by: str | Sequence[str] = (), name: str = "parquet"
) -> None:
    """Write each batch as Parquet into `<directory>/<name>/batch=<n>/`, which Spark reads as a column `batch`.

    With `partition_by` (column names, or one text with commas between them) its files lie in folders below that,
    `<column>=<value>/`. Every batch leaves small files: `sparkstream compact` makes few large ones of them.

    Guarantee: exactly once. A batch is written below `.attempts/` and moved to its name when it is whole; one that is
    there already is left as it is. What a crash leaves in `.attempts/` goes with the next batch. The directory belongs
    to one home: another home is refused, since its batch 7 is not this one's. UsageError at the start for columns that
    do not fit.
    """
    _write_files(stream, directory, name, "parquet", column_names(partition_by))


def _write_files(stream: FrameStream, directory: str, name: str, kind: str, partition_by: Sequence[str] = ()) -> None:
    def check(frame: DataFrame, before: Batch) -> None:
        columns = ", ".join(f"{column} {type}" for column, type in frame.dtypes)
        missing = [column for column in partition_by if column not in frame.columns]
        if missing or len(partition_by) == len(frame.columns):
            raise OutputRefused(
                f"the output {name!r} is to be partitioned by {', '.join(missing or partition_by)}, and has {columns}: "
                "name some of these columns, and leave at least one for the files"
            )
        if kind == "text" and [type for _, type in frame.dtypes] != ["string"]:
            raise OutputRefused(
                f"the output {name!r} writes lines, one column of strings, and the columns are {columns}: select one, "
                "or write json"
            )

    def write(frame: DataFrame, batch: Batch) -> None:
        folder = f"{hadoop.qualified(directory)}/{name}"
        claim(folder, batch.home_id)
        target, attempts = f"{folder}/batch={batch.n}", f"{folder}/.attempts"
        if not storage.exists(target):
            temporary = f"{attempts}/batch={batch.n}-{uuid.uuid4().hex}"
            frame.write.partitionBy(*partition_by).format(kind).save(temporary)
            storage.publish(temporary, target)
        for left in storage.names(attempts):  # by drivers that died; now that the batch is there, none can be published
            storage.delete(f"{attempts}/{left}")

    stream.for_each_batch(write, name=f"{kind}:{name}", check=check)


def claim(folder: str, home_id: str) -> None:
    """Make the folder this home's, or refuse: the batches of two homes have the same numbers."""
    note = f"{folder}/_home"
    try:
        owner = storage.read(note)
    except FileNotFoundError:
        storage.write_new(note, home_id)
        return
    if owner != home_id:
        raise OutputRefused(
            f"{folder} holds the batches of the home {owner}, this is the home {home_id}: write into another directory"
        )
