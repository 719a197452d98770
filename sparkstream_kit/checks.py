"""Checks to run before a job starts, where Spark would hang, retry forever or stay silent.

Each raises UsageError, saying what it found and what to do.
"""

from __future__ import annotations

import socket
import subprocess
import sys

from pyspark import SparkContext
from pyspark.streaming import StreamingContext

from .bridge import hadoop, jvm, streaming
from .errors import UsageError


def check_cores(ssc: StreamingContext) -> None:
    """Refuse a job whose receivers occupy every core, one each, so that its batches would never run.

    Knows the cores of local masters, of a fixed number of executors (spark.executor.instances times
    spark.executor.cores) and of spark.cores.max. If the number of cores is open, the check passes.

    Cost: grows with the number of receivers.

    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> _ = run_batches(lambda lines: ss.checks.check_cores(lines.context()), [["without receivers there is a core"]])
    """
    receivers, cores = streaming.receiver_count(ssc), _cores(ssc)
    a_task = int(ssc.sparkContext.getConf().get("spark.task.cpus", "1"))
    needed = (receivers + 1) * a_task
    if receivers and cores is not None and cores < needed:
        raise UsageError(
            f"{receivers} receivers occupy a core each and leave none of the {cores} cores of "
            f"{ssc.sparkContext.master} to the batches: give the job at least {needed} cores, for example "
            f"--master local[{needed}]"
        )


def check_recoverable(ssc: StreamingContext, directory: str) -> None:
    """Refuse a queueStream in a job that has a checkpoint or home: Spark writes its checkpoint, and cannot read it.

    Cost: grows with the number of inputs.

    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> _ = run_batches(lambda lines: ss.checks.check_recoverable(lines.context(), "/data/home"), [["a"]])
    Traceback (most recent call last):
    ...
    sparkstream_kit.errors.UsageError: a queueStream cannot be recovered from '/data/home': leave out the checkpoint \
or home, which a job on a queue cannot use, or read from files, a socket or a source of the kit
    """
    if streaming.has_queue(ssc):
        raise UsageError(
            f"a queueStream cannot be recovered from {directory!r}: leave out the checkpoint or home, which a job on a "
            "queue cannot use, or read from files, a socket or a source of the kit"
        )


def check_concurrency(ssc: StreamingContext) -> None:
    """Refuse spark.streaming.concurrentJobs above 1, with which Spark runs several batches at once.

    Cost: grows with nothing: one property is read.

    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> _ = run_batches(lambda lines: ss.checks.check_concurrency(lines.context()), [["one after another"]])
    """
    jobs = ssc.sparkContext.getConf().get("spark.streaming.concurrentJobs", "1")
    if jobs.strip() != "1":
        raise UsageError(
            f"spark.streaming.concurrentJobs is {jobs}, and batches must run one after another: remove that property"
        )


def _cores(ssc: StreamingContext) -> int | None:
    conf = ssc.sparkContext.getConf()
    master = ssc.sparkContext.master or ""
    if master.split("[")[0] == "local":  # but not local-cluster[...], whose executors are processes
        return jvm.local_cores()
    if conf.get("spark.dynamicAllocation.enabled") == "true":
        return None
    if conf.contains("spark.executor.instances"):
        return int(conf.get("spark.executor.instances", "")) * int(conf.get("spark.executor.cores", "1"))
    return int(conf.get("spark.cores.max", "0")) or None


def check_python(sc: SparkContext) -> None:
    """Refuse local workers of another Python than the driver's: PySpark fails every task that needs one.

    On a cluster the check passes, and such a task says which versions it met.

    Cost: grows with nothing: one short process, if PYSPARK_PYTHON is another one than the driver's.

    >>> import sparkstream_kit as ss
    >>> ss.checks.check_python(ss.testing.local_session().sparkContext)
    """
    theirs, ours = sc.pythonExec, ".".join(map(str, sys.version_info[:2]))
    if not (sc.master or "").startswith("local") or theirs == sys.executable:
        return
    what_to_do = f"unset PYSPARK_PYTHON, or set it to {sys.executable}"
    try:
        version = "import sys; print('.'.join(map(str, sys.version_info[:2])))"
        ran = subprocess.run([theirs, "-c", version], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"the workers' Python {theirs} cannot run ({error}): {what_to_do}") from None
    if ran.stdout.strip() not in ("", ours):
        raise UsageError(
            f"the workers' Python {theirs} is Python {ran.stdout.strip()}, and the driver runs Python {ours}, but both "
            f"must be of one minor version: {what_to_do}"
        )


def check_directory(path: str) -> str:
    """Return the path if it is a directory; textFileStream treats a missing one as empty, forever.

    Cost: grows with nothing: one request to the file system.

    >>> import sparkstream_kit as ss
    >>> _ = ss.testing.local_session()
    >>> ss.checks.check_directory("/none")
    Traceback (most recent call last):
    ...
    sparkstream_kit.errors.UsageError: '/none' is not a directory: create it, or name the one that files arrive in
    """
    with jvm.refusals(lambda why: f"cannot look at {path!r} ({why}): correct the path, or start what serves it"):
        found = hadoop.is_directory(path)
    if not found:
        raise UsageError(f"{path!r} is not a directory: create it, or name the one that files arrive in")
    return path


def check_writable(path: str) -> str:
    """Return the path if it is a directory, created if missing, in which this user can create and delete files.

    Cost: grows with nothing: a few requests to the file system.

    >>> import tempfile
    >>> import sparkstream_kit as ss
    >>> _ = ss.testing.local_session()
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     ss.checks.check_writable(f"{directory}/home") == f"{directory}/home"
    True
    """
    probe = f"{path.rstrip('/')}/.writable"
    with jvm.refusals(lambda why: f"cannot write into {path!r} ({why}): name a directory that this user can write to"):
        hadoop.make_directory(path)
        hadoop.create_file(probe)
        hadoop.delete(probe)
    return path


def check_port(host: str, port: int, timeout: float = 3.0) -> None:
    """Refuse an address on which nobody listens; the receiver would retry forever.

    It connects once and closes the connection, so a test server must accept more than one client (`nc -lk 9999`).

    Cost: grows with nothing: one connection, within `timeout` seconds.

    >>> import sparkstream_kit as ss
    >>> ss.checks.check_port("127.0.0.1", 1)
    Traceback (most recent call last):
    ...
    sparkstream_kit.errors.UsageError: nobody listens on 127.0.0.1:1 (Connection refused): start the sender \
first, for example nc -lk 1
    """
    try:
        socket.create_connection((host, port), timeout).close()
    except OSError as error:
        why = error.strerror or str(error)
        raise UsageError(
            f"nobody listens on {host}:{port} ({why}): start the sender first, for example nc -lk {port}"
        ) from None
