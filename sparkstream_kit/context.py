"""StreamingContexts: a new one, one recovered from a checkpoint, or one that continues from its home.

The functions take and return a plain `pyspark.streaming.StreamingContext`; `lifecycle` starts and stops it.

    ssc = get_or_create(build, checkpoint="hdfs:///jobs/served", batch_interval="1s")  # context, definition
    sys.exit(run(ssc, marker="hdfs:///jobs/served.running"))                           # start, wait
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from pyspark import SparkConf
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

from . import _spark, durations, lifecycle, settings
from .bridge import dataframes, jvm, streaming, surgery
from .bridge.callbacks import check_callbacks
from .checks import check_concurrency, check_cores, check_python, check_recoverable, check_writable
from .durations import Duration
from .engine import batches, checkpoints, reports, rewinds
from .engine.graph import Graph, graph_of
from .engine.progress import watched
from .engine.retries import RETRY_FOR
from .errors import CheckpointRefused, StopRequested, UsageError
from .recovery import storage
from .recovery.home import Home
from .recovery.lease import acquire
from .recovery.offset_log import OffsetLog

log = logging.getLogger(__name__)

ABANDONED_LIMIT = 60
"""Seconds that a job waits for the previous one of this process to stop, after that failed or was interrupted."""

Build = Callable[[StreamingContext], object]


def get_or_create(
    build: Build,
    *,
    batch_interval: Duration,
    checkpoint: str | None = None,
    home: str | None = None,
    max_per_batch: int | None = None,
    drain: bool = False,
    give_up_received: bool = False,
    give_up_sources: Collection[str] = (),
    give_up_outputs: Collection[str] = (),
    give_up_files: Collection[str] = (),
    keep_batches: int = 0,
    replace: bool = False,
    conf: SparkConf | None = None,
) -> StreamingContext:
    """The active context, the one recovered from the checkpoint, or a new one defined by `build(ssc)`.

    The SparkSession is created from live settings first, so a recovered job obeys today's `--conf` and not that of its
    first start. Without a master it runs locally. In a notebook a context that is already active is returned unchanged,
    with a warning, as `build` may be another one. With `replace` its job is stopped gracefully first, and `build` is
    used: a job with a home continues where that one stopped. If the new job is refused, none runs. A context that was
    stopped or never started is replaced in any case; one that is still stopping is waited for, up to 60 s.

    A job of plain DStreams passes `checkpoint`. One with FrameStreams passes `home` instead; without it, it runs from a
    temporary home. With a home `build` is called at every start, so a changed job continues where the old one stopped.
    `max_per_batch` limits the records (of files: bytes) per source and batch; without it a backlog is read in batches
    that take about one interval. With `drain` the job processes what is available now, in one batch unless
    `max_per_batch` is given, and nothing after that. Spark's checkpoint in a home is set aside if it cannot be resumed;
    one with received records only with `give_up_received`, which is meant for a single start. If receivers keep a
    write-ahead log, a first checkpoint is written here, so that nothing is lost if the driver is killed early. A source
    that the home has read and the job no longer has is refused, unless `give_up_sources` names it; so is an output that
    it has written, unless `give_up_outputs` names it, and a new state beside a saved one that is not used, when its
    earlier input is gone: they may have been renamed. Bytes of input files that a recorded batch needs and that are
    gone are refused, too, unless `give_up_files` names the file. The newest `keep_batches` batches stay replayable, so
    that `sparkstream rewind` can have them run again; without it only those that states and windows need.

    Raises UsageError for whatever Spark, Hadoop or Java refuse before the start: an invalid interval, no Java, a
    checkpoint or home that cannot be written, a definition without outputs or with columns that do not exist, receivers
    that leave no core, an unsupported PySpark, local workers of another Python; CheckpointRefused for a checkpoint that
    cannot be read, resumed or written; HomeInUse if another driver holds the home; HomeDamaged, NewerFormat or
    StateRefused for what is in it; StopRequested if a stop was requested while the job was down.

    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import local_session
    >>> spark = local_session()  # get_or_create uses the running session; without one it creates its own
    >>> lines = []
    >>> def build(ssc):
    ...     ssc.queueStream([["a", "b"]]).foreachRDD(lambda rdd: lines.extend(rdd.collect()))
    >>> ssc = ss.get_or_create(build, batch_interval="100ms")
    >>> ss.run(ssc, lambda: len(lines) == 2, poll="10ms"), lines
    (0, ['a', 'b'])
    """
    interval = durations.milliseconds(batch_interval)
    with jvm.refusals(lambda why: f"the job cannot start ({why}): change what it names", of=jvm.THROWN):
        return _get_or_create(
            build,
            interval,
            checkpoint,
            home,
            conf,
            max_per_batch=max_per_batch,
            drain=drain,
            give_up_received=give_up_received,
            give_up_sources=give_up_sources,
            give_up_outputs=give_up_outputs,
            give_up_files=give_up_files,
            keep_batches=keep_batches,
            replace=replace,
        )


def _get_or_create(
    build: Build,
    interval: int,
    checkpoint: str | None,
    home: str | None,
    conf: SparkConf | None,
    *,
    replace: bool,
    **options: Any,
) -> StreamingContext:
    check_callbacks()
    forget_dead_java()
    active = StreamingContext.getActive()
    if replace and active is not None and not streaming.is_abandoned(active):
        lifecycle.replace(active)
        active = StreamingContext.getActive()
    if active is not None and streaming.is_abandoned(active):
        if not streaming.await_stop(active, ABANDONED_LIMIT):
            raise _not_stopped("was interrupted")
    elif active is not None:
        if replace:
            raise _not_stopped("is to be replaced")
        log.warning(
            "a job is running already: its context is returned, and build is not called. To run a changed build "
            "instead, pass replace=True"
        )
        return active
    end_previous()
    presets = (settings.FRAMES, settings.WRITE_AHEAD_LOG) if home is not None else ()
    session = live_session(conf, *presets)
    check_python(session.sparkContext)

    def create() -> StreamingContext:
        ssc = new_context(session, interval)
        build(ssc)
        directory = checkpoint if checkpoint is not None else home
        if directory is not None:
            check_recoverable(ssc, directory)
        return ssc

    if checkpoint is not None:
        ssc = _on_checkpoint(create, checkpoint, interval)
        if replace and streaming.is_recovered(ssc):
            log.warning(
                "the checkpoint keeps the definition it was made with, and build is not called: a changed one "
                "needs a checkpoint of its own, or a home, which continues with any"
            )
    else:
        ssc = create()
        graph = graph_of(ssc)
        if graph.outputs or home is not None:
            return at_home(ssc, home, **options)
    if not streaming.output_count(ssc):
        raise UsageError("the job defines no output: call pprint, foreachRDD or another output operation in build")
    check_cores(ssc)
    if checkpoint is not None:
        checkpoints.write_first(ssc)
    return ssc


def _not_stopped(what: str) -> UsageError:
    return UsageError(
        f"the previous job, which {what}, has not stopped within {ABANDONED_LIMIT} s: run this again, or restart Python"
    )


def end_previous() -> None:
    """Give up the home of a context of this process that was stopped, or never started: its cell runs again."""
    engine = batches.live()
    if engine is not None:
        if not lifecycle.await_end(engine.context, ABANDONED_LIMIT):
            raise _not_stopped("is still being stopped")
        engine.end()


def _on_checkpoint(create: Callable[[], StreamingContext], checkpoint: str, interval: int) -> StreamingContext:
    check_writable(checkpoint)
    ssc = checkpoints.recover_or(create, checkpoint)
    found = streaming.batch_interval_ms(ssc)
    if found != interval:
        raise CheckpointRefused(
            f"the checkpoint {checkpoint!r} was made with a batch interval of {durations.text(found)}, "
            f"not {durations.text(interval)}: keep the interval, or name a new checkpoint directory"
        )
    if graph_of(ssc).outputs:
        raise UsageError("got checkpoint= for a job with FrameStreams: pass home= to get_or_create instead")
    return ssc


def at_home(
    fresh: StreamingContext,
    path: str | None,
    *,
    max_per_batch: int | None = None,
    drain: bool = False,
    give_up_received: bool = False,
    give_up_sources: Collection[str] = (),
    give_up_outputs: Collection[str] = (),
    give_up_files: Collection[str] = (),
    keep_batches: int = 0,
    retry_for: float = RETRY_FOR,
) -> StreamingContext:
    """The context on which a newly built graph continues from its home; the errors are those of `get_or_create`.

    `retry_for` is the time in seconds for which a failing output is retried.
    """
    graph = graph_of(fresh)
    if not graph.outputs:
        raise UsageError("the job defines no output: call outputs.console or another output in build")
    endless = [name for name, source in graph.sources.items() if not source.bounded]
    if drain and endless:
        raise UsageError(f"cannot drain {endless[0]!r}, a source that never ends: start the job without a drain")
    if drain and max_per_batch is not None and graph.windows and graph.reads_windows():
        raise UsageError(
            "a drain in several batches has no windows, as no time passes between them: leave out max_per_batch, so "
            "that it is one batch, or aggregate by event time, with event_time_window"
        )
    if max_per_batch is not None and max_per_batch < 1:
        raise UsageError(f"got a limit of {max_per_batch} records per batch (max_per_batch), expected at least 1")
    if keep_batches < 0:
        raise UsageError(f"got keep_batches={keep_batches}, expected 0 or more")
    if path is None:
        path = tempfile.mkdtemp(prefix="home-")
        log.warning("no home was given: the job runs from a temporary one, %s, and next time starts from scratch", path)
    check_concurrency(fresh)
    settings.apply_live(graph.session, settings.FRAMES)
    dataframes.silence_expected_warnings()
    home = Home.open(path)
    with watched("waiting for the lease of the driver before"):
        lease = acquire(home / "lease", fresh.sparkContext.applicationId)
    try:
        if home.stop_pending():
            home.mark_stopped()
            raise StopRequested(f"a stop was requested while the job was down, so it stays stopped ({path})")
        home.mark_starting()
        graph.bind(home, OffsetLog(home / "offsets", lease.epoch))
        home.upgrade()
        graph.give_up_files = give_up_files
        graph.keep_batches = keep_batches
        graph.check_names(give_up_sources, give_up_outputs)
        with watched("checking the job"):
            graph.check()
        rewinds.check(graph)
        with watched("loading the states"):
            graph.restore()
        rewinds.begin(graph)
        engine = batches.Engine(fresh, graph, lease, max_per_batch=max_per_batch, drain=drain, retry_for=retry_for)
        batches.register_callbacks(fresh, graph, home / "ticks")
        ssc = fresh
        if streaming.output_count(fresh) > 1:  # receivers or plain DStreams, which need Spark's checkpoint
            with watched("reading Spark's checkpoint"):
                ssc = checkpoints.recover(fresh, graph, home, give_up_received=give_up_received)
            check_cores(ssc)
            checkpoints.write_first(ssc)
        else:
            checkpoints.retire(home, give_up_received=give_up_received)
        graph.note_outputs()
        home.mark_running()
        engine.activate(ssc)
    except BaseException:
        lease.release()
        raise
    return ssc


def live_session(conf: SparkConf | None = None, *presets: settings.Preset) -> SparkSession:
    """The running session unchanged, or a new one with spark-submit's settings, then `conf`, then the presets.

    With a local master, which is Spark's default, the local preset is applied, too.
    """
    forget_dead_java()
    if jvm.is_running():
        return SparkSession.builder.getOrCreate()
    if _spark.use().found != _spark.PATH:
        log.info("using %s", _spark.use())
    log.info("starting Spark")
    conf = conf or SparkConf()
    # at launch, since Spark turns it on in what it takes for a shell
    jvm.start_jvm(conf.setIfMissing("spark.ui.showConsoleProgress", "false"))
    live = SparkConf()  # only now: spark-submit's settings are in the JVM
    for name, value in conf.getAll():
        live.setIfMissing(name, value)
    master = live.get("spark.master") or "local"
    if master == "local" or master.startswith("local["):  # not local-cluster, whose executors are processes
        settings.apply(live, settings.LOCAL)
    settings.apply(live, *presets, settings.REDACTION, settings.HDFS)
    return SparkSession.builder.config(conf=live).getOrCreate()


def forget_dead_java() -> None:
    """Let a notebook whose Java was killed start another, instead of an error at each call."""
    if surgery.forget_dead_jvm():
        log.warning("Java has ended, and its sessions and contexts with it: starting it again")


def observer(home: Home, log: OffsetLog, build: Build, batch_interval: Duration | None = None) -> Graph:
    """The graph of a job that another process may run: its context is never started, and it leaves the home as it is.

    UsageError for another batch interval than the job has, or if the job lacks a source that the home has read.
    """
    noted = reports.noted(log).interval
    interval = round(1000 * (noted or 1)) if batch_interval is None else durations.milliseconds(batch_interval)
    if noted is not None and interval != round(1000 * noted):
        got, has = durations.text(interval), durations.text(round(1000 * noted))
        raise UsageError(f"got a batch interval of {got}, and the job has one of {has}: leave it out")
    session = live_session()
    settings.apply_live(session, settings.FRAMES)
    dataframes.silence_expected_warnings()
    ssc = new_context(session, interval)  # not stopped, which PySpark would take for the end of the active one
    build(ssc)
    graph = graph_of(ssc)
    graph.bind(home, log)
    graph.is_observer = True
    gone = [source for source in log.last.end_offsets if source not in graph.sources]
    if gone:
        raise UsageError(f"the home has read the source {gone[0]!r}, which the job lacks: name the job of this home")
    return graph


def existing_home(path: str) -> Home:
    """The home at a path, with Spark started only if that is not on a local disk; UsageError if there is none."""
    here = Path(path.removeprefix("file:")).absolute()
    root = f"file:{here}" if (here / "id").exists() else None
    if root is None:
        live_session()
        root = storage.qualify(path)
    if not storage.exists(f"{root}/id"):
        raise UsageError(f"{path!r} is not a home: name the directory that the job was given as --home")
    return Home.existing(root)


def new_context(session: SparkSession, interval_ms: int) -> StreamingContext:
    """A StreamingContext, without PySpark's warning that DStreams are deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        seconds = durations.seconds(f"{interval_ms}ms")
        return StreamingContext(session.sparkContext, seconds)  # type: ignore[arg-type]
