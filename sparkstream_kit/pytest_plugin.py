"""A pytest plugin with the fixture `spark`: one quiet local session for the whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pyspark.sql import SparkSession

from .testing import local_session


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """A local SparkSession with two cores, in UTC and without a web UI."""
    session = local_session()
    yield session
    session.stop()
