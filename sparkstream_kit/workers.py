"""Python functions applied to rows, in Spark's Python workers.

A worker that is sent Arrow gets whole columns, which it turns into rows in a fraction of the time that pickled rows
take. Spark's own setting decides, spark.sql.execution.pythonUDF.arrow.enabled, on by default since Spark 4.2. Without
it, without PyArrow in the driver, and with columns that are not of `PLAIN` types, the rows are pickled.

Both ways give the function the same values and make the same rows of its results: values that fit their columns by
their types are written as they are, and all others are checked by Spark's own verifier, as createDataFrame does.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from pyspark import cloudpickle
from pyspark.sql import Column, DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.utils import require_minimum_pandas_version, require_minimum_pyarrow_version
from pyspark.sql.types import (
    BooleanType,
    ByteType,
    DataType,
    DateType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    ShortType,
    StringType,
    StructField,
    StructType,
    TimestampNTZType,
    TimestampType,
    _make_type_verifier,
)
from pyspark.util import fail_on_stopiteration

from .columns import schema_of

if TYPE_CHECKING:
    import pyarrow as pa

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call] # executors may lack it

PLAIN: dict[type[DataType], type] = {
    StringType: str,
    BooleanType: bool,
    ByteType: int,
    ShortType: int,
    IntegerType: int,
    LongType: int,
    FloatType: float,
    DoubleType: float,
    DateType: datetime.date,
    TimestampType: datetime.datetime,
    TimestampNTZType: datetime.datetime,
}
"""The types of columns that go through Arrow here, and those of their values."""

USUAL = {kind: {of_values, type(None)} for kind, of_values in PLAIN.items()}
"""The types of values that need no further check."""

ARROW: dict[type[DataType], str] = {
    StringType: "string",
    BooleanType: "bool_",
    ByteType: "int8",
    ShortType: "int16",
    IntegerType: "int32",
    LongType: "int64",
    FloatType: "float32",
    DoubleType: "float64",
}
"""The functions of PyArrow for the types whose values are the same there."""

AT_ONCE = 1000
"""Rows that are there as Python objects at the same time."""


def map_rows(frame: DataFrame, function: Callable[[Row], Any], schema: StructType | str) -> DataFrame:
    """The results of the function for each row, as rows of `schema`."""
    columns, kind = frame.schema, schema_of(schema)
    if not uses_arrow(frame.sparkSession, columns, kind):
        return frame.sparkSession.createDataFrame(frame.rdd.map(function), kind)

    def mapped(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        read, written, called = reader(columns), writer(kind), fail_on_stopiteration(function)
        for batch in batches:
            for start in range(0, len(batch), AT_ONCE):
                rows = read(batch.slice(start, AT_ONCE).columns)
                yield pa.RecordBatch.from_arrays(written(map(called, rows)), kind.names)

    numbered = frame.toDF(*map(str, range(len(columns))))  # Spark refers to the columns by name, which may have dots
    return numbered.mapInArrow(mapped, kind)


def state_update(
    session: SparkSession, function: Callable[[list[Row], Row | None], Any], row: Any, kind: StructType
) -> Callable[[str, str], Column]:
    """A column function of two columns: the new rows of a key, an array of `row` or null, and its state or null."""
    if hasattr(F, "arrow_udf") and uses_arrow(session, row, kind):  # since Spark 4.1

        def updated(rows: Any, states: Any) -> Any:
            import pyarrow as pa

            counts = rows.value_lengths().fill_null(0).to_pylist()
            new = reader(row)(rows.flatten().flatten())
            known, before = states.is_valid().to_pylist(), reader(kind)(states.flatten())
            places: list[int | None] = []

            def results() -> Iterator[Any]:
                called, kept = fail_on_stopiteration(function), itertools.count()
                for count, is_known, state in zip(counts, known, before, strict=True):
                    result = called(list(itertools.islice(new, count)), state if is_known else None)
                    places.append(None if result is None else next(kept))
                    if result is not None:
                        yield result

            found = pa.StructArray.from_arrays(writer(kind)(results()), kind.names)
            return found.take(pa.array(places, pa.int64()))  # null for a key that is dropped

        update = F.arrow_udf(lambda rows, states: updated(rows, states), kind)  # which must have no annotations
    else:
        verify = _make_type_verifier(kind)

        def checked(rows: Any, state: Any) -> Any:
            result = function(rows or [], state)
            verify(result)  # Spark would make null of a value of another type
            return result

        update = F.udf(lambda rows, state: checked(rows, state), kind, useArrow=False)  # Spark's Arrow casts values
    # declared nondeterministic, or the optimizer may call it once for the filter and once more for the columns
    column: Callable[[str, str], Column] = update.asNondeterministic()
    return column


def uses_arrow(session: SparkSession, read: DataType, written: DataType) -> bool:
    """Whether Spark lets Python functions use Arrow, which must be installed, and it is the same for these rows."""
    for schema in (read, written):
        if not isinstance(schema, StructType) or not len(schema) or not all(map(_is_plain, schema)):
            return False
        if len({*schema.names}) < len(schema) or (schema is written and not all(field.nullable for field in schema)):
            return False  # Spark's Arrow functions do not support these
    if session.conf.get("spark.sql.execution.pythonUDF.arrow.enabled") != "true":
        return False
    try:
        require_minimum_pandas_version()  # as Spark demands it for its own functions
        require_minimum_pyarrow_version()
    except ImportError:
        return False
    return True


def _is_plain(field: StructField) -> bool:
    kind = field.dataType
    return type(kind) in PLAIN and kind == type(kind)()  # a collation is a StringType, too


def row_class(names: Sequence[str]) -> type[Row]:
    """A Row of these columns whose attributes are read directly: Row itself searches for their names each time."""
    found: dict[str, Any] = {"__slots__": (), "__fields__": list(names)}
    for place, name in enumerate(names):
        if not hasattr(Row, name) and not name.startswith("__"):
            found[name] = property(itemgetter(place))
    return type("Row", (Row,), found)


def reader(schema: StructType) -> Callable[[Iterable[pa.Array]], Iterator[Row]]:
    """A function that turns the columns of a batch into rows."""
    new = functools.partial(tuple.__new__, row_class(schema.names))

    def rows(columns: Iterable[pa.Array]) -> Iterator[Row]:
        read = (values(column, field.dataType) for column, field in zip(columns, schema, strict=True))
        return map(new, zip(*read, strict=True))

    return rows


def values(column: pa.Array, kind: DataType) -> list[Any]:
    """The values of a column as a function gets them."""
    if kind.needConversion():  # dates and times, which are numbers
        number = "int32" if isinstance(kind, DateType) else "int64"
        return [kind.fromInternal(value) for value in column.cast(number).to_pylist()]
    try:
        found: list[Any] = column.to_pylist()
    except UnicodeDecodeError:  # lines of a log may have any bytes
        found = [value if value is None else _decoded(value) for value in column.cast("binary").to_pylist()]
    return found


def _decoded(text: bytes) -> str:
    """What the JVM reads: half of a surrogate pair is one wrong character there, but up to three in Python."""
    return re.sub(rb"\xed[\xa0-\xbf][\x80-\xbf]?", "\ufffd".encode(), text).decode(errors="replace")


def writer(schema: StructType) -> Callable[[Iterable[Any]], list[pa.Array]]:
    """A function that turns results into the columns of a batch; raises what createDataFrame raises."""
    verify, kinds = _make_type_verifier(schema), [field.dataType for field in schema]
    # what an hour is that a clock shows twice depends, in Spark, on the time that was converted before
    in_turn = any(isinstance(kind, TimestampType) for kind in kinds)

    def columns(results: Iterable[Any]) -> list[pa.Array]:
        if in_turn:
            return checked(map(in_order, results))
        rows = [row if type(row) is tuple else in_order(row) for row in results]
        if all(len(row) == len(schema) for row in rows):
            several = list(zip(*rows, strict=True)) or [()] * len(schema)
            if all(set(map(type, column)) <= USUAL[type(kind)] for column, kind in zip(several, kinds, strict=True)):
                with contextlib.suppress(ValueError, OverflowError):  # a number that is too large, half a character
                    return [array(_internal(column, kind), kind) for column, kind in zip(several, kinds, strict=True)]
        return checked(rows)

    def checked(rows: Iterable[tuple[Any, ...]]) -> list[pa.Array]:
        """One row after the other, as Spark does it."""
        internal = [schema.toInternal(row) for row in rows if verify(row) is None]
        several = list(zip(*internal, strict=True)) or [()] * len(schema)
        return [
            array(list(map(_text, column)) if isinstance(kind, StringType) else column, kind)
            for column, kind in zip(several, kinds, strict=True)
        ]

    def in_order(result: Any) -> tuple[Any, ...]:
        """The values of a result, copied at once: the function may use a list or dict again for the next row."""
        if isinstance(result, (tuple, list)):
            return tuple(result)
        found = result if isinstance(result, dict) else getattr(result, "__dict__", None)
        if found is None:
            verify(result)
            raise TypeError(f"the function returned {result}, expected a row: filter the rows before or after it")
        return tuple(map(found.get, schema.names))

    return columns


def _internal(column: Sequence[Any], kind: DataType) -> Sequence[Any]:
    return list(map(kind.toInternal, column)) if kind.needConversion() else column


def array(column: Sequence[Any], kind: DataType) -> pa.Array:
    """Values of Spark's internal types, such as the days of a date, as Arrow has them."""
    import pyarrow as pa

    if isinstance(kind, DateType):
        return pa.array(column, pa.int32()).cast(pa.date32())
    if isinstance(kind, (TimestampType, TimestampNTZType)):
        return pa.array(column, pa.int64()).cast(pa.timestamp("us", "UTC" if isinstance(kind, TimestampType) else None))
    return pa.array(column, getattr(pa, ARROW[type(kind)])())


def _text(value: Any) -> str | None:
    """What the JVM makes of a value in a column of strings."""
    if value is None:
        return None
    if type(value) in (bool, int):
        return str(value).lower()
    if type(value) is str:
        return re.sub("[\ud800-\udfff]", "\ufffd", value)  # half of a character, which UTF-8 does not have
    raise TypeError(f"the function returned {value!r} for a column of strings, expected str, int, bool or None")
