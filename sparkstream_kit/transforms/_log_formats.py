"""Access-log formats as Spark expressions, which `access_log` applies to DataFrames.

Every format is read in the same steps. The line is cut into parts, once; the parts decide whether it is valid; then
each field is extracted as logged and converted to its type. Escaped quotes are masked first, so that from then on every
quote delimits a field, and the steps are cuts at quotes and spaces. Those cost a fraction of a regular expression over
the line, and the usual formats need none.
"""

from __future__ import annotations

import functools
import re
from typing import Literal, NamedTuple, get_args

from pyspark import SparkContext
from pyspark.sql import Column
from pyspark.sql import functions as F

from ..errors import UsageError

Format = Literal["combined", "common", "vhost_combined"]
"""The formats that have a name; any other string is a LogFormat."""

PIECES, PARTS = "_log_pieces", "_log_parts"
_VHOST_COMBINED = '%v:%p %h %l %u %t "%r" %>s %O "%{Referer}i" "%{User-Agent}i"'
_NOTHING = ("", "-")


class Reader(NamedTuple):
    """The expressions that read one format."""

    pieces: Column  # from value: whatever the next step needs several times, named PIECES
    parts: Column  # from value and PIECES: the line cut up, array<string>, named PARTS
    valid: Column  # from PARTS: whether the line is in this format
    texts: dict[str, Column]  # from PARTS: each field as logged, under names that no frame has
    columns: dict[str, Column]  # from the texts: each field with its type
    reason: Column  # from PIECES and PARTS: why the line is not valid


@functools.lru_cache(maxsize=16)
def reader(_: SparkContext, format: Format | str) -> Reader:
    """The expressions for a format, built once per context because they hold objects of its JVM."""
    if format in ("combined", "common"):
        return _combined()
    return _log_format(_VHOST_COMBINED if format == "vhost_combined" else format)


# --- patterns ----------------------------------------------------------------------------------------------------
#
# Linear time: [^"]* before a quote can stop in one place only, and whatever could stop in several places is possessive.
# A repeated group must be possessive, too: Java repeats those in a loop, and others by recursion.

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_OF_31_DAYS = "Jan|Mar|May|Jul|Aug|Oct|Dec"
_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = (
    f"(?:(?:0[1-9]|1[0-9]|2[0-8])/(?:{'|'.join(_MONTHS)})/(?!0000)[0-9]{{4}}"
    f"|(?:29|30)/(?:{_OF_31_DAYS}|Apr|Jun|Sep|Nov)/(?!0000)[0-9]{{4}}"
    f"|31/(?:{_OF_31_DAYS})/(?!0000)[0-9]{{4}}|29/Feb/(?!0000){_LEAP_YEAR})"
)
_OFFSET = "[+-](?:[01][0-9]|2[0-3])[0-5][0-9]"
_ANY_STAMP = f"[0-9]{{2}}/[A-Z][a-z]{{2}}/[0-9]{{4}}(?::[0-9]{{2}}){{3}} {_OFFSET}"
_STAMP = f"{_DATE}:(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9] {_OFFSET}"

_CLIENT = '[^ "]*(?:(?<=,) [^ "]*+)*+'  # a token that ends in a comma continues in the next
_IDENTITY = '[^ "]*'
_TEXT = '"[^"]*"'
_STATUS = "(?:[1-9][0-9]{2}|-)"
_BIGINT = str(2**63 - 1)
_BYTES = "(?:[0-9]{{1,18}}|-|{}|{})(?![^ ])".format(
    "|".join(f"{_BIGINT[:i]}[0-{int(d) - 1}][0-9]{{{18 - i}}}" for i, d in enumerate(_BIGINT) if d != "0"), _BIGINT
)

