"""StreamingContexts: a new one, or the one in a checkpoint, or one that continues from its home.

Every function takes or returns a plain `pyspark.streaming.StreamingContext`; `lifecycle` starts and stops it.

    ssc = get_or_create(build, checkpoint="hdfs:///jobs/served", batch_interval="1s")  # context, definition
    ssc.start()                                                                        # start
    sys.exit(stop_on_marker(ssc, "hdfs:///jobs/served.running"))                       # wait
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable

from pyspark import SparkConf
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

from . import durations, settings
from .bridge import dataframes, jvm, streaming
from .bridge.callbacks import check_callbacks
from .checks import check_cores, check_writable
from .durations import Duration
from .engine import batches, checkpoints
from .engine.graph import graph_of
from .errors import CheckpointRefused, StopRequested, UsageError
from .recovery.home import Home
from .recovery.lease import acquire
from .recovery.offset_log import OffsetLog

log = logging.getLogger(__name__)

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
    conf: SparkConf | None = None,
) -> StreamingContext:
    """The active context, or the one in the checkpoint, or a new one defined by `build(ssc)`.

    The Spark session is made from live settings first, so a recovered job obeys today's `--conf` and not that of its
    first start. Without a master it runs locally. In a notebook a context that is already running is returned as it is.

    A job of plain DStreams passes `checkpoint`. One with FrameStreams passes `home` instead; without it, it runs from a
    temporary home. With a home `build` is called at every start, so a changed job continues where the old one stopped.
    `max_per_batch` limits the records (or files) of a source in one batch; without it a backlog comes in batches of
    about one interval. With `drain` the job processes everything that is there now, in one batch unless `max_per_batch`
    says otherwise, and then nothing more. A checkpoint that cannot be resumed is set aside; if it holds received
    records, only with `give_up_received`, which is meant for one start. With receivers and a write-ahead log a first
    checkpoint is written here, so that a driver killed early forgets nothing.

    Raises UsageError for a bad interval, a checkpoint or home that cannot be written or read, one that was made
    with another interval, a definition without outputs or with columns that do not exist, a home that another
    driver holds, or receivers that leave no core.
    """
    interval = durations.milliseconds(batch_interval)
    check_callbacks()
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
        checkpoints.write_first(ssc)
    return ssc


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
    endless = [name for name, source in graph.sources.items() if not source.bounded]
    if drain and endless:
        raise UsageError(f"a drain needs sources with an end, and {endless[0]!r} has none: leave out the drain")
    if max_per_batch is not None and max_per_batch < 1:
        raise UsageError(f"got a limit of {max_per_batch} records a batch (max_per_batch), expected at least 1")
    if path is None:
        path = tempfile.mkdtemp(prefix="home-")
        log.warning("no home was given: the job runs from %s and does not survive its end", path)
    settings.apply_live(graph.session, settings.FRAMES)
    dataframes.silence_expected_warnings()
    home = Home.open(path)
    lease = acquire(home / "lease", fresh.sparkContext.applicationId)
    try:
        if home.stop_pending():
            home.mark_stopped()
            raise StopRequested(f"a stop was asked for while the job was down, so it stays stopped ({path})")
        graph.bind(home, OffsetLog(home / "offsets", lease.epoch))
        graph.check()
        engine = batches.Engine(fresh, graph, lease, max_per_batch=max_per_batch, drain=drain, retry_for=retry_for)
        batches.register_callbacks(fresh, graph, home / "ticks")
        ssc = fresh
        if streaming.output_count(fresh) > 1:  # there are receivers or plain DStreams, which need Spark's checkpoint
            ssc = checkpoints.recover(fresh, graph, home, give_up_received=give_up_received)
            check_cores(ssc)
            checkpoints.write_first(ssc)
        else:
            checkpoints.retire(home, give_up_received=give_up_received)
        home.mark_running()
    except BaseException:
        lease.release()
        raise
    engine.activate(ssc)
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
