"""Write each batch into a directory of its own: text, JSON lines, Parquet."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from json import dumps, loads
from typing import Literal

from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F
from pyspark.sql.types import AtomicType

from ..bridge import dataframes, hadoop
from ..columns import Columns, column_names
from ..contracts import Batch
from ..errors import HomeDamaged, OutputRefused
from ..frames import FrameStream
from ..recovery import lease, storage
from ..recovery.home import BEFORE, Home
from ._committed import KEPT_BATCHES, check_newest, check_same, ranges_of

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

    Raises OutputRefused at the start for other columns, and for a directory of another output or home.

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

    Columns: any but `batch`; a null is a missing field.

    Guarantee: exactly once, as `parquet` explains.

    Raises OutputRefused at the start for a column `batch` or one of a type that JSON does not hold, and for a directory
    of another output or home.

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

    Columns: any but `batch`. `partition_by` names one or more of them, "day, host" or ["day", "host"], that become
    folders `<column>=<value>/` below the batch. Every batch leaves small files: `sparkstream compact` merges them.

    Guarantee: exactly once. A batch is written below `.attempts/`, and moved to its name when it is complete; an
    existing one is left alone, and has its offset ranges beside it: another batch of its number, as of a home that was
    restored from an older copy, is refused. What a crash leaves in `.attempts/` is deleted with the next batch. A
    directory belongs to one output of one home, because batch 7 of another has other rows. After `sparkstream rewind`
    or `backfill` a batch replaces its folder; those that `sparkstream compact` has merged cannot run again.

    Raises OutputRefused at the start for a missing column, one named `batch` or of a type that Parquet does not hold,
    and for a directory of another output or home.

    Cost: grows with the rows of the batch.

    URI: parquet:DIRECTORY?partition_by=...
    """
    _write_files(stream, directory, name, "parquet", column_names(partition_by))


def _write_files(stream: FrameStream, directory: str, name: str, kind: Kind, partition_by: Sequence[str] = ()) -> None:
    def check(frame: DataFrame, before: Batch) -> None:
        folder = f"{hadoop.qualified(directory)}/{name}"  # refuses what the JVM cannot name
        _check_columns(frame, name, kind, partition_by)
        claim(folder, before.home_id, f"{kind}:{name}")
        if not before.again:  # left by a rewind that was taken back
            storage.delete(f"{folder}/{AGAIN}")
        if before.backfill:
            _bring_back(folder)
        else:
            forget_given_up(folder)
            check_newest(folder, name, max(batches(folder), default=0), before.n, _INSTEAD)
        _is_there(folder, name, before)

    runs_again = False

    def rewind(before: Batch, until: int) -> None:
        nonlocal runs_again
        folder = f"{hadoop.qualified(directory)}/{name}"
        runs_again = not before.backfill
        mark = f"{folder}/{AGAIN if runs_again else BACKFILL}"
        is_mine = storage.exists(mark) and not runs_again  # of an earlier start of this backfill
        # before the look: a compaction looks for it once it has begun
        storage.write(mark, f"{until}\n" if runs_again else f"{before.backfill}\n{stream.graph.home.root}\n")
        why = _why_not_replaceable(folder, before.n)
        if why:
            if not is_mine:
                storage.delete(mark)
            raise OutputRefused(why)

    def write(frame: DataFrame, batch: Batch) -> int | None:
        nonlocal runs_again
        rows = None
        folder = f"{hadoop.qualified(directory)}/{name}"
        claim(folder, batch.home_id, f"{kind}:{name}")
        target, attempts = f"{folder}/batch={batch.n}", f"{folder}/{_ASIDE if batch.backfill else '.attempts'}"
        if not _is_there(folder, name, batch) or batch.again:
            temporary = f"{attempts}/batch={batch.n}-{uuid.uuid4().hex}"
            counted = Observation()
            if stream.rejects:  # counting takes a tenth of a small batch, so only these are
                frame = frame.observe(counted, F.count("*").alias("rows"))
            frame.write.partitionBy(*partition_by).format(kind).save(temporary)
            rows = int(counted.get["rows"]) if stream.rejects else None
            storage.write(f"{temporary}/{RANGES}", ranges_of(batch))
            if batch.again and storage.exists(target):
                storage.publish(target, f"{temporary}{BEFORE}")
            if not storage.publish(temporary, target):
                _is_there(folder, name, batch)  # another driver was faster: its batch must be the same
        for left in storage.names(attempts):  # of dead drivers; none can be published now that the batch exists
            n = left.partition("-")[0].removeprefix("batch=")
            if not n.isdigit() or int(n) <= batch.n:  # a later one belongs to a driver that has taken over
                storage.delete(f"{attempts}/{left}")
        if not batch.backfill:
            forget_given_up(folder)
        if runs_again and not batch.again:
            storage.delete(f"{folder}/{AGAIN}")
        runs_again = batch.again
        return rows

    def has(batch: Batch) -> bool:
        return _is_there(f"{hadoop.qualified(directory)}/{name}", name, batch)

    stream.for_each_batch(write, name=f"{kind}:{name}", check=check, replaces=has, rewind=rewind)


