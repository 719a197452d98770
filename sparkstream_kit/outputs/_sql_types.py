"""Columns and values of a frame in SQL, and whether an existing table fits them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pyspark.sql import Row
from pyspark.sql import types as T

from ..errors import OutputRefused

if TYPE_CHECKING:
    from ._sql import SqlTable


def table_for(name: str, schema: T.StructType, key: Sequence[str]) -> sa.Table:
    """The table of a frame. Statements refer to columns as c0, c1, ..., so no column name can break them."""
    doubled = {a for i, a in enumerate(schema.names) if a.lower() in map(str.lower, schema.names[:i])}
    missing = [k for k in key if k not in schema.names]
    if doubled or missing:
        wrong = f"several columns named {doubled.pop()!r}" if doubled else f"no column {missing[0]!r} for its key"
        raise OutputRefused(f"the frame for the table {name!r} has {wrong}: its columns are {', '.join(schema.names)}")
    columns = [
        sa.Column(f.name, _sql_type(name, f), key=f"c{i}", primary_key=f.name in key, autoincrement=False)
        for i, f in enumerate(schema)
    ]
    return sa.Table(name, sa.MetaData(), *columns)


def _sql_type(table: str, column: T.StructField) -> sa.types.TypeEngine[Any]:
    kind = column.dataType
    if isinstance(kind, T.DecimalType):
        return sa.Numeric(kind.precision, kind.scale)
    if type(kind) not in _TYPES:
        raise OutputRefused(
            f"the column {column.name!r} for the table {table!r} is {kind.simpleString()}, which SQL tables "
            "cannot hold: drop it, or convert it to a string (to_json)"
        )
    return _TYPES[type(kind)]


_TYPES: dict[type[T.DataType], sa.types.TypeEngine[Any]] = {
    T.BooleanType: sa.Boolean(),
    T.ByteType: sa.SmallInteger(),
    T.ShortType: sa.SmallInteger(),
    # an INTEGER key of SQLite is the row's number, which SQLite invents where the key is null; BIGINT is not
    T.IntegerType: sa.Integer().with_variant(sa.BigInteger(), "sqlite"),
    T.LongType: sa.BigInteger(),
    T.FloatType: sa.REAL(),
    T.DoubleType: sa.Double(),
    T.StringType: sa.Text(),
    T.BinaryType: sa.LargeBinary(),
    T.DateType: sa.Date(),
    T.TimestampType: sa.DateTime(timezone=True),
    T.TimestampNTZType: sa.DateTime(),
}

NUMBERS = (int, float, Decimal)

_WIDER: dict[type, tuple[type, ...]] = {int: (float, Decimal), float: (Decimal,), Decimal: (float,)}
"""Python types that a column may have instead of the one of the frame."""


def check_fits(inspector: sa.Inspector, target: SqlTable, table: sa.Table) -> None:
    """OutputRefused unless an existing table has the columns, types and key of the frame."""
    there = {c["name"]: c for c in inspector.get_columns(target.table)}
    wrong = [f"it has no column {c.name!r}" for c in table.c if c.name not in there]
    for column in table.c:
        if column.name in there and not _accepts(there[column.name]["type"], column.type, inspector.dialect.name):
            wrong.append(
                f"its column {column.name!r} is {there[column.name]['type']}, but the frame's is {column.type}"
            )
    for name, c in there.items():
        filled = c["nullable"] or c.get("default") or c.get("identity") or c.get("autoincrement") is True
        if name not in [column.name for column in table.c] and not filled:
            wrong.append(f"its column {name!r} must not be null, but the frame does not have it")
    if target.key and sorted(target.key) not in map(sorted, _unique(inspector, target.table)):
        wrong.append(f"it has no unique key ({', '.join(target.key)})")
    if wrong:
        raise OutputRefused(
            f"the table {target.table!r} does not fit: {'; '.join(wrong)}; alter it, or name another table"
        )


def _accepts(there: sa.types.TypeEngine[Any], mine: sa.types.TypeEngine[Any], database: str) -> bool:
    def width(kind: sa.types.TypeEngine[Any]) -> int:
        return 2 if isinstance(kind, sa.SmallInteger) else 8 if isinstance(kind, sa.BigInteger) else 4

    try:
        kind, own = there.python_type, mine.python_type
    except NotImplementedError:
        return False
    if kind is own is int:
        return database == "sqlite" or width(there) >= width(mine)  # every integer of SQLite has 64 bits
    return kind is own or kind in _WIDER.get(own, ())


def _unique(inspector: sa.Inspector, table: str) -> Iterator[Sequence[Any]]:
    yield inspector.get_pk_constraint(table)["constrained_columns"]
    indexes = inspector.get_indexes(table, include_auto_indexes=True)  # SQLite has one for each constraint
    yield from (index["column_names"] for index in indexes if index["unique"])


def converter(schema: T.StructType, database: str, more: tuple[Any, ...] = ()) -> Callable[[Row], tuple[Any, ...]]:
    """A function that converts a row of Spark to the values that database drivers take, with `more` after them."""
    changes: list[tuple[int, Callable[[Any], Any]]] = []
    for i, column in enumerate(schema):
        if isinstance(column.dataType, T.TimestampType):  # naive local time whose fold is set
            changes.append((i, lambda time: time.astimezone(timezone.utc)))
        elif isinstance(column.dataType, T.BinaryType):
            changes.append((i, bytes))
        elif isinstance(column.dataType, T.StringType) and database == "postgresql":
            changes.append((i, lambda text: text.replace("\0", "\N{REPLACEMENT CHARACTER}")))

    def convert(row: Row) -> tuple[Any, ...]:
        values = list(row)
        for i, change in changes:
            if values[i] is not None:
                values[i] = change(values[i])
        return (*values, *more)

    return convert
