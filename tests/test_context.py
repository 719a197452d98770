"""get_or_create and stop_when on bare contexts of the test session; tests/faults kills whole jobs."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyspark import RDD
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

from sparkstream_kit import context
from sparkstream_kit.bridge import jvm, streaming
from sparkstream_kit.errors import BatchFailed, UsageError

Build = Callable[[StreamingContext], None]


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    path = tmp_path / "incoming"
    path.mkdir()
    return path


@pytest.fixture
def build(spark: SparkSession, incoming: Path) -> Iterator[Build]:
    """A definition that prints the files of a directory; its context is stopped after the test."""
    made: list[StreamingContext] = []

    def build(ssc: StreamingContext) -> None:
        made.append(ssc)
        ssc.textFileStream(str(incoming)).pprint()

    yield build
    for ssc in made:
        ssc.stop(stopSparkContext=False)


def after_a_batch(spark: SparkSession, batch: Callable[[RDD[int]], None]) -> tuple[StreamingContext, threading.Event]:
    """A started bare context that calls `batch` with [1], then with nothing; an event for the first one."""
    ssc, began = StreamingContext(spark.sparkContext, 0.1), threading.Event()  # type: ignore[arg-type]

    def run(rdd: RDD[int]) -> None:
        began.set()
        batch(rdd)

    ssc.queueStream([spark.sparkContext.parallelize([1])]).foreachRDD(run)
    ssc.start()
    return ssc, began


# --- get_or_create ----------------------------------------------------------------------------------------


def test_the_first_start_calls_the_definition_with_a_new_context(spark: SparkSession, build: Build) -> None:
    ssc = context.get_or_create(build, batch_interval="1500ms")
    assert streaming.batch_interval_ms(ssc) == 1500
    assert not streaming.is_recovered(ssc)


def test_a_running_spark_is_used_as_it_is(spark: SparkSession) -> None:
    spark.conf.set("spark.sql.shuffle.partitions", "7")
    try:
        assert context.live_session().sparkContext is spark.sparkContext
        assert spark.conf.get("spark.sql.shuffle.partitions") == "7"
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", "2")


def test_a_context_that_runs_is_given_back_and_not_defined_again(build: Build) -> None:
    running = context.get_or_create(build, batch_interval="100ms")
    running.start()

    def never(ssc: StreamingContext) -> None:
        raise AssertionError("defined again")

    assert context.get_or_create(never, batch_interval="100ms") is running


@pytest.fixture
def checkpoint(build: Build, tmp_path: Path) -> str:
    """A checkpoint that a context of 100ms has left."""
    path = str(tmp_path / "checkpoint")
    ssc = context.get_or_create(build, checkpoint=path, batch_interval="100ms")
    ssc.start()
    assert context.stop_when(ssc, lambda: True) == 0
    return path


def test_a_checkpoint_is_recovered_without_the_definition(checkpoint: str) -> None:
    def never(ssc: StreamingContext) -> None:
        raise AssertionError("defined again")

    ssc = context.get_or_create(never, checkpoint=checkpoint, batch_interval="100ms")
    assert streaming.is_recovered(ssc)
    assert streaming.batch_interval_ms(ssc) == 100


def test_a_checkpoint_of_another_interval_is_refused_with_both(checkpoint: str, build: Build) -> None:
    with pytest.raises(UsageError, match="batch interval of 100ms, not 2s: keep the interval, or name a new"):
        context.get_or_create(build, checkpoint=checkpoint, batch_interval="2s")


def test_a_checkpoint_that_cannot_be_read_is_refused_in_one_line(build: Build, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1000").write_bytes(os.urandom(64))
    with pytest.raises(UsageError) as refused:
        context.get_or_create(build, checkpoint=str(tmp_path), batch_interval="1s")
    assert str(refused.value).startswith(f"the checkpoint {str(tmp_path)!r} cannot be read (")
    assert "\n" not in str(refused.value)


def test_a_checkpoint_that_cannot_be_written_is_refused_before_anything_is_defined(
    build: Build, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()

    def never(ssc: StreamingContext) -> None:
        raise AssertionError("defined all the same")

    with pytest.raises(UsageError, match="cannot write into"):
        context.get_or_create(never, checkpoint=str(tmp_path / "file"), batch_interval="1s")


def test_an_error_in_the_definition_comes_back_as_it_is(spark: SparkSession, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("interval", ["soon", 0, "0.1ms"])
def test_an_interval_that_is_none_is_refused(interval: str | float, build: Build) -> None:
    with pytest.raises(UsageError, match="duration"):
        context.get_or_create(build, batch_interval=interval)


def test_windows_are_multiples_of_the_interval(build: Build) -> None:
    ssc = context.get_or_create(build, batch_interval="500ms")
    assert context.window_and_slide(ssc, "5s", "2s") == (5.0, 2.0)
    assert context.window_and_slide(ssc, "5s") == (5.0, 0.5)
    with pytest.raises(UsageError, match="window 700ms is no multiple of the batch interval 500ms: use 500ms or 1s"):
        context.window_and_slide(ssc, "700ms")
    with pytest.raises(UsageError, match="slide 300ms is no multiple of the batch interval 500ms: use 500ms$"):
        context.window_and_slide(ssc, "5s", "300ms")


# --- stop_when --------------------------------------------------------------------------------------------


def java_process() -> int:
    """The JVM of this Python: its child."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    (java,) = [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "java\n"]
    return java


