"""Surgery on Spark's streaming classes, where their public methods lose records, time or figures.

A checkpoint before the first batch, no empty batches of a downtime after a restart, receivers that are stopped
before the log of their blocks is closed, and input rates of streams that Spark does not know.

Classes are in org.apache.spark.streaming, Spark 4.2.1, with the same members in 4.0.0 and 4.3.0. Others are refused.
"""

from __future__ import annotations

import contextlib
import re
import time
from typing import Any

from pyspark import SparkContext
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

from . import hadoop, jvm
from .jvm import context, scala_object, unsupported, view
from .streaming import batch_interval_ms, checkpoint_directory

_FIRST_CHECKPOINT = {
    "Checkpoint": (
        "Checkpoint(StreamingContext,Time)",
        "byte[] Checkpoint.serialize(Checkpoint,SparkConf)",
        "Checkpoint Checkpoint.deserialize(InputStream,SparkConf)",
    ),
    "StreamingContext": (
        "StreamingContext(SparkContext,Checkpoint,Duration)",
        "DStreamGraph StreamingContext.graph()",
        "JobScheduler StreamingContext.scheduler()",
    ),
    "DStreamGraph": ("void DStreamGraph.start(Time)",),
    "scheduler.JobScheduler": ("Clock JobScheduler.clock()",),
    "Time": ("Time(long)",),
}
"""The members that `write_first_checkpoint` relies on, by class, without packages."""

_EXIT_LATCH = "org$apache$spark$streaming$scheduler$ReceiverTracker$$receiverJobExitLatch"

_DOWNTIME = {
    "Checkpoint": ("Time Checkpoint.checkpointTime", "Time[] Checkpoint.pendingTimes"),
    "StreamingContext": (
        "Checkpoint StreamingContext.initialCheckpoint()",
        "DStreamGraph StreamingContext.graph()",
        "JobScheduler StreamingContext.scheduler()",
    ),
    "DStreamGraph": (
        "InputDStream[] DStreamGraph.getInputStreams()",
        "ReceiverInputDStream[] DStreamGraph.getReceiverInputStreams()",
        "DStream[] DStreamGraph.getOutputStreams()",
    ),
    "scheduler.JobScheduler": ("Clock JobScheduler.clock()",),
    "dstream.DStream": (
        "List DStream.dependencies()",
        "boolean DStream.mustCheckpoint()",
        "Duration DStream.rememberDuration()",
    ),
    "Time": ("Time(long)",),
}
"""The members that `leave_out_downtime` relies on, by class, without packages."""


_INPUT: dict[str, tuple[str, ...]] = {
    "scheduler.JobScheduler": ("Map JobScheduler.jobSets",),
    "scheduler.JobSet": ("Map JobSet.streamIdToInputInfo",),
    "scheduler.StreamInputInfo": ("StreamInputInfo(int,long,Map)",),
    "DStreamGraph": ("InputDStream[] DStreamGraph.getInputStreams()",),
    "Time": ("Time(long)",),
}
"""The members that `InputRates` relies on, by class, without packages."""

_RECEIVERS = {
    "scheduler.JobScheduler": ("ReceiverTracker JobScheduler.receiverTracker()",),
    "scheduler.ReceiverTracker": (
        "Enumeration$Value ReceiverTracker.trackerState",
        "RpcEndpointRef ReceiverTracker.endpoint",
        "boolean ReceiverTracker.hasUnallocatedBlocks()",
        "ReceiverTracker$TrackerState$ ReceiverTracker.TrackerState()",
        f"CountDownLatch ReceiverTracker.{_EXIT_LATCH}()",
    ),
    "scheduler.ReceiverTracker$TrackerState$": (
        "Enumeration$Value ReceiverTracker$TrackerState$.Started()",
        "Enumeration$Value ReceiverTracker$TrackerState$.Stopping()",
    ),
    "scheduler.StopAllReceivers$": ("StopAllReceivers$ StopAllReceivers$.MODULE$",),
}
"""The members that `stop_receivers` relies on, by class, without packages."""


