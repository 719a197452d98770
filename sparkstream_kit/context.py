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
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any, NoReturn

from pyspark import SparkConf
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext
from pyspark.streaming.listener import StreamingListener
from pyspark.streaming.util import TransformFunction

from . import durations, settings
from .bridge import dataframes, hadoop, jvm, streaming
from .checks import check_cores, check_writable
from .durations import Duration
from .engine import batches, checkpoints
from .engine.graph import graph_of
from .errors import BatchFailed, ReceiverFailed, StayStopped, UsageError
from .recovery.home import Home
from .recovery.lease import acquire
from .recovery.offset_log import OffsetLog

log = logging.getLogger(__name__)

Build = Callable[[StreamingContext], object]

DRAIN_LIMIT = 60_000
"""Milliseconds that a drain may take, unless three batch intervals are more."""


def get_or_create(
    build: Build,
    *,
    batch_interval: Duration,
    checkpoint: str | None = None,
    home: str | None = None,
    max_per_batch: int | None = None,
    drain: bool = False,
    give_up_received: bool = False,
    conf: SparkConf | None = None,
) -> StreamingContext:
    """The active context, or the one in the checkpoint, or a new one defined by `build(ssc)`.

    The Spark session is made from live settings first, so a recovered job obeys today's `--conf` and not
    those of its first start. Without a master anywhere it runs locally. In a notebook a context that is
    already running is given back as it is.

    A definition of plain DStreams gives `checkpoint`; one with FrameStreams gives `home` instead, and without
    one it runs from a temporary home. There `build` is called at every start, so a changed job goes on where
    the old one ended; `max_per_batch` bounds the records (or files) of a source in one batch. Without it a backlog
    is taken in pieces that take about an interval each. With `drain` the job processes what is there now, all of
    it in one batch unless `max_per_batch` says less, and then claims nothing more. A checkpoint that cannot be gone
    on with is set aside; if it holds received records, only with `give_up_received`, which is for one start. With
    receivers and a write-ahead log a first checkpoint is written here, so that a driver killed early forgets nothing.

    Raises UsageError for a bad interval, a checkpoint or home that cannot be written or read, one that was made
    with another interval, a definition without outputs or with columns that do not exist, a home that another
    driver holds, or receivers that leave no core.
    """
    interval = durations.milliseconds(batch_interval)
    active = StreamingContext.getActive()
    if active is not None:
        return active
    presets = (settings.FRAMES, settings.WRITE_AHEAD_LOG) if home is not None else ()
    session = live_session(conf, *presets)

    def create() -> StreamingContext:
        ssc = new_context(session, interval)
        build(ssc)
        return ssc

    if checkpoint is not None:
        ssc = _on_checkpoint(create, checkpoint, interval)
    else:
        ssc = create()
        graph = graph_of(ssc)
        if graph.outputs or home is not None:
            return at_home(ssc, home, max_per_batch=max_per_batch, drain=drain, give_up_received=give_up_received)
    if not streaming.output_count(ssc):
        raise UsageError("the job defines no output: call pprint, foreachRDD or another output operation in build")
    check_cores(ssc)
    if checkpoint is not None:
        checkpoints.begin(ssc)
    return ssc


def _on_checkpoint(create: Callable[[], StreamingContext], checkpoint: str, interval: int) -> StreamingContext:
    check_writable(checkpoint)
    ssc = checkpoints.recover_or(create, checkpoint)
    found = streaming.batch_interval_ms(ssc)
    if found != interval:
        raise UsageError(
            f"the checkpoint {checkpoint!r} was made with a batch interval of {durations.text(found)}, "
            f"not {durations.text(interval)}: keep the interval, or name a new checkpoint directory"
        )
    if graph_of(ssc).outputs:
        raise UsageError("streams of frames live in a home: give get_or_create home= instead of checkpoint=")
    return ssc