_BEFORE = f'\\A{_CLIENT} {_IDENTITY} (?!- [^"]* \\[)[^"]* \\['
_REQUEST = f'\\A[^"]*{_TEXT}'
_NUMBERS = f"{_REQUEST} {_STATUS} {_BYTES}"
_REFERRER = f"{_NUMBERS}(?:\\z| {_TEXT}| -(?![^ ]))"
_USER_AGENT = f"{_NUMBERS}(?:\\z| (?:{_TEXT}|-) (?:{_TEXT}|-(?![^ ])))"
_BEFORE_STAMP = f'\\A{_CLIENT} {_IDENTITY} (?:- \\[|(?!- )[^"]* \\[)'  # what _BEFORE finds in front of a timestamp
_LINE = f"{_BEFORE_STAMP}{_STAMP}\\] {_TEXT} {_STATUS} {_BYTES}(?: (?:{_TEXT}|-) (?:{_TEXT}|-))?\\z"

# Each reason, with a pattern for lines that are valid up to that point.
_UP_TO_TIMESTAMP = {
    "timestamp is not in brackets": '\\A[^"]* \\[',
    "request is not in quotes after the timestamp": '\\A[^"]*\\] "',
    "user is missing: fewer than three fields before the timestamp": f'\\A{_CLIENT} {_IDENTITY} [^"]* \\[',
    "user starts with '- ': more than three fields before the timestamp": _BEFORE,
    "timestamp is not dd/Mon/yyyy:hh:mm:ss +hhmm": f'\\A[^"]* \\[{_ANY_STAMP}\\] "',
    "timestamp is not a date that exists": f'\\A[^"]* \\[{_STAMP}\\] "',
}
_FROM_REQUEST = {
    "request has no closing quote": _REQUEST,
    "status and bytes do not follow the request": f"{_REQUEST} [^ ]* ",
    "status is not a number from 100 to 999": f"{_REQUEST} {_STATUS} ",
    "bytes is not a number from 0 to 2**63 - 1": _NUMBERS,
    "referrer is not in quotes": f'{_NUMBERS}(?:\\z| "| -(?![^ ]))',
    "referrer has no closing quote": _REFERRER,
    "user agent is not in quotes": f'{_NUMBERS}(?:\\z| (?:{_TEXT}|-) (?:"|-(?![^ ])))',
    "user agent has no closing quote": _USER_AGENT,
}


# --- common and combined -----------------------------------------------------------------------------------------


def _combined() -> Reader:
    pieces = F.split("value", '"').alias(PIECES)
    # Unless a quote is escaped or comes too early, which is rare, the pieces are the parts.
    first, *others = (F.get(PIECES, F.lit(i)) for i in (0, 1, 3, 5))
    is_plain = first.endswith("] ") & ~first.startswith(_MARK)
    for ending in ("\n", "\r"):
        is_plain &= ~F.col("value").endswith(ending)
    for text in others:
        is_plain &= ~F.coalesce(text.endswith("\\"), F.lit(False))
    cut = F.when(is_plain, F.col(PIECES)).otherwise(F.split(_masked(F.col("value")), '"'))

    head, request, numbers, third, fourth, fifth, sixth = (F.get(PARTS, F.lit(i)) for i in range(7))
    is_masked = head.startswith(_MARK)
    start = F.when(is_masked, 2).otherwise(1)
    stamp = F.substring(head, -28, 26)
    # The line without its quoted texts. One more quote would make the number of parts even.
    outline = F.concat_ws('"', head, numbers, fourth, sixth)
    line = _LINE.replace(_TEXT, '"')
    usual = line.replace("(?!0000)", "(?!0000|0001|9999)")
    shape = outline.rlike(usual) | (outline.rlike(line) & _is_in_range(stamp))
    valid = F.size(PARTS).isin(3, 5, 7) & shape
    whole = F.array_join(PARTS, '"')
    texts = {
        "who": _unmasked(head.substr(start, F.char_length(head) - start - 29), is_masked),
        "stamp": stamp,
        "request": _unmasked(request, is_masked),
        "status": _word(numbers, 2),
        "bytes": _word(numbers, 3),
        # `"r" "a"` makes seven parts; `"r" -` makes five, the last of them ` -`; `- "a"` five, the last of them empty.
        "referrer": _unmasked(F.when(fourth != "", third), is_masked),
        "user_agent": _unmasked(F.when(fourth == "", third).otherwise(fifth), is_masked),
    }
    texts = {f"_log_{name}": text for name, text in texts.items()}
    who = F.col("_log_who")
    columns = {
        **_client_identity_user(who),
        "timestamp": _timestamp(F.col("_log_stamp")),
        **_request(F.col("_log_request")),
        "status": F.col("_log_status").try_cast("int"),
        "bytes": F.col("_log_bytes").try_cast("bigint"),
        "referrer": _known(F.col("_log_referrer")),
        "user_agent": _known(F.col("_log_user_agent")),
    }
    checks = [(whole.rlike(pattern), reason) for reason, pattern in _UP_TO_TIMESTAMP.items()]
    checks.append((_is_in_range(stamp), "timestamp is not a date that exists"))
    checks += [(whole.rlike(pattern), reason) for reason, pattern in _FROM_REQUEST.items()]
    reason = _first_failing(checks, "user agent is not the end of the line")
    return Reader(pieces, _once(cut), valid, texts, columns, reason)


