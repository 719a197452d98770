"""Fields of a line in plain Python, in two ways.

`QUICK` is what an expert writes for lines that are known to be good: each field by the shortest way to it, and one
compiled pattern where all fields are asked for. `CHECKED` refuses what `access_log.parse` refuses, and agrees with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from sparkstream_kit.transforms.access_log import Request, parse_line

_COMBINED = re.compile(
    r'(\S+) (\S+) (\S+) \[([^]]+)\] "(\S+) (\S+) ([^"]+)" (\d{3}) (\d+|-) "([^"]*)" "([^"]*)"'
).fullmatch

Enriched = tuple[str, int, str, int | None]
"""Client, status, path and bytes."""


class Extract(NamedTuple):
    """How to get at fields; each function returns None for a line that it refuses."""

    client: Callable[[str], str | None]
    size: Callable[[str], int | None]
    """Bytes, 0 if none were sent."""
    path: Callable[[str], str | None]
    status_and_path: Callable[[str], tuple[int, str] | None]
    """From a line whose fields are all parsed."""
    enriched: Callable[[str], Enriched | None]


def _client(line: str) -> str:
    return line[: line.index(" ")]


def _size(line: str) -> int:
    sent = line.split('"', 3)[2].rsplit(" ", 2)[1]
    return 0 if sent == "-" else int(sent)


def _path(line: str) -> str:
    return line.split('"', 2)[1].split(" ", 2)[1]


def _status_and_path(line: str) -> tuple[int, str] | None:
    found = _COMBINED(line)
    if found is None:
        return None
    status, path = found.group(8, 6)
    return int(status), path


def _enriched(line: str) -> Enriched:
    _, request, numbers, _ = line.split('"', 3)
    _, status, sent, _ = numbers.split(" ")
    return _client(line), int(status), request.split(" ", 2)[1], None if sent == "-" else int(sent)


def _checked_client(line: str) -> str | None:
    found = parse_line(line)
    return found.client_ip if isinstance(found, Request) else None


def _checked_size(line: str) -> int | None:
    found = parse_line(line)
    return (found.bytes or 0) if isinstance(found, Request) else None


def _checked_path(line: str) -> str | None:
    found = parse_line(line)
    return found.path if isinstance(found, Request) else None


def _checked_status_and_path(line: str) -> tuple[int, str] | None:
    found = parse_line(line)
    return (found.status, found.path) if isinstance(found, Request) else None  # type: ignore[return-value]


def _checked_enriched(line: str) -> Enriched | None:
    found = parse_line(line)
    if not isinstance(found, Request):
        return None
    return found.client_ip, found.status, found.path, found.bytes  # type: ignore[return-value]


QUICK = Extract(_client, _size, _path, _status_and_path, _enriched)
CHECKED = Extract(_checked_client, _checked_size, _checked_path, _checked_status_and_path, _checked_enriched)
