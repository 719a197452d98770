"""Frames made of rows in the JVM."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from sparkstream_kit.bridge import rows


@pytest.mark.parametrize("size", [None, 0, 1, 1000, 1 << 20, 1 << 60])
def test_a_frame_has_its_rows_whatever_their_size_is_thought_to_be(spark: SparkSession, size: int | None) -> None:
    given = spark.range(3).coalesce(1).localCheckpoint()
    source = rows.rows(given)
    assert source is not None
    made = rows.frame(spark, source.rdd, source.schema, size)
    assert (made.schema, made.collect()) == (given.schema, given.collect())
    assert rows.rows(made) is not None


def test_only_rows_that_are_there_are_rows(spark: SparkSession) -> None:
    assert rows.rows(spark.range(3)) is None
    assert rows.rows(spark.range(3).localCheckpoint().filter("id > 1")) is None
    assert rows.rows(spark.range(3).repartition(2, "id").localCheckpoint()) is None
    cached = spark.range(3).coalesce(1).cache()
    assert rows.rows(cached) is not None
    assert rows.rows(cached.filter("id > 1")) is None
    cached.unpersist()
