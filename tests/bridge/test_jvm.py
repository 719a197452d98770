"""Whether there is a Java, before Spark's scripts look for it, and what its errors say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from sparkstream_kit.bridge import jvm
from sparkstream_kit.errors import UsageError

WHAT_TO_DO = "install Java 17 or newer, or set JAVA_HOME to one"


def java(home: Path, version: str) -> str:
    (home / "bin").mkdir()
    (home / "bin/java").touch(0o755)
    (home / "release").write_text(f'IMPLEMENTOR="somebody"\nJAVA_VERSION="{version}"\n')
    return str(home)


def test_no_java_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=rf"^no Java found \(JAVA_HOME={tmp_path} has no bin/java\): {WHAT_TO_DO}$"):
        jvm.check_java()
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=rf"^no Java found \(java is not on the PATH\): {WHAT_TO_DO}$"):
        jvm.check_java()


@pytest.mark.parametrize(("version", "found"), [("1.8.0_432", "8"), ("11.0.25", "11")])
def test_an_old_java_is_refused_by_its_version(
    version: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", java(tmp_path, version))
    expected = f"found Java {found} ({tmp_path}/bin/java), which Spark does not run on: {WHAT_TO_DO}"
    with pytest.raises(UsageError, match=re.escape(expected)):
        jvm.check_java()


@pytest.mark.parametrize("version", ["17.0.13", "21.0.5", "unknown"])
def test_a_java_that_spark_runs_on_or_that_does_not_say_is_accepted(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    (tmp_path / "linked").symlink_to(f"{java(tmp_path, version)}/bin/java")
    os.rename(tmp_path / "linked", tmp_path / "java")
    monkeypatch.setenv("PATH", str(tmp_path))
    jvm.check_java()


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select value form rows", r"ParseException: \[PARSE_SYNTAX_ERROR\] Syntax error at or near 'rows'.*"),
        (
            "select valu from values ('a') as rows(value)",
            r"AnalysisException: \[UNRESOLVED_COLUMN.WITH_SUGGESTION\] .*`valu` cannot .*",
        ),
        ("select from_json('{}', 'a in t b')", r"AnalysisException: \[PARSE_SYNTAX_ERROR\] Syntax error at or near .*"),
    ],
)
def test_the_reason_of_an_error_in_sql_is_one_line_that_names_it(spark: SparkSession, sql: str, expected: str) -> None:
    with pytest.raises(PySparkException) as raised:
        spark.sql(sql)
    assert re.fullmatch(expected, jvm.reason(raised.value)), jvm.reason(raised.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("got 3\nexpected 4"), "ValueError: got 3"),
        (ValueError("\n got 3"), "ValueError: got 3"),
        (ValueError("these are wrong:\na, b\nc"), "ValueError: these are wrong: a, b"),
        (ValueError("these are wrong:"), "ValueError: these are wrong:"),
        (ValueError(), "ValueError:"),
        (UsageError("got 3"), "got 3"),
    ],
)
def test_the_reason_of_an_error_is_its_first_line_with_what_that_announces(error: Exception, expected: str) -> None:
    assert jvm.reason(error) == expected


def test_an_error_of_the_kit_that_spark_quotes_has_its_own_sentence() -> None:
    quoted = RuntimeError(
        'Traceback (most recent call last):\n  File "job.py", line 1\nsparkstream_kit.errors.BatchFailed: no'
    )
    assert jvm.reason(quoted) == "no"


def test_the_reason_of_an_error_that_pyspark_fails_to_convert_is_that_of_java(spark: SparkSession) -> None:
    with pytest.raises(jvm.JavaError) as raised:
        try:
            jvm.view().java.util.Optional.empty().get()
        except jvm.JavaError:
            raise jvm.JavaError("py4j does not exist in the JVM")  # noqa: B904 - as PySpark's converter fails
    assert jvm.reason(raised.value) == "No value present"


def fails(message: str) -> Callable[[str], str]:
    def function(value: str) -> str:
        raise ValueError(message)

    return function


@pytest.mark.parametrize("message", ["got 3", "got 3\nexpected 4", "got 3\n\n  indented\nmore"])
def test_the_reason_of_an_error_in_a_python_worker_is_the_first_line_of_its_message(
    spark: SparkSession, message: str
) -> None:
    with pytest.raises(PySparkException) as raised:
        spark.createDataFrame([("a",)], "value string").select(F.udf(fails(message))("value")).collect()
    assert jvm.reason(raised.value) == "ValueError: got 3"


HALT = """
import logging, os, sys
from sparkstream_kit.bridge import jvm
from sparkstream_kit.testing import local_session

logging.basicConfig(level=logging.INFO)
local_session()
logging.warning("before")
jvm.halt(1, "the last sentence")
print("as a server does whose connection broke", file=sys.stderr)
os._exit(1)
"""


def test_the_message_of_an_end_is_the_last_line_however_the_job_logs() -> None:
    ended = subprocess.run([sys.executable, "-c", HALT], capture_output=True, text=True)
    lines = ended.stderr.splitlines()
    assert "WARNING:root:before" in lines
    assert lines[-1] == "the last sentence"
    assert ended.returncode == 1
