"""Waiting for a context, draining and stopping it; signals and failed batches, in notebooks and elsewhere."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark import RDD
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

from sparkstream_kit import lifecycle
from sparkstream_kit.bridge import jvm
from sparkstream_kit.errors import BatchFailed


def started(spark: SparkSession, batch: Callable[[RDD[int]], None]) -> tuple[StreamingContext, threading.Event]:
    """A started bare context that calls `batch` with [1], then with empty RDDs; an event for the first call."""
    ssc, began = StreamingContext(spark.sparkContext, 0.1), threading.Event()  # type: ignore[arg-type]

    def run(rdd: RDD[int]) -> None:
        began.set()
        batch(rdd)

    ssc.queueStream([spark.sparkContext.parallelize([1])]).foreachRDD(run)
    ssc.start()
    return ssc, began


def java_process() -> int:
    """The JVM of this Python: its child."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    (java,) = [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "java\n"]
    return java


def test_a_true_flag_stops_the_context_and_leaves_spark_running(spark: SparkSession) -> None:
    ssc, began = started(spark, lambda rdd: None)
    assert lifecycle.stop_when(ssc, began.is_set, poll="10ms") == 0
    assert StreamingContext.getActive() is None
    assert spark.range(3).count() == 3


def test_run_starts_and_waits_for_the_flag(spark: SparkSession) -> None:
    ssc, began = StreamingContext(spark.sparkContext, 0.1), threading.Event()  # type: ignore[arg-type]
    ssc.queueStream([spark.sparkContext.parallelize([1])]).foreachRDD(lambda rdd: began.set())
    assert lifecycle.run(ssc, began.is_set, poll="10ms") == 0


def test_a_signal_during_the_start_stops_the_started_context(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssc = StreamingContext(spark.sparkContext, 0.1)  # type: ignore[arg-type]
    ssc.queueStream([spark.sparkContext.parallelize([1])]).foreachRDD(lambda rdd: None)
    start = ssc.start
    monkeypatch.setattr(ssc, "start", lambda: (start(), os.kill(os.getpid(), signal.SIGTERM)))
    assert lifecycle.run(ssc, poll="10ms") == 0


def test_a_context_stopped_by_another_thread_ends_the_wait(spark: SparkSession) -> None:
    ssc, began = started(spark, lambda rdd: None)
    stopper = threading.Thread(target=lambda: began.wait(60) and ssc.stop(stopSparkContext=False))
    stopper.start()
    assert lifecycle.stop_when(ssc, lambda: False) == 0
    stopper.join()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_python_stops_the_context_and_the_previous_handlers_are_restored(
    number: signal.Signals, spark: SparkSession
) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    ssc, _ = started(spark, lambda rdd: None)

    def signal_once() -> bool:
        os.kill(os.getpid(), number)
        return False

    assert lifecycle.stop_when(ssc, signal_once, poll="1h") == 0
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


def test_a_signal_to_the_jvm_stops_the_context(spark: SparkSession) -> None:
    ssc, _ = started(spark, lambda rdd: None)

    def signal_once() -> bool:
        os.kill(java_process(), signal.SIGTERM)
        return False

    assert lifecycle.stop_when(ssc, signal_once, poll="1h") == 0


def test_the_signal_handlers_of_the_jvm_are_restored(spark: SparkSession) -> None:
    heard: list[str] = []
    some = threading.Semaphore(0)

    def hear(name: str) -> Callable[[], None]:
        return lambda: (heard.append(name), some.release())[1]  # type: ignore[func-returns-value]

    def signal_jvm() -> None:
        os.kill(java_process(), signal.SIGURG)  # ignored without a handler
        assert some.acquire(timeout=60)

    with jvm.jvm_signals(("URG",), hear("outer")):
        with jvm.jvm_signals(("URG",), hear("inner")):
            signal_jvm()
        signal_jvm()
    assert heard == ["inner", "outer"]


def test_a_flag_that_raises_is_logged_and_called_again(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    ssc, _ = started(spark, lambda rdd: None)
    answers = iter([OSError("name node is away"), True])

    def flag() -> bool:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert lifecycle.stop_when(ssc, flag, poll="10ms") == 0
    assert "cannot tell whether to stop, the job continues: OSError: name node is away" in caplog.text


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)


def fail(rdd: RDD[int]) -> None:
    raise ValueError("no such column")


def test_a_failed_batch_in_a_notebook_raises_and_stops_the_context_but_not_python(
    spark: SparkSession, notebook: None
) -> None:
    ssc, _ = started(spark, fail)
    with pytest.raises(BatchFailed, match="the next start runs it again: ValueError: no such column") as failed:
        lifecycle.stop_when(ssc, lambda: False)
    assert isinstance(failed.value.__cause__, ValueError)
    assert StreamingContext.getActive() is None
    assert spark.range(3).count() == 3


def test_an_error_on_a_worker_is_reported_in_one_line(spark: SparkSession, notebook: None) -> None:
    ssc, _ = started(spark, lambda rdd: rdd.foreach(lambda n: [][n]))
    with pytest.raises(BatchFailed) as failed:
        lifecycle.stop_when(ssc, lambda: False)
    assert str(failed.value) == ("a batch failed, the next start runs it again: IndexError: list index out of range")


def test_nothing_runs_past_a_failed_output_not_even_the_next_one(spark: SparkSession, notebook: None) -> None:
    ran: list[str] = []
    ssc = StreamingContext(spark.sparkContext, 0.1)  # type: ignore[arg-type]
    stream = ssc.queueStream([spark.sparkContext.parallelize([1])])
    stream.foreachRDD(fail)
    stream.foreachRDD(lambda rdd: ran.append("second"))
    ssc.start()
    with pytest.raises(BatchFailed):
        lifecycle.stop_when(ssc, lambda: bool(ran))
    assert ran == []


def test_a_drain_that_exceeds_its_deadline_fails(
    spark: SparkSession, notebook: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "DRAIN_LIMIT", 100)
    release = threading.Event()
    ssc, began = started(spark, lambda rdd: print("over", release.wait(60)))
    try:
        with pytest.raises(BatchFailed, match="the drain did not end within 300ms: the next start"):
            lifecycle.stop_when(ssc, began.is_set, poll="10ms")
    finally:
        release.set()
        ssc.awaitTermination()
