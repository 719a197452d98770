"""The JVM of this process: whether it runs, its errors, its signals, its end.

Private names are those of PySpark's SparkContext, Java and Spark classes those of Spark 4.2.1.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from py4j.java_gateway import JavaObject, JavaPackage
from py4j.protocol import Py4JError as JavaError
from py4j.protocol import Py4JJavaError
from pyspark import SparkConf, SparkContext, __version__
from pyspark.errors import PySparkException
from pyspark.errors.exceptions.captured import CapturedException

from ..errors import KitError, UsageError
from ..redaction import printable, printable_lines
from .log4j import quiet_launch, quiet_submitted

__all__ = ["JavaError"]

THROWN: tuple[type[Exception], ...] = (JavaError, PySparkException)
"""What Java, Hadoop and Spark throw, as Python sees it."""

JAVA = 17
"""The oldest Java that Spark 4 runs on."""

SUPPORTED = "4.0 to 4.3"
"""PySpark versions whose internals are the ones that the kit relies on."""


def unsupported(difference: str) -> UsageError:
    """The error for a PySpark whose internals are not the ones that the kit relies on."""
    return UsageError(f"PySpark {__version__} is not supported ({difference}): use PySpark {SUPPORTED}")


def context() -> SparkContext:
    """The running SparkContext (SparkContext._active_spark_context); RuntimeError if there is none."""
    sc = SparkContext._active_spark_context
    if sc is None:
        raise RuntimeError("no SparkContext is running")
    return sc


class _Names:
    """Packages and classes of the JVM by their names, each looked up once, since that takes a call."""

    def __init__(self, package: Any):
        self._package = package

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._package, name)
        vars(self)[name] = _Names(found) if isinstance(found, JavaPackage) else found
        return vars(self)[name]


@functools.lru_cache(maxsize=1)
def _names(jvm: Any) -> _Names:
    return _Names(jvm)


def view() -> Any:
    """The classes of the JVM, by their full names (SparkContext._jvm)."""
    return _names(context()._jvm)


@functools.lru_cache(maxsize=64)
def scala_object(package: Any, name: str) -> Any:
    """A Scala object of a package of `view`, by the MODULE$ of its class."""
    return getattr(getattr(package, f"{name}$"), "MODULE$")


def java_list(items: Iterable[Any]) -> Any:
    """A java.util.ArrayList."""
    made = view().java.util.ArrayList()
    for item in items:
        made.add(item)
    return made


def scala_seq(items: Iterable[Any]) -> Any:
    """A Scala Seq (CollectionConverters.asScala)."""
    return view().scala.jdk.javaapi.CollectionConverters.asScala(java_list(items)).toSeq()


def is_running() -> bool:
    """Whether this process has a SparkContext (SparkContext._active_spark_context)."""
    return SparkContext._active_spark_context is not None


def is_dead() -> bool:
    """Whether the JVM of this process has died, as from too little memory.

    `proc` of PySpark's gateway is the process that it launched (java_gateway.launch_gateway of PySpark 4.2.1). False
    under spark-submit, which launched Python itself: there a call that fails has to end the job.
    """
    gateway = SparkContext._gateway
    process = getattr(gateway, "proc", None)
    if gateway is None or process is None:
        return False
    try:
        gateway.jvm.java.lang.System.nanoTime()
    except Exception:  # connections end before the process does
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
    return process.poll() is not None


def start_jvm(conf: SparkConf | None = None) -> None:
    """Start the JVM, or connect to the one that spark-submit started (SparkContext._ensure_initialized).

    From then on SparkConf() holds the JVM's settings. Raises UsageError if there is no Java that can run Spark.
    """
    if "PYSPARK_GATEWAY_PORT" not in os.environ and SparkContext._gateway is None:
        check_java()
    why = f"Java did not start Spark ({{}}): what it printed above says why; it needs Java {JAVA} or newer"
    with quiet_launch(), refusals(why.format, of=THROWN):
        is_new = SparkContext._gateway is None
        SparkContext._ensure_initialized(conf=conf)
        if is_new and "PYSPARK_GATEWAY_PORT" in os.environ:
            with contextlib.suppress(JavaError, OSError):  # a job starts, however it logs
                quiet_submitted()


def check_java() -> None:
    """Raise UsageError unless there is a Java that Spark can run on, found as the script bin/spark-class finds it."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin" if home else None)
    what_to_do = f"install Java {JAVA} or newer, or set JAVA_HOME to one"
    if java is None:
        where = f"JAVA_HOME={home} has no bin/java" if home else "java is not on the PATH"
        raise UsageError(f"no Java found ({where}): {what_to_do}")
    release = os.path.join(os.path.dirname(os.path.realpath(java)), "..", "release")
    with contextlib.suppress(OSError), open(release) as file:
        found = re.search(r'^JAVA_VERSION="(?:1\.)?(\d+)', file.read(), re.MULTILINE)
        if found and int(found[1]) < JAVA:
            raise UsageError(f"found Java {found[1]} ({java}), which Spark does not run on: {what_to_do}")


def jvm_process() -> int | None:
    """Process id of the JVM, which briefly outlives a killed Python; None without one (java.lang.ProcessHandle)."""
    return int(view().java.lang.ProcessHandle.current().pid()) if is_running() else None


def local_cores() -> int:
    """Cores of a local master, `local[*]` included (numDriverCores of SparkContext's companion object)."""
    companion = scala_object(view().org.apache.spark, "SparkContext")
    return int(companion.numDriverCores(context().master))


