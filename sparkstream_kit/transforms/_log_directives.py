r"""Format strings of servers: what each directive logs, and the regular expression for a line. Plain Python.

A string with a `$variable` is a log_format of nginx, one with a `%` a LogFormat of Apache. The directives are those of
mod_log_config, mod_logio and mod_ssl, with the grammar of `parse_log_item` in mod_log_config.c of httpd 2.4: after the
`%` come `!`, `<`, `>`, status codes and `{argument}` in any order, the last argument counts. The variables are those of
ngx_http_log_module.c and of the "Alphabetical index of variables" of nginx.

**Columns.** A field has the name that nginx gives its variable, for both servers: `%{X-Request-Id}i` is
`http_x_request_id`. `_SOURCES` says which fields give the columns that all formats have, the others keep their names.
"""

from __future__ import annotations

import functools
import itertools
import re
from typing import NamedTuple

from ..errors import UsageError
from ._log_fields import BYTES, CLIENT, FIELDS, STAMP, STATUS

# For each column, the fields that give it, best first. What a client sends, such as X-Forwarded-For, comes last.
_SOURCES = {
    "virtual_host": ("server_name", "host"),
    "client_ip": (
        *("remote_addr", "remote_host", "proxy_add_x_forwarded_for", "http_x_forwarded_for", "http_x_real_ip"),
        *("realip_remote_addr", "peer_host"),
    ),
    "identity": ("remote_logname",),
    "user": ("remote_user",),
    "timestamp": ("time_local", "time_iso8601"),
    "request": ("request",),
    "method": ("request_method",),
    "path": ("request_uri", "uri", "document_uri"),
    "protocol": ("server_protocol",),
    "status": ("status",),
    "bytes": ("body_bytes_sent", "bytes_sent"),
    "referrer": ("http_referer",),
    "user_agent": ("http_user_agent",),
}
_FROM_REQUEST = ("method", "path", "protocol")


class Field(NamedTuple):
    """What a directive logs."""

    name: str
    kind: str  # how it is written, see _pattern
    time: str = ""  # of a time: a strftime format, or a word such as sec


class Directive(NamedTuple):
    """A directive in its place in a format string."""

    text: str  # as written
    field: Field
    in_quotes: bool
    after: str  # the literal text that follows
    following: Field | None  # the field after that text


class Compiled(NamedTuple):
    """A format string as a regular expression."""

    columns: list[str]  # one for each group of the expression; those of a time are `time:day` and so on
    kinds: dict[str, str]  # of the columns that only some formats have
    pieces: list[tuple[str, str]]  # each directive as written, and the expression for it and the text after it


# --- Apache ------------------------------------------------------------------------------------------------------

CLF = "%d/%b/%Y:%H:%M:%S %z"
_APACHE: dict[str, Field | dict[str, Field]] = {
    "a": {"": Field("remote_addr", "address"), "c": Field("realip_remote_addr", "address")},
    "A": Field("server_addr", "word"),
    "b": Field("body_bytes_sent", "bytes"),
    "B": Field("body_bytes_sent", "bytes"),
    "c": Field("ssl_{}", "text"),
    "C": Field("cookie_{}", "text"),
    "D": Field("request_time_us", "integer"),
    "e": Field("env_{}", "text"),
    "f": Field("request_filename", "text"),
    "h": {"": Field("remote_host", "address"), "c": Field("peer_host", "address")},
    "H": Field("server_protocol", "word"),
    "i": Field("http_{}", "text"),
    "I": Field("request_length", "bytes"),
    "k": Field("keepalive_requests", "integer"),
    "l": Field("remote_logname", "word"),
    "L": Field("log_id", "word"),
    "m": Field("request_method", "word"),
    "n": Field("note_{}", "text"),
    "o": Field("sent_http_{}", "text"),
    "O": Field("bytes_sent", "bytes"),
    "p": {
        "": Field("server_port", "integer"),
        "canonical": Field("server_port", "integer"),
        "local": Field("local_port", "integer"),
        "remote": Field("remote_port", "integer"),
    },
    "P": {
        "": Field("pid", "integer"),
        "pid": Field("pid", "integer"),
        "tid": Field("tid", "integer"),
        "hextid": Field("hextid", "word"),
    },
    "q": Field("query", "query"),
    "r": Field("request", "request"),
    "R": Field("handler", "text"),
    "s": Field("status", "status"),
    "S": Field("bytes_transferred", "bytes"),
    "T": {
        "": Field("request_time_s", "integer"),
        "s": Field("request_time_s", "integer"),
        "ms": Field("request_time_ms", "integer"),
        "us": Field("request_time_us", "integer"),
    },
    "u": Field("remote_user", "user"),
    "U": Field("uri", "path"),
    "v": Field("server_name", "word"),
    "V": Field("host", "word"),
    "x": Field("ssl_{}", "text"),
    "X": Field("connection_status", "word"),
    "^FB": Field("time_to_first_byte_us", "integer"),
    "^ti": Field("trailer_{}", "text"),
    "^to": Field("sent_trailer_{}", "text"),
}
_APACHE_DIRECTIVE = re.compile(r"%%|%((?:[!<>,0-9]|\{[^}]*\})*)(\^[A-Za-z]{2}|.|\Z)", re.DOTALL)


