"""SQL tables hold each batch once, whatever runs again, is killed or writes at the same time.

On SQLite here; tests/servers runs the same tests on PostgreSQL.
"""

from __future__ import annotations

import datetime
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pyspark.sql import DataFrame, SparkSession
from pyspark.streaming import DStream

from sparkstream_kit.aggregates import count
from sparkstream_kit.contracts import Batch
from sparkstream_kit.dstreams import each_batch
from sparkstream_kit.errors import BatchFailed, NewerFormat, OutputRefused, UsageError
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.outputs import _sql, _sql_ledger
from sparkstream_kit.outputs._sql import sql_table
from sparkstream_kit.testing import run_batches
from tests.support.claims import refused_at_once

ROOT = Path(__file__).parents[2]
COUNTS = "host string, n bigint"
NEWER = (
    "the table sparkstream_ledger has rows of format 2, and this version of sparkstream_kit reads up to format 1: use "
    "the version that wrote them, or a newer one"
)
Frame = Callable[..., DataFrame]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/test.db"


@pytest.fixture(autouse=True)
def each_test_starts_like_a_process() -> Iterator[None]:
    yield
    restart()


def restart() -> None:
    """Forget what a process has cached about its tables."""
    _sql._prepare_table.cache_clear()


@pytest.fixture
def frame(spark: SparkSession) -> Frame:
    return lambda *rows, schema=COUNTS: spark.createDataFrame(list(rows), schema).repartition(2)


