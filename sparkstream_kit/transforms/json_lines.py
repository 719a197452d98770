"""JSON lines as columns, by a schema."""

from __future__ import annotations

import functools
from typing import TypeVar

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from ..columns import other_columns, schema_of
from ..engine.chains import same_for_every_batch
from ..frames import FrameStream
from ._json_objects import is_object, member, read, reason

Lines = TypeVar("Lines", DataFrame, FrameStream)

_READ = "_json_read"


@same_for_every_batch
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
    kind = schema_of(schema)
    kept = other_columns(lines, "value", *kind.names)
    members = (member(F.col(_READ), name).alias(name) for name in kind.names)
    return _read(lines, kind).filter(is_object(F.col(_READ))).select(*kept, *members)


@same_for_every_batch
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
    others = _read(lines, schema_of(schema)).filter(~is_object(F.col(_READ)) & line.isNotNull())
    kept = other_columns(lines, "value", "line", "reason")
    return others.select(*kept, line.alias("line"), reason(line, "schema").alias("reason"))


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
    parsed, failed = (
        lines.transform(functools.partial(parse, schema=schema)),
        lines.transform(functools.partial(rejected, schema=schema)),
    )
    if isinstance(failed, FrameStream):
        failed.rejects = True
    return parsed, failed


def _read(frame: DataFrame, schema: StructType) -> DataFrame:
    return frame.withColumn(_READ, read(F.col("value"), schema))
