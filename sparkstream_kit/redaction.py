"""What messages and logs must not show: secrets, and characters that command a terminal."""

from __future__ import annotations

import re
from urllib.parse import urlsplit


def printable(text: str) -> str:
    """The text with control characters and their like as repr writes them, so that data cannot command a terminal.

    >>> print(printable(chr(27) + "[2Jvisitor"), printable("a\\nb"))
    \\x1b[2Jvisitor a\\nb
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """As `printable`, but lines and tabs stay, for a text that has them on purpose, such as a traceback."""
    return re.sub(r"[^\n\t]+", lambda line: printable(line[0]), text)


def redact(text: str) -> str:
    """The text without the passwords of the URLs and the keys of the connection strings in it.

    >>> redact("sql:postgresql://kit:secret@db/logs")
    'sql:postgresql://kit:***@db/logs'
    >>> redact("Endpoint=sb://hub.example.org/;SharedAccessKeyName=reader;SharedAccessKey=c2VjcmV0=;EntityPath=logs")
    'Endpoint=sb://hub.example.org/;SharedAccessKeyName=reader;SharedAccessKey=***;EntityPath=logs'
    """
    text = re.sub(r"(SharedAccess(?:Key|Signature)\s*=)[^;'\"\n]*", r"\1***", text, flags=re.IGNORECASE)
    return re.sub(r"(://[^/:@\s]*:)[^@\s]*@", r"\1***@", text)


def redact_url(url: str, *, path: bool = True) -> str:
    """A URL without its password and options, which may contain one; with `path=False` also without its path.

    >>> redact_url("postgresql://kit:secret@db:5432/logs?sslpassword=secret")
    'postgresql://kit:***@db:5432/logs'

    The path of a webhook is often the secret:

    >>> redact_url("https://hooks.example.org/services/T0/secret", path=False)
    'https://hooks.example.org'
    """
    parts = urlsplit(url)
    user = f"{parts.username}{':***' if parts.password else ''}@" if parts.username else ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{user}{parts.hostname or ''}{port}{parts.path if path else ''}"
