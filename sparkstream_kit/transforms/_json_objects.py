"""Lines that are JSON objects, read by a schema, as Spark expressions."""

from __future__ import annotations

import uuid

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, IntegerType, StringType, StructType

_NAME = uuid.uuid4().hex
_LINE, _END = f"line_{_NAME}", f"end_{_NAME}"


def read(line: Column, schema: StructType) -> Column:
    """The line as JSON: `member` has its members, if `is_object` says that it is one object.

    Spark stops at the end of the first object and ignores what follows. So a line is read as the only element of an
    array that is followed by an end marker: anything extra in the line breaks the array, lengthens it or hides the
    marker. No line can write either itself, as each process draws the names of both.
    """
    whole = StructType().add(_LINE, ArrayType(schema)).add(_END, IntegerType()).add("broken", StringType())
    text = F.concat(F.lit(f'{{"{_LINE}":['), line, F.lit(f'],"{_END}":1}}'))
    # Exploding an array of one keeps the filter from parsing the line a second time.
    return F.explode(F.array(F.from_json(text, whole, {"columnNameOfCorruptRecord": "broken"})))


def is_object(read: Column) -> Column:
    """Whether the line was one object of the schema; never null."""
    is_one = read["broken"].isNull() & (read[_END] == 1) & (F.size(read[_LINE]) == 1) & _first(read).isNotNull()
    return F.coalesce(is_one, F.lit(False))


def member(read: Column, *path: str) -> Column:
    """The member at a path, such as `request`, `uri`; null if there is none. A digit is an index of an array."""
    found = _first(read)
    for step in path:
        found = F.get(found, int(step)) if step.isdigit() else found[step]
    return found


def _first(read: Column) -> Column:
    # An index of [0] would fail for an empty array even where a condition before it rules that out: Spark computes up
    # front what occurs several times in a filter (spark.sql.subexpressionElimination.skipForShortcutExpr).
    return F.get(read[_LINE], 0)


def reason(line: Column, schema: str) -> Column:
    """Why a line is not an object of the schema, which is called this."""
    is_one = (F.json_array_length(F.concat(F.lit("["), line, F.lit(",0]"))) == 2) & F.ltrim(line).startswith("{")
    return F.when(is_one, f"a member has another type than in the {schema}").otherwise("line is not one JSON object")
