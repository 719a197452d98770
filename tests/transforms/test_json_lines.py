from chispa import assert_df_equality
from pyspark.sql import SparkSession

from sparkstream_kit.transforms.json_lines import parse_json


def test_lines_that_are_no_objects_of_the_schema_are_left_out(spark: SparkSession) -> None:
    lines = ['{"a.b": 1, "c": {"d": [1]}}', '{"a.b": 1', '{"a.b": "x"}', "", "null", "[]", None, "{}", '{"e": 1}']
    frame = spark.createDataFrame(enumerate(lines), "n int, value string")
    expected = [(0, 1, ([1],)), (7, None, None), (8, None, None)]
    schema = "`a.b` bigint, c struct<d: array<int>>"
    assert_df_equality(parse_json(frame, schema), spark.createDataFrame(expected, f"n int, {schema}"))
