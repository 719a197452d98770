"""Parse durations such as `"500ms"`, `"2s"`, `"10min"`, `"1h"`, or a number of seconds.

Everything is in whole milliseconds, the unit of Spark Streaming.
"""

from __future__ import annotations

import math
import re

from .errors import UsageError

Duration = str | float

_UNITS = {"ms": 1, "s": 1_000, "min": 60_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SPELLING = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)?\s*")


def milliseconds(duration: Duration) -> int:
    """The duration in milliseconds; a number without a unit is in seconds, as in Spark.

    >>> milliseconds("500ms"), milliseconds("2s"), milliseconds(0.25), milliseconds("1.5h")
    (500, 2000, 250, 5400000)

    Raises UsageError for anything else, for zero, and for fractions of a millisecond.

    >>> milliseconds("2 weeks")
    Traceback (most recent call last):
    ...
    sparkstream_kit.errors.UsageError: invalid duration '2 weeks': use for example 500ms, 2s, 10min, 1h or seconds
    """
    ms = _milliseconds(duration, str(duration))
    if not ms:
        raise UsageError(f"invalid duration {duration!r}: use a whole number of milliseconds, at least 1ms")
    return ms


def offset_milliseconds(duration: Duration) -> int:
    """As `milliseconds`, for how far one time is from another: it may also be zero or, with a minus sign, negative.

    >>> offset_milliseconds("-5min"), offset_milliseconds(0), offset_milliseconds("10min"), offset_milliseconds(-0.25)
    (-300000, 0, 600000, -250)
    """
    text = str(duration).strip()
    ms = _milliseconds(duration, text.removeprefix("-"))
    return -ms if text.startswith("-") else ms


def _milliseconds(duration: Duration, text: str) -> int:
    match = _SPELLING.fullmatch(text)
    if not match:
        raise UsageError(f"invalid duration {duration!r}: use for example 500ms, 2s, 10min, 1h or seconds")
    number, unit = match.groups()
    ms = float(number) * _UNITS[unit or "s"]
    if not math.isclose(ms, round(ms), rel_tol=0, abs_tol=1e-6) or 0 < ms < 0.5:
        raise UsageError(f"invalid duration {duration!r}: use a whole number of milliseconds, at least 1ms")
    return round(ms)


def seconds(duration: Duration) -> float:
    """The duration in seconds, as the number that PySpark takes.

    PySpark truncates it by `int(seconds * 1000)`, which loses a millisecond when the product is not exact (0.57 s
    becomes 569 ms). The number returned here is large enough.

    >>> seconds("2s"), int(seconds("570ms") * 1000), int(seconds("1.001s") * 1000)
    (2.0, 570, 1001)
    """
    ms = milliseconds(duration)
    exact = ms / 1000
    return exact if int(exact * 1000) == ms else math.nextafter(exact, math.inf)


def text(ms: int) -> str:
    """Milliseconds as a duration, in the largest unit that divides them.

    >>> text(500), text(2000), text(1500), text(120_000)
    ('500ms', '2s', '1500ms', '2min')
    """
    for unit, size in (("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if ms % size == 0:
            return f"{ms // size}{unit}"
    return f"{ms}ms"


def multiple(name: str, duration: Duration, interval_ms: int) -> int:
    """The duration in milliseconds, which must be a multiple of the batch interval.

    >>> multiple("window", "10s", 2000)
    10000
    >>> multiple("slide", "3s", 2000)
    Traceback (most recent call last):
    ...
    sparkstream_kit.errors.UsageError: slide 3s is not a multiple of the batch interval 2s: use 2s or 4s
    """
    ms = milliseconds(duration)
    if ms % interval_ms:
        lower = ms // interval_ms * interval_ms
        near = " or ".join(text(x) for x in (lower, lower + interval_ms) if x)
        raise UsageError(f"{name} {text(ms)} is not a multiple of the batch interval {text(interval_ms)}: use {near}")
    return ms
