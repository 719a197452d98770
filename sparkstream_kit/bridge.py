"""Every py4j crossing of the kit, and nothing else: the rest of the package speaks PySpark's public API.

Each function names the Spark class it relies on; all were read and tried on Spark 4.2.1.
"""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from py4j.java_gateway import JavaObject
from py4j.protocol import Py4JError as JavaError
from py4j.protocol import Py4JJavaError
from pyspark import RDD, SparkConf, SparkContext
from pyspark.serializers import UTF8Deserializer
from pyspark.sql import DataFrame, SparkSession
from pyspark.streaming import StreamingContext

__all__ = ["JavaError"]

# --- the running context -----------------------------------------------------------------------------------------


def _context() -> SparkContext:
    sc = SparkContext._active_spark_context
    if sc is None:
        raise RuntimeError("no SparkContext is running")
    return sc


def _jvm() -> Any:
    return _context()._jvm


def is_running() -> bool:
    """Whether this process has a SparkContext."""
    return SparkContext._active_spark_context is not None


def start_jvm(conf: SparkConf | None = None) -> None:
    """Start the JVM, or find the one spark-submit started: from then on SparkConf() holds its settings."""
    SparkContext._ensure_initialized(conf=conf)


def jvm_process() -> int | None:
    """Process id of the JVM, which outlives a Python that is killed for a moment; None if there is none."""
    return int(_jvm().java.lang.ProcessHandle.current().pid()) if is_running() else None


def batch_interval_ms(ssc: StreamingContext) -> int:
    """Batch interval of a context, also of a recovered one (DStreamGraph.batchDuration)."""
    return int(ssc._jssc.ssc().graph().batchDuration().milliseconds())


def receiver_count(ssc: StreamingContext) -> int:
    """How many receivers the graph will start, one core each (DStreamGraph.getReceiverInputStreams)."""
    return len(ssc._jssc.ssc().graph().getReceiverInputStreams())


def is_recovered(ssc: StreamingContext) -> bool:
    """Whether the context came out of a checkpoint (StreamingContext.isCheckpointPresent)."""
    return bool(ssc._jssc.ssc().isCheckpointPresent())


def output_count(ssc: StreamingContext) -> int:
    """How many output operations are defined (DStreamGraph.getOutputStreams)."""
    return len(ssc._jssc.ssc().graph().getOutputStreams())


def checkpoint_directory(ssc: StreamingContext) -> str | None:
    """Where the context keeps Spark's checkpoint; None if it keeps none (StreamingContext.checkpointDir)."""
    directory = ssc._jssc.ssc().checkpointDir()
    return None if directory is None else str(directory)


def write_first_checkpoint(ssc: StreamingContext) -> None:
    """Write the checkpoint that a context which was never started would write just before its first batch.

    Spark writes its first one after the first batch is generated, and a driver that is killed before forgets what its
    receivers had stored until then. A copy of the graph is started in its place, as DStreamGraph.start can be called
    once; JobGenerator.restart runs all batches since the time of a checkpoint (Checkpoint.serialize, deserialize).
    """
    streaming, bytes_in = _jvm().org.apache.spark.streaming, _jvm().java.io.ByteArrayInputStream
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
    _write(temporary, streaming.Checkpoint.serialize(first, conf))
    rename(temporary, f"{directory}/checkpoint-{zero + interval}")


def keeps_received(ssc: StreamingContext) -> bool:
    """Whether there are receivers that keep a write-ahead log (WriteAheadLogUtils.enableReceiverLog)."""
    conf = ssc._jssc.ssc().conf()
    return receiver_count(ssc) > 0 and bool(conf.getBoolean("spark.streaming.receiver.writeAheadLog.enable", False))


def owes_received(ssc: StreamingContext) -> bool:
    """Whether a context that was stopped has left batches, or received blocks that are in none (ReceiverTracker)."""
    scheduler = ssc._jssc.ssc().scheduler()
    tracker = scheduler.receiverTracker()
    return bool(not scheduler.getPendingTimes().isEmpty() or (tracker is not None and tracker.hasUnallocatedBlocks()))


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
    time = _jvm().org.apache.spark.streaming.Time
    candidates = range(first, min(last + interval, resume), interval)
    owed = [
        *checkpoint.pendingTimes(),
        *(time(t) for t in candidates if not any(begin <= t < end for begin, end in gaps)),
    ]
    times = _context()._gateway.new_array(time, len(owed))  # type: ignore[union-attr]
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