def _apache(match: re.Match[str]) -> Field | None:
    text, modifiers, letter = match[0], match[1], match[2]
    if text == "%%":
        return None
    argument = (re.findall(r"\{([^}]*)\}", modifiers) or [""])[-1]
    if letter == "t":
        return _apache_time(text, argument)
    field = _APACHE.get(letter)
    if field is None:
        raise UsageError(
            f"got {text or '%'} in the format, which is not a directive of Apache: write a literal percent sign as %%, "
            "and a field of another server as %{NAME}n"
        )
    if isinstance(field, dict):
        if argument.lower() not in field:
            arguments = " or ".join(f"%{{{argument}}}{letter}" for argument in field if argument)
            raise UsageError(f"got {text} in the format, expected %{letter} or {arguments}")
        return field[argument.lower()]
    if "{}" in field.name:
        slug = _slug(argument).removeprefix("ssl_") if field.name.startswith("ssl") else _slug(argument)
        if not slug:
            raise UsageError(f"got {text} in the format, expected %{{NAME}}{letter}")
        field = field._replace(name=field.name.format(slug))
    if field.name in _ADDRESSES:
        field = field._replace(kind="address")
    return field


def _slug(argument: str) -> str:
    return re.sub("[^a-z0-9]+", "_", argument.lower()).strip("_")


def _apache_time(text: str, argument: str) -> Field:
    start, colon, rest = argument.partition(":")
    format = rest if colon and start in ("begin", "end") else argument
    if format == "%s":  # the same, by strftime of the C library
        format = "sec"
    if format in ("", "begin", "end"):
        name = f"time_{argument}" if argument == "end" else "time_local"
        return Field(name, "time", f"[{CLF}]")
    return Field(f"time_{_slug(argument)}", "time", format)


# --- nginx -------------------------------------------------------------------------------------------------------

_ADDRESSES = ("http_x_forwarded_for", "http_x_real_ip")
_NGINX = {
    **{name: Field(name, "bytes") for name in ("body_bytes_sent", "bytes_sent", "request_length")},
    **{
        name: Field(name, "integer")
        for name in ("connection", "connection_requests", "pid", "remote_port", "server_port")
    },
    **{
        name: Field(name, "address")
        for name in ("remote_addr", "realip_remote_addr", "proxy_add_x_forwarded_for", *_ADDRESSES)
    },
    **{name: Field(name, "path") for name in ("request_uri", "uri", "document_uri")},
    **{name: Field(name, "word") for name in ("request_method", "server_protocol", "server_name", "host")},
    **{name: Field(name, "query") for name in ("is_args", "args", "query_string")},
    "remote_user": Field("remote_user", "user"),
    "request": Field("request", "request"),
    "status": Field("status", "status"),
    "time_local": Field("time_local", "time", CLF),
    "time_iso8601": Field("time_iso8601", "time", "%Y-%m-%dT%H:%M:%S%z"),
    "msec": Field("msec", "time", "seconds"),
}
_NGINX_DIRECTIVE = re.compile(r"\$(?:\{([A-Za-z0-9_]+)\}|([A-Za-z0-9_]+)|)")


def _nginx(match: re.Match[str]) -> Field:
    name = (match[1] or match[2] or "").lower()
    if not name:
        raise UsageError("got $ without a name in the format, expected a variable of nginx, such as $status")
    return _NGINX.get(name) or Field(name, "list" if name.startswith("upstream_") else "text")


# --- times -------------------------------------------------------------------------------------------------------

_STRFTIME = {
    "b": ("month_name", "[A-Z][a-z]{2}"),
    "d": ("day", "[0-9]{2}"),
    "H": ("hour", "[0-9]{2}"),
    "m": ("month", "[0-9]{2}"),
    "M": ("minute", "[0-9]{2}"),
    "S": ("second", "[0-9]{2}"),
    "Y": ("year", "[0-9]{4}"),
    "z": ("offset", "[+-][0-9]{2}:?[0-9]{2}"),
}
_SHORT = {"%F": "%Y-%m-%d", "%T": "%H:%M:%S"}
COUNTERS = {
    "sec": "[0-9]{1,11}",
    "msec": "[0-9]{1,14}",
    "usec": "[0-9]{1,17}",
    "seconds": "[0-9]{1,11}\\.[0-9]{3}",
}
_FRACTIONS = {"msec_frac": "[0-9]{3}", "usec_frac": "[0-9]{6}"}
_FULL_TIME = {"day", "month", "year", "hour", "minute", "second", "offset"}


