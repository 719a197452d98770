"""SQL tables on a real PostgreSQL: the tests of SQLite, and the failures that only a server has."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F
from pyspark.streaming import DStream

from sparkstream_kit import context, testing
from sparkstream_kit.errors import OutputRefused, UsageError
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.outputs import _sql
from sparkstream_kit.outputs._sql import sql_table
from tests.outputs.test_sql import *  # noqa: F403 - all of its tests, with the url below
from tests.outputs.test_sql import COUNTS, Frame, batch, execute, rows_of, tables_of

Act = Callable[[], object]


@pytest.fixture
def url(postgres: Any) -> Iterator[str]:
    yield postgres.create_database()
    _sql.engine_of.cache_clear()


@pytest.fixture
def on_retry(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Act]]:
    """Actions for the first failure of an output, run once before it is retried."""
    actions: list[Act] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "retrying" in record.msg and actions:
                actions.pop()()

    # run_batches fails at the first error; here outputs are retried as in production
    monkeypatch.setattr(testing, "at_home", lambda ssc, home, **_: context.at_home(ssc, home, retry_for=60))
    listener = Listener()
    logging.getLogger("sparkstream_kit.engine.retries").addHandler(listener)
    yield actions
    logging.getLogger("sparkstream_kit.engine.retries").removeHandler(listener)
    assert not actions, "nothing was retried"


def once(act: Act, condition: Callable[[str], bool]) -> Callable[..., None]:
    """A listener that acts at the first statement for which the condition holds."""
    todo = [act]

    def listen(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if todo and condition(statement):
            todo.pop()()

    return listen


def count_hosts(url: str) -> None:
    """A job that writes two batches into one table."""

    def job(lines: DStream[tuple[str, int]]) -> None:
        _sql.sql(FrameStream.of(lines, COUNTS), url, mode="accumulate", key="host", name="hits")

    testing.run_batches(job, [[("a", 1), ("b", 2)], [("a", 10), ("c", 5)]])


@pytest.mark.parametrize(
    ("driver_rows", "point"),
    [
        (_sql.DRIVER_ROWS, "SELECT sparkstream_ledger.ranges"),
        (_sql.DRIVER_ROWS, "INSERT INTO sparkstream_ledger"),
        (_sql.DRIVER_ROWS, "INSERT INTO hits"),
        (_sql.DRIVER_ROWS, "UPDATE sparkstream_ledger"),
        (0, "CREATE UNLOGGED TABLE"),
        (0, "SELECT count(*)"),
        (0, "INSERT INTO hits"),
        (0, "DROP TABLE"),
    ],
)
def test_a_server_that_is_killed_and_comes_back_has_each_batch_once(
    driver_rows: int, point: str, url: str, postgres: Any, on_retry: list[Act], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sql, "DRIVER_ROWS", driver_rows)
    on_retry.append(postgres.start)
    dies = once(postgres.kill, lambda statement: statement.strip().startswith(point))
    sa.event.listen(_sql.engine_of(url), "before_cursor_execute", dies)
    count_hosts(url)
    assert rows_of(url, "hits") == [("a", 11), ("b", 2), ("c", 5)]
    assert tables_of(url) == {"hits", "sparkstream_ledger", "sparkstream_owners"}


@pytest.mark.parametrize("driver_rows", [_sql.DRIVER_ROWS, 0])
def test_a_commit_whose_answer_is_lost_is_found_and_not_repeated(
    driver_rows: int, url: str, postgres: Any, on_retry: list[Act], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sql, "DRIVER_ROWS", driver_rows)
    dialect = _sql.engine_of(url).dialect
    commit, ledger_rows = dialect.do_commit, [0]

    def commit_and_die(connection: Any) -> None:
        ledger_rows[0] += "sparkstream_ledger" in tables_of(url) and len(rows_of(url, "sparkstream_ledger"))
        commit(connection)
        if not ledger_rows[0] and "hits" in tables_of(url) and rows_of(url, "hits"):
            postgres.kill()
            raise psycopg.OperationalError("the connection is lost")

    monkeypatch.setattr(dialect, "do_commit", commit_and_die)
    on_retry.append(postgres.start)
    count_hosts(url)
    assert rows_of(url, "hits") == [("a", 11), ("b", 2), ("c", 5)]


def test_a_full_disk_is_waited_for(url: str, postgres: Any, on_retry: list[Act]) -> None:
    def make_room() -> None:
        postgres.kill()
        postgres.start()

    def job(lines: DStream[tuple[str]]) -> None:
        long = FrameStream.of(lines, "host string").select("host", F.expr("repeat(host, 1000) as text"))
        _sql.sql(long, url, name="hits")

    # neither compressed nor moved out of line
    execute(url, "create table hits (host text, text text)", "alter table hits alter column text set storage plain")
    on_retry.append(make_room)
    postgres.kill()
    postgres.start(largest_file="4096")  # 2 MiB: less than the batch needs, more than the server's own files
    testing.run_batches(job, [[(f"{i:04}",) for i in range(3000)]])
    assert rows_of(url, "hits", "host") == [(f"{i:04}",) for i in range(3000)]


class TwiceRun:
    """A frame whose partitions run twice, as under speculation: the first attempts are lost after their commit."""

    def __init__(self, frame: DataFrame):
        self.schema, self._rows = frame.schema, frame.collect()

    def limit(self, _: int) -> TwiceRun:
        return self

    def coalesce(self, _: int) -> TwiceRun:
        return self

    def collect(self) -> list[Row]:
        return self._rows

    @property
    def rdd(self) -> TwiceRun:
        return self

    def mapPartitionsWithIndex(self, task: Callable[[int, Iterable[Row]], Iterator[Any]]) -> Any:
        attempts = [list(task(0, iter(self._rows))) for _ in range(2)]
        return type("Results", (), {"collect": lambda _: attempts[1]})()


@pytest.mark.parametrize(("mode", "key"), [("append", ""), ("upsert", "host"), ("accumulate", "host")])
def test_only_the_attempts_that_spark_counts_are_moved(
    mode: str, key: str, url: str, frame: Frame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sql, "DRIVER_ROWS", 0)
    table = sql_table(url, "hits", mode=mode, key=key)
    table.write(TwiceRun(frame(("a", 1), ("b", 2))), batch(1))  # type: ignore[arg-type]
    assert rows_of(url, "hits") == [("a", 1), ("b", 2)]


def test_a_backfill_and_the_job_copy_rows_at_the_same_time(
    url: str, frame: Frame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sql, "DRIVER_ROWS", 0)
    table, later = sql_table(url, "hits"), replace(batch(1), again=True, backfill="7")
    move, todo = _sql.SqlTable._move, [lambda: table.write(frame(("b", 2)), later)]

    def moved(*arguments: Any) -> int:
        if todo:  # the rows of the job are copied, and not moved yet
            todo.pop()()
        return move(*arguments)

    monkeypatch.setattr(_sql.SqlTable, "_move", moved)
    for each in (batch(2), later):  # the latter once more, as after a kill
        table.write(frame(("a", 1)), each)
    assert rows_of(url, "hits") == [("a", 1), ("b", 2)]
    assert tables_of(url) == {"hits", "sparkstream_ledger", "sparkstream_owners"}


def test_a_server_that_is_away_fails_the_first_start_and_is_awaited_later(
    url: str, frame: Frame, caplog: pytest.LogCaptureFixture
) -> None:
    away = sql_table("postgresql://kit:s3cret@127.0.0.1:1/db?password=s3cret", "hits")
    with pytest.raises(
        UsageError, match=r"'hits' cannot use postgresql://kit:\*\*\*@127.0.0.1:1/db .*refused"
    ) as refused:
        away.check(frame(), batch(0))
    away.check(frame(), batch(7))
    with pytest.raises(sa.exc.OperationalError) as failed:
        away.write(frame(("a", 1)), batch(8))
    assert "the output 'hits' is waiting for postgresql://kit:***@127.0.0.1:1/db" in caplog.text
    shown = "".join([str(refused.value), str(failed.value), caplog.text, repr(away), repr(_sql.engine_of(away.url))])
    assert "s3cret" not in shown


def test_a_user_without_privileges_is_refused_at_the_start(url: str, frame: Frame) -> None:
    execute(url, "create table hits (host text, n bigint)", "drop role if exists guest", "create role guest login")
    try:
        with pytest.raises(UsageError, match="'hits' cannot use postgresql://guest.* .permission denied"):
            sql_table(url.replace("kit:s3cret", "guest"), "hits").check(frame(), batch(3))
    finally:
        execute(url, "drop role guest")


def test_an_integer_that_may_outgrow_its_column_is_refused(url: str, frame: Frame) -> None:
    execute(url, "create table hits (host text, n integer)")
    with pytest.raises(OutputRefused, match="its column 'n' is INTEGER, but the frame's is BIGINT"):
        sql_table(url, "hits").check(frame(), batch(0))


def test_a_nul_in_a_text_does_not_stop_the_job(url: str, frame: Frame, either_size: None) -> None:
    sql_table(url, "hits").write(frame(("a\0b", 1)), batch(1))
    assert rows_of(url, "hits") == [("a\N{REPLACEMENT CHARACTER}b", 1)]