def local_cores() -> int:
    """Cores of a local master, `local[*]` included (SparkContext.numDriverCores, of the companion object)."""
    companion = getattr(getattr(_jvm().org.apache.spark, "SparkContext$"), "MODULE$")
    return int(companion.numDriverCores(_context().master))


# --- errors ------------------------------------------------------------------------------------------------------


def reason(error: BaseException) -> str:
    """The line in an error that says what went wrong: the innermost Java cause, or Python's own last line.

    Spark wraps a Python error into "An exception was raised by Python" (driver, PythonDStream) or "was thrown from
    the Python worker" (PythonException) and the traceback, so the last line of that text is the message.
    """
    if isinstance(error, Py4JJavaError):
        java = error.java_exception
        while java.getCause() is not None:
            java = java.getCause()
        text = str(java.getMessage() or java.toString())
    else:
        text = f"{type(error).__name__}: {error}"
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith((" ", "\t"))] or [text]
    return lines[-1 if "Traceback (most recent call last)" in text else 0].strip()


# --- the end of a process ----------------------------------------------------------------------------------------


def halt(code: int, message: str) -> None:
    """Say the last words and end the JVM at once, without shutdown hooks (System.err, Runtime.halt).

    The JVM says them, because under spark-submit it passes on what Python prints (PythonRunner), and would be gone
    before it has. On YARN an ApplicationMaster that is halted counts as failed and is started again, while one that
    exits by itself unregisters at its last attempt.
    """
    try:
        _jvm().java.lang.System.err.println(message)
    except Exception:
        print(message, file=sys.stderr)
    with contextlib.suppress(Exception):  # the connection breaks, which is expected
        _jvm().java.lang.Runtime.getRuntime().halt(code)


class _JvmSignal:
    """A sun.misc.SignalHandler in Python."""

    def __init__(self, handler: Callable[[], None]):
        self._handler = handler

    def handle(self, _signal: JavaObject) -> None:
        self._handler()

    class Java:
        implements = ["sun.misc.SignalHandler"]  # noqa: RUF012 - py4j reads this list


@contextlib.contextmanager
def jvm_signals(names: tuple[str, ...], handler: Callable[[], None]) -> Iterator[None]:
    """Call the handler when the JVM gets one of the signals, instead of its shutdown hooks.

    Under spark-submit the JVM is the process an operator signals; its hooks would drop the running batch.
    """
    signals = _jvm().sun.misc
    proxy = _JvmSignal(handler)
    previous = [(s, signals.Signal.handle(s, proxy)) for s in map(signals.Signal, names)]
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # the JVM may be gone, and its handlers with it
            for s, old in previous:
                signals.Signal.handle(s, old)


# --- Hadoop file systems -----------------------------------------------------------------------------------------


def _file_system(path: str) -> tuple[Any, Any]:
    jpath = _jvm().org.apache.hadoop.fs.Path(path)
    return jpath.getFileSystem(_context()._jsc.hadoopConfiguration()), jpath


def path_exists(path: str) -> bool:
    """Whether a file or directory is there, on any Hadoop file system."""
    fs, jpath = _file_system(path)
    return bool(fs.exists(jpath))


def is_directory(path: str) -> bool:
    """Whether the path is a directory."""
    fs, jpath = _file_system(path)
    return bool(fs.exists(jpath)) and bool(fs.getFileStatus(jpath).isDirectory())


def others_may_write(path: str) -> bool:
    """Whether the group or everybody may write to a directory (FsPermission)."""
    fs, jpath = _file_system(path)
    return bool(int(fs.getFileStatus(jpath).getPermission().toShort()) & 0o022)


def make_directory(path: str) -> None:
    """Make a directory and those above it; fine if it is there."""
    fs, jpath = _file_system(path)
    if not fs.mkdirs(jpath):
        raise OSError(f"cannot make the directory {path}")


def create_file(path: str) -> None:
    """Create an empty file; fine if it is there."""
    fs, jpath = _file_system(path)
    fs.create(jpath, True).close()


def delete(path: str) -> bool:
    """Delete a file or a whole directory; False if it was not there."""
    fs, jpath = _file_system(path)
    return bool(fs.delete(jpath, True))


