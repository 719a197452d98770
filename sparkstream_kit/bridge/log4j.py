"""Logging of the JVM: Spark's own defaults print eight lines at every start and, under spark-submit, a hundred a batch.

What a user has configured stays as it is. Classes are those of Spark 4.2.1 and its log4j 2.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from pyspark import SparkConf, SparkContext
from pyspark.find_spark_home import _find_spark_home

SETTINGS = Path(__file__).with_name("log4j2.properties")
VARIABLE = "LOG4J_CONFIGURATION_FILE"
"""Any -Dlog4j2.configurationFile of the user wins over it (PropertiesUtil of log4j2: system properties come first)."""

DEFAULTS = "org/apache/spark/log4j2-defaults.properties"
"""Spark's own configuration, in its jar."""


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


def quiet_submitted() -> None:
    """Give the JVM of spark-submit, which logs INFO and more, the kit's settings, unless its user has others.

    Spark says where its configuration came from: one that it found no other for is its own (Logging.initializeLogging).
    SparkSubmit.runMain has forgotten that (Logging.uninitialize), so it is asked again first; every Spark class that
    logs can be, such as SparkConf. Configurator.reconfigure reads the file at once.
    """
    jvm = SparkContext._jvm
    assert jvm is not None
    jvm.org.apache.spark.SparkConf(False).initializeLogIfNecessary(False, True)
    log4j = jvm.org.apache.logging.log4j
    is_default = str(log4j.LogManager.getContext(False).getConfigLocation()).endswith(DEFAULTS)
    if not is_default or SparkConf().contains("spark.log.level"):
        return
    with tempfile.NamedTemporaryFile("w", suffix=".properties") as file:  # the package may be in a zip file
        file.write(resources.files(__package__).joinpath(SETTINGS.name).read_text())
        file.flush()
        log4j.core.config.Configurator.reconfigure(jvm.java.net.URI(Path(file.name).as_uri()))


def _is_configured() -> bool:
    """Whether Spark's configuration directory, which is on the class path, has a file for log4j2."""
    directory = Path(os.environ.get("SPARK_CONF_DIR") or f"{_find_spark_home()}/conf")
    return any(file.suffix != ".template" for file in directory.glob("log4j2*.*"))