def _check_columns(frame: DataFrame, name: str, kind: Kind, partition_by: Sequence[str]) -> None:
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
    deep = [column for column in partition_by if not isinstance(frame.schema[column].dataType, AtomicType)]
    if deep:
        raise OutputRefused(
            f"cannot partition the output {name!r} by {', '.join(deep)}, whose values cannot be names of folders: its "
            f"columns are {columns}"
        )
    if kind != "text":
        check_types(frame, name, kind)
    hidden = [column for column in frame.columns if column.lower() == "batch"]
    if hidden and kind != "text":  # text keeps no names of columns
        raise OutputRefused(
            f"the column {hidden[0]!r} of the output {name!r} would be hidden by the folders batch=<n>, which readers "
            f"take for a column of that name: rename it, for example with withColumnRenamed({hidden[0]!r}, 'batch_id')"
        )


def check_types(frame: DataFrame, name: str, kind: Kind) -> None:
    """OutputRefused for columns of types that the format cannot hold."""
    wrong = dataframes.unsupported_columns(frame, kind)
    if wrong:
        raise OutputRefused(
            f"the output {name!r} cannot write {', '.join(wrong)}, a type that {kind} does not hold: cast it, for "
            "example to string, or leave it out"
        )


# --- what is in a folder: batches with their offset ranges, and whose they are

RANGES = "_ranges"
"""In the folder of a batch: its offset ranges. Spark reads no data from names that begin with an underscore."""

_COMPACTED = "_compacted"
"""Up to which batch a compaction has merged, and the ranges of the newest ones merged, which have no folder left."""

AGAIN = "_again"
"""In the folder of an output, from the start of a rewind to the first new batch after it: the last batch that runs
again."""

BACKFILL = "_backfill"
"""In the folder of an output that a backfill has begun to write: its id, and the home that it belongs to."""

COMPACTION, COMPACTING = "_compaction", "_compacting"
"""In the folder of an output: the lease of a compaction, and what it is about to exchange."""

_INSTEAD = "another directory"


def batches(folder: str) -> list[int]:
    """The numbers of the batches that have a folder."""
    parts = (name.partition("=") for name in storage.names(folder))
    return sorted(int(n) for kind, _, n in parts if kind == "batch" and n.isdigit())


def _why_not_replaceable(folder: str, n: int) -> str:
    """Why not all batches after one can be replaced; empty if they can."""
    if lease.holder(f"{folder}/{COMPACTION}"):
        return f"{folder} is being compacted: wait until that is over, then start again"
    if storage.exists(f"{folder}/{COMPACTING}"):
        return f"a compaction of {folder} was killed: finish it by sparkstream compact {folder}, then start again"
    merged, _ = _compacted(folder)
    if merged <= n:
        return ""
    return (
        f"{folder} has the batches up to {merged} compacted into one, so that none of them can be replaced: "
        f"only batches after {merged} can"
    )


