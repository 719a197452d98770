"""A pytest plugin with the fixture `spark`: one quiet local session for the whole run.

PySpark is imported when the fixture is first used: pytest loads the plugin in every run, with or without Spark.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from . import _spark
from .errors import UsageError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def pytest_report_header() -> str | None:
    """Which Spark was found outside pip, or why there is none."""
    try:
        return None if _spark.use().found == _spark.PATH else f"sparkstream_kit: using {_spark.use()}"
    except UsageError as error:
        return f"sparkstream_kit: {error}"


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """A local SparkSession with two cores, in UTC and without a web UI."""
    try:
        _spark.use()
    except UsageError as error:
        pytest.fail(str(error), pytrace=False)
    from .testing import local_session

    session = local_session()
    yield session
    session.stop()
