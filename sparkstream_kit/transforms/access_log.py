r"""Access logs: common and combined, any LogFormat of Apache or log_format of nginx, and the JSON of some servers.

`parse`, `rejected` and `split` read DataFrames of lines inside Spark, `parse_line` reads one line of common or combined
in plain Python. The two implementations share no code and agree on every line, which is how each of them is tested.

**Formats.** A format is a name or a format string. All of them give the same columns, of which a format may lack some.

| name | lines |
|---|---|
| `combined`, `common` | Apache's and nginx's; each of the two names accepts both |
| `vhost_combined` | combined after `%v:%p` |
| `main` | nginx's stock log_format: combined, then `"$http_x_forwarded_for"` |
| `traefik_common` | Traefik's default: combined, then requests, router, URL and duration |
| `traefik`, `caddy` | the JSON that these servers write |

**Format strings** with a `$variable` are nginx's, those with a `%` Apache's, as in the configuration of the server.
`%r` (or `$request`) gives method, path and protocol. Each other field gives the first of these columns that fits:

| column | fields, the best first |
|---|---|
| virtual_host, in front, only if there is one | `%v` `$server_name`, `%V` `$host` |
| client_ip | `%a` `$remote_addr`, `%h`, `$proxy_add_x_forwarded_for`, `%{X-Forwarded-For}i`, `%{X-Real-IP}i`, `%{c}a` |
| timestamp | `%t` `$time_local`, `$time_iso8601`, `%{sec}t`, `%{msec}t`, `%{usec}t`, `%{%Y-%m-%dT%T%z}t`, `$msec` |
| path | `%U%q` `$request_uri`, `%U` `$uri` |
| bytes | `%b` `%B` `$body_bytes_sent`, `%O` `$bytes_sent` |

So X-Forwarded-For, which a client can forge, gives client_ip only if the format has no address of the connection. What
gives no such column follows user_agent, in the order of the format, under the name that nginx has for it:
`$request_time` is request_time, `%{X-Request-Id}i` http_x_request_id, `%{Foo}o` sent_http_foo, `%{Foo}C` cookie_foo,
`%{Foo}e` env_foo, `%{Foo}n` note_foo, `%p` server_port, `%I` request_length, `%O` bytes_sent, `%X` connection_status,
`%D` request_time_us, `%T` request_time_s, `%{ms}T` request_time_ms. These columns are bigint if the manual says that
they are integers, and string otherwise, `$request_time` too. A variable with the name of another column gets `var_` in
front. Of two equal fields the last one counts.

The fields are those of Apache's mod_log_config, `%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-agent}i"`; common ends
after `%b`. Parsers disagree about some lines. Here:

| line | result | because |
|---|---|---|
| `- - - [-] "-" - -`, no timestamp | rejected | a request without a timestamp belongs to no window |
| `""`, `"-"` or bytes as the request | method, path, protocol None | client, timestamp and status are real |
| `"GET /a b HTTP/1.1"`, a raw space | path `/a b` | neither method nor protocol can contain a space |
| `"GET /"`, no protocol | protocol None | HTTP/0.9; unless the path starts with `/` it is noise |
| `\" \\ \x16` in quotes | kept as logged | stays searchable as logged; `unescape` decodes it |
| a bare `"` inside quotes | rejected | servers escape it; which quote ends the field would be a guess |
| a user that starts with `- ` | rejected | there is a sixth field in front, such as the virtual host |
| text after the user agent | rejected | it is another format; half a record would hide that |
| status 600 to 999 | accepted | some servers log codes of their own |
| status 000 and 009 | 0 and 9 | nginx logs them if it sent no response |
| second 60 | the first second of the next minute | so is a leap second in POSIX time |
| several blanks between fields, one at the end | one, none | Jetty pads fields |
| a byte order mark in front | ignored | some writers put it in front of a file |
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import NamedTuple, TypeVar, get_args

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from ..columns import other_columns
from ..engine.chains import same_for_every_batch
from ..frames import FrameStream
from ._log_fields import Step
from ._log_formats import Format, check, reader

Lines = TypeVar("Lines", DataFrame, FrameStream)

_MAX_BYTES = 2**63 - 1  # Spark's BIGINT

_MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, start=1)}
_TIMESTAMP = re.compile(
    r"([0-9]{2})/([A-Z][a-z]{2})/([0-9]{4})"
    r":([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([01][0-9]|2[0-3])([0-5][0-9])"
)
# Each character can match in one place only, so backtracking fails at once: linear time, match or not.
_TO_CLOSING_QUOTE = re.compile(r'([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # token, RFC 9110 section 5.6.2
_PROTOCOL = re.compile(r"[A-Z]+/[0-9](?:\.[0-9])?")
_CLIENT = re.compile(r"[^ ]*(?:(?<=,) +[^ ]+)*")  # a list of proxies is one client
_IDENTITY = re.compile(r" +([^ ]+) +")
_REQUEST_OPENS = re.compile(r'\] +"')
_STATUS_AND_BYTES = re.compile(r" +([^ ]+) +([^ ]*)")
_QUOTE_OR_DASH = re.compile(r' +(?:"|-(?= |\Z))')
_STATUS = re.compile(r"[1-9][0-9]{2}|00[09]")
_UP_TO_19_DIGITS = re.compile(r"[0-9]{1,19}")
_ESCAPE = re.compile(r'((?:\\x[0-9A-Fa-f]{2})+)|\\(["\\bfnrtv])')
_ESCAPED = {'"': '"', "\\": "\\", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class Request(NamedTuple):
    """One request; fields logged as `-` or empty are None."""

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
    """A line that is not an access-log line: unchanged, with the first thing wrong, from left to right."""

    line: str
    reason: str


class _Malformed(Exception):
    """Carries the reason up to `parse_line`; never leaves this module."""


def parse_line(line: str) -> Request | Rejected:
    r"""Parse one line of a common or combined access log.

    >>> from sparkstream_kit.transforms.access_log import parse_line
    >>> parse_line('::1 - frank [10/Oct/2000:13:55:36 -0700] "GET /a?b=1 HTTP/1.0" 200 2326')
    ... # doctest: +NORMALIZE_WHITESPACE
    Request(client_ip='::1', identity=None, user='frank',
            timestamp=datetime.datetime(2000, 10, 10, 20, 55, 36, tzinfo=datetime.timezone.utc),
            method='GET', path='/a?b=1', protocol='HTTP/1.0', status=200, bytes=2326,
            referrer=None, user_agent=None)

    Escapes never end a field, and are kept as logged:

    >>> line = r'a.example - - [10/Oct/2000:13:55:36 +0000] "GET /\" HTTP/1.1" 200 - "-" "say \"hi\" \\"'
    >>> request = parse_line(line)
    >>> print(request.path, request.bytes, request.referrer, request.user_agent)
    /\" None None say \"hi\" \\

    A list of proxies is one client, a user may contain spaces, and noise in place of a request is still a record:

    >>> line = r'10.0.0.1, 10.0.0.2 - Ann Lee [10/Oct/2000:13:55:36 +0000] "\x16\x03\x01" 400 226'
    >>> request = parse_line(line)
    >>> print(request.client_ip, request.user, request.method, request.path, request.status, sep=" | ")
    10.0.0.1, 10.0.0.2 | Ann Lee | None | None | 400

    Any other line is returned whole, with the field that is wrong:

    >>> parse_line('::1 - - [31/Feb/2024:00:00:00 +0000] "GET / HTTP/1.1" 200 5').reason
    'timestamp is not a date that exists'
    >>> parse_line('not a log line')
    Rejected(line='not a log line', reason='timestamp is not in brackets')

    Line ends are dropped. Never raises.

    Cost: grows with the length of the line, in plain Python.
    """
    try:
        return _request(line.lstrip("\ufeff").rstrip(" \r\n"))
    except _Malformed as malformed:
        return Rejected(line, str(malformed))


def unescape(text: str) -> str:
    r"""Decode the server's escapes in a quoted field.

    >>> from sparkstream_kit.transforms.access_log import unescape
    >>> unescape(r'say \"hi\" \\ caf\xc3\xa9')
    'say "hi" \\ café'

    Adjacent `\xNN` are decoded as UTF-8, with U+FFFD for invalid bytes. Other backslashes are left alone.

    >>> unescape(r'\xff \q \x4 \\x41')
    '\ufffd \\q \\x4 \\x41'

    Cost: grows with the length of the text, in plain Python.
    """
    return _ESCAPE.sub(_decoded, text)


def _decoded(escape: re.Match[str]) -> str:
    hexadecimal, single = escape.groups()
    if hexadecimal:
        return bytes.fromhex(hexadecimal.replace("\\x", "")).decode("utf-8", "replace")
    return _ESCAPED[single]


def _request(line: str) -> Request:
    # A quote in a user's name is logged escaped, so the first `] "` ends the timestamp, whatever brackets precede it.
    request_opens = _REQUEST_OPENS.search(line)
    head, tail = (line[: request_opens.start()], line[request_opens.end() :]) if request_opens else (line, "")
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
    client = _CLIENT.match(before)
    assert client is not None, "the pattern matches nothing, too"
    identity = _IDENTITY.match(before, client.end())
    if identity is None:
        raise _Malformed("user is missing: fewer than three fields before the timestamp")
    user = before[identity.end() :].strip(" ")
    if user.startswith("- "):
        raise _Malformed("user starts with '- ': more than three fields before the timestamp")
    # Apache logs a user whose name is empty as `""`.
    return _known(client[0]), _known(identity[1]), None if user == '""' else _known(user)


def _timestamp(stamp: str) -> datetime:
    match = _TIMESTAMP.fullmatch(stamp)
    if match is None:
        raise _Malformed("timestamp is not dd/Mon/yyyy:hh:mm:ss +hhmm")
    day, month, year, hour, minute, second, sign, offset_hours, offset_minutes = match.groups()
    offset = timedelta(hours=int(offset_hours), minutes=int(offset_minutes))
    leap = timedelta(seconds=second == "60")  # as in POSIX, the first second of the next minute
    try:
        date = (int(year), _MONTHS[month], int(day))
        local = datetime(*date, int(hour), int(minute), int(second) - leap.seconds, tzinfo=timezone.utc)
        return (local - offset if sign == "+" else local + offset) + leap
    except (KeyError, ValueError, OverflowError):
        raise _Malformed("timestamp is not a date that exists") from None


def _quoted(text: str, start: int, name: str) -> tuple[str, int]:
    """The text from `start` to the closing quote, and the position after that quote."""
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
    if not _STATUS.fullmatch(text):
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
    opening = _QUOTE_OR_DASH.match(tail, start)
    if opening is None:
        raise _Malformed(f"{name} is not in quotes")
    if opening[0].endswith("-"):
        return "-", opening.end()
    return _quoted(tail, opening.end(), name)


def _known(field: str) -> str | None:
    return None if field in ("", "-") else field


def formats() -> list[str]:
    """The formats that have a name.

    >>> from sparkstream_kit.transforms import access_log
    >>> access_log.formats()
    ['combined', 'common', 'vhost_combined', 'main', 'traefik_common', 'caddy', 'traefik']

    Cost: grows with nothing.
    """
    return list(get_args(Format))


def check_format(format: Format | str) -> None:
    """Raise the UsageError that `parse` would raise, without Spark.

    >>> from sparkstream_kit.transforms import access_log
    >>> access_log.check_format("%h %Z")
    Traceback (most recent call last):
    ...
    sparkstream_kit.errors.UsageError: got %Z in the format, which is not a directive of Apache: ...

    Cost: grows with the length of the format.
    """
    check(format)


# --- in Spark ----------------------------------------------------------------------------------------------------


@same_for_every_batch
def parse(lines: DataFrame, format: Format | str = "combined") -> DataFrame:
    r"""Parse access-log lines into requests; other lines are dropped.

    >>> import sparkstream_kit as ss
    >>> spark = getfixture("spark")
    >>> line = '::1 - frank [10/Oct/2000:13:55:36 -0700] "GET /a?b=1 HTTP/1.0" 200 2326 "-" "curl/8.5"'
    >>> lines = spark.createDataFrame([(line,), ("not a log line",)], "value string")
    >>> requests = ss.transforms.access_log.parse(lines)
    >>> requests.select("client_ip", "user", "path", "status", "bytes").collect()
    [Row(client_ip='::1', user='frank', path='/a?b=1', status=200, bytes=2326)]

    Columns in: value: string. Columns out: the other columns of `lines`, then client_ip, identity, user: string;
    timestamp: timestamp; method, path, protocol: string; status: int; bytes: bigint; referrer, user_agent: string. They
    are the fields of `Request`, null if logged as `-` or empty. Null lines are ignored.

    `format` is one of `formats()`, or a format string of Apache or nginx, as the docstring of the module describes.
    Fields that it lacks are null; those that have no column above follow, with names as in nginx:

    >>> line = ('192.0.2.1 - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.1" 200 5 0.003 "10.0.0.1, 10.0.0.2"',)
    >>> format = '$remote_addr - $remote_user [$time_local] "$request" $status $bytes_sent $request_time "$http_foo"'
    >>> requests = ss.transforms.access_log.parse(spark.createDataFrame([line], "value string"), format)
    >>> requests.select("client_ip", "bytes", "request_time", "http_foo").collect()
    [Row(client_ip='192.0.2.1', bytes=5, request_time='0.003', http_foo='10.0.0.1, 10.0.0.2')]

    Columns that are not used are not computed, and which lines are valid does not depend on the columns used.

    Raises UsageError for an unknown name, and for a format string with a directive that does not exist, with a field
    whose end nothing tells, or with times that are not complete: without date, time of day or zone.

    Cost: grows with the bytes of the lines and the number of columns used.
    """
    rules = reader(lines.sparkSession.sparkContext, format)
    kept = other_columns(lines, "value", *rules.columns)
    requests = _added(lines, rules.cut).filter(rules.valid)
    for step in rules.fields:
        requests = requests.select(*kept, *step.values())
    return requests


@same_for_every_batch
def rejected(lines: DataFrame, format: Format | str = "combined") -> DataFrame:
    r"""The lines that `parse` drops, with the reason: the first thing wrong, from left to right.

    >>> import sparkstream_kit as ss
    >>> lines = getfixture("spark").createDataFrame([("not a log line",)], "value string")
    >>> ss.transforms.access_log.rejected(lines).collect()
    [Row(line='not a log line', reason='timestamp is not in brackets')]

    Columns in: value: string. Columns out: the other columns of `lines`, such as the file a line is from, then line:
    string, unchanged, and reason: string, the same as from `parse_line`; for a format string it names the directive at
    which the line stops matching.

    Raises UsageError as `parse` does.

    Cost: grows with the bytes of the lines.
    """
    rules = reader(lines.sparkSession.sparkContext, format)
    kept = other_columns(lines, "value", "line", "reason")
    others = _added(lines, rules.cut).filter(~rules.valid & F.col("value").isNotNull())
    return _added(others, rules.reason).select(*kept, F.col("value").alias("line"), "reason")


def _added(frame: DataFrame, steps: Iterable[Step]) -> DataFrame:
    for step in steps:
        frame = frame.select("*", *step.values())
    return frame


def split(lines: Lines, format: Format | str = "combined") -> tuple[Lines, Lines]:
    """Both results for a DataFrame or a FrameStream: (`parse`, `rejected`).

    >>> import sparkstream_kit as ss
    >>> lines = getfixture("spark").createDataFrame([("not a log line",)], "value string")
    >>> requests, rejected = ss.transforms.access_log.split(lines)
    >>> requests.count(), rejected.count()
    (0, 1)

    Each of the two reads the lines again: if both are used and reading is slow, call `cache` on the lines first.

    Raises UsageError as `parse` does.

    Cost: grows with the bytes of the lines, read once for each result that is used.
    """
    parsed, failed = (
        lines.transform(functools.partial(parse, format=format)),
        lines.transform(functools.partial(rejected, format=format)),
    )
    if isinstance(failed, FrameStream):
        failed.rejects = True
    return parsed, failed


def split_query(path: Column) -> tuple[Column, Column]:
    """Split a request target into two columns: path, and the query after the first `?`, null without one.

    >>> import sparkstream_kit as ss
    >>> requests = getfixture("spark").createDataFrame([("/a?b=1?2",), ("/a?",), ("/a",)], "path string")
    >>> path, query = ss.transforms.access_log.split_query(requests.path)
    >>> [tuple(row) for row in requests.select(path, query).collect()]
    [('/a', 'b=1?2'), ('/a', ''), ('/a', None)]

    Both are strings, as RFC 3986, 3.4 defines them.

    Cost: grows with the bytes of the column.
    """
    before = F.substring_index(path, "?", 1)
    return before, F.when(path.contains("?"), F.substr(path, F.char_length(before) + 2))


def unescaped(text: Column) -> Column:
    r"""`unescape` as a column expression: string.

    >>> import sparkstream_kit as ss
    >>> frame = getfixture("spark").createDataFrame([(r'say \"hi\" \\ caf\xc3\xa9 100%',)], "text string")
    >>> print(frame.select(ss.transforms.access_log.unescaped(frame.text)).first()[0])
    say "hi" \ café 100%

    The two may differ in the number of U+FFFD for bytes that are not UTF-8.

    Cost: grows with the bytes of the column.
    """
    # Rewritten as a URL, whose decoder knows escaped bytes. Backslashes pair from the left, so pairs go first.
    url = text
    for plain, encoded in {"%": "%25", "+": "%2B", "\\\\": "%5C"}.items():
        url = F.replace(url, F.lit(plain), F.lit(encoded))
    url = F.regexp_replace(url, r"\\x([0-9A-Fa-f]{2})", "%$1")
    for letter in '"bfnrtv':
        url = F.replace(url, F.lit(f"\\{letter}"), F.lit(_ESCAPED[letter]))
    return F.when(text.contains("\\"), F.url_decode(url)).otherwise(text)
