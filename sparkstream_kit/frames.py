"""Frames in the batches of a stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyspark import RDD
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from . import bridge


def each_frame(
    write: Callable[[DataFrame], object], schema: StructType | str | None = None
) -> Callable[[RDD[Any]], None]:
    """A function of a DataFrame as a callback for `foreachRDD`.

        lines.foreachRDD(each_frame(lambda frame: frame.groupBy("value").count().show()))

    A DStream of text (socketTextStream, textFileStream) becomes a frame with the column value: string,
    without a Python worker. Other RDDs go through createDataFrame with the schema given; without one their
    columns are inferred, and an empty batch, which has nothing to infer from, is skipped.
    """

    def callback(rdd: RDD[Any]) -> None:
        session = SparkSession.builder.getOrCreate()
        if bridge.is_text(rdd):
            write(bridge.text_frame(session, rdd))
        elif schema is not None or not rdd.isEmpty():
            write(session.createDataFrame(rdd, schema))

    return callback
