"""Spark properties as data: what the operator sets wins, and the files in conf/ equal the presets."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark import SparkConf, StorageLevel
from pyspark.sql import SparkSession

from sparkstream_kit import settings
from sparkstream_kit.bridge import log4j

CONF = Path(__file__).parent.parent / "conf"


def test_apply_sets_missing_properties_and_keeps_those_that_are_set(spark: SparkSession) -> None:
    conf = SparkConf(loadDefaults=False).set("spark.task.maxFailures", "1")
    assert settings.apply(conf, settings.YARN_HIGH_AVAILABILITY, settings.BACKPRESSURE) is conf
    wanted = {p.name: p.value for p in (*settings.YARN_HIGH_AVAILABILITY, *settings.BACKPRESSURE)}
    assert dict(conf.getAll()) == {**wanted, "spark.task.maxFailures": "1"}


def test_the_first_preset_that_names_a_property_wins(spark: SparkSession) -> None:
    first, second = (settings.Property("spark.x", value, "a test") for value in "12")
    assert settings.apply(SparkConf(loadDefaults=False), (first,), (second,)).get("spark.x") == "1"


@pytest.mark.parametrize(("master", "python"), [("local[4]", sys.executable), ("yarn", None)])
def test_workers_run_the_drivers_python_if_they_are_on_its_machine(
    master: str, python: str | None, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {})
    settings.apply(SparkConf(loadDefaults=False).setMaster(master))
    assert os.environ.get("PYSPARK_PYTHON") == python


@pytest.mark.parametrize("preset", [*settings.PRESETS.values(), settings.YARN_CLUSTER])
def test_every_property_appears_once_in_its_preset_and_has_a_reason(preset: settings.Preset) -> None:
    assert len({p.name for p in preset}) == len(preset)
    assert all(p.reason and p.value for p in preset)


@pytest.mark.parametrize(
    ("file", "presets"),
    [
        ("local.conf", [settings.LOCAL]),
        ("encryption.conf", [settings.ENCRYPTION]),
        (
            "yarn.conf",
            [
                *(settings.YARN_HIGH_AVAILABILITY, settings.YARN_START, settings.HDFS),
                *(settings.WRITE_AHEAD_LOG, settings.BACKPRESSURE),
            ],
        ),
    ],
)
def test_the_files_for_spark_submit_equal_the_presets(file: str, presets: list[settings.Preset]) -> None:
    expected = settings.properties_file(*presets)
    assert (CONF / file).read_text() == expected, f"conf/{file} must be:\n{expected}"


def settings_of(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line and not line.startswith("#")]


def test_a_job_that_python_launches_logs_like_one_with_the_file_for_spark_submit() -> None:
    assert settings_of(log4j.SETTINGS) == settings_of(CONF / "log4j2.properties")


@pytest.fixture
def no_logging_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Spark's configuration directory, which is empty."""
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    monkeypatch.delenv(log4j.VARIABLE, raising=False)
    return tmp_path


def test_a_jvm_is_launched_with_quiet_logging_and_other_processes_are_not(no_logging_configured: Path) -> None:
    with log4j.quiet_launch():
        assert os.environ[log4j.VARIABLE] == str(log4j.SETTINGS)
    assert log4j.VARIABLE not in os.environ


@pytest.mark.parametrize("file", ["log4j2.properties", "log4j2.xml", "log4j2-test.yaml"])
def test_a_log4j_file_in_sparks_configuration_directory_is_used(no_logging_configured: Path, file: str) -> None:
    (no_logging_configured / file).touch()
    with log4j.quiet_launch():
        assert log4j.VARIABLE not in os.environ


def test_the_template_that_comes_with_spark_configures_nothing(no_logging_configured: Path) -> None:
    (no_logging_configured / "log4j2.properties.template").touch()
    with log4j.quiet_launch():
        assert log4j.VARIABLE in os.environ


