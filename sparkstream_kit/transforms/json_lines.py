"""JSON lines as columns, by a schema."""

from __future__ import annotations

import functools
from typing import TypeVar, cast

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, IntegerType, StringType, StructType

from ..columns import quoted
from ..frames import FrameStream

Lines = TypeVar("Lines", DataFrame, FrameStream)

_READ = "_json_read"


def parse(frame: DataFrame, schema: StructType | str) -> DataFrame:
    """Read the lines in the column `value` as JSON objects of a schema; lines that are none are left out.

    >>> spark = getfixture("spark")
    >>> lines = ['{"status": 200, "path": "/"}', '{"path": 1.5}', '{"status": "x"}', "[1]", '{"status": 200}{}']
    >>> frame = spark.createDataFrame([(line,) for line in lines], "value string")
    >>> parse(frame, "status int, path string").collect()
    [Row(status=200, path='/'), Row(status=None, path='1.5')]

    Columns in: value: string; null is no line. Columns out: those of the schema; a member that is missing is null, one
    that has another type makes the line none of them, and others are passed over. Other columns of the frame stay, in
    front. Values are read as Spark's from_json reads them, which also takes single quotes and NaN; but a line must be
    one object from its beginning to its end.
    """
    kind = _kind(schema)
    kept = _others(frame, "value", *kind.names)
    members = (F.col(_READ)["line"][0][name].alias(name) for name in kind.names)
    return _read(frame, kind).filter(_is_object()).select(*kept, *members)


def rejected(frame: DataFrame, schema: StructType | str) -> DataFrame:
    """The lines that `parse` leaves out, with the reason.

    >>> lines = getfixture("spark").createDataFrame([('{"status": "x"}',), ('{"status": 200',)], "value string")
    >>> for row in rejected(lines, "status int").collect():
    ...     print(row.line, "|", row.reason)
    {"status": "x"} | a member has another type than in the schema
    {"status": 200 | line is not one JSON object

    Columns in: value: string. Columns out: line: string, unchanged; reason: string. Other columns of the frame, such as
    the file the line is from, stay in front.
    """
    line = F.col("value")
    is_other = (F.json_array_length(F.concat(F.lit("["), line, F.lit(",0]"))) == 2) & F.ltrim(line).startswith("{")
    reason = F.when(is_other, "a member has another type than in the schema").otherwise("line is not one JSON object")
    lines = _read(frame, _kind(schema)).filter(~_is_object() & line.isNotNull())
    return lines.select(*_others(frame, "value", "line", "reason"), line.alias("line"), reason.alias("reason"))


def split(lines: Lines, schema: StructType | str) -> tuple[Lines, Lines]:
    """Objects and rejected lines of a frame or a FrameStream: what `parse` gives, and what `rejected` gives.

    >>> lines = getfixture("spark").createDataFrame([('{"status": 200}',), ("no JSON",)], "value string")
    >>> objects, rest = split(lines, "status int")
    >>> objects.collect(), rest.collect()
    ([Row(status=200)], [Row(line='no JSON', reason='line is not one JSON object')])

    The two are read separately: where both are used and reading is slow, `cache` the lines.
    """
    return (
        lines.transform(functools.partial(parse, schema=schema)),
        lines.transform(functools.partial(rejected, schema=schema)),
    )


def _kind(schema: StructType | str) -> StructType:
    return cast(StructType, StructType.fromDDL(schema)) if isinstance(schema, str) else schema


def _read(frame: DataFrame, kind: StructType) -> DataFrame:
    """The frame with what was read of each line.

    Spark stops at the end of the first object and passes over what follows. So a line is read as the one element of an
    array in front of an end: whatever else it holds breaks the array, makes it longer or leaves no end.
    """
    whole = StructType().add("line", ArrayType(kind)).add("end", IntegerType()).add("broken", StringType())
    text = F.concat(F.lit('{"line":['), "value", F.lit('],"end":1}'))
    # An array of one, exploded, keeps the filter from reading the line a second time.
    return frame.withColumn(
        _READ, F.explode(F.array(F.from_json(text, whole, {"columnNameOfCorruptRecord": "broken"})))
    )


def _is_object() -> Column:
    read = F.col(_READ)
    is_one = read["broken"].isNull() & (read["end"] == 1) & (F.size(read["line"]) == 1) & read["line"][0].isNotNull()
    return F.coalesce(is_one, F.lit(False))


def _others(frame: DataFrame, *names: str) -> list[str]:
    return [quoted(name) for name in frame.columns if name not in names]
