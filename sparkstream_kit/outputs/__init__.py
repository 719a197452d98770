"""Where results go: one module for each system, each a function of a stream."""

from __future__ import annotations

from collections.abc import Sequence


def column_names(names: str | Sequence[str]) -> list[str]:
    """Names of columns as a command line gives them, in one text with commas, or as a sequence.

    >>> column_names("host, path"), column_names(["one, with a comma"])
    (['host', 'path'], ['one, with a comma'])
    """
    return [name.strip() for name in names.split(",") if name.strip()] if isinstance(names, str) else list(names)
