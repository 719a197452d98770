"""The life of a StreamingContext: made or recovered, started, waited for, drained and stopped.

Every function takes or gives a plain `pyspark.streaming.StreamingContext`.

    ssc = get_or_create(build, checkpoint="hdfs:///jobs/served", batch_interval="1s")  # context, definition
    ssc.start()                                                                        # start
    sys.exit(stop_on_marker(ssc, "hdfs:///jobs/served.running"))                       # wait
"""

from __future__ import annotations

import builtins
import contextlib
import copy
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from pyspark import SparkConf
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext
from pyspark.streaming.util import TransformFunction

from . import bridge, durations, settings
from .checks import check_cores, check_writable
from .durations import Duration
from .errors import BatchFailed, UsageError

log = logging.getLogger(__name__)

Build = Callable[[StreamingContext], object]

DRAIN_LIMIT = 60_000
"""Milliseconds that a drain may take, unless three batch intervals are more."""


def get_or_create(
    build: Build,
    *,
    batch_interval: Duration,
    checkpoint: str | None = None,
    conf: SparkConf | None = None,
) -> StreamingContext:
    """The active context, or the one in the checkpoint, or a new one defined by `build(ssc)`.

    The Spark session is made from live settings first, so a recovered job obeys today's `--conf` and not
    those of its first start. Without a master anywhere it runs locally. In a notebook a context that is
    already running is given back as it is.

    Raises UsageError for a bad interval, a checkpoint that cannot be written or read, one that was made with
    another interval, a definition without outputs, or receivers that leave no core.
    """
    interval = durations.milliseconds(batch_interval)
    active = StreamingContext.getActive()
    if active is not None:
        return active
    session = live_session(conf)

    def create() -> StreamingContext:
        ssc = new_context(session, interval)
        build(ssc)
        return ssc

    if checkpoint is None:
        ssc = create()
    else:
        check_writable(checkpoint)
        ssc = _recover_or(create, checkpoint)
        found = bridge.batch_interval_ms(ssc)
        if found != interval:
            raise UsageError(
                f"the checkpoint {checkpoint!r} was made with a batch interval of {durations.text(found)}, "
                f"not {durations.text(interval)}: keep the interval, or name a new checkpoint directory"
            )
    if not bridge.has_outputs(ssc):
        raise UsageError(
            "the job defines no output: call pprint, foreachRDD or another output operation in build"
        )
    check_cores(ssc)
    return ssc


def live_session(conf: SparkConf | None = None) -> SparkSession:
    """The running session as it is, or one made from spark-submit's settings, then `conf`, then the presets.

    A local master, which is Spark's own choice where nobody names one, brings the local preset.
    """
    if bridge.is_running():
        return SparkSession.builder.getOrCreate()
    conf = conf or SparkConf()
    # passed at the launch, since Spark turns it on in what it takes for a shell
    bridge.start_jvm(conf.setIfMissing("spark.ui.showConsoleProgress", "false"))
    live = SparkConf()  # only now: what spark-submit was given is known to the JVM alone
    for name, value in conf.getAll():
        live.setIfMissing(name, value)
    if (live.get("spark.master") or "local").startswith("local"):
        settings.apply(live, settings.LOCAL)
    return SparkSession.builder.config(conf=live).getOrCreate()


