"""Transformations beyond DStream's own: each takes the stream first and returns a stream.

DStream's own operations are methods of FrameStream; `stream.pipe(function, ...)` lets these read in the same order.

**Formats.** `access_log` and `json_lines` turn lines into columns, and every format has the same three functions:

    parse(lines, ...)       the valid lines, as columns
    rejected(lines, ...)    the other lines, as they arrived: columns line: string, reason: string
    split(lines, ...)       both: (parsed, rejected), of a DataFrame or a FrameStream

- `lines` comes first and has the column value: string. The other parameters describe the format, and are the same, in
  the same order and with the same defaults, for all three.
- Every line ends up in exactly one of the two results, as often as it arrives. Null is not a line: it is ignored.
- The other columns of `lines` are kept, in front. A column with the name of a new one is replaced.
- No line fails the batch, however malformed.
"""

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from . import access_log as access_log
    from . import json_lines as json_lines
    from ._alerts import anomalies as anomalies
    from ._alerts import rate_of_change as rate_of_change
    from ._alerts import threshold as threshold
    from ._duplicates import drop_duplicates as drop_duplicates
    from ._enrichment import enrich as enrich
    from ._event_time import event_time_window as event_time_window
    from ._interval_join import join_within as join_within
    from ._sessions import sessions as sessions

PUBLIC = {
    "access_log": ".",
    "anomalies": "_alerts",
    "drop_duplicates": "_duplicates",
    "enrich": "_enrichment",
    "event_time_window": "_event_time",
    "join_within": "_interval_join",
    "json_lines": ".",
    "rate_of_change": "_alerts",
    "sessions": "_sessions",
    "threshold": "_alerts",
}

__all__ = list(PUBLIC)
__getattr__ = lazy(__name__, PUBLIC)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