def at_home(
    fresh: StreamingContext,
    path: str | None,
    *,
    max_per_batch: int | None = None,
    drain: bool = False,
    give_up_received: bool = False,
    retry_for: float = batches.RETRY_FOR,
) -> StreamingContext:
    """Bring a freshly built graph together with what its home remembers."""
    graph = graph_of(fresh)
    if not graph.outputs:
        raise UsageError("the job defines no output: call outputs.console or another output in build")
    endless = [name for name, source in graph.sources.items() if not source.drains]
    if drain and endless:
        raise UsageError(f"a drain needs sources with an end, and {endless[0]!r} has none: leave out the drain")
    if max_per_batch is not None and max_per_batch < 1:
        raise UsageError(f"got a limit of {max_per_batch} records a batch (max_per_batch), expected at least 1")
    if path is None:
        path = tempfile.mkdtemp(prefix="home-")
        log.warning("no home was given: the job runs from %s and does not survive its end", path)
    settings.apply_live(graph.session, settings.FRAMES)
    dataframes.quiet_what_is_meant()
    home = Home.open(path)
    lease = acquire(home / "lease", fresh.sparkContext.applicationId)
    try:
        if home.must_stay_stopped():
            home.mark_stopped()
            raise StayStopped(f"a stop was asked for while the job was down, so it stays stopped ({path})")
        graph.attach(home, OffsetLog(home / "progress", lease.epoch))
        graph.check()
        engine = batches.Engine(fresh, graph, lease, max_per_batch=max_per_batch, drain=drain, retry_for=retry_for)
        batches.attach(fresh, graph, home / "ticks")
        ssc = fresh
        if streaming.output_count(fresh) > 1:  # there are receivers or plain DStreams, which need Spark's checkpoint
            ssc = checkpoints.recover(fresh, graph, home, give_up_received=give_up_received)
            check_cores(ssc)
            checkpoints.begin(ssc)
        else:
            checkpoints.leave(home, give_up_received=give_up_received)
        home.mark_running()
    except BaseException:
        lease.release()
        raise
    engine.go_on(ssc)
    return ssc


def live_session(conf: SparkConf | None = None, *presets: settings.Preset) -> SparkSession:
    """The running session as it is, or one made from spark-submit's settings, then `conf`, then the presets.

    A local master, which is Spark's own choice where nobody names one, brings the local preset.
    """
    if jvm.is_running():
        return SparkSession.builder.getOrCreate()
    conf = conf or SparkConf()
    # passed at the launch, since Spark turns it on in what it takes for a shell
    jvm.start_jvm(conf.setIfMissing("spark.ui.showConsoleProgress", "false"))
    live = SparkConf()  # only now: what spark-submit was given is known to the JVM alone
    for name, value in conf.getAll():
        live.setIfMissing(name, value)
    if (live.get("spark.master") or "local").startswith("local"):
        settings.apply(live, settings.LOCAL)
    settings.apply(live, *presets, settings.REDACTION)
    return SparkSession.builder.config(conf=live).getOrCreate()


