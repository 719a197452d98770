"""Run a context until it is drained and stopped, or end the process at once when a batch fails.

The functions take a plain `pyspark.streaming.StreamingContext`.
"""

from __future__ import annotations

import builtins
import contextlib
import contextvars
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any, NamedTuple, NoReturn

from pyspark.streaming import StreamingContext
from pyspark.streaming.listener import StreamingListener

from . import durations
from .bridge import hadoop, jvm, streaming, surgery
from .bridge.callbacks import callback_errors, check_callbacks
from .durations import Duration
from .engine.batches import engine_of
from .errors import BatchFailed, ReceiverFailed, UsageError
from .redaction import printable_lines

log = logging.getLogger(__name__)


DRAIN_LIMIT = 60_000
"""Milliseconds that a drain may take, or three batch intervals if that is longer."""

_WAITER = "_sparkstream_kit_waiter"
"""The attribute of a context that holds the waiter of one started in the background."""

ABANDON_LIMIT = 5
"""Seconds that a notebook waits for Spark's stop without a drain, which goes on after that."""


def run(
    ssc: StreamingContext,
    flag: Callable[[], bool] = lambda: False,
    *,
    marker: str | None = None,
    poll: Duration = "1s",
) -> int:
    """Start, wait, drain and stop; returns the exit code for `sys.exit`, as `stop_when` does.

    A recovered context may take long to start. SIGTERM and SIGINT that come meanwhile stop it once it has started. So
    does deleting the `marker`, a file as that of `stop_on_marker`, which is there before the start. Raises UsageError,
    before anything starts, for an unsupported PySpark, a marker that cannot be created, and a context that Spark
    refuses to start.

    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import local_session
    >>> spark, batches = local_session(), []
    >>> def build(ssc):
    ...     ssc.queueStream([["a"], ["b"]]).foreachRDD(lambda rdd: batches.append(rdd.collect()))
    >>> ssc = ss.get_or_create(build, batch_interval="100ms")
    >>> ss.run(ssc, lambda: len(batches) >= 2, poll="10ms"), batches[:2]
    (0, [['a'], ['b']])
    """
    check_callbacks()
    with _signals() as signals:  # before the start: a signal may come while the context starts
        note = None if marker is None else _create_marker(ssc, marker)

        def enough() -> bool:
            return flag() or (marker is not None and not hadoop.path_exists(marker))

        code = _stop_when(ssc, enough, poll, signals, begin=True)
    if marker is not None and code == 0:
        _forget_stop(marker, note)
    return code


def start(ssc: StreamingContext) -> None:
    """Start a context and return: for notebooks, whose other cells can be run meanwhile.

    What `run` does goes on in a thread: after a failed batch the context is stopped without a drain, nothing runs past
    it, and the error appears below the cell. `ssc.stop(False, True)` stops the job gracefully, and so does
    `get_or_create` with `replace`, which puts a changed one in its place. `run` and `stop_when` wait for a started job
    in the foreground: its error is raised there, also one of before, and Ctrl-C stops the job. A context whose job runs
    is left alone. A signal during the start stops the job again and raises KeyboardInterrupt.

    A script waits for the job at its end, also if it fails itself, and a failed batch ends the process; only `run` has
    signals stop a job gracefully.

    Raises UsageError, before anything starts, for an unsupported PySpark and a context that Spark refuses to start.

    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import local_session
    >>> spark, lines = local_session(), []
    >>> def build(ssc):
    ...     ssc.queueStream([["a", "b"]]).foreachRDD(lambda rdd: lines.extend(rdd.collect()))
    >>> ssc = ss.get_or_create(build, batch_interval="100ms")
    >>> ss.start(ssc)
    >>> ss.stop_when(ssc, lambda: len(lines) == 2, poll="10ms"), lines
    (0, ['a', 'b'])
    """
    check_callbacks()
    waiter = _waiter_of(ssc)
    if waiter is not None and waiter.is_alive:  # its cell has run again
        return
    with _signals() as signals, contextlib.ExitStack() as held:
        watch = held.enter_context(_watched(ssc))
        _start(ssc)
        watch.started.set()
        waiter = vars(ssc)[_WAITER] = _Waiter(ssc, watch, held.pop_all())
        if signals.stop:
            waiter.wait(lambda: True, 1, signals)
            raise KeyboardInterrupt


