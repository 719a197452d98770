"""Access-log formats as Spark expressions, which `access_log` applies to DataFrames.

Every format is read in the same steps. The line is cut into parts, once; the parts decide whether it is valid; then
each field is extracted as logged and converted to its type. This module has the formats by their names, and reads
common and combined: escaped quotes are masked first, and the steps are cuts at quotes and spaces. Those cost a fraction
of a regular expression over the line.
"""

from __future__ import annotations

import functools
from typing import Literal, get_args

from pyspark import SparkContext
from pyspark.sql import Column
from pyspark.sql import functions as F

from ..errors import UsageError
from . import _json_logs, _log_strings
from ._log_directives import compiled, is_format_string
from ._log_fields import (
    ANY_STAMP,
    BYTE_ORDER_MARK,
    BYTES,
    CLIENT,
    IDENTITY,
    MARK,
    MASKED_QUOTE,
    PARTS,
    PIECES,
    STAMP,
    STATUS,
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
    unmasked,
    without_escapes,
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
        return _log_strings.reader(string)
    return _json_logs.reader(format) if format in _json_logs.SERVERS else _combined()


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


def _combined() -> Reader:
    pieces = F.split("value", '"').alias(PIECES)
    # Unless a quote is escaped or comes too early, or blanks are many, which is rare, the pieces are the parts.
    first, *others = (F.get(PIECES, F.lit(i)) for i in range(7))
    is_plain = first.endswith("] ") & ~first.startswith(MARK) & ~first.startswith(BYTE_ORDER_MARK)
    for ending in ("\n", "\r", " "):
        is_plain &= ~F.col("value").endswith(ending)
    for text, outside in zip(others[::2], others[1::2], strict=True):
        is_plain &= ~F.coalesce(text.endswith("\\") | outside.contains("  "), F.lit(False))
    cut = F.when(is_plain, F.col(PIECES)).otherwise(F.split(_masked(F.col("value")), '"'))

    head, request, numbers, third, fourth, fifth, sixth = (F.get(PARTS, F.lit(i)) for i in range(7))
    is_masked = head.startswith(MARK)
    start = F.when(is_masked, 2).otherwise(1)
    stamp = F.substring(head, -28, 26)
    # The line without its quoted texts. One more quote would make the number of parts even.
    outline = F.concat_ws('"', head, numbers, fourth, sixth)
    line = _LINE.replace(_TEXT, '"')
    usual = line.replace("(?!0000)", "(?!0000|0001|9999)")
    shape = outline.rlike(usual) | (outline.rlike(line) & is_in_range(stamp))
    valid = F.size(PARTS).isin(3, 5, 7) & shape
    whole = F.array_join(PARTS, '"')
    texts = {
        "who": unmasked(head.substr(start, F.char_length(head) - start - 29), is_masked),
        "stamp": stamp,
        "request": unmasked(request, is_masked),
        "status": _word(numbers, 2),
        "bytes": _word(numbers, 3),
        # `"r" "a"` makes seven parts; `"r" -` makes five, the last of them ` -`; `- "a"` five, the last of them empty.
        "referrer": unmasked(F.when(fourth != "", third), is_masked),
        "user_agent": unmasked(F.when(fourth == "", third).otherwise(fifth), is_masked),
    }
    texts = {f"_log_{name}": text for name, text in texts.items()}
    who = F.col("_log_who")
    columns = {
        **_client_identity_user(who),
        "timestamp": timestamp(F.col("_log_stamp")),
        **request_line(F.col("_log_request")),
        "status": F.col("_log_status").try_cast("int"),
        "bytes": F.col("_log_bytes").try_cast("bigint"),
        "referrer": known(F.col("_log_referrer")),
        "user_agent": known(F.col("_log_user_agent")),
    }
    checks = [(whole.rlike(pattern), reason) for reason, pattern in _UP_TO_TIMESTAMP.items()]
    checks.append((is_in_range(stamp), "timestamp is not a date that exists"))
    checks += [(whole.rlike(pattern), reason) for reason, pattern in _FROM_REQUEST.items()]
    reason = first_failing(checks, "user agent is not the end of the line")
    return Reader(pieces, once(cut).alias(PARTS), valid, texts, columns, reason)


# Up to the request, but for the blanks before it; a quoted text; several blanks.
_ONE_BLANK = '(?s)\\A([^\\]]*+(?:\\](?! ++")[^\\]]*+)*+\\]) *( )(?=")|("[^"]*+"?+)|( ) ++'


def _masked(line: Column) -> Column:
    """A mark, then the line with escapes masked, and with any quotes masked that precede the request's own.

    From the timestamp on, one blank stands for several outside quotes; none is left at the end. Each step uses the one
    before it once: Spark copies expressions, and compiles large ones into slow code even where they are never run.
    """
    line = without_escapes(trimmed(line, " \r\n"))
    line = F.regexp_replace(line, _ONE_BLANK, "$1$2$3$4")
    before = F.substring_index(line, '] "', 1)
    return F.concat(F.lit(MARK), replace(before, '"', MASKED_QUOTE), F.substr(line, F.char_length(before) + 1))


_CLIENT_RAW = "[^ ]*+(?:(?<=,) ++[^ ]++)*+"


def _client_identity_user(who: Column) -> dict[str, Column]:
    # The client is more than the first word only if there is a comma and a space.
    is_general = who.contains(", ") | who.contains("  ") | who.endswith(" ")
    two = F.substring_index(who, " ", 2)
    cuts = (F.substring_index(who, " ", 1), F.substring_index(two, " ", -1), F.substr(who, F.char_length(two) + 2))
    fields = {}
    for group, (name, cut) in enumerate(zip(("client_ip", "identity", "user"), cuts, strict=True), start=1):
        general = F.trim(F.regexp_extract(who, f"(?s)\\A({_CLIENT_RAW}) ++([^ ]++) ++(.*)\\z", group))
        fields[name] = F.when(is_general, general).otherwise(cut)
    return {
        "client_ip": known(fields["client_ip"]),
        "identity": known(fields["identity"]),
        "user": known_user(fields["user"]),
    }


def _word(text: Column, number: int) -> Column:
    return F.substring_index(F.substring_index(text, " ", number), " ", -1)