def test_the_log4j_file_of_the_environment_is_used(
    no_logging_configured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(log4j.VARIABLE, "mine.xml")
    with log4j.quiet_launch():
        assert os.environ[log4j.VARIABLE] == "mine.xml"
    assert os.environ[log4j.VARIABLE] == "mine.xml"


LAUNCHED = """
from pyspark import SparkConf
from sparkstream_kit.bridge import jvm
from sparkstream_kit.context import live_session

live_session(SparkConf().set("spark.ui.enabled", "false"))  # whose port another Spark may have
log = jvm.view().org.apache.logging.log4j.LogManager.getLogger("org.apache.spark.util.Utils")
for level in ("info", "warn", "error"):
    getattr(log, level)(f"a real {level}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", ["", "-Dlog4j2.configurationFile={mine}", "-Dlog4j.configurationFile={mine}"])
def test_a_launched_jvm_reports_warnings_and_errors_and_nothing_else(tmp_path: Path, options: str) -> None:
    mine = tmp_path / "mine.properties"
    mine.write_text(log4j.SETTINGS.read_text().replace("%m%n", "%m, as I like it%n"))
    given = f"{os.environ.get('SPARK_SUBMIT_OPTS', '')} {options.format(mine=mine)}"
    run = subprocess.run(
        [sys.executable, "-c", LAUNCHED],
        env={**os.environ, "PYTHONPATH": str(CONF.parent), "SPARK_SUBMIT_OPTS": given},
        capture_output=True,
        text=True,
    )
    module, *lines = run.stderr.splitlines()
    assert (run.returncode, module) == (0, "WARNING: Using incubator modules: jdk.incubator.vector"), run.stderr
    end = ", as I like it" if options else ""
    assert [line.split(" ", 2)[2] for line in lines] == [
        f"WARN Utils: a real warn{end}",
        f"ERROR Utils: a real error{end}",
    ]


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("job.py --output sql:postgresql://kit:geheim@db/logs", True),
        ("redis://:geheim@cache:6379/1", True),
        ("spark.hadoop.fs.s3a.access.key", True),
        ("job.py --source files:hdfs://namenode:8020/a@b --home /data/home", False),
        ("spark.sql.shuffle.partitions", False),
    ],
)
def test_spark_redacts_passwords_in_urls(text: str, hidden: bool) -> None:
    (redaction,) = settings.REDACTION
    assert bool(re.search(redaction.value, text)) == hidden


def test_receivers_store_serialized_blocks_once_in_memory_or_on_disk(spark: SparkSession) -> None:
    # PySpark calls it MEMORY_AND_DISK, because data from Python is always serialized
    assert settings.RECEIVER_STORAGE == StorageLevel.MEMORY_AND_DISK
    stored = spark.sparkContext.parallelize([1]).persist(settings.RECEIVER_STORAGE)
    assert str(stored.getStorageLevel()) == "Disk Memory Serialized 1x Replicated"
    stored.unpersist()


RECEIVING = """
import sys, threading
from pathlib import Path
from pyspark import SparkConf, SparkContext
from pyspark.streaming import StreamingContext
from sparkstream_kit import settings

port, checkpoint = sys.argv[1:]
conf = SparkConf().setMaster("local[2]").setAppName("receiving").set("spark.ui.enabled", "false")
ssc = StreamingContext(SparkContext(conf=settings.apply(conf, settings.WRITE_AHEAD_LOG)), 0.2)
ssc.checkpoint(checkpoint)
over = threading.Event()

def first_line(rdd):
    lines = rdd.collect()
    if lines:
        print(lines, flush=True)
        sys.modules["__main__"].over.set()

ssc.socketTextStream("127.0.0.1", int(port), settings.RECEIVER_STORAGE).foreachRDD(first_line)
ssc.start()
over.wait(60)
logs = Path(checkpoint, "receivedData").rglob("log-*")
print(sum(b"to be kept" in path.read_bytes() for path in logs), "logs", flush=True)
ssc.stop()
"""


@pytest.mark.slow
def test_a_bare_receiver_logs_lines_ahead_of_processing_them(tmp_path: Path) -> None:
    job = tmp_path / "receiving.py"
    job.write_text(RECEIVING)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        process = subprocess.Popen(
            [sys.executable, str(job), str(server.getsockname()[1]), str(tmp_path / "checkpoint")],
            env={**os.environ, "PYTHONPATH": str(CONF.parent), "SPARK_CONF_DIR": str(CONF)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            receiver, _ = server.accept()
            with receiver:
                receiver.sendall(b"to be kept\n")
                printed, complaints = process.communicate(timeout=90)
        finally:
            process.kill()
    assert printed.splitlines() == ["['to be kept']", "1 logs"], complaints
    assert "default log4j profile" not in complaints, "conf/log4j2.properties was not used"