def new_context(session: SparkSession, interval_ms: int) -> StreamingContext:
    """A StreamingContext without PySpark's notice that DStreams are old, which the user of this kit knows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        seconds = durations.seconds(f"{interval_ms}ms")
        return StreamingContext(session.sparkContext, seconds)  # type: ignore[arg-type]


def window_and_slide(ssc: StreamingContext, window: Duration, slide: Duration | None = None) -> tuple[Any, Any]:
    """Window and slide in seconds (floats, which PySpark takes but declares as int), checked against the interval.

    The slide is one batch interval unless given: `lines.window(*window_and_slide(ssc, "5s", "2s"))`.
    Raises UsageError where one is no multiple of the interval.
    """
    interval = streaming.batch_interval_ms(ssc)
    spans = (
        durations.multiple("window", window, interval),
        interval if slide is None else durations.multiple("slide", slide, interval),
    )
    return durations.seconds(f"{spans[0]}ms"), durations.seconds(f"{spans[1]}ms")


def run(ssc: StreamingContext, flag: Callable[[], bool] = lambda: False, *, poll: Duration = "1s") -> int:
    """Start, wait, drain, stop: the exit code for `sys.exit`. See `stop_when` for what ends it."""
    asked = threading.Event()
    with _signals(asked.set):  # from before the start: batches run before anybody waits for them
        ssc.start()
        return stop_when(ssc, lambda: asked.is_set() or flag(), poll=poll)


def stop_on_marker(ssc: StreamingContext, path: str, *, poll: Duration = "5s") -> int:
    """Wait until somebody deletes the marker file, then drain and stop: `yarn application -kill` cannot.

    The marker is a file on any Hadoop file system, created here. Deleted while the job is down after a crash
    it still means stop: the restarted job drains what it owes and ends. After a stop that was asked for in
    this way the next start creates it anew; a note in the checkpoint tells the two apart, so a job without one
    always starts. Gives the exit code of `stop_when`.
    """
    directory = streaming.checkpoint_directory(ssc)
    note = f"{directory}/marker-{sha256(path.encode()).hexdigest()[:16]}" if directory else None
    asked_while_down = note is not None and hadoop.path_exists(note) and not hadoop.path_exists(path)
    if not asked_while_down:
        try:
            hadoop.create_file(path)
        except Exception as error:
            raise UsageError(
                f"cannot create the marker {path!r} ({jvm.reason(error)}): name a file this user can write"
            ) from error
        if note is not None:
            hadoop.create_file(note)
    code = stop_when(ssc, lambda: not hadoop.path_exists(path), poll=poll)
    if code == 0 and note is not None and not hadoop.path_exists(path):
        hadoop.delete(note)
    return code


def stop_when(ssc: StreamingContext, flag: Callable[[], bool], *, poll: Duration = "1s") -> int:
    """Wait for the started context until `flag()` is true, then drain, stop and give the exit code.

    SIGTERM and SIGINT do the same; a second one ends the process at once. The SparkContext lives on.

    0   drained and stopped
    1   a batch failed, a receiver can store nothing any more, or the drain did not end within the larger of 60 s and
        three batch intervals

    After a failed batch the process ends here, at once and without a drain: nothing runs past the batch, not
    even the next output of the same one, so it stays in the checkpoint and the next start runs it again. In a
    notebook the kernel lives on, the context is stopped without a drain, and BatchFailed is raised. A flag
    that raises is reported and asked again.
    """
    asked = threading.Event()
    with _signals(asked.set), _failed_batches_held() as failures:
        if streaming.receiver_count(ssc):
            ssc.addStreamingListener(_Receivers(failures))
        engine = batches.live()
        try:
            _wait(
                ssc,
                lambda: flag() or (engine is not None and engine.asked_to_stop()),
                asked,
                failures,
                durations.seconds(poll),
            )
            log.info("stopping: draining what was received")
            if engine is not None:
                engine.stopping.set()
            _drain(ssc, failures)
            if engine is not None:
                engine.end()
                engine.tell()
        except Exception as error:
            if engine is not None:
                engine.tell()
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
                log.warning("cannot tell whether to stop, the job goes on: %s", jvm.reason(error))
        if ssc.awaitTerminationOrTimeout(min(poll, 0.5)):  # type: ignore[func-returns-value,arg-type]
            return


def _drain(ssc: StreamingContext, failures: list[BaseException]) -> None:
    """Stop gracefully, up to a deadline, because Spark's own graceful stop can wait for ever."""
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
    ssc.awaitTerminationOrTimeout(0)  # raises what failed outside of Python


def _background(call: Callable[..., object], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=call, args=arguments, daemon=True)
    thread.start()
    return thread


class _Receivers(StreamingListener):
    """Notes a receiver that can store nothing any more: Spark shows it as active and lets it be."""

    def __init__(self, failures: list[BaseException]):
        self._failures = failures

    def onReceiverError(self, receiverError: Any) -> None:
        reason = streaming.push_failure(receiverError)
        if reason is not None:
            self._failures.append(
                ReceiverFailed(
                    f"a receiver can store nothing any more ({reason}): the next start connects anew; what is in the "
                    "write-ahead log is not lost"
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
        result = call(twin, milliseconds, jvm.python_list(jrdds))  # type: ignore[no-untyped-call]
        self.failure = twin.failure
        return result

    TransformFunction.call = noting  # type: ignore[method-assign]
    try:
        yield
    finally:
        TransformFunction.call = call  # type: ignore[method-assign]


def _end_process(message: str) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    # in a thread of its own: a signal may have interrupted this one while it talks to the JVM
    _background(jvm.halt, 1, message).join(5)
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
        with jvm.jvm_signals(("TERM", "INT"), handler()):
            yield
    finally:
        for s, old in previous.items():
            signal.signal(s, old)
