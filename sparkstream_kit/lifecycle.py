"""Run a context until it is drained and stopped, or end the process at once when a batch fails.

The functions take a plain `pyspark.streaming.StreamingContext`.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any, NoReturn

from pyspark.streaming import StreamingContext
from pyspark.streaming.listener import StreamingListener

from . import durations
from .bridge import hadoop, jvm, streaming
from .bridge.callbacks import callback_errors, check_callbacks
from .durations import Duration
from .engine import batches
from .errors import BatchFailed, ReceiverFailed

log = logging.getLogger(__name__)


DRAIN_LIMIT = 60_000
"""Milliseconds that a drain may take, or three batch intervals if that is longer."""


def run(ssc: StreamingContext, flag: Callable[[], bool] = lambda: False, *, poll: Duration = "1s") -> int:
    """Start, wait, drain and stop; returns the exit code for `sys.exit`, as `stop_when` does.

    Raises UsageError, before anything starts, for an unsupported PySpark and for a context that Spark refuses to start.

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
    asked = threading.Event()
    with _signals(asked.set):  # before the start: a signal may come while the context starts
        with jvm.refusals(lambda why: f"Spark cannot start the job ({why}): change what it names", of=jvm.THROWN):
            ssc.start()
        log.info("running: %s", _describe(ssc))
        return stop_when(ssc, lambda: asked.is_set() or flag(), poll=poll)


def _describe(ssc: StreamingContext) -> str:
    interval, engine = f"a batch interval of {durations.text(streaming.batch_interval_ms(ssc))}", batches.live()
    if engine is None:
        return interval
    last = engine.graph.log.last.n
    return f"{interval}, {f'after batch {last}' if last else 'no batch so far'}, home {engine.graph.home.root}"


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
    code = stop_when(ssc, lambda: not hadoop.path_exists(path), poll=poll)
    if code == 0 and note is not None and not hadoop.path_exists(path):
        hadoop.delete(note)
    return code


def stop_when(ssc: StreamingContext, flag: Callable[[], bool], *, poll: Duration = "1s") -> int:
    """Wait for a started context until `flag()` is true, then drain and stop; returns the exit code.

    SIGTERM and SIGINT do the same; a second one ends the process at once. The SparkContext keeps running.

    0   drained and stopped
    1   a batch failed, a receiver stopped storing data, or the drain took longer than 60 s and three batch intervals

    After a failure the process ends here, at once and without a drain: nothing runs past a failed batch, not even its
    own next output, so it stays in the checkpoint and the next start runs it again. In a notebook the kernel survives:
    the context is stopped without a drain, and BatchFailed or ReceiverFailed is raised. A flag that raises is logged
    and called again.

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
    asked = threading.Event()
    with _signals(asked.set), _failed_batches_held() as failures:
        if streaming.receiver_count(ssc):
            ssc.addStreamingListener(_Receivers(failures))
        engine = batches.live()
        try:
            _wait(
                ssc,
                lambda: flag() or (engine is not None and engine.stop_requested()),
                asked,
                failures,
                durations.seconds(poll),
            )
            log.info("stopping gracefully")
            if engine is not None:
                engine.stopping.set()
            _drain(ssc, failures)
            if engine is not None:
                engine.close()
                engine.log_summary()
        except Exception as error:
            if engine is not None:
                engine.log_summary()
            failure = error if isinstance(error, BatchFailed) else _failed(error)
            if in_notebook():
                _background(ssc.stop, False, False).join(5)
                raise failure from failure.__cause__
            cause = traceback.format_exception(failure.__cause__) if failure.__cause__ else []
            _end_process("".join([*cause, str(failure)]))
    return 0


def _wait(
    ssc: StreamingContext,
    flag: Callable[[], bool],
    asked: threading.Event,
    failures: list[BaseException],
    poll: float,
) -> None:
    next_call = 0.0
    while not asked.is_set():
        if failures:
            raise _failed(failures[0])
        if (engine := batches.live()) is not None:
            engine.check_clock()  # no tick comes while Spark's timer waits for a clock that went back
        if time.monotonic() >= next_call:
            next_call = time.monotonic() + poll
            try:
                if flag():
                    return
            except Exception as error:
                log.warning("cannot tell whether to stop, the job continues: %s", jvm.reason(error))
        if ssc.awaitTerminationOrTimeout(min(poll, 0.5)):  # type: ignore[func-returns-value,arg-type]
            return


def _drain(ssc: StreamingContext, failures: list[BaseException]) -> None:
    """Stop gracefully, with a deadline: Spark's own graceful stop can wait forever."""
    limit = max(DRAIN_LIMIT, 3 * streaming.batch_interval_ms(ssc))
    deadline = time.monotonic() + limit / 1000
    stopper = _background(ssc.stop, False, True)
    while stopper.is_alive():
        if failures:
            raise _failed(failures[0])
        if time.monotonic() > deadline:
            raise BatchFailed(
                f"the drain did not end within {durations.text(limit)}: the next start processes what is left"
            )
        stopper.join(0.1)
    ssc.awaitTerminationOrTimeout(0)  # raises errors from outside Python


def _background(call: Callable[..., object], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=call, args=arguments, daemon=True)
    thread.start()
    return thread


class _Receivers(StreamingListener):
    """Notices a receiver that stopped storing data, which Spark still shows as active."""

    def __init__(self, failures: list[BaseException]):
        self._failures = failures

    def onReceiverError(self, receiverError: Any) -> None:
        reason = streaming.push_failure(receiverError)
        if reason is not None:
            self._failures.append(
                ReceiverFailed(
                    f"a receiver stopped storing data ({reason}): the next start reconnects, and nothing in the "
                    "write-ahead log is lost"
                )
            )


def _failed(error: BaseException) -> BatchFailed | ReceiverFailed:
    if isinstance(error, ReceiverFailed):
        return error
    failure = BatchFailed(f"a batch failed, the next start runs it again: {jvm.reason(error)}")
    failure.__cause__ = error
    return failure


@contextlib.contextmanager
def _failed_batches_held() -> Iterator[list[BaseException]]:
    """A list of the errors raised in callbacks; the thread of a failed callback is blocked until the end.

    Otherwise Spark would start the next output or batch before the failure is seen, and it forgets a failed output if a
    later one of the same batch succeeds (JobScheduler.handleJobCompletion).
    """
    failures: list[BaseException] = []
    over = threading.Event()

    def hold(error: BaseException) -> None:
        failures.append(error)
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


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM and SIGINT call `stop`, in Python and in the JVM; a second one ends the process."""
    if in_notebook() or threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler() -> Callable[..., None]:
        asked = False

        def handle(*_: object) -> None:
            nonlocal asked
            if asked:
                _end_process("stopped at once by a second signal")
            asked = True
            stop()

        return handle

    # Ctrl-C reaches both Python and the JVM: each counts its own signals, or one would count twice
    in_python = handler()
    previous = {s: signal.signal(s, in_python) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        with jvm.jvm_signals(("TERM", "INT"), handler()):
            yield
    finally:
        for s, old in previous.items():
            signal.signal(s, old)
