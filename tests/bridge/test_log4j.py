"""What a JVM of spark-submit logs, which has started before the kit."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pyspark
import pytest

from sparkstream_kit import cli

SUBMIT = Path(pyspark.__file__).parent / "bin/spark-submit"
ROOT = Path(__file__).parents[2]

LEVELS = r"""
from pyspark import SparkContext
from sparkstream_kit.bridge import jvm

jvm.start_jvm()
manager = SparkContext._jvm.org.apache.logging.log4j.LogManager
for name in ("org.apache.spark.scheduler.DAGScheduler", "org.apache.hadoop.util.NativeCodeLoader"):
    print(manager.getLogger(name).getLevel())
manager.getLogger("job").error("a line with \x1b[2J")
"""
CONFIGURED = """
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
"""


def levels(tmp_path: Path, *options: str, **environment: str) -> tuple[list[str], str]:
    """The levels of Spark and of one logger that says nothing, and what spark-submit with these options logs."""
    (tmp_path / "levels.py").write_text(LEVELS)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "LOG4J_"))}
    submitted = subprocess.run(
        [SUBMIT, "--master", "local[1]", *options, tmp_path / "levels.py"],
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert submitted.returncode == 0, submitted.stderr
    return submitted.stdout.split(), submitted.stderr


def test_spark_submit_is_quiet_unless_its_user_configured_logging(tmp_path: Path) -> None:
    quiet, logged = levels(tmp_path)
    assert quiet == ["WARN", "ERROR"]
    assert "ERROR job: a line with ?[2J\n" in logged
    file = tmp_path / "log4j2.properties"
    file.write_text(CONFIGURED)
    configured = f"-Dlog4j2.configurationFile={file}"
    assert levels(tmp_path, "--driver-java-options", configured)[0] == ["INFO", "INFO"]


@pytest.mark.slow
def test_the_archive_brings_the_settings_along(tmp_path: Path) -> None:
    cli.archive(tmp_path / "kit.zip")
    assert levels(tmp_path, PYTHONPATH=f"{tmp_path}/kit.zip")[0] == ["WARN", "ERROR"]


@pytest.mark.slow
def test_a_configuration_directory_and_a_level_of_spark_are_the_user_s_own(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "log4j2.properties").write_text(CONFIGURED)
    assert levels(tmp_path, SPARK_CONF_DIR=f"{tmp_path}/conf")[0] == ["INFO", "INFO"]
    assert levels(tmp_path, "--conf", "spark.log.level=INFO")[0] == ["INFO", "INFO"]
