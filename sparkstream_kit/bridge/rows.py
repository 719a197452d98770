"""Frames made of rows in the JVM, and the code that Spark generated for a frame, run on other rows.

Classes are in org.apache.spark.sql.execution, unless said otherwise, Spark 4.2.1.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from pyspark.sql import DataFrame, SparkSession

from .jvm import context, scala_object, scala_seq, view

LOGICAL_RDD = "org.apache.spark.sql.execution.LogicalRDD"
MAP_PARTITIONS = "org.apache.spark.rdd.MapPartitionsRDD"
PARTITIONING = "org.apache.spark.sql.catalyst.plans.physical"
BY_KEY = f"{PARTITIONING}.HashPartitioning"
COLUMN = "org.apache.spark.sql.catalyst.expressions.AttributeReference"
NOT_BY_KEY = (f"{PARTITIONING}.UnknownPartitioning", f"{PARTITIONING}.SinglePartition$")
ADAPTIVE = "org.apache.spark.sql.execution.adaptive.AdaptiveSparkPlanExec"
EXCHANGE = "org.apache.spark.sql.execution.exchange.ShuffleExchangeExec"

NOT_FROM_ROWS_ALONE = (
    *("CURRENT_LIKE", "EXPRESSION_WITH_RANDOM_SEED", "PLAN_EXPRESSION", "VARIABLE_REFERENCE"),
    *("SCALA_UDF", "PYTHON_UDF", "SQL_FUNCTION_EXPRESSION", "SQL_SCALAR_FUNCTION", "REPARTITION_OPERATION", "SORT"),
)
"""Patterns of a plan (catalyst.trees.TreePattern, since 4.1) with something else in it: chance, a clock, a variable,
another plan, a function of the user's, or a job of its own."""


def frame(session: SparkSession, rdd: Any, schema: Any, size: int | None = None, keys: Sequence[str] = ()) -> DataFrame:
    """An RDD[InternalRow] as a DataFrame; if its size in bytes is given, Spark may broadcast it in a join.

    Spark knows if it has one partition, and if its rows are placed by the hash of keys, and exchanges nothing then for
    a group or a sort (SinglePartition, HashPartitioning).

    DataTypeUtils.toAttributes makes the columns that SparkSession.internalCreateDataFrame would, without its analysis.
    """
    jvm = view()
    catalyst, scala = jvm.org.apache.spark.sql.catalyst, jvm.scala
    output = scala_object(catalyst.types, "DataTypeUtils").toAttributes(schema)
    if (partitions := rdd.getNumPartitions()) == 1:
        partitioning = scala_object(catalyst.plans.physical, "SinglePartition")
    elif keys:
        columns = {column.name(): column for column in map(output.apply, range(schema.length()))}
        partitioning = catalyst.plans.physical.HashPartitioning(scala_seq([columns[key] for key in keys]), partitions)
    else:
        partitioning = catalyst.plans.physical.UnknownPartitioning(0)
    none = scala_object(scala, "Option").empty()
    stats = none if size is None else scala.Some(_statistics(session, size.bit_length()))
    return _logical(session, output, rdd, partitioning, scala_seq([]), stats)


def _logical(session: SparkSession, output: Any, rdd: Any, partitioning: Any, ordering: Any, stats: Any) -> DataFrame:
    """A frame of an RDD (LogicalRDD, whose constructor also takes `fromCheckpoint` in 4.3)."""
    none, flags = scala_object(view().scala, "Option").empty(), [False] * (_parameters(LOGICAL_RDD) - 9)
    made = view().org.apache.spark.sql.execution.LogicalRDD(
        output, rdd, partitioning, ordering, False, none, session._jsparkSession, stats, none, *flags
    )
    return DataFrame(_dataset(session, made), session)


def stored(frame: DataFrame) -> DataFrame:
    """A local checkpoint of a frame, computed by the first job that reads it (Dataset.localCheckpoint).

    What `frame` returned is not planned for it; it is an RDD already (RDD.localCheckpoint).
    """
    plan, session = frame._jdf.queryExecution().analyzed(), frame.sparkSession
    if plan.getClass().getName() != LOGICAL_RDD:
        return frame.localCheckpoint(eager=False)
    flags = [False] * (_parameters(MAP_PARTITIONS) - 4)
    copied = view().org.apache.spark.rdd.MapPartitionsRDD(plan.rdd(), _copy(session), *flags, _any(), _any())
    copied.localCheckpoint()
    none = scala_object(view().scala, "Option").empty()
    return _logical(session, plan.output(), copied, plan.outputPartitioning(), plan.outputOrdering(), none)


@functools.lru_cache(maxsize=1)
def _copy(session: SparkSession) -> Any:
    """The function with which Dataset.localCheckpoint copies the rows of a partition: operators use one row for all."""
    rdd = session.range(0).localCheckpoint(eager=False)._jdf.queryExecution().logical().rdd()
    functions = _functions(rdd, rdd.firstParent(_any()))
    rdd.unpersist(False)
    assert functions is not None
    return functions[0]


