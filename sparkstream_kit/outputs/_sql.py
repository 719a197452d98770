"""Write rows into a SQL table, in one transaction with a ledger row for the batch.

The ledger is the table `sparkstream_ledger` of the same database. A batch that runs again finds its row there and is
skipped, and `sparkstream rebuild` recreates a lost home from these rows.

The driver inserts batches of up to `DRIVER_ROWS` rows itself. Executors copy larger ones into a staging table of
PostgreSQL, from which the transaction moves them. SQLite allows only one writing process: there the driver inserts
larger batches partition by partition.
"""

from __future__ import annotations

import functools
import itertools
import logging
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import psycopg
import sqlalchemy as sa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from ..columns import Columns, column_names, quoted
from ..contracts import Batch
from ..errors import BatchFailed, OutputRefused, UsageError
from ..frames import FrameStream
from ..redaction import redact_url
from ._sql_database import INSERT, database_message, engine_of, parse_url
from ._sql_ledger import LEDGER, check_home, claim, entry_of, forget, is_there, prune, record
from ._sql_staging import drop, stage
from ._sql_types import NUMBERS, check_fits, converter, table_for

log = logging.getLogger(__name__)

DRIVER_ROWS = 10_000
"""Batches of up to this many rows are collected by the driver, which is fastest at this size."""

CHUNK = 1_000
"""Rows per statement sent to the database."""


Mode = Literal["append", "upsert", "accumulate"]


def sql(
    stream: FrameStream,
    url: str,
    *,
    table: str | None = None,
    mode: Mode = "append",
    key: Columns = (),
    batch_column: str | None = None,
    name: str = "sql",
) -> None:
    """Write each batch into a table of SQLite (`sqlite:///FILE`) or PostgreSQL (`postgresql://USER@HOST/DATABASE`).

    >>> import sqlite3, tempfile
    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> folder = tempfile.TemporaryDirectory()
    >>> def build(hits):
    ...     totals = ss.FrameStream.of(hits, "host string, n bigint")
    ...     ss.outputs.sql(totals, f"sqlite:///{folder.name}/hits.db", mode="accumulate", key="host", name="totals")
    >>> _ = run_batches(build, [[("a", 1), ("b", 2)], [("a", 10)]])
    >>> sqlite3.connect(f"{folder.name}/hits.db").execute("select host, n from totals order by host").fetchall()
    [('a', 11), ('b', 2)]

    Columns: any, except arrays, maps and structs. The table is called `table`, or like the output. If it is missing, it
    is created with the columns of the frame; an existing one must have them, and `key` must be unique in it.

    mode="append"      insert the rows
    mode="upsert"      insert them, or replace the row with the same `key`
    mode="accumulate"  insert them, or add their numbers to the row with the same `key`: n = n + new n

    `batch_column` names one more column of the table, in which each appended row has the number of its batch: by it a
    batch that runs again, after `sparkstream rewind` or `backfill`, replaces its rows. Without it, and in the other
    modes, such a batch is written once more, exactly once, if --again says so: rows are doubled, numbers are added
    twice, and rows of keys that no longer come stay.

    `key` names one or more columns, "host, path" or ["host", "path"]. If a batch has two rows for one key, accumulate
    adds both and upsert fails. A null key fails; a null number adds nothing. Timestamps are stored in UTC, for the
    years 1 to 9999. SQLite stores decimals as 64-bit floats and NaN as null. PostgreSQL cannot store the character NUL,
    which becomes U+FFFD. A password in the URL is visible to everyone who can list processes: put it into the file that
    PGPASSFILE names.

    Guarantee: exactly once, in every mode: rows and ledger row are committed in one transaction under (home, output,
    batch). Keep the name when you change the job: it is part of that key.

    Raises OutputRefused at the start for a table that does not fit (naming the columns), or that another output or home
    writes to, and for a home that is an outdated copy, whose batches have other offset ranges than those in the table;
    NewerFormat for a ledger of a newer version, and UsageError for wrong arguments or a database that cannot be
    reached. Raises BatchFailed for rows that the database rejects, with its reason, and for a sum beyond the 64 bits of
    its column. A lost connection is retried, like any failure of an output.

    Cost: grows with the rows of the batch. The ledger keeps 1,000 rows per output.

    URI: sql:URL?table=...&mode=append|upsert|accumulate&key=...&batch_column=...
    """
    target = sql_table(url, table or name, mode=mode, key=key, batch_column=batch_column, name=name)
    replaces, forget = (False, target.forget) if batch_column is None else (target.has, None)
    stream.for_each_batch(target.write, name=f"sql:{name}", check=target.check, replaces=replaces, rewind=forget)