@pytest.fixture(params=[_sql.DRIVER_ROWS, 0], ids=["small", "large"])
def either_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test twice: with batches that go through the driver, and as if they were too large for that."""
    monkeypatch.setattr(_sql, "DRIVER_ROWS", request.param)


def batch(n: int, home: str = "home-a") -> Batch:
    return Batch(n, datetime.datetime.fromtimestamp(n, timezone.utc), home, {"lines": (n - 1, n)})


def rows_of(url: str, table: str, *columns: str) -> list[tuple[Any, ...]]:
    engine = sa.create_engine(_sql.parse_url(url), poolclass=sa.NullPool)
    found = sa.Table(table, sa.MetaData(), autoload_with=engine)
    chosen = [found.c[name] for name in columns or found.c.keys()]
    with engine.connect() as connection:
        return sorted(map(tuple, connection.execute(sa.select(*chosen))))


def tables_of(url: str) -> set[str]:
    return set(sa.inspect(sa.create_engine(_sql.parse_url(url), poolclass=sa.NullPool)).get_table_names())


def execute(url: str, *statements: str) -> None:
    with sa.create_engine(_sql.parse_url(url), poolclass=sa.NullPool).begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


# --- each batch once


@pytest.mark.slow
def test_a_batch_that_runs_again_is_in_the_table_once(url: str, frame: Frame, either_size: None) -> None:
    table = sql_table(url, "seen")
    first = frame(("a", 1), ("a", 1), ("b", None))
    assert [table.write(first, batch(n)) for n in (1, 1, 2)] == [3, 0, 3]
    restart()
    assert table.write(first, batch(2)) == 0
    assert rows_of(url, "seen", "host") == [("a",)] * 4 + [("b",)] * 2


@pytest.mark.parametrize("column", ["batch", 'a "b%s"; drop table seen --'])
def test_a_batch_that_runs_again_replaces_its_rows_by_the_batch_column(
    column: str, url: str, frame: Frame, either_size: None
) -> None:
    table = sql_table(url, "seen", batch_column=column)
    for n in (1, 2, 3):
        table.check(frame(), batch(n - 1))
        assert table.write(frame(("a", n), ("b", n)), batch(n)) == 2
    for _ in range(2):  # the second time as after a kill between the commit and the done mark
        restart()
        assert table.write(frame(("a", 20), ("a", 20), ("c", 21)), replace(batch(2), again=True)) == 3
    assert table.write(frame(), replace(batch(3), again=True)) == 0
    assert rows_of(url, "seen") == [("a", 1, 1), ("a", 20, 2), ("a", 20, 2), ("b", 1, 1), ("c", 21, 2)]
    assert rows_of(url, "sparkstream_ledger", "batch", "rows") == [(1, 2), (2, 3), (3, 0)]
    assert table.write(frame(("a", 4)), batch(3)) == 0, "batches that do not run again are skipped as ever"
    other = replace(batch(2), again=True, ranges={"lines": (1, 70)})
    with pytest.raises(OutputRefused, match="the home is an outdated copy"):
        table.write(frame(("a", 4)), other)


def test_a_batch_column_is_one_more_column(url: str, frame: Frame) -> None:
    with pytest.raises(OutputRefused, match="'seen' has a column 'Host' of its own: name another batch_column"):
        sql_table(url, "seen", batch_column="Host").check(frame(), batch(0))
    sql_table(url, "seen").check(frame(), batch(0))
    restart()
    with pytest.raises(OutputRefused, match="the table 'seen' does not fit: it has no column 'batch'"):
        sql_table(url, "seen", batch_column="batch").check(frame(), batch(0))
    execute(url, "alter table seen add column batch bigint")
    restart()
    table = sql_table(url, "seen", batch_column="batch")
    table.check(frame(), batch(0))
    assert table.write(frame(("a", 1)), batch(1)) == 1
    assert rows_of(url, "seen") == [("a", 1, 1)]


@pytest.mark.parametrize("mode", ["append", "upsert", "accumulate"])
def test_what_the_ledger_forgets_is_written_once_more(mode: str, url: str, frame: Frame) -> None:
    table = sql_table(url, "hits", mode=mode, key=() if mode == "append" else "host")
    other = sql_table(url, "others")
    for n in (1, 2, 3):
        table.write(frame(("a", n)), batch(n))
        other.write(frame(("a", n)), batch(n))
    for _ in range(2):  # twice, as after a kill
        table.forget(batch(1), 3)
    for n in (2, 2, 3):
        table.write(frame(("a", 10 * n)), batch(n))
        assert other.write(frame(("a", n)), batch(n)) == 0
    rows = {"append": [("a", n) for n in (1, 2, 3, 20, 30)], "upsert": [("a", 30)], "accumulate": [("a", 56)]}
    assert rows_of(url, "hits") == rows[mode]


@pytest.mark.parametrize(
    ("mode", "expected"), [("upsert", [("a", 1), ("b", 5), ("c", 7)]), ("accumulate", [("a", 1), ("b", 7), ("c", 7)])]
)
def test_rows_with_a_known_key_are_replaced_or_added_to_once(
    mode: str, expected: list[tuple[Any, ...]], url: str, frame: Frame, either_size: None
) -> None:
    table = sql_table(url, "hits", mode=mode, key="host")
    second = frame(("b", 5), ("c", 7))
    assert table.write(frame(("a", 1), ("b", 2)), batch(1)) == 2
    assert [table.write(second, batch(2)), table.write(second, batch(2))] == [2, 0]
    assert rows_of(url, "hits") == expected
    assert rows_of(url, "sparkstream_ledger", "home", "output", "batch", "table", "ranges", "rows") == [
        ("home-a", "hits", 1, "hits", '{"lines": [0, 1]}', 2),
        ("home-a", "hits", 2, "hits", '{"lines": [1, 2]}', 2),
    ]


def test_two_rows_for_one_key_add_up(url: str, frame: Frame, either_size: None) -> None:
    sql_table(url, "hits", mode="accumulate", key="host").write(frame(("a", 1), ("a", 2), ("b", None)), batch(1))
    table = sql_table(url, "hits", mode="accumulate", key="host")
    table.write(frame(("a", 4), ("a", None), ("b", 3)), batch(2))
    assert rows_of(url, "hits") == [("a", 7), ("b", 3)]


@pytest.mark.parametrize("kind", ["int", "bigint", "double", "decimal(10,2)"])
def test_a_null_adds_nothing_and_nulls_alone_stay_null(
    kind: str, url: str, spark: SparkSession, either_size: None
) -> None:
    hits = sql_table(url, "hits", mode="accumulate", key="host")
    rows = "('number', {}), ('null', null), ('first', {}), ('later', null)"
    for n, values in enumerate(((1, 2), ("null", "null"), (5, "null")), 1):
        later = "union all select 'later', null" if n < 3 else "union all select 'later', 7"
        given = f"select * from values {rows.format(*values)} as t(host, n) where host <> 'later' {later}"
        hits.write(spark.sql(f"select host, cast(n as {kind}) as n from ({given})").repartition(2), batch(n))
    assert rows_of(url, "hits") == [("first", 2), ("later", 7), ("null", None), ("number", 6)]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_beyond_64_bits_fails_the_batch_and_loses_nothing(
    sign: int, url: str, frame: Frame, either_size: None
) -> None:
    hits, most = sql_table(url, "hits", mode="accumulate", key="host"), 2**63 - 1
    hits.write(frame(("a", sign * (most - 1)), ("b", 1)), batch(1))
    hits.write(frame(("a", sign), ("c", sign * most)), batch(2))
    with pytest.raises(
        BatchFailed, match="(?i)rejects batch 3 of the output 'hits' for the table 'hits': .*o.*range|flow"
    ):
        hits.write(frame(("b", 1), ("c", 3 * sign), ("a", 2 * sign)), batch(3))
    assert rows_of(url, "hits") == [("a", sign * most), ("b", 1), ("c", sign * most)]
    hits.write(frame(("b", 1)), batch(4))
    assert rows_of(url, "hits")[1] == ("b", 2)


def test_two_rows_for_one_key_cannot_both_be_kept(url: str, frame: Frame, either_size: None) -> None:
    table = sql_table(url, "hits", mode="upsert", key="host")
    table.write(frame(("a", 1)), batch(1))
    with pytest.raises(
        BatchFailed, match="batch 2 of the output 'hits' has duplicate keys for the table 'hits'; upsert"
    ):
        table.write(frame(("a", 2), ("a", 3)), batch(2))
    assert rows_of(url, "hits") == [("a", 1)]


def test_a_key_of_several_columns_names_a_row(url: str, frame: Frame, either_size: None) -> None:
    table = sql_table(url, "hits", mode="accumulate", key="host, path")
    for n in (1, 2):
        table.write(frame(("a", "/", 1), ("a", "/b", 2), schema="host string, path string, n int"), batch(n))
    assert rows_of(url, "hits") == [("a", "/", 2), ("a", "/b", 4)]


def test_a_frame_of_keys_alone_is_a_set(url: str, frame: Frame, either_size: None) -> None:
    table = sql_table(url, "hosts", mode="upsert", key="host")
    for n in (1, 2):
        table.write(frame(("a",), (f"b{n}",), schema="host string"), batch(n))
    assert rows_of(url, "hosts") == [("a",), ("b1",), ("b2",)]


def test_a_file_that_is_moved_away_gets_no_more_rows(tmp_path: Path, frame: Frame) -> None:
    file, away = tmp_path / "counts.db", tmp_path / "away.db"
    table = sql_table(f"sqlite:///{file}", "seen")
    assert table.write(frame(("a", 1)), batch(1)) == 1
    file.rename(away)
    with pytest.raises(sa.exc.OperationalError, match="no such table"):
        table.write(frame(("a", 2)), batch(2))
    away.rename(file)
    assert table.write(frame(("a", 2)), batch(2)) == 1
    assert rows_of(f"sqlite:///{file}", "seen") == [("a", 1), ("a", 2)]


def test_an_empty_batch_creates_the_table(url: str, frame: Frame, either_size: None) -> None:
    assert sql_table(url, "hits").write(frame(), batch(1)) == 0
    assert rows_of(url, "hits") == []


def test_two_drivers_that_write_one_batch_at_once_write_it_once(url: str, frame: Frame) -> None:
    given, table, written = frame(("a", 1)), sql_table(url, "hits"), []
    table.check(given, batch(0))
    together = threading.Barrier(2)

    def drive() -> None:
        together.wait(60)
        written.append(table.write(given, batch(1)))

    drivers = [threading.Thread(target=drive) for _ in range(2)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join(60)
    assert sorted(written) == [0, 1]
    assert rows_of(url, "hits") == [("a", 1)]


def test_the_ledger_keeps_the_newest_batches_of_each_output(
    url: str, frame: Frame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sql_ledger, "KEPT_BATCHES", 2)
    for name in ("one", "two"):
        for n in range(1, 5):
            sql_table(url, f"hits of {name}", name=name).write(frame(), batch(n))
    kept = rows_of(url, "sparkstream_ledger", "output", "batch")
    assert kept == [("one", 3), ("one", 4), ("two", 3), ("two", 4)]


# --- the format of the ledger


def test_a_ledger_row_says_its_format(url: str, frame: Frame) -> None:
    sql_table(url, "hits").write(frame(("a", 1)), batch(1))
    assert rows_of(url, "sparkstream_ledger", "batch", "format") == [(1, 1)]


def test_a_ledger_with_rows_of_a_newer_format_is_refused_at_the_start(url: str, frame: Frame) -> None:
    sql_table(url, "hits").write(frame(("a", 1)), batch(1))
    execute(url, "update sparkstream_ledger set format = 2")
    restart()
    with pytest.raises(NewerFormat, match=f"^{NEWER}$"):
        sql_table(url, "hits").check(frame(), batch(1))
    with pytest.raises(NewerFormat):
        sql_table(url, "others").write(frame(("a", 1)), batch(2))
    with pytest.raises(NewerFormat):
        _sql_ledger.ledger(url)
    assert rows_of(url, "hits") == [("a", 1)]


def test_a_column_that_a_newer_version_added_to_the_ledger_is_ignored(url: str, frame: Frame) -> None:
    sql_table(url, "hits").write(frame(("a", 1)), batch(1))
    execute(url, "alter table sparkstream_ledger add column host text")
    restart()
    table = sql_table(url, "hits")
    table.check(frame(), batch(1))
    assert [table.write(frame(("b", 2)), batch(n)) for n in (1, 2, 2)] == [0, 1, 0]
    assert rows_of(url, "hits") == [("a", 1), ("b", 2)]
    assert sorted(_sql_ledger.ledger(url)["home-a"]) == [1, 2]


# --- what a column holds


def test_every_simple_type_reads_back_unchanged_and_fits_the_table_at_the_next_start(
    url: str, spark: SparkSession, either_size: None
) -> None:
    given = spark.sql(
        """select true as bool, 1y as byte, 2s as short, 3 as int, 4L as long, float(0.5) as float, 2.5d as double,
        cast(12.25 as decimal(10, 2)) as decimal, 'müller\n' as string, X'00ff27' as binary, date'2026-02-28' as date,
        timestamp'2026-10-25 00:30:00.123456Z' as summer, timestamp'2026-10-25 01:30:00Z' as winter,
        timestamp_ntz'2026-10-25 02:30:00' as plain"""
    )
    nothing = given.selectExpr(*(f"cast(null as {kind}) as {name}" for name, kind in given.dtypes))
    table = sql_table(url, "types")
    table.write(given, batch(1))
    table.write(nothing, batch(2))
    restart()
    table.check(given, batch(2))
    execute(url, "delete from types where int is null")
    (found,) = rows_of(url, "types")
    utc = [t if t.tzinfo is None else t.astimezone(timezone.utc).replace(tzinfo=None) for t in found[-3:]]
    assert found[:-3] == (
        True, 1, 2, 3, 4, 0.5, 2.5, Decimal("12.25"), "müller\n", b"\x00\xff'", datetime.date(2026, 2, 28),
    )  # fmt: skip
    assert utc == [
        datetime.datetime(2026, 10, 25, 0, 30, 0, 123456),
        datetime.datetime(2026, 10, 25, 1, 30),
        datetime.datetime(2026, 10, 25, 2, 30),
    ]


HOSTILE = """x"; drop table "victim"; -- %s :c0 ' \\ `[{$1}] . ü %(c0)s"""