def _start(ssc: StreamingContext) -> None:
    with jvm.refusals(_why_not_started, of=jvm.THROWN):
        ssc.start()
    log.info("running: %s", _describe(ssc))


def _why_not_started(why: str) -> str:
    if "already been stopped" in why:
        return "this context has ended, and Spark cannot start one twice: get a new one from get_or_create"
    if "Only one StreamingContext" in why:
        return "another job is already running: stop it, or pass replace=True to get_or_create"
    return f"Spark cannot start the job ({why}): change what it names"


def _describe(ssc: StreamingContext) -> str:
    interval, engine = f"a batch interval of {durations.text(streaming.batch_interval_ms(ssc))}", engine_of(ssc)
    if engine is None:
        return interval
    last = engine.graph.log.last.n
    return f"{interval}, {f'after batch {last}' if last else 'no batch so far'}, home {engine.graph.home.root}"


def replace(ssc: StreamingContext) -> None:
    """Stop the job of a running context gracefully; if it fails, that is only logged, as another takes its place."""
    log.info("stopping the job that runs, to replace it")
    with _signals() as signals:
        try:
            _stop_when(ssc, lambda: True, 1, signals)
        except (BatchFailed, ReceiverFailed) as error:
            log.warning("the job that is replaced has failed: %s", error)
        if signals.stop:
            raise KeyboardInterrupt


def await_end(ssc: StreamingContext, seconds: float) -> bool:
    """Wait for what `start` does after its context was stopped, such as saving the states; whether it has ended."""
    waiter = _waiter_of(ssc)
    return waiter is None or waiter.join(seconds)


def stop_on_marker(ssc: StreamingContext, path: str, *, poll: Duration = "5s") -> int:
    """Wait until somebody deletes the marker file, then drain and stop, which `yarn application -kill` does not.

    The marker is a file on any Hadoop file system, created here. Deleting it while the job is down after a crash still
    means stop: the restarted job drains what is pending and ends. After a stop the next start creates the marker again.
    A note in the checkpoint directory tells the two cases apart, so a job without a checkpoint always starts. Returns
    the exit code of `stop_when`; raises UsageError if the marker cannot be created.

    >>> import pathlib, tempfile
    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import local_session
    >>> spark, marker = local_session(), pathlib.Path(tempfile.mkdtemp(), "running")
    >>> def build(ssc):
    ...     ssc.queueStream([["a"]]).foreachRDD(lambda rdd: marker.unlink(missing_ok=True))
    >>> ssc = ss.get_or_create(build, batch_interval="100ms")
    >>> ssc.start()
    >>> ss.stop_on_marker(ssc, str(marker), poll="10ms")
    0
    """
    note = _create_marker(ssc, path)
    code = stop_when(ssc, lambda: not hadoop.path_exists(path), poll=poll)
    if code == 0:
        _forget_stop(path, note)
    return code


def _create_marker(ssc: StreamingContext, path: str) -> str | None:
    """Create the marker, unless a stop was requested while the job was down; returns the path of the note on it."""
    directory = streaming.checkpoint_directory(ssc)
    note = f"{directory}/marker-{sha256(path.encode()).hexdigest()[:16]}" if directory else None
    requested_while_down = note is not None and hadoop.path_exists(note) and not hadoop.path_exists(path)
    if not requested_while_down:
        with jvm.refusals(
            lambda why: f"cannot create the marker {path!r} ({why}): name a file that this user can write"
        ):
            hadoop.create_file(path)
        if note is not None:
            hadoop.create_file(note)
    return note


def _forget_stop(path: str, note: str | None) -> None:
    """After a stop that was carried out, the next start creates the marker again."""
    if note is not None and not hadoop.path_exists(path):
        hadoop.delete(note)


