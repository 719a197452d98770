"""Frames kept under the home as Parquet, each with a note of its files.

Spark passes over a file of no bytes and never misses one that is gone, and so would give part of a frame for the
whole; the note tells. A frame is written beside its name and moved there, so one that is there is whole.
"""

from __future__ import annotations

import json
import uuid

from pyspark.sql import DataFrame, SparkSession

from ..errors import UsageError
from . import storage

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
