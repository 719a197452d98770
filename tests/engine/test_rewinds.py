"""Batches that run again with other code: what outputs and states have then, through kills, and what is refused.

What is expected is computed in plain Python: batches up to the rewind as the old code had them, later ones as the new.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import deltalake
import pyarrow.parquet
import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit import cli
from sparkstream_kit.context import existing_home
from sparkstream_kit.contracts import Batch
from sparkstream_kit.engine import batches
from sparkstream_kit.errors import HomeDamaged, OutputRefused, UsageError
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.outputs import _compaction, _delta, _rejected, _sql_ledger
from sparkstream_kit.recovery import storage
from sparkstream_kit.recovery.offset_log import OffsetLog
from sparkstream_kit.status import left, status
from tests.support import rotation
from tests.support.ticks import given, job, killed, run_ticks

KEPT = 9
pytestmark = pytest.mark.usefixtures("spark")

A = ss.aggregates
ROWS = [[(f"k{(n * size) % 3}", n + size) for n in range(size)] for size in (3, 2, 5, 1, 4, 2, 6, 3, 1)]
LAST = 7
WINDOW = 3


@pytest.fixture(autouse=True)
def _many_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 2)


def results(out: Path, factor: int) -> Callable[[StreamingContext], dict[str, FrameStream]]:
    """A job whose code multiplies by a factor; it drops all rows of a batch if the factor is 0."""

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        rows = given(ssc, ROWS, "k string, v bigint").select("k", (F.col("v") * factor).alias("v"))
        rows = rows.filter("v != 0")
        ss.outputs.parquet(rows, str(out), name="parquet", partition_by="k")
        ss.outputs.delta(rows, str(out), name="delta", partition_by="k")
        ss.outputs.sql(rows, f"sqlite:///{out}/db", name="table", batch_column="n")
        running = rows.update_state_by_key("k", {"v": A.sum("v")}, name="running")
        ss.outputs.json(running, str(out), name="running")
        sums = rows.reduce_by_key_and_window("k", {"v": A.sum("v")}, f"{WINDOW}s")
        ss.outputs.json(sums, str(out), name="window")
        return {}

    return build


def expected(factors: list[int]) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of each output, with their batches, if batch n ran with the n-th factor the last time."""
    read = [[(k, v * factor) for k, v in rows if factor] for rows, factor in zip(ROWS, factors, strict=False)]
    plain = [(k, v, n) for n, rows in enumerate(read, 1) for k, v in rows]
    running, window, totals = list[Any](), list[Any](), Counter[str]()
    for n, rows in enumerate(read, 1):
        totals.update(dict.fromkeys((k for k, _ in rows), 0))
        for k, v in rows:
            totals[k] += v
        running += [(k, v, n) for k, v in totals.items()]
        # the code of today computes the whole window of a batch that runs again
        seen = [(k, v * factors[n - 1]) for rows in ROWS[max(0, n - WINDOW) : n] for k, v in rows if factors[n - 1]]
        sums = Counter[str]()
        for k, v in seen:
            sums[k] += v
        window += [(k, v, n) for k, v in sums.items()]
    made = {"parquet": plain, "table": plain, "running": running, "window": window}
    return {name: sorted(rows) for name, rows in made.items()} | {"delta": sorted((k, v) for k, v, _ in plain)}