def sql_table(
    url: str,
    table: str,
    *,
    mode: Mode = "append",
    key: Columns = (),
    batch_column: str | None = None,
    name: str | None = None,
) -> SqlTable:
    """The output `sql` for a bare DStream: give its `write` to `each_batch`.

    >>> import sqlite3, tempfile
    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> folder = tempfile.TemporaryDirectory()
    >>> def build(hosts):
    ...     table = ss.outputs.sql_table(f"sqlite:///{folder.name}/hits.db", "hits", mode="accumulate", key="host")
    ...     hosts.countByValue().foreachRDD(ss.each_batch(table.write, "hit counts", "host string, n bigint"))
    >>> _ = run_batches(build, [["a", "b"], ["a"]])
    >>> sqlite3.connect(f"{folder.name}/hits.db").execute("select host, n from hits order by host").fetchall()
    [('a', 2), ('b', 1)]

    Columns and modes are those of `sql`. The name, by which the ledger finds a batch again, is that of the table unless
    given.

    Guarantee: once per batch time, as `each_batch` explains.

    Raises the errors of `sql`, those about the table in the first batch. Wrong arguments are refused at once:

    >>> ss.outputs.sql_table("mysql://kit:secret@db/logs", "hits")
    Traceback (most recent call last):
    ...
    sparkstream_kit.errors.UsageError: got the database mysql://kit:***@db/logs, expected sqlite:///FILE or \
postgresql://USER@HOST/DATABASE

    Cost: grows with the rows of the batch.
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
        wants = "takes no key" if keys else "needs key= with the columns that identify a row"
        raise UsageError(f"the mode {mode} of the table {table!r} {wants}")
    if batch_column is not None and mode != "append":
        raise UsageError(f"the mode {mode} of the table {table!r} takes no batch_column: a row is of several batches")
    return SqlTable(url, table, mode, keys, name or table, batch_column)


@dataclass(frozen=True)
class SqlTable:
    """A table as an output, created by `sql_table`: `write(frame, batch)` commits a batch once."""

    url: str = field(repr=False)
    table: str
    mode: Mode
    key: tuple[str, ...]
    name: str
    batch_column: str | None = None

    def check(self, frame: DataFrame, before: Batch) -> None:
        """Create the table, or refuse it. If the database is down at a later start, the batches retry."""
        try:
            _prepare_table(self, self._schema(frame), before.home_id)
            with engine_of(self.url).connect() as connection:
                check_home(connection, self, before)
        except sa.exc.DBAPIError as error:
            if before.n and isinstance(error, sa.exc.OperationalError):
                log.warning(
                    "the output %r is waiting for %s (%s)", self.name, redact_url(self.url), database_message(error)
                )
                return
            raise UsageError(
                f"the output {self.name!r} cannot use {redact_url(self.url)} ({database_message(error)}): "
                "correct the URL, or grant the user the missing privileges"
            ) from None

    def write(self, frame: DataFrame, batch: Batch) -> int:
        """Commit a batch, unless it was committed before; returns the number of rows written."""
        replaces = batch.again and self.batch_column is not None
        try:
            table = _prepare_table(self, self._schema(frame), batch.home_id)
            with engine_of(self.url).begin() as connection:
                if is_there(connection, self, batch) and not replaces:
                    return 0
            put = self._prepare_rows(frame, batch, table)
            with engine_of(self.url).begin() as connection:
                if replaces:
                    *_, numbers = table.c
                    connection.execute(table.delete().where(numbers == batch.n))
                    connection.execute(LEDGER.delete().where(*entry_of(self, batch)))
                if not record(connection, self, batch):
                    return 0
                rows = put(connection)
                connection.execute(LEDGER.update().where(*entry_of(self, batch)).values(rows=rows))
                prune(connection, self, batch)
            return rows
        except _DuplicateKeys:
            raise BatchFailed(
                f"batch {batch.n} of the output {self.name!r} has duplicate keys for the table {self.table!r}; upsert "
                "needs one row per key: aggregate by key first"
            ) from None
        except ValueError as error:  # raised by Python: every retry would raise it, too
            raise BatchFailed(
                f"batch {batch.n} of the output {self.name!r} has a value that cannot be written to {self.table!r} "
                f"({error}): filter out such rows"
            ) from None
        except (sa.exc.IntegrityError, sa.exc.DataError, sa.exc.ProgrammingError, sa.exc.OperationalError) as error:
            if isinstance(error, sa.exc.OperationalError) and _OVERFLOW not in database_message(error):
                raise  # an outage
            raise BatchFailed(
                f"the database rejects batch {batch.n} of the output {self.name!r} for the table {self.table!r}: "
                f"{database_message(error)}"
            ) from None

    def has(self, batch: Batch) -> bool:
        """Whether the batch is committed."""
        with engine_of(self.url).connect() as connection:
            return is_there(connection, self, batch)

    def forget(self, before: Batch, until: int) -> None:
        """Remove the batches after one from the ledger, so that each is written once more."""
        try:
            with engine_of(self.url).begin() as connection:
                forget(connection, self, before)
        except sa.exc.DBAPIError as error:
            raise UsageError(
                f"the output {self.name!r} cannot rewind in {redact_url(self.url)} ({database_message(error)}): start "
                "the job when the database can be reached"
            ) from None

    def _schema(self, frame: DataFrame) -> T.StructType:
        """The columns of the table."""
        if self.batch_column is None:
            return frame.schema
        if self.batch_column.lower() in map(str.lower, frame.columns):
            raise OutputRefused(
                f"the output {self.name!r} has a column {self.batch_column!r} of its own: name another batch_column"
            )
        return T.StructType([*frame.schema, T.StructField(self.batch_column, T.LongType())])

    def _prepare_rows(self, frame: DataFrame, batch: Batch, table: sa.Table) -> Callable[[sa.Connection], int]:
        """Returns a function that inserts the rows; whatever takes long is done here, before the transaction."""
        dialect = engine_of(self.url).dialect.name
        convert = converter(frame.schema, dialect, () if self.batch_column is None else (batch.n,))
        # one job over all partitions, unlike take(); of a larger batch only the first rows are computed
        few = frame.limit(DRIVER_ROWS + 1).coalesce(1).collect()
        if len(few) <= DRIVER_ROWS:
            rows = [convert(row) for row in few]
            places = [i for i, column in enumerate(table.c) if column.primary_key]
            if self.mode == "upsert" and len({tuple(row[i] for i in places) for row in rows}) < len(rows):
                raise _DuplicateKeys
            return lambda connection: self._insert(connection, table, iter(rows))
        if dialect == "postgresql":
            staging = stage(frame, self, batch, table, convert)
            return lambda connection: self._move(connection, table, *staging)
        if self.mode == "upsert" and _has_duplicate_keys(frame, self.key):  # PostgreSQL reports it itself
            raise _DuplicateKeys
        return lambda connection: self._insert(connection, table, map(convert, frame.toLocalIterator()))

    def _insert(self, connection: sa.Connection, table: sa.Table, rows: Iterator[tuple[Any, ...]]) -> int:
        statement, names, count = self._statement(table), table.c.keys(), 0
        for chunk in _chunks(rows, CHUNK):
            given = [dict(zip(names, row, strict=True)) for row in chunk]
            connection.execute(statement, given)
            count += len(given)
        return count

    def _move(self, connection: sa.Connection, table: sa.Table, staging: sa.Table, attempts: dict[str, int]) -> int:
        """Move the rows of successful task attempts; those of failed or duplicate attempts stay behind."""
        counted = staging.c.attempt.in_([attempt for attempt, rows in attempts.items() if rows])
        found = connection.scalar(sa.select(sa.func.count()).select_from(staging).where(counted))
        if found != sum(attempts.values()):
            raise ConnectionError(f"found {found} of {sum(attempts.values())} staged rows: the server has crashed")
        staged = {c: staging.c[c.key] for c in table.c}
        if self.mode == "accumulate":
            sums = [staged[c] if c.primary_key else sa.func.sum(staged[c]) for c in table.c]
            rows = sa.select(*sums).where(counted).group_by(*(staged[c] for c in table.primary_key))
        else:
            rows = sa.select(*staged.values()).where(counted)
        try:
            connection.execute(self._statement(table, rows))
        except sa.exc.ProgrammingError as error:
            raise _DuplicateKeys if isinstance(error.orig, psycopg.errors.CardinalityViolation) else error from None
        drop(connection, staging)
        return sum(attempts.values())

    def _statement(self, table: sa.Table, rows: sa.Select[Any] | None = None) -> Any:
        """The INSERT statement of the mode, for bound rows or for those of a query."""
        insert = INSERT[engine_of(self.url).dialect.name](table)
        if rows is not None:
            insert = insert.from_select(list(table.c), rows)
        keys, others = list(table.primary_key), [c for c in table.c if not c.primary_key]
        if self.mode == "append":
            return insert
        if not others:
            return insert.on_conflict_do_nothing(index_elements=keys)
        new = {c: insert.excluded[c.key] for c in others}
        if self.mode == "accumulate":  # null adds nothing, and null and null stay null
            add = _add_in_sqlite if engine_of(self.url).dialect.name == "sqlite" else operator.add
            new = {c: sa.func.coalesce(add(c, value), c, value) for c, value in new.items()}
        return insert.on_conflict_do_update(index_elements=keys, set_=new)


_OVERFLOW = "integer overflow"
"""What SQLite says of abs(-2**63)."""


def _add_in_sqlite(total: sa.Column[Any], value: Any) -> Any:
    """A sum that fails beyond 64 bits, where SQLite would return a float, without the last digits."""
    whole = [sa.func.typeof(part) == "integer" for part in (total, value)]
    overflows = sa.and_(*whole, sa.func.typeof(total + value) == "real")
    return sa.case((overflows, sa.func.abs(sa.literal(-(2**63)))), else_=total + value)


class _DuplicateKeys(Exception):
    """A batch has duplicate keys."""


def _has_duplicate_keys(frame: DataFrame, key: Sequence[str]) -> bool:
    """Whether keys are duplicated. Spark counts: a set of all keys could fill the driver's memory."""
    columns = [F.col(quoted(name)).alias(f"c{i}") for i, name in enumerate(key)]
    keys = frame.select(*columns)
    return not keys.groupBy(*keys.columns).count().where("count > 1").isEmpty()


