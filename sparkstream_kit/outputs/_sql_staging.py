"""Staging tables: executors copy large batches into PostgreSQL, for one transaction to move."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa
from pyspark.sql import DataFrame, Row

from ..contracts import Batch
from ._sql_database import engine_of, parse_url, timeouts

if TYPE_CHECKING:
    from ._sql import SqlTable


def stage(
    frame: DataFrame, target: SqlTable, batch: Batch, table: sa.Table, convert: Callable[[Row], tuple[Any, ...]]
) -> tuple[sa.Table, dict[str, int]]:
    """Copy the rows into a staging table from the executors; returns the successful task attempts with their rows.

    Each task attempt marks its rows with a unique name, so rows of attempts that failed, lost a race under speculation
    or belong to an earlier driver never count.
    """
    engine = engine_of(target.url)
    digest = sha256(
        json.dumps([batch.home_id, target.name, *([batch.backfill] if batch.backfill else [])]).encode()
    ).hexdigest()[:16]
    columns = [sa.Column(c.key, c.type) for c in table.c]
    staging = sa.Table(
        f"sparkstream_staging_{digest}",
        sa.MetaData(),
        sa.Column("attempt", sa.Text),
        *columns,
        prefixes=["UNLOGGED"],  # empty after a crash of the server, which _move notices
    )
    with engine.begin() as connection:
        drop(connection, staging)
        staging.create(connection)
    statement = f"COPY {staging.name} FROM STDIN"
    _, options = engine.dialect.create_connect_args(parse_url(target.url))
    options = {**options, **timeouts(target.url)}

    def copy(partition: int, rows: Iterable[Row]) -> Iterator[tuple[str, int]]:
        attempt, count = f"batch {batch.n}, partition {partition}, {uuid.uuid4().hex}", 0
        with psycopg.connect(**options) as connection, connection.cursor().copy(statement) as out:
            for row in rows:
                out.write_row((attempt, *convert(row)))
                count += 1
        yield attempt, count

    return staging, dict(frame.rdd.mapPartitionsWithIndex(copy).collect())


def drop(connection: sa.Connection, staging: sa.Table) -> None:
    """Drop the table; fails after 10 seconds if it is in use."""
    # a copy of an abandoned task may still hold a lock: retry the batch rather than wait for it
    connection.execute(sa.text("SET LOCAL lock_timeout = '10s'"))
    staging.drop(connection, checkfirst=True)
