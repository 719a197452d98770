"""What all access-log formats have in common: the patterns of fields as servers log them, and their types in Spark."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from typing import NamedTuple

from pyspark.sql import Column
from pyspark.sql import functions as F

PIECES, PARTS = "_log_pieces", "_log_parts"  # names that no frame has
FIELDS = (
    *("client_ip", "identity", "user", "timestamp", "method", "path", "protocol", "status", "bytes"),
    *("referrer", "user_agent"),
)
"""The columns of every format, in order."""


Step = dict[str, Column]
"""Columns by their names, all computed from those of the step before."""


class Reader(NamedTuple):
    """The expressions that read one format."""

    cut: list[Step]  # from value: the line cut up, and whatever else its verdict needs
    valid: Column  # from these columns and value: whether the line is in this format
    fields: list[Step]  # of a valid line, from these columns; the last step gives the columns of the format
    reason: list[Step]  # of any other line, from the columns of `cut`; the last step gives the column reason

    @property
    def columns(self) -> Step:
        """The fields, with their types."""
        return self.fields[-1]


def with_names(reader: Reader) -> Reader:
    """The same with each column named, as that takes a call into the JVM for each of them."""

    def named(steps: list[Step]) -> list[Step]:
        return [{name: column.alias(name) for name, column in step.items()} for step in steps]

    return Reader(named(reader.cut), reader.valid, named(reader.fields), named(reader.reason))


def once(cut: Column) -> Column:
    """A column that Spark computes once: a plain expression would be copied into the filter."""
    return F.explode(F.array(cut))


def first_failing(checks: Iterable[tuple[Column, str]], last: str) -> Column:
    """The reason beside the first check that does not hold."""
    reason = F.lit(last)
    for holds, name in reversed(list(checks)):
        reason = F.when(holds, reason).otherwise(F.lit(name))
    return reason


# --- patterns ----------------------------------------------------------------------------------------------------
#
# Linear time: [^"]* before a quote can stop in one place only, and whatever could stop in several places is possessive.
# A repeated group must be possessive, too: Java repeats those in a loop, and others by recursion.

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_OF_31_DAYS = "Jan|Mar|May|Jul|Aug|Oct|Dec"
_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = (
    f"(?:(?:0[1-9]|1[0-9]|2[0-8])/(?:{'|'.join(MONTHS)})/(?!0000)[0-9]{{4}}"
    f"|(?:29|30)/(?:{_OF_31_DAYS}|Apr|Jun|Sep|Nov)/(?!0000)[0-9]{{4}}"
    f"|31/(?:{_OF_31_DAYS})/(?!0000)[0-9]{{4}}|29/Feb/(?!0000){_LEAP_YEAR})"
)
_OFFSET = "[+-](?:[01][0-9]|2[0-3])[0-5][0-9]"
ANY_STAMP = f"[0-9]{{2}}/[A-Z][a-z]{{2}}/[0-9]{{4}}(?::[0-9]{{2}}){{3}} {_OFFSET}"
STAMP = f"{_DATE}:(?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60) {_OFFSET}"  # 60 is a leap second

# What usual lines have, in the years 1000 to 2999; days that no month has end the match before the month does.
_NO_DAY = "(?!00|3[2-9]|29/Feb|3[01]/Feb|31/(?:Apr|Jun|Sep|Nov))"
_HOUR = "(?!2[4-9])[0-2]\\d"
USUAL_LOCAL = f"{_NO_DAY}[0-3]\\d/(?:{'|'.join(MONTHS)})/[12]\\d\\d\\d:{_HOUR}:[0-5]\\d:[0-5]\\d"
USUAL_OFFSET = f"[+-]{_HOUR}[0-5]\\d"
USUAL_STATUS, USUAL_NUMBER = "[1-9]\\d\\d", "(?:\\d{1,18}+|-)"

CLIENT = '[^ "]*+(?:(?<=,) ++[^ "]++)*+'  # a token that ends in a comma continues in the next
IDENTITY = '[^ "]++'
STATUS = "(?:[1-9][0-9]{2}|00[09]|-)"  # nginx logs 000 without a response, and 009 for HTTP/0.9 without one
_BIGINT = str(2**63 - 1)
BYTES = "(?:[0-9]{{1,18}}|-|{}|{})".format(
    "|".join(f"{_BIGINT[:i]}[0-{int(d) - 1}][0-9]{{{18 - i}}}" for i, d in enumerate(_BIGINT) if d != "0"), _BIGINT
)


# --- lines -------------------------------------------------------------------------------------------------------

BYTE_ORDER_MARK = "\ufeff"
# A character that servers always escape marks what is masked: in a masked line a digit follows it.
MARK = "\x1a"
_ESCAPES = {MARK: "0", "\\\\": "1", '\\"': "2"}  # in this order; backslashes pair from the left


def trimmed(line: Column, ends: str) -> Column:
    """The line without these characters at its end, and without the mark that some writers put in front of a file."""
    return F.rtrim(F.ltrim(line, F.lit(BYTE_ORDER_MARK)), F.lit(ends))


def replace(text: Column, old: str, new: str) -> Column:
    """All of `old` replaced."""
    return F.replace(text, F.lit(old), F.lit(new))


def without_escapes(line: Column) -> Column:
    """Escaped quotes and backslashes masked, so that from then on every quote delimits a field."""
    for text, digit in _ESCAPES.items():
        line = replace(line, text, MARK + digit)
    return line


def unmasked(text: Column) -> Column:
    """The text as logged."""
    for escape, digit in reversed(_ESCAPES.items()):
        text = replace(text, MARK + digit, escape)
    return text


# --- fields ------------------------------------------------------------------------------------------------------

_TOKEN = "\\A[!#$%&'*+.^_`|~0-9A-Za-z-]+\\z"  # RFC 9110, 5.6.2
_PROTOCOL = "\\A[A-Z]+/[0-9](?:\\.[0-9])?\\z"
_USUAL_VERSIONS = ("1.1", "1.0", "2.0")


def known(text: Column) -> Column:
    """Null if it was logged as `-` or empty."""
    return F.when(~text.isin("", "-"), text)


def known_user(text: Column) -> Column:
    """Null also for `""`, which Apache logs for an empty name."""
    return F.nullif(known(text), F.lit('""'))


def _bytes(text: Column, start: int | Column, length: int | Column) -> Column:
    """A substring by positions in bytes, which Spark need not look for as it does for characters; they are in ASCII."""
    return F.substring(text.cast("binary"), start, length).cast("string")


def request_line(request: Column) -> dict[str, Column]:
    """Method, path and protocol, all null if it is not a request. The usual ones are recognised without a pattern."""
    method, last = F.substring_index(request, " ", 1), F.substring_index(request, " ", -1)
    is_get, is_other = request.startswith("GET "), request.startswith("POST ") | request.startswith("HEAD ")
    is_usual = functools.reduce(operator.or_, (request.endswith(f" HTTP/{version}") for version in _USUAL_VERSIONS))
    start = F.when(is_get, 5).when(is_other, 6).otherwise(F.octet_length(method) + 2)
    length = F.octet_length(request) - F.when(is_usual, 8).otherwise(F.octet_length(last)) - start
    is_token = is_get | is_other | method.rlike(_TOKEN)
    has_protocol = (is_usual | last.rlike(_PROTOCOL)) & (length >= 0)
    is_request = is_token & (has_protocol | (_bytes(request, start, F.lit(1)) == "/"))
    path = _bytes(request, start, F.when(has_protocol, length).otherwise(F.octet_length(request)))
    return {
        "method": F.when(is_request, method),
        "path": known(F.when(is_request, path)),
        "protocol": F.when(is_token & has_protocol, last),
    }


def _number(text: Column, position: int, length: int = 2) -> Column:
    return _bytes(text, position, length).try_cast("int")


def _offset_minutes(offset: Column) -> Column:
    sign = F.when(offset.startswith("-"), -1).otherwise(1)
    return F.when(offset == "+0000", 0).otherwise((_number(offset, 2) * 60 + _number(offset, 4)) * sign)


def timestamp(local: Column, offset: Column) -> Column:
    """The instant of dd/Mon/yyyy:hh:mm:ss at +hhmm; second 60 is the first of the next minute, as in POSIX.

    Calculated, since Spark's parser takes longer, and knows neither second 60 nor offsets of 18 hours and more.
    """
    # Years begin in March here, so that the leap day is the last one. The shifts divide whole numbers, of this size
    # without an error: Spark divides as double, which is compiled into much more.
    months = "".join(f"{name} " for name in MONTHS[2:] + MONTHS[:2])
    month = F.shiftright(F.position(_bytes(local, 4, 3), F.lit(months)), 2)
    year = _number(local, 8, 4) - (month > 9).cast("int")
    century = F.shiftright(year * 5243, 19)
    leap_days = F.shiftright(year, 2) - century + F.shiftright(century, 2)
    before_month = F.shiftright(month * 979 + 15, 5)
    days = year * 365 + leap_days + before_month + _number(local, 1) - 719469  # since 1970
    minutes = (days.cast("bigint") * 24 + _number(local, 13)) * 60 + _number(local, 16) - _offset_minutes(offset)
    return F.timestamp_seconds(minutes * 60 + _number(local, 19))


def local_and_offset(stamp: Column) -> tuple[Column, Column]:
    """The two parts of dd/Mon/yyyy:hh:mm:ss +hhmm."""
    return F.substring(stamp, 1, 20), F.substring(stamp, 22, 5)


def is_in_range(stamp: Column) -> Column:
    """Whether a well-formed timestamp is in the years 1 to 9999, the range of datetime, in UTC too."""
    first, last = stamp.startswith("01/Jan/0001"), stamp.startswith("31/Dec/9999")
    minutes = _number(stamp, 13) * 60 + _number(stamp, 16) - _offset_minutes(F.substring(stamp, 22, 5))
    seconds = minutes * 60 + F.when(first, 0).otherwise(_number(stamp, 19))
    # Each of them is used once, and all only in these years, since Spark evaluates whatever a condition has twice.
    sign, limit = F.when(first, -1).otherwise(1), F.when(first, 1).otherwise(24 * 60 * 60)
    fits = ~(first | last) | (seconds * sign < limit)
    return F.when(F.substring(stamp, 8, 4).isin("0001", "9999"), fits).otherwise(F.lit(True))
