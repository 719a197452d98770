"""Snapshots: frames kept under the home as Parquet, each with a manifest of its files; state keeps its newest two.

Spark silently skips a file of no bytes and never misses one that is gone; the manifest detects both. A snapshot is
written beside its name and moved there, so one that is there is whole. It outlives code and Spark versions.
"""

from __future__ import annotations

import json
import logging
import uuid

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from ..bridge import jvm
from ..errors import UsageError
from . import storage

log = logging.getLogger(__name__)

_NOTE = "_files"


def keep(frame: DataFrame, path: str) -> bool:
    """Write the frame; False where the name is taken already."""
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}-{uuid.uuid4().hex}"
    frame.write.parquet(temporary)
    storage.write_new(f"{temporary}/{_NOTE}", json.dumps(storage.sizes(temporary)))
    return storage.publish(temporary, path)


def read(session: SparkSession, *paths: str) -> DataFrame:
    """What was kept under these names; UsageError if a file of it is gone or has another size."""
    for path in paths:
        _check_whole(path)
    return session.read.parquet(*paths)


def saves(directory: str) -> list[int]:
    """The batches after which the state was saved, oldest first."""
    return sorted(int(name) for name in storage.names(directory) if name.isdigit())


def save(frame: DataFrame, directory: str, n: int) -> None:
    """Save the state after batch n, then remove all but the newest two."""
    if n in saves(directory):
        return
    keep(frame, f"{directory}/{n}")
    for old in [str(n) for n in saves(directory)[:-2]] + storage.hidden(directory):
        storage.delete(f"{directory}/{old}")


def load(session: SparkSession, directory: str, newest: int, like: DataFrame) -> tuple[int, DataFrame]:
    """The newest readable save after batch `newest` or before, with its n; (0, an empty frame) without one.

    Columns added since start as null. Columns that were removed or have another type are a UsageError. A save that
    cannot be read is set aside (renamed) and the one before it is used.
    """
    for n in reversed([n for n in saves(directory) if n <= newest]):
        path = f"{directory}/{n}"
        try:
            frame = read(session, path)
            # every column of every row: a damaged file is found here and not in the middle of a batch
            frame.write.format("noop").mode("overwrite").save()
        except Exception as error:
            log.warning("the saved state %s cannot be read and is set aside: %s", path, jvm.reason(error))
            storage.publish(path, f"{directory}/damaged-{n}-{uuid.uuid4().hex}")
            continue
        return n, _fitted(frame, like, path)
    return 0, like


def _check_whole(path: str) -> None:
    try:
        noted = json.loads(storage.read(f"{path}/{_NOTE}"))
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(f"{path} has no note of its files ({error}): restore the home from a copy") from None
    found = storage.sizes(path)
    if found != noted:
        changed = sorted(name for name in noted.keys() | found.keys() if noted.get(name) != found.get(name))
        raise UsageError(
            f"{path} is damaged: {changed[0]} has {found.get(changed[0], 'no')} bytes, and was written with "
            f"{noted.get(changed[0], 'none')}; restore the home from a copy"
        )


def _fitted(frame: DataFrame, like: DataFrame, path: str) -> DataFrame:
    saved = {field.name: field.dataType for field in frame.schema}
    wanted = {field.name: field.dataType for field in like.schema}
    wrong = [f"{name} is gone" for name in saved if name not in wanted]
    wrong += [
        f"{name} was {saved[name].simpleString()} and is {kind.simpleString()} now"
        for name, kind in wanted.items()
        if name in saved and saved[name] != kind
    ]
    if wrong:
        raise UsageError(
            f"the saved state {path} does not fit the job any more ({'; '.join(wrong)}): give the changed state "
            "another name= to start it anew, or bring the columns back"
        )
    return frame.select(
        *(F.col(name) if name in saved else F.lit(None).cast(kind).alias(name) for name, kind in wanted.items())
    )