def _time(directive: Directive) -> list[tuple[str, str]]:
    """The parts of a time and their patterns; a literal text has no name."""
    format = directive.field.time
    if format in COUNTERS:
        return [(format, COUNTERS[format])]
    if format in _FRACTIONS:
        return [("", _FRACTIONS[format])]
    if format.strip("[]") == CLF:
        return [("", "\\["), ("stamp", STAMP), ("", "\\]")] if format != CLF else [("stamp", STAMP)]
    for short, long in _SHORT.items():
        format = format.replace(short, long)
    parts = []
    for code, text in re.findall("%(.?)|([^%]+)", format):
        if not text and code not in _STRFTIME:
            codes = ", ".join(f"%{code}" for code in sorted([*_STRFTIME, *(s[1] for s in _SHORT)]))
            raise UsageError(
                f"got {directive.text} in the format, expected sec, msec, usec, or a time made of {codes}; or log %t"
            )
        parts.append(("", re.escape(text)) if text else _STRFTIME[code])
    return parts


def _is_full(directive: Directive) -> bool:
    """Whether a time says which instant it is."""
    names = {name.removesuffix("_name") for name, _ in _time(directive)}
    return bool(names & {"stamp", *COUNTERS}) or names >= _FULL_TIME


# --- format strings ----------------------------------------------------------------------------------------------


def is_format_string(format: str) -> bool:
    """Whether it is a format string, not a name."""
    return "%" in format or "$" in format


@functools.lru_cache(maxsize=16)
def compiled(format: str) -> Compiled:
    """The regular expression for a format string, in the syntax of Java.

    >>> compiled("%h %>s").columns, compiled("$remote_addr $request_time").columns
    (['client_ip', 'status'], ['client_ip', 'request_time'])

    Raises UsageError for a directive that does not exist, or whose end nothing tells.
    """
    beginning, directives = split(format)
    if not directives:
        raise UsageError(f"got the format {format!r}, expected at least one directive, such as %h or $remote_addr")
    given = given_columns(directives)
    columns: list[str] = []
    kinds: dict[str, str] = {}
    pieces = [("its beginning", _literal(beginning, False, _may_be_empty(directives[0])))]
    for number, (directive, following) in enumerate(itertools.zip_longest(directives, directives[1:])):
        column = given.get(number)
        if column == "timestamp":
            pattern = "".join(f"({part})" if name else part for name, part in _time(directive))
            columns += [f"time:{name}" for name, _ in _time(directive) if name]
        elif column is not None:
            pattern = f"({_pattern(directive)})"
            columns.append(column)
            kinds[column] = _kind(directive.field)
        else:
            pattern = f"(?:{_pattern(directive)})"
        after = directive.after
        if is_before_time(directive):
            # A user may contain blanks, but neither begin nor end with one, and is nothing between two blanks.
            pattern, after = f"(?:{pattern}(?<! ) ++|(?<=  ))", after.lstrip(" ")
        exact = following is not None and _may_be_empty(following)
        pieces.append((directive.text, pattern + _literal(after, directive.in_quotes, exact)))
    return Compiled(columns, kinds, pieces)


def split(format: str) -> tuple[str, list[Directive]]:
    """The literal text at the beginning, and the directives."""
    plain = re.sub(r'\\(["\\t])', lambda escape: "\t" if escape[1] == "t" else escape[1], format).strip(" ")
    is_nginx = re.search(r"\$\{?[A-Za-z]", plain) is not None
    texts, found, end = [""], list[tuple[str, Field]](), 0
    for match in (_NGINX_DIRECTIVE if is_nginx else _APACHE_DIRECTIVE).finditer(plain):
        texts[-1] += plain[end : match.start()]
        end = match.end()
        field = _nginx(match) if is_nginx else _apache(match)
        if field is None:
            texts[-1] += "%"
        elif field.kind == "query" and not texts[-1] and found and found[-1][1].kind == "path":
            # A path and the query directly after it are the target of the request.
            found[-1] = (found[-1][0] + match[0], Field("request_uri", "path"))
        else:
            found.append((match[0], field))
            texts.append("")
    texts[-1] += plain[end:]
    fields = [field for _, field in found]
    directives = []
    for number, ((text, field), following) in enumerate(itertools.zip_longest(found, fields[1:])):
        in_quotes = "".join(texts[: number + 1]).count('"') % 2 == 1
        directives.append(Directive(text, field, in_quotes, texts[number + 1], following))
    return texts[0], directives