def stop_when(ssc: StreamingContext, flag: Callable[[], bool], *, poll: Duration = "1s") -> int:
    """Wait for a started context until `flag()` is true, then drain and stop; returns the exit code.

    SIGTERM and SIGINT do the same; a second one ends the process at once. The SparkContext keeps running.

    0   drained and stopped
    1   a batch failed, a receiver stopped storing data, or the drain took longer than 60 s and three batch intervals

    After a failure the process ends here, at once and without a drain: nothing runs past a failed batch, not even its
    own next output, so it stays in the checkpoint and the next start runs it again. Without a checkpoint, or for
    receivers without a write-ahead log, it is lost, and the message says so. In a notebook the kernel survives: the
    context is stopped without a drain, and BatchFailed or ReceiverFailed is raised; Ctrl-C there stops gracefully, and
    a second one at once, with a KeyboardInterrupt. A flag that raises is logged and called again.

    What a receiver has not yet put into its write-ahead log when it is stopped, up to spark.streaming.blockInterval,
    is lost with its connection (ReceiverSupervisorImpl.onStop of Spark 4.2.1 closes the log first).

    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import local_session
    >>> spark, lines = local_session(), []
    >>> def build(ssc):
    ...     ssc.queueStream([["a", "b"]]).foreachRDD(lambda rdd: lines.extend(rdd.collect()))
    >>> ssc = ss.get_or_create(build, batch_interval="100ms")
    >>> ssc.start()
    >>> ss.stop_when(ssc, lambda: len(lines) == 2, poll="10ms"), lines
    (0, ['a', 'b'])
    """
    with _signals() as signals:
        return _stop_when(ssc, flag, poll, signals)


class _Watch(NamedTuple):
    """What is noticed of a context whose failed batches are held."""

    failures: list[BaseException]
    stopping: threading.Event
    """Set once errors of receivers are those of a stop."""
    loss: str | None
    """Why the next start cannot process what this one leaves; None if it can."""
    started: threading.Event


@contextlib.contextmanager
def _watched(ssc: StreamingContext) -> Iterator[_Watch]:
    """Hold failed batches, and notice receivers that fail; begun before the start, or the first ones are missed.

    The start of a recovered context generates its batches itself (JobGenerator.restart): it would wait for a callback
    that is held, so none is until it has started.
    """
    loss, started = _why_lost(ssc, has_home=engine_of(ssc) is not None), threading.Event()
    if not streaming.is_recovered(ssc):
        started.set()
    with _failed_batches_held(started) as failures:
        watch = _Watch(failures, threading.Event(), loss, started)
        if streaming.receiver_count(ssc):
            ssc.addStreamingListener(_Receivers(watch))
        yield watch


class _Waiter:
    """The thread that waits for a context started by `start`; whoever else waits for it asks this one to stop."""

    def __init__(self, ssc: StreamingContext, watch: _Watch, held: contextlib.ExitStack):
        self._asked = _Signals()
        self._is_watched = False
        """Whether somebody waits in the foreground, who gets the error."""
        self._error: BaseException | None = None
        run = contextvars.copy_context().run  # by which ipykernel 7 finds the cell
        self._thread = _background(run, self._run, ssc, watch, held, daemon=in_notebook())

    @property
    def is_alive(self) -> bool:
        """Whether its job runs, or is still being stopped."""
        return self._thread.is_alive()

    @property
    def has_failed(self) -> bool:
        """Whether its job ended with an error."""
        return self._error is not None

    def _run(self, ssc: StreamingContext, watch: _Watch, held: contextlib.ExitStack) -> None:
        try:
            with held:
                _wait_and_stop(ssc, lambda: False, 1, self._asked, watch)
        except BaseException as error:
            self._error = error
            if not self._is_watched and not isinstance(error, KeyboardInterrupt):
                print(_explained(error), file=sys.stderr, flush=True)

    def join(self, seconds: float) -> bool:
        """Wait for the end, up to this time; whether it has come."""
        if threading.current_thread() is not self._thread:  # as for a listener that hears of the end
            self._thread.join(seconds)
        return not self.is_alive

    def wait(self, flag: Callable[[], bool], poll: float, signals: _Signals) -> int:
        """Wait in the foreground, as `_wait_and_stop` does."""
        self._is_watched, next_call = True, 0.0
        try:
            while self.is_alive:
                if not self._asked.stop and time.monotonic() >= next_call:
                    next_call = time.monotonic() + poll
                    self._asked.stop = _is_true(flag)
                self._asked.stop = self._asked.stop or signals.stop
                self._asked.interrupt = self._asked.interrupt or signals.interrupt
                self._thread.join(min(poll, 0.1))
        finally:
            self._is_watched = False
        if self._error is not None:
            raise self._error
        return 0


def _waiter_of(ssc: StreamingContext) -> _Waiter | None:
    return vars(ssc).get(_WAITER)


