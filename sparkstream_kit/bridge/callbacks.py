"""A patch of PySpark's `pyspark.streaming.util.TransformFunction.call`, which runs every callback of a DStream.

PySpark 4.2.1, and the same in 4.3.0. One with other signatures is refused before it is patched.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from pyspark.streaming.util import TransformFunction

from .jvm import python_list, unsupported


def check_callbacks() -> None:
    """Raise UsageError unless PySpark's TransformFunction has the methods and attributes that the patch relies on."""
    for method, expected in (
        (TransformFunction.__init__, ["self", "ctx", "func", "deserializers"]),
        (TransformFunction.call, ["self", "milliseconds", "jrdds"]),
    ):
        found = list(inspect.signature(method).parameters)
        if found != expected:
            raise unsupported(
                f"TransformFunction.{method.__name__} takes ({', '.join(found)}), expected ({', '.join(expected)})"
            )
    attributes = vars(TransformFunction(None, None))  # type: ignore[no-untyped-call]
    for name in ("func", "failure"):
        if name not in attributes:
            raise unsupported(f"TransformFunction has no attribute {name!r}")


@contextlib.contextmanager
def callback_errors(note: Callable[[BaseException], object]) -> Iterator[None]:
    """Pass exceptions raised in transform and foreachRDD callbacks to `note`; PySpark keeps only their text.

    `note` runs in the thread of the callback, before Spark sees the exception. Raises UsageError, and patches nothing,
    if PySpark's TransformFunction is another one than the patch was written for.
    """
    check_callbacks()
    call, over = TransformFunction.call, False

    def noting(self: TransformFunction, milliseconds: int, jrdds: Any) -> Any:
        def function(*args: Any) -> Any:
            try:
                return original(*args)
            except BaseException as error:
                if not over:
                    note(error)
                raise

        # on a copy, since a checkpoint may be pickling this object's function right now
        original, twin = self.func, copy.copy(self)
        twin.func = function
        result = call(twin, milliseconds, python_list(jrdds))  # type: ignore[no-untyped-call]
        self.failure = twin.failure
        return result

    TransformFunction.call = noting  # type: ignore[method-assign]
    try:
        yield
    finally:
        over = True
        if TransformFunction.call is noting:  # else a later patch is on top; below it this one does nothing any more
            TransformFunction.call = call  # type: ignore[method-assign]