def write_first_checkpoint(ssc: StreamingContext) -> None:
    """Write the checkpoint that a context which was never started would write just before its first batch.

    Spark writes its first one after the first batch is generated, and a driver that is killed before then loses track
    of what its receivers have stored. A copy of the graph is started in its place, as DStreamGraph.start can be called
    only once; JobGenerator.restart runs all batches since the time of a checkpoint (Checkpoint.serialize, deserialize).

    Raises UsageError, and writes nothing, if Spark's classes do not declare the members that this relies on.
    """
    _check_members(_FIRST_CHECKPOINT)
    streaming, bytes_in = view().org.apache.spark.streaming, view().java.io.ByteArrayInputStream
    fresh = ssc._jssc.ssc()
    conf, interval = fresh.conf(), batch_interval_ms(ssc)
    zero = int(fresh.scheduler().clock().getTimeMillis()) // interval * interval

    serialized = streaming.Checkpoint.serialize(streaming.Checkpoint(fresh, streaming.Time(zero)), conf)
    copy = streaming.Checkpoint.deserialize(bytes_in(serialized), conf)
    twin = streaming.StreamingContext(fresh.sc(), copy, None)
    twin.graph().start(streaming.Time(zero))
    first = streaming.Checkpoint(twin, streaming.Time(zero + interval))

    directory = checkpoint_directory(ssc)
    temporary = f"{directory}/temp"  # unlike the name of a checkpoint, which Spark would read
    hadoop.write_file(temporary, streaming.Checkpoint.serialize(first, conf))
    hadoop.rename(temporary, f"{directory}/checkpoint-{zero + interval}")


Gap = tuple[int, int]
"""Times in ms, from the first up to, but not including, the second."""


def leave_out_downtime(ssc: StreamingContext, until: int, gaps: list[Gap], *, silent: int) -> list[Gap]:
    """Let a recovered context run its pending batches and those up to a time in ms, but none from then until now.

    JobGenerator.restart first runs all batches since the checkpoint: for a week at one second that takes hours. They
    are empty if all input comes from receivers, and can be skipped if no step depends on the batch before
    (DStream.mustCheckpoint); otherwise this changes nothing. `silent` is the number of inputs that never have data.
    Returns the gaps that are skipped; pass them again after the next restart, whose checkpoint may still be the same.

    What restart reads are final fields of Checkpoint, set by reflection. Raises UsageError, and changes nothing, if
    Spark's classes do not declare the members that this relies on. Cost: some py4j calls per pending batch and DStream.
    """
    _check_members(_DOWNTIME)
    recovered = ssc._jssc.ssc()
    graph, checkpoint, interval = recovered.graph(), recovered.initialCheckpoint(), batch_interval_ms(ssc)
    receivers = graph.getReceiverInputStreams()
    if len(graph.getInputStreams()) > len(receivers) + silent or any(map(_looks_back, graph.getOutputStreams())):
        return []
    first = int(checkpoint.checkpointTime().milliseconds())
    remembered = (receiver.rememberDuration() for receiver in receivers)  # null if no output uses the receiver
    last = max(first, until) + max((int(d.milliseconds()) for d in remembered if d is not None), default=0)
    now = int(recovered.scheduler().clock().getTimeMillis()) // interval * interval
    resume = max(first, now)
    gaps = [gap for gap in [*gaps, (last + interval, resume)] if first < gap[1] <= resume and gap[0] < gap[1]]
    if not gaps:
        return []
    at = view().org.apache.spark.streaming.Time
    candidates = range(first, min(last + interval, resume), interval)
    pending = [
        *checkpoint.pendingTimes(),
        *(at(t) for t in candidates if not any(begin <= t < end for begin, end in gaps)),
    ]
    times = context()._gateway.new_array(at, len(pending))  # type: ignore[union-attr]
    for i, t in enumerate(pending):
        times[i] = t
    for name, value in (("pendingTimes", times), ("checkpointTime", at(resume))):
        field = checkpoint.getClass().getDeclaredField(name)
        field.setAccessible(True)
        field.set(checkpoint, value)
    return gaps


def stop_receivers(ssc: StreamingContext, limit: int) -> None:
    """Stop the receivers of a running context, and wait, at most `limit` ms, until all they have stored is in batches.

    A graceful stop of Spark's own (ReceiverTracker.stop) stops them and closes the log of their blocks at once; then
    none of the blocks since the last tick can be assigned to a batch (ReceivedBlockTracker.allocateBlocksToBatch), so
    under traffic it waits ten intervals in vain and leaves them. This asks the tracker's endpoint for the same while
    its state is Stopping, in which it starts no receiver again, and leaves the rest to the ticks and to that stop.

    Raises UsageError, and changes nothing, if Spark's classes do not declare the members that this relies on.
    """
    _check_members(_RECEIVERS)
    tracker, deadline = ssc._jssc.ssc().scheduler().receiverTracker(), time.monotonic() + limit / 1000
    if tracker is None:  # stopped before it has started
        return
    state, endpoint = (tracker.getClass().getDeclaredField(name) for name in ("trackerState", "endpoint"))
    state.setAccessible(True)
    endpoint.setAccessible(True)
    started, stopping = tracker.TrackerState().Started(), tracker.TrackerState().Stopping()
    if not state.get(tracker).equals(started):
        return
    scala, scheduler = view().scala.reflect, view().org.apache.spark.streaming.scheduler
    everything = scala_object(scheduler, "StopAllReceivers")
    answer = scala_object(scala, "ClassTag").Boolean()
    state.set(tracker, stopping)
    try:
        endpoint.get(tracker).askSync(everything, answer)
        ended = getattr(tracker, _EXIT_LATCH)()
        while ended.getCount() and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        state.set(tracker, started)
    while tracker.hasUnallocatedBlocks() and time.monotonic() < deadline:
        time.sleep(0.05)


