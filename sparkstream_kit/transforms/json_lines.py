"""JSON lines as columns, by a schema."""

from __future__ import annotations

import functools
from typing import TypeVar, cast

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, IntegerType, StringType, StructType

from ..columns import other_columns
from ..frames import FrameStream

Lines = TypeVar("Lines", DataFrame, FrameStream)

_READ = "_json_read"


def parse(lines: DataFrame, schema: StructType | str) -> DataFrame:
    """Parse lines as JSON objects with a schema; other lines are dropped.

    >>> import sparkstream_kit as ss
    >>> spark = getfixture("spark")
    >>> texts = ['{"status": 200, "path": "/"}', '{"path": 1.5}', '{"status": "x"}', "[1]", '{"status": 200}{}']
    >>> lines = spark.createDataFrame([(text,) for text in texts], "value string")
    >>> ss.transforms.json_lines.parse(lines, "status int, path string").collect()
    [Row(status=200, path='/'), Row(status=None, path='1.5')]

    Columns in: value: string. Columns out: the other columns of `lines`, then those of the schema, which is a DDL
    string or a StructType. Null lines are ignored. Missing fields are null, a field of the wrong type rejects the line,
    extra fields are ignored. Values are read as by Spark's from_json, which also accepts single quotes and NaN, but
    each line must be exactly one object, from beginning to end.

    Cost: grows with the bytes of the lines.
    """
    kind = _kind(schema)
    kept = other_columns(lines, "value", *kind.names)
    members = (F.col(_READ)["line"][0][name].alias(name) for name in kind.names)
    return _read(lines, kind).filter(_is_object()).select(*kept, *members)


def rejected(lines: DataFrame, schema: StructType | str) -> DataFrame:
    """The lines that `parse` drops, with the reason.

    >>> import sparkstream_kit as ss
    >>> spark = getfixture("spark")
    >>> lines = spark.createDataFrame([('{"status": "x"}',), ('{"status": 200',)], "value string")
    >>> for row in ss.transforms.json_lines.rejected(lines, "status int").collect():
    ...     print(row.line, "|", row.reason)
    {"status": "x"} | a member has another type than in the schema
    {"status": 200 | line is not one JSON object

    Columns in: value: string. Columns out: the other columns of `lines`, such as the file a line is from, then line:
    string, unchanged, and reason: string.

    Cost: grows with the bytes of the lines.
    """
    line = F.col("value")
    is_object = (F.json_array_length(F.concat(F.lit("["), line, F.lit(",0]"))) == 2) & F.ltrim(line).startswith("{")
    reason = F.when(is_object, "a member has another type than in the schema").otherwise("line is not one JSON object")
    others = _read(lines, _kind(schema)).filter(~_is_object() & line.isNotNull())
    return others.select(*other_columns(lines, "value", "line", "reason"), line.alias("line"), reason.alias("reason"))


def split(lines: Lines, schema: StructType | str) -> tuple[Lines, Lines]:
    """Both results for a DataFrame or a FrameStream: (`parse`, `rejected`).

    >>> import sparkstream_kit as ss
    >>> lines = getfixture("spark").createDataFrame([('{"status": 200}',), ("not JSON",)], "value string")
    >>> objects, rejected = ss.transforms.json_lines.split(lines, "status int")
    >>> objects.collect(), rejected.collect()
    ([Row(status=200)], [Row(line='not JSON', reason='line is not one JSON object')])

    Each of the two reads the lines again: if both are used and reading is slow, call `cache` on the lines first.

    Cost: grows with the bytes of the lines, read once for each result that is used.
    """
    return (
        lines.transform(functools.partial(parse, schema=schema)),
        lines.transform(functools.partial(rejected, schema=schema)),
    )


def _kind(schema: StructType | str) -> StructType:
    return cast(StructType, StructType.fromDDL(schema)) if isinstance(schema, str) else schema


def _read(frame: DataFrame, kind: StructType) -> DataFrame:
    """The frame with each line as JSON in the column _READ.

    Spark stops at the end of the first object and ignores what follows. So a line is read as the only element of an
    array that is followed by an end marker: anything extra in the line breaks the array, lengthens it or hides the
    marker.
    """
    whole = StructType().add("line", ArrayType(kind)).add("end", IntegerType()).add("broken", StringType())
    text = F.concat(F.lit('{"line":['), "value", F.lit('],"end":1}'))
    # Exploding an array of one keeps the filter from parsing the line a second time.
    return frame.withColumn(
        _READ, F.explode(F.array(F.from_json(text, whole, {"columnNameOfCorruptRecord": "broken"})))
    )


def _is_object() -> Column:
    read = F.col(_READ)
    is_one = read["broken"].isNull() & (read["end"] == 1) & (F.size(read["line"]) == 1) & read["line"][0].isNotNull()
    return F.coalesce(is_one, F.lit(False))