@functools.lru_cache(maxsize=64)
def _prepare_table(target: SqlTable, schema: T.StructType, home_id: str) -> sa.Table:
    """The table for statements, created if missing; OutputRefused if it does not fit."""
    table = table_for(target.table, schema, target.key)
    for column in table.c:
        if target.mode == "accumulate" and not column.primary_key and column.type.python_type not in NUMBERS:
            raise OutputRefused(
                f"the column {column.name!r} for the table {target.table!r} is {column.type}, but accumulate only adds "
                "numbers: make it part of the key, or drop it"
            )
    engine = engine_of(target.url)
    limit = engine.dialect.max_identifier_length
    for name in (target.table, *schema.names):
        if len(name.encode()) > limit:
            raise OutputRefused(
                f"the name {name!r} is longer than the {limit} bytes that {engine.dialect.name} allows: shorten it"
            )
        if "%(" in name:
            raise OutputRefused(f"the name {name!r} contains %(, which SQLAlchemy takes for a parameter: rename it")
    with engine.begin() as connection:
        claim(connection, target, home_id)
        inspector = sa.inspect(connection)
        if inspector.has_table(target.table):
            check_fits(inspector, target, table)
        else:
            table.create(connection)
    return table


def _chunks(rows: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    while chunk := list(itertools.islice(rows, size)):
        yield chunk