def _dataset(session: SparkSession, plan: Any) -> Any:
    """A Dataset of a logical plan, not planned yet (classic.Dataset.ofRows)."""
    return scala_object(view().org.apache.spark.sql.classic, "Dataset").ofRows(session._jsparkSession, plan)


@functools.lru_cache(maxsize=64)
def _statistics(session: SparkSession, bits: int) -> Any:
    """The statistics of 2**bits bytes: those of a filter, as py4j cannot pass on a BigInt (Dataset.queryExecution)."""
    return session.range(1 << bits >> 3).filter("id >= 0")._jdf.queryExecution().analyzed().stats()


class Rows(NamedTuple):
    """The rows of a frame that nothing has to be computed for."""

    rdd: Any
    schema: Any
    in_one_partition: bool


def rows(frame: DataFrame) -> Rows | None:
    """The rows of what `frame` returned, of a local checkpoint, or of a cached frame in one partition (LogicalRDD).

    None for any other frame: one whose rows are placed by their keys, which would be forgotten, and a larger cached
    one, of which Spark reads only the columns that are needed.
    """
    plan = frame._jdf.queryExecution().analyzed()
    if frame.is_cached:  # the frame itself may have been planned before it was cached
        rdd = _dataset(frame.sparkSession, plan).queryExecution().executedPlan().execute()
        found = Rows(rdd, plan.schema(), rdd.getNumPartitions() == 1)
        return found if found.in_one_partition else None
    if plan.getClass().getName() != LOGICAL_RDD or plan.outputPartitioning().getClass().getName() not in NOT_BY_KEY:
        return None
    rdd = plan.rdd()
    return Rows(rdd, plan.schema(), rdd.getNumPartitions() == 1)


def united(frames: Sequence[DataFrame]) -> Rows | None:
    """The rows of all frames, in one partition; None unless they are there, alike, and those of each in one partition.

    Any of their columns may be null (JavaSparkContext.union, StructType.asNullable).
    """
    found = [rows(frame) for frame in frames]
    if any(source is None or not source.in_one_partition for source in found):
        return None
    schemas = [source.schema.asNullable() for source in found if source is not None]
    if not all(schema.equals(schemas[0]) for schema in schemas[1:]):
        return None
    rdds = [source.rdd.toJavaRDD() for source in found if source is not None]
    several = context()._gateway.new_array(view().org.apache.spark.api.java.JavaRDD, len(rdds))  # type: ignore[union-attr]
    for n, rdd in enumerate(rdds):
        several[n] = rdd
    return Rows(context()._jsc.union(several).coalesce(1).rdd(), schemas[0], True)


def placed(frame: DataFrame, keys: Sequence[str]) -> Rows | None:
    """The rows of a frame, those of a key in one partition; None if Spark cannot tell that they are placed so.

    To steps that treat each key by itself they are rows in one partition (SparkPlan.outputPartitioning, which a union
    has since 4.1 if all its sides have it).
    """
    plan = frame._jdf.queryExecution().executedPlan()
    if plan.getClass().getName() == ADAPTIVE:
        return None
    rdd, by = plan.execute(), plan.outputPartitioning()
    count = rdd.getNumPartitions()
    return Rows(rdd, plan.schema(), True) if count == 1 or (is_by(by, keys) and by.numPartitions() == count) else None


def is_by(partitioning: Any, keys: Sequence[str]) -> bool:
    """Whether rows are placed by the hash of just these keys (HashPartitioning, AttributeReference.name)."""
    if partitioning.getClass().getName() != BY_KEY:
        return False
    columns = map(partitioning.expressions().apply, range(partitioning.expressions().size()))
    return [c.name() if c.getClass().getName() == COLUMN else None for c in columns] == [*keys]


def in_one_partition(rows: Rows) -> Rows:
    """The same rows, all in one partition (JavaRDD.coalesce)."""
    return rows._replace(rdd=rows.rdd.toJavaRDD().coalesce(1).rdd())


def has_alias(frame: DataFrame) -> bool:
    """Whether columns can be named with an alias of the frame (Attribute.qualifier)."""
    columns = frame._jdf.queryExecution().analyzed().output()
    return any(not columns.apply(n).qualifier().isEmpty() for n in range(columns.size()))


class Code(NamedTuple):
    """What Spark generated for the steps from one frame to another.

    Each stage is the exchange that it begins with, None for the first one, and its functions from partition to
    partition: scala.Function3[TaskContext, Int, Iterator[InternalRow], Iterator[InternalRow]].
    """

    source: Any
    stages: list[tuple[Any, list[Any]]]
    result: Any
    circumstances: tuple[int, int]


