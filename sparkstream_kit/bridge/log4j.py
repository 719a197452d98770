"""Logging of a JVM that this process launches: Spark's own defaults print eight lines at every start (Spark 4.2.1)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pyspark.find_spark_home import _find_spark_home

SETTINGS = Path(__file__).with_name("log4j2.properties")
VARIABLE = "LOG4J_CONFIGURATION_FILE"
"""Any -Dlog4j2.configurationFile of the user wins over it (PropertiesUtil of log4j2: system properties come first)."""


@contextlib.contextmanager
def quiet_launch() -> Iterator[None]:
    """Give a JVM that is launched meanwhile the kit's settings, unless its user has configured log4j2."""
    if VARIABLE in os.environ or not SETTINGS.is_file() or _is_configured():
        yield
        return
    os.environ[VARIABLE] = str(SETTINGS)
    try:
        yield
    finally:
        del os.environ[VARIABLE]


def _is_configured() -> bool:
    """Whether Spark's configuration directory, which is on the class path, has a file for log4j2."""
    directory = Path(os.environ.get("SPARK_CONF_DIR") or f"{_find_spark_home()}/conf")
    return any(file.suffix != ".template" for file in directory.glob("log4j2*.*"))
