"""Questions to ask before a job starts, because Spark would hang, retry for ever or stay silent instead.

Each returns nothing, or raises UsageError with what was found and what to do.
"""

from __future__ import annotations

import socket

from pyspark.streaming import StreamingContext

from .bridge import hadoop, jvm, streaming
from .errors import UsageError


def check_cores(ssc: StreamingContext) -> None:
    """Refuse a job whose receivers would take every core: each occupies one, and batches would never run.

    Knows the cores of local masters, of executors with a fixed number (spark.executor.instances times
    spark.executor.cores) and of spark.cores.max; where the number is open, it says nothing.
    """
    receivers, cores = streaming.receiver_count(ssc), _cores(ssc)
    a_task = int(ssc.sparkContext.getConf().get("spark.task.cpus", "1"))
    needed = (receivers + 1) * a_task
    if receivers and cores is not None and cores < needed:
        raise UsageError(
            f"{receivers} receivers, with a core each, leave none of the {cores} cores of "
            f"{ssc.sparkContext.master} for the batches: give the job at least {needed} cores, for example "
            f"--master local[{needed}]"
        )


def _cores(ssc: StreamingContext) -> int | None:
    conf = ssc.sparkContext.getConf()
    master = ssc.sparkContext.master or ""
    if master.split("[")[0] == "local":  # local-cluster[...] is not: its executors are processes
        return jvm.local_cores()
    if conf.get("spark.dynamicAllocation.enabled") == "true":
        return None
    if conf.contains("spark.executor.instances"):
        return int(conf.get("spark.executor.instances", "")) * int(conf.get("spark.executor.cores", "1"))
    return int(conf.get("spark.cores.max", "0")) or None


def check_directory(path: str) -> str:
    """The path, if it is a directory: textFileStream takes a missing one for an empty one, for ever."""
    if not hadoop.is_directory(path):
        raise UsageError(f"{path!r} is not a directory: make it, or name the directory in which the files arrive")
    return path


def check_writable(path: str) -> str:
    """The path, if it is a directory (made where missing) in which this user can make and delete files."""
    probe = f"{path.rstrip('/')}/.writable"
    try:
        hadoop.make_directory(path)
        hadoop.create_file(probe)
        hadoop.delete(probe)
    except Exception as error:
        raise UsageError(
            f"cannot write into {path!r} ({jvm.reason(error)}): name a directory that this user can write"
        ) from None
    return path


def check_port(host: str, port: int, timeout: float = 3.0) -> None:
    """Refuse an address where nobody listens: the receiver would try again for ever.

    It connects once and hangs up, so a test server must accept more than one client (`nc -lk 9999`).

    >>> check_port("127.0.0.1", 1)
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
