"""Lines that are JSON objects, read by a schema, as Spark expressions."""

from __future__ import annotations

from typing import cast

from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, IntegerType, StringType, StructType


def schema_of(schema: StructType | str) -> StructType:
    """The schema itself, or that of a DDL string."""
    return cast(StructType, StructType.fromDDL(schema)) if isinstance(schema, str) else schema


def read(line: Column, schema: StructType) -> Column:
    """The line as JSON: if `is_object` says that it is valid, `line[0]` has the members.

    Spark stops at the end of the first object and ignores what follows. So a line is read as the only element of an
    array that is followed by an end marker: anything extra in the line breaks the array, lengthens it or hides the
    marker.
    """
    whole = StructType().add("line", ArrayType(schema)).add("end", IntegerType()).add("broken", StringType())
    text = F.concat(F.lit('{"line":['), line, F.lit('],"end":1}'))
    # Exploding an array of one keeps the filter from parsing the line a second time.
    return F.explode(F.array(F.from_json(text, whole, {"columnNameOfCorruptRecord": "broken"})))


def is_object(read: Column) -> Column:
    """Whether the line was one object of the schema; never null."""
    is_one = read["broken"].isNull() & (read["end"] == 1) & (F.size(read["line"]) == 1) & read["line"][0].isNotNull()
    return F.coalesce(is_one, F.lit(False))


def reason(line: Column, schema: str) -> Column:
    """Why a line is not an object of the schema, which is called this."""
    is_one = (F.json_array_length(F.concat(F.lit("["), line, F.lit(",0]"))) == 2) & F.ltrim(line).startswith("{")
    return F.when(is_one, f"a member has another type than in the {schema}").otherwise("line is not one JSON object")
