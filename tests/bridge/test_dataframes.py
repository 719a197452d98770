"""Frames as PySpark makes them."""

from __future__ import annotations

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from sparkstream_kit.bridge import dataframes


def failure(spark: SparkSession) -> str:
    with pytest.raises(PySparkException) as refused:
        spark.range(1).select(1 / F.col("id")).collect()
    return str(refused.value)


def test_errors_name_the_line_of_the_program_but_for_what_is_made_without_lines(spark: SparkSession) -> None:
    assert __file__ in failure(spark)
    with dataframes.without_lines():
        assert __file__ not in failure(spark)
    assert __file__ in failure(spark)
