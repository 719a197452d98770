"""Helpers for bare DStreams, each usable alone: batches as DataFrames, text files, running sums, windows."""

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
    """Turn a function of a DataFrame into a callback for `foreachRDD`.

        lines.foreachRDD(ss.each_frame(lambda frame: frame.groupBy("value").count().show()))

    A DStream of text (socketTextStream, textFileStream) becomes a DataFrame with the column value: string, without a
    Python worker. Other RDDs go through createDataFrame with the given schema. Without a schema their columns are
    inferred, and an empty batch, which has nothing to infer them from, is skipped.

    Guarantee: that of foreachRDD; a batch that Spark runs again after a crash is passed again.

    Cost: grows with the rows of the batch; rows that are not text pass through Python.

    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> def count(frame):
    ...     print(frame.columns, frame.count())
    >>> _ = run_batches(lambda numbers: numbers.foreachRDD(ss.each_frame(count, "n int")), [[(1,), (2,)]])
    ['n'] 2
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
    """Turn an output, a function of a DataFrame and its batch, into a callback for `foreachRDD` of a bare DStream.

        table = ss.outputs.sql_table("sqlite:///counts.db", "counts")
        counts.foreachRDD(ss.each_batch(table.write, "word counts", "word string, n int"))

    A bare DStream has neither home nor offset log: `home_id` is a name for the application, and n is the batch time in
    ms since 1970. A batch that Spark runs again after a crash keeps its time, so an output that commits once skips it.

    Guarantee: once for each batch time. That is exactly once if Spark has the same rows for the same time again
    (receivers with a write-ahead log); if it has others, those of the first commit stay.

    Cost: grows with what `each_frame` and the function do.

    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> def write(frame, batch):
    ...     print(batch.home_id, batch.n, frame.collect())
    >>> _ = run_batches(lambda numbers: numbers.foreachRDD(ss.each_batch(write, "sums", "n int")), [[(1,)]])
    sums 1000 [Row(n=1)]
    """

    def callback(time: datetime, rdd: RDD[Any]) -> None:
        # the time is local and has no zone; timestamp() and astimezone() know which of two repeated hours it is in
        batch = Batch(round(time.timestamp() * 1000), time.astimezone(timezone.utc), home_id)
        each_frame(lambda frame: write(frame, batch), schema)(rdd)

    return callback


def to_frame(rdd: RDD[Any], schema: StructType | str | None = None) -> DataFrame:
    """An RDD as a DataFrame; strings become the column value, without a Python worker if the JVM holds them.

    Cost: grows with the rows; those that are not text pass through Python.

    >>> from sparkstream_kit.dstreams import to_frame
    >>> from sparkstream_kit.testing import local_session
    >>> pairs = local_session().sparkContext.parallelize([(1, "a")])
    >>> to_frame(pairs, "n int, word string").collect()
    [Row(n=1, word='a')]
    """
    session = SparkSession.builder.getOrCreate()
    if dataframes.is_text(rdd):
        return dataframes.text_frame(session, rdd)
    return session.createDataFrame(rdd, schema or "string")


def text_files(dstream: DStream[Any], directory: str, suffix: str = "", *, keep_empty: bool = True) -> None:
    """Write each batch as text into `<directory>/batch-<milliseconds since 1970>[.<suffix>]/`.

    Like DStream.saveAsTextFiles, but a batch is either complete or not there at all, and its name comes from the exact
    batch time (Spark's goes through local time, in which an hour repeats when daylight saving ends). `keep_empty` says
    whether a batch without elements leaves a directory.

    Guarantee: once per batch. A batch that Spark runs again after a crash replaces its first attempt, since it is
    recomputed from at least the same input; an empty re-run (a receiver without a write-ahead log) replaces nothing.

    Cost: grows with the elements of the batch.

    >>> import os, tempfile
    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     _ = run_batches(lambda lines: ss.text_files(lines, directory, "txt"), [["a"], ["b"]])
    ...     sorted(os.listdir(directory))
    ['batch-1000.txt', 'batch-2000.txt']
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
    """Add the values of a batch to the total so far: `pairs.updateStateByKey(ss.running_sum)`.

    A key seen for the first time has no total yet, and one that is absent from a batch keeps its own. The result is
    never None, so Spark never drops a key.

    Cost: grows with the values of the key; the state grows with all keys.

    >>> import sparkstream_kit as ss
    >>> ss.running_sum([2, 3], 10), ss.running_sum([2, 3], None), ss.running_sum([], 15)
    (15, 5, 15)
    """
    return sum(new_values) + (total or 0)


def window_and_slide(ssc: StreamingContext, window: Duration, slide: Duration | None = None) -> tuple[Any, Any]:
    """Window and slide in seconds, as PySpark takes them, checked against the batch interval.

    They are floats, which PySpark accepts but declares as int. The default of the slide is one batch interval. Raises
    UsageError if either is not a multiple of the batch interval.

    Cost: grows with nothing: arithmetic, once.

    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> def build(lines):
    ...     return lines.window(*ss.window_and_slide(lines.context(), "2s", "1s")).count()
    >>> run_batches(build, [["a", "b"], ["c"]])
    [[2], [3]]
    """
    interval = streaming.batch_interval_ms(ssc)
    spans = (
        durations.multiple("window", window, interval),
        interval if slide is None else durations.multiple("slide", slide, interval),
    )
    return durations.seconds(f"{spans[0]}ms"), durations.seconds(f"{spans[1]}ms")