def rename(source: str, target: str) -> None:
    """Rename to a target that must not be there: Hadoop would nest a directory into an existing one."""
    fs, jsource = _file_system(source)
    _, jtarget = _file_system(target)
    if fs.exists(jtarget) or not fs.rename(jsource, jtarget):
        raise OSError(f"cannot rename {source} to {target}")


# --- frames ------------------------------------------------------------------------------------------------------


def is_text(rdd: RDD[Any]) -> bool:
    """Whether the RDD holds Java strings, as the socket and text file streams of PySpark do (UTF8Deserializer)."""
    return isinstance(rdd._jrdd_deserializer, UTF8Deserializer)


def text_frame(session: SparkSession, rdd: RDD[str]) -> DataFrame:
    """An RDD of Java strings as a frame with the column `value`, without a Python worker (Encoders.STRING)."""
    strings = session._jvm.org.apache.spark.sql.Encoders.STRING()  # type: ignore[union-attr]
    return DataFrame(session._jsparkSession.createDataset(rdd._jrdd.rdd(), strings).toDF(), session)


# --- the manual clock --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def manual_clock() -> Iterator[None]:
    """Streaming contexts made inside get Spark's ManualClock (JobGenerator reads spark.streaming.clock once)."""
    conf = _context()._jsc.sc().conf()
    conf.set("spark.streaming.clock", "org.apache.spark.util.ManualClock")
    try:
        yield
    finally:
        conf.remove("spark.streaming.clock")


def advance_clock(ssc: StreamingContext, ms: int) -> None:
    """Move the manual clock of a context (JobScheduler.clock)."""
    ssc._jssc.ssc().scheduler().clock().advance(ms)


def batch_of(event: Any) -> tuple[int, list[str]]:
    """Time in ms and failures of a StreamingListenerBatchCompleted; it is posted for failed batches too."""
    info = event.batchInfo()
    operations = info.outputOperationInfos()
    reasons = [operations[k].failureReason() for k in operations]
    return int(info.batchTime().milliseconds()), [str(r) for r in reasons if r]


def push_failure(event: Any) -> str | None:
    """What a StreamingListenerReceiverError says of a receiver whose pushing thread has ended; None of other errors.

    BlockGenerator.keepPushingBlocks reports the exception and is over; the receiver goes on to be shown as active.
    """
    info = event.receiverInfo()
    if not info.lastErrorMessage().startswith("Error in block pushing thread"):
        return None
    what = str(info.lastError()).strip().splitlines()
    return f"{info.name()} on {info.location() or 'an unknown machine'}: {what[0] if what else 'no reason given'}"


# --- file systems that hold a home -------------------------------------------------------------------------------


def qualified(path: str) -> str:
    """The path with scheme and host, as Hadoop resolves it."""
    fs, jpath = _file_system(path)
    return str(fs.makeQualified(jpath).toString())


def names(path: str) -> list[str]:
    """The sorted names in a directory; none if it is missing."""
    fs, jpath = _file_system(path)
    return sorted(status.getPath().getName() for status in fs.listStatus(jpath)) if fs.exists(jpath) else []


def read_file(path: str) -> str:
    """The text of a small file; FileNotFoundError if there is none (commons-io's IOUtils, which Hadoop brings)."""
    fs, jpath = _file_system(path)
    if not fs.exists(jpath):
        raise FileNotFoundError(path)
    stream = fs.open(jpath)
    try:
        return bytes(_jvm().org.apache.commons.io.IOUtils.toByteArray(stream)).decode()
    finally:
        stream.close()


def write_new_file(path: str, text: str) -> None:
    """Create a file with its text, or raise FileExistsError: a rename that refuses to replace decides."""
    temporary = _write_beside(path, text)
    if not rename_new(temporary, path):
        delete(temporary)
        raise FileExistsError(path)


def replace_file(path: str, text: str) -> None:
    """Create or replace a file in one step (FileContext.rename with OVERWRITE)."""
    _rename(_write_beside(path, text), path, "OVERWRITE")


def rename_new(source: str, target: str) -> bool:
    """Rename a file or directory to a name that is free; False if it is taken.

    FileContext.rename with NONE: atomic on HDFS, but on file:// two of two racing writers can win.
    """
    try:
        _rename(source, target, "NONE")
    except Py4JJavaError as error:
        if "FileAlreadyExistsException" in error.java_exception.getClass().getName():
            return False
        raise
    return True


