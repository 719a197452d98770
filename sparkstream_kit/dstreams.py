"""Helpers for bare DStreams: batches as frames, text files, running sums, windows. Each works alone."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from typing import Any, TypeVar

from pyspark import RDD
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType
from pyspark.streaming import DStream, StreamingContext

from . import durations
from .bridge import dataframes, hadoop, streaming
from .contracts import Batch, Write
from .durations import Duration

Number = TypeVar("Number", int, float)


def each_frame(
    write: Callable[[DataFrame], object], schema: StructType | str | None = None
) -> Callable[[RDD[Any]], None]:
    """A function of a DataFrame as a callback for `foreachRDD`.

        lines.foreachRDD(each_frame(lambda frame: frame.groupBy("value").count().show()))

    >>> from sparkstream_kit.testing import run_batches
    >>> def count(frame):
    ...     print(frame.columns, frame.count())
    >>> _ = run_batches(lambda numbers: numbers.foreachRDD(each_frame(count, "n int")), [[(1,), (2,)]])
    ['n'] 2

    A DStream of text (socketTextStream, textFileStream) becomes a frame with the column value: string,
    without a Python worker. Other RDDs go through createDataFrame with the schema given; without one their
    columns are inferred, and an empty batch, which has nothing to infer from, is skipped.
    """

    def callback(rdd: RDD[Any]) -> None:
        if schema is not None or dataframes.is_text(rdd):
            write(to_frame(rdd, schema))
        elif not rdd.isEmpty():
            write(SparkSession.builder.getOrCreate().createDataFrame(rdd))

    return callback


def each_batch(
    write: Write, home_id: str, schema: StructType | str | None = None
) -> Callable[[datetime, RDD[Any]], None]:
    """A function of a frame and its batch, as outputs are, as a callback for `foreachRDD` of a bare DStream.

        table = SqlTable("sqlite:///counts.db", "counts")
        counts.foreachRDD(each_batch(table.write, "word counts", "word string, n int"))

    A bare DStream has no home and no log: `home_id` is a name for the application, and n is the batch time in ms
    since 1970. A batch that Spark runs again after a crash keeps its time, so an output that commits once skips it.

    Guarantee: once for each batch time. That is exactly once where Spark finds the same rows for the same time again
    (receivers with a write-ahead log); where it finds others, those of the first commit stay.
    """

    def callback(time: datetime, rdd: RDD[Any]) -> None:
        # the time is local and without a zone; timestamp() and astimezone() know which of two repeated hours it is
        batch = Batch(round(time.timestamp() * 1000), time.astimezone(timezone.utc), home_id)
        each_frame(lambda frame: write(frame, batch), schema)(rdd)

    return callback


def to_frame(rdd: RDD[Any], schema: StructType | str | None = None) -> DataFrame:
    """An RDD as a frame: strings as the column value, without a Python worker where the JVM holds them.

    >>> spark = getfixture("spark")
    >>> to_frame(spark.sparkContext.parallelize([(1, "a")]), "n int, word string").collect()
    [Row(n=1, word='a')]
    """
    session = SparkSession.builder.getOrCreate()
    if dataframes.is_text(rdd):
        return dataframes.text_frame(session, rdd)
    return session.createDataFrame(rdd, schema or "string")


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


def running_sum(new_values: Iterable[Number], total: Number | None) -> Number:
    """Add a batch's values to the total so far.

    Pass it as it is: `pairs.updateStateByKey(running_sum)`.

    >>> running_sum([2, 3], 10)
    15

    A key seen for the first time has no total yet, and one that is absent from a batch keeps what it had:

    >>> running_sum([2, 3], None)
    5
    >>> running_sum([], 15)
    15

    The result is never None, so Spark never drops a key: state grows with the number of distinct keys.
    """
    return sum(new_values) + (total or 0)


def window_and_slide(ssc: StreamingContext, window: Duration, slide: Duration | None = None) -> tuple[Any, Any]:
    """Window and slide in seconds (floats, which PySpark takes but declares as int), checked against the interval.

    The slide is one batch interval unless given: `lines.window(*window_and_slide(ssc, "5s", "2s"))`.
    Raises UsageError where one is no multiple of the interval.
    """
    interval = streaming.batch_interval_ms(ssc)
    spans = (
        durations.multiple("window", window, interval),
        interval if slide is None else durations.multiple("slide", slide, interval),
    )
    return durations.seconds(f"{spans[0]}ms"), durations.seconds(f"{spans[1]}ms")
