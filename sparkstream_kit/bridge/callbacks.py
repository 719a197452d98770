"""The patch of PySpark's TransformFunction.call, through which every callback of a DStream goes."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

from pyspark.streaming.util import TransformFunction

from .jvm import python_list


@contextlib.contextmanager
def callback_errors(note: Callable[[BaseException], object]) -> Iterator[None]:
    """Pass exceptions raised in transform and foreachRDD callbacks to `note`; PySpark keeps only their text.

    `note` runs in the thread of the callback, before Spark hears of the exception.
    """
    call = TransformFunction.call

    def noting(self: TransformFunction, milliseconds: int, jrdds: Any) -> Any:
        def function(*args: Any) -> Any:
            try:
                return original(*args)
            except BaseException as error:
                note(error)
                raise

        # on a copy, since the checkpoint may be pickling the function of this one
        original, twin = self.func, copy.copy(self)
        twin.func = function
        result = call(twin, milliseconds, python_list(jrdds))  # type: ignore[no-untyped-call]
        self.failure = twin.failure
        return result

    TransformFunction.call = noting  # type: ignore[method-assign]
    try:
        yield
    finally:
        TransformFunction.call = call  # type: ignore[method-assign]
