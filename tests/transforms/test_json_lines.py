"""JSON lines: what is accepted and what is rejected; what all formats share is in test_formats.py."""

from chispa import assert_df_equality
from pyspark.sql import SparkSession

from sparkstream_kit.transforms.json_lines import parse, rejected


def test_lines_that_are_not_objects_of_the_schema_are_dropped(spark: SparkSession) -> None:
    lines = ['{"a.b": 1, "c": {"d": [1]}}', '{"a.b": 1', '{"a.b": "x"}', "", "null", "[]", None, "{}", '{"e": 1} \r']
    frame = spark.createDataFrame(enumerate(lines), "n int, value string")
    expected = [(0, 1, ([1],)), (7, None, None), (8, None, None)]
    schema = "`a.b` bigint, c struct<d: array<int>>"
    assert_df_equality(parse(frame, schema), spark.createDataFrame(expected, f"n int, {schema}"))
    assert [row.n for row in rejected(frame, schema).collect()] == [1, 2, 3, 4, 5]


def test_a_line_with_anything_after_its_object_is_rejected(spark: SparkSession) -> None:
    ends = ["x", "{}", ",{}", ', "a": {}', "}", "]", "]}", ",", "\0", "// x", '],"end":2}']
    frame = spark.createDataFrame([(f'{{"a": 1}}{end}',) for end in ends], "value string")
    assert parse(frame, "a int").collect() == []
    assert {row.reason for row in rejected(frame, "a int").collect()} == {"line is not one JSON object"}


def test_fields_may_have_any_name(spark: SparkSession) -> None:
    frame = spark.createDataFrame([('{"line": 1, "end": 2, "broken": 3, "value": 4}',)], "value string")
    schema = "line int, end int, broken int, value int"
    assert [tuple(row) for row in parse(frame, schema).collect()] == [(1, 2, 3, 4)]
