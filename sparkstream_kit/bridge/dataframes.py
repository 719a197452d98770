"""DataFrames and RDDs: text without Python workers, freeing local checkpoints.

Classes are those of PySpark and Spark 4.2.1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from pyspark import RDD
from pyspark.errors import utils
from pyspark.serializers import UTF8Deserializer
from pyspark.sql import DataFrame, SparkSession

from .jvm import context, is_running, scala_object, view


def is_text(rdd: RDD[Any]) -> bool:
    """Whether the RDD holds Java strings, as PySpark's socket and text file streams do (UTF8Deserializer)."""
    return isinstance(rdd._jrdd_deserializer, UTF8Deserializer)


def text_frame(session: SparkSession, rdd: RDD[str]) -> DataFrame:
    """An RDD of Java strings as a DataFrame with the column `value` (string), without a Python worker.

    SparkSession.createDataset with Encoders.STRING.
    """
    strings = session._jvm.org.apache.spark.sql.Encoders.STRING()  # type: ignore[union-attr]
    return DataFrame(session._jsparkSession.createDataset(rdd._jrdd.rdd(), strings).toDF(), session)


def is_computed(frame: DataFrame) -> bool:
    """Whether a job has computed all rows of a local checkpoint that was not eager (LogicalRDD, RDD.isCheckpointed).

    One that reads it may have: the last step of a job checkpoints the RDDs that it read (RDD.doCheckpoint).
    """
    return bool(frame._jdf.queryExecution().logical().rdd().isCheckpointed())


def compute(frame: DataFrame) -> None:
    """Compute all rows of a local checkpoint that was not eager (LogicalRDD, RDD.count)."""
    frame._jdf.queryExecution().logical().rdd().count()


def free(frame: DataFrame) -> None:
    """Drop the blocks of a local checkpoint, which DataFrame.unpersist does not drop (LogicalRDD.rdd)."""
    leaf = frame._jdf.queryExecution().logical()
    if leaf.getClass().getSimpleName() == "LogicalRDD":
        leaf.rdd().unpersist(False)


def is_cached(frame: DataFrame) -> bool:
    """Whether all rows of a persisted frame are in Spark's cache (CachedRDDBuilder.isCachedColumnBuffersLoaded)."""
    found = frame.sparkSession._jsparkSession.sharedState().cacheManager().lookupCachedData(frame._jdf)
    return bool(found.isDefined() and found.get().cachedRepresentation().cacheBuilder().isCachedColumnBuffersLoaded())


def uses_clock(frame: DataFrame) -> bool:
    """Whether a frame has an expression such as current_timestamp or now.

    By the pattern bits that each node of the analyzed plan has of all below it (TreeNode.containsPattern,
    TreePattern.CURRENT_LIKE, which current_user and current_database have, too); any text of a plan that shares
    expressions, as that of a parser does, could fill the memory.
    """
    patterns = scala_object(view().org.apache.spark.sql.catalyst.trees, "TreePattern")
    return bool(frame._jdf.queryExecution().analyzed().containsPattern(patterns.CURRENT_LIKE()))


def unsupported_columns(frame: DataFrame, kind: str) -> list[str]:
    """The columns whose types Spark's "json" or "parquet" cannot hold, as it finds out itself only when it writes.

    FileFormat.supportDataType of JsonFileFormat and ParquetFileFormat.
    """
    formats = view().org.apache.spark.sql.execution.datasources
    file_format = formats.json.JsonFileFormat() if kind == "json" else formats.parquet.ParquetFileFormat()
    schema = frame._jdf.schema()
    if file_format.supportDataType(schema):
        return []
    return [
        f"{field.name()} {field.dataType().simpleString()}"
        for field in schema.fields()
        if not file_format.supportDataType(field.dataType())
    ]


def silence_expected_warnings() -> None:
    """Silence warnings about what the kit does on purpose (log4j2's Configurator.setLevel).

    One comes for each local checkpoint that `free` drops, the other for rtrim with two arguments, which Column offers.
    """
    log4j = view().org.apache.logging.log4j
    for logger in ("rdd.MapPartitionsRDD", "sql.catalyst.analysis.FunctionResolution"):
        log4j.core.config.Configurator.setLevel(f"org.apache.spark.{logger}", log4j.Level.ERROR)


@contextlib.contextmanager
def without_lines() -> Iterator[None]:
    """Do not note which line of the program makes a Column or a DataFrame, which takes two calls for each.

    Errors do not name the line then, unless the application set spark.python.sql.dataFrameDebugging.enabled
    (pyspark.errors.utils.is_debugging_enabled, which keeps what it has found; SparkContext._conf, of which getConf
    copies every entry).
    """
    before = utils._enable_debugging_cache
    if is_running() and not context()._conf.contains("spark.python.sql.dataFrameDebugging.enabled"):
        vars(utils)["_enable_debugging_cache"] = False
    try:
        yield
    finally:
        utils._enable_debugging_cache = before


@contextlib.contextmanager
def expected_failures() -> Iterator[None]:
    """Do not log tasks that fail meanwhile, as the caller tries something (log4j2's LogManager and Configurator)."""
    log4j = view().org.apache.logging.log4j
    names = [f"org.apache.spark.{name}" for name in ("executor.Executor", "scheduler.TaskSetManager")]
    levels = {name: log4j.LogManager.getLogger(name).getLevel() for name in names}
    try:
        for name in names:
            log4j.core.config.Configurator.setLevel(name, log4j.Level.OFF)
        yield
    finally:
        for name, level in levels.items():
            log4j.core.config.Configurator.setLevel(name, level)
