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
import json
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timezone
from decimal import Decimal
from hashlib import sha256
from typing import Any, Literal, get_args

import psycopg
import sqlalchemy as sa
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F
from pyspark.sql import types as T
from sqlalchemy.dialects import postgresql, sqlite

from ..columns import column_names, quoted
from ..contracts import Batch
from ..errors import BatchFailed, NewerFormat, OutputRefused, UsageError
from ..frames import FrameStream
from ..recovery.offset_log import Entry
from ..redaction import redact_url

log = logging.getLogger(__name__)

DRIVER_ROWS = 10_000
"""Results up to so many rows are collected by the driver, which is the quickest way for them."""

CHUNK = 1_000
"""Rows sent to the database at once."""

KEPT_BATCHES = 1_000
"""Ledger rows kept for each output. The newest alone would do, as at most one batch is ever undone; a bare DStream
runs the few again that were owed. The others tell people what was written when."""

_LEDGER = sa.Table(
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
"""Version of the ledger's rows; rows of a newer one are refused, and columns that it added are ignored."""

Mode = Literal["append", "upsert", "accumulate"]

_INSERT: dict[str, Callable[[sa.Table], Any]] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
"""The databases that are supported: those whose INSERT has ON CONFLICT."""

_TIMEOUTS = {
    "connect_timeout": "10",
    "keepalives_idle": "10",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""Options of libpq: a server that has vanished is noticed within half a minute, and the batch tried again."""


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
    kind = _url(url).get_backend_name()
    if kind not in _INSERT or (kind == "sqlite" and _url(url).database in (None, "", ":memory:")):
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
                log.warning(
                    "the output %r waits for %s (%s)", self.name, redact_url(self.url), _database_message(error)
                )
                return
            raise UsageError(
                f"the output {self.name!r} cannot use {redact_url(self.url)} ({_database_message(error)}): "
                "correct the address, or grant the user its rights"
            ) from None

    def write(self, frame: DataFrame, batch: Batch) -> int:
        """Commit the rows of a batch, unless they are there; the number of rows written."""
        try:
            table = _prepare_table(self, frame.schema, batch.home_id)
            with _engine(self.url).begin() as connection:
                if _is_there(connection, self, batch):
                    return 0
            put = self._prepare_rows(frame, batch, table)
            with _engine(self.url).begin() as connection:
                if not _record(connection, self, batch):
                    return 0
                rows = put(connection)
                connection.execute(_LEDGER.update().where(*_entry(self, batch)).values(rows=rows))
                _prune(connection, self, batch)
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
                f"{_database_message(error)}"
            ) from None

    def _prepare_rows(self, frame: DataFrame, batch: Batch, table: sa.Table) -> Callable[[sa.Connection], int]:
        """How the rows come into the table; all that takes long is done before the transaction."""
        dialect = _engine(self.url).dialect.name
        convert = _converter(frame.schema, dialect)
        # one job over all partitions, unlike take(); a batch that is larger is only begun
        few = frame.limit(DRIVER_ROWS + 1).coalesce(1).collect()
        if len(few) <= DRIVER_ROWS:
            rows = [convert(row) for row in few]
            places = [i for i, column in enumerate(table.c) if column.primary_key]
            if self.mode == "upsert" and len({tuple(row[i] for i in places) for row in rows}) < len(rows):
                raise _Ambiguous
            return lambda connection: self._insert(connection, table, iter(rows))
        if dialect == "postgresql":
            staging = _stage(frame, self, batch, table, convert)
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
        _drop(connection, staging)
        return sum(attempts.values())

    def _statement(self, table: sa.Table, rows: sa.Select[Any] | None = None) -> Any:
        """The INSERT of the mode, of rows that are given with it or of those of a query."""
        insert = _INSERT[_engine(self.url).dialect.name](table)
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


# --- the ledger


def _entry(target: SqlTable, batch: Batch) -> tuple[sa.ColumnElement[bool], ...]:
    c = _LEDGER.c
    return c.home == batch.home_id, c.output == target.name, c.batch == batch.n


def _record(connection: sa.Connection, target: SqlTable, batch: Batch) -> bool:
    """Enter the batch; False if it is there. Of two drivers, the second waits until the first has committed."""
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
    insert = _INSERT[connection.dialect.name](_LEDGER).on_conflict_do_nothing().returning(_LEDGER.c.batch)
    return connection.scalar(insert.values(entry)) is not None or not _is_there(connection, target, batch)


def _is_there(connection: sa.Connection, target: SqlTable, batch: Batch) -> bool:
    """Whether the batch is committed; UsageError if what bears its number was made of other input."""
    known = connection.scalar(sa.select(_LEDGER.c.ranges).where(*_entry(target, batch)))
    if known is not None and known != _ranges(batch):
        raise OutputRefused(
            f"the table {target.table!r} holds batch {batch.n} of the output {target.name!r} made of {known}, and this "
            f"is {_ranges(batch)}: the home is an older copy of itself; use a new home and a new table"
        )
    return known is not None


def _check_format(connection: sa.Connection) -> None:
    newest = connection.scalar(sa.select(sa.func.max(_LEDGER.c.format))) or FORMAT
    if newest > FORMAT:
        raise NewerFormat(
            f"the table {_LEDGER.name} has rows of the format {newest}, and this version of sparkstream_kit reads up "
            f"to {FORMAT}: use the version that wrote them, or a newer one"
        )


def _ranges(batch: Batch) -> str:
    return json.dumps(batch.ranges, sort_keys=True)


def ledger(url: str) -> dict[str, dict[int, Entry]]:
    """The entries of the offset logs of all homes that have committed batches to a database, by home id and batch."""
    c, homes = _LEDGER.c, dict[str, dict[int, Entry]]()
    try:
        with _engine(url).connect() as connection:
            _check_format(connection)
            rows = connection.execute(sa.select(c.home, c.batch, c.time, c.ranges, c.end_offsets)).all()
    except sa.exc.DBAPIError as error:
        raise UsageError(
            f"cannot read the table {_LEDGER.name} of {redact_url(url)} ({_database_message(error)})"
        ) from None
    for home, n, time, ranges, end_offsets in rows:
        given = {source: (start, end) for source, (start, end) in json.loads(ranges).items()}
        homes.setdefault(home, {})[n] = Entry(n, time, given, json.loads(end_offsets), bool(given), time)
    return homes


def _prune(connection: sa.Connection, target: SqlTable, batch: Batch) -> None:
    mine = _entry(target, batch)[:2]
    newest_first = sa.select(_LEDGER.c.batch).where(*mine).order_by(_LEDGER.c.batch.desc())
    oldest = connection.scalar(newest_first.offset(KEPT_BATCHES).limit(1))
    if oldest is not None:
        connection.execute(_LEDGER.delete().where(*mine, _LEDGER.c.batch <= oldest))


# --- the table


@functools.lru_cache(maxsize=64)
def _prepare_table(target: SqlTable, schema: T.StructType, home_id: str) -> sa.Table:
    """The table as statements need it, after it was created or found to fit."""
    table = _table(target.table, schema, target.key)
    for column in table.c:
        if target.mode == "accumulate" and not column.primary_key and column.type.python_type not in _NUMBERS:
            raise OutputRefused(
                f"the column {column.name!r} for the table {target.table!r} is {column.type}, and accumulate adds "
                "numbers: make it part of the key, or leave it out"
            )
    engine = _engine(target.url)
    limit = engine.dialect.max_identifier_length
    for name in (target.table, *schema.names):
        if len(name.encode()) > limit:
            raise UsageError(f"the name {name!r} is longer than the {limit} bytes of {engine.dialect.name}: shorten it")
        if "%(" in name:
            raise UsageError(f"the name {name!r} holds %(, which SQLAlchemy takes for a parameter: leave that out")
    with engine.begin() as connection:
        _LEDGER.create(connection, checkfirst=True)
        _check_format(connection)
        others = sa.select(_LEDGER.c.home).where(_LEDGER.c.table == target.table, _LEDGER.c.home != home_id)
        other = connection.scalar(others.limit(1))
        if other is not None:
            raise OutputRefused(
                f"the table {target.table!r} holds rows of the home {other}, and this is the home {home_id}: go on "
                "with that home, or write into another table"
            )
        inspector = sa.inspect(connection)
        if inspector.has_table(target.table):
            _check_fits(inspector, target, table)
        else:
            table.create(connection)
    return table


def _table(name: str, schema: T.StructType, key: Sequence[str]) -> sa.Table:
    """The table of a frame. Columns have the keys c0, c1, ..., which no odd name can break."""
    doubled = {a for i, a in enumerate(schema.names) if a.lower() in map(str.lower, schema.names[:i])}
    missing = [k for k in key if k not in schema.names]
    if doubled or missing:
        wrong = f"several columns named {doubled.pop()!r}" if doubled else f"no column {missing[0]!r}, which is its key"
        raise OutputRefused(f"the frame for the table {name!r} has {wrong}: its columns are {', '.join(schema.names)}")
    columns = [
        sa.Column(f.name, _sql_type(name, f), key=f"c{i}", primary_key=f.name in key, autoincrement=False)
        for i, f in enumerate(schema)
    ]
    return sa.Table(name, sa.MetaData(), *columns)


def _sql_type(table: str, column: T.StructField) -> sa.types.TypeEngine[Any]:
    kind = column.dataType
    if isinstance(kind, T.DecimalType):
        return sa.Numeric(kind.precision, kind.scale)
    if type(kind) not in _TYPES:
        raise OutputRefused(
            f"the column {column.name!r} for the table {table!r} is {kind.simpleString()}, which is no type of SQL: "
            "leave it out, or make it a string (to_json)"
        )
    return _TYPES[type(kind)]


_TYPES: dict[type[T.DataType], sa.types.TypeEngine[Any]] = {
    T.BooleanType: sa.Boolean(),
    T.ByteType: sa.SmallInteger(),
    T.ShortType: sa.SmallInteger(),
    # an INTEGER key of SQLite is the number of its row, which it makes up where the key is null; BIGINT is not
    T.IntegerType: sa.Integer().with_variant(sa.BigInteger(), "sqlite"),
    T.LongType: sa.BigInteger(),
    T.FloatType: sa.REAL(),
    T.DoubleType: sa.Double(),
    T.StringType: sa.Text(),
    T.BinaryType: sa.LargeBinary(),
    T.DateType: sa.Date(),
    T.TimestampType: sa.DateTime(timezone=True),
    T.TimestampNTZType: sa.DateTime(),
}

_NUMBERS = (int, float, Decimal)

_WIDER: dict[type, tuple[type, ...]] = {int: (float, Decimal), float: (Decimal,), Decimal: (float,)}
"""What a column may hold besides its own Python type."""


def _check_fits(inspector: sa.Inspector, target: SqlTable, table: sa.Table) -> None:
    """UsageError unless a table that is there takes the rows of the frame, by name, type and key."""
    there = {c["name"]: c for c in inspector.get_columns(target.table)}
    wrong = [f"it has no column {c.name!r}" for c in table.c if c.name not in there]
    for column in table.c:
        if column.name in there and not _accepts(there[column.name]["type"], column.type, inspector.dialect.name):
            wrong.append(f"its column {column.name!r} is {there[column.name]['type']}, the frame's {column.type}")
    for name, c in there.items():
        filled = c["nullable"] or c.get("default") or c.get("identity") or c.get("autoincrement") is True
        if name not in [column.name for column in table.c] and not filled:
            wrong.append(f"its column {name!r} must not be null, and the frame has none")
    if target.key and sorted(target.key) not in map(sorted, _unique(inspector, target.table)):
        wrong.append(f"it has no unique key ({', '.join(target.key)})")
    if wrong:
        raise OutputRefused(
            f"the table {target.table!r} does not fit: {'; '.join(wrong)}; change it, or name another one"
        )


def _accepts(there: sa.types.TypeEngine[Any], mine: sa.types.TypeEngine[Any], database: str) -> bool:
    def width(kind: sa.types.TypeEngine[Any]) -> int:
        return 2 if isinstance(kind, sa.SmallInteger) else 8 if isinstance(kind, sa.BigInteger) else 4

    try:
        kind, own = there.python_type, mine.python_type
    except NotImplementedError:
        return False
    if kind is own is int:
        return database == "sqlite" or width(there) >= width(mine)  # every integer of SQLite has 64 bits
    return kind is own or kind in _WIDER.get(own, ())


def _unique(inspector: sa.Inspector, table: str) -> Iterator[Sequence[Any]]:
    yield inspector.get_pk_constraint(table)["constrained_columns"]
    indexes = inspector.get_indexes(table, include_auto_indexes=True)  # SQLite has one for each constraint
    yield from (index["column_names"] for index in indexes if index["unique"])


# --- rows


def _converter(schema: T.StructType, database: str) -> Callable[[Row], tuple[Any, ...]]:
    """Spark's values as the drivers of databases take them."""
    changes: list[tuple[int, Callable[[Any], Any]]] = []
    for i, column in enumerate(schema):
        if isinstance(column.dataType, T.TimestampType):  # local and without a zone; it knows its fold
            changes.append((i, lambda time: time.astimezone(timezone.utc)))
        elif isinstance(column.dataType, T.BinaryType):
            changes.append((i, bytes))
        elif isinstance(column.dataType, T.StringType) and database == "postgresql":
            changes.append((i, lambda text: text.replace("\0", "\N{REPLACEMENT CHARACTER}")))

    def convert(row: Row) -> tuple[Any, ...]:
        values = list(row)
        for i, change in changes:
            if values[i] is not None:
                values[i] = change(values[i])
        return tuple(values)

    return convert


def _chunks(rows: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    while chunk := list(itertools.islice(rows, size)):
        yield chunk


def _stage(
    frame: DataFrame, target: SqlTable, batch: Batch, table: sa.Table, convert: Callable[[Row], tuple[Any, ...]]
) -> tuple[sa.Table, dict[str, int]]:
    """Copy the rows into a staging table from the executors; gives the attempts Spark counts, with their rows.

    Each attempt at a partition marks its rows with a name that no other has ever had, so those of an attempt that
    failed, lost a race or belongs to a driver that is gone are never counted.
    """
    engine = _engine(target.url)
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
        _drop(connection, staging)
        staging.create(connection)
    statement = f"COPY {staging.name} FROM STDIN"
    _, options = engine.dialect.create_connect_args(_url(target.url))
    options = {**options, **_timeouts(target.url)}

    def copy(partition: int, rows: Iterable[Row]) -> Iterator[tuple[str, int]]:
        attempt, count = f"batch {batch.n}, partition {partition}, {uuid.uuid4().hex}", 0
        with psycopg.connect(**options) as connection, connection.cursor().copy(statement) as out:
            for row in rows:
                out.write_row((attempt, *convert(row)))
                count += 1
        yield attempt, count

    return staging, dict(frame.rdd.mapPartitionsWithIndex(copy).collect())


def _drop(connection: sa.Connection, staging: sa.Table) -> None:
    # a copy that nobody waits for may still hold the table: better to try again than to wait for it
    connection.execute(sa.text("SET LOCAL lock_timeout = '10s'"))
    staging.drop(connection, checkfirst=True)


# --- the database


def _url(url: str) -> sa.URL:
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


def _timeouts(url: str) -> dict[str, str]:
    options = _TIMEOUTS if _url(url).get_backend_name() == "postgresql" else {}
    return {name: value for name, value in options.items() if name not in _url(url).query}


@functools.cache
def _engine(url: str) -> sa.Engine:
    return sa.create_engine(
        _url(url), connect_args=_timeouts(url), hide_parameters=True, pool_pre_ping=True, pool_size=1
    )


def _database_message(error: sa.exc.DBAPIError) -> str:
    """What the database itself says, in one line; SQLAlchemy adds the statement and a link."""
    return " ".join(str(error.orig).split())
