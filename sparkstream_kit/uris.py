"""Sources and outputs as words of a command line: `KIND:REST?option=value`, each the spelling of one function.

REST fills the function's required parameters, separated by colons where there are several; options are its other
parameters, read as their types say. Nothing is known here that the function's own signature does not say.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_type_hints
from urllib.parse import parse_qsl, quote, urlencode

from .errors import UsageError

SOURCES = {
    "files": "sources._files:files",
    "generator": "sources._generator:generator",
    "socket": "sources._socket:socket",
}
OUTPUTS = {
    "console": "outputs._console:console",
    "counters": "outputs._redis:counters",
    "delta": "outputs._delta:delta",
    "hashes": "outputs._redis:hashes",
    "json": "outputs._files:json",
    "parquet": "outputs._files:parquet",
    "ranking": "outputs._redis:ranking",
    "rejected": "outputs._rejected:rejected",
    "sql": "outputs._sql:sql",
    "text": "outputs._files:text",
    "webhook": "outputs._webhook:webhook",
}


@dataclass(frozen=True)
class Spec:
    """One `[name=]KIND:REST` of the command line, ready to be called with the context or the stream."""

    name: str
    """Empty where none was given."""
    kind: str
    make: Callable[..., Any]
    arguments: dict[str, Any] = field(repr=False)  # a URL may hold a password

    def __call__(self, target: Any, **more: Any) -> Any:
        """Call the function on a context (sources) or on a stream (outputs)."""
        return self.make(target, **self.arguments, **more)


def parse(text: str, kinds: dict[str, str]) -> Spec:
    """The spec that a word of the command line spells.

    >>> spec = parse("logs=files:hdfs://nn/logs?glob=*.log", SOURCES)
    >>> spec.name, spec.kind, spec.arguments
    ('logs', 'files', {'path': 'hdfs://nn/logs', 'glob': '*.log'})
    >>> parse("socket:localhost:9999?receivers=2", SOURCES).arguments
    {'host': 'localhost', 'port': 9999, 'receivers': 2}

    Raises UsageError for a kind or an option that does not exist, naming those that do.

    >>> parse("kafka:topic", SOURCES)
    Traceback (most recent call last):
    ...
    sparkstream_kit.errors.UsageError: got the kind 'kafka', expected files, generator or socket
    """
    match = re.fullmatch(r"(?:([A-Za-z_][\w-]*)=)?([a-z]+):(.*)", text, re.DOTALL)
    if not match:
        kind, colon, rest = text.partition(":")  # what follows may hold secrets
        got = f"{kind}{colon}{'…' if rest else ''}"
        raise UsageError(f"got {got!r}, expected [NAME=]KIND:REST, where KIND is {listed(kinds)}")
    name, kind, rest = match[1] or "", match[2], match[3]
    if kind not in kinds:
        raise UsageError(f"got the kind {kind!r}, expected {listed(kinds)}")
    make = load(kinds[kind])
    required, optional = parameters(make)
    rest, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    own = {key: value for key, value in options.items() if key in optional}
    foreign = {key: value for key, value in options.items() if key not in optional}
    if foreign and "url" in required:
        rest, foreign = f"{rest}?{urlencode(foreign)}", {}
    if foreign:
        expected = f"expected {listed(optional)}" if optional else "it takes none"
        raise UsageError(f"got the option {next(iter(foreign))!r} for {kind}, {expected}")
    return Spec(name, kind, make, {**_split(kind, rest, required, make), **_read(kind, own, make)})


def load(path: str) -> Callable[..., Any]:
    """Import `module:function` of this package; UsageError names the extra to install where a library is missing."""
    module, _, function = path.partition(":")
    try:
        loaded: Callable[..., Any] = getattr(importlib.import_module(f"{__package__}.{module}"), function)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{function} needs the library {error.name!r}: install sparkstream_kit with the extra for it (see README)"
        ) from error
    return loaded


def parameters(make: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """The names of a function's required parameters after the first, and of its optional ones but `name`."""
    rest = list(inspect.signature(make).parameters.values())[1:]
    required = [p.name for p in rest if p.default is p.empty]
    return required, [p.name for p in rest if p.default is not p.empty and p.name != "name"]


def masked(text: str) -> str:
    """The text without the passwords in its URLs.

    >>> masked("sql:postgresql://kit:secret@db/logs")
    'sql:postgresql://kit:***@db/logs'
    """
    return re.sub(r"(://[^/:@\s]*:)[^@\s]*@", r"\1***@", text)


def listed(words: dict[str, str] | list[str]) -> str:
    """Words as a sentence has them: `a, b or c`."""
    *most, last = sorted(words)
    return f"{', '.join(most)} or {last}" if most else last


def _split(kind: str, rest: str, required: list[str], make: Callable[..., Any]) -> dict[str, Any]:
    values = rest.split(":", len(required) - 1) if len(required) > 1 else [rest] if required else []
    if len(values) != len(required) or not all(values):
        form = ":".join(name.upper() for name in required)
        raise UsageError(f"got {kind}:{masked(rest)}, expected {kind}:{form}")
    if rest and not required:
        raise UsageError(f"got {kind}:{quote(rest)}, expected {kind}: and nothing behind it but ?options")
    return _read(kind, dict(zip(required, values, strict=True)), make)


def _read(kind: str, words: dict[str, str], make: Callable[..., Any]) -> dict[str, Any]:
    hints = get_type_hints(make)
    return {name: _value(kind, name, word, hints[name]) for name, word in words.items()}


def _value(kind: str, name: str, word: str, hint: Any) -> Any:
    wanted = set(getattr(hint, "__args__", ())) or {hint}
    if bool in wanted:
        if word.lower() not in ("true", "false"):
            raise UsageError(f"got {name}={word} for {kind}, expected true or false")
        return word.lower() == "true"
    if str in wanted:
        return word
    try:
        return int(word) if int in wanted else float(word)
    except ValueError:
        raise UsageError(f"got {name}={word} for {kind}, expected a number") from None
