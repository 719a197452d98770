"""Run a DStream program under Spark's manual clock, and see what each output yields in each batch.

There is no sleep and no wall clock: a batch is over when Spark says so, and equal inputs always give equal results.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, NoReturn, TypeAlias, TypeVar, overload

from pyspark import RDD, SparkConf
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.streaming import DStream, StreamingContext
from pyspark.streaming.listener import StreamingListener

from . import durations, settings
from .bridge import jvm, streaming
from .bridge.callbacks import callback_errors
from .context import at_home, end_previous, new_context
from .durations import Duration
from .engine.batches import live as live_engine
from .engine.graph import graph_of
from .errors import BatchFailed, UsageError
from .frames import FrameStream
from .sources._generator import lines as log_lines

__all__ = ["local_session", "log_lines", "run_batches", "run_job"]

K = TypeVar("K")
S = TypeVar("S", bound=FrameStream | DStream[Any])
T = TypeVar("T")

MaybeNone: TypeAlias = Any
"""None in a batch that a slide skips. Any, or every test would have to rule it out before it looks at a batch."""

Batches = list[list[T] | MaybeNone]
"""What an output yields, batch by batch."""

Key = tuple[int, Any]
_seen: dict[Key, dict[int, list[Any]]] = {}
_runs = itertools.count()


def local_session(cores: int = 2) -> SparkSession:
    """A quiet local session for tests, or the session that is already running.

    Cost: grows with nothing: one JVM is started, once.

    >>> import sparkstream_kit as ss
    >>> ss.testing.local_session().range(3).count()
    3
    """
    conf = SparkConf().setMaster(f"local[{cores}]").setAppName("tests").set("spark.ui.enabled", "false")
    # many short plans, each run a few times: an optimizing compiler and a parallel collector cost more than they save
    conf.set("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
    settings.apply(conf, settings.LOCAL, settings.FRAMES)
    session = SparkSession.builder.config(conf=conf).getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    return session


@overload
def run_batches(
    build: Callable[..., FrameStream],
    *inputs: Sequence[Sequence[Any]],
    batch_interval: Duration = ...,
    batches: int = ...,
) -> Batches[Row]: ...
@overload
def run_batches(
    build: Callable[..., DStream[T]],
    *inputs: Sequence[Sequence[Any]],
    batch_interval: Duration = ...,
    batches: int = ...,
) -> Batches[T]: ...
@overload
def run_batches(
    build: Callable[..., tuple[FrameStream | DStream[Any], ...]],
    *inputs: Sequence[Sequence[Any]],
    batch_interval: Duration = ...,
    batches: int = ...,
) -> tuple[Batches[Any], ...]: ...
@overload
def run_batches(
    build: Callable[..., dict[K, S]],
    *inputs: Sequence[Sequence[Any]],
    batch_interval: Duration = ...,
    batches: int = ...,
) -> dict[K, Batches[Any]]: ...
@overload
def run_batches(
    build: Callable[..., None],
    *inputs: Sequence[Sequence[Any]],
    batch_interval: Duration = ...,
    batches: int = ...,
) -> tuple[()]: ...
def run_batches(
    build: Callable[..., Any], *inputs: Sequence[Sequence[Any]], batch_interval: Duration = "1s", batches: int = 0
) -> Any:
    """Feed lists to a DStream program, one for each batch, and return what came out of it in each batch.

    `build(stream, ...)` gets one DStream for each input. It returns the stream to watch, or a tuple or dict of streams;
    each can be a DStream or a FrameStream. For one stream, the result is a list with an entry for each batch: the list
    of its elements (for a FrameStream, Rows), or None if a slide skipped the batch. For a tuple or dict of streams, it
    is a tuple or dict of such lists.

    There are as many batches as the longest input has, and at least `batches`; an input that ends early continues with
    empty batches. Windows and state work: a checkpoint in a temporary directory is provided, so functions must be
    picklable, as in production. Batch times are 1, 2, 3, ... intervals after 1970.

    An error in a batch is raised as it is if it comes from a function of the driver (transform, foreachRDD); one from a
    worker is raised as pyspark.errors.PythonException, with the worker's traceback. Raises BatchFailed if Spark itself
    fails a batch, and UsageError if there are no batches or another context is running.

    Cost: grows with the batches and with what the program does in them.

    >>> from sparkstream_kit.testing import run_batches
    >>> run_batches(lambda lines: lines.count(), [["a", "b"], []])
    [[2], [0]]

    >>> import sparkstream_kit as ss
    >>> def build(lines):
    ...     stream = ss.FrameStream.of(lines)
    ...     return {"rows": stream, "count": stream.count()}
    >>> run_batches(build, [["a"]])
    {'rows': [[Row(value='a')]], 'count': [[Row(count=1)]]}
    """
    if StreamingContext.getActive() is not None:
        raise UsageError(
            "run_batches needs the only StreamingContext of the process, and another one is running: stop that first, "
            "by ssc.stop(False, True)"
        )
    end_previous()
    interval = durations.milliseconds(batch_interval)
    count = max([batches, *map(len, inputs)])
    if not count:
        raise UsageError("run_batches got no batches: give at least one list of batches, or batches=1")
    session, run = local_session(), next(_runs)
    with tempfile.TemporaryDirectory() as checkpoint:
        with streaming.manual_clock():
            ssc = new_context(session, interval)
        try:
            ssc.checkpoint(f"file://{checkpoint}")
            streams = [_stream(ssc, given) for given in inputs]
            made = build(*streams)
            outputs = made if isinstance(made, dict) else dict(enumerate(made if isinstance(made, tuple) else (made,)))
            outputs = {key: output for key, output in outputs.items() if output is not None}
            for key, output in outputs.items():
                _watch(output, (run, key))
            for stream in streams[:1]:
                stream.foreachRDD(_nothing)
            if graph_of(ssc).outputs:
                at_home(ssc, f"{checkpoint}/home", retry_for=0)
            _advance(ssc, interval, count)
            times = [interval * (i + 1) for i in range(count)]
            results = {key: [_seen.get((run, key), {}).get(time) for time in times] for key in outputs}
        finally:
            ssc.stop(stopSparkContext=False)
            engine = live_engine()
            if engine is not None:
                engine.close(save=False)
            for seen in [key for key in _seen if key[0] == run]:
                del _seen[seen]
    if isinstance(made, dict):
        return results
    return tuple(results.values()) if isinstance(made, tuple) or made is None else results[0]


def run_job(
    build: Callable[..., object],
    batches: Sequence[Sequence[str]],
    batch_interval: Duration = "1s",
    log_format: str = "combined",
) -> dict[str, Batches[Row]]:
    """Run the `build(ssc, source, output)` of a job on batches of lines; returns the rows of each batch, by output.

    A batch without lines is None, unless a window has to slide: it is not recorded in the job's offset log either.
    `log_format` is the --format of the job.
    Raises the errors of `run_batches`, and UsageError where the rows of an output are asked for that the job lacks.

    Cost: grows with the batches and with what the program does in them.

    >>> from sparkstream_kit.testing import run_job
    >>> def build(ssc, source, output):
    ...     output(source(ssc).count(), name="lines")
    >>> run_job(build, [["a", "b"], []])
    {'lines': [[Row(count=2)], None]}
    """

    def program(lines: DStream[str]) -> dict[str, FrameStream]:
        outputs: dict[str, FrameStream] = {}
        source = _JobSource(FrameStream.of(lines), log_format)
        build(lines.context(), source, lambda stream, name: outputs.update({name: stream}))
        return outputs

    return _Results(run_batches(program, batches, batch_interval=batch_interval))


class _Results(dict[str, Batches[Row]]):
    """The rows of each output; UsageError for a name that the job does not have."""

    def __missing__(self, name: str) -> NoReturn:
        has = ", ".join(sorted(self)) or "none"
        raise UsageError(f"the job has no result named {name!r}: it has {has}")


class _JobSource(NamedTuple):
    """The same stream under every name."""

    stream: FrameStream
    log_format: str

    def __call__(self, ssc: StreamingContext, name: str = "") -> FrameStream:
        return self.stream


def _stream(ssc: StreamingContext, given: Sequence[Sequence[Any]]) -> DStream[Any]:
    parallelize = ssc.sparkContext.parallelize
    return ssc.queueStream([parallelize(list(batch), 2) for batch in given], default=parallelize([], 1))


def _watch(output: DStream[Any] | FrameStream, key: Key) -> None:
    if isinstance(output, FrameStream):
        output.for_each_batch(lambda frame, batch: _collect(key, batch.time, frame), name=f"watch-{key}")
        return

    # the closure is pickled into the checkpoint by value, so it holds the key only and names a module function
    def collect(time: datetime, rdd: RDD[Any]) -> None:
        _collect(key, time, rdd)

    output.foreachRDD(collect)


def _nothing(rdd: RDD[Any]) -> None:
    """An output of every batch: Spark never completes a batch that has no job because each output skips it."""


def _collect(key: Key, time: datetime, batch: RDD[Any] | DataFrame) -> None:
    _seen.setdefault(key, {})[round(time.timestamp() * 1000)] = batch.collect()


def _advance(ssc: StreamingContext, interval: int, count: int) -> None:
    """Start, then let one interval pass at a time, each after the batch before it is over."""
    progress = _Progress()
    errors: list[BaseException] = []
    with callback_errors(errors.append):
        ssc.addStreamingListener(progress)
        ssc.start()
        threading.Thread(target=progress.wait_for_errors, args=(ssc,), daemon=True).start()
        for number in range(1, count + 1):
            streaming.advance_clock(ssc, interval)
            failure = progress.wait(number * interval)
            if failure is not None:
                first = errors[0] if errors else failure
                if isinstance(first, jvm.JavaError):
                    raise BatchFailed(f"batch {number} failed: {jvm.reason(first)}\n\n{first}") from None
                raise first


class _Progress(StreamingListener):
    """Which batches are over, and the first failure."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._over = 0
        self._failure: BaseException | None = None

    def wait(self, time: int) -> BaseException | None:
        """Wait until the batch of that time is over or one has failed; returns the first failure."""
        with self._changed:
            self._changed.wait_for(lambda: self._over >= time or self._failure is not None)
            return self._failure

    def wait_for_errors(self, ssc: StreamingContext) -> None:
        """An error while a batch is generated completes no batch: Spark only reports it to awaitTermination."""
        try:
            ssc.awaitTermination()
        except Exception as error:
            self._note(self._over, error)

    def onBatchCompleted(self, batchCompleted: Any) -> None:
        time, failures = streaming.batch_of(batchCompleted)
        self._note(time, BatchFailed(failures[0]) if failures else None)

    def _note(self, time: int, failure: BaseException | None) -> None:
        with self._changed:
            self._over = max(self._over, time)
            self._failure = self._failure or failure
            self._changed.notify_all()
