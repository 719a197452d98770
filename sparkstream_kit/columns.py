"""Column names as users write them: one text with commas, as on a command line, or a sequence."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

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


def named(columns: Columns) -> list[Column]:
    """The columns of these very names, which are never taken for fields of structs.

    >>> import sparkstream_kit as ss
    >>> ss.testing.local_session().range(1).selectExpr("id as `a.b`").select(named("a.b")).first()
    Row(a.b=0)
    """
    return [F.col(quoted(name)) for name in column_names(columns)]


def other_columns(frame: DataFrame, *names: str) -> list[str]:
    """The columns of a frame except these, quoted.

    >>> import sparkstream_kit as ss
    >>> other_columns(ss.testing.local_session().range(1).selectExpr("id", "id as `a.b`"), "id")
    ['`a.b`']
    """
    return [quoted(name) for name in frame.columns if name not in names]