def _once(cut: Column) -> Column:
    # Exploding an array of one makes Spark compute it once; a plain expression would be copied into the filter.
    return F.explode(F.array(cut)).alias(PARTS)


def _first_failing(checks: list[tuple[Column, str]], last: str) -> Column:
    reason = F.lit(last)
    for holds, name in reversed(checks):
        reason = F.when(holds, reason).otherwise(F.lit(name))
    return reason


# A character that servers always escape marks what is masked: in a masked line a digit follows it.
_MARK = "\x1a"
_ESCAPES = {_MARK: "0", "\\\\": "1", '\\"': "2"}  # in this order; backslashes pair from the left
_QUOTE = f"{_MARK}3"


def _without_escapes(line: Column) -> Column:
    for text, digit in _ESCAPES.items():
        line = _replace(line, text, _MARK + digit)
    return line


def _without_line_end(line: Column) -> Column:
    return F.when(line.endswith("\n") | line.endswith("\r"), F.rtrim(line, F.lit("\r\n"))).otherwise(line)


def _masked(line: Column) -> Column:
    """A mark, then the line with escapes masked, and with any quotes masked that precede the request's own."""
    line = _without_escapes(_without_line_end(line))
    before = F.substring_index(line, '] "', 1)
    return F.concat(F.lit(_MARK), _replace(before, '"', _QUOTE), F.substr(line, F.char_length(before) + 1))


def _unmasked(text: Column, is_masked: Column) -> Column:
    original = _replace(text, _QUOTE, '"')
    for escape, digit in reversed(_ESCAPES.items()):
        original = _replace(original, _MARK + digit, escape)
    return F.when(is_masked, original).otherwise(text)


# --- fields ------------------------------------------------------------------------------------------------------


def _client_identity_user(who: Column) -> dict[str, Column]:
    # The client is more than the first word only if there is a comma and a space.
    several, two = who.contains(", "), F.substring_index(who, " ", 2)
    cuts = (F.substring_index(who, " ", 1), F.substring_index(two, " ", -1), F.substr(who, F.char_length(two) + 2))
    fields = {}
    for group, (name, cut) in enumerate(zip(("client_ip", "identity", "user"), cuts, strict=True), start=1):
        general = F.regexp_extract(who, f"(?s)\\A({_CLIENT_RAW}) ([^ ]*+) (.*)\\z", group)
        fields[name] = _known(F.when(several, general).otherwise(cut))
    # Apache logs a user whose name is empty as `""`.
    fields["user"] = F.nullif(fields["user"], F.lit('""'))
    return fields


_CLIENT_RAW = "[^ ]*+(?:(?<=,) [^ ]*+)*+"
_TOKEN = "\\A[!#$%&'*+.^_`|~0-9A-Za-z-]+\\z"  # RFC 9110, 5.6.2
_PROTOCOL = "\\A[A-Z]+/[0-9](?:\\.[0-9])?\\z"