def given_columns(directives: list[Directive]) -> dict[int, str]:
    """The column that each directive gives, by its position. Of two equal fields the last one gives it."""
    times = [directive for directive in directives if directive.field.kind == "time"]
    full = [directive.field.name for directive in times if _is_full(directive)]
    if times and not full:
        raise UsageError(
            f"got {times[0].text} in the format, which does not say when a request was: expected a time with date, "
            "time of day and zone, such as %t, %{sec}t or %{%d/%b/%Y:%H:%M:%S %z}t"
        )
    named = {directive.field.name: number for number, directive in enumerate(directives)}
    given: dict[int, str] = {}
    for column, names in _SOURCES.items():
        if column in _FROM_REQUEST and "request" in given.values():
            continue
        best = (*names, *reversed(full)) if column == "timestamp" else names
        found = next((name for name in best if name in named), None)
        if found is not None:
            given[named.pop(found)] = column
    for name, number in named.items():
        given[number] = f"var_{name}" if name in (*FIELDS, *_SOURCES) else name
    return given


def _kind(field: Field) -> str:
    return "integer" if field.time in ("sec", "msec", "usec") else field.kind


def is_before_time(directive: Directive) -> bool:
    """Whether it is a user before a time in brackets, which tell where the user ends."""
    rest = directive.after.lstrip(" ")
    is_bracketed = directive.following is not None and directive.following.time.startswith("[")
    is_plain = directive.field.kind == "user" and not directive.in_quotes and directive.after.startswith(" ")
    return is_plain and (rest.startswith("[") or (not rest and is_bracketed))


def _may_be_empty(directive: Directive) -> bool:
    """Whether it may be nothing at all between two blanks, so that the blank before it is one only."""
    name, kind = directive.field.name, directive.field.kind
    is_text = kind in ("text", "list", "query", "path", "user") or name in _ADDRESSES
    return is_text and not directive.in_quotes and not is_before_time(directive)


def _literal(text: str, in_quotes: bool, ends_exactly: bool) -> str:
    """The pattern of a literal text. Outside quotes several blanks count as one."""
    pieces = re.findall(' +|"|[^ "]+', text)
    patterns = []
    for number, piece in enumerate(pieces, start=1):
        in_quotes ^= piece == '"'
        is_exact = in_quotes or (ends_exactly and number == len(pieces))
        patterns.append(" ++" if piece.startswith(" ") and not is_exact else re.escape(piece))
    return "".join(patterns)


def _pattern(directive: Directive) -> str:
    """The pattern of a field. It ends at the character that follows, so it can match in one way only."""
    kind, stop = directive.field.kind, _stop(directive)
    if kind == "time":
        return "".join(pattern for _, pattern in _time(directive))
    if kind in NUMBERS:
        return f"{NUMBERS[kind]}(?![0-9])"
    if is_before_time(directive):
        return '""|(?!- ++[^" ][^"]* \\[)[^"]+'
    if kind in LISTS and stop == " " and not directive.in_quotes:
        return LISTS[kind]
    # Inside quotes, before any other character, and at the end of the line a field may contain blanks.
    text = f'[^"{re.escape(stop)}]*+' if stop else '(?:[^" ]++| ++(?!\\z))*+'
    return f'""|{text}' if kind == "user" else text  # Apache logs a user whose name is empty as ""


def _stop(directive: Directive) -> str:
    """The character at which a field ends, empty at the end of the line."""
    kind, following = directive.field.kind, directive.following
    if directive.after or following is None or kind in ("time", *NUMBERS):
        stop = directive.after[:1]
    else:
        stop = {"path": "/", "query": "?", "time": "["}.get(following.kind, "")
        if not stop:
            raise UsageError(
                f"got {directive.text} directly before the next directive in the format, expected a text between them: "
                "nothing says where the first one ends"
            )
    if kind == "request" and stop == " ":
        raise UsageError(
            f"got {directive.text} before a blank in the format, but a request contains blanks: expected it in quotes, "
            "or %m %U%q %H for lines without quotes"
        )
    return stop


NUMBERS = {"status": STATUS, "bytes": BYTES, "integer": "(?:-?[0-9]{1,18}|-)"}
LISTS = {
    "address": CLIENT,
    "list": '[^ "]*+(?:(?:(?<=,) ++| : )[^ "]++)*+',  # the upstreams of a request in nginx: `a, b : c`
}
