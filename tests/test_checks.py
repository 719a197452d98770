"""Checks before a job starts: each refuses in one sentence what Spark would say nothing about."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from py4j.java_gateway import GatewayParameters, JavaGateway
from py4j.protocol import Py4JError
from pyspark import SparkContext
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

from sparkstream_kit import checks
from sparkstream_kit.bridge import jvm
from sparkstream_kit.errors import UsageError


@pytest.fixture
def ssc(spark: SparkSession) -> Iterator[StreamingContext]:
    """A bare context on the two cores of the test session."""
    context = StreamingContext(spark.sparkContext, 1)
    yield context
    context.stop(stopSparkContext=False)


def test_receivers_that_leave_no_core_to_the_batches_are_refused_with_the_numbers(ssc: StreamingContext) -> None:
    for port in (1, 2):
        ssc.socketTextStream("127.0.0.1", port).pprint()
    with pytest.raises(UsageError) as refused:
        checks.check_cores(ssc)
    assert str(refused.value) == (
        "2 receivers occupy a core each and leave none of the 2 cores of local[2] to the batches: "
        "give the job at least 3 cores, for example --master local[3]"
    )


def test_a_receiver_that_leaves_a_core_is_accepted(ssc: StreamingContext) -> None:
    ssc.socketTextStream("127.0.0.1", 1).pprint()
    checks.check_cores(ssc)


def test_a_job_without_receivers_needs_no_spare_core(ssc: StreamingContext, tmp_path: Path) -> None:
    for _ in range(3):
        ssc.textFileStream(str(tmp_path)).pprint()
    checks.check_cores(ssc)


class OnCluster:
    """What check_cores needs of a context that runs on a cluster."""

    def __init__(self, master: str, **conf: str):
        self.sparkContext = self
        self.master = master
        self._conf = {f"spark.{name.replace('_', '.')}": value for name, value in conf.items()}

    def getConf(self) -> OnCluster:
        return self

    def get(self, name: str, default: str | None = None) -> str | None:
        return self._conf.get(name, default)

    def contains(self, name: str) -> bool:
        return name in self._conf


@pytest.mark.parametrize(
    ("context", "enough"),
    [
        (OnCluster("yarn", executor_instances="3"), True),
        (OnCluster("yarn", executor_instances="2"), False),
        (OnCluster("yarn", executor_instances="1", executor_cores="4"), True),
        (OnCluster("yarn", executor_instances="1", executor_cores="4", task_cpus="2"), False),
        (OnCluster("yarn", executor_instances="1", dynamicAllocation_enabled="true"), True),
        (OnCluster("spark://master:7077", cores_max="2"), False),
        (OnCluster("spark://master:7077"), True),
        (OnCluster("local-cluster[2,1,1024]"), True),
    ],
)
def test_the_cores_of_a_cluster_are_counted_if_their_number_is_fixed(
    context: OnCluster, enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks.streaming, "receiver_count", lambda _: 2)
    if enough:
        checks.check_cores(context)  # type: ignore[arg-type]
    else:
        with pytest.raises(UsageError, match=r"^2 receivers"):
            checks.check_cores(context)  # type: ignore[arg-type]


def test_a_file_or_a_missing_path_is_refused_as_a_directory(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert checks.check_directory(str(tmp_path)) == str(tmp_path)
    for wrong in ("file", "missing"):
        with pytest.raises(UsageError, match=f"{wrong}' is not a directory: create it"):
            checks.check_directory(str(tmp_path / wrong))


def test_a_writable_directory_is_created_and_left_empty(spark: SparkSession, tmp_path: Path) -> None:
    wanted = tmp_path / "a" / "b"
    assert checks.check_writable(str(wanted)) == str(wanted)
    assert list(wanted.iterdir()) == []


def test_a_file_system_that_spark_does_not_have_is_one_sentence_however_checks_are_nested(spark: SparkSession) -> None:
    for check in (checks.check_directory, checks.check_writable):
        with pytest.raises(UsageError) as refused, jvm.refusals("the job cannot start ({})".format):
            check("s3a://bucket/logs")
        assert str(refused.value).startswith(
            "this Spark cannot open 's3a://bucket/logs' (Class org.apache.hadoop.fs.s3a.S3AFileSystem not found): add "
            "the jar of that file system, for example with --packages org.apache.hadoop:hadoop-aws:3."
        )


def test_a_server_that_does_not_answer_is_named(spark: SparkSession) -> None:
    spark.sparkContext._jsc.hadoopConfiguration().set("ipc.client.connect.max.retries", "0")
    with pytest.raises(UsageError) as refused:
        checks.check_directory("hdfs://127.0.0.1:9/logs")
    sentence = "cannot look at 'hdfs://127.0.0.1:9/logs' (localhost:9: Connection refused): correct the path, or start "
    assert str(refused.value) == f"{sentence}what serves it"


NO_ANSWER = [
    Py4JError("An error occurred while calling o1.exists"),  # GatewayClient.send_command, when a connection ends
    ConnectionRefusedError(111, "Connection refused"),
]


@pytest.mark.parametrize("error", NO_ANSWER, ids=repr)
def test_an_error_of_a_killed_java_process_stays_what_it_is(
    spark: SparkSession, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever restarts the job on failure has to restart it, and not after exit 2."""
    with monkeypatch.context() as patch, pytest.raises(type(error)), jvm.refusals("cannot open it ({})".format):
        patch.setattr(jvm, "answers", lambda: False)
        raise error


