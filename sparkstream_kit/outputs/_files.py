"""Write each batch into a directory of its own: text, JSON lines, Parquet."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Literal

from pyspark.sql import DataFrame

from ..bridge import hadoop
from ..columns import Columns, column_names
from ..contracts import Batch
from ..errors import OutputRefused
from ..frames import FrameStream
from ..recovery import storage

Kind = Literal["text", "json", "parquet"]


def text(stream: FrameStream, directory: str, *, name: str = "text") -> None:
    """Write each batch as lines of text into `<directory>/<name>/batch=<n>/`.

    >>> import tempfile
    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import local_session, run_batches
    >>> folder = tempfile.TemporaryDirectory()
    >>> def build(lines):
    ...     ss.outputs.text(ss.FrameStream.of(lines), folder.name)
    >>> _ = run_batches(build, [["one"], ["two"]])
    >>> local_session().read.text(f"{folder.name}/text").sort("batch").collect()
    [Row(value='one', batch=1), Row(value='two', batch=2)]

    Columns: one, a string, whatever its name.

    Guarantee: exactly once, as `parquet` explains.

    Raises OutputRefused at the start for other columns, and in the first batch for a directory of another home.

    Cost: grows with the rows of the batch.

    URI: text:DIRECTORY
    """
    _write_files(stream, directory, name, "text")


def json(stream: FrameStream, directory: str, *, name: str = "json") -> None:
    """Write each batch as JSON lines into `<directory>/<name>/batch=<n>/`.

    >>> import tempfile
    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import local_session, run_batches
    >>> folder = tempfile.TemporaryDirectory()
    >>> def build(lines):
    ...     ss.outputs.json(ss.FrameStream.of(lines).count(), folder.name)
    >>> _ = run_batches(build, [["a"], ["b", "c"]])
    >>> local_session().read.text(f"{folder.name}/json").sort("batch").collect()
    [Row(value='{"count":1}', batch=1), Row(value='{"count":2}', batch=2)]

    Columns: any; a null is a missing field.

    Guarantee: exactly once, as `parquet` explains.

    Raises OutputRefused in the first batch for a directory of another home.

    Cost: grows with the rows of the batch.

    URI: json:DIRECTORY
    """
    _write_files(stream, directory, name, "json")


def parquet(stream: FrameStream, directory: str, *, partition_by: Columns = (), name: str = "parquet") -> None:
    """Write each batch as Parquet into `<directory>/<name>/batch=<n>/`, which Spark reads as a column `batch`.

    >>> import tempfile
    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import local_session, run_batches
    >>> folder = tempfile.TemporaryDirectory()
    >>> def build(hits):
    ...     ss.outputs.parquet(ss.FrameStream.of(hits, "host string, n int"), folder.name, name="hits")
    >>> _ = run_batches(build, [[("a", 1)], [("b", 2)]])
    >>> local_session().read.parquet(f"{folder.name}/hits").sort("batch").collect()
    [Row(host='a', n=1, batch=1), Row(host='b', n=2, batch=2)]

    Columns: any. `partition_by` names one or more of them, "day, host" or ["day", "host"], that become folders
    `<column>=<value>/` below the batch. Every batch leaves small files: `sparkstream compact` merges them.

    Guarantee: exactly once. A batch is written below `.attempts/`, and moved to its name when it is complete; an
    existing one is left alone. What a crash leaves in `.attempts/` is deleted with the next batch. A directory belongs
    to one home, because batch 7 of another home has other rows.

    Raises OutputRefused at the start for a missing column, and in the first batch for a directory of another home.

    Cost: grows with the rows of the batch.

    URI: parquet:DIRECTORY?partition_by=...
    """
    _write_files(stream, directory, name, "parquet", column_names(partition_by))


def _write_files(stream: FrameStream, directory: str, name: str, kind: Kind, partition_by: Sequence[str] = ()) -> None:
    def check(frame: DataFrame, before: Batch) -> None:
        hadoop.qualified(directory)  # refuses what the JVM cannot name
        columns = ", ".join(f"{column} {type}" for column, type in frame.dtypes)
        missing = [column for column in partition_by if column not in frame.columns]
        if missing or len(partition_by) == len(frame.columns):
            raise OutputRefused(
                f"cannot partition the output {name!r} by {', '.join(missing or partition_by)}: its columns are "
                f"{columns}; name some of these, and leave at least one for the files"
            )
        if kind == "text" and [type for _, type in frame.dtypes] != ["string"]:
            raise OutputRefused(
                f"the output {name!r} writes text, which takes one column of strings, but the columns are {columns}: "
                "select one, or write json"
            )

    def write(frame: DataFrame, batch: Batch) -> None:
        folder = f"{hadoop.qualified(directory)}/{name}"
        claim(folder, batch.home_id)
        target, attempts = f"{folder}/batch={batch.n}", f"{folder}/.attempts"
        if not storage.exists(target):
            temporary = f"{attempts}/batch={batch.n}-{uuid.uuid4().hex}"
            frame.write.partitionBy(*partition_by).format(kind).save(temporary)
            storage.publish(temporary, target)
        for left in storage.names(attempts):  # of dead drivers; none can be published now that the batch exists
            n = left.partition("-")[0].removeprefix("batch=")
            if not n.isdigit() or int(n) <= batch.n:  # a later one belongs to a driver that has taken over
                storage.delete(f"{attempts}/{left}")

    stream.for_each_batch(write, name=f"{kind}:{name}", check=check)


def claim(folder: str, home_id: str) -> None:
    """Claim the folder for a home; OutputRefused if another has it, since batches of two homes share their numbers."""
    note = f"{folder}/_home"
    try:
        owner = storage.read(note)
    except FileNotFoundError:
        storage.write_new(note, home_id)
        return
    if owner != home_id:
        raise OutputRefused(
            f"{folder} holds the batches of the home {owner}, and this is the home {home_id}: write to another "
            "directory"
        )