def new_context(session: SparkSession, interval_ms: int) -> StreamingContext:
    """A StreamingContext without PySpark's notice that DStreams are old, which the user of this kit knows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        seconds = durations.seconds(f"{interval_ms}ms")
        return StreamingContext(session.sparkContext, seconds)  # type: ignore[arg-type]


def _recover_or(create: Callable[[], StreamingContext], checkpoint: str) -> StreamingContext:
    made = False

    def setup() -> StreamingContext:
        nonlocal made
        made = True
        return create()

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            return StreamingContext.getOrCreate(checkpoint, setup)
    except Exception as error:
        if made:
            raise
        raise UsageError(
            f"the checkpoint {checkpoint!r} cannot be read ({bridge.reason(error)}): run the code and the "
            "Spark that wrote it, or name a new checkpoint directory"
        ) from error


def window_and_slide(
    ssc: StreamingContext, window: Duration, slide: Duration | None = None
) -> tuple[float, float]:
    """Window and slide in seconds, as DStream's window operations take them, checked against the interval.

    The slide is one batch interval unless given: `lines.window(*window_and_slide(ssc, "5s", "2s"))`.
    Raises UsageError where one is no multiple of the interval.
    """
    interval = bridge.batch_interval_ms(ssc)
    spans = (
        durations.multiple("window", window, interval),
        interval if slide is None else durations.multiple("slide", slide, interval),
    )
    return durations.seconds(f"{spans[0]}ms"), durations.seconds(f"{spans[1]}ms")


def run(ssc: StreamingContext, flag: Callable[[], bool] = lambda: False, *, poll: Duration = "1s") -> int:
    """Start, wait, drain, stop: the exit code for `sys.exit`. See `stop_when` for what ends it."""
    ssc.start()
    return stop_when(ssc, flag, poll=poll)


def stop_on_marker(ssc: StreamingContext, path: str, *, poll: Duration = "5s") -> int:
    """Wait until somebody deletes the marker file, then drain and stop: `yarn application -kill` cannot.

    The marker is a file on any Hadoop file system, created here. Deleted while the job is down after a crash
    it still means stop: the restarted job drains what it owes and ends. After a stop that was asked for in
    this way the next start creates it anew; the file `<path>.stopped` remembers that one. Gives the exit code
    of `stop_when`.
    """
    stopped = f"{path}.stopped"
    asked_while_down = (
        bridge.is_recovered(ssc) and not bridge.path_exists(path) and not bridge.path_exists(stopped)
    )
    if not asked_while_down:
        try:
            bridge.create_file(path)
        except Exception as error:
            raise UsageError(
                f"cannot create the marker {path!r} ({bridge.reason(error)}): name a file this user can write"
            ) from error
        bridge.delete(stopped)
    code = stop_when(ssc, lambda: not bridge.path_exists(path), poll=poll)
    if code == 0 and not bridge.path_exists(path):
        bridge.create_file(stopped)
    return code


def stop_when(ssc: StreamingContext, flag: Callable[[], bool], *, poll: Duration = "1s") -> int:
    """Wait for the started context until `flag()` is true, then drain, stop and give the exit code.

    SIGTERM and SIGINT do the same; a second one ends the process at once. The SparkContext lives on.

    0   drained and stopped
    1   a batch failed, or the drain did not end within the larger of 60 s and three batch intervals

    After a failed batch the process ends here, at once and without a drain: nothing runs past the batch, not
    even the next output of the same one, so it stays in the checkpoint and the next start runs it again. In a
    notebook the kernel lives on, the context is stopped without a drain, and BatchFailed is raised. A flag
    that raises is reported and asked again.
    """
    asked = threading.Event()
    with _signals(asked.set), _failed_batches_held() as failures:
        try:
            _wait(ssc, flag, asked, failures, durations.seconds(poll))
            log.info("stopping: draining what was received")
            _drain(ssc, failures)
        except Exception as error:
            failure = error if isinstance(error, BatchFailed) else _failed(error)
            if in_notebook():
                _background(ssc.stop, False, False).join(5)
                raise failure from failure.__cause__
            if failure.__cause__ is not None:
                traceback.print_exception(failure.__cause__)
            _end_process(str(failure))
    return 0


def _wait(
    ssc: StreamingContext,
    flag: Callable[[], bool],
    asked: threading.Event,
    failures: list[BaseException],
    poll: float,
) -> None:
    next_question = 0.0
    while not asked.is_set():
        if failures:
            raise _failed(failures[0])
        if time.monotonic() >= next_question:
            next_question = time.monotonic() + poll
            try:
                if flag():
                    return
            except Exception as error:
                log.warning("cannot tell whether to stop, the job goes on: %s", bridge.reason(error))
        if ssc.awaitTerminationOrTimeout(min(poll, 0.5)):  # type: ignore[func-returns-value,arg-type]
            return


def _drain(ssc: StreamingContext, failures: list[BaseException]) -> None:
    """Stop gracefully, up to a deadline, because Spark's own graceful stop can wait for ever."""
    limit = max(DRAIN_LIMIT, 3 * bridge.batch_interval_ms(ssc))
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
    ssc.awaitTerminationOrTimeout(0)  # raises what failed outside of Python


def _background(call: Callable[..., object], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=call, args=arguments, daemon=True)
    thread.start()
    return thread


def _failed(error: BaseException) -> BatchFailed:
    failure = BatchFailed(f"a batch failed, the next start runs it again: {bridge.reason(error)}")
    failure.__cause__ = error
    return failure


@contextlib.contextmanager
def _failed_batches_held() -> Iterator[list[BaseException]]:
    """The errors of the driver's callbacks; the thread of a failed one is held in it until the end.

    Left alone, Spark would go on with the next output or batch before anybody hears of the failure, and
    forgets a failed output whose batch ends with a good one (JobScheduler.handleJobCompletion).
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


@contextlib.contextmanager
def callback_errors(note: Callable[[BaseException], object]) -> Iterator[None]:
    """Hear of the errors that functions of transform and foreachRDD raise; PySpark only keeps their text.

    `note` runs in the thread of the callback, before Spark knows.
    """
    call = TransformFunction.call

    def noting(self: TransformFunction, milliseconds: int, jrdds: Any) -> Any:
        def function(*args: Any) -> Any:
            try:
                return original(*args)
            except BaseException as error:
                note(error)
                raise

        # on a copy, since the checkpoint may be pickling the function of this one
        original, twin = self.func, copy.copy(self)
        twin.func = function
        result = call(twin, milliseconds, jrdds)  # type: ignore[no-untyped-call]
        self.failure = twin.failure
        return result

    TransformFunction.call = noting  # type: ignore[method-assign]
    try:
        yield
    finally:
        TransformFunction.call = call  # type: ignore[method-assign]


def _end_process(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    # in a thread of its own: a signal may have interrupted this one while it talks to the JVM
    _background(bridge.halt, 1).join(5)
    os._exit(1)


def in_notebook() -> bool:
    """Whether somebody types into this Python: its process must not be ended under them."""
    return hasattr(sys, "ps1") or hasattr(builtins, "__IPYTHON__")


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGTERM and SIGINT call `stop`, in Python and in the JVM; the second one ends the process."""
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

    # Ctrl-C reaches Python and the JVM: each counts its own signals, or one would be two
    of_python = handler()
    previous = {s: signal.signal(s, of_python) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        with bridge.jvm_signals(("TERM", "INT"), handler()):
            yield
    finally:
        for s, old in previous.items():
            signal.signal(s, old)
