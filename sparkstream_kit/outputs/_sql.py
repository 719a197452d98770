"""Rows in a table of a SQL database, committed in one transaction with a note of the batch they belong to.

The note is a row of `sparkstream_ledger` in the same database: home, output, batch, its recorded time in ms since 1970,
table, ranges of the sources and how far they were read by then, number of rows, time of the commit. A batch that is run
again finds its row there and is skipped, and a home that was lost is made anew from them (`ledger`).

Up to `DRIVER_ROWS` rows go through the driver. More are copied by the executors into a staging table of PostgreSQL,
and moved from there in the one transaction; SQLite, which only one process can write, gets them partition by partition.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import psycopg
import sqlalchemy as sa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from ..columns import column_names, quoted
from ..contracts import Batch
from ..errors import BatchFailed, OutputRefused, UsageError
from ..frames import FrameStream
from ..redaction import redact_url
from ._sql_database import INSERT, database_message, engine_of, parse_url
from ._sql_ledger import LEDGER, check_format, entry_of, is_there, prune, record
from ._sql_staging import drop, stage
from ._sql_types import NUMBERS, check_fits, converter, table_for

log = logging.getLogger(__name__)

DRIVER_ROWS = 10_000
"""Results up to so many rows are collected by the driver, which is the quickest way for them."""

CHUNK = 1_000
"""Rows sent to the database at once."""


Mode = Literal["append", "upsert", "accumulate"]


def sql(
    stream: FrameStream,
    url: str,
    *,
    table: str | None = None,
    mode: Mode = "append",
    key: str | Sequence[str] = (),
    name: str = "sql",
) -> None:
    """Write each batch into a table of SQLite (`sqlite:///file.db`) or PostgreSQL (`postgresql://user@host/database`).

        sql(totals, "sqlite:///served.db", mode="upsert", key="host", name="totals")

    The table bears the output's name unless `table` names another. One that is missing is created with the columns of
    the frame; one that is there must have them, and `key` must be unique in it. Modes:

    append      insert the rows
    upsert      insert them, or replace those with the same key (names, or one text with commas between them)
    accumulate  insert them, or add their numbers to those of the row with the same key: set n = n + new n

    A batch has one row for each key; where it has two, accumulate adds both and upsert fails. A null key fails.
    Timestamps are written as UTC, in the years 1 to 9999; arrays, maps and structs are refused. SQLite holds decimals
    as 64-bit floats and NaN as null; PostgreSQL cannot hold the character NUL, which becomes U+FFFD. A password in the
    URL is seen by whoever sees the command lines of processes; libpq finds one in the file that PGPASSFILE names.

    Guarantee: exactly once, in every mode: rows and ledger row are committed in one transaction under (home, output,
    batch). The name must stay the same while the job changes, since it is part of that key.

    Raises UsageError at the start for a database that cannot be reached, a table that does not fit (naming the
    columns), or one that another home writes to; BatchFailed for rows that the database refuses, naming its reason.
    A lost connection is tried again like any failure of an output.
    """
    target = sql_table(url, table or name, mode=mode, key=key, name=name)
    stream.for_each_batch(target.write, name=f"sql:{name}", check=target.check)


def sql_table(
    url: str, table: str, *, mode: Mode = "append", key: str | Sequence[str] = (), name: str = "sql"
) -> SqlTable:
    """The same for a bare DStream, through `each_batch`; its guarantee is the one that is said there.

    >>> table = sql_table("postgresql://kit:secret@db/logs", "hits", mode="upsert", key="host")
    >>> table
    SqlTable(table='hits', mode='upsert', key=('host',), name='sql')
    >>> sql_table("mysql://kit:secret@db/logs", "hits")
    Traceback (most recent call last):
    ...
    sparkstream_kit.errors.UsageError: got the database mysql://kit:***@db/logs, expected sqlite:///FILE or \