def test_names_and_values_cannot_become_statements(url: str, spark: SparkSession, either_size: None) -> None:
    execute(url, "create table victim (n integer)")
    column = HOSTILE[:-7]
    given = spark.createDataFrame([(HOSTILE, HOSTILE, 1)], f"k string, `{column.replace('`', '``')}` string, n int")
    for mode, key in (("append", ()), ("upsert", "k"), ("accumulate", ["k", column])):
        table = sql_table(url, f"{mode} {column}", mode=mode, key=key, name=f"{mode} {HOSTILE}")
        for n in (1, 2, 2):
            table.write(given, batch(n, home=HOSTILE))
    assert rows_of(url, f"append {column}") == [(HOSTILE, HOSTILE, 1)] * 2
    assert rows_of(url, f"upsert {column}") == [(HOSTILE, HOSTILE, 1)]
    assert rows_of(url, f"accumulate {column}") == [(HOSTILE, HOSTILE, 2)]
    assert "victim" in tables_of(url)


# --- what is refused


@pytest.mark.parametrize(
    ("existing", "why"),
    [
        ("host text", "it has no column 'n'"),
        ("host text, n text", "its column 'n' is TEXT, but the frame's is BIGINT"),
        ("host text, n bigint, day text not null", "its column 'day' must not be null, but the frame does not have it"),
        ("host text, n bigint", "it has no unique key \\(host\\)"),
        ("host text, n bigint, unique (host, n)", "it has no unique key \\(host\\)"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_its_columns(existing: str, why: str, url: str, frame: Frame) -> None:
    execute(url, f"create table hits ({existing})")
    with pytest.raises(OutputRefused, match=f"the table 'hits' does not fit: .*{why}"):
        sql_table(url, "hits", mode="upsert", key="host").check(frame(), batch(0))


@pytest.mark.parametrize(
    "existing",
    [
        "host text primary key, n bigint",
        "n numeric(20), host varchar(9) unique, day date default current_date not null, note text",
    ],
)
def test_a_table_that_fits_is_used_as_it_is(existing: str, url: str, frame: Frame, either_size: None) -> None:
    execute(url, f"create table hits ({existing})")
    table = sql_table(url, "hits", mode="accumulate", key="host")
    for n in (1, 2):
        table.write(frame(("a", n)), batch(n))
    assert rows_of(url, "hits", "host", "n") == [("a", 3)]


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ("host string, tags array<string>", "the column 'tags' for the table 'hits' is array<string>"),
        ("host string, n string", "the column 'n' for the table 'hits' is TEXT, but accumulate only adds numbers"),
        ("path string, n int", "has no column 'host' for its key: its columns are path, n"),
        ("host string, n int, N int", "has several columns named 'N'"),
        (f"host string, {'n' * 200} int", "is longer than the"),
        ("host string, `%(c0)s` int", r"'%\(c0\)s' contains %\(, which SQLAlchemy takes for a parameter"),
    ],
)
def test_a_frame_that_no_table_can_hold_is_refused(schema: str, why: str, url: str, frame: Frame) -> None:
    if "longer" in why and url.startswith("sqlite"):
        schema = f"host string, {'n' * 10_000} int"
    with pytest.raises(OutputRefused, match=why):
        sql_table(url, "hits", mode="accumulate", key="host").check(frame(schema=schema), batch(0))


def test_another_home_is_refused_by_name_instead_of_being_skipped(url: str, frame: Frame) -> None:
    sql_table(url, "hits").write(frame(("a", 1)), batch(1, "home-a"))
    restart()
    with pytest.raises(OutputRefused, match="'hits' holds rows of the home home-a, and this is the home home-b: use"):
        sql_table(url, "hits").check(frame(), batch(0, "home-b"))
    sql_table(url, "hits of b").write(frame(("b", 1)), batch(1, "home-b"))
    assert rows_of(url, "hits of b") == [("b", 1)]


def test_a_table_is_claimed_at_the_start_by_one_output_of_one_home(url: str, frame: Frame) -> None:
    sql_table(url, "hits").check(frame(), batch(0, "home-a"))
    restart()
    with pytest.raises(OutputRefused, match="'hits' belongs to the home home-a, and this is the home home-b: use that"):
        sql_table(url, "hits").check(frame(), batch(0, "home-b"))
    with pytest.raises(
        OutputRefused, match="'hits' belongs to the output 'hits', and this is the output 'more' of the same home"
    ):
        sql_table(url, "hits", name="more").check(frame(), batch(0, "home-a"))
    sql_table(url, "hits").check(frame(), batch(0, "home-a"))
    with pytest.raises(OutputRefused, match="'hits' is longer|does not fit"):
        execute(url, "create table other (host text)")
        sql_table(url, "other").check(frame(), batch(0, "home-a"))
    assert rows_of(url, "sparkstream_owners") == [("hits", "home-a", "hits")], "what is refused is not claimed"


def test_of_several_homes_that_claim_a_table_at_once_one_gets_it(url: str) -> None:
    def claim(home: str) -> None:
        engine = sa.create_engine(_sql.parse_url(url), poolclass=sa.NullPool)
        with engine.begin() as connection:
            _sql_ledger.claim(connection, sql_table(url, "hits"), home)

    refused = refused_at_once(claim)
    assert len(refused) == 3
    ((_, owner, _),) = rows_of(url, "sparkstream_owners")
    assert owner not in refused


def test_a_table_from_before_tables_were_claimed_goes_to_the_home_that_wrote_it(url: str, frame: Frame) -> None:
    sql_table(url, "hits").write(frame(("a", 1)), batch(1, "home-a"))
    execute(url, "drop table sparkstream_owners")
    restart()
    with pytest.raises(OutputRefused, match="'hits' holds rows of the home home-a"):
        sql_table(url, "hits").check(frame(), batch(0, "home-b"))
    sql_table(url, "hits").check(frame(), of_home(1))
    assert rows_of(url, "sparkstream_owners") == [("hits", "home-a", "hits")]


def of_home(n: int, start: int | None = None) -> Batch:
    """A batch of a home, which has end offsets, unlike one of a bare DStream."""
    ranges = {"lines": (n - 1 if start is None else start, n)}
    return Batch(n, batch(n).time, "home-a", ranges, {"lines": n})


def test_a_home_that_does_not_know_the_newest_batch_is_refused(
    url: str, frame: Frame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sql_ledger, "KEPT_BATCHES", 2)
    hits = sql_table(url, "hits")
    for n in (1, 2, 3, 5):  # a slide skipped 4
        assert hits.write(frame(("a", n)), of_home(n)) == 1
    for n in (0, 1, 2, 3, 4):
        with pytest.raises(
            OutputRefused, match=f"holds batch 5 .* only come to batch {n}: the home is an outdated cop"
        ):
            hits.check(frame(), of_home(n))
    for n in (1, 2, 4):
        with pytest.raises(
            OutputRefused, match=f"holds batch 5 .* only come to batch {n}: the home is an outdated cop"
        ):
            hits.write(frame(("b", n)), of_home(n))
    with pytest.raises(OutputRefused, match=r"batch 5 .* but this one has .*\[70, 5\]}: the home is an outdated copy"):
        hits.check(frame(), of_home(5, start=70))
    hits.check(frame(), of_home(5))
    hits.check(frame(), of_home(6))
    with pytest.raises(OutputRefused, match="batch 2 .* is older than the 2 batches that the ledger keeps, so it may"):
        hits.write(frame(("b", 2)), batch(2))  # of a bare DStream
    assert hits.write(frame(("b", 4)), batch(4)) == 1, "Spark runs a batch again that failed"
    assert [n for _, n in rows_of(url, "hits")] == [1, 2, 3, 5, 4]


def test_a_home_that_is_an_older_copy_of_itself_is_refused(url: str, frame: Frame) -> None:
    table, other = sql_table(url, "hits"), Batch(1, batch(1).time, "home-a", {"lines": (0, 9)})
    table.write(frame(("a", 1)), batch(1))
    with pytest.raises(OutputRefused, match=r'batch 1 .* {"lines": \[0, 1\]}, but this one has {"lines": \[0, 9\]}'):
        table.write(frame(("a", 1)), other)


def test_a_row_that_breaks_a_constraint_fails_the_batch_by_its_name(url: str, frame: Frame, either_size: None) -> None:
    execute(url, "create table hits (host text, n bigint constraint few check (n < 10), unique (host))")
    table = sql_table(url, "hits")
    table.write(frame(("a", 1)), batch(1))
    with pytest.raises(BatchFailed, match="rejects batch 2 of the output 'hits' for the table 'hits': .*(few|CHECK)"):
        table.write(frame(("b", 1), ("c", 99)), batch(2))
    with pytest.raises(BatchFailed, match="rejects batch 3 .*(hits_host_key|UNIQUE constraint failed: hits.host)"):
        table.write(frame(("b", 1), ("a", 2)), batch(3))
    assert rows_of(url, "hits") == [("a", 1)], "no row of a batch that failed"


@pytest.mark.parametrize("value", ["timestamp'-0044-03-15 12:00:00'", "date'9999-12-31' + 1"])
def test_a_time_beyond_the_years_of_python_fails_the_batch(value: str, url: str, spark: SparkSession) -> None:
    with pytest.raises(BatchFailed, match="batch 1 .* has a value that cannot be written to 'hits' .*: filter"):
        sql_table(url, "hits").write(spark.sql(f"select {value} as time"), batch(1))


@pytest.mark.parametrize("kind", ["string", "int"])
def test_a_null_key_fails_the_batch(kind: str, url: str, frame: Frame, either_size: None) -> None:
    table = sql_table(url, "hits", mode="upsert", key="host")
    with pytest.raises(BatchFailed, match="(?i)not.null"):
        table.write(frame((None, 1), schema=f"host {kind}, n int"), batch(1))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"url": "oracle://kit:secret@db/x"}, r"got the database oracle://kit:\*\*\*@db/x, expected sqlite:///FILE or"),
        ({"url": "secret"}, "got an invalid database URL, expected sqlite:///FILE or"),
        ({"url": "postgresql://kit:top@secret@db/x"}, "got an invalid database URL"),
        ({"url": "postgresql://kit@db:secret/x"}, "got an invalid database URL"),
        ({"url": "sqlite://"}, "got the database sqlite://, expected sqlite:///FILE"),
        ({"mode": "replace"}, "got the mode 'replace' for the table 'hits', expected append, upsert or accumulate"),
        ({"mode": "upsert"}, "the mode upsert of the table 'hits' needs key="),
        ({"key": "host"}, "the mode append of the table 'hits' takes no key"),
        (
            {"mode": "upsert", "key": "host", "batch_column": "n"},
            "the mode upsert of the table 'hits' takes no batch_co",
        ),
    ],
)
def test_arguments_that_mean_nothing_are_refused_at_once(arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why) as refused:
        sql_table(**{"url": "sqlite:///x.db", "table": "hits", **arguments})
    assert "secret" not in str(refused.value)


