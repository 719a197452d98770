"""Column names as users write them: one text with commas, as on a command line, or a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import AtomicType, DataType, StructType

from .errors import UsageError

Columns = str | Sequence[str]


def column_names(columns: Columns) -> list[str]:
    """The names, in order. A name that contains a comma has to be in a sequence.

    >>> column_names("path"), column_names("host, path"), column_names(["one, with a comma"]), column_names("")
    (['path'], ['host', 'path'], ['one, with a comma'], [])
    """
    if isinstance(columns, str):
        return [name.strip() for name in columns.split(",") if name.strip()]
    return list(columns)


def schema_of(schema: StructType | str) -> StructType:
    """The schema itself, or that of a DDL string.

    >>> schema_of("a int").names
    ['a']
    """
    return cast(StructType, StructType.fromDDL(schema)) if isinstance(schema, str) else schema


def quoted(name: str) -> str:
    """The name quoted for Spark SQL, whatever characters it contains.

    >>> quoted("a.b"), quoted("tick`tock")
    ('`a.b`', '`tick``tock`')
    """
    return "`{}`".format(name.replace("`", "``"))


def check_unique(names: Sequence[str]) -> None:
    """Raise UsageError if two columns have one name but for case, by which few formats and databases tell them apart.

    >>> check_unique(["path", "bytes"])
    >>> check_unique(["path", "Path"])
    Traceback (most recent call last):
    sparkstream_kit.errors.UsageError: got the columns path and Path, expected names that differ: rename or drop one
    """
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.get(name.lower())) is not None:
            raise UsageError(f"got the columns {other} and {name}, expected names that differ: rename or drop one")
        seen[name.lower()] = name


def check_added(names: Sequence[str], *added: str) -> None:
    """Raise UsageError if a key or aggregate is named, but for case, like a column that an operation adds to them.

    >>> check_added(["path", "hits"], "count")
    >>> check_added(["path", "Count"], "count")
    Traceback (most recent call last):
    sparkstream_kit.errors.UsageError: got a key or aggregate named Count, expected a name other than count: rename it
    """
    for name in names:
        if name.lower() in added:
            raise UsageError(
                f"got a key or aggregate named {name}, expected a name other than {', '.join(added)}: rename it"
            )


def named(columns: Columns) -> list[Column]:
    """The columns of these very names, which are never taken for fields of structs.

    >>> import sparkstream_kit as ss
    >>> ss.testing.local_session().range(1).selectExpr("id as `a.b`").select(named("a.b")).first()
    Row(a.b=0)
    """
    return [F.col(quoted(name)) for name in column_names(columns)]


def other_columns(frame: DataFrame, *names: str) -> list[str]:
    """The columns of a frame except these, quoted. A name that no column has excludes those that match but for case.

    >>> import sparkstream_kit as ss
    >>> rows = ss.testing.local_session().range(1).selectExpr("id", "id as `a.b`")
    >>> other_columns(rows, "id"), other_columns(rows, "ID")
    (['`a.b`'], ['`a.b`'])
    """
    columns = frame.columns
    excluded = {*names}
    folded = {name.lower() for name in excluded.difference(columns)}
    return [quoted(name) for name in columns if name not in excluded and name.lower() not in folded]


def cast_like(rows: DataFrame, like: DataFrame, what: str) -> DataFrame:
    """The rows with the types of the columns of the same names in another frame; UsageError if that changes a value.

    >>> import sparkstream_kit as ss
    >>> numbers = ss.testing.local_session().range(2).selectExpr("id as n", "id as other")
    >>> cast_like(numbers, numbers.selectExpr("cast(n as double) as n"), "numbers")
    DataFrame[n: double, other: bigint]
    """
    wanted = {field.name.lower(): field.dataType for field in like.schema}
    for field in rows.schema:
        kind = wanted.get(field.name.lower(), field.dataType)
        if field.dataType.simpleString() == kind.simpleString():
            continue
        if not _keeps_values(rows, field.name, field.dataType, kind):
            raise UsageError(
                f"got {what} with {field.name}: {field.dataType.simpleString()}, expected {kind.simpleString()} as in "
                "the stream: cast or drop the column"
            )
        rows = rows.withColumn(field.name, F.col(quoted(field.name)).cast(kind))
    return rows


def _keeps_values(rows: DataFrame, name: str, own: DataType, kind: DataType) -> bool:
    """Whether every value of a column can be cast to another type and back."""
    if not (isinstance(own, AtomicType) and isinstance(kind, AtomicType)):
        return False  # the fields of a struct would be cast by position
    column = F.col(quoted(name))
    try:
        return rows.filter(~column.eqNullSafe(column.try_cast(kind).try_cast(own))).isEmpty()
    except AnalysisException:
        return False
