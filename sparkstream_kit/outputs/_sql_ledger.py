"""The ledger of the SQL output: one row per committed batch, in the table `sparkstream_ledger`.

The table `sparkstream_owners` says which output of which home writes a table (table, home, output).

home, output, batch     the key: home id, name of the output, number of the batch
time                    recorded time of the batch, in ms since 1970
table                   the table that the rows went to
ranges, end_offsets     JSON: offset range of each source with data, and how far each source had been read
format                  version of this row
rows                    number of rows written
committed_at            time of the transaction, by the database's clock
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ..contracts import Batch
from ..errors import NewerFormat, OutputRefused, UsageError
from ..recovery.offset_log import Entry
from ..redaction import redact_url
from ._committed import KEPT_BATCHES, check_newest, check_same, ranges_of
from ._sql_database import INSERT, database_message, engine_of

if TYPE_CHECKING:
    from ._sql import SqlTable

LEDGER = sa.Table(
    "sparkstream_ledger",
    sa.MetaData(),
    sa.Column("home", sa.Text, primary_key=True),
    sa.Column("output", sa.Text, primary_key=True),
    sa.Column("batch", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("table", sa.Text, nullable=False),
    sa.Column("ranges", sa.Text, nullable=False),
    sa.Column("end_offsets", sa.Text, nullable=False),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("committed_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
)

OWNERS = sa.Table(
    "sparkstream_owners",
    sa.MetaData(),
    sa.Column("table", sa.Text, primary_key=True),
    sa.Column("home", sa.Text, nullable=False),
    sa.Column("output", sa.Text, nullable=False),
)

FORMAT = 1
"""Version of the ledger's rows. Rows of a newer version are refused, unknown columns are ignored."""


_INSTEAD = "a new table"


def claim(connection: sa.Connection, target: SqlTable, home_id: str) -> None:
    """Claim the table for an output of a home, of several exactly one; OutputRefused if it is another's."""
    database = connection.dialect.name
    if database == "postgresql":  # of two that create one table, the second would fail
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
    for table in (LEDGER, OWNERS):
        if not sa.inspect(connection).has_table(table.name):
            connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
    check_format(connection)
    key = target.table.lower() if database == "sqlite" else target.table  # SQLite ignores the case of names
    mine = {"table": key, "home": home_id, "output": target.name}
    # from here on SQLite keeps other processes out
    connection.execute(INSERT[database](OWNERS).on_conflict_do_nothing().values(mine))
    others = sa.select(LEDGER.c.home).where(LEDGER.c.table == target.table, LEDGER.c.home != home_id)
    other = connection.scalar(others.limit(1))
    if other is not None:
        raise OutputRefused(
            f"the table {target.table!r} holds rows of the home {other}, and this is the home {home_id}: use "
            "that home, or write to another table"
        )
    home, output = connection.execute(sa.select(OWNERS.c.home, OWNERS.c.output).where(OWNERS.c.table == key)).one()
    if home != home_id:
        raise OutputRefused(
            f"the table {target.table!r} belongs to the home {home}, and this is the home {home_id}: use that home, or "
            "write to another table"
        )
    if output != target.name:
        raise OutputRefused(
            f"the table {target.table!r} belongs to the output {output!r}, and this is the output {target.name!r} of "
            "the same home: write to another table"
        )


_LOCK = 0x737061726B
"""Key of the advisory lock of PostgreSQL under which tables are claimed and created."""


def entry_of(target: SqlTable, batch: Batch) -> tuple[sa.ColumnElement[bool], ...]:
    """The conditions that select the row of a batch: home, output, batch."""
    c = LEDGER.c
    return c.home == batch.home_id, c.output == _output(target, batch), c.batch == batch.n


def _output(target: SqlTable, batch: Batch) -> str:
    """The output of a batch in its key: a backfill that writes rows once more has entries of its own."""
    is_once_more = batch.backfill and target.batch_column is None
    return f"{target.name} (backfill {batch.backfill})" if is_once_more else target.name


