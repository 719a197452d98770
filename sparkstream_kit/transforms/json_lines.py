"""JSON lines as columns, by a schema."""

from __future__ import annotations

from typing import cast

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

_BROKEN = "_json_broken"


def parse_json(frame: DataFrame, schema: StructType | str) -> DataFrame:
    """Read the lines in the column `value` as JSON objects of a schema; lines that are none are left out.

    >>> spark = getfixture("spark")
    >>> lines = ['{"status": 200, "path": "/"}', '{"path": 1.5}', '{"status": "x"}', "[1]", "no JSON"]
    >>> frame = spark.createDataFrame([(line,) for line in lines], "value string")
    >>> parse_json(frame, "status int, path string").collect()
    [Row(status=200, path='/'), Row(status=None, path='1.5')]

    Columns in: value: string. Columns out: those of the schema; a member that is missing is null, one that has another
    type makes the line none of them, and others are passed over. Other columns of the frame stay, in front.
    """
    kind = cast(StructType, StructType.fromDDL(schema)) if isinstance(schema, str) else schema
    with_broken = StructType([*kind.fields]).add(_BROKEN, "string")
    read = F.from_json("value", with_broken, {"columnNameOfCorruptRecord": _BROKEN})
    kept = ["`{}`".format(name.replace("`", "``")) for name in frame.columns if name not in {"value", *kind.names}]
    # An array of one, exploded, keeps the filter from reading the line a second time.
    objects = frame.select(*kept, F.explode(F.array(read)).alias("_json"))
    known = objects.filter(F.col("_json").isNotNull() & F.col(f"_json.{_BROKEN}").isNull())
    return known.select(*kept, *(F.col("_json")[name].alias(name) for name in kind.names))
