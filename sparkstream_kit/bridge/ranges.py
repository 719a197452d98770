"""Files as a DataFrame whose rows are in their order, inside the JVM: lines of exact ranges of bytes, and Parquet.

Spark's own readers put the largest file first (FileSourceScanExec.createReadRDD).

Classes are in org.apache.spark.sql, Spark 4.2.1.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

from pyspark.sql import DataFrame, SparkSession

from . import placement, rows
from .jvm import context, scala_object, scala_seq, view


def lines(session: SparkSession, places: Sequence[tuple[str, int, int]]) -> DataFrame:
    """The lines of ranges (path, start, end) of plain files, in their order; each range begins and ends with a line.

    Columns: value: string, without the line end, LF, CR or CRLF. The files may grow meanwhile. Hadoop's
    LineRecordReader skips up to the first line end in a range that does not begin at 0, and reads every line that
    begins at or before its end; so a range is given from one line end to another, and may be cut anywhere in between
    (TextFileFormat). None may begin at 1, after an empty first line, which would be read once more.

    Cost: grows with the ranges, about a millisecond each, and the bytes.
    """
    schema = view().org.apache.spark.sql.types.StructType().add("value", "string")
    assert all(start != 1 for _, start, _ in places)
    size = placement.task_size(sum(end - start for _, start, end in places))
    cut = [(path, at, min(at + size, end)) for path, start, end in places for at in range(start, end, size)]
    exact = [_Part(path, max(0, start - 1), end - 1, end) for path, start, end in cut]
    return _scan(session, "text.TextFileFormat", schema, exact)


def parquet(session: SparkSession, files: Sequence[tuple[str, int]], like: DataFrame) -> DataFrame:
    """The rows of Parquet files (path, size in bytes), in their order, with the columns of `like` (ParquetFileFormat).

    Cost: grows with the files, about a millisecond each, and the rows; all columns are read.
    """
    parts = [_Part(path, 0, size, size) for path, size in files]
    return _scan(session, "parquet.ParquetFileFormat", like._jdf.schema(), parts)


class _Part(NamedTuple):
    path: str
    start: int
    end: int
    size: int


def _scan(session: SparkSession, kind: str, schema: Any, parts: Sequence[_Part]) -> DataFrame:
    """What a FileFormat reads from parts of files, in about as many tasks as there are cores.

    PartitionedFile, FileScanRDD.
    """
    jvm, gateway = view(), context()._gateway
    sql, spark = jvm.org.apache.spark.sql, session._jsparkSession
    sources = sql.execution.datasources
    nothing = scala_object(jvm.scala.collection.immutable, "Map").empty()
    reader = _reader(session, kind, schema, spark.sessionState().newHadoopConf().getPropsWithPrefix(""))
    no_row = scala_object(sql.catalyst, "InternalRow").empty()
    paths = scala_object(jvm.org.apache.spark.paths, "SparkPath")
    no_hosts = gateway.new_array(jvm.java.lang.String, 0)  # type: ignore[union-attr]
    partitions = []
    for n, group in enumerate(_split(parts)):
        files = gateway.new_array(sources.PartitionedFile, len(group))  # type: ignore[union-attr]
        for i, (path, start, end, size) in enumerate(group):
            where = paths.fromPathString(path)
            files[i] = sources.PartitionedFile(no_row, where, start, end - start, no_hosts, 0, size, nothing)
        partitions.append(sources.FilePartition(n, files))
    made_options = sql.catalyst.FileSourceOptions(scala_object(sql.catalyst.util, "CaseInsensitiveMap").apply(nothing))
    rdd = sources.FileScanRDD(spark, reader, scala_seq(partitions), schema, scala_seq([]), nothing, made_options)
    return rows.frame(session, rdd, schema, sum(part.end - part.start for part in parts))


@functools.lru_cache(maxsize=16)
def _reader(session: SparkSession, kind: str, schema: Any, settings: Any) -> Any:
    """The function that reads parts of files (FileFormat.buildReaderWithPartitionValues).

    It broadcasts all settings, so one is kept while these are equal; making one takes longer than all else of a scan.
    """
    sql, spark = view().org.apache.spark.sql, session._jsparkSession
    nothing, no_columns = scala_object(view().scala.collection.immutable, "Map").empty(), sql.types.StructType()
    as_rows = nothing.updated("returning_batch", "false")  # FileFormat.OPTION_RETURNING_BATCH
    return functools.reduce(getattr, kind.split("."), sql.execution.datasources)().buildReaderWithPartitionValues(
        spark, schema, no_columns, schema, scala_seq([]), as_rows, spark.sessionState().newHadoopConf()
    )


def _split(parts: Sequence[_Part]) -> list[list[_Part]]:
    """The parts of each task, in order; one without any if there are none."""
    size = placement.task_size(sum(part.end - part.start for part in parts))
    made: list[list[_Part]] = [[]]
    done = 0
    for part in parts:
        length = part.end - part.start
        if done + length / 2 >= size * len(made):
            made.append([])
        made[-1].append(part)
        done += length
    return made
