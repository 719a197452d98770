"""What all access-log formats have in common: the patterns of fields as servers log them, and their types in Spark."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pyspark.sql import Column
from pyspark.sql import functions as F

PIECES, PARTS = "_log_pieces", "_log_parts"
FIELDS = (
    *("client_ip", "identity", "user", "timestamp", "method", "path", "protocol", "status", "bytes"),
    *("referrer", "user_agent"),
)
"""The columns of every format, in order."""


class Reader(NamedTuple):
    """The expressions that read one format."""

    pieces: Column  # from value: whatever the next step needs several times, named PIECES
    parts: Column  # from PIECES, and value: the line cut up, named PARTS
    valid: Column  # from PARTS: whether the line is in this format
    texts: dict[str, Column]  # from PARTS: each field as logged, under names that no frame has
    columns: dict[str, Column]  # from the texts: each field with its type
    reason: Column  # from value, PIECES and PARTS: why the line is not valid


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
MASKED_QUOTE = f"{MARK}3"


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


def unmasked(text: Column, is_masked: Column) -> Column:
    """The text as logged."""
    original = replace(text, MASKED_QUOTE, '"')
    for escape, digit in reversed(_ESCAPES.items()):
        original = replace(original, MARK + digit, escape)
    return F.when(is_masked, original).otherwise(text)


# --- fields ------------------------------------------------------------------------------------------------------

_NOTHING = ("", "-")
_TOKEN = "\\A[!#$%&'*+.^_`|~0-9A-Za-z-]+\\z"  # RFC 9110, 5.6.2
_PROTOCOL = "\\A[A-Z]+/[0-9](?:\\.[0-9])?\\z"


def known(text: Column) -> Column:
    """Null if it was logged as `-` or empty."""
    return F.when(~text.isin(*_NOTHING), text)


def known_user(text: Column) -> Column:
    """Null also for `""`, which Apache logs for an empty name."""
    return F.nullif(known(text), F.lit('""'))


def request_line(request: Column) -> dict[str, Column]:
    """Method, path and protocol, all null if it is not a request. The usual ones are recognised without a pattern."""
    method, last = F.substring_index(request, " ", 1), F.substring_index(request, " ", -1)
    after = F.char_length(method) + 2
    is_token = method.isin("GET", "POST", "HEAD") | method.rlike(_TOKEN)
    has_protocol = last.isin("HTTP/1.1", "HTTP/1.0", "HTTP/2.0") | last.rlike(_PROTOCOL)
    has_protocol &= F.substring_index(request, " ", 2) != request
    length = F.char_length(request) - F.char_length(last) - after
    path = F.when(has_protocol, request.substr(after, length)).otherwise(F.substr(request, after))
    is_request = is_token & (has_protocol | (request.substr(after, F.lit(1)) == "/"))
    return {
        "method": F.when(is_request, method),
        "path": F.when(is_request, known(path)),
        "protocol": F.when(is_token & has_protocol, last),
    }


_SPARK_STAMP = "dd/MMM/yyyy:HH:mm:ss Z"


def _two_digits(stamp: Column, position: int) -> Column:
    return F.substring(stamp, position, 2).try_cast("int")


def _offset_minutes(stamp: Column) -> Column:
    minutes = _two_digits(stamp, 23) * 60 + _two_digits(stamp, 25)
    return F.when(F.substring(stamp, 22, 1) == "-", -minutes).otherwise(minutes)


def timestamp(stamp: Column) -> Column:
    """The instant of dd/Mon/yyyy:hh:mm:ss +hhmm; second 60 is the first of the next minute, as in POSIX."""
    # Spark parses neither second 60 nor offsets of 18 hours and more.
    seconds = _two_digits(stamp, 19)
    whole = F.when(seconds == 60, F.concat(F.substring(stamp, 1, 18), F.lit("59"))).otherwise(F.substring(stamp, 1, 20))
    as_utc = F.try_to_timestamp(F.concat(whole, F.lit(" +0000")), F.lit(_SPARK_STAMP))
    leap = F.when(seconds == 60, 1).otherwise(0)
    shifted = F.timestamp_seconds(F.unix_seconds(as_utc) - _offset_minutes(stamp) * 60 + leap)
    return F.coalesce(F.try_to_timestamp(stamp, F.lit(_SPARK_STAMP)), shifted)


def is_in_range(stamp: Column) -> Column:
    """Whether a well-formed timestamp is in the years 1 to 9999, the range of datetime, in UTC too."""
    first, last = stamp.startswith("01/Jan/0001"), stamp.startswith("31/Dec/9999")
    minutes = _two_digits(stamp, 13) * 60 + _two_digits(stamp, 16) - _offset_minutes(stamp)
    before_end = minutes * 60 + _two_digits(stamp, 19) < 24 * 60 * 60
    fits = F.when(first, minutes >= 0).when(last, before_end).otherwise(F.lit(True))
    return F.when(F.substring(stamp, 8, 4).isin("0001", "9999"), fits).otherwise(F.lit(True))
