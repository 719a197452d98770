"""Parse `--source` and `--output` arguments: `[NAME=]KIND:REST?option=value`, each the spelling of one function.

KIND is a function of `sparkstream_kit.sources` or `.outputs`, with hyphens for underscores. REST fills its required
parameters, separated by colons where there are several, or by a slash after `brokers`, which have colons; options are
its other parameters, converted to their types. They begin at the first ? that a name follows: a path may hold others,
as in files:/logs/q?/web?glob=*.log. In options %26 is a & and so on, and a + is a plus. Everything else follows from
the function's signature.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import quote, unquote

from .errors import UsageError
from .redaction import redact

_OPTIONS = re.compile(r"\?(?=[^/?&=]+(?:[&=]|$))")


@dataclass(frozen=True)
class Spec:
    """One argument, ready to be called with the context or the stream."""

    name: str
    """Empty if none was given."""
    kind: str
    function: Callable[..., Any]
    arguments: dict[str, Any] = field(repr=False)  # a URL may hold a password

    def __call__(self, target: Any, **more: Any) -> Any:
        """Call the function on a context (sources) or a stream (outputs); what the argument says wins over `more`."""
        return self.function(target, **{**more, **self.arguments})


def kinds(package: ModuleType) -> list[str]:
    """The kinds of `sparkstream_kit.sources` or `sparkstream_kit.outputs`.

    >>> from sparkstream_kit import sources
    >>> kinds(sources)
    ['event-hubs', 'files', 'generator', 'iot-hub', 'kafka', 'socket']
    """
    return [name.replace("_", "-") for name in package.URIS]


def function(package: ModuleType, kind: str) -> Callable[..., Any]:
    """The function of a kind; MissingLibrary if an extra is not installed."""
    found: Callable[..., Any] = getattr(package, kind.replace("-", "_"))
    return found


def parse(text: str, package: ModuleType, *, named: bool = False) -> Spec:
    """The spec of one argument; with `named` an option `name` is the function's parameter of that name.

    >>> from sparkstream_kit import sources
    >>> spec = parse("logs=files:hdfs://nn/logs?glob=*.log", sources)
    >>> spec.name, spec.kind, spec.arguments
    ('logs', 'files', {'path': 'hdfs://nn/logs', 'glob': '*.log'})
    >>> parse("socket:localhost:9999?receivers=2", sources).arguments
    {'host': 'localhost', 'port': 9999, 'receivers': 2}

    >>> parse("kafka:broker1:9092,broker2:9092/access?start=latest", sources).arguments
    {'brokers': 'broker1:9092,broker2:9092', 'topics': 'access', 'start': 'latest'}

    Raises UsageError for an unknown kind or option, naming those that exist.

    >>> parse("x:topic", sources)
    Traceback (most recent call last):
    ...
    sparkstream_kit.errors.UsageError: got the kind 'x', expected event-hubs, files, generator, iot-hub, kafka or socket
    """
    match = re.fullmatch(r"(?:([A-Za-z_][\w-]*)=)?([a-z][a-z-]*):(.*)", text, re.DOTALL)
    if not match:
        kind, colon, rest = text.partition(":")  # what follows may hold secrets
        got = f"{kind}{colon}{'…' if rest else ''}"
        raise UsageError(f"got {got!r}, expected [NAME=]KIND:REST, where KIND is {either(kinds(package))}")
    name, kind, rest = match[1] or "", match[2], match[3]
    if kind not in kinds(package):
        raise UsageError(f"got the kind {kind!r}, expected {either(kinds(package))}")
    chosen = function(package, kind)
    required, optional = parameters(chosen)
    if named:
        optional = [*optional, "name"]
    rest, query = [*_OPTIONS.split(rest, 1), ""][:2]
    own, foreign = dict[str, str](), list[str]()
    for option in query.split("&") if query else []:
        key, _, value = option.partition("=")
        if unquote(key) in optional:
            own[unquote(key)] = unquote(value)
        else:
            foreign.append(option)
    if foreign and "url" in required:
        rest, foreign = f"{rest}?{'&'.join(foreign)}", []  # as it is: the library reads it in its own way
    if foreign:
        expected = f"expected {either(optional)}" if optional else "it takes none"
        raise UsageError(f"got the option {unquote(foreign[0].partition('=')[0])!r} for {kind}, {expected}")
    hints = get_type_hints(chosen)
    words = {**_required(kind, rest, required), **own}
    return Spec(name, kind, chosen, {key: _value(kind, key, word, hints[key]) for key, word in words.items()})


def parameters(function: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """The names of a function's required parameters after the first, and of its optional ones except `name`."""
    rest = list(inspect.signature(function).parameters.values())[1:]
    required = [p.name for p in rest if p.default is p.empty]
    return required, [p.name for p in rest if p.default is not p.empty and p.name != "name"]


def choices(function: Callable[..., Any], parameter: str) -> tuple[str, ...]:
    """The values that a parameter takes, if it is a Literal."""
    hint = get_type_hints(function)[parameter]
    return get_args(hint) if get_origin(hint) is Literal else ()


def either(words: Iterable[str]) -> str:
    """Alternatives in a sentence.

    >>> either(["b", "c", "a"]), either(["a"])
    ('a, b or c', 'a')
    """
    *most, last = sorted(words)
    return f"{', '.join(most)} or {last}" if most else last


def _required(kind: str, rest: str, required: list[str]) -> dict[str, str]:
    separator = "/" if "brokers" in required else ":"
    values = rest.split(separator, len(required) - 1) if len(required) > 1 else [rest] if required else []
    if len(values) != len(required) or not all(values):
        form = separator.join(name.upper() for name in required)
        raise UsageError(f"got {kind}:{redact(rest)}, expected {kind}:{form}")
    if rest and not required:
        raise UsageError(f"got {kind}:{quote(rest)}, expected {kind}: followed by nothing but ?options")
    return dict(zip(required, values, strict=True))


def _value(kind: str, name: str, word: str, hint: Any) -> Any:
    if get_origin(hint) is Literal:
        if word not in get_args(hint):
            raise UsageError(f"got {name}={word} for {kind}, expected {either(get_args(hint))}")
        return word
    wanted = set(getattr(hint, "__args__", ())) or {hint}
    if bool in wanted:
        if word.lower() not in ("true", "false"):
            raise UsageError(f"got {name}={redact(word)} for {kind}, expected true or false")
        return word.lower() == "true"
    if str in wanted:
        return word
    try:
        return int(word) if int in wanted else float(word)
    except ValueError:
        raise UsageError(f"got {name}={redact(word)} for {kind}, expected a number") from None
