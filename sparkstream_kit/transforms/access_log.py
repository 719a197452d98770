r"""Access-log lines in Apache's common and combined formats, and nginx's combined one, which is the same.

`parse` and `split` read frames of lines inside Spark, `parse_line` one line in plain Python. They share no code and
agree on every line, which is how each of them is tested.

The fields are those of Apache's mod_log_config, `%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-agent}i"`;
common ends after `%b`. Parsers differ about some lines. Here:

| line | taken as | because |
|---|---|---|
| `- - - [-] "-" - -`, no time at all | rejected | a request without a time cannot be put in a window |
| `""`, `"-"` or bytes as the request | method, path, protocol None | client, time and status are real |
| `"GET /a b HTTP/1.1"`, a raw space | path `/a b` | neither method nor protocol holds a space |
| `"GET /"`, no protocol | protocol None | HTTP/0.9; without a `/` in front of the path it is noise |
| `\" \\ \x16` in quotes | kept as logged | what was logged stays searchable; `unescape` decodes |
| a bare `"` inside quotes | rejected | servers escape it; which quote ends the field would be a guess |
| a user that starts with `- ` | rejected | a sixth field, such as the virtual host, was put in front |
| text after the user agent | rejected | it is another format, and half of a record would hide that |
| status 600 to 999 | accepted | servers log codes of their own there |
"""

from __future__ import annotations

import functools
import re
from datetime import datetime, timedelta, timezone
from typing import NamedTuple, TypeVar

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from ..columns import quoted
from ..frames import FrameStream
from ._log_formats import reader

Lines = TypeVar("Lines", DataFrame, FrameStream)

_MAX_BYTES = 2**63 - 1  # Spark's BIGINT

_MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, start=1)}
_TIMESTAMP = re.compile(
    r"([0-9]{2})/([A-Z][a-z]{2})/([0-9]{4})"
    r":([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([01][0-9]|2[0-3])([0-5][0-9])"
)
# Each character can match in one place only, so giving one back fails at the next step: linear, match or not.
_TO_CLOSING_QUOTE = re.compile(r'([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # token, RFC 9110 section 5.6.2
_PROTOCOL = re.compile(r"[A-Z]+/[0-9](?:\.[0-9])?")
_STATUS_AND_BYTES = re.compile(r" ([^ ]*) ([^ ]*)")
_THREE_DIGITS = re.compile(r"[1-9][0-9]{2}")
_UP_TO_19_DIGITS = re.compile(r"[0-9]{1,19}")
_ESCAPE = re.compile(r'((?:\\x[0-9A-Fa-f]{2})+)|\\(["\\bfnrtv])')
_ESCAPED = {'"': '"', "\\": "\\", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class Request(NamedTuple):
    """One request; a field logged as `-` or empty is None."""

    client_ip: str | None  # address, host name, or the list of proxies, as logged
    identity: str | None
    user: str | None
    timestamp: datetime  # aware, UTC
    method: str | None
    path: str | None  # the request target as logged, query included
    protocol: str | None
    status: int | None
    bytes: int | None
    referrer: str | None
    user_agent: str | None


class Rejected(NamedTuple):
    """A line that is not an access-log line: unchanged, with the first reason found from left to right."""

    line: str
    reason: str


class _Malformed(Exception):
    """Carries a reason to `parse_line`; it never leaves this module."""


def parse_line(line: str) -> Request | Rejected:
    r"""Read one line of a common or combined access log.

    >>> parse_line('::1 - frank [10/Oct/2000:13:55:36 -0700] "GET /a?b=1 HTTP/1.0" 200 2326')
    ... # doctest: +NORMALIZE_WHITESPACE
    Request(client_ip='::1', identity=None, user='frank',
            timestamp=datetime.datetime(2000, 10, 10, 20, 55, 36, tzinfo=datetime.timezone.utc),
            method='GET', path='/a?b=1', protocol='HTTP/1.0', status=200, bytes=2326,
            referrer=None, user_agent=None)

    Escapes never end a field, and stay as they were logged:

    >>> line = r'a.example - - [10/Oct/2000:13:55:36 +0000] "GET /\" HTTP/1.1" 200 - "-" "say \"hi\" \\"'
    >>> request = parse_line(line)
    >>> print(request.path, request.bytes, request.referrer, request.user_agent)
    /\" None None say \"hi\" \\

    A list of proxies is one client, a user may hold spaces, and noise instead of a request is still a record:

    >>> line = r'10.0.0.1, 10.0.0.2 - Ann Lee [10/Oct/2000:13:55:36 +0000] "\x16\x03\x01" 400 226'
    >>> request = parse_line(line)
    >>> print(request.client_ip, request.user, request.method, request.path, request.status, sep=" | ")
    10.0.0.1, 10.0.0.2 | Ann Lee | None | None | 400

    What is no access-log line comes back whole, with the field that is wrong:

    >>> parse_line('::1 - - [31/Feb/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 5').reason
    'timestamp is not a date that exists'
    >>> parse_line('not a log line')
    Rejected(line='not a log line', reason='timestamp is not in brackets')

    Line ends are dropped. It never raises, and takes time linear in the length of the line.
    """
    try:
        return _request(line.rstrip("\r\n"))
    except _Malformed as malformed:
        return Rejected(line, str(malformed))


def unescape(text: str) -> str:
    r"""Decode what the server escaped in a quoted field.

    >>> unescape(r'say \"hi\" \\ caf\xc3\xa9')
    'say "hi" \\ café'

    Neighbouring `\xNN` are bytes of UTF-8; what is not becomes U+FFFD. Other backslashes are left alone.

    >>> unescape(r'\xff \q \x4 \\x41')
    '\ufffd \\q \\x4 \\x41'
    """
    return _ESCAPE.sub(_decoded, text)


def _decoded(escape: re.Match[str]) -> str:
    hexadecimal, single = escape.groups()
    if hexadecimal:
        return bytes.fromhex(hexadecimal.replace("\\x", "")).decode("utf-8", "replace")
    return _ESCAPED[single]


def _request(line: str) -> Request:
    # A quote in a user's name is logged escaped, so the first `] "` ends the timestamp, whatever brackets
    # stand before it.
    head, request_opens, tail = line.partition('] "')
    before, bracket, stamp = head.rpartition(" [")
    if not bracket:
        raise _Malformed("timestamp is not in brackets")
    if not request_opens:
        raise _Malformed("request is not in quotes after the timestamp")
    who = _client_identity_user(before)
    timestamp = _timestamp(stamp)
    request, end = _quoted(tail, 0, "request")
    numbers = _STATUS_AND_BYTES.match(tail, end)
    if numbers is None:
        raise _Malformed("status and bytes do not follow the request")
    status, size = _status(numbers[1]), _bytes(numbers[2])
    referrer, user_agent = _referrer_and_agent(tail, numbers.end())
    return Request(*who, timestamp, *_request_line(request), status, size, referrer, user_agent)


def _client_identity_user(before: str) -> tuple[str | None, str | None, str | None]:
    fields = before.split(" ")
    last = 0
    while fields[last].endswith(",") and last + 1 < len(fields):
        last += 1
    if len(fields) < last + 3:
        raise _Malformed("user is missing: fewer than three fields before the timestamp")
    user = " ".join(fields[last + 2 :])
    if user.startswith("- "):
        raise _Malformed("user starts with '- ': more than three fields before the timestamp")
    # Apache logs a user whose name is empty as `""`.
    return (
        _known(" ".join(fields[: last + 1])),
        _known(fields[last + 1]),
        None if user == '""' else _known(user),
    )


def _timestamp(stamp: str) -> datetime:
    match = _TIMESTAMP.fullmatch(stamp)
    if match is None:
        raise _Malformed("timestamp is not dd/Mon/yyyy:hh:mm:ss +hhmm")
    day, month, year, hour, minute, second, sign, offset_hours, offset_minutes = match.groups()
    offset = timedelta(hours=int(offset_hours), minutes=int(offset_minutes))
    try:
        local = datetime(int(year), _MONTHS[month], int(day), int(hour), int(minute), int(second), tzinfo=timezone.utc)
        return local - offset if sign == "+" else local + offset
    except (KeyError, ValueError, OverflowError):
        raise _Malformed("timestamp is not a date that exists") from None


def _quoted(text: str, start: int, name: str) -> tuple[str, int]:
    """What stands from `start` to the closing quote, and the position after that quote."""
    match = _TO_CLOSING_QUOTE.match(text, start)
    if match is None:
        raise _Malformed(f"{name} has no closing quote")
    return match[1], match.end()


def _request_line(request: str) -> tuple[str | None, str | None, str | None]:
    method, _, rest = request.partition(" ")
    if not _METHOD.fullmatch(method):
        return None, None, None
    target, space, protocol = rest.rpartition(" ")
    if space and _PROTOCOL.fullmatch(protocol):
        return method, _known(target), protocol
    return (method, rest, None) if rest.startswith("/") else (None, None, None)


def _status(text: str) -> int | None:
    if text == "-":
        return None
    if not _THREE_DIGITS.fullmatch(text):
        raise _Malformed("status is not a number from 100 to 999")
    return int(text)


def _bytes(text: str) -> int | None:
    if text == "-":
        return None
    if not _UP_TO_19_DIGITS.fullmatch(text) or int(text) > _MAX_BYTES:
        raise _Malformed("bytes is not a number from 0 to 2**63 - 1")
    return int(text)


def _referrer_and_agent(tail: str, start: int) -> tuple[str | None, str | None]:
    if start == len(tail):
        return None, None
    referrer, end = _quoted_or_dash(tail, start, "referrer")
    user_agent, end = _quoted_or_dash(tail, end, "user agent")
    if end != len(tail):
        raise _Malformed("user agent is not the end of the line")
    return _known(referrer), _known(user_agent)


def _quoted_or_dash(tail: str, start: int, name: str) -> tuple[str, int]:
    if tail.startswith(' "', start):
        return _quoted(tail, start + 2, name)
    if tail.startswith(" - ", start) or tail[start:] == " -":
        return "-", start + 2
    raise _Malformed(f"{name} is not in quotes")


def _known(field: str) -> str | None:
    return None if field in ("", "-") else field


# --- in Spark ----------------------------------------------------------------------------------------------------


def parse(frame: DataFrame, format: str = "combined") -> DataFrame:
    r"""Read the lines in the column `value` as requests; lines that are none are left out.

    >>> spark = getfixture("spark")
    >>> line = '::1 - frank [10/Oct/2000:13:55:36 -0700] "GET /a?b=1 HTTP/1.0" 200 2326 "-" "curl/8.5"'
    >>> requests = parse(spark.createDataFrame([(line,), ("not a log line",)], "value string"))
    >>> requests.select("client_ip", "user", "path", "status", "bytes").collect()
    [Row(client_ip='::1', user='frank', path='/a?b=1', status=200, bytes=2326)]

    Columns in: value: string; null is no line. Columns out: client_ip, identity, user: string; timestamp: timestamp;
    method, path, protocol: string; status: int; bytes: bigint; referrer, user_agent: string. They mean what the
    fields of `Request` mean, and null is a field that was logged as `-` or empty. Other columns of the frame stay,
    in front; one that has the name of a field is replaced.

    The format is `combined` or `common`, which both accept either; `vhost_combined`, with `%v:%p` first; or any
    string of Apache's LogFormat, `%h %l %u %t "%r" %>s %b %D` say. Such a string is matched by one regular expression,
    which takes about twice the time. A field that it lacks is null, `%v` and `%V` become the column virtual_host:
    string, and other directives must be there but become no column. UsageError if it holds no directive, or a time
    in a format of its own.

    Which lines are requests never depends on the columns used, but only columns that are used are computed.
    """
    rules = reader(frame.sparkSession.sparkContext, format)
    kept = _others(frame, "value", *rules.columns)
    texts = [text.alias(name) for name, text in rules.texts.items()]
    columns = [column.alias(name) for name, column in rules.columns.items()]
    parts = frame.select(*kept, "value", rules.pieces).select(*kept, rules.parts)
    return parts.filter(rules.valid).select(*kept, *texts).select(*kept, *columns)


def rejected(frame: DataFrame, format: str = "combined") -> DataFrame:
    r"""The lines that `parse` leaves out, each with the first reason found from left to right.

    >>> spark = getfixture("spark")
    >>> rejected(spark.createDataFrame([("not a log line",)], "value string")).collect()
    [Row(line='not a log line', reason='timestamp is not in brackets')]

    Columns in: value: string. Columns out: line: string, unchanged; reason: string, as `parse_line` gives it, or for a
    LogFormat the directive at which the line stops to match. Other columns of the frame, such as the file the line is
    from, stay in front.
    """
    rules = reader(frame.sparkSession.sparkContext, format)
    kept = _others(frame, "value", "line", "reason")
    parts = frame.select(*kept, "value", rules.pieces).select("*", rules.parts)
    lines = parts.filter(~rules.valid & F.col("value").isNotNull())
    return lines.select(*kept, F.col("value").alias("line"), rules.reason.alias("reason"))


def split(lines: Lines, format: str = "combined") -> tuple[Lines, Lines]:
    """Requests and rejected lines of a frame or a FrameStream: what `parse` gives, and what `rejected` gives.

    >>> spark = getfixture("spark")
    >>> requests, rest = split(spark.createDataFrame([("not a log line",)], "value string"))
    >>> requests.count(), rest.count()
    (0, 1)

    The two are read separately: where both are used and reading is slow, `cache` the lines.
    """
    return (
        lines.transform(functools.partial(parse, format=format)),
        lines.transform(functools.partial(rejected, format=format)),
    )


def split_query(path: Column) -> tuple[Column, Column]:
    """A request target as two columns: the path, and what follows the first `?`, or null without one (RFC 3986, 3.4).

    >>> frame = getfixture("spark").createDataFrame([("/a?b=1?2",), ("/a?",), ("/a",)], "path string")
    >>> path, query = split_query(frame.path)
    >>> [tuple(row) for row in frame.select(path, query).collect()]
    [('/a', 'b=1?2'), ('/a', ''), ('/a', None)]
    """
    before = F.substring_index(path, "?", 1)
    return before, F.when(path.contains("?"), F.substr(path, F.char_length(before) + 2))


def unescaped(text: Column) -> Column:
    r"""`unescape` as a column expression.

    >>> frame = getfixture("spark").createDataFrame([(r'say \"hi\" \\ caf\xc3\xa9 100%',)], "text string")
    >>> print(frame.select(unescaped(frame.text)).first()[0])
    say "hi" \ café 100%

    The two differ in how many U+FFFD stand for bytes that are not UTF-8.
    """
    # As a URL, which has an escape for bytes. Backslashes pair from the left, so pairs go first.
    url = text
    for plain, encoded in {"%": "%25", "+": "%2B", "\\\\": "%5C"}.items():
        url = F.replace(url, F.lit(plain), F.lit(encoded))
    url = F.regexp_replace(url, r"\\x([0-9A-Fa-f]{2})", "%$1")
    for letter in '"bfnrtv':
        url = F.replace(url, F.lit(f"\\{letter}"), F.lit(_ESCAPED[letter]))
    return F.when(text.contains("\\"), F.url_decode(url)).otherwise(text)


def _others(frame: DataFrame, *names: str) -> list[str]:
    return [quoted(name) for name in frame.columns if name not in names]