# --- in jobs


def test_a_job_on_frames_writes_each_batch_and_is_refused_before_the_first_one(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sparkstream_kit.engine.batches")

    def job(lines: DStream[tuple[str]]) -> None:
        hosts = FrameStream.of(lines, "host string")
        _sql.sql(hosts.reduce_by_key("host", {"n": count()}), url, mode="accumulate", key="host", name="hits")

    run_batches(job, [[("a",), ("b",)], [("a",)], []])
    assert rows_of(url, "hits") == [("a", 2), ("b", 1)]
    said = [record.getMessage() for record in caplog.records if "done in" in record.getMessage()]
    assert [line.rpartition(" ")[2] for line in said] == ["rows.sql:hits=2", "rows.sql:hits=1"]
    restart()
    with pytest.raises(
        OutputRefused, match="'hits' holds rows of the home [0-9a-f]{32}, and this is the home [a-f0-9]"
    ):
        run_batches(job, [[("a",)]])
    assert rows_of(url, "hits") == [("a", 2), ("b", 1)]


def test_two_tables_of_bare_dstreams_have_names_of_their_own(url: str, frame: Frame) -> None:
    for table in (sql_table(url, "hits"), sql_table(url, "copy")):
        table.write(frame(("a", 1)), batch(1))
    assert rows_of(url, "hits") == rows_of(url, "copy") == [("a", 1)]


def test_a_bare_dstream_writes_each_batch_time_once(url: str) -> None:
    def job(hosts: DStream[str]) -> None:
        counts = hosts.countByValue()
        table = sql_table(url, "hits", mode="accumulate", key="host")
        for _ in range(2):  # the second one is Spark running a batch again
            counts.foreachRDD(each_batch(table.write, "hits of the test", COUNTS))

    run_batches(job, [["a", "b"], ["a"]], batch_interval="1s")
    assert rows_of(url, "hits") == [("a", 2), ("b", 1)]
    assert rows_of(url, "sparkstream_ledger", "home", "batch") == [
        ("hits of the test", 1000),
        ("hits of the test", 2000),
    ]


# --- kill -9

KILLS = """
import os, signal, sys
from datetime import datetime, timezone
import sqlalchemy as sa
from pyspark.sql import Row
from pyspark.sql.types import LongType, StringType, StructType
from sparkstream_kit.contracts import Batch
from sparkstream_kit.outputs import _sql as sql

url, driver_rows = sys.argv[1], int(sys.argv[2])
steps, deadly = 0, None

def step(*_, **__):
    global steps
    steps += 1
    if steps == deadly:
        os.kill(os.getpid(), signal.SIGKILL)

class Frame:
    "What the output needs of a DataFrame; the process under test is the driver's, without a JVM."
    schema = StructType().add("host", StringType()).add("n", LongType())
    def __init__(self, rows): self.rows = rows
    def limit(self, n): return Frame(self.rows[:n])
    def coalesce(self, n): return self
    def collect(self): return self.rows
    def toLocalIterator(self):
        for row in self.rows:
            step()
            yield row
    rdd = property(lambda self: self)
    def mapPartitionsWithIndex(self, function):
        return Frame([*function(0, self.toLocalIterator()), *function(1, iter(self.rows[:0]))])

def run():
    for mode, key, n, rows in (
        ("accumulate", "host", 1, [("a", 1), ("b", 2)]),
        ("accumulate", "host", 2, [("b", 3), ("c", 4)]),
        ("append", "", 2, [("b", 3), ("c", 4)]),
        ("upsert", "host", 1, [("a", 1), ("b", 2)]),
        ("upsert", "host", 2, [("b", 3), ("c", 4)]),
    ):
        batch = Batch(n, datetime.fromtimestamp(n, timezone.utc), "home", {"x": (n - 1, n)})
        sql.sql_table(url, mode, mode=mode, key=key, name=mode).write(Frame([Row(*row) for row in rows]), batch)

def found():
    engine = sa.create_engine(sql.parse_url(url), poolclass=sa.NullPool)
    with engine.begin() as connection:
        tables = {}
        for name in sorted(sa.inspect(connection).get_table_names()):
            if name not in ("sparkstream_ledger", "sparkstream_owners"):
                tables[name] = sorted(map(tuple, connection.exec_driver_sql(f"select * from {name}")))
            connection.exec_driver_sql(f"drop table {name}")
    return tables

def run_in_a_process(dies_at=None):
    global steps, deadly
    pid = os.fork()
    if pid == 0:
        try:
            steps, deadly = 0, dies_at
            run()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

sql.DRIVER_ROWS = driver_rows
sql._has_duplicate_keys = lambda frame, key: False  # asks Spark, before the first step
for event in ("before_cursor_execute", "commit"):
    sa.event.listen(sa.Engine, event, step)
sa.event.listen(sa.Pool, "checkin", step)  # right after a commit
assert run_in_a_process() == 0
expected, kills = found(), 0
while (code := run_in_a_process(dies_at=kills + 1)) != 0:
    assert code == -signal.SIGKILL, code
    assert run_in_a_process() == 0
    got, kills = found(), kills + 1
    assert got == expected, (kills, got, expected)
print(kills, "kills")
print(expected)
"""


@pytest.mark.slow
@pytest.mark.parametrize("driver_rows", [_sql.DRIVER_ROWS, 0], ids=["small", "large"])
def test_a_driver_killed_between_any_two_steps_leaves_each_batch_once(url: str, driver_rows: int) -> None:
    run = subprocess.run(
        [sys.executable, "-c", KILLS, url, str(driver_rows)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,  # a hang, not a slow machine
    )
    assert run.returncode == 0, run.stderr
    kills, found = run.stdout.splitlines()
    assert int(kills.split()[0]) > 30, "every statement, commit and row of five writes"
    assert found == str(
        {
            "accumulate": [("a", 1), ("b", 5), ("c", 4)],
            "append": [("b", 3), ("c", 4)],
            "upsert": [("a", 1), ("b", 3), ("c", 4)],
        }
    )
