"""Exact ranges of bytes of files as a DataFrame of lines, inside the JVM.

Classes are in org.apache.spark.sql, Spark 4.2.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from .jvm import context, view


def lines(session: SparkSession, places: Sequence[tuple[str, int, int]]) -> DataFrame:
    """The lines of ranges (path, start, end) of plain files, in their order; each range begins and ends with a line.

    Columns: value: string, without the line end, LF, CR or CRLF. The files may grow meanwhile. Hadoop's
    LineRecordReader skips up to the first line end in a range that does not begin at 0, and reads every line that
    begins at or before its end; so a range is given from one line end to another (FileScanRDD, PartitionedFile,
    TextFileFormat).

    Cost: grows with the ranges, about a millisecond each, and the bytes.
    """
    jvm, gateway = view(), context()._gateway
    sql, spark = jvm.org.apache.spark.sql, session._jsparkSession
    sources = sql.execution.datasources
    nothing, no_columns = _object(jvm.scala.collection.immutable, "Map").empty(), sql.types.StructType()
    schema = no_columns.add("value", sql.types.DataTypes.StringType)
    reader = sources.text.TextFileFormat().buildReaderWithPartitionValues(
        spark, schema, no_columns, schema, _seq([]), nothing, spark.sessionState().newHadoopConf()
    )
    no_row, paths = _object(sql.catalyst, "InternalRow").empty(), _object(jvm.org.apache.spark.paths, "SparkPath")
    no_hosts = gateway.new_array(jvm.java.lang.String, 0)  # type: ignore[union-attr]
    partitions = []
    for n, group in enumerate(_split(places, context().defaultParallelism)):
        files = gateway.new_array(sources.PartitionedFile, len(group))  # type: ignore[union-attr]
        for i, (path, start, end) in enumerate(group):
            first = max(0, start - 1)
            where = paths.fromPathString(path)
            files[i] = sources.PartitionedFile(no_row, where, first, end - 1 - first, no_hosts, 0, end, nothing)
        partitions.append(sources.FilePartition(n, files))
    made_options = sql.catalyst.FileSourceOptions(_object(sql.catalyst.util, "CaseInsensitiveMap").apply(nothing))
    rdd = sources.FileScanRDD(spark, reader, _seq(partitions), schema, _seq([]), nothing, made_options)
    return DataFrame(spark.internalCreateDataFrame(rdd, schema, False), session)


def _split(places: Sequence[tuple[str, int, int]], parts: int) -> list[list[tuple[str, int, int]]]:
    """Groups of about the same number of bytes, in order."""
    total = sum(end - start for _, start, end in places)
    groups: list[list[tuple[str, int, int]]] = []
    done = 0
    for place in places:
        if not groups or done * parts >= total * len(groups):
            groups.append([])
        groups[-1].append(place)
        done += place[2] - place[1]
    return groups


def _object(package: Any, name: str) -> Any:
    """A Scala object, by the MODULE$ of its class."""
    return getattr(getattr(package, f"{name}$"), "MODULE$")


def _seq(items: Sequence[Any]) -> Any:
    """A Scala Seq (CollectionConverters.asScala)."""
    made = view().java.util.ArrayList()
    for item in items:
        made.add(item)
    return view().scala.jdk.javaapi.CollectionConverters.asScala(made).toSeq()
