"""What a StreamingContext knows: its interval, receivers, outputs, clock, batches and events.

Classes are in org.apache.spark.streaming, Spark 4.2.1.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

from py4j.protocol import Py4JNetworkError
from pyspark import SparkContext
from pyspark.streaming import StreamingContext

from . import jvm
from .jvm import THROWN, context, view

_STOPPER = "_sparkstream_kit_stopper"
"""The attribute of an abandoned context that holds the thread that stops it."""

_DRAIN = "_sparkstream_kit_drain"
"""The attribute of a context that is stopped gracefully that holds the thread of the JVM which does that."""


def batch_interval_ms(ssc: StreamingContext) -> int:
    """Batch interval of a context, new or recovered (DStreamGraph.batchDuration)."""
    return int(ssc._jssc.ssc().graph().batchDuration().milliseconds())


def receiver_count(ssc: StreamingContext) -> int:
    """Number of receivers that the graph starts, one core each (DStreamGraph.getReceiverInputStreams)."""
    return len(ssc._jssc.ssc().graph().getReceiverInputStreams())


def has_queue(ssc: StreamingContext) -> bool:
    """Whether the graph has a queueStream, whose checkpoint can be written, but never read.

    QueueInputDStream.readObject throws (DStreamGraph.getInputStreams).
    """
    inputs = ssc._jssc.ssc().graph().getInputStreams()
    return any(str(stream.getClass().getSimpleName()) == "QueueInputDStream" for stream in inputs)


def is_recovered(ssc: StreamingContext) -> bool:
    """Whether the context was recovered from a checkpoint (StreamingContext.isCheckpointPresent)."""
    return bool(ssc._jssc.ssc().isCheckpointPresent())


def output_count(ssc: StreamingContext) -> int:
    """Number of output operations (DStreamGraph.getOutputStreams)."""
    return len(ssc._jssc.ssc().graph().getOutputStreams())


def checkpoint_directory(ssc: StreamingContext) -> str | None:
    """The directory of Spark's checkpoints; None if there are none (StreamingContext.checkpointDir)."""
    directory = ssc._jssc.ssc().checkpointDir()
    return None if directory is None else str(directory)


def keeps_received(ssc: StreamingContext) -> bool:
    """Whether the context has receivers with a write-ahead log (WriteAheadLogUtils.enableReceiverLog)."""
    conf = ssc._jssc.ssc().conf()
    return receiver_count(ssc) > 0 and bool(conf.getBoolean("spark.streaming.receiver.writeAheadLog.enable", False))


def has_unprocessed(ssc: StreamingContext) -> bool:
    """Whether a stopped context left batches pending, or received blocks that are in no batch.

    JobScheduler.getPendingTimes, ReceiverTracker.hasUnallocatedBlocks.
    """
    scheduler = ssc._jssc.ssc().scheduler()
    tracker = scheduler.receiverTracker()
    return bool(not scheduler.getPendingTimes().isEmpty() or (tracker is not None and tracker.hasUnallocatedBlocks()))


@contextlib.contextmanager
def manual_clock() -> Iterator[None]:
    """Contexts created inside use Spark's ManualClock (JobGenerator reads spark.streaming.clock once)."""
    conf = context()._jsc.sc().conf()
    conf.set("spark.streaming.clock", "org.apache.spark.util.ManualClock")
    try:
        yield
    finally:
        conf.remove("spark.streaming.clock")


def advance_clock(ssc: StreamingContext, ms: int) -> None:
    """Move the manual clock of a context (JobScheduler.clock)."""
    ssc._jssc.ssc().scheduler().clock().advance(ms)


def clock_ms(ssc: StreamingContext) -> int:
    """The time of a context's clock, which tests move, in ms (JobScheduler.clock)."""
    return int(ssc._jssc.ssc().scheduler().clock().getTimeMillis())


def batch_of(event: Any) -> tuple[int, list[str]]:
    """Time in ms and failures of a StreamingListenerBatchCompleted, which is posted for failed batches, too."""
    info = event.batchInfo()
    operations = info.outputOperationInfos()
    reasons = [operations[k].failureReason() for k in operations]
    return int(info.batchTime().milliseconds()), [str(r) for r in reasons if r]


