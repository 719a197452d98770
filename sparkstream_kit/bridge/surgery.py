"""Surgery on Spark's own checkpoint: one before the first batch, and none of a downtime's empty batches after it."""

from __future__ import annotations

from typing import Any

from pyspark.streaming import StreamingContext

from . import hadoop
from .jvm import context, view
from .streaming import batch_interval_ms, checkpoint_directory


def write_first_checkpoint(ssc: StreamingContext) -> None:
    """Write the checkpoint that a context which was never started would write just before its first batch.

    Spark writes its first one after the first batch is generated, and a driver that is killed before forgets what its
    receivers had stored until then. A copy of the graph is started in its place, as DStreamGraph.start can be called
    once; JobGenerator.restart runs all batches since the time of a checkpoint (Checkpoint.serialize, deserialize).
    """
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
    temporary = f"{directory}/temp"  # not like a checkpoint's name, which Spark would read
    hadoop.write_file(temporary, streaming.Checkpoint.serialize(first, conf))
    hadoop.rename(temporary, f"{directory}/checkpoint-{zero + interval}")


Gap = tuple[int, int]
"""Times in ms, from the first up to, not including, the second."""


def leave_out_downtime(ssc: StreamingContext, until: int, gaps: list[Gap], *, silent: int) -> list[Gap]:
    """Let a recovered context run the batches it owes and those up to a time in ms, but none after that until now.

    JobGenerator.restart runs all since the checkpoint before anything new: for a week at one second that takes hours.
    They are empty where everything comes from receivers, and can be left out where no step builds on the batch before
    (DStream.mustCheckpoint); elsewhere this does nothing. `silent` inputs never have anything. Gives the gaps that are
    left out, to be given again the next time, as the checkpoint may then still be the same.

    What restart reads are fields of Checkpoint without a setter.
    """
    recovered = ssc._jssc.ssc()
    graph, checkpoint, interval = recovered.graph(), recovered.initialCheckpoint(), batch_interval_ms(ssc)
    receivers = graph.getReceiverInputStreams()
    if len(graph.getInputStreams()) > len(receivers) + silent or any(map(_looks_back, graph.getOutputStreams())):
        return []
    first = int(checkpoint.checkpointTime().milliseconds())
    remembered = (receiver.rememberDuration() for receiver in receivers)  # null where no output uses the receiver
    last = max(first, until) + max((int(d.milliseconds()) for d in remembered if d is not None), default=0)
    now = int(recovered.scheduler().clock().getTimeMillis()) // interval * interval
    resume = max(first, now)
    gaps = [gap for gap in [*gaps, (last + interval, resume)] if first < gap[1] <= resume and gap[0] < gap[1]]
    if not gaps:
        return []
    time = view().org.apache.spark.streaming.Time
    candidates = range(first, min(last + interval, resume), interval)
    owed = [
        *checkpoint.pendingTimes(),
        *(time(t) for t in candidates if not any(begin <= t < end for begin, end in gaps)),
    ]
    times = context()._gateway.new_array(time, len(owed))  # type: ignore[union-attr]
    for i, t in enumerate(owed):
        times[i] = t
    for name, value in (("pendingTimes", times), ("checkpointTime", time(resume))):
        field = checkpoint.getClass().getDeclaredField(name)
        field.setAccessible(True)
        field.set(checkpoint, value)
    return gaps


def _looks_back(dstream: Any) -> bool:
    parents = dstream.dependencies()
    return dstream.mustCheckpoint() or any(_looks_back(parents.apply(i)) for i in range(parents.size()))


def count_log_records(path: str) -> int:
    """Records of a file of a write-ahead log, each after its length (FileBasedWriteAheadLogWriter.write)."""
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