class InputRates:
    """The records of FrameStreams in the Streaming tab and in StreamingMetrics, which only know those of receivers.

    What a batch reports when it is over is a final field of its JobSet, set by reflection while it runs. The records
    count as those of the last input stream, which is the one that only ticks. Raises UsageError, and changes nothing,
    if Spark's classes do not declare the members that this relies on.
    """

    def __init__(self, ssc: StreamingContext):
        """The batches of a context (JobScheduler.jobSets)."""
        _check_members(_INPUT)
        streaming, spark = view().org.apache.spark.streaming, ssc._jssc.ssc()
        self._time, self._info = streaming.Time, streaming.scheduler.StreamInputInfo
        inputs = spark.graph().getInputStreams()
        self._stream = int(inputs[len(inputs) - 1].id())
        sets = spark.scheduler().getClass().getDeclaredField("jobSets")
        sets.setAccessible(True)
        self._batches = sets.get(spark.scheduler())

    def add(self, time: int, records: int) -> None:
        """Note the records of the batch that runs now, given its time in ms (JobSet.streamIdToInputInfo)."""
        batch = self._batches.get(self._time(time))
        if batch is None:  # of a context that was not started by Spark's clock
            return
        field = batch.getClass().getDeclaredField("streamIdToInputInfo")
        field.setAccessible(True)
        inputs = batch.streamIdToInputInfo()
        nothing = scala_object(view().scala.collection.immutable, "Map").empty()
        field.set(batch, inputs.updated(self._stream, self._info(self._stream, records, nothing)))


def _looks_back(dstream: Any) -> bool:
    """Whether a stream or one it depends on needs the batch before (DStream.mustCheckpoint, dependencies)."""
    parents = dstream.dependencies()
    return dstream.mustCheckpoint() or any(_looks_back(parents.apply(i)) for i in range(parents.size()))


def _check_members(expected: dict[str, tuple[str, ...]]) -> None:
    """Raise UsageError unless Spark's classes declare these members."""
    for name, members in expected.items():
        declared = _declared(f"org.apache.spark.streaming.{name}")
        for member in members:
            if not any(f" {found}".endswith(f" {member}") for found in declared):
                raise unsupported(f"org.apache.spark.streaming.{name} does not declare `{member}`")


def _declared(name: str) -> list[str]:
    """What a class declares, such as `public Checkpoint(StreamingContext,Time)`; nothing if there is no such class.

    java.lang.Class by reflection, and scala.runtime.ScalaRunTime.stringOf: one py4j call for a list of members.
    """
    try:
        found = view().java.lang.Class.forName(name)
    except Exception:  # ClassNotFoundException
        return []
    members = (found.getDeclaredConstructors(), found.getDeclaredFields(), found.getDeclaredMethods())
    text = ", ".join(str(view().scala.runtime.ScalaRunTime.stringOf(array))[len("Array(") : -1] for array in members)
    return re.sub(r"\b(?:[a-z]\w*\.)+(?=[A-Z])", "", text).split(", ")


def count_log_records(path: str) -> int:
    """Records in a file of a write-ahead log, each preceded by its length (FileBasedWriteAheadLogWriter.write).

    Cost: two py4j calls for each record, which is a block of received data; the data itself is not read.
    """
    fs, jpath = hadoop.file_system(path)
    size, stream = int(fs.getFileStatus(jpath).getLen()), fs.open(jpath)
    at = count = 0
    try:
        while at + 4 <= size:
            stream.seek(at)
            at += 4 + int(stream.readInt())
            count += at <= size  # the last one may have been cut off
        return count
    finally:
        stream.close()


def forget_dead_jvm() -> bool:
    """Forget the JVM of this process if it has died, so that another can be started; returns whether it had.

    PySpark 4.2.1 keeps what belonged to it in these attributes of classes.
    """
    gateway = SparkContext._gateway
    if gateway is None or not jvm.is_dead():
        return False
    with contextlib.suppress(Exception):
        gateway.shutdown_callback_server()
    SparkContext._gateway = None
    SparkContext._jvm = None
    SparkContext._active_spark_context = None
    SparkSession._instantiatedSession = None
    SparkSession._activeSession = None
    StreamingContext._activeContext = None
    return True
