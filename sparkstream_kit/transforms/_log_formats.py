"""Access-log formats as Spark expressions, which `access_log` applies to DataFrames.

Every format is read in the same steps. The line is cut into parts, once; the parts decide whether it is valid; then
each field is extracted as logged and converted to its type. This module has the formats by their names, and reads
common and combined: escaped quotes are masked first, and the steps are cuts at quotes and spaces. Those cost a fraction
of a regular expression over the line.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Literal, get_args

from pyspark import SparkContext
from pyspark.sql import Column
from pyspark.sql import functions as F

from ..errors import UsageError
from . import _json_logs, _log_strings
from ._log_directives import compiled, is_format_string
from ._log_fields import (
    ANY_STAMP,
    BYTES,
    CLIENT,
    IDENTITY,
    MARK,
    PARTS,
    PIECES,
    STAMP,
    STATUS,
    USUAL_LOCAL,
    USUAL_NUMBER,
    USUAL_OFFSET,
    USUAL_STATUS,
    Reader,
    first_failing,
    is_in_range,
    known,
    known_user,
    once,
    replace,
    request_line,
    timestamp,
    trimmed,
    with_names,
)

Format = Literal["combined", "common", "vhost_combined", "main", "traefik_common", "caddy", "traefik"]
"""The formats that have a name; any other string is a LogFormat of Apache or a log_format of nginx."""

_STRINGS = {
    "vhost_combined": '%v:%p %h %l %u %t "%r" %>s %O "%{Referer}i" "%{User-Agent}i"',
    "main": '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" '
    '"$http_user_agent" "$http_x_forwarded_for"',
    "traefik_common": '%h %l %u %t "%r" %s %b "%{Referer}i" "%{User-Agent}i" %{RequestCount}n "%{RouterName}n" '
    '"%{ServiceURL}n" %{ms}Tms',
}


def format_string(format: Format | str) -> str | None:
    """The string that says what a format is, or None for those that need none; UsageError for an unknown name."""
    if format in get_args(Format):
        return _STRINGS.get(format)
    if not is_format_string(format):
        raise UsageError(
            f"got the format {format!r}, expected {', '.join(get_args(Format))}, or a format string: a LogFormat of "
            """Apache, for example '%h %l %u %t "%r" %>s %b', or a log_format of nginx, with $variables"""
        )
    return format


def check(format: Format | str) -> None:
    """UsageError for a format that cannot be read. Needs no Spark."""
    string = format_string(format)
    if string is not None:
        compiled(string)


@functools.lru_cache(maxsize=16)
def reader(_: SparkContext, format: Format | str) -> Reader:
    """The expressions for a format, built once per context because they hold objects of its JVM."""
    string = format_string(format)
    if string is not None:
        return with_names(_log_strings.reader(string))
    return with_names(_json_logs.reader(format) if format in _json_logs.SERVERS else _combined())


# --- common and combined -----------------------------------------------------------------------------------------

_TEXT = '"[^"]*"'
_NUMBER = f"{BYTES}(?![^ ])"
_BEFORE = f'\\A{CLIENT} ++{IDENTITY} (?! *+- ++[^" ][^"]* \\[)[^"]* \\['
_REQUEST = f'\\A[^"]*{_TEXT}'
_NUMBERS = f"{_REQUEST} {STATUS} {_NUMBER}"
_REFERRER = f"{_NUMBERS}(?:\\z| {_TEXT}| -(?![^ ]))"
_USER_AGENT = f"{_NUMBERS}(?:\\z| (?:{_TEXT}|-) (?:{_TEXT}|-(?![^ ])))"
# What _BEFORE finds in front of a timestamp.
_BEFORE_STAMP = f'\\A{CLIENT} ++{IDENTITY} (?: *+- ++\\[|(?! *+- )[^"]* \\[)'
_LINE = f"{_BEFORE_STAMP}{STAMP}\\] {_TEXT} {STATUS} {_NUMBER}(?: (?:{_TEXT}|-) (?:{_TEXT}|-))?\\z"

# Each reason, with a pattern for lines that are valid up to that point.
_UP_TO_TIMESTAMP = {
    "timestamp is not in brackets": '\\A[^"]* \\[',
    "request is not in quotes after the timestamp": '\\A[^"]*\\] "',
    "user is missing: fewer than three fields before the timestamp": f'\\A{CLIENT} ++{IDENTITY} [^"]* \\[',
    "user starts with '- ': more than three fields before the timestamp": _BEFORE,
    "timestamp is not dd/Mon/yyyy:hh:mm:ss +hhmm": f'\\A[^"]* \\[{ANY_STAMP}\\] "',
    "timestamp is not a date that exists": f'\\A[^"]* \\[{STAMP}\\] "',
}
_FROM_REQUEST = {
    "request has no closing quote": _REQUEST,
    "status and bytes do not follow the request": f"{_REQUEST} [^ ]* ",
    "status is not a number from 100 to 999": f"{_REQUEST} {STATUS} ",
    "bytes is not a number from 0 to 2**63 - 1": _NUMBERS,
    "referrer is not in quotes": f'{_NUMBERS}(?:\\z| "| -(?![^ ]))',
    "referrer has no closing quote": _REFERRER,
    "user agent is not in quotes": f'{_NUMBERS}(?:\\z| (?:{_TEXT}|-) (?:"|-(?![^ ])))',
    "user agent has no closing quote": _USER_AGENT,
}


# What stands in front of the request of a usual line: three words, the time, single blanks. It is in ASCII up to the
# client, which is one word.
_USUAL_HEAD = f"\\A[!-~][^ ]*+(?<!,) [^ ]++ [^ ]++ \\[{USUAL_LOCAL} {USUAL_OFFSET}\\] \\z"
_USUAL_NUMBERS = f"\\A {USUAL_STATUS} {USUAL_NUMBER}"


def _is_usual() -> Column:
    """Whether the pieces are those of a usual line, which is valid: no more than two short patterns are needed for it.

    Lines of the common format have three pieces, those of combined seven. No quote inside of them is escaped.
    """
    head, request, numbers, referrer, between, user_agent, end = _seven(PIECES)
    common = (F.size(PIECES) == 3) & numbers.rlike(f"{_USUAL_NUMBERS}\\z")
    combined = (F.size(PIECES) == 7) & numbers.rlike(f"{_USUAL_NUMBERS} \\z") & (between == " ") & (end == "")
    combined &= ~referrer.endswith("\\") & ~user_agent.endswith("\\")
    return (combined | common) & ~request.endswith("\\") & head.rlike(_USUAL_HEAD)


_USUAL, _WHOLE, _WORDS, _PLAIN = "_log_usual", "_log_whole", "_log_words", "_log_plain"


def _combined() -> Reader:
    is_usual, line = F.col(_USUAL), F.col("value")
    # The pieces of a usual line are its parts. In any other the quotes inside of fields are hidden first, and then it
    # has to prove that it is valid.
    cut = F.when(is_usual, F.col(PIECES)).otherwise(F.split(_hidden(line), '"'))
    steps = [{PIECES: F.split(line, '"')}, {_USUAL: _is_usual()}, {PARTS: once(cut)}]

    head, request, numbers, third, fourth, fifth, sixth = _seven(PARTS)
    stamp = F.substring(head, -28, 26)
    # The line without its quoted texts. One more quote would make the number of parts even.
    outline = F.concat_ws('"', head, numbers, fourth, sixth)
    shape = outline.rlike(_LINE.replace(_TEXT, '"')) & is_in_range(stamp)
    valid = is_usual | (F.size(PARTS).isin(3, 5, 7) & shape)
    reason = [{_WHOLE: once(F.array_join(PARTS, '"'))}, {"reason": _reason(F.col(_WHOLE), stamp)}]

    # A usual head is cut at its blanks, and needs no pattern.
    words = F.split(F.regexp_replace(head, _HEAD, _BORDER.join(f"${n}" for n in range(1, 6))), _BORDER)
    logged = [head, request, numbers, third, fourth, fifth, sixth, *(F.get(_WORDS, F.lit(i)) for i in range(5))]
    plain = F.when(is_usual, F.col(PARTS)).otherwise(F.array(*map(_unhidden, logged)))
    as_logged = [
        {_USUAL: is_usual, PARTS: F.col(PARTS), _WORDS: F.when(~is_usual, words)},
        {_PLAIN: plain},
        # What follows becomes a method of its own: Java interprets those of more than 8,000 bytes.
        {_PLAIN: once(F.col(_PLAIN))},
    ]

    head, request, numbers, third, fourth, fifth, _ = _seven(_PLAIN)
    texts = {
        _WORDS: F.when(F.size(_PLAIN) > 7, F.slice(_PLAIN, 8, 5)).otherwise(F.split(head, " ")),
        "_log_request": request,
        "_log_status": F.substring(numbers, 2, 3),  # `- ` and what follows it is not a number either
        "_log_bytes": F.substring_index(F.substr(numbers, F.when(numbers.startswith(" - "), 4).otherwise(6)), " ", 1),
        # `"r" "a"` makes seven parts; `"r" -` makes five, the last of them ` -`; `- "a"` five, the last of them empty.
        "_log_referrer": F.when(fourth != "", third),
        "_log_user_agent": F.when(fourth == "", third).otherwise(fifth),
    }
    client, identity, user, local, offset = (F.get(_WORDS, F.lit(i)) for i in range(5))
    columns = {
        "client_ip": known(client),
        "identity": known(identity),
        "user": known_user(user),
        "timestamp": timestamp(F.substr(local, F.lit(2)), F.substring(offset, 1, 5)),
        **request_line(F.col("_log_request")),
        "status": F.col("_log_status").try_cast("int"),
        "bytes": F.col("_log_bytes").try_cast("bigint"),
        "referrer": known(F.col("_log_referrer")),
        "user_agent": known(F.col("_log_user_agent")),
    }
    return Reader(steps, valid, [*as_logged, texts, columns], reason)


def _seven(parts: str) -> Iterator[Column]:
    return (F.get(parts, F.lit(i)) for i in range(7))


def _reason(line: Column, stamp: Column) -> Column:
    checks = [(line.rlike(pattern), reason) for reason, pattern in _UP_TO_TIMESTAMP.items()]
    checks.append((is_in_range(stamp), "timestamp is not a date that exists"))
    checks += [(line.rlike(pattern), reason) for reason, pattern in _FROM_REQUEST.items()]
    return first_failing(checks, "user agent is not the end of the line")


_BORDER = f"{MARK},"  # in no line, since a mark is followed by a digit
_HIDDEN_QUOTE = f"{MARK}2"
# Up to the request, but for the blanks before it; a quoted text; several blanks.
_ONE_BLANK = '(?s)\\A([^\\]]*+(?:\\](?! ++")[^\\]]*+)*+\\]) *( )(?=")|("[^"]*+"?+)|( ) ++'
# A quote that precedes the request's own, with what is between it and the one before.
_EARLY_QUOTE = '\\G([^"\\]]*+(?:\\](?! ")[^"\\]]*+)*+)"'
# What stands in front of the request: client, identity, user, and both words of the timestamp.
_HEAD = "(?s)\\A([^ ]*+(?:(?<=,) ++[^ ]++)*+) ++([^ ]++) ++(.*?) *+(\\[[^ ]*+) ([^ ]*+) \\z"


def _hidden(line: Column) -> Column:
    """The line with quotes hidden that are escaped, and those that precede the request's own; the others delimit.

    From the timestamp on, one blank stands for several outside quotes; none is left at the end. Each step uses the one
    before it once: Spark copies expressions, and compiles large ones into slow code even where they are never run.
    """
    line = replace(trimmed(line, " \r\n"), MARK, f"{MARK}0")
    line = replace(line, "\\\\", f"{MARK}1")  # backslashes pair from the left
    line = replace(line, '\\"', f"\\{_HIDDEN_QUOTE}")
    line = replace(line, f"{MARK}1", "\\\\")
    line = F.regexp_replace(line, _ONE_BLANK, "$1$2$3$4")
    return F.regexp_replace(line, _EARLY_QUOTE, f"$1{_HIDDEN_QUOTE}")


def _unhidden(text: Column) -> Column:
    return replace(replace(text, _HIDDEN_QUOTE, '"'), f"{MARK}0", MARK)
