"""Databases that the SQL output can write to: addresses, connections and their errors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ..errors import UsageError

INSERT: dict[str, Callable[[sa.Table], Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
"""The databases that are supported: those whose INSERT has ON CONFLICT."""

_TIMEOUTS = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""Options of libpq: a server that has vanished is noticed within half a minute, and the batch tried again."""


def parse_url(url: str) -> sa.URL:
    try:
        made = sa.make_url(url)
        if "@" in (made.host or ""):  # behind it is the rest of the password
            raise ValueError
    except (sa.exc.ArgumentError, ValueError):
        raise UsageError(
            "the address of the database is no URL: sqlite:///FILE or postgresql://USER@HOST/DATABASE, with %40 for an "
            "@ in a password"
        ) from None
    if "password" in made.query:  # to where SQLAlchemy masks it
        made = made.set(password=str(made.query["password"])).difference_update_query(["password"])
    return made.set(drivername="postgresql+psycopg") if made.drivername == "postgresql" else made


def timeouts(url: str) -> dict[str, str]:
    options = _TIMEOUTS if parse_url(url).get_backend_name() == "postgresql" else {}
    return {name: value for name, value in options.items() if name not in parse_url(url).query}


@functools.cache
def engine_of(url: str) -> sa.Engine:
    return sa.create_engine(
        parse_url(url), connect_args=timeouts(url), hide_parameters=True, pool_pre_ping=True, pool_size=1
    )


def database_message(error: sa.exc.DBAPIError) -> str:
    """What the database itself says, in one line; SQLAlchemy adds the statement and a link."""
    return " ".join(str(error.orig).split())
