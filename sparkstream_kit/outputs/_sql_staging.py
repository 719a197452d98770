"""Large batches on their way into PostgreSQL: executors copy them into a staging table."""

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
    """Copy the rows into a staging table from the executors; gives the attempts Spark counts, with their rows.

    Each attempt at a partition marks its rows with a name that no other has ever had, so those of an attempt that
    failed, lost a race or belongs to a driver that is gone are never counted.
    """
    engine = engine_of(target.url)
    digest = sha256(json.dumps([batch.home_id, target.name]).encode()).hexdigest()[:16]
    columns = [sa.Column(c.key, c.type) for c in table.c]
    staging = sa.Table(
        f"sparkstream_staging_{digest}",
        sa.MetaData(),
        sa.Column("attempt", sa.Text),
        *columns,
        prefixes=["UNLOGGED"],  # after a crash it is empty, which _move notices
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
    # a copy that nobody waits for may still hold the table: better to try again than to wait for it
    connection.execute(sa.text("SET LOCAL lock_timeout = '10s'"))
    staging.drop(connection, checkfirst=True)