def reason(error: BaseException) -> str:
    """The line of an error that says what went wrong: of the innermost Java cause, or of the Python error it wraps.

    It is printable, though it may quote data. An error of the kit has its own sentence, also as Spark quotes it.
    Hadoop's network errors name the server in an outer one (NetUtils). Spark wraps a Python error in "An exception was
    raised by Python" (driver, PythonDStream) or "was thrown from the Python worker" (PythonException), followed by the
    traceback: the message is the line after its last frame. A line that ends with a colon is followed by what it
    announces.
    """
    if isinstance(error, KitError):
        return str(error)
    if type(error) is JavaError and isinstance(error.__context__, Py4JJavaError):
        error = error.__context__  # PySpark failed to convert it (convert_exception)
    if isinstance(error, Py4JJavaError):
        java, server = error.java_exception, ""
        while java.getCause() is not None:
            called = re.match(r"Call From \S+ to (\S+) failed", str(java.getMessage()))
            server = f"{called[1]}: " if called else server
            java = java.getCause()
        text = server + (str(java.getMessage() or "").strip() or str(java.toString()))
    else:
        text = f"{type(error).__name__}: {str(error).strip()}"  # that of a ParseException begins with a new line
    if "Traceback (most recent call last)" in text:
        text = text[max(text.rfind('\n  File "'), 0) :]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith((" ", "\t"))] or [text]
    first = next((n for n, line in enumerate(lines) if not line.endswith(":")), len(lines) - 1)
    return printable(re.sub(r"^sparkstream_kit\.errors\.\w+: ", "", " ".join(lines[: first + 1])))


@contextlib.contextmanager
def refusals(
    sentence: Callable[[str], str],
    *,
    of: type[Exception] | tuple[type[Exception], ...] = Exception,
    kind: type[UsageError] = UsageError,
) -> Iterator[None]:
    """Raise errors of the block as UsageError, with the `sentence` that is made of their reason.

    KitErrors pass, and those of a JVM that is gone, which say nothing about what it was asked for.
    """
    try:
        yield
    except KitError:
        raise
    except of as error:
        if is_gone(error):
            raise
        raise kind(sentence(reason(error))) from error


REFUSED_RECORDS = (
    *("errors.RecordTooLargeException", "errors.RecordBatchTooLargeException", "errors.InvalidRecordException"),
    "because it was part of a batch which had one",  # or more invalid records (clients.producer.internals.Sender)
)


def is_caused_by_data(error: BaseException) -> bool:
    """Whether rows made it fail, such as a division by zero, or a Python function that raises for some of them.

    By the SQLSTATE of the error (SparkThrowable): class 22, data exception, 38, of external routines, and P0, of
    raise_error; or as Kafka refuses a record (org.apache.kafka.common.errors).
    """
    state = error.getSqlState() if isinstance(error, CapturedException) else None
    return str(state)[:2] in ("22", "38", "P0") or any(kind in str(error) for kind in REFUSED_RECORDS)


def is_gone(error: BaseException) -> bool:
    """Whether it was raised because the JVM is gone, as when it was killed; what it was asked about may be all right.

    py4j raises a ConnectionError if nobody listens, and a JavaError if a connection ends during a call. But Python
    functions have ConnectionErrors of their own, and a method that does not exist is a JavaError: so the JVM is asked.
    """
    is_of_connection = isinstance(error, JavaError | ConnectionError) and not isinstance(error, Py4JJavaError)
    return is_of_connection and not answers()


def answers() -> bool:
    """Whether the JVM answers a call (java.lang.System, SparkContext._gateway)."""
    gateway = SparkContext._gateway
    try:
        return gateway is not None and gateway.jvm.java.lang.System.nanoTime() is not None
    except (JavaError, ConnectionError):
        return False


def is_of_worker(error: BaseException) -> bool:
    """Whether a function raised it in a Python worker (org.apache.spark.api.python.PythonException)."""
    return isinstance(error, Py4JJavaError) and "org.apache.spark.api.python.PythonException" in str(error)


def halt(code: int, message: str) -> None:
    """Print a final message on the JVM's stderr and halt it, without shutdown hooks (System.err, Runtime.halt).

    Under spark-submit the JVM forwards what Python prints (PythonRunner) and would be gone before it has done so, so
    it prints the message itself. YARN restarts a halted ApplicationMaster as failed, while one that exits by itself
    unregisters at its last attempt.
    """
    message = printable_lines(message)  # a traceback may quote data
    try:
        view().java.lang.System.err.println(message)
    except Exception:
        print(message, file=sys.stderr)
    # the message stays the last: for each connection that breaks py4j logs a traceback, some by the root logger, and
    # PySpark's server of accumulators prints one (socketserver.BaseServer.handle_error)
    logging.disable()
    sys.stderr = io.StringIO()
    with contextlib.suppress(Exception):  # the connection is expected to break
        view().java.lang.Runtime.getRuntime().halt(code)


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
    """Call the handler instead of the JVM's shutdown hooks when it gets one of the signals (sun.misc.Signal).

    Under spark-submit the JVM is the process that an operator signals; its hooks would abort the running batch.
    """
    signals = view().sun.misc
    proxy = _JvmSignal(handler)
    previous = [(s, signals.Signal.handle(s, proxy)) for s in map(signals.Signal, names)]
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # the JVM may be gone, and its handlers with it
            for s, old in previous:
                signals.Signal.handle(s, old)


def python_list(jlist: Any) -> list[Any]:
    """The elements of a short java.util.List, one py4j call each.

    py4j's own iteration ends with a NoSuchElementException, for which PySpark's CapturedException makes dozens of
    calls before it becomes a StopIteration: most of the cost of a tick.
    """
    return [jlist.get(i) for i in range(jlist.size())]
