"""Remove secrets from URLs, for messages and logs."""

from __future__ import annotations

import re
from urllib.parse import urlsplit


def redact(text: str) -> str:
    """The text without the passwords of the URLs in it.

    >>> redact("sql:postgresql://kit:secret@db/logs")
    'sql:postgresql://kit:***@db/logs'
    """
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
