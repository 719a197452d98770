"""enrich: a retried batch is joined with the version it had, whatever is in the table by then."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import DataFrame
from pyspark.streaming import StreamingContext

from sparkstream_kit.engine import batches
from sparkstream_kit.errors import UsageError
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.testing import local_session
from sparkstream_kit.transforms import enrich
from tests.support.ticks import Build, job, killed, run_ticks
from tests.support.ticks import given as given_rows

pytestmark = pytest.mark.usefixtures("spark")

ROWS = [[("a",)]] * 9


class Table:
    """A table whose rows a test changes; it cannot be read while they are None."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int]] | None = [("a", 0)]
        self.schema = "k string, version int"

    def read(self) -> DataFrame:
        if self.rows is None:
            raise ConnectionError("the table is unavailable")
        return local_session().createDataFrame(self.rows, self.schema)


def program(
    table: Table, more: Callable[[FrameStream], FrameStream] = lambda s: s, every: int = 2, files: str | None = None
) -> Build:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        rows = given_rows(ssc, ROWS, "k string")
        return {"out": more(enrich(rows, table.read, "k", refresh_every=every, files=files))}

    return build


def test_a_table_is_read_at_the_start_and_then_every_refresh_every_batches(tmp_path: Path) -> None:
    table = Table()
    with job(program(table), tmp_path, seen := {}) as engine:
        for second in range(1, 6):
            table.rows = [("a", second), ("b", second)]
            engine.tick(1000 * second)
    assert seen["out"] == {second: [("a", version)] for second, version in enumerate([1, 1, 3, 3, 5], 1)}


def test_a_table_is_read_when_its_files_change_and_once_per_batch(tmp_path: Path) -> None:
    table = Table()
    day = tmp_path / "in/day=1"
    day.mkdir(parents=True)
    (day / "a.csv").write_text("1")
    with job(program(table, every=100, files=f"{tmp_path}/i[n]"), tmp_path / "home", seen := {}) as engine:
        for second, change in enumerate(
            [
                lambda: None,
                lambda: (day / "_started").write_text("hidden"),
                lambda: (day / "b.csv").write_text("added"),
                lambda: (day / "b.csv").write_text("grown larger"),
                lambda: os.utime(day / "b.csv", (1, 1)),
                lambda: (day / "b.csv").unlink(),
                lambda: None,
            ],
            1,
        ):
            table.rows = [("a", second)]
            change()
            engine.tick(1000 * second)
        assert seen["out"] == {n: [("a", version)] for n, version in enumerate([1, 1, 3, 4, 5, 6, 6], 1)}
        (day / "a.csv").write_text("changed before the batch is retried")
        engine.graph.drop_contexts()
        engine._run(engine.graph.log.last)


def test_missing_files_are_refused_at_the_first_start_and_later_leave_the_last_version_in_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table, path = Table(), tmp_path / "in.csv"
    home, define = tmp_path / "home", program(table, files=str(path))
    with pytest.raises(UsageError, match="no file matches files='.*in.csv': give the file"):
        run_ticks(define, tmp_path / "other", [])
    path.write_text("1")
    seen = run_ticks(define, home, [1])
    path.unlink()
    table.rows = None
    assert run_ticks(define, home, [2], seen)["out"] == {1: [("a", 0)], 2: [("a", 0)]}
    assert "enrichment 'enrichment' cannot be read" in caplog.text


def test_a_version_with_columns_other_than_at_the_start_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = Table()
    with job(program(table, every=1), tmp_path, seen := {}) as engine:
        engine.tick(1000)
        table.schema = "k string, edition int"
        engine.tick(2000)
    assert seen["out"] == {1: [("a", 0)], 2: [("a", 0)]}
    assert "got struct<k:string,edition:int>, expected struct<k:string,version:int> as at the start" in caplog.text


def test_a_key_that_is_missing_from_the_table_is_kept_with_nulls(tmp_path: Path) -> None:
    table = Table()
    table.rows = []
    assert run_ticks(program(table), tmp_path, [1]) == {"out": {1: [("a", None)]}}


@pytest.mark.parametrize("read_by", [1, 2])
def test_a_retried_batch_is_joined_with_the_version_it_had(read_by: int, tmp_path: Path) -> None:
    table = Table()
    with job(program(table), tmp_path, seen := {}) as engine, pytest.raises(SystemExit):
        for second in range(read_by, 3):
            if second == 2:
                engine.graph.log.mark_done = killed  # type: ignore[method-assign]
            engine.tick(1000 * second)
    table.rows = [("a", 7)]
    run_ticks(program(table), tmp_path, [2, 3], seen)  # a start reads again, for the first new batch
    assert {n: rows[-1] for n, rows in seen["out"].items() if n > 1} == {2: ("a", 0), 3: ("a", 7)}


def test_if_reading_fails_the_last_good_version_stays_in_use_even_if_the_batch_is_retried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = Table()
    with job(program(table), tmp_path, seen := {}) as engine:
        engine.tick(1000)
        table.rows = None
        with caplog.at_level(logging.WARNING):
            engine.tick(2000)
            assert not caplog.messages
            engine.tick(3000)
        assert (
            "cannot be read (ConnectionError: the table is unavailable): batch 3 uses the version of batch 1"
            in caplog.text
        )
        table.rows = [("a", 9)]
        engine.graph.drop_contexts()
        engine._run(engine.graph.log.last)
        assert seen["out"] == {1: [("a", 0)], 2: [("a", 0)], 3: [("a", 0)]}
        engine.tick(4000)
        engine.tick(5000)
    assert [seen["out"][n] for n in (4, 5)] == [[("a", 0)], [("a", 9)]]


def test_a_start_without_any_version_fails_if_reading_fails(tmp_path: Path) -> None:
    table = Table()
    table.rows = None
    with pytest.raises(UsageError, match="'out' cannot work: ConnectionError: the table is unavailable"):
        run_ticks(program(table), tmp_path, [])


def test_a_start_with_a_version_works_if_reading_fails(tmp_path: Path) -> None:
    table = Table()
    seen = run_ticks(program(table), tmp_path, [1])
    table.rows = None
    assert run_ticks(program(table), tmp_path, [2], seen)["out"][2] == [("a", 0)]


def test_a_window_over_the_joined_stream_sees_each_batch_with_its_version(tmp_path: Path) -> None:
    table = Table()
    define = program(table, lambda s: s.window("3s"))
    seen = run_ticks(define, tmp_path, [1, 2])
    table.rows = [("a", 3)]
    assert run_ticks(define, tmp_path, [3], seen)["out"][3] == [("a", 0), ("a", 0), ("a", 3)]


def test_versions_that_no_batch_can_need_any_more_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 4)
    run_ticks(program(Table()), tmp_path, range(1, 8))
    kept = sorted(path.name for path in (tmp_path / "enrichment/enrichment").iterdir())
    assert kept == ["5", "7"]


def test_a_refresh_interval_below_one_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="got refresh_every=0, expected at least 1"):
        enrich(None, lambda: None, "k", refresh_every=0)  # type: ignore[arg-type,return-value]