def record(connection: sa.Connection, target: SqlTable, batch: Batch) -> bool:
    """Insert the row of a batch; False if it exists. Of two drivers, the second waits until the first has committed."""
    entry = {
        "home": batch.home_id,
        "output": _output(target, batch),
        "batch": batch.n,
        "time": round(batch.time.timestamp() * 1000),
        "table": target.table,
        "ranges": ranges_of(batch),
        "end_offsets": json.dumps(batch.end_offsets, sort_keys=True),
        "format": FORMAT,
        "rows": 0,
    }
    insert = INSERT[connection.dialect.name](LEDGER).on_conflict_do_nothing().returning(LEDGER.c.batch)
    return connection.scalar(insert.values(entry)) is not None or not is_there(connection, target, batch)


def is_there(connection: sa.Connection, target: SqlTable, batch: Batch) -> bool:
    """Whether the batch is committed; OutputRefused if another batch with its number is, or may have been."""
    known = connection.scalar(sa.select(LEDGER.c.ranges).where(*entry_of(target, batch)))
    place = f"the table {target.table!r}"
    if known is not None:
        check_same(place, target.name, batch, known, _INSTEAD)
    elif batch.again:  # it had no rows, or is older than the ledger
        return False
    elif batch.end_offsets:
        check_newest(place, target.name, newest(connection, target, batch) or 0, batch.n, _INSTEAD)
    else:  # of a bare DStream, of which Spark may run an older batch again
        oldest = newest(connection, target, batch, skip=KEPT_BATCHES - 1)
        if oldest is not None and batch.n < oldest:
            raise OutputRefused(
                f"batch {batch.n} of the output {target.name!r} is older than the {KEPT_BATCHES} batches that the "
                f"ledger keeps, so it may already be in {place}: use a new name and a new table"
            )
    return known is not None


def newest(connection: sa.Connection, target: SqlTable, batch: Batch, skip: int = 0) -> int | None:
    """The newest batch that the ledger has of an output, or of those after the newest `skip`."""
    newest_first = sa.select(LEDGER.c.batch).where(*entry_of(target, batch)[:2]).order_by(LEDGER.c.batch.desc())
    return connection.scalar(newest_first.offset(skip).limit(1))


def check_home(connection: sa.Connection, target: SqlTable, before: Batch) -> None:
    """OutputRefused at the start if the last batch of the home is not the newest of the table, or another one."""
    if not before.backfill:
        check_newest(
            f"the table {target.table!r}", target.name, newest(connection, target, before) or 0, before.n, _INSTEAD
        )
    if before.n:
        is_there(connection, target, before)


def check_format(connection: sa.Connection) -> None:
    """NewerFormat if a newer version of the kit wrote to the ledger."""
    newest = connection.scalar(sa.select(sa.func.max(LEDGER.c.format))) or FORMAT
    if newest > FORMAT:
        raise NewerFormat(
            f"the table {LEDGER.name} has rows of format {newest}, and this version of sparkstream_kit reads up to "
            f"format {FORMAT}: use the version that wrote them, or a newer one"
        )


def ledger(url: str) -> dict[str, dict[int, Entry]]:
    """The offset log entries of all homes that committed batches to a database, by home id and batch."""
    c, homes = LEDGER.c, dict[str, dict[int, Entry]]()
    try:
        with engine_of(url).connect() as connection:
            check_format(connection)
            rows = connection.execute(sa.select(c.home, c.batch, c.time, c.ranges, c.end_offsets)).all()
    except sa.exc.DBAPIError as error:
        raise UsageError(
            f"cannot read the table {LEDGER.name} of {redact_url(url)} ({database_message(error)})"
        ) from None
    for home, n, time, ranges, end_offsets in rows:
        given = {source: (start, end) for source, (start, end) in json.loads(ranges).items()}
        homes.setdefault(home, {})[n] = Entry(n, time, given, json.loads(end_offsets), bool(given), time)
    return homes


def forget(connection: sa.Connection, target: SqlTable, before: Batch) -> None:
    """Delete the rows of the batches after one: they count as not written."""
    connection.execute(LEDGER.delete().where(*entry_of(target, before)[:2], LEDGER.c.batch > before.n))


def prune(connection: sa.Connection, target: SqlTable, batch: Batch) -> None:
    """Delete the oldest rows of an output."""
    oldest = newest(connection, target, batch, skip=KEPT_BATCHES)
    if oldest is not None:
        connection.execute(LEDGER.delete().where(*entry_of(target, batch)[:2], LEDGER.c.batch <= oldest))
