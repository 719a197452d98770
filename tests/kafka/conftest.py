"""A broker for all tests of this folder, and a session whose JVM has Spark's connector for Kafka."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest
from pyspark import SparkContext
from pyspark.sql import SparkSession

from sparkstream_kit.testing import local_session
from tests.faults.conftest import new_job as new_job
from tests.faults.conftest import pytest_runtest_call as pytest_runtest_call
from tests.support import kafka

_names = itertools.count()


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """The session of these tests: a JVM that runs already has no connector, and ends."""
    if SparkContext._gateway is not None:
        former = local_session()
        former.stop()
        former.stop = lambda: None  # type: ignore[method-assign]  # its fixture stops it once more, at the end
        SparkContext._gateway.shutdown()
        SparkContext._gateway = SparkContext._jvm = None
    loopback = "--conf spark.driver.host=127.0.0.1 --conf spark.driver.bindAddress=127.0.0.1"
    os.environ["PYSPARK_SUBMIT_ARGS"] = f"--jars {kafka.jars()} {loopback} pyspark-shell"
    session = local_session()
    del os.environ["PYSPARK_SUBMIT_ARGS"]
    yield session
    session.stop()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kafka.Broker]:
    made = kafka.Broker(tmp_path_factory.mktemp("kafka"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def client(spark: SparkSession, broker: kafka.Broker) -> kafka.Client:
    return kafka.Client(broker.address)


@pytest.fixture
def name() -> str:
    """The name of a topic that no other test has."""
    return f"topic-{next(_names)}"
