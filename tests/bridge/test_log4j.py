"""What a JVM of spark-submit logs, which has started before the kit."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pyspark
import pytest

SUBMIT = Path(pyspark.__file__).parent / "bin/spark-submit"
ROOT = Path(__file__).parents[2]

LEVELS = """
from pyspark import SparkContext
from sparkstream_kit.bridge import jvm

jvm.start_jvm()
manager = SparkContext._jvm.org.apache.logging.log4j.LogManager
for name in ("org.apache.spark.scheduler.DAGScheduler", "org.apache.hadoop.util.NativeCodeLoader"):
    print(manager.getLogger(name).getLevel())
"""
CONFIGURED = """
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
"""


def levels(tmp_path: Path, *options: str, **environment: str) -> list[str]:
    """The levels of Spark and of one logger that says nothing, in a spark-submit with these options."""
    (tmp_path / "levels.py").write_text(LEVELS)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SPARK_", "LOG4J_"))}
    ran = subprocess.run(
        [SUBMIT, "--master", "local[1]", *options, tmp_path / "levels.py"],
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def test_spark_submit_is_quiet_unless_its_user_configured_logging(tmp_path: Path) -> None:
    assert levels(tmp_path) == ["WARN", "ERROR"]
    file = tmp_path / "log4j2.properties"
    file.write_text(CONFIGURED)
    configured = f"-Dlog4j2.configurationFile={file}"
    assert levels(tmp_path, "--driver-java-options", configured) == ["INFO", "INFO"]


@pytest.mark.slow
def test_a_configuration_directory_and_a_level_of_spark_are_the_user_s_own(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "log4j2.properties").write_text(CONFIGURED)
    assert levels(tmp_path, SPARK_CONF_DIR=f"{tmp_path}/conf") == ["INFO", "INFO"]
    assert levels(tmp_path, "--conf", "spark.log.level=INFO") == ["INFO", "INFO"]