def _write_beside(path: str, text: str) -> str:
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/.{name}.{uuid.uuid4().hex}"
    _write(temporary, text.encode())
    return temporary


def _write(path: str, data: bytes) -> None:
    fs, jpath = _file_system(path)
    stream = fs.create(jpath, True)
    stream.write(data)
    stream.hsync()
    stream.close()


def _rename(source: str, target: str, how: str) -> None:
    hadoop = _jvm().org.apache.hadoop.fs
    options = getattr(hadoop, "Options$Rename")
    gateway: Any = _context()._gateway
    chosen = gateway.new_array(options, 1)
    chosen[0] = options.valueOf(how)
    context = hadoop.FileContext.getFileContext(hadoop.Path(source).toUri(), _context()._jsc.hadoopConfiguration())
    context.rename(hadoop.Path(source), hadoop.Path(target), chosen)


# --- batches of frames -------------------------------------------------------------------------------------------


def newest_waiting_tick(ssc: StreamingContext) -> int:
    """Time in ms of the newest batch that has been generated and is not over; or 0.

    JobScheduler.getPendingTimes and Time.ordering; the JVM looks for it, as thousands may be waiting.
    """
    pending = ssc._jssc.ssc().scheduler().getPendingTimes()
    if pending.isEmpty():
        return 0
    return int(pending.max(_jvm().org.apache.spark.streaming.Time.ordering()).milliseconds())


def python_list(jlist: Any) -> list[Any]:
    """What is in a java.util.List, which py4j walks through up to NoSuchElementException.

    PySpark's CapturedException takes dozens of crossings to make a StopIteration of that: most of what a tick costs.
    """
    return [jlist.get(i) for i in range(jlist.size())]


def free(frame: DataFrame) -> None:
    """Drop the blocks of a frame made by localCheckpoint, which DataFrame.unpersist leaves (LogicalRDD.rdd)."""
    leaf = frame._jdf.queryExecution().logical()
    if leaf.getClass().getSimpleName() == "LogicalRDD":
        leaf.rdd().unpersist(False)


def list_files(pattern: str, changed_before: int | None) -> list[tuple[str, int]]:
    """Path and size of the files that match a Hadoop glob and are meant to be read, oldest first, then by name.

    Hidden and temporary names are passed over, and with `changed_before` (ms since 1970) what is newer.
    """
    fs, jpattern = _file_system(pattern)
    found = []
    for status in fs.globStatus(jpattern) or ():
        path = status.getPath()
        name = path.getName()
        if name.startswith((".", "_")) or name.endswith((".tmp", "._COPYING_")) or status.isDirectory():
            continue
        changed = status.getModificationTime()
        if changed_before is None or changed <= changed_before:
            found.append((changed, str(path.toString()), int(status.getLen())))
    return [(path, size) for _, path, size in sorted(found)]


def changes(pattern: str) -> dict[str, tuple[int, int]]:
    """Size and time of the last change (ms since 1970) of each file that a Hadoop glob matches or that is below a
    directory it matches; none where nothing matches. Names that Spark reads no data from are passed over.
    """
    fs, jpattern = _file_system(pattern)
    found = {}
    for match in fs.globStatus(jpattern) or ():
        root = str(match.getPath().toString())
        files = fs.listFiles(match.getPath(), True)
        while files.hasNext():
            status = files.next()
            path = str(status.getPath().toString())
            if not any(name.startswith((".", "_")) and "=" not in name for name in path[len(root) :].split("/")):
                found[path] = (int(status.getLen()), int(status.getModificationTime()))
    return found


def file_size(path: str) -> int | None:
    """Size in bytes; None if the file is not there."""
    fs, jpath = _file_system(path)
    return int(fs.getFileStatus(jpath).getLen()) if fs.exists(jpath) else None


def count_log_records(path: str) -> int:
    """Records of a file of a write-ahead log, each after its length (FileBasedWriteAheadLogWriter.write)."""
    fs, jpath = _file_system(path)
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


def quiet_what_is_meant() -> None:
    """Silence a warning for every local checkpoint that `free` drops: the kit means it (log4j2's Configurator)."""
    log4j = _jvm().org.apache.logging.log4j
    log4j.core.config.Configurator.setLevel("org.apache.spark.rdd.MapPartitionsRDD", log4j.Level.ERROR)
