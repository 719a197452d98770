"""Surgery on Spark's checkpoint refuses a Spark that it does not know; engine/test_checkpoints shows what it does."""

from __future__ import annotations

import pyspark
import pytest
from pyspark.sql import SparkSession

from sparkstream_kit.bridge import surgery
from sparkstream_kit.errors import UsageError

TABLES = [surgery._FIRST_CHECKPOINT, surgery._DOWNTIME, surgery._RECEIVERS]


@pytest.mark.parametrize("table", TABLES, ids=["first checkpoint", "downtime", "receivers"])
def test_the_installed_spark_is_accepted(spark: SparkSession, table: dict[str, tuple[str, ...]]) -> None:
    surgery._check_members(table)


@pytest.mark.parametrize(
    "member",
    sorted({member for table in TABLES for members in table.values() for member in members}),
)
def test_a_spark_with_another_signature_is_refused_by_its_version(
    spark: SparkSession, member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = surgery._declared
    # all members are there but this one, which takes or is something else
    monkeypatch.setattr(
        surgery, "_declared", lambda name: [found.replace(member, f"{member}Of49") for found in declared(name)]
    )
    (table, *_) = [table for table in TABLES if any(member in members for members in table.values())]
    with pytest.raises(UsageError) as refused:
        surgery._check_members(table)
    assert type(refused.value) is UsageError
    assert str(refused.value).startswith(f"PySpark {pyspark.__version__} is not supported (org.apache.spark.streaming.")
    assert str(refused.value).endswith(f" does not declare `{member}`): use PySpark 4.0 to 4.3")


def test_a_spark_without_the_class_is_refused(spark: SparkSession) -> None:
    with pytest.raises(UsageError, match=r"streaming\.Checkpoints does not declare `Checkpoints\(\)`"):
        surgery._check_members({"Checkpoints": ("Checkpoints()",)})
