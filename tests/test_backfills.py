"""Batches that run again beside the job: what outputs have then, through kills of both, and what is refused.

What is expected is computed in plain Python, as for rewinds: `factors` says with which code batch n ran the last time.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import deltalake
import pyarrow.parquet
import pytest
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit import cli
from sparkstream_kit.context import existing_home
from sparkstream_kit.engine import batches
from sparkstream_kit.errors import BatchFailed, OutputRefused, UsageError
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.outputs import _compaction
from sparkstream_kit.recovery import storage
from sparkstream_kit.status import describe, status
from tests.engine.test_rewinds import (
    LAST,
    ROWS,
    accumulating,
    assert_accumulated,
    die,
    expected,
    files,
    found,
    kept,
    results,
)
from tests.support import rotation
from tests.support.ticks import given, job, run_ticks

KEPT = 9
pytestmark = pytest.mark.usefixtures("spark")

A = ss.aggregates
Job = Callable[[StreamingContext], Any]


@pytest.fixture(autouse=True)
def _many_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 2)


def ask(home: Path, *arguments: str) -> int:
    return cli.main(["backfill", f"{home}", *arguments])


def run(build: Job, home: Path) -> int:
    return ss.backfill(str(home), build, retry_for=0)


def run_with_kills(build: Job, home: Path, steps: Iterable[int], most: int = 1000) -> int:
    """Run until all is done, killed each time after one of these numbers of changes; how often it was."""
    for kills, at in enumerate(steps):
        if kills == most or existing_home(str(home)).backfill() is None:
            return kills
        with contextlib.suppress(SystemExit), die(at):
            run(build, home)
    raise AssertionError("it never ended")


def with_states(first: int, last: int, old: int, new: int, batches: int) -> dict[str, list[tuple[Any, ...]]]:
    """What outputs have once batches ran again: in these, states are those of the new code, later ones of the old."""
    factors = [new if first <= n <= last else old for n in range(1, batches + 1)]
    rows = expected(factors)
    before = expected([old] * batches)
    again = expected([old] * (first - 1) + [new] * (batches - first + 1))
    for name in ("running", "window"):
        inside = [row for row in again[name] if first <= row[2] <= last]
        rows[name] = sorted([row for row in before[name] if not first <= row[2] <= last] + inside)
    return rows


def test_the_batches_are_those_of_the_new_code_and_the_job_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    out.mkdir()
    with job(results(out, 10), home, keep_batches=KEPT) as engine:
        for second in range(1, LAST + 1):
            engine.tick(1000 * second)
        assert ask(home, "--from", "3", "--to", "5") == 0
        assert capsys.readouterr().out.startswith(
            "asked for: batches 3 to 5 (recorded 1970-01-01 00:00:03 to 1970-01-01 00:00:05 UTC). To run them beside "
            "the job, add --backfill to its command, "
        )
        assert found(out) == expected([10] * LAST), "nothing changes before"
        assert run(results(out, 1), home) == 3
        assert found(out) == with_states(3, 5, 10, 1, LAST)
        engine.tick(8000)
        engine.tick(9000)
    assert found(out) == with_states(3, 5, 10, 1, 9)
    assert existing_home(str(home)).backfill() is None
    assert status(existing_home(str(home)))["backfill"] is None
    run_ticks(results(out, 10), home, [])
    assert found(out) == with_states(3, 5, 10, 1, 9)


@pytest.mark.slow
@pytest.mark.parametrize("part", rotation.share(range(6), rotation.current()))
def test_killed_at_any_step_it_goes_on(part: int, tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    out.mkdir()
    run_ticks(results(out, 10), home, range(1, 8), keep_batches=KEPT)
    assert ask(home, "--from", "3", "--to", "5") == 0
    kills = run_with_kills(results(out, 1), home, range(part + 1, 1000, 6), most=3)
    assert kills == 3
    run_ticks(results(out, 10), home, [8, 9])  # whose snapshots are newer than the batches
    run_with_kills(results(out, 1), home, range(part + 19, 1000, 6))
    assert found(out) == with_states(3, 5, 10, 1, 9)


@pytest.mark.parametrize("first", [1, 3])  # without and with a snapshot before
def test_the_job_keeps_what_a_backfill_needs(first: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    out.mkdir()
    run_ticks(results(out, 10), home, range(1, 5), keep_batches=KEPT)
    assert ask(home, "--from", f"{first}", "--to", f"{first + 1}") == 0
    with job(results(out, 10), home) as engine:
        for second in range(5, 10):
            engine.tick(1000 * second)
        engine.close()
    capsys.readouterr()
    assert ask(home) == 0
    assert capsys.readouterr().out == (
        f"asked for: batches {first} to {first + 1}, none done yet, not running: add --backfill to its command, "
        "with the outputs that get them\n"
    )
    said = describe(status(existing_home(str(home))))
    assert ["backfill", f"batches {first} to {first + 1}, 0 of 2 done, not running"] in [
        line.split(maxsplit=1) for line in said.splitlines()
    ]
    assert run(results(out, 1), home) == 2
    assert found(out) == with_states(first, first + 1, 10, 1, 9)
    with job(results(out, 10), home) as engine:
        engine.close()
    assert ask(home, "--from", f"{first}") == 2
    assert "can run again" in capsys.readouterr().err, "nothing holds them any more"


def test_it_stops_where_it_fails_and_can_be_given_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    run_ticks(accumulating(tmp_path), home, range(1, 6), keep_batches=KEPT)

    def failing(ssc: StreamingContext) -> None:
        rows = given(ssc, ROWS, "k string, v bigint").select("k", (F.col("v") * 100).alias("v"))
        ss.outputs.json(rows, str(tmp_path), name="json")

        def write(frame: Any, batch: Any) -> None:
            if batch.n == 4:
                raise ConnectionError("away")

        rows.for_each_batch(write, name="mine", replaces=True)

    assert ask(home, "--from", "3", "--to", "5") == 0
    with pytest.raises(BatchFailed, match="batch 4: the output 'mine' still fails .* away.*continues with this batch"):
        run(failing, home)
    assert ask(home, "--from", "1") == 2
    assert "a backfill of batches 3 to 5 has begun: start it again to finish it, or" in capsys.readouterr().err
    assert cli.main(["rewind", f"{home}", "--to", "2"]) == 2
    assert "a backfill of batches 3 to 5 is not done: finish it first" in capsys.readouterr().err
    assert ask(home, "--cancel") == 0
    assert capsys.readouterr().out == (
        "given up: batches 3 to 5; batch 3 had run again; batch 4 may have, in some outputs\n"
    )
    assert ask(home, "--cancel") == 2
    assert existing_home(str(home)).backfill() is None


# --- what cannot be replaced


def test_what_cannot_be_replaced_is_named_left_out_or_written_once_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    run_ticks(accumulating(tmp_path), home, range(1, 6), keep_batches=KEPT)
    assert ask(home) == 0
    assert capsys.readouterr().out.endswith("--from 1 runs all\nonly with --again: sql:lines, sql:sums\n")
    assert ask(home, "--from", "2", "--to", "4", "--again", "sql:sums") == 0
    with pytest.raises(UsageError, match="written once more by sql:lines, .*--again sql:sums --again sql:lines"):
        run(accumulating(tmp_path), home)

    def only_files(ssc: StreamingContext) -> None:
        ss.outputs.json(given(ssc, ROWS, "k string, v bigint"), str(tmp_path), name="json")

    with pytest.raises(UsageError, match="the job has no output 'sql:sums', only json:json: correct --again"):
        run(only_files, home)
    again = ("--again", "sql:sums", "--again", "sql:lines")
    assert ask(home, "--from", "2", "--to", "4", *again) == 0
    run_with_kills(accumulating(tmp_path), home, range(1, 1000, 2))
    run_ticks(accumulating(tmp_path), home, [6])
    assert_accumulated(tmp_path, [*ROWS[:6], *ROWS[1:4]])
    assert sorted(files(tmp_path / "json")) == sorted((k, v, n) for n, rows in enumerate(ROWS[:6], 1) for k, v in rows)


def test_a_new_output_gets_the_past(tmp_path: Path) -> None:
    home, url = tmp_path / "home", f"sqlite:///{tmp_path}/db"

    def before(ssc: StreamingContext) -> dict[str, FrameStream]:
        ss.outputs.json(given(ssc, ROWS, "k string, v bigint"), str(tmp_path), name="json")
        return {}

    def only_new(ssc: StreamingContext) -> None:
        ss.outputs.sql(given(ssc, ROWS, "k string, v bigint"), url, mode="accumulate", key="k", name="sums")

    def both(ssc: StreamingContext) -> dict[str, FrameStream]:
        rows = given(ssc, ROWS, "k string, v bigint")
        ss.outputs.json(rows, str(tmp_path), name="json")
        ss.outputs.sql(rows, url, mode="accumulate", key="k", name="sums")
        return {}

    run_ticks(before, home, range(1, 5), keep_batches=KEPT)
    assert ask(home, "--from", "1", "--to", "4") == 0
    run_ticks(both, home, [5, 6])  # the job has it first, from batch 5 on
    with pytest.raises(UsageError, match="--again sql:sums"):  # the home does not say since when
        run(only_new, home)
    assert ask(home, "--from", "1", "--to", "4", "--again", "sql:sums") == 0
    assert run(only_new, home) == 4
    sums = Counter[str]()
    for k, v in (row for rows in ROWS[:6] for row in rows):
        sums[k] += v
    with contextlib.closing(sqlite3.connect(tmp_path / "db")) as database:
        assert dict(database.execute("select k, v from sums").fetchall()) == sums


def test_merged_batches_are_refused_and_none_is_merged_meanwhile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    out.mkdir()
    run_ticks(results(out, 10), home, range(1, 6), keep_batches=KEPT)
    assert ask(home, "--from", "3", "--to", "4") == 0
    at = 3
    while not (out / "parquet/_backfill").exists():  # killed when it has begun
        with contextlib.suppress(SystemExit), die(at):
            run(results(out, 1), home)
        at += 3
    with pytest.raises(UsageError, match="has batches that a backfill runs again.* backfill .*--cancel"):
        _compaction.compact(str(out / "parquet"))
    assert ask(home, "--cancel") == 0
    assert _compaction.compact(str(out / "parquet")) == 4
    assert ask(home, "--from", "3", "--to", "4") == 0
    with pytest.raises(OutputRefused, match="up to 4 compacted into one, .* only batches after 4 can"):
        run(results(out, 1), home)


def test_a_rewind_and_a_backfill_wait_for_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    out.mkdir()
    run_ticks(results(out, 10), home, range(1, 6), keep_batches=KEPT)
    assert cli.main(["rewind", f"{home}", "--to", "2"]) == 0
    assert ask(home, "--from", "3") == 2
    assert "batches 3 to 5 run again, after a rewind: wait until that is over" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--from", "9"], "got --from 9, expected batches from 1 to 5"),
        (["--from", "0"], "got --from 0, expected batches from 1 to 5"),
        (["--from", "4", "--to", "3"], "got --from 4 --to 3, expected batches from 1 to 5"),
        (["--from", "4", "--to", "6"], "got --from 4 --to 6, expected batches from 1 to 5"),
        (["--from", "soon"], "got --from soon, expected the number of a batch or a time such as"),
        (["--to", "3"], "got --to or --again without --from"),
    ],
)
def test_a_wrong_range_is_refused(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], few_batches: Path
) -> None:
    assert ask(few_batches, *arguments) == 2
    assert says in capsys.readouterr().err


@pytest.fixture(scope="module")
def few_batches(spark: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("few")
    run_ticks(accumulating(folder), folder / "home", range(1, 6), keep_batches=KEPT)
    return folder / "home"


def test_times_name_batches(few_batches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(few_batches, "--from", "1970-01-01 00:00:02", "--to", "1970-01-01 00:00:04") == 0
    assert capsys.readouterr().out.startswith("asked for: batches 3 to 4 (recorded")
    assert ask(few_batches, "--cancel") == 0


def test_nothing_is_asked_for(few_batches: Path) -> None:
    with pytest.raises(UsageError, match="no backfill is asked for: sparkstream backfill .* --from N --to N asks"):
        run(accumulating(few_batches.parent), few_batches)


def test_nothing_of_the_home_changes_but_its_own_part(tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    out.mkdir()
    run_ticks(results(out, 10), home, range(1, 8), keep_batches=KEPT)
    assert ask(home, "--from", "3", "--to", "5") == 0

    def content() -> dict[str, bytes]:
        return {
            str(file): file.read_bytes()
            for file in home.rglob("*")
            if file.is_file() and "backfill" not in file.relative_to(home).parts
        }

    before = content()
    assert run(results(out, 1), home) == 3
    assert content() == before


def test_rejected_lines_are_replaced(tmp_path: Path) -> None:
    home = tmp_path / "home"

    def rejecting(limit: int) -> Callable[[StreamingContext], dict[str, FrameStream]]:
        def build(ssc: StreamingContext) -> dict[str, FrameStream]:
            rows = given(ssc, ROWS, "k string, v bigint").filter(f"v > {limit}")
            ss.outputs.rejected(rows.select(F.to_json(F.struct("k", "v")).alias("line")))
            return {}

        return build

    run_ticks(rejecting(0), home, range(1, 8), keep_batches=KEPT)
    assert ask(home, "--from", "3", "--to", "5") == 0
    assert run(rejecting(4), home) == 3
    rows = ss.live_session().read.parquet
    lines = {
        n: [json.loads(row.line)["v"] for row in rows(f"file:{home}/rejected/rejected/{n}").collect()]
        for n in map(int, storage.names(f"file:{home}/rejected/rejected"))
    }
    limit = {n: 4 if 3 <= n <= 5 else 0 for n in range(1, 8)}
    wanted = {n: [v for _, v in rows if v > limit[n]] for n, rows in enumerate(ROWS[:7], 1)}
    assert {n: sorted(vs) for n, vs in lines.items()} == {n: sorted(vs) for n, vs in wanted.items() if vs}
    assert not storage.exists(f"file:{home}/backfill/made")


class Mine:
    """A job whose outputs replace files, commits and rejected lines, and whose code multiplies by a factor."""

    def __init__(self, out: Path, factor: int):
        self.out, self.factor = out, factor

    def __call__(self, ssc: StreamingContext) -> dict[str, FrameStream]:
        rows = given(ssc, ROWS, "k string, v bigint").select("k", (F.col("v") * self.factor).alias("v"))
        ss.outputs.delta(rows, str(self.out), name="delta")
        ss.outputs.parquet(rows, str(self.out), name="parquet")
        ss.outputs.rejected(rows.select(F.to_json(F.struct("k", "v")).alias("line")))
        return {}


def has(home: Path, out: Path) -> dict[str, list[Any]]:
    """The rows of each output of `Mine`."""
    delta = deltalake.DeltaTable(out / "delta").to_pyarrow_dataset().to_table().to_pylist()
    found = {"delta": sorted((row["k"], row["v"]) for row in delta)}
    found["parquet"] = sorted((k, v) for k, v, _ in files(out / "parquet"))
    lines = (pyarrow.parquet.read_table(file).to_pylist() for file in home.glob("rejected/rejected/[0-9]*/part-*"))
    found["rejected"] = sorted((row["k"], row["v"]) for part in lines for row in (json.loads(r["line"]) for r in part))
    return found


def made(factors: list[int]) -> dict[str, list[Any]]:
    rows = sorted((k, v * factor) for each, factor in zip(ROWS, factors, strict=False) for k, v in each)
    return dict.fromkeys(("delta", "parquet", "rejected"), rows)


@pytest.mark.slow
@pytest.mark.parametrize("part", rotation.share(range(6), rotation.current()))
def test_killed_anywhere_and_given_up_no_batch_is_lost(part: int, tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    out.mkdir()
    run_ticks(Mine(out, 1), home, range(1, 5), keep_batches=KEPT)
    for at in range(part + 4, 1000, 6):
        assert ask(home, "--from", "2", "--to", "3") == 0
        with contextlib.suppress(SystemExit), die(at) as calls:
            run(Mine(out, 10), home)
        if calls() < at:
            break
        assert ask(home, "--cancel") == 0 or existing_home(str(home)).backfill() is None
        run_ticks(Mine(out, 1), home, [])
        for rows in has(home, out).values():
            assert len(rows) == sum(map(len, ROWS[:4])), "each batch is there, with the old or the new rows"
    assert has(home, out) == made([1, 10, 10, 1])


def test_an_output_that_only_a_backfill_writes_has_each_batch_once(tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    out.mkdir()
    run_ticks(accumulating(tmp_path), home, range(1, 6), keep_batches=KEPT)
    for factor in (1, 10):
        assert ask(home, "--from", "1", "--to", "4") == 0
        run_with_kills(Mine(out, factor), home, range(5, 1000, 5))
        assert has(home, out) == made([factor] * 4)


def test_two_backfills_do_not_double_what_cannot_be_replaced(tmp_path: Path) -> None:
    home = tmp_path / "home"
    out = tmp_path / "other"
    out.mkdir()
    run_ticks(Mine(tmp_path, 1), home, range(1, 6), keep_batches=KEPT)
    assert ask(home, "--from", "1", "--to", "3") == 0
    assert run(accumulating(out), home) == 3
    assert ask(home, "--from", "3", "--to", "4") == 0
    with pytest.raises(UsageError, match="batches 3 to 4 would be written once more by sql:lines, sql:sums, "):
        run(accumulating(out), home)


def test_it_needs_the_sources_states_and_outputs_it_began_with(tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    out.mkdir()

    def two(ssc: StreamingContext) -> dict[str, FrameStream]:
        both = given(ssc, ROWS, "k string, v bigint").union(given(ssc, ROWS, "k string, v bigint", name="other"))
        ss.outputs.json(both, str(out), name="json")
        return {}

    def one(ssc: StreamingContext) -> dict[str, FrameStream]:
        ss.outputs.json(given(ssc, ROWS, "k string, v bigint"), str(out), name="json")
        return {}

    run_ticks(two, home, range(1, 4), keep_batches=KEPT)
    run_ticks(one, home, range(4, 6), keep_batches=KEPT, give_up_sources=["other"])
    assert ask(home, "--from", "2", "--to", "5") == 0
    with pytest.raises(UsageError, match="batch 2 has input from the source 'other', which the job no longer has"):
        run(one, home)
    assert ask(home, "--from", "4", "--to", "5") == 0
    assert run(one, home) == 2


def test_another_set_of_outputs_is_refused_once_it_has_begun(tmp_path: Path) -> None:
    home = tmp_path / "home"
    run_ticks(Mine(tmp_path, 1), home, range(1, 6), keep_batches=KEPT)
    assert ask(home, "--from", "2", "--to", "4") == 0

    def build(*names: str, fails: int = 0) -> Job:
        def build(ssc: StreamingContext) -> None:
            def write(frame: Any, batch: Any) -> None:
                if batch.n == fails:
                    raise ConnectionError("away")

            for name in names:
                given(ssc, ROWS, "k string, v bigint", name="rows").for_each_batch(write, name=name, replaces=True)

        return build

    with pytest.raises(BatchFailed):
        run(build("a", fails=3), home)
    with pytest.raises(UsageError, match="has begun with the outputs a, and the job has b now: start it with these"):
        run(build("b"), home)
    assert run(build("a"), home) == 2


def test_a_job_goes_on_beside_a_request_that_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = tmp_path / "home"
    with job(accumulating(tmp_path), home) as engine:
        engine.tick(1000)
        (home / "backfill").mkdir()
        (home / "backfill/request").write_text("{")
        for second in range(2, 6):
            engine.tick(1000 * second)
        engine.close()
    assert "all is kept that is there" in caplog.text
    assert kept(home).compacted_to.n == 0
    assert status(existing_home(str(home)))["backfill"] is None
    assert ask(home) != 0
    assert ask(home, "--cancel") == 0
    assert ask(home) == 0