def test_a_true_flag_stops_the_context_and_leaves_spark_running(spark: SparkSession) -> None:
    ssc, began = after_a_batch(spark, lambda rdd: None)
    assert context.stop_when(ssc, began.is_set, poll="10ms") == 0
    assert StreamingContext.getActive() is None
    assert spark.range(3).count() == 3


def test_run_starts_and_waits_for_the_flag(spark: SparkSession) -> None:
    ssc, began = StreamingContext(spark.sparkContext, 0.1), threading.Event()  # type: ignore[arg-type]
    ssc.queueStream([spark.sparkContext.parallelize([1])]).foreachRDD(lambda rdd: began.set())
    assert context.run(ssc, began.is_set, poll="10ms") == 0


def test_a_signal_while_the_context_starts_stops_it_when_it_has(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssc = StreamingContext(spark.sparkContext, 0.1)  # type: ignore[arg-type]
    ssc.queueStream([spark.sparkContext.parallelize([1])]).foreachRDD(lambda rdd: None)
    start = ssc.start
    monkeypatch.setattr(ssc, "start", lambda: (start(), os.kill(os.getpid(), signal.SIGTERM)))
    assert context.run(ssc, poll="10ms") == 0


def test_a_context_stopped_by_somebody_else_ends_the_wait(spark: SparkSession) -> None:
    ssc, began = after_a_batch(spark, lambda rdd: None)
    stopper = threading.Thread(target=lambda: began.wait(60) and ssc.stop(stopSparkContext=False))
    stopper.start()
    assert context.stop_when(ssc, lambda: False) == 0
    stopper.join()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_python_stops_and_the_handlers_of_before_are_back(
    number: signal.Signals, spark: SparkSession
) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    ssc, _ = after_a_batch(spark, lambda rdd: None)

    def asks_once() -> bool:
        os.kill(os.getpid(), number)
        return False

    assert context.stop_when(ssc, asks_once, poll="1h") == 0
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


def test_a_signal_to_the_jvm_stops(spark: SparkSession) -> None:
    ssc, _ = after_a_batch(spark, lambda rdd: None)

    def asks_once() -> bool:
        os.kill(java_process(), signal.SIGTERM)
        return False

    assert context.stop_when(ssc, asks_once, poll="1h") == 0


def test_the_handlers_of_the_jvm_are_put_back(spark: SparkSession) -> None:
    heard: list[str] = []
    some = threading.Semaphore(0)

    def hear(name: str) -> Callable[[], None]:
        return lambda: (heard.append(name), some.release())[1]  # type: ignore[func-returns-value]

    def signal_jvm() -> None:
        os.kill(java_process(), signal.SIGURG)  # ignored by whoever has no handler
        assert some.acquire(timeout=60)

    with jvm.jvm_signals(("URG",), hear("outer")):
        with jvm.jvm_signals(("URG",), hear("inner")):
            signal_jvm()
        signal_jvm()
    assert heard == ["inner", "outer"]


def test_a_flag_that_raises_is_reported_and_asked_again(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    ssc, _ = after_a_batch(spark, lambda rdd: None)
    answers = iter([OSError("name node is away"), True])

    def flag() -> bool:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert context.stop_when(ssc, flag, poll="10ms") == 0
    assert "cannot tell whether to stop, the job goes on: OSError: name node is away" in caplog.text


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)


def fail(rdd: RDD[int]) -> None:
    raise ValueError("no such column")


def test_a_failed_batch_in_a_notebook_raises_and_stops_the_context_and_python_lives(
    spark: SparkSession, notebook: None
) -> None:
    ssc, _ = after_a_batch(spark, fail)
    with pytest.raises(BatchFailed, match="the next start runs it again: ValueError: no such column") as failed:
        context.stop_when(ssc, lambda: False)
    assert isinstance(failed.value.__cause__, ValueError)
    assert StreamingContext.getActive() is None
    assert spark.range(3).count() == 3


def test_an_error_on_a_worker_is_told_in_one_line(spark: SparkSession, notebook: None) -> None:
    ssc, _ = after_a_batch(spark, lambda rdd: rdd.foreach(lambda n: [][n]))
    with pytest.raises(BatchFailed) as failed:
        context.stop_when(ssc, lambda: False)
    assert str(failed.value) == ("a batch failed, the next start runs it again: IndexError: list index out of range")


def test_nothing_runs_past_a_failed_output_not_even_the_next_one(spark: SparkSession, notebook: None) -> None:
    ran: list[str] = []
    ssc = StreamingContext(spark.sparkContext, 0.1)  # type: ignore[arg-type]
    stream = ssc.queueStream([spark.sparkContext.parallelize([1])])
    stream.foreachRDD(fail)
    stream.foreachRDD(lambda rdd: ran.append("second"))
    ssc.start()
    with pytest.raises(BatchFailed):
        context.stop_when(ssc, lambda: bool(ran))
    assert ran == []


def test_a_drain_that_does_not_end_is_cut_off(
    spark: SparkSession, notebook: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "DRAIN_LIMIT", 100)
    goes_on = threading.Event()
    ssc, began = after_a_batch(spark, lambda rdd: print("over", goes_on.wait(60)))
    try:
        with pytest.raises(BatchFailed, match="the drain did not end within 300ms: the next start"):
            context.stop_when(ssc, began.is_set, poll="10ms")
    finally:
        goes_on.set()
        ssc.awaitTermination()
