"""A Spark without the connector for Kafka, as pip installs it."""

from __future__ import annotations

import re

import pyspark
import pytest
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit import cli
from sparkstream_kit.errors import MissingLibrary


def test_a_missing_connector_is_one_sentence_with_what_to_add(
    spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["packages"]) == 0
    package = capsys.readouterr().out.strip()
    assert package == f"org.apache.spark:spark-sql-kafka-0-10_2.13:{pyspark.__version__}"
    ssc = StreamingContext(spark.sparkContext, 1)
    with pytest.raises(MissingLibrary, match=re.escape(f"--packages {package}")):
        ss.sources.kafka(ssc, "127.0.0.1:9092", "access")
    ssc.stop(stopSparkContext=False)
