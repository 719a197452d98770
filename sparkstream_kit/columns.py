"""Column names as users write them: one text with commas, as on a command line, or a sequence."""

from __future__ import annotations

from collections.abc import Sequence

Columns = str | Sequence[str]


def column_names(columns: Columns) -> list[str]:
    """The names, in order. A name that contains a comma has to be in a sequence.

    >>> column_names("path"), column_names("host, path"), column_names(["one, with a comma"]), column_names("")
    (['path'], ['host', 'path'], ['one, with a comma'], [])
    """
    if isinstance(columns, str):
        return [name.strip() for name in columns.split(",") if name.strip()]
    return list(columns)


def quoted(name: str) -> str:
    """The name quoted for Spark SQL, whatever characters it contains.

    >>> quoted("a.b"), quoted("tick`tock")
    ('`a.b`', '`tick``tock`')
    """
    return "`{}`".format(name.replace("`", "``"))
