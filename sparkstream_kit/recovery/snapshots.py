"""Snapshots: frames stored under the home as Parquet, each with a manifest of its files.

Spark silently skips empty or missing part files; the manifest detects that. A snapshot is written under a temporary
name and renamed, so it is always complete. It outlives code and Spark versions. A state keeps its newest two, in
directories named after the batch they follow: 40 and 60, or 60 and 60.copy after a graceful stop.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import uuid
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, StructType

from ..bridge import hadoop, jvm, ranges
from ..columns import quoted
from ..errors import HomeDamaged, StateRefused
from . import storage

log = logging.getLogger(__name__)

_MANIFEST = "_manifest"
_ROWS = "_rows"
_COPY = ".copy"
MEANS = "means"
"""Key of what a column means, in its metadata."""

Metadata = Mapping[str, Mapping[str, str]]
"""Of columns, by their names: what they mean, and more."""

NOTHING: Metadata = MappingProxyType({})
"""Columns of which nobody says anything mean anything."""


def write(frame: DataFrame, path: str, epoch: int = 0, *, count: bool = False) -> bool:
    """Write the frame, under a lease; False if the path exists. With `count`, `rows` knows how many there are."""
    temporary, counted = storage.attempt(path, epoch), Observation()
    (frame.observe(counted, F.count("*").alias(_ROWS)) if count else frame).write.parquet(temporary)
    if count:
        storage.write_new(f"{temporary}/{_ROWS}", str(counted.get[_ROWS]))
    storage.write_new(f"{temporary}/{_MANIFEST}", json.dumps(storage.sizes(temporary)))
    return storage.publish(temporary, path)


def rows(path: str) -> int | None:
    """The number of rows that were written to a path; None if they were not counted."""
    try:
        return int(storage.read(f"{path}/{_ROWS}"))
    except (FileNotFoundError, ValueError):
        return None


def read(session: SparkSession, *paths: str) -> DataFrame:
    """What was written to these paths; HomeDamaged if a file is missing or has another size."""
    for path in paths:
        _check_manifest(path)
    return session.read.parquet(*map(hadoop.escaped, paths))


def read_in_order(session: SparkSession, *paths: str) -> DataFrame:
    """As `read`, with the rows in the order of the paths, and below a path as they were written."""
    files = [(f"{path}/{name}", size) for path in paths for name, size in sorted(_check_manifest(path).items())]
    like = session.read.parquet(*map(hadoop.escaped, paths))
    return ranges.parquet(session, files, like)


def numbers(directory: str) -> list[int]:
    """The batches for which a state has a snapshot, oldest first."""
    return sorted({_number(name) for name in _names(directory)})


def saved(session: SparkSession, directory: str, n: int) -> DataFrame:
    """The rows of a state after batch n, from whichever of its snapshots can be read; else HomeDamaged."""
    *others, last = _of(directory, n)
    for path in others:
        with contextlib.suppress(HomeDamaged):
            return read(session, path)
    return read(session, last)


def saved_rows(directory: str, n: int) -> int | None:
    """The number of rows of a state after batch n; None if they were not counted."""
    return rows(_of(directory, n)[0])


def _of(directory: str, n: int) -> list[str]:
    """The snapshot after batch n, and its copy, as far as they are there."""
    return [f"{directory}/{name}" for name in _names(directory) if _number(name) == n] or [f"{directory}/{n}"]


def oldest_needed(directory: str) -> int:
    """The earliest batch that a state may be loaded from, should its newest snapshot be damaged; 0 if there is none."""
    names = _names(directory)
    return _number(names[0]) if len(names) > 1 else 0


def is_final(directory: str, n: int) -> bool:
    """Whether batch n has a snapshot and its copy."""
    return {str(n), f"{n}{_COPY}"} <= set(_names(directory))


def save(
    frame: DataFrame,
    directory: str,
    n: int,
    about: Metadata = NOTHING,
    *,
    final: bool = False,
    epoch: int = 0,
) -> None:
    """Write the snapshot of a state after batch n, under a lease.

    What is known `about` its columns is saved as metadata of their fields. With `final` it is written twice, so that
    nothing before it is needed even if one of them is damaged.
    """
    for name in [str(n), f"{n}{_COPY}"] if final else [str(n)]:
        if name not in _names(directory):
            write(described(frame, about), f"{directory}/{name}", epoch, count=True)


def described(frame: DataFrame, about: Metadata) -> DataFrame:
    """The frame with metadata of its columns, as far as there is some."""
    return frame.select(
        *(
            F.col(quoted(name)).alias(name, metadata=dict(about[name])) if name in about else F.col(quoted(name))
            for name in frame.columns
        )
    )


def prune(directory: str, epoch: int = 0, keep_from: int = sys.maxsize) -> None:
    """Remove all but the newest two snapshots of a state; only once those of all states are written.

    A state over another one that was not saved in time replays batches for which it needs the other's older snapshot.
    Of the others about ten stay, from which the state can be computed after batch `keep_from` and every later one.
    """
    names = _names(directory)
    kept = spaced([_number(name) for name in names], keep_from)
    for old in [name for name in names[:-2] if _number(name) not in kept] + storage.abandoned(directory, epoch):
        storage.delete(f"{directory}/{old}")


def spaced(numbers: Sequence[int], keep_from: int) -> list[int]:
    """The newest number up to `keep_from`, or the first one, and about ten after it.

    >>> spaced(range(20, 2020, 20), 1000)[:4], spaced([20, 40], 60), spaced([], 0)
    ([1000, 1100, 1200, 1300], [40], [])
    """
    if not numbers:
        return []
    kept = [max((n for n in numbers if n <= keep_from), default=numbers[0])]
    step = max(1, (numbers[-1] - keep_from) // 10)
    for n in numbers:
        if n >= kept[-1] + step:
            kept.append(n)
    return kept


def forget(directory: str, n: int) -> None:
    """Remove the snapshots of a state after batch n, newest first."""
    for name in reversed(_names(directory)):
        if _number(name) > n:
            storage.delete(f"{directory}/{name}")


def load(
    session: SparkSession,
    directory: str,
    newest: int,
    like: DataFrame,
    about: Metadata = NOTHING,
    *,
    replayable: bool = True,
    changes: bool = True,
) -> tuple[int, DataFrame]:
    """The newest readable snapshot up to batch `newest`, preceded by its n; without one, 0 and the empty `like`.

    Columns added since are null. Columns that were removed, or have another type or meaning, raise StateRefused. A
    snapshot that cannot be read is set aside (renamed), and the previous one is used. If none can be read and batches
    before are no longer `replayable`, all stay as they are: the cause may pass, as when Spark is being stopped. Without
    `changes` they stay in any case, as another process may write the state.
    """
    unreadable = []
    for name in reversed(_names(directory)):
        n, path = _number(name), f"{directory}/{name}"
        if n > newest:
            continue
        hadoop.escaped(path)  # raises what would look like damage below
        try:
            frame = read(session, path)
            # reads every column of every row, so that a damaged file is found now and not in the middle of a batch
            frame.write.format("noop").mode("overwrite").save()
        except Exception as error:
            if jvm.is_gone(error):
                raise
            log.warning("the snapshot %s cannot be read: %s", path, jvm.reason(error))
            unreadable.append((n, path))
            continue
        if changes:
            _set_aside(directory, unreadable)
        return n, _fitted(frame, like, about, path)
    if replayable and changes:
        _set_aside(directory, unreadable)
    return 0, like


def _set_aside(directory: str, snapshots: list[tuple[int, str]]) -> None:
    for n, path in snapshots:
        aside = f"{directory}/damaged-{n}-{uuid.uuid4().hex}"
        storage.publish(path, aside)
        log.warning("%s is set aside as %s", path, aside)


def _names(directory: str) -> list[str]:
    return sorted((name for name in storage.names(directory) if name.removesuffix(_COPY).isdigit()), key=_order)


def _order(name: str) -> tuple[int, str]:
    return _number(name), name


def _number(name: str) -> int:
    return int(name.removesuffix(_COPY))


def _check_manifest(path: str) -> dict[str, int]:
    """The files at a path, with their sizes in bytes."""
    try:
        written: dict[str, int] = json.loads(storage.read(f"{path}/{_MANIFEST}"))
    except (FileNotFoundError, ValueError) as error:
        raise HomeDamaged(f"{path} has no manifest ({error}): restore the home from a backup") from None
    found = storage.sizes(path)
    if found != written:
        changed = sorted(name for name in written.keys() | found.keys() if written.get(name) != found.get(name))
        raise HomeDamaged(
            f"{path} is damaged: {changed[0]} has {found.get(changed[0], 'no')} bytes and was written with "
            f"{written.get(changed[0], 'none')}; restore the home from a backup"
        )
    return written


def _fitted(frame: DataFrame, like: DataFrame, about: Metadata, path: str) -> DataFrame:
    saved = {field.name: field.dataType for field in frame.schema}
    meant = {field.name: field.metadata[MEANS] for field in frame.schema if MEANS in field.metadata}
    wanted = {field.name: field.dataType for field in like.schema}
    wrong = [f"{name} is gone" for name in saved if name not in wanted]
    wrong += [
        f"{name} was {saved[name].simpleString()} and is now {kind.simpleString()}"
        for name, kind in wanted.items()
        # the text says nothing of nullability, which Parquet does not keep
        if name in saved and not _holds(saved[name], kind)
    ]
    wrong += [
        f"{name} was {meant[name]} and is now {known[MEANS]}"
        for name, known in about.items()
        if name in wanted and MEANS in known and meant.get(name, known[MEANS]) != known[MEANS]
    ]
    if wrong:
        raise StateRefused(
            f"the saved state {path} no longer fits the job ({'; '.join(wrong)}): give the changed state another "
            "name= to start it from scratch, or bring the columns back"
        )
    return frame.select(
        *(_grown(F.col(quoted(name)), saved.get(name), kind).alias(name) for name, kind in wanted.items())
    )


def _holds(saved: DataType, wanted: DataType) -> bool:
    """Whether values of a saved type fit: the type is the same, or a struct that has got fields."""
    if isinstance(saved, StructType) and isinstance(wanted, StructType):
        kinds = {field.name: field.dataType for field in wanted}
        return all(field.name in kinds and _holds(field.dataType, kinds[field.name]) for field in saved)
    return saved.simpleString() == wanted.simpleString()


def _grown(value: Column, saved: DataType | None, wanted: DataType) -> Column:
    """A saved value in the type that it has now: columns and fields that were added are null."""
    if saved is None:
        return F.lit(None).cast(wanted)
    if saved.simpleString() == wanted.simpleString():
        return value
    assert isinstance(saved, StructType) and isinstance(wanted, StructType)
    known = {field.name: field.dataType for field in saved}
    fields = (_grown(value.getField(f.name), known.get(f.name), f.dataType).alias(f.name) for f in wanted)
    return F.when(value.isNotNull(), F.struct(*fields))
