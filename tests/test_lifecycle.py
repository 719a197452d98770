"""Waiting for a context, draining and stopping it; signals and failed batches, in notebooks and elsewhere."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from py4j.protocol import Py4JNetworkError
from pyspark import RDD
from pyspark.sql import DataFrame, SparkSession
from pyspark.streaming import StreamingContext

from sparkstream_kit import context, lifecycle
from sparkstream_kit.bridge import jvm, streaming
from sparkstream_kit.context import end_previous, get_or_create
from sparkstream_kit.contracts import Batch
from sparkstream_kit.engine.graph import graph_of
from sparkstream_kit.errors import BatchFailed, UsageError
from sparkstream_kit.recovery.home import Home
from sparkstream_kit.sources._generator import generator
from sparkstream_kit.testing import run_batches


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
    with pytest.raises(
        BatchFailed, match="and is lost, because the job has no checkpoint: ValueError: no such column"
    ) as failed:
        lifecycle.stop_when(ssc, lambda: False)
    assert isinstance(failed.value.__cause__, ValueError)
    assert StreamingContext.getActive() is None
    assert spark.range(3).count() == 3


def test_an_error_on_a_worker_is_reported_in_one_line(spark: SparkSession, notebook: None) -> None:
    ssc, _ = started(spark, lambda rdd: rdd.foreach(lambda n: [][n]))
    with pytest.raises(BatchFailed) as failed:
        lifecycle.stop_when(ssc, lambda: False)
    assert str(failed.value) == (
        "a batch failed, and is lost, because the job has no checkpoint: IndexError: list index out of range"
    )


def test_nothing_runs_past_a_failed_output_not_even_the_next_one(spark: SparkSession, notebook: None) -> None:
    ran: list[str] = []
    watched = threading.Event()

    def fail_when_watched(rdd: RDD[int]) -> None:
        watched.wait(60)  # before that, nobody stops what runs next
        fail(rdd)

    def is_over() -> bool:
        watched.set()
        return bool(ran)

    ssc = StreamingContext(spark.sparkContext, 0.1)  # type: ignore[arg-type]
    stream = ssc.queueStream([spark.sparkContext.parallelize([1])])
    stream.foreachRDD(fail_when_watched)
    stream.foreachRDD(lambda rdd: ran.append("second"))
    ssc.start()
    with pytest.raises(BatchFailed):
        lifecycle.stop_when(ssc, is_over)
    assert ran == []


def test_a_drain_that_exceeds_its_deadline_fails(
    spark: SparkSession, notebook: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "DRAIN_LIMIT", 100)
    release = threading.Event()
    ssc, began = started(spark, lambda rdd: print("over", release.wait(60)))
    try:
        with pytest.raises(
            BatchFailed, match="did not end within 300ms: what is left is lost, because the job has no ch"
        ):
            lifecycle.stop_when(ssc, began.is_set, poll="10ms")
    finally:
        release.set()
        ssc.awaitTermination()


def test_what_is_left_is_only_promised_where_the_next_start_can_process_it(spark: SparkSession, tmp_path: Path) -> None:
    wal = "spark.streaming.receiver.writeAheadLog.enable"
    conf = spark.sparkContext._jsc.sc().conf()  # type: ignore[union-attr]
    found = {}
    for receives in (False, True):
        for keeps in (False, True):
            conf.set(wal, str(keeps).lower())
            ssc = StreamingContext(spark.sparkContext, 1)
            if receives:
                ssc.socketTextStream("127.0.0.1", 1).pprint()
            found[receives, keeps, False] = lifecycle._why_lost(ssc, has_home=False)
            ssc.checkpoint(str(tmp_path))
            found[receives, keeps, True] = lifecycle._why_lost(ssc, has_home=False)
    conf.remove(wal)
    nowhere, unlogged = "the job has no checkpoint", "its receivers keep no write-ahead log"
    assert found == {
        (False, False, False): nowhere,
        (False, False, True): None,
        (False, True, False): nowhere,
        (False, True, True): None,
        (True, False, False): unlogged,
        (True, False, True): unlogged,
        (True, True, False): nowhere,
        (True, True, True): None,
    }


# --- cells that run again


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    directory = tmp_path / "incoming"
    directory.mkdir()
    return directory


Cell = Callable[..., StreamingContext]


@pytest.fixture
def cell(spark: SparkSession, notebook: None, tmp_path: Path) -> Iterator[Cell]:
    """A cell that defines a job with a home and returns its context."""
    made: list[StreamingContext] = []

    def cell(
        write: Callable[[DataFrame, Batch], None] = lambda frame, batch: None, *, replace: bool = False
    ) -> StreamingContext:
        def build(ssc: StreamingContext) -> None:
            generator(ssc, rate=1000).for_each_batch(write, name="seen")

        made.append(get_or_create(build, home=str(tmp_path / "home"), batch_interval="100ms", replace=replace))
        return made[-1]

    yield cell
    for ssc in made:
        ssc.stop(stopSparkContext=False)
    end_previous()


def test_a_cell_runs_again_before_its_context_has_started(cell: Cell) -> None:
    first, second = cell(), cell()
    with pytest.raises(Exception, match="StreamingContext has already been stopped"):
        first.start()
    assert lifecycle.run(second, lambda: True, poll="10ms") == 0


def test_a_cell_runs_again_after_a_failed_batch(cell: Cell) -> None:
    began = threading.Event()

    def fail(frame: DataFrame, batch: Batch) -> None:
        raise UsageError("no such column")

    with pytest.raises(BatchFailed, match="the next start runs it again: no such column"):
        lifecycle.run(cell(fail), poll="10ms")
    assert lifecycle.run(cell(lambda frame, batch: began.set()), began.is_set, poll="10ms") == 0
    assert began.is_set()


def test_a_cell_waits_for_a_failed_job_that_is_still_stopping(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(frame: DataFrame, batch: Batch) -> None:
        raise UsageError("no such column")

    ssc, release = cell(fail), threading.Event()
    stop = ssc.stop
    monkeypatch.setattr(ssc, "stop", lambda *how, **named: (release.wait(60), stop(*how, **named)))
    monkeypatch.setattr(lifecycle, "ABANDON_LIMIT", 0)
    with pytest.raises(BatchFailed):
        lifecycle.run(ssc, poll="10ms")
    with monkeypatch.context() as patch, pytest.raises(UsageError, match="has not stopped within 0 s: run this again"):
        patch.setattr(context, "ABANDONED_LIMIT", 0)
        cell()
    release.set()
    assert lifecycle.run(cell(), lambda: True, poll="10ms") == 0


@pytest.mark.parametrize("gracefully", [True, False])
def test_a_cell_runs_again_after_its_context_was_stopped_by_hand(cell: Cell, gracefully: bool) -> None:
    began, again = threading.Event(), threading.Event()
    ssc = cell(lambda frame, batch: began.set())
    ssc.start()
    assert began.wait(60)
    ssc.stop(False, gracefully)
    assert lifecycle.run(cell(lambda frame, batch: again.set()), again.is_set, poll="10ms") == 0
    assert again.is_set()


def test_a_job_of_dstreams_leaves_the_home_of_one_that_was_stopped_by_hand_alone(
    cell: Cell, spark: SparkSession, tmp_path: Path
) -> None:
    ssc = cell()
    ssc.start()
    ssc.stop(False, False)
    (tmp_path / "home/RUNNING").unlink()
    before = sorted(str(path) for path in tmp_path.rglob("*") if "lease" not in str(path))
    plain, began = started(spark, lambda rdd: rdd.foreach(lambda n: [][n]))
    with pytest.raises(BatchFailed, match="and is lost, because the job has no checkpoint: IndexError"):
        lifecycle.stop_when(plain, lambda: False)
    plain, began = started(spark, lambda rdd: None)
    assert lifecycle.stop_when(plain, began.is_set, poll="10ms") == 0
    assert sorted(str(path) for path in tmp_path.rglob("*") if "lease" not in str(path)) == before


def test_a_cell_that_was_changed_while_the_job_runs_says_that_it_is_not_used(
    cell: Cell, caplog: pytest.LogCaptureFixture
) -> None:
    ssc = cell()
    ssc.start()
    assert caplog.text == ""
    assert cell(lambda frame, batch: print("changed")) is ssc
    (said,) = caplog.messages
    assert said == (
        "a job is running already: its context is returned, and build is not called. To run a changed build instead, "
        "pass replace=True"
    )


# --- jobs in the background


def started_cell(cell: Cell, write: Callable[[DataFrame, Batch], None] = lambda frame, batch: None) -> StreamingContext:
    ssc = cell(write)
    lifecycle.start(ssc)
    return ssc


def refuse(frame: DataFrame, batch: Batch) -> None:
    raise UsageError("no such column")


def test_whoever_waits_for_a_job_in_the_background_gets_its_error(
    cell: Cell, capfd: pytest.CaptureFixture[str]
) -> None:
    ssc = started_cell(cell, refuse)
    for wait in (lifecycle.stop_when, lifecycle.run, lifecycle.stop_when):  # during the failure or after it
        with pytest.raises(BatchFailed, match="the next start runs it again: no such column"):
            wait(ssc, lambda: False, poll="10ms")
    assert lifecycle.run(cell(), lambda: True, poll="10ms") == 0, "the home is free"


def test_an_error_that_nobody_waits_for_is_printed(cell: Cell, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(frame: DataFrame, batch: Batch) -> None:
        raise UsageError("no such column") from ValueError("\x1b[2J")

    ssc = started_cell(cell, fail)
    assert lifecycle.await_end(ssc, 60)
    said = capfd.readouterr().err
    assert "a batch failed, the next start runs it again: no such column" in said
    assert "\x1b" not in said


def test_a_job_in_the_background_is_left_alone_by_its_cell_and_replaced_by_a_changed_one(
    cell: Cell, spark: SparkSession
) -> None:
    began, again = threading.Event(), threading.Event()
    ssc = started_cell(cell, lambda frame, batch: began.set())
    assert began.wait(60)
    lifecycle.start(ssc)
    assert StreamingContext.getActive() is ssc
    changed = cell(lambda frame, batch: again.set(), replace=True)
    assert changed is not ssc
    assert StreamingContext.getActive() is None
    assert lifecycle.stop_when(ssc, lambda: False) == 0, "it was stopped gracefully"
    lifecycle.start(changed)
    assert lifecycle.stop_when(changed, again.is_set, poll="10ms") == 0


def test_a_job_that_fails_is_replaced_all_the_same(
    cell: Cell, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, release, again = threading.Event(), threading.Event(), threading.Event()

    def fail(frame: DataFrame, batch: Batch) -> None:
        failed.set()
        release.wait(60)
        raise UsageError("no such column")

    started_cell(cell, fail)
    assert failed.wait(60)
    replace = lifecycle.replace
    monkeypatch.setattr(lifecycle, "replace", lambda ssc: (release.set(), replace(ssc)))
    changed = cell(lambda frame, batch: again.set(), replace=True)
    assert any("the job that is replaced has failed: a batch failed" in text for text in caplog.messages)
    assert lifecycle.run(changed, again.is_set, poll="10ms") == 0


def test_ctrl_c_while_a_job_starts_in_the_background_stops_it(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    ssc = cell()
    start = ssc.start
    monkeypatch.setattr(ssc, "start", lambda: (signal.raise_signal(signal.SIGINT), start()))
    with pytest.raises(KeyboardInterrupt):
        lifecycle.start(ssc)
    assert StreamingContext.getActive() is None
    assert lifecycle.run(cell(), lambda: True, poll="10ms") == 0


def test_ctrl_c_while_a_job_is_replaced_starts_no_other(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    began, release = threading.Event(), threading.Event()

    def hang(frame: DataFrame, batch: Batch) -> None:
        began.set()
        release.wait(60)

    started_cell(cell, hang)
    assert began.wait(60)

    stop_when = lifecycle._stop_when

    def interrupted(*arguments: Any, **options: Any) -> int:
        signal.raise_signal(signal.SIGINT)
        release.set()
        return stop_when(*arguments, **options)

    monkeypatch.setattr(lifecycle, "_stop_when", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cell(replace=True)
    assert StreamingContext.getActive() is None


def test_nothing_runs_past_a_first_batch_that_fails(
    spark: SparkSession, notebook: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(began: threading.Event) -> Callable[[RDD[int]], None]:
        def fail_at_once(rdd: RDD[int]) -> None:
            began.set()
            fail(rdd)

        return fail_at_once

    past = threading.Event()
    for start in (lifecycle.start, lambda ssc: lifecycle.run(ssc, poll="10ms")):
        ssc = StreamingContext(spark.sparkContext, 0.1)  # type: ignore[arg-type]
        began, first = threading.Event(), ssc.start
        stream = ssc.queueStream([spark.sparkContext.parallelize([1])])
        stream.foreachRDD(failing(began))
        stream.foreachRDD(lambda rdd: past.set())
        monkeypatch.setattr(ssc, "start", lambda began=began, first=first: (first(), began.wait(60), past.wait(1)))
        with pytest.raises(BatchFailed, match="no such column"):
            start(ssc)
            lifecycle.stop_when(ssc, lambda: False, poll="10ms")
    assert not past.is_set()


def test_a_recovered_job_whose_pending_batch_cannot_be_generated_does_not_hang(
    spark: SparkSession, notebook: None, tmp_path: Path
) -> None:
    incoming, broken = tmp_path / "in", tmp_path / "broken"
    incoming.mkdir()

    def build(ssc: StreamingContext) -> None:
        def generate(rdd: RDD[str]) -> RDD[str]:
            if broken.exists():
                raise ValueError("no such file")
            return rdd

        def write(rdd: RDD[str]) -> None:
            broken.touch()
            raise ValueError("the batch stays pending")

        ssc.textFileStream(str(incoming)).transform(generate).foreachRDD(write)

    for _ in range(2):
        ssc = get_or_create(build, checkpoint=str(tmp_path / "checkpoint"), batch_interval="100ms")
        with pytest.raises((BatchFailed, UsageError), match="the batch stays pending|no such file") as failed:
            lifecycle.run(ssc, poll="10ms")
    assert "no such file" in str(failed.value)


@pytest.mark.parametrize("error", [Py4JNetworkError("Answer from Java side is empty"), OSError("closed")])
def test_ctrl_c_in_another_cell_fails_no_batch_of_this_one(
    spark: SparkSession, notebook: None, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    ssc, began = started(spark, lambda rdd: None)
    wait, broken = ssc.awaitTerminationOrTimeout, iter([error])

    def await_(seconds: float) -> Any:
        for once in broken:
            raise once
        return wait(seconds)  # type: ignore[arg-type]

    monkeypatch.setattr(ssc, "awaitTerminationOrTimeout", await_)
    assert lifecycle.stop_when(ssc, began.is_set, poll="10ms") == 0
    assert list(broken) == []


def test_ctrl_c_in_a_notebook_stops_the_job_gracefully(cell: Cell) -> None:
    before, calls = signal.getsignal(signal.SIGINT), []

    def interrupt_once() -> bool:
        calls.append(signal.raise_signal(signal.SIGINT))
        return False

    assert lifecycle.run(cell(), interrupt_once, poll="1h") == 0
    assert len(calls) == 1
    assert StreamingContext.getActive() is None
    assert signal.getsignal(signal.SIGINT) is before
    assert lifecycle.run(cell(), lambda: True) == 0, "the home is free"


@pytest.mark.parametrize("draining", [True, False])
def test_a_second_ctrl_c_in_a_notebook_interrupts_the_drain(
    cell: Cell, monkeypatch: pytest.MonkeyPatch, draining: bool
) -> None:
    began, release = threading.Event(), threading.Event()

    def hang(frame: DataFrame, batch: Batch) -> None:
        began.set()
        release.wait(60)

    def drain(*arguments: Any) -> None:
        second.start()
        stop_gracefully(*arguments)

    def interrupt() -> bool:
        assert began.wait(60)
        signal.raise_signal(signal.SIGINT)
        if not draining:
            signal.raise_signal(signal.SIGINT)
        return False

    second = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    stop_gracefully = streaming.stop_gracefully
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if draining:
            patch.setattr(streaming, "stop_gracefully", drain)
        lifecycle.run(cell(hang), interrupt, poll="1h")
    release.set()
    monkeypatch.setattr(context, "ABANDONED_LIMIT", 10)
    assert lifecycle.run(cell(), lambda: True) == 0, "the home is free"


def test_a_cell_stops_a_job_whose_stop_failed_after_an_interrupt(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    ssc, calls = cell(), []

    def stop(*how: bool, **named: bool) -> None:
        calls.append(how)
        if len(calls) == 1:
            raise Py4JNetworkError("Answer from Java side is empty")
        StreamingContext.stop(ssc, *how, **named)

    def interrupt() -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(ssc, "stop", stop)
    with pytest.raises(KeyboardInterrupt):
        lifecycle.run(ssc, interrupt, poll="10ms")
    assert lifecycle.run(cell(), lambda: True, poll="10ms") == 0
    assert calls[0] == calls[1] == (False, False)


def test_run_batches_beside_a_running_context_is_refused(cell: Cell) -> None:
    cell().start()
    with pytest.raises(UsageError, match=r"another one is running: stop that first, by ssc.stop\(False, True\)"):
        run_batches(lambda lines: lines, [["a"]])


def test_a_stop_that_is_requested_while_the_job_starts_is_carried_out(cell: Cell, tmp_path: Path) -> None:
    def build(ssc: StreamingContext) -> None:
        stream = generator(ssc, rate=1000)
        stream.for_each_batch(lambda frame, batch: None, name="seen")
        graph_of(ssc).first_start_checks.append(lambda: (tmp_path / "starts/RUNNING").unlink())

    ssc = get_or_create(build, home=str(tmp_path / "starts"), batch_interval="100ms")
    assert lifecycle.run(ssc, poll="10ms") == 0
    assert Home.open(str(tmp_path / "starts")).was_drained()


def test_a_marker_that_is_deleted_while_a_context_starts_stops_it(
    spark: SparkSession, tmp_path: Path, incoming: Path
) -> None:
    ssc, marker = StreamingContext(spark.sparkContext, 0.1), tmp_path / "RUNNING"  # type: ignore[arg-type]
    ssc.checkpoint(str(tmp_path / "checkpoint"))
    ssc.textFileStream(str(incoming)).pprint()
    start = ssc.start
    ssc.start = lambda: (marker.unlink(), start())  # type: ignore[assignment, func-returns-value]
    assert lifecycle.run(ssc, marker=str(marker), poll="10ms") == 0