def _request(request: Column) -> dict[str, Column]:
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
        "path": F.when(is_request, _known(path)),
        "protocol": F.when(is_token & has_protocol, last),
    }


_SPARK_STAMP = "dd/MMM/yyyy:HH:mm:ss Z"


def _two_digits(stamp: Column, position: int) -> Column:
    return F.substring(stamp, position, 2).try_cast("int")


def _offset_minutes(stamp: Column) -> Column:
    minutes = _two_digits(stamp, 23) * 60 + _two_digits(stamp, 25)
    return F.when(F.substring(stamp, 22, 1) == "-", -minutes).otherwise(minutes)


def _timestamp(stamp: Column) -> Column:
    # Spark only parses offsets below 18 hours.
    as_utc = F.try_to_timestamp(F.concat(F.substring(stamp, 1, 21), F.lit("+0000")), F.lit(_SPARK_STAMP))
    shifted = F.timestamp_seconds(F.unix_seconds(as_utc) - _offset_minutes(stamp) * 60)
    is_usual = F.substring(stamp, 23, 2) < "18"
    return F.when(is_usual, F.try_to_timestamp(stamp, F.lit(_SPARK_STAMP))).otherwise(shifted)


def _is_in_range(stamp: Column) -> Column:
    """Whether a well-formed timestamp is in the years 1 to 9999, the range of datetime, in UTC too."""
    first, last = stamp.startswith("01/Jan/0001"), stamp.startswith("31/Dec/9999")
    minutes = _two_digits(stamp, 13) * 60 + _two_digits(stamp, 16) - _offset_minutes(stamp)
    fits = F.when(first, minutes >= 0).when(last, minutes < 24 * 60).otherwise(F.lit(True))
    return F.when(F.substring(stamp, 8, 4).isin("0001", "9999"), fits).otherwise(F.lit(True))


def _known(text: Column) -> Column:
    return F.when(~text.isin(*_NOTHING), text)


def _word(text: Column, number: int) -> Column:
    return F.substring_index(F.substring_index(text, " ", number), " ", -1)


def _replace(text: Column, old: str, new: str) -> Column:
    return F.replace(text, F.lit(old), F.lit(new))


# --- Apache's LogFormat ------------------------------------------------------------------------------------------

_DIRECTIVE = re.compile(r"%U%q|%%|%[<>]?(?:!?[0-9]+(?:,[0-9]+)*)?(?:\{[^}]*\})?\^?[A-Za-z]")
_BORDER = f"{_MARK},"  # in no line, since a mark is followed by a digit

# The field that a directive logs and its pattern, or None for anything up to the next space or quote (mod_log_config,
# "Custom Log Formats"). Directives that are not listed must match, but are not returned.
_DIRECTIVES: dict[str, tuple[str, str | None]] = {
    "%h": ("client_ip", _CLIENT),
    "%a": ("client_ip", _CLIENT),
    "%l": ("identity", None),
    "%u": ("user", None),
    "%t": ("stamp", _STAMP),
    "%r": ("request", None),
    "%m": ("method", None),
    "%U": ("path", None),
    "%U%q": ("path", None),
    "%H": ("protocol", None),
    "%s": ("status", _STATUS),
    "%b": ("bytes", _BYTES),
    "%B": ("bytes", _BYTES),
    "%O": ("bytes", _BYTES),
    "%{referer}i": ("referrer", None),
    "%{user-agent}i": ("user_agent", None),
    "%v": ("virtual_host", None),
    "%V": ("virtual_host", None),
}
_NUMBER_DIRECTIVES = ("%p", "%D", "%T", "%I", "%S", "%P", "%k")


