"""get_or_create on bare contexts of the test's SparkSession; tests/faults kills whole jobs."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext
from pyspark.streaming.util import TransformFunction

from sparkstream_kit import context, dstreams, lifecycle
from sparkstream_kit.bridge import streaming
from sparkstream_kit.errors import CheckpointRefused, UsageError
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.recovery import lease, storage
from sparkstream_kit.sources._generator import generator

Build = Callable[[StreamingContext], None]


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    path = tmp_path / "incoming"
    path.mkdir()
    return path


@pytest.fixture
def build(spark: SparkSession, incoming: Path) -> Iterator[Build]:
    """A definition that prints the files of a directory; its contexts are stopped after the test."""
    made: list[StreamingContext] = []

    def build(ssc: StreamingContext) -> None:
        made.append(ssc)
        ssc.textFileStream(str(incoming)).pprint()

    yield build
    for ssc in made:
        ssc.stop(stopSparkContext=False)


# --- get_or_create ----------------------------------------------------------------------------------------


def test_the_first_start_calls_the_definition_with_a_new_context(spark: SparkSession, build: Build) -> None:
    ssc = context.get_or_create(build, batch_interval="1500ms")
    assert streaming.batch_interval_ms(ssc) == 1500
    assert not streaming.is_recovered(ssc)


def test_a_running_spark_is_used_unchanged(spark: SparkSession) -> None:
    spark.conf.set("spark.sql.shuffle.partitions", "7")
    try:
        assert context.live_session().sparkContext is spark.sparkContext
        assert spark.conf.get("spark.sql.shuffle.partitions") == "7"
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", "2")


def test_an_active_context_is_returned_and_not_defined_again(build: Build) -> None:
    running = context.get_or_create(build, batch_interval="100ms")
    running.start()

    def never(ssc: StreamingContext) -> None:
        raise AssertionError("defined again")

    assert context.get_or_create(never, batch_interval="100ms") is running


@pytest.fixture
def checkpoint(build: Build, tmp_path: Path) -> str:
    """The checkpoint of a context with an interval of 100ms."""
    path = str(tmp_path / "checkpoint")
    ssc = context.get_or_create(build, checkpoint=path, batch_interval="100ms")
    ssc.start()
    assert lifecycle.stop_when(ssc, lambda: True) == 0
    return path


def test_a_checkpoint_is_recovered_without_calling_the_definition(checkpoint: str) -> None:
    def never(ssc: StreamingContext) -> None:
        raise AssertionError("defined again")

    ssc = context.get_or_create(never, checkpoint=checkpoint, batch_interval="100ms")
    assert streaming.is_recovered(ssc)
    assert streaming.batch_interval_ms(ssc) == 100


def test_a_checkpoint_with_another_interval_is_refused_naming_both(checkpoint: str, build: Build) -> None:
    with pytest.raises(CheckpointRefused, match="batch interval of 100ms, not 2s: keep the interval, or name a new"):
        context.get_or_create(build, checkpoint=checkpoint, batch_interval="2s")


def test_a_checkpoint_that_cannot_be_read_is_refused_in_one_sentence(build: Build, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1000").write_bytes(os.urandom(64))
    with pytest.raises(CheckpointRefused) as refused:
        context.get_or_create(build, checkpoint=str(tmp_path), batch_interval="1s")
    assert str(refused.value).startswith(f"the checkpoint {str(tmp_path)!r} cannot be read (")
    assert "\n" not in str(refused.value)


def test_a_checkpoint_that_cannot_be_written_is_refused_before_anything_is_defined(
    build: Build, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()

    def never(ssc: StreamingContext) -> None:
        raise AssertionError("called all the same")

    with pytest.raises(UsageError, match="cannot write into"):
        context.get_or_create(never, checkpoint=str(tmp_path / "file"), batch_interval="1s")


def test_an_error_in_the_definition_is_raised_unchanged(spark: SparkSession, tmp_path: Path) -> None:
    def broken(ssc: StreamingContext) -> None:
        raise ZeroDivisionError("in build")

    with pytest.raises(ZeroDivisionError, match="in build"):
        context.get_or_create(broken, checkpoint=str(tmp_path), batch_interval="1s")


def test_a_definition_without_outputs_is_refused(spark: SparkSession, incoming: Path) -> None:
    with pytest.raises(UsageError, match="defines no output: call pprint"):
        context.get_or_create(lambda ssc: ssc.textFileStream(str(incoming)), batch_interval="1s")


def test_receivers_that_leave_no_core_are_refused(spark: SparkSession) -> None:
    def build(ssc: StreamingContext) -> None:
        for port in (1, 2):
            ssc.socketTextStream("127.0.0.1", port).pprint()

    with pytest.raises(UsageError, match=r"leave none of the 2 cores of local\[2\]"):
        context.get_or_create(build, batch_interval="1s")


@pytest.mark.parametrize("where", ["checkpoint", "home"])
def test_a_queue_is_refused_where_it_could_never_be_recovered(where: str, spark: SparkSession, tmp_path: Path) -> None:
    def build(ssc: StreamingContext) -> None:
        lines = ssc.queueStream([["a"]])
        if where == "home":
            FrameStream.of(lines).for_each_batch(lambda frame, batch: None)
        else:
            lines.pprint()

    with pytest.raises(
        UsageError, match="a queueStream cannot be recovered from '.*': leave out the checkpoint or home"
    ):
        context.get_or_create(build, batch_interval="1s", **{where: str(tmp_path / where)})  # type: ignore[arg-type]
    found = [file.name for file in tmp_path.rglob("checkpoint-*")]
    assert found == []


def test_a_start_that_fails_at_any_change_of_the_storage_gives_the_home_back(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(ssc: StreamingContext) -> None:
        generator(ssc).for_each_batch(lambda frame, batch: None)

    changes = at = failed = 0

    def failing(change: Callable[..., Any]) -> Callable[..., Any]:
        def fails(path: str, *text: str) -> Any:
            nonlocal changes
            if "/lease" not in path:
                changes += 1
                if changes == at:
                    raise OSError(errno.EIO, "Input/output error")
            return change(path, *text)

        return fails

    for name in ("write", "write_new", "delete"):
        monkeypatch.setattr(storage, name, failing(getattr(storage, name)))
    while changes >= at:
        at, changes = at + 1, 0
        home = tmp_path / str(at)
        try:
            ssc = context.get_or_create(build, home=str(home), batch_interval="1s")
        except (OSError, UsageError):
            failed += 1
        else:
            ssc.stop(stopSparkContext=False)
            context.end_previous()
        assert not lease.holder(f"file:{home}/lease")
    assert failed == at - 1 > 3, "each change but that beyond the last"


def test_batches_that_would_run_at_once_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    conf = spark.sparkContext._conf
    conf.set("spark.streaming.concurrentJobs", "3")
    try:
        with pytest.raises(UsageError, match="concurrentJobs is 3, and batches must run one after another: remove"):
            context.get_or_create(
                lambda ssc: generator(ssc).for_each_batch(lambda frame, batch: None),
                home=str(tmp_path / "home"),
                batch_interval="1s",
            )
    finally:
        conf._jconf.remove("spark.streaming.concurrentJobs")  # type: ignore[union-attr]


def test_a_pyspark_that_is_not_supported_is_refused_before_anything_is_defined(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(ssc: StreamingContext) -> None:
        raise AssertionError("called all the same")

    monkeypatch.setattr(TransformFunction, "call", lambda self, time, jrdds: None)
    with pytest.raises(UsageError, match=r"^PySpark .* is not supported .*: use PySpark 4\.0 to 4\.3$"):
        context.get_or_create(never, batch_interval="1s")


@pytest.mark.parametrize("interval", ["soon", 0, "0.1ms"])
def test_an_invalid_interval_is_refused(interval: str | float, build: Build) -> None:
    with pytest.raises(UsageError, match="duration"):
        context.get_or_create(build, batch_interval=interval)


def test_windows_and_slides_must_be_multiples_of_the_interval(build: Build) -> None:
    ssc = context.get_or_create(build, batch_interval="500ms")
    assert dstreams.window_and_slide(ssc, "5s", "2s") == (5.0, 2.0)
    assert dstreams.window_and_slide(ssc, "5s") == (5.0, 0.5)
    with pytest.raises(UsageError, match="window 700ms is not a multiple of the batch interval 500ms: use 500ms or 1s"):
        dstreams.window_and_slide(ssc, "700ms")
    with pytest.raises(UsageError, match="slide 300ms is not a multiple of the batch interval 500ms: use 500ms$"):
        dstreams.window_and_slide(ssc, "5s", "300ms")