_ASIDE = ".backfill"
"""In the folder of an output: what a backfill has not finished, and the batch that it is about to replace."""


def _bring_back(folder: str) -> None:
    """Return the batch that a backfill was replacing when it was killed."""
    for name in storage.names(f"{folder}/{_ASIDE}"):
        target = f"{folder}/{name.partition('-')[0]}"
        if name.endswith(BEFORE) and not storage.exists(target):
            storage.publish(f"{folder}/{_ASIDE}/{name}", target)
    storage.delete(f"{folder}/{_ASIDE}")


def forget_given_up(folder: str) -> None:
    """Leave no trace of a backfill that is done or given up, and return what it was replacing."""
    if storage.exists(f"{folder}/{BACKFILL}") and not backfilled_by(folder):
        _bring_back(folder)
        storage.delete(f"{folder}/{BACKFILL}")


def backfilled_by(folder: str) -> str:
    """The home whose backfill replaces batches of a folder; empty if there is none, or none any more."""
    id, _, home = (_read(f"{folder}/{BACKFILL}") or "").strip().partition("\n")
    try:
        found = Home(home, "").backfill() if home else None
    except (HomeDamaged, OSError):
        return home
    return home if found is not None and found.id == id else ""


def _is_there(folder: str, name: str, batch: Batch) -> bool:
    """Whether the batch is in the folder, also merged into another; OutputRefused if it is one with other ranges."""
    if storage.exists(f"{folder}/batch={batch.n}"):
        known = _read(f"{folder}/batch={batch.n}/{RANGES}")
    else:
        until, merged = _compacted(folder)
        if str(batch.n) not in merged:
            check_newest(folder, name, until, batch.n, _INSTEAD)
            return False
        known = merged[str(batch.n)]
    if known is not None:  # else it was written before ranges were kept
        check_same(folder, name, batch, known, _INSTEAD)
    return True


def keep_ranges(folder: str, n: int, merged: str) -> None:
    """Put the offset ranges of a batch beside what it is merged into, which gets its number."""
    known = _read(f"{folder}/batch={n}/{RANGES}")
    if known is not None:
        storage.write(f"{merged}/{RANGES}", known)


def note_compacted(folder: str, numbers: Sequence[int]) -> None:
    """Keep the offset ranges of batches whose folders are about to be merged into that of the newest."""
    until, known = _compacted(folder)
    merged = {str(n): _read(f"{folder}/batch={n}/{RANGES}") for n in numbers[-KEPT_BATCHES:]}
    kept = sorted({**known, **merged}.items(), key=lambda one: int(one[0]))[-KEPT_BATCHES:]
    storage.write(f"{folder}/{_COMPACTED}", dumps({"until": max(until, *numbers), "ranges": dict(kept)}))


def _compacted(folder: str) -> tuple[int, dict[str, str | None]]:
    text = _read(f"{folder}/{_COMPACTED}")
    if text is None:
        return 0, {}
    found = loads(text)
    return found["until"], found["ranges"]


def _read(path: str) -> str | None:
    try:
        return storage.read(path)
    except FileNotFoundError:
        return None


def claim(folder: str, home_id: str, output: str) -> None:
    """Claim the folder for an output of a home, of several exactly one; OutputRefused if it is another's.

    Batches of two homes share their numbers, and so do those of two outputs.
    """
    note = f"{folder}/_home"
    if _read(note) is None:
        with contextlib.suppress(FileExistsError):  # another was faster
            storage.write_new(note, f"{home_id}\n{output}\n")
    owner, *outputs = (_read(note) or "").splitlines() or [""]
    if owner != home_id:
        raise OutputRefused(
            f"{folder} holds the batches of the home {owner}, and this is the home {home_id}: write to another "
            "directory"
        )
    if not outputs:  # claimed before outputs were noted
        storage.write(note, f"{home_id}\n{output}\n")
    elif outputs != [output]:
        raise OutputRefused(
            f"{folder} belongs to the output {outputs[0]!r}, and this is the output {output!r} of the same home: write "
            "to another directory"
        )