postgresql://USER@HOST/DATABASE
    """
    keys = tuple(column_names(key))
    kind = parse_url(url).get_backend_name()
    if kind not in INSERT or (kind == "sqlite" and parse_url(url).database in (None, "", ":memory:")):
        raise UsageError(
            f"got the database {redact_url(url)}, expected sqlite:///FILE or postgresql://USER@HOST/DATABASE"
        )
    if mode not in get_args(Mode):
        raise UsageError(f"got the mode {mode!r} for the table {table!r}, expected append, upsert or accumulate")
    if bool(keys) == (mode == "append"):
        wants = "takes no key" if keys else "needs key= with the columns that name a row"
        raise UsageError(f"the mode {mode} of the table {table!r} {wants}")
    return SqlTable(url, table, mode, keys, name)


@dataclass(frozen=True)
class SqlTable:
    """A table as an output, made by `sql_table`: `write(frame, batch)` commits a batch once."""

    url: str = field(repr=False)
    table: str
    mode: Mode
    key: tuple[str, ...]
    name: str

    def check(self, frame: DataFrame, before: Batch) -> None:
        """Create the table, or refuse it; a database that is away at a later start is left to the batches."""
        try:
            _prepare_table(self, frame.schema, before.home_id)
        except sa.exc.DBAPIError as error:
            if before.n and isinstance(error, sa.exc.OperationalError):
                log.warning("the output %r waits for %s (%s)", self.name, redact_url(self.url), database_message(error))
                return
            raise UsageError(
                f"the output {self.name!r} cannot use {redact_url(self.url)} ({database_message(error)}): "
                "correct the address, or grant the user its rights"
            ) from None

    def write(self, frame: DataFrame, batch: Batch) -> int:
        """Commit the rows of a batch, unless they are there; the number of rows written."""
        try:
            table = _prepare_table(self, frame.schema, batch.home_id)
            with engine_of(self.url).begin() as connection:
                if is_there(connection, self, batch):
                    return 0
            put = self._prepare_rows(frame, batch, table)
            with engine_of(self.url).begin() as connection:
                if not record(connection, self, batch):
                    return 0
                rows = put(connection)
                connection.execute(LEDGER.update().where(*entry_of(self, batch)).values(rows=rows))
                prune(connection, self, batch)
            return rows
        except _Ambiguous:
            raise BatchFailed(
                f"batch {batch.n} of the output {self.name!r} has several rows for one key of {self.table!r}, and "
                "which of them should stay is not said: aggregate them by the key"
            ) from None
        except ValueError as error:  # of Python: it would be raised by every further try, too
            raise BatchFailed(
                f"batch {batch.n} of the output {self.name!r} has a value that cannot be written to {self.table!r} "
                f"({error}): filter such rows"
            ) from None
        except (sa.exc.IntegrityError, sa.exc.DataError, sa.exc.ProgrammingError) as error:
            raise BatchFailed(
                f"the database refuses batch {batch.n} of the output {self.name!r} for the table {self.table!r}: "
                f"{database_message(error)}"
            ) from None

    def _prepare_rows(self, frame: DataFrame, batch: Batch, table: sa.Table) -> Callable[[sa.Connection], int]:
        """How the rows come into the table; all that takes long is done before the transaction."""
        dialect = engine_of(self.url).dialect.name
        convert = converter(frame.schema, dialect)
        # one job over all partitions, unlike take(); a batch that is larger is only begun
        few = frame.limit(DRIVER_ROWS + 1).coalesce(1).collect()
        if len(few) <= DRIVER_ROWS:
            rows = [convert(row) for row in few]
            places = [i for i, column in enumerate(table.c) if column.primary_key]
            if self.mode == "upsert" and len({tuple(row[i] for i in places) for row in rows}) < len(rows):
                raise _Ambiguous
            return lambda connection: self._insert(connection, table, iter(rows))
        if dialect == "postgresql":
            staging = stage(frame, self, batch, table, convert)
            return lambda connection: self._move(connection, table, *staging)
        if self.mode == "upsert" and _has_twins(frame, self.key):  # PostgreSQL says so itself
            raise _Ambiguous
        return lambda connection: self._insert(connection, table, map(convert, frame.toLocalIterator()))

    def _insert(self, connection: sa.Connection, table: sa.Table, rows: Iterator[tuple[Any, ...]]) -> int:
        statement, names, count = self._statement(table), table.c.keys(), 0
        for chunk in _chunks(rows, CHUNK):
            given = [dict(zip(names, row, strict=True)) for row in chunk]
            connection.execute(statement, given)
            count += len(given)
        return count

    def _move(self, connection: sa.Connection, table: sa.Table, staging: sa.Table, attempts: dict[str, int]) -> int:
        """Move what successful task attempts have staged; rows of others, lost or repeated, stay behind."""
        counted = staging.c.attempt.in_([attempt for attempt, rows in attempts.items() if rows])
        found = connection.scalar(sa.select(sa.func.count()).select_from(staging).where(counted))
        if found != sum(attempts.values()):
            raise ConnectionError(f"{found} of {sum(attempts.values())} staged rows are there: the server has crashed")
        staged = {c: staging.c[c.key] for c in table.c}
        if self.mode == "accumulate":
            sums = [staged[c] if c.primary_key else sa.func.sum(staged[c]) for c in table.c]
            rows = sa.select(*sums).where(counted).group_by(*(staged[c] for c in table.primary_key))
        else:
            rows = sa.select(*staged.values()).where(counted)
        try:
            connection.execute(self._statement(table, rows))
        except sa.exc.ProgrammingError as error:
            raise _Ambiguous if isinstance(error.orig, psycopg.errors.CardinalityViolation) else error from None
        drop(connection, staging)
        return sum(attempts.values())

    def _statement(self, table: sa.Table, rows: sa.Select[Any] | None = None) -> Any:
        """The INSERT of the mode, of rows that are given with it or of those of a query."""
        insert = INSERT[engine_of(self.url).dialect.name](table)
        if rows is not None:
            insert = insert.from_select(list(table.c), rows)
        keys, others = list(table.primary_key), [c for c in table.c if not c.primary_key]
        if self.mode == "append":
            return insert
        if not others:
            return insert.on_conflict_do_nothing(index_elements=keys)
        new = {c: insert.excluded[c.key] for c in others}
        if self.mode == "accumulate":
            new = {c: sa.func.coalesce(c, 0) + sa.func.coalesce(value, 0) for c, value in new.items()}
        return insert.on_conflict_do_update(index_elements=keys, set_=new)


class _Ambiguous(Exception):
    """A batch has several rows for one key."""


def _has_twins(frame: DataFrame, key: Sequence[str]) -> bool:
    """Whether several rows have one key; Spark finds out, as a set of all keys would fill the driver."""
    columns = [F.col(quoted(name)).alias(f"c{i}") for i, name in enumerate(key)]
    keys = frame.select(*columns)
    return not keys.groupBy(*keys.columns).count().where("count > 1").isEmpty()


@functools.lru_cache(maxsize=64)
def _prepare_table(target: SqlTable, schema: T.StructType, home_id: str) -> sa.Table:
    """The table as statements need it, after it was created or found to fit."""
    table = table_for(target.table, schema, target.key)
    for column in table.c:
        if target.mode == "accumulate" and not column.primary_key and column.type.python_type not in NUMBERS:
            raise OutputRefused(
                f"the column {column.name!r} for the table {target.table!r} is {column.type}, and accumulate adds "
                "numbers: make it part of the key, or leave it out"
            )
    engine = engine_of(target.url)
    limit = engine.dialect.max_identifier_length
    for name in (target.table, *schema.names):
        if len(name.encode()) > limit:
            raise UsageError(f"the name {name!r} is longer than the {limit} bytes of {engine.dialect.name}: shorten it")
        if "%(" in name:
            raise UsageError(f"the name {name!r} holds %(, which SQLAlchemy takes for a parameter: leave that out")
    with engine.begin() as connection:
        LEDGER.create(connection, checkfirst=True)
        check_format(connection)
        others = sa.select(LEDGER.c.home).where(LEDGER.c.table == target.table, LEDGER.c.home != home_id)
        other = connection.scalar(others.limit(1))
        if other is not None:
            raise OutputRefused(
                f"the table {target.table!r} holds rows of the home {other}, and this is the home {home_id}: go on "
                "with that home, or write into another table"
            )
        inspector = sa.inspect(connection)
        if inspector.has_table(target.table):
            check_fits(inspector, target, table)
        else:
            table.create(connection)
    return table


def _chunks(rows: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    while chunk := list(itertools.islice(rows, size)):
        yield chunk
