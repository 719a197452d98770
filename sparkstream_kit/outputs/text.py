"""Text files: one directory for each batch."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from pyspark import RDD
from pyspark.streaming import DStream

from ..bridge import hadoop


def text_files(dstream: DStream[Any], directory: str, suffix: str = "", *, keep_empty: bool = True) -> None:
    """Write each batch as text into `<directory>/batch-<milliseconds since 1970>[.<suffix>]/`.

    What DStream.saveAsTextFiles does, but a batch is there completely or not at all, and its name comes from
    the exact batch time (Spark's goes through local time, whose hour repeats when daylight saving ends).
    `keep_empty` says whether a batch without elements leaves a directory.

    Guarantee: once per batch. A batch that Spark runs again after a crash replaces its first attempt, because
    it is recomputed from at least the same input; an empty re-run (a receiver without a write-ahead log)
    replaces nothing.
    """

    def save(time: datetime, rdd: RDD[Any]) -> None:
        empty = rdd.isEmpty()
        if empty and not keep_empty:
            return
        name = f"batch-{round(time.timestamp() * 1000)}" + (f".{suffix}" if suffix else "")
        target, attempt = f"{directory}/{name}", f"{directory}/.{name}-{uuid.uuid4().hex}"
        if empty and hadoop.path_exists(target):
            return
        rdd.saveAsTextFile(attempt)
        hadoop.delete(target)
        hadoop.rename(attempt, target)

    dstream.foreachRDD(save)
