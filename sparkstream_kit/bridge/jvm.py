"""The JVM of this process: whether it runs, its errors, its signals, its end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from py4j.java_gateway import JavaObject
from py4j.protocol import Py4JError as JavaError
from py4j.protocol import Py4JJavaError
from pyspark import SparkConf, SparkContext

from .log4j import quiet_launch

__all__ = ["JavaError"]


def context() -> SparkContext:
    sc = SparkContext._active_spark_context
    if sc is None:
        raise RuntimeError("no SparkContext is running")
    return sc


def view() -> Any:
    return context()._jvm


def is_running() -> bool:
    """Whether this process has a SparkContext."""
    return SparkContext._active_spark_context is not None


def start_jvm(conf: SparkConf | None = None) -> None:
    """Start the JVM, or find the one spark-submit started: from then on SparkConf() holds its settings."""
    with quiet_launch():
        SparkContext._ensure_initialized(conf=conf)


def jvm_process() -> int | None:
    """Process id of the JVM, which outlives a Python that is killed for a moment; None if there is none."""
    return int(view().java.lang.ProcessHandle.current().pid()) if is_running() else None


def local_cores() -> int:
    """Cores of a local master, `local[*]` included (SparkContext.numDriverCores, of the companion object)."""
    companion = getattr(getattr(view().org.apache.spark, "SparkContext$"), "MODULE$")
    return int(companion.numDriverCores(context().master))


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


def halt(code: int, message: str) -> None:
    """Say the last words and end the JVM at once, without shutdown hooks (System.err, Runtime.halt).

    The JVM says them, because under spark-submit it passes on what Python prints (PythonRunner), and would be gone
    before it has. On YARN an ApplicationMaster that is halted counts as failed and is started again, while one that
    exits by itself unregisters at its last attempt.
    """
    try:
        view().java.lang.System.err.println(message)
    except Exception:
        print(message, file=sys.stderr)
    with contextlib.suppress(Exception):  # the connection breaks, which is expected
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
    """Call the handler when the JVM gets one of the signals, instead of its shutdown hooks.

    Under spark-submit the JVM is the process an operator signals; its hooks would drop the running batch.
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
    """What is in a java.util.List, which py4j walks through up to NoSuchElementException.

    PySpark's CapturedException takes dozens of crossings to make a StopIteration of that: most of what a tick costs.
    """
    return [jlist.get(i) for i in range(jlist.size())]