def _stop_when(
    ssc: StreamingContext, flag: Callable[[], bool], poll: Duration, signals: _Signals, *, begin: bool = False
) -> int:
    seconds, waiter = durations.seconds(poll), _waiter_of(ssc)
    if waiter is not None and (waiter.is_alive or waiter.has_failed or not begin):
        return waiter.wait(flag, seconds, signals)
    with _watched(ssc) as watch:
        if begin:
            _start(ssc)
        watch.started.set()
        return _wait_and_stop(ssc, flag, seconds, signals, watch)


def _wait_and_stop(
    ssc: StreamingContext, flag: Callable[[], bool], poll: float, signals: _Signals, watch: _Watch
) -> int:
    engine = engine_of(ssc)
    try:
        _wait(ssc, lambda: flag() or (engine is not None and engine.stop_requested()), signals, watch, poll)
        log.info("stopping gracefully")
        watch.stopping.set()
        if engine is not None:
            engine.stopping.set()
        _drain(ssc, signals, watch)
        if engine is not None:
            engine.close()
            engine.log_summary()
    except KeyboardInterrupt:  # the second one in a notebook
        _abandon(ssc)
        raise
    except Exception as error:
        if engine is not None:
            engine.log_summary()
            engine.failed(error)
        failure = error if isinstance(error, BatchFailed) else _failed(ssc, error, watch.loss)
        if in_notebook():
            _abandon(ssc)
            raise failure from failure.__cause__
        _end_process(_explained(failure))
    return 0


def _explained(failure: BaseException) -> str:
    """The traceback of what caused a failure, then its sentence; data in them cannot command a terminal."""
    cause = traceback.format_exception(failure.__cause__) if failure.__cause__ else []
    return printable_lines("".join([*cause, str(failure)]))


def _why_lost(ssc: StreamingContext, *, has_home: bool) -> str | None:
    """Why the next start cannot process what this one leaves; None if it can."""
    if streaming.receiver_count(ssc) and not streaming.keeps_received(ssc):
        return "its receivers keep no write-ahead log"
    if not has_home and streaming.checkpoint_directory(ssc) is None:
        return "the job has no checkpoint"
    return None


def _abandon(ssc: StreamingContext) -> None:
    """Stop without a drain, and give up the home, so that a notebook can start the job again."""
    streaming.abandon(ssc, ABANDON_LIMIT)
    engine = engine_of(ssc)
    if engine is not None:
        engine.abandon()


def _wait(
    ssc: StreamingContext,
    flag: Callable[[], bool],
    signals: _Signals,
    watch: _Watch,
    poll: float,
) -> None:
    next_call = 0.0
    while not signals.stop:
        if watch.failures:
            raise _failed(ssc, watch.failures[0], watch.loss)
        if (engine := engine_of(ssc)) is not None:
            engine.check_clock()  # no tick comes while Spark's timer waits for a clock that went back
        if time.monotonic() >= next_call:
            next_call = time.monotonic() + poll
            if _is_true(flag):
                return
        if streaming.await_termination(ssc, min(poll, 0.5)):
            return


def _is_true(flag: Callable[[], bool]) -> bool:
    try:
        return flag()
    except Exception as error:
        log.warning("cannot tell whether to stop, the job continues: %s", jvm.reason(error))
        return False


def _drain(ssc: StreamingContext, signals: _Signals, watch: _Watch) -> None:
    """Stop gracefully, with a deadline: Spark's own graceful stop can wait forever."""
    limit = max(DRAIN_LIMIT, 3 * streaming.batch_interval_ms(ssc))
    deadline = time.monotonic() + limit / 1000
    lost = f"what is left is lost, because {watch.loss}"
    left = lost if watch.loss else "the next start processes what is left"
    stopper = _background(_stop_gracefully, ssc, limit)
    while stopper.is_alive():
        if watch.failures:
            raise _failed(ssc, watch.failures[0], watch.loss)
        if time.monotonic() > deadline:
            raise BatchFailed(f"the drain did not end within {durations.text(limit)}: {left}")
        if signals.interrupt:
            raise KeyboardInterrupt
        stopper.join(0.1)
    if not streaming.await_termination(ssc, 0):  # which raises errors from outside Python
        raise BatchFailed(f"the drain was interrupted: {left}")


def _stop_gracefully(ssc: StreamingContext, limit: int) -> None:
    if streaming.keeps_received(ssc):
        try:
            surgery.stop_receivers(ssc, limit)
        except (UsageError, jvm.JavaError) as error:  # an unsupported PySpark, a Java without access to fields
            why = str(error) if isinstance(error, UsageError) else jvm.reason(error)
            log.warning("what receivers stored last stays in the write-ahead log for the next start: %s", why)
    streaming.stop_gracefully(ssc, limit)


