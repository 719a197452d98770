"""Databases that the SQL output can write to: addresses, connections and their errors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ..errors import UsageError

INSERT: dict[str, Callable[[sa.Table], Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
"""The supported databases: those whose INSERT has ON CONFLICT."""

_TIMEOUTS = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""Options of libpq: a server that disappears is noticed within half a minute, and the batch is retried."""


def parse_url(url: str) -> sa.URL:
    """The URL with the driver that the kit installs; UsageError, which quotes none of it, if it is invalid."""
    try:
        made = sa.make_url(url)
        if "@" in (made.host or ""):  # the rest of the password follows it
            raise ValueError
    except (sa.exc.ArgumentError, ValueError):
        raise UsageError(
            "got an invalid database URL, expected sqlite:///FILE or postgresql://USER@HOST/DATABASE: write %40 for an "
            "@ in a password"
        ) from None
    if "password" in made.query:  # where SQLAlchemy masks it
        made = made.set(password=str(made.query["password"])).difference_update_query(["password"])
    return made.set(drivername="postgresql+psycopg") if made.drivername == "postgresql" else made


def timeouts(url: str) -> dict[str, str]:
    """The options of libpq that the URL leaves open."""
    options = _TIMEOUTS if parse_url(url).get_backend_name() == "postgresql" else {}
    return {name: value for name, value in options.items() if name not in parse_url(url).query}


@functools.cache
def engine_of(url: str) -> sa.Engine:
    """The connections to a URL, shared by all outputs of the process.

    A file of SQLite is opened for each use: a connection that was made while the disk was read-only stays read-only,
    and one to a file that was moved away writes into that.
    """
    parsed = parse_url(url)
    is_file = parsed.get_backend_name() == "sqlite"
    pool: dict[str, Any] = {"poolclass": sa.NullPool} if is_file else {"pool_pre_ping": True, "pool_size": 1}
    return sa.create_engine(parsed, connect_args=timeouts(url), hide_parameters=True, **pool)


def database_message(error: sa.exc.DBAPIError) -> str:
    """The database's own message in one line, without the statement and link that SQLAlchemy adds."""
    return " ".join(str(error.orig).split())
