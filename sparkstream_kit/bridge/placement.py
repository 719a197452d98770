"""How the rows of a frame lie in the executors: in how many partitions, by which keys, and how large they are.

Classes are in org.apache.spark, Spark 4.2.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, SparkSession

from .jvm import context
from .rows import LOGICAL_RDD, is_by

LOGICAL_RELATION = "org.apache.spark.sql.execution.datasources.LogicalRelation"

LEAST, MOST = 4 << 20, 128 << 20
"""Bytes of a task. For fewer, starting another task and exchanging its rows costs more than it saves; the most is the
default of Spark's own readers (spark.sql.files.maxPartitionBytes)."""


def task_size(total: int) -> int:
    """The bytes of a task if all cores share the work."""
    return min(max(-(-total // context().defaultParallelism), LEAST), MOST)


SHUFFLES = "spark.sql.shuffle.partitions"


def follows_cores(session: SparkSession) -> bool:
    """Whether nobody has set how many tasks a shuffle has, so that it is Spark's default, 200 (SparkContext._conf)."""
    return not context()._conf.contains(SHUFFLES) and session.conf.get(SHUFFLES) == "200"


def widen_shuffles(session: SparkSession, before: int = 0) -> int:
    """Let each shuffle that Spark plans have a task for each core, if these have become more; returns how many."""
    cores = max(before, context().defaultParallelism)
    if cores > before:
        session.conf.set(SHUFFLES, str(cores))
    return cores


def partitions(frame: DataFrame, keys: Sequence[str]) -> int | None:
    """How many partitions the rows are in, those of a key in one of them; None unless they are known to be placed so.

    A frame that is made row by row of a local checkpoint has its rows where that has them (LogicalRDD).
    """
    leaf = _leaf(frame)
    if leaf.getClass().getName() != LOGICAL_RDD:
        return None
    count = int(leaf.rdd().getNumPartitions())
    return count if count == 1 or is_by(leaf.outputPartitioning(), keys) else None


def tasks(frames: Sequence[DataFrame]) -> int | None:
    """How many tasks fit the rows of all frames, by what is known of their sizes; None if that of the first is not.

    If the first one has no rows, as a new state, these are those of the largest batch among the others.
    """
    first, *others = map(stored_bytes, frames)
    if first is None:
        return None
    if first <= EMPTY * _partitions(frames[0]):
        return max(map(_partitions, frames[1:]), default=1)
    total = first + sum(size or 0 for size in others)
    return max(1, -(-total // task_size(total)))


EMPTY = 24
"""Bytes that a partition of a local checkpoint has without rows."""


def _leaf(frame: DataFrame) -> Any:
    """Where the rows of a frame come from, the first of several (TreeNode.collectLeaves)."""
    return frame._jdf.queryExecution().analyzed().collectLeaves().head()


def _partitions(frame: DataFrame) -> int:
    """The partitions that the rows come from, as far as they are known (LogicalRDD)."""
    leaf = _leaf(frame)
    return int(leaf.rdd().getNumPartitions()) if leaf.getClass().getName() == LOGICAL_RDD else 1


def stored_bytes(frame: DataFrame) -> int | None:
    """The bytes of a local checkpoint, if the executors have reported them by now, or of files.

    LogicalRDD, RDD.isCheckpointed, status.AppStatusStore.rdd; sql.execution.datasources.LogicalRelation.
    """
    leaf = _leaf(frame)
    kind = leaf.getClass().getName()
    if kind == LOGICAL_RELATION:
        return int(leaf.stats().sizeInBytes())
    if kind != LOGICAL_RDD or not leaf.rdd().isCheckpointed():
        return None
    try:
        stored = context()._jsc.sc().statusStore().rdd(leaf.rdd().id())
    except Py4JJavaError:  # not reported yet
        return None
    return int(stored.memoryUsed() + stored.diskUsed())