def found(out: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What is there, read without Spark."""
    rows = {name: sorted(files(out / name)) for name in ("parquet", "running", "window")}
    delta = deltalake.DeltaTable(out / "delta").to_pyarrow_dataset().to_table().to_pylist()
    rows["delta"] = sorted((row["k"], row["v"]) for row in delta)
    with contextlib.closing(sqlite3.connect(out / "db")) as database:
        rows["table"] = sorted(database.execute("select k, v, n from [table]").fetchall())
        ledger = database.execute("select batch, rows from sparkstream_ledger order by batch").fetchall()
    counts = Counter(n for _, _, n in rows["table"])
    assert ledger == [(n, counts[n]) for n in range(1, len(ledger) + 1)]
    return rows


def files(folder: Path) -> Iterator[tuple[Any, ...]]:
    """The rows of all batches, each with the number of its batch."""
    for file in folder.glob("batch=*/**/part-*"):
        names = dict(part.split("=") for part in file.relative_to(folder).parts[:-1])
        is_json = file.suffix == ".json"
        for row in map(json.loads, file.open()) if is_json else pyarrow.parquet.read_table(file).to_pylist():
            yield {**names, **row}["k"], row["v"], int(names["batch"])


def rewind(home: Path, *arguments: str) -> int:
    return cli.main(["rewind", f"{home}", *arguments])


def kept(home: Path) -> OffsetLog:
    return OffsetLog(f"file:{home}/offsets")


@pytest.mark.parametrize("end", ["stopped", "unfinished"])
def test_outputs_and_states_are_those_of_the_new_code(
    end: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    out.mkdir()
    with contextlib.suppress(SystemExit), job(results(out, 10), home, keep_batches=4) as engine:
        for second in range(1, LAST + 1):
            if second == LAST and end == "unfinished":
                engine.graph.log.mark_done = killed  # type: ignore[method-assign]
            engine.tick(1000 * second)
        if end == "stopped":
            engine.close()
    assert found(out) == expected([10] * LAST)
    totals = status(existing_home(str(home)))["totals"]["records"]
    assert totals == sum(map(len, ROWS[: LAST - (end == "unfinished")]))

    assert rewind(home, "--to", "4") == 0
    assert capsys.readouterr().out.startswith(
        "the next start runs batches 5 to 7 (recorded 1970-01-01 00:00:05 to 1970-01-01 00:00:07 UTC) again"
    )
    assert found(out) == expected([10] * LAST), "nothing changes before the start"
    run_ticks(results(out, 1), home, [8, 9], keep_batches=4)
    assert found(out) == expected([10] * 4 + [1] * 5)
    assert status(existing_home(str(home)))["totals"]["records"] == sum(map(len, ROWS[:9]))


def test_rows_that_the_new_code_no_longer_has_are_gone(tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    out.mkdir()
    run_ticks(results(out, 1), home, range(1, 6))
    assert rewind(home, "--to", "2") == 0
    run_ticks(results(out, 0), home, [6])
    assert found(out) == expected([1, 1, 0, 0, 0, 0])


STEPS = ("write", "write_new", "delete", "publish")


@pytest.mark.slow
@pytest.mark.parametrize("part", rotation.share(range(12), rotation.current()))
def test_killed_at_any_step_it_goes_on(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    out.mkdir()
    run_ticks(results(out, 10), home, range(1, 6), keep_batches=4)
    assert rewind(home, "--to", "2") == 0
    kills = 0
    for at in range(part + 1, 1000, 12):
        with contextlib.suppress(SystemExit), die(at) as calls:
            run_ticks(results(out, 1), home, [], keep_batches=4)
            with job(results(out, 1), home, keep_batches=4) as engine:
                engine.tick(5500)
        if calls() < at:
            break
        kills += 1
    run_ticks(results(out, 1), home, [6], keep_batches=4)
    assert kills, "at least one"
    assert found(out) == expected([10, 10, 1, 1, 1, 1])
    assert kept(home).again is None


@contextlib.contextmanager
def die(at: int) -> Iterator[Callable[[], int]]:
    """End the process, as it seems, after the n-th change of the storage; how many there were."""
    calls = 0
    with pytest.MonkeyPatch.context() as patch:

        def counting(original: Callable[..., Any]) -> Callable[..., Any]:
            def step(*arguments: Any) -> Any:
                nonlocal calls
                result = original(*arguments)
                if "/lease" not in arguments[0]:
                    calls += 1
                    if calls == at:
                        raise SystemExit(9)
                return result

            return step

        for name in STEPS:
            patch.setattr(storage, name, counting(getattr(storage, name)))
        yield lambda: calls


def sliding(out: Path, calls: list[Any], slide: int) -> Callable[[StreamingContext], dict[str, FrameStream]]:
    """A job with a sum of every slide, in each kind of output."""

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        rows = given(ssc, ROWS, "k string, v bigint")
        sums = rows.reduce_by_key_and_window("k", {"v": A.sum("v")}, "4s", f"{slide}s")
        ss.outputs.delta(sums, str(out), name="delta")
        ss.outputs.sql(sums, f"sqlite:///{out}/db", name="table", batch_column="n")
        ss.outputs.json(sums, str(out), name="json")
        sums.for_each_batch(lambda frame, batch: calls.append((batch.n, frame.count())), name="mine", replaces=True)
        return {}

    return build


def test_a_batch_that_a_slide_skips_has_no_rows_whatever_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (_delta, _sql_ledger):  # as if there had been a thousand batches since
        monkeypatch.setattr(module, "KEPT_BATCHES", 2)
    home, calls = tmp_path / "home", list[Any]()
    run_ticks(sliding(tmp_path, calls, 3), home, range(1, 7), keep_batches=KEPT)
    assert rewind(home, "--to", "2") == 0
    calls.clear()
    run_ticks(sliding(tmp_path, calls, 2), home, [7], keep_batches=KEPT)
    assert calls == [(4, 3), (6, 3)]
    # at 4 and 6, no longer at 3
    expected = sorted(
        (k, sum(v for rows in ROWS[n - 4 : n] for each, v in rows if each == k), n)
        for n in (4, 6)
        for k in ("k0", "k1", "k2")
    )
    assert sorted(files(tmp_path / "json")) == expected
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as database:
        assert sorted(database.execute("select k, v, n from [table]").fetchall()) == expected
    delta = deltalake.DeltaTable(tmp_path / "delta").to_pyarrow_dataset().to_table().to_pylist()
    assert sorted((row["k"], row["v"]) for row in delta) == sorted((k, v) for k, v, _ in expected)


# --- what cannot be replaced


def accumulating(out: Path, factor: int = 1) -> Callable[[StreamingContext], dict[str, FrameStream]]:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        rows = given(ssc, ROWS, "k string, v bigint").select("k", (F.col("v") * factor).alias("v"))
        url = f"sqlite:///{out}/db"
        ss.outputs.sql(rows, url, mode="accumulate", key="k", name="sums")
        ss.outputs.sql(rows, url, name="lines")
        ss.outputs.json(rows, str(out), name="json")
        return {}

    return build


def assert_accumulated(out: Path, batches: list[list[tuple[str, int]]]) -> None:
    """Both tables of the job have these batches, each as often as it is here."""
    sums = Counter[str]()
    for k, v in (row for rows in batches for row in rows):
        sums[k] += v
    with contextlib.closing(sqlite3.connect(out / "db")) as database:
        assert dict(database.execute("select k, v from sums").fetchall()) == sums
        lines = database.execute("select k, v from lines").fetchall()
    assert sorted(lines) == sorted(row for rows in batches for row in rows)


def test_what_cannot_be_replaced_is_named_and_written_once_more_if_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    run_ticks(accumulating(tmp_path), home, range(1, 6), keep_batches=KEPT)
    assert rewind(home, "--to", "2", "--again", "sql:sums") == 2
    assert capsys.readouterr().err == (
        "error: batches 3 to 5 would be written once more by sql:lines, which cannot replace what is there: rows then "
        "count twice, or rows that no longer come stay. Accept that by sparkstream rewind "
        f"file:{home} --to 2 --again sql:lines\n"
    )
    assert rewind(home, "--to", "2", "--again", "sql:suns") == 2
    assert "the home has no output 'sql:suns': it has json:json, sql:lines, sql:sums" in capsys.readouterr().err
    assert kept(home).again is None
    assert rewind(home, "--to", "2", "--again", "sql:sums", "--again", "sql:lines") == 0
    assert "\nreplaced: json:json\nwritten once more: sql:lines, sql:sums\n" in capsys.readouterr().out
    for second in (5, 6):  # killed between an output and its done mark
        with contextlib.suppress(SystemExit), job(accumulating(tmp_path), home, keep_batches=KEPT) as engine:
            engine.graph.log.mark_done = killed  # type: ignore[method-assign]
            engine.tick(1000 * second)
    run_ticks(accumulating(tmp_path), home, [6])
    assert_accumulated(tmp_path, [*ROWS[:6], *ROWS[2:5]])


def test_an_output_of_your_own_says_whether_it_replaces(tmp_path: Path) -> None:
    calls: list[Any] = []

    def replacing(ssc: StreamingContext) -> dict[str, FrameStream]:
        rows = given(ssc, ROWS, "k string, v bigint")
        rows.for_each_batch(
            lambda frame, batch: calls.append((batch.n, batch.again)),
            name="mine",
            replaces=True,
            rewind=lambda before, until: calls.append((before.n, until)),
        )
        return {}

    run_ticks(replacing, tmp_path, range(1, 5), keep_batches=KEPT)
    assert rewind(tmp_path, "--to", "2") == 0
    run_ticks(replacing, tmp_path, [5])
    assert calls == [*((n, False) for n in range(1, 5)), (2, 4), (3, True), (4, True), (5, False)]


def test_the_start_refuses_what_the_home_could_not_know(tmp_path: Path) -> None:
    home = tmp_path / "home"

    def mine(replaces: bool) -> Callable[[StreamingContext], dict[str, FrameStream]]:
        def build(ssc: StreamingContext) -> dict[str, FrameStream]:
            rows = given(ssc, ROWS, "k string, v bigint")
            rows.for_each_batch(lambda frame, batch: None, name="mine", replaces=replaces)
            rows.window("4s").for_each_batch(lambda frame, batch: None, name="window", replaces=True)
            return {}

        return build

    run_ticks(mine(True), home, range(1, 10))
    log = kept(home)
    assert log.compacted_to.n, "the test needs a log that has lost its first batches"
    assert rewind(home, "--to", str(log.compacted_to.n)) == 0
    reach = log.compacted_to.n + 3
    with pytest.raises(
        UsageError, match=f"batch {log.compacted_to.n + 1} cannot run again.*rewind to batch {reach} at"
    ):
        run_ticks(mine(True), home, [])
    assert rewind(home, "--cancel") == 0
    assert rewind(home, "--to", str(reach)) == 0
    with pytest.raises(UsageError, match="would be written once more by mine, .* --again mine, or take the request ba"):
        run_ticks(mine(False), home, [])
    assert rewind(home, "--to", str(reach), "--again", "mine") == 0
    run_ticks(mine(True), home, [10])
    assert kept(home).again is None


def test_outputs_that_the_home_does_not_know_are_not_doubled(tmp_path: Path) -> None:
    """A home of an earlier version has no names; an output that was given up is not among them."""
    home = tmp_path / "home"
    run_ticks(accumulating(tmp_path), home, range(1, 4), keep_batches=KEPT)
    (home / "outputs").unlink()
    assert rewind(home, "--to", "2") == 0
    with pytest.raises(UsageError, match="batch 3 would be written once more by sql:sums, sql:lines, which"):
        run_ticks(accumulating(tmp_path), home, [])
    assert rewind(home, "--cancel") == 0

    def less(ssc: StreamingContext) -> dict[str, FrameStream]:
        ss.outputs.json(given(ssc, ROWS, "k string, v bigint"), str(tmp_path), name="json")
        return {}

    run_ticks(less, home, [4, 5], keep_batches=KEPT, give_up_outputs=["sql:sums", "sql:lines"])
    assert rewind(home, "--to", "2") == 0
    run_ticks(accumulating(tmp_path), home, [6], keep_batches=KEPT)
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as database:
        lines = database.execute("select k, v from lines").fetchall()
    assert sorted(lines) == sorted(row for rows in ROWS[:6] for row in rows), "also of the batches that it had missed"


def test_nothing_changes_if_a_start_refuses(tmp_path: Path) -> None:
    """Neither ledgers nor snapshots, whatever refuses: an output, or a state that cannot be loaded."""
    home, out = tmp_path / "home", tmp_path / "out"
    out.mkdir()

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        rows = given(ssc, ROWS, "k string, v bigint")
        ss.outputs.sql(rows, f"sqlite:///{out}/db", name="lines")
        ss.outputs.parquet(rows, str(out), name="parquet")
        state = rows.update_state_by_key("k", {"v": A.sum("v")}, name="sums")
        ss.outputs.json(state, str(out), name="sums")
        return {}

    def kept_things() -> tuple[list[str], list[Any]]:
        with contextlib.closing(sqlite3.connect(out / "db")) as database:
            ledger = database.execute("select batch from sparkstream_ledger").fetchall()
        return sorted(file.name for file in (home / "state/sums").iterdir()), ledger

    run_ticks(build, home, range(1, 6), keep_batches=KEPT)
    _compaction.compact(str(out / "parquet"))
    run_ticks(build, home, [6, 7], keep_batches=KEPT)
    before = kept_things()
    assert rewind(home, "--to", "3", "--again", "sql:lines") == 0
    with pytest.raises(OutputRefused, match="has the batches up to 4 compacted"):
        run_ticks(build, home, [], keep_batches=KEPT)
    assert kept_things() == before
    for file in (home / "state/sums/2").glob("part-*"):
        file.write_bytes(b"")
    for file in (home / "state/sums/4").glob("part-*"):
        file.write_bytes(b"")
    for entry in ("1", "2", "3", "1.done", "2.done", "3.done"):
        (home / "offsets" / entry).unlink()
    (home / "offsets/3.compacted").write_text(json.dumps({"n": 3, "time": 3000, "ranges": {}, "data": False}))
    assert rewind(home, "--to", "5", "--again", "sql:lines") == 0
    with pytest.raises(HomeDamaged, match="no snapshot of the state 'sums' up to batch 5 can be read"):
        run_ticks(build, home, [], keep_batches=KEPT)
    assert kept_things() == before
    assert rewind(home, "--cancel") == 0
    run_ticks(build, home, [8], keep_batches=KEPT)


def test_a_snapshot_of_a_batch_that_was_not_finished_is_not_kept(tmp_path: Path) -> None:
    """The code may have changed since."""
    home, out = tmp_path / "home", tmp_path / "out"
    out.mkdir()
    run_ticks(results(out, 10), home, range(1, 6), keep_batches=KEPT)
    assert rewind(home, "--to", "2") == 0
    with contextlib.suppress(SystemExit), job(results(out, 5), home, keep_batches=KEPT) as engine:
        done = engine.graph.log.mark_done

        def at_4(n: int, note: str = "") -> None:
            done(n, note) if n < 4 else killed()

        engine.graph.log.mark_done = at_4  # type: ignore[method-assign]
        engine.tick(6000)
    assert (home / "state/running/4").exists()
    run_ticks(results(out, 1), home, [6], keep_batches=KEPT)
    assert not kept(home).again
    running = {(k, n): v for k, v, n in found(out)["running"]}
    sums = {k: running.get((k, 2), 0) for k in ("k0", "k1", "k2")}
    for n, rows in enumerate(ROWS[:5], 1):  # the state takes batch 3 from the log, with the code of today
        for k, v in rows if n > 2 else ():
            sums[k] += v
    assert {k: running[k, 5] for k in sums} == sums


def test_a_batch_whose_time_was_brought_back_cannot_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    run_ticks(accumulating(tmp_path), home, range(1, 4), keep_batches=KEPT)
    OffsetLog(f"file:{home}/offsets").reset_clock(2000)
    run_ticks(accumulating(tmp_path), home, [4, 5], keep_batches=KEPT)
    assert rewind(home, "--to", "2") == 2
    assert "got --to 2, expected one from 3 to 4" in capsys.readouterr().err


# --- the command


def test_a_time_names_the_newest_batch_up_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_ticks(results(tmp_path, 1), tmp_path / "home", range(1, 4))
    for time, which in (
        ("1970-01-01 00:00:02", "batch 3 (recorded 1970-01-01 00:00:03 UTC)"),
        ("1970-01-01T00:00:02.999Z", "batch 3 (recorded 1970-01-01 00:00:03 UTC)"),
        ("1970-01-01 01:00:01+01:00", "batches 2 to 3 (recorded 1970-01-01 00:00:02 to 1970-01-01 00:00:03 UTC)"),
    ):
        assert rewind(tmp_path / "home", "--to", time) == 0
        assert f"the next start runs {which} again" in capsys.readouterr().out
        assert rewind(tmp_path / "home", "--cancel") == 0
    for wrong in ("yesterday", "9" * 5000, "-1", ""):
        assert rewind(tmp_path / "home", f"--to={wrong}") == 2
        assert f"got --to {wrong}, expected the number of a batch or a time such as" in capsys.readouterr().err
    with job(accumulating(tmp_path), tmp_path / "other") as engine:
        engine.tick(3000)
        engine.close()
    assert rewind(tmp_path / "other", "--to", "1970-01-01 00:00:02") == 2
    assert "and no batch up to 1, of 1970-01-01 00:00:03 UTC, can run again" in capsys.readouterr().err
    assert rewind(tmp_path / "home", "--again", "sql:table") == 2
    assert "got --again without --to" in capsys.readouterr().err


def test_what_can_run_again_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    with job(accumulating(tmp_path), home, keep_batches=3) as engine:
        assert rewind(home) == 0
        assert capsys.readouterr().out == (
            "no batch up to 0 can run again: --keep-batches of the job keeps some (sparkstream rewind --help)\n"
        )
        for second in range(1, 7):
            engine.tick(1000 * second)
        capsys.readouterr()
        assert rewind(home, "--to", "4") == 2
        assert "the home is in use by" in capsys.readouterr().err
        engine.close()
    assert rewind(home) == 0
    assert capsys.readouterr().out == (
        "batches 4 to 6 (recorded 1970-01-01 00:00:04 to 1970-01-01 00:00:06 UTC) can run again: --to 3 runs all of "
        "them\nonly with --again: sql:lines, sql:sums\n"
    )
    for to in ("2", "6", "7"):
        assert rewind(home, "--to", to) == 2
        assert f"got --to {to}, expected one from 3 to 5: " in capsys.readouterr().err
    assert rewind(home, "--cancel") == 2
    assert "no batch is to run again" in capsys.readouterr().err


def test_a_request_is_taken_back_until_a_start_has_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    out.mkdir()
    run_ticks(results(out, 10), home, range(1, 5), keep_batches=KEPT)
    assert rewind(home, "--to", "2") == 0
    assert rewind(home, "--cancel") == 0
    run_ticks(results(out, 1), home, [5, 6], keep_batches=KEPT)
    assert found(out) == expected([10] * 4 + [1] * 2)
    for to in ("2", "4"):  # the second request takes the place of the first
        assert rewind(home, "--to", to) == 0
    run_ticks(results(out, 1), home, [], keep_batches=KEPT)  # begins, and is killed before its first batch
    capsys.readouterr()
    assert rewind(home, "--cancel") == 2
    assert "the job has begun to run batches 5 to 6 again" in capsys.readouterr().err
    assert rewind(home, "--to", "4") == 2, "only further back"
    assert rewind(home, "--to", "2") == 0
    run_ticks(results(out, 2), home, [7], keep_batches=KEPT)
    assert found(out) == expected([10, 10, 2, 2, 2, 2, 2])


def test_status_tells_of_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    run_ticks(accumulating(tmp_path), home, range(1, 6), keep_batches=KEPT)
    assert rewind(home, "--to", "3", "--again", "sql:sums", "--again", "sql:lines") == 0
    assert rewind(home, "--to", "2", "--again", "sql:sums", "--again", "sql:lines") == 0
    assert left(existing_home(str(home))) == ["batches 3 to 5 run again, after a rewind"]
    facts = status(existing_home(str(home)))
    assert facts["again"] == {"first": 3, "last": 5, "once_more": ["sql:lines", "sql:sums"], "begun": False}
    assert [batch["n"] for batch in facts["batches"]] == [1, 2]
    assert "it runs batches 3 to 5 again" in facts["reason"]
    with job(accumulating(tmp_path), home) as engine:
        facts = status(existing_home(str(home)))
        assert (facts["health"], facts["again"]["begun"]) == ("rerunning", True)
        assert facts["reason"].startswith("batches 3 to 5 run again, after a rewind; batch 2 took ")
        engine.tick(6000)
        facts = status(existing_home(str(home)))
        assert (facts["again"], facts["last_batch"]["n"], facts["last_batch"]["done"]) == (None, 6, True)


def test_a_stop_in_the_middle_is_graceful_and_the_next_start_goes_on(tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    out.mkdir()
    run_ticks(results(out, 10), home, range(1, 6))
    assert rewind(home, "--to", "2") == 0
    with job(results(out, 1), home) as engine:
        done = engine.graph.log.mark_done

        def stopped_after(n: int, note: str = "") -> None:
            done(n, note)
            if n == 3:
                engine.stopping.set()

        engine.graph.log.mark_done = stopped_after  # type: ignore[method-assign]
        engine.tick(6000)
        engine.close()
    assert found(out)["parquet"] == expected([10, 10, 1, 10, 10])["parquet"]
    assert "the next start runs batches 4 to 5 again" in status(existing_home(str(home)))["reason"]
    run_ticks(results(out, 1), home, [6])
    assert found(out) == expected([10, 10, 1, 1, 1, 1])


def test_an_unfinished_batch_of_a_rewind_can_be_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    run_ticks(results(tmp_path, 1), home, range(1, 5))
    assert rewind(home, "--to", "2") == 0
    assert cli.main(["skip", str(home), "3"]) == 2
    assert "batches run again from the next start on, and none has failed yet" in capsys.readouterr().err
    run_ticks(results(tmp_path, 1), home, [])
    assert cli.main(["skip", str(home), "4"]) == 2
    assert "the unfinished batch is 3" in capsys.readouterr().err
    assert cli.main(["skip", str(home), "3"]) == 0
    run_ticks(results(tmp_path, 1), home, [5])
    assert rewind(home, "--to", "2") == 0
    assert "\nwithout their input, as sparkstream skip has set it aside: 3\n" in capsys.readouterr().out
    assert found(tmp_path)["parquet"] == [row for row in expected([1] * 5)["parquet"] if row[2] != 3]


# --- beside compaction


def test_a_compaction_and_a_rewind_keep_out_of_each_others_way(tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    out.mkdir()
    run_ticks(results(out, 10), home, range(1, 4))
    assert _compaction.compact(str(out / "parquet")) == 2
    run_ticks(results(out, 10), home, range(4, 6))
    assert rewind(home, "--to", "1") == 0
    with pytest.raises(OutputRefused, match="has the batches up to 2 compacted into one.* only batches after 2 can"):
        run_ticks(results(out, 1), home, [])
    assert rewind(home, "--to", "3") == 0
    run_ticks(results(out, 1), home, [])  # begins
    with pytest.raises(UsageError, match="has batches that run again, after a rewind: compact it when they are done"):
        _compaction.compact(str(out / "parquet"))
    run_ticks(results(out, 1), home, [6])
    assert _compaction.compact(str(out / "parquet")) == 4
    rows = [(k, v) for k, v, _ in found(out)["parquet"]]
    assert sorted(rows) == sorted((k, v) for k, v, _ in expected([10, 10, 10, 1, 1, 1])["parquet"])


def test_rejected_lines_are_replaced(tmp_path: Path) -> None:
    home, back = tmp_path / "home", tmp_path / "back"
    back.mkdir()

    def lines(factor: int) -> Callable[[StreamingContext], dict[str, FrameStream]]:
        def build(ssc: StreamingContext) -> dict[str, FrameStream]:
            rows = given(ssc, ROWS, "k string, v bigint")
            ss.outputs.rejected(rows.select(F.concat("k", F.col("v") * factor).alias("line")))
            return {}

        return build

    run_ticks(lines(10), home, range(1, 4), keep_batches=KEPT)
    assert rewind(home, "--to", "1") == 0
    run_ticks(lines(1), home, [4])
    assert _rejected.replay(existing_home(str(home)), str(back))[0] == sum(map(len, ROWS[:4]))
    returned = sorted(line for file in back.iterdir() for line in file.read_text().split())
    assert returned == sorted(f"{k}{v * (10 if n == 0 else 1)}" for n, rows in enumerate(ROWS[:4]) for k, v in rows)


# --- what is kept for it


@pytest.mark.parametrize("keep", [0, 5])
def test_as_many_batches_as_asked_for_can_run_again(keep: int, tmp_path: Path) -> None:
    home, seconds = tmp_path / "home", 15
    rows = [[("k", n)] for n in range(seconds)]

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        state = given(ssc, rows, "k string, v bigint").update_state_by_key("k", {"v": A.sum("v")}, name="sum")
        state.for_each_batch(write, name="out", replaces=True)
        return {}

    written: dict[int, list[Any]] = {}

    def write(frame: DataFrame, batch: Batch) -> None:
        written[batch.n] = [tuple(row) for row in frame.collect()]

    with job(build, home, keep_batches=keep) as engine:
        for second in range(1, seconds + 1):
            engine.tick(1000 * second)
        engine.close()
    first = written.copy()
    reach = max(0, seconds - keep)
    assert kept(home).compacted_to.n <= reach
    if keep:
        assert rewind(home, "--to", str(reach)) == 0
        written.clear()
        run_ticks(build, home, [], keep_batches=keep)
        with job(build, home, keep_batches=keep) as engine:
            engine.tick(1000 * seconds)
        assert written == {n: first[n] for n in range(reach + 1, seconds + 1)}
    else:
        assert kept(home).compacted_to.n == seconds
    assert len(list((home / "state/sum").glob("[0-9]*"))) <= 14


def test_a_damaged_request_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_ticks(results(tmp_path, 1), tmp_path / "home", range(1, 3))
    for text in ("", "{}", "[]", '{"after": "x", "until": 2}', json.dumps({"after": 1, "until": 2, "more": 3})):
        (tmp_path / "home/offsets/again").write_text(text)
        assert cli.main(["status", str(tmp_path / "home")]) == 2
        assert "offsets/again of the offset log is damaged" in capsys.readouterr().err


def test_what_a_backfill_has_written_is_not_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    other.mkdir()

    def only_json(ssc: StreamingContext) -> dict[str, FrameStream]:
        ss.outputs.json(given(ssc, ROWS, "k string, v bigint"), str(tmp_path), name="json")
        return {}

    run_ticks(only_json, home, range(1, 6), keep_batches=KEPT)
    assert cli.main(["backfill", f"{home}", "--from", "2", "--to", "4"]) == 0
    assert ss.backfill(str(home), accumulating(other), retry_for=0) == 3
    assert rewind(home, "--to", "1") == 0
    with pytest.raises(UsageError, match="would be written once more by sql:sums, sql:lines, .* --again sql:sums"):
        run_ticks(accumulating(tmp_path), home, [6])
    assert rewind(home, "--to", "1", "--again", "sql:lines", "--again", "sql:sums") == 0
