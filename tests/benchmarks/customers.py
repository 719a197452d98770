"""The small table that W6 joins with: a customer for each of the generator's clients."""

from __future__ import annotations

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

SCHEMA = "client_ip string, status int, path string, bytes bigint, customer string"
"""Columns of the Parquet files of W6."""


def customers() -> dict[str, str]:
    return {f"198.18.{n % 40}.{1 + n // 40}": f"customer {n % 97}" for n in range(1000)}


def table(spark: SparkSession) -> DataFrame:
    """Cached, as whoever joins every batch with it would have it."""
    return spark.createDataFrame(list(customers().items()), "client_ip string, customer string").cache()


def digest(written: DataFrame) -> list[Row]:
    """Rows and the sum of their hashes: as sensitive to a row that is missing or doubled as the rows themselves."""
    columns = [F.col(field.split()[0]).cast(field.split()[1]) for field in SCHEMA.split(", ")]
    hashes = F.sum(F.xxhash64(*columns).cast("decimal(38, 0)"))
    return written.agg(F.count("*"), hashes.cast("string")).collect()