def push_failure(event: Any) -> str | None:
    """Why the pushing thread of a receiver ended, from a StreamingListenerReceiverError; None for other errors.

    BlockGenerator.keepPushingBlocks reports the exception and ends, while Spark still shows the receiver as active.
    Where its store has been shut down (RejectedExecutionException) the receiver is being stopped, whoever stops it:
    ReceiverSupervisorImpl.onStop stops WriteAheadLogBasedBlockHandler before it stops BlockGenerator.
    """
    info = event.receiverInfo()
    if not info.lastErrorMessage().startswith("Error in block pushing thread"):
        return None
    trace = str(info.lastError())
    if "java.util.concurrent.RejectedExecutionException" in trace:
        return None
    what = trace.strip().splitlines()
    return f"{info.name()} on {info.location() or 'an unknown machine'}: {what[0] if what else 'no reason given'}"


def stop_gracefully(ssc: StreamingContext, limit: int) -> None:
    """Spark's graceful stop of a context, which may take this many ms for its batches.

    JobGenerator.stop reads spark.streaming.gracefulStopTimeout; its default, ten intervals, cuts off a longer queue,
    and then even Spark does not know which batches have ended. Returns early if the context is abandoned.
    """
    ssc._jssc.ssc().conf().setIfMissing("spark.streaming.gracefulStopTimeout", f"{limit}ms")
    vars(ssc)[_DRAIN] = view().java.lang.Thread.currentThread()  # py4j has one for each thread of Python
    if is_abandoned(ssc):
        return
    try:
        ssc.stop(stopSparkContext=False, stopGraceFully=True)
    except THROWN:
        if not is_abandoned(ssc):
            raise


def has_lost_jvm(ssc: StreamingContext) -> bool:
    """Whether the JVM of a context has died; another may be there already (SparkContext._jvm)."""
    return ssc._jvm is not SparkContext._jvm or jvm.is_dead()


def await_termination(ssc: StreamingContext, seconds: float) -> bool:
    """Whether a context has stopped, after this time at the latest; raises the error of a batch that failed.

    In a notebook, a Ctrl-C during a call of another thread also ends the connection of this one
    (GatewayClient.send_command of py4j 0.10.9.9), which says nothing of the context.
    """
    try:
        return bool(ssc.awaitTerminationOrTimeout(seconds))  # type: ignore[func-returns-value,arg-type]
    except (Py4JNetworkError, OSError):
        if "PYSPARK_GATEWAY_PORT" in os.environ or has_lost_jvm(ssc):
            raise  # the JVM of spark-submit has ended, too, if a call fails
        time.sleep(min(seconds, 0.1))
        return False


def abandon(ssc: StreamingContext, seconds: float) -> None:
    """Stop a context without a drain; returns after this time at the latest, when it may not have stopped yet.

    A call may fail after a KeyboardInterrupt in one of another thread, and `await_stop` then stops the context, or
    because Java has ended, and all with it.
    """

    def stop() -> None:
        with contextlib.suppress(Exception):
            _stop_at_once(ssc)

    stopper = vars(ssc)[_STOPPER] = threading.Thread(target=stop, daemon=True)
    stopper.start()
    stopper.join(seconds)


def _stop_at_once(ssc: StreamingContext) -> None:
    """Stop a context without a drain.

    A drain that goes on is interrupted: it waits for batches, also for failed ones, which never come to an end, and
    holds the lock of the context meanwhile (StreamingContext.stop, JobGenerator.stop).
    """
    if _DRAIN in vars(ssc):
        vars(ssc)[_DRAIN].interrupt()
    ssc.stop(False, False)


def is_abandoned(ssc: StreamingContext) -> bool:
    """Whether `abandon` was called: the context stays active until it has stopped."""
    return _STOPPER in vars(ssc)


def await_stop(ssc: StreamingContext, seconds: float) -> bool:
    """Wait for an abandoned context, and stop it if that has failed; returns whether it has stopped."""
    stopper: threading.Thread = vars(ssc)[_STOPPER]
    stopper.join(seconds)
    if stopper.is_alive():
        return False
    _stop_at_once(ssc)
    return True


def newest_waiting_tick(ssc: StreamingContext) -> int:
    """Time in ms of the newest batch that was generated and has not finished; 0 if there is none.

    JobScheduler.getPendingTimes and Time.ordering. The JVM searches, as thousands may be waiting.
    """
    pending = ssc._jssc.ssc().scheduler().getPendingTimes()
    if pending.isEmpty():
        return 0
    return int(pending.max(view().org.apache.spark.streaming.Time.ordering()).milliseconds())
