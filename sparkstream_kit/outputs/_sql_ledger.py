"""The ledger of the SQL output: one row per committed batch, in the table `sparkstream_ledger`.

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
from ._sql_database import INSERT, database_message, engine_of

if TYPE_CHECKING:
    from ._sql import SqlTable

KEPT_BATCHES = 1_000
"""Ledger rows kept for each output. The newest would suffice, since at most one batch is ever unfinished (a bare
DStream re-runs its few pending ones). The others let `rebuild` restore states, and show what was written when."""

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

FORMAT = 1
"""Version of the ledger's rows. Rows of a newer version are refused, unknown columns are ignored."""


def entry_of(target: SqlTable, batch: Batch) -> tuple[sa.ColumnElement[bool], ...]:
    """The conditions that select the row of a batch: home, output, batch."""
    c = LEDGER.c
    return c.home == batch.home_id, c.output == target.name, c.batch == batch.n


def record(connection: sa.Connection, target: SqlTable, batch: Batch) -> bool:
    """Insert the row of a batch; False if it exists. Of two drivers, the second waits until the first has committed."""
    entry = {
        "home": batch.home_id,
        "output": target.name,
        "batch": batch.n,
        "time": round(batch.time.timestamp() * 1000),
        "table": target.table,
        "ranges": _ranges(batch),
        "end_offsets": json.dumps(batch.end_offsets, sort_keys=True),
        "format": FORMAT,
        "rows": 0,
    }
    insert = INSERT[connection.dialect.name](LEDGER).on_conflict_do_nothing().returning(LEDGER.c.batch)
    return connection.scalar(insert.values(entry)) is not None or not is_there(connection, target, batch)


def is_there(connection: sa.Connection, target: SqlTable, batch: Batch) -> bool:
    """Whether the batch is committed; OutputRefused if another batch with its number is."""
    known = connection.scalar(sa.select(LEDGER.c.ranges).where(*entry_of(target, batch)))
    if known is not None and known != _ranges(batch):
        raise OutputRefused(
            f"the table {target.table!r} already holds batch {batch.n} of the output {target.name!r} with the offset "
            f"ranges {known}, but this one has {_ranges(batch)}: the home is an outdated copy; use a new home and a "
            "new table"
        )
    return known is not None


def check_format(connection: sa.Connection) -> None:
    """NewerFormat if a newer version of the kit wrote to the ledger."""
    newest = connection.scalar(sa.select(sa.func.max(LEDGER.c.format))) or FORMAT
    if newest > FORMAT:
        raise NewerFormat(
            f"the table {LEDGER.name} has rows of format {newest}, and this version of sparkstream_kit reads up to "
            f"format {FORMAT}: use the version that wrote them, or a newer one"
        )


def _ranges(batch: Batch) -> str:
    return json.dumps(batch.ranges, sort_keys=True)


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


def prune(connection: sa.Connection, target: SqlTable, batch: Batch) -> None:
    """Delete the oldest rows of an output."""
    mine = entry_of(target, batch)[:2]
    newest_first = sa.select(LEDGER.c.batch).where(*mine).order_by(LEDGER.c.batch.desc())
    oldest = connection.scalar(newest_first.offset(KEPT_BATCHES).limit(1))
    if oldest is not None:
        connection.execute(LEDGER.delete().where(*mine, LEDGER.c.batch <= oldest))