def _log_format(format: str) -> Reader:
    names, directives = _compiled(format)
    pieces = _without_escapes(_without_line_end(F.col("value"))).alias(PIECES)
    line = F.col(PIECES)
    groups = "".join(f"{_BORDER}${i}" for i in range(1, len(names) + 1))
    pattern = "\\A" + "".join(piece for _, piece in directives) + "\\z"
    # The pattern runs once per line: a line that does not match stays as it is, without a border.
    cut = F.split(F.regexp_replace(line, pattern, groups), _BORDER)

    def part(name: str) -> Column:
        return F.get(PARTS, F.lit(names.index(name) + 1))

    texts = {f"_log_{name}": _unmasked(part(name), part(name).contains(_MARK)) for name in names}
    valid = F.size(PARTS) == len(names) + 1
    checks = [
        (
            line.rlike("\\A" + "".join(piece for _, piece in directives[: i + 1])),
            f"line does not match the format at {name}",
        )
        for i, (name, _) in enumerate(directives)
    ]
    reason = _first_failing(checks, "line goes on after the end of the format")
    if "stamp" in names:
        in_range = _is_in_range(part("stamp"))
        valid &= in_range
        reason = F.when(in_range, reason).otherwise("timestamp is not a date that exists")
    return Reader(pieces, _once(cut), valid, texts, _columns(names), reason)


def _columns(names: list[str]) -> dict[str, Column]:
    def text(name: str) -> Column:
        return F.col(f"_log_{name}") if name in names else F.lit(None).cast("string")

    request = _request(text("request")) if "request" in names else {}
    return {
        **({"virtual_host": _known(text("virtual_host"))} if "virtual_host" in names else {}),
        "client_ip": _known(text("client_ip")),
        "identity": _known(text("identity")),
        "user": F.nullif(_known(text("user")), F.lit('""')),
        "timestamp": _timestamp(text("stamp")),
        **{name: request.get(name, _known(text(name))) for name in ("method", "path", "protocol")},
        "status": text("status").try_cast("int"),
        "bytes": text("bytes").try_cast("bigint"),
        "referrer": _known(text("referrer")),
        "user_agent": _known(text("user_agent")),
    }


def _compiled(format: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The names of the groups, in order, and each directive with the pattern for it and the text after it."""
    plain = format.replace('\\"', '"').replace("\\t", "\t")
    directives = list(_DIRECTIVE.finditer(plain))
    if not directives:
        raise UsageError(
            f"got the format {format!r}, expected {', '.join(get_args(Format))} or an Apache LogFormat string, "
            """for example '%h %l %u %t "%r" %>s %b'"""
        )
    names: list[str] = []
    pieces = [("its beginning", re.escape(plain[: directives[0].start()]))]
    ends = [directive.start() for directive in directives[1:]] + [len(plain)]
    for directive, end in zip(directives, ends, strict=True):
        after = plain[directive.end() : end]
        in_quotes = plain.count('"', 0, directive.start()) % 2 == 1
        before_time = not in_quotes and plain.startswith(" %t", directive.end())
        name, pattern = _piece(directive[0], after, in_quotes, before_time)
        if name is not None and name not in names:
            names.append(name)
            pattern = f"({pattern})"
        if name == "stamp":
            pattern = f"\\[{pattern}\\]"
        pieces.append((directive[0], pattern + re.escape(after)))
    return names, pieces


def _piece(directive: str, after: str, in_quotes: bool, before_time: bool) -> tuple[str | None, str]:
    if directive == "%%":
        return None, "%"
    if directive.endswith("}t"):
        raise UsageError(f"got {directive} in the format, expected %t: custom time formats are not supported")
    key = re.sub(r"^%[<>!0-9,]*", "%", directive)
    name, pattern = _DIRECTIVES.get(key.lower() if key.endswith("}i") else key, (None, None))
    if key in _NUMBER_DIRECTIVES:
        pattern = "[0-9-]*"
    elif name == "user" and before_time:
        pattern = '(?!- [^"]* \\[)[^"]*'  # it may contain spaces
    elif name != "virtual_host" and pattern is None:
        # It ends at the character that follows, so it can match in one way only.
        pattern = '[^"]*' if in_quotes else f'[^ "{re.escape(after[:1])}]*'
    return name, pattern or '[^ "]*'