@pytest.mark.parametrize("error", NO_ANSWER, ids=repr)
def test_such_an_error_with_a_living_java_process_is_refused_as_others_are(
    spark: SparkSession, error: Exception
) -> None:
    """A function of the user's may have called a server that is down, or Java a method that it does not have."""
    with pytest.raises(UsageError, match="cannot open it"), jvm.refusals("cannot open it ({})".format):
        raise error


def test_a_java_process_that_is_gone_does_not_answer(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    assert jvm.answers()
    nobody = JavaGateway(gateway_parameters=GatewayParameters(port=9))
    with monkeypatch.context() as patch:
        patch.setattr(SparkContext, "_gateway", nobody)
        assert not jvm.answers()
    assert jvm.answers()


def other_python(folder: Path, says: str) -> SimpleNamespace:
    """What check_python needs of a context whose workers' Python says its version is this."""
    (folder / "python").write_text(f"#!/bin/sh\necho {says}\n")
    (folder / "python").chmod(0o755)
    return SimpleNamespace(pythonExec=f"{folder}/python", master="local[2]")


def test_workers_of_another_python_are_refused_with_both_versions(tmp_path: Path) -> None:
    ours = ".".join(map(str, sys.version_info[:2]))
    checks.check_python(other_python(tmp_path, ours))  # type: ignore[arg-type]
    with pytest.raises(UsageError) as refused:
        checks.check_python(other_python(tmp_path, "3.8"))  # type: ignore[arg-type]
    assert str(refused.value) == (
        f"the workers' Python {tmp_path}/python is Python 3.8, and the driver runs Python {ours}, but both must be of "
        f"one minor version: unset PYSPARK_PYTHON, or set it to {sys.executable}"
    )
    missing = SimpleNamespace(pythonExec=f"{tmp_path}/none", master="local[2]")
    with pytest.raises(UsageError, match=f"the workers' Python {tmp_path}/none cannot run "):
        checks.check_python(missing)  # type: ignore[arg-type]
    missing.master = "yarn"
    checks.check_python(missing)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["{tmp}/file", "{tmp}/file/below", "/proc/nobody/writes/here"])
def test_a_directory_that_cannot_be_written_to_is_refused_in_one_line(
    wrong: str, spark: SparkSession, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    path = wrong.format(tmp=tmp_path)
    with pytest.raises(UsageError) as refused:
        checks.check_writable(path)
    message = str(refused.value)
    assert message.startswith(f"cannot write into {path!r} (")
    assert message.endswith("): name a directory that this user can write to")
    assert "\n" not in message


def test_a_port_with_a_listener_is_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        checks.check_port("127.0.0.1", server.getsockname()[1])


def test_a_port_without_a_listener_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UsageError, match=f"nobody listens on 127.0.0.1:{port}"):
        checks.check_port("127.0.0.1", port)