def _background(call: Callable[..., object], *arguments: object, daemon: bool = True) -> threading.Thread:
    thread = threading.Thread(target=call, args=arguments, daemon=daemon)
    thread.start()
    return thread


class _Receivers(StreamingListener):
    """Notices a receiver that stopped storing data, which Spark still shows as active."""

    def __init__(self, watch: _Watch):
        self._watch = watch

    def onReceiverError(self, receiverError: Any) -> None:
        reason = streaming.push_failure(receiverError)
        if reason is None or self._watch.stopping.is_set():  # Spark reports errors while it stops receivers
            return
        loss = self._watch.loss
        kept = f"what it stored is lost, because {loss}" if loss else "nothing in the write-ahead log is lost"
        self._watch.failures.append(
            ReceiverFailed(f"a receiver stopped storing data ({reason}): the next start reconnects, and {kept}")
        )


def _failed(ssc: StreamingContext, error: BaseException, loss: str | None) -> BatchFailed | ReceiverFailed:
    if isinstance(error, ReceiverFailed):
        return error
    then = f"and is lost, because {loss}" if loss else "the next start runs it again"
    if isinstance(error, (*jvm.THROWN, OSError)) and streaming.has_lost_jvm(ssc):
        return BatchFailed(f"Java has ended, as it does when it is killed or out of memory. A batch failed, {then}")
    failure = BatchFailed(f"a batch failed, {then}: {jvm.reason(error)}")
    failure.__cause__ = error
    return failure


@contextlib.contextmanager
def _failed_batches_held(started: threading.Event) -> Iterator[list[BaseException]]:
    """A list of the errors raised in callbacks; the thread of one that fails after the start is blocked until the end.

    Otherwise Spark would start the next output or batch before the failure is seen, and it forgets a failed output if a
    later one of the same batch succeeds (JobScheduler.handleJobCompletion).
    """
    failures: list[BaseException] = []
    over = threading.Event()

    def hold(error: BaseException) -> None:
        failures.append(error)
        if started.is_set():
            over.wait()

    with callback_errors(hold):
        try:
            yield failures
        finally:
            over.set()


def _end_process(message: str) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    # in another thread: a signal may have interrupted this one during a py4j call
    _background(jvm.halt, 1, message).join(5)
    os._exit(1)


def in_notebook() -> bool:
    """Whether this is an interactive session, whose process must survive."""
    return hasattr(sys, "ps1") or hasattr(builtins, "__IPYTHON__")


class _Signals:
    """What signals have asked for: to stop and, in a notebook, not to wait for that any longer."""

    stop = interrupt = False


@contextlib.contextmanager
def _signals() -> Iterator[_Signals]:
    """Let SIGTERM and SIGINT ask for a stop, in Python and in the JVM; a second one ends the process.

    In a notebook only SIGINT, in Python, which would cancel the running batch (SparkContext._do_init of PySpark); a
    second one asks for an interrupt.
    """
    asked = _Signals()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    if in_notebook():
        with _interrupts(asked):
            yield asked
        return

    def handler() -> Callable[..., None]:
        before = False

        def handle(*_: object) -> None:
            nonlocal before
            if before:
                _end_process("stopped at once by a second signal")
            before = asked.stop = True

        return handle

    # Ctrl-C reaches both Python and the JVM: each counts its own signals, or one would count twice
    in_python = handler()
    previous = {s: signal.signal(s, in_python) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        with jvm.jvm_signals(("TERM", "INT"), handler()):
            yield asked
    finally:
        for s, old in previous.items():
            signal.signal(s, old)


@contextlib.contextmanager
def _interrupts(asked: _Signals) -> Iterator[None]:
    """Let the first SIGINT ask for a stop, the second for an interrupt, and a third raise KeyboardInterrupt anywhere.

    Where that comes during a call, py4j 0.10.9.9 closes the connections of other threads, too, and their calls fail
    (GatewayClient.send_command): the stop that runs in one of them would not end.
    """

    def handle(*_: object) -> None:
        if asked.stop:
            asked.interrupt = True
            signal.signal(signal.SIGINT, signal.default_int_handler)
        asked.stop = True

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