def code(source: Rows, result: DataFrame, again: DataFrame, circumstances: tuple[int, int]) -> Code | None:
    """The code of the steps that compute `result` from `source`; None unless it serves any other rows as well.

    It does if the steps are functions of these rows alone (QueryPlan.deterministic, catalyst.optimizer's
    SpecialDatetimeValues), and operators whose RDDs are MapPartitionsRDD of org.apache.spark.rdd, or exchanges between
    them (exchange.ShuffleExchangeExec). `again` is what the same steps compute when they are built once more.
    """
    if result.semanticHash() != again.semanticHash():
        return None  # the parser replaced timestamp'now'
    analyzed = result._jdf.queryExecution().analyzed()
    if not analyzed.deterministic() or analyzed.collectLeaves().size() != 1:
        return None
    patterns = _patterns(view())
    if not patterns or any(map(analyzed.containsPattern, patterns)):
        return None
    special = scala_object(view().org.apache.spark.sql.catalyst.optimizer, "SpecialDatetimeValues")
    if not special.apply(analyzed).fastEquals(analyzed):
        return None  # a text such as 'now' or 'yesterday', cast to a time
    # not that of the result itself, which would then not see if it is cached
    plan = _dataset(result.sparkSession, analyzed).queryExecution().executedPlan()
    if plan.getClass().getName() == ADAPTIVE:
        return None  # which would run its stages
    tops, exchanges = [plan], list[Any]()
    while plan.children().size():
        if plan.getClass().getName() == EXCHANGE:
            exchanges.append(plan)
            tops.append(plan.child())
        plan = plan.children().head()
    stages: list[tuple[Any, list[Any]]] = []
    for top, exchange in zip(tops, [*exchanges, None], strict=True):
        functions = _functions(top.execute(), source.rdd if exchange is None else exchange.execute())
        if functions is None:
            return None
        stages.insert(0, (exchange, functions))
    schema = result._jdf.schema()
    if not (exchanges or source.in_one_partition or schema.length() <= source.schema.length()):
        return None  # what follows may not need all columns, and rows may be many
    return Code(source.schema, stages, schema, circumstances)


def _functions(rdd: Any, source: Any) -> list[Any] | None:
    """The functions that make an RDD from another one (MapPartitionsRDD.f)."""
    functions: list[Any] = []
    while not rdd.equals(source):
        if rdd.getClass().getName() != MAP_PARTITIONS:
            return None
        field = rdd.getClass().getDeclaredField("f")
        field.setAccessible(True)
        functions.insert(0, field.get(rdd))
        rdd = rdd.firstParent(_any())
    return functions


def run(code: Code, source: Rows, session: SparkSession, keys: Sequence[str] = ()) -> DataFrame | None:
    """The result for other rows; None if they have other columns, or if the circumstances have changed.

    Rows that are placed by keys stay where they are. RDDScanExec, TreeNode.withNewChildren.
    """
    if code.circumstances != circumstances(session) or not code.source.equals(source.schema):
        return None
    rdd, flags = source.rdd, [False] * (_parameters(MAP_PARTITIONS) - 4)
    for exchange, functions in code.stages:
        if exchange is not None:
            rdd = exchange.withNewChildren(scala_seq([_scan(rdd, exchange.child())])).execute()
        for function in functions:
            rdd = view().org.apache.spark.rdd.MapPartitionsRDD(rdd, function, *flags, _any(), _any())
    return frame(session, rdd, code.result, keys=keys)


def _scan(rdd: Any, like: Any) -> Any:
    """An RDD as a physical plan with the columns of another one (execution.RDDScanExec)."""
    none = scala_object(view().scala, "Option").empty()
    return view().org.apache.spark.sql.execution.RDDScanExec(
        like.output(), rdd, "rows", like.outputPartitioning(), like.outputOrdering(), none
    )


@functools.lru_cache(maxsize=1)
def _patterns(jvm: Any) -> list[Any]:
    """What NOT_FROM_ROWS_ALONE names (TreePattern), or nothing in a version that does not have all of them."""
    patterns = scala_object(jvm.org.apache.spark.sql.catalyst.trees, "TreePattern")
    known = str(patterns.values().mkString(" ")).split()
    return [getattr(patterns, name)() for name in NOT_FROM_ROWS_ALONE] if {*NOT_FROM_ROWS_ALONE} <= {*known} else []


def circumstances(session: SparkSession) -> tuple[int, int]:
    """What else steps may depend on: settings (SQLConf.getAllConfs), and the day, which is `date'today'` to the parser.

    Days begin with a quarter of an hour, wherever.
    """
    return int(session._jsparkSession.sessionState().conf().getAllConfs().hashCode()), int(time.time() // 900)


@functools.cache
def _parameters(name: str) -> int:
    """How many parameters the constructor of a class has in this version of Spark (java.lang.reflect.Constructor)."""
    return int(view().java.lang.Class.forName(name).getDeclaredConstructors()[0].getParameterCount())


def _any() -> Any:
    """Of any class (ClassTag.Any)."""
    return scala_object(view().scala.reflect, "ClassTag").Any()
