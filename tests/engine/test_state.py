"""Saved states that cannot be continued are refused; test_frames shows that all others are exact."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit import aggregates as agg
from sparkstream_kit.engine import batches
from sparkstream_kit.errors import HomeDamaged, StateRefused
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.recovery import snapshots
from tests.support.ticks import Seen, given, job, killed, run_ticks

ROWS = [[("a", 1)]] * 12


@pytest.fixture(autouse=True)
def frequent_snapshots(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 2)


def with_state(ssc: StreamingContext) -> dict[str, FrameStream]:
    rows = given(ssc, ROWS, "k string, v bigint")
    return {"sums": rows.update_state_by_key("k", {"v": agg.sum("v")}, name="sums")}


def without_state(ssc: StreamingContext) -> dict[str, FrameStream]:
    return {"rows": given(ssc, ROWS, "k string, v bigint")}


def test_a_state_that_was_removed_for_too_long_is_refused_when_it_comes_back(tmp_path: Path) -> None:
    run_ticks(with_state, tmp_path, [1, 2, 3, 4])
    run_ticks(without_state, tmp_path, [5, 6, 7, 8], give_up_outputs=["sums"])
    expected = (
        "state 'sums' was last saved after batch 4, but the log only goes back to batch 8: give the state another"
    )
    with pytest.raises(StateRefused, match=expected):
        run_ticks(with_state, tmp_path, [9], give_up_outputs=["rows"])


def test_a_state_without_a_readable_snapshot_is_refused_if_its_input_is_gone(tmp_path: Path) -> None:
    run_ticks(with_state, tmp_path, [1, 2, 3, 4, 5, 6])
    for manifest in (tmp_path / "state" / "sums").glob("*/_manifest"):
        manifest.unlink()
    expected = f"no snapshot of the state 'sums' can be read, .*: restore .*{tmp_path}/state/sums from a backup"
    with pytest.raises(HomeDamaged, match=expected):
        run_ticks(with_state, tmp_path, [7])


# --- a graceful stop


def counting(logs: Path, seen: Seen, home: Path, second: int, *, drain: bool = False, close: bool = True) -> None:
    """One run of a job that counts lines: its logs get three at that second, and it stops gracefully."""
    logs.mkdir(exist_ok=True)
    (logs / f"{second}.log").write_text(f"run {second}\na\na\nb\n")

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        lines = ss.sources.files(ssc, str(logs), name="logs").filter("length(value) = 1")
        return {"counts": lines.update_state_by_key("value", {"n": agg.count()}, name="counts")}

    with job(build, home, seen, drain=drain) as engine:
        engine.tick(1000 * second)
        if close:
            engine.close()


@pytest.mark.parametrize("drain", [False, True])
def test_after_a_graceful_stop_the_state_goes_on_without_old_input(drain: bool, tmp_path: Path) -> None:
    logs, home, seen = tmp_path / "logs", tmp_path / "home", Seen()
    for second in range(1, 6):  # odd and even: with and without a snapshot of the batch itself
        counting(logs, seen, home, second, drain=drain)
        assert seen["counts"][second] == [("a", 2 * second), ("b", second)]
        shutil.rmtree(logs)
        assert list((home / "sources/logs/landed").iterdir()) == []
        assert sorted(path.name for path in (home / "state/counts").iterdir()) == [f"{second}", f"{second}.copy"]


def test_after_a_graceful_stop_a_damaged_snapshot_costs_nothing(tmp_path: Path) -> None:
    logs, home, seen = tmp_path / "logs", tmp_path / "home", Seen()
    counting(logs, seen, home, 1)
    shutil.rmtree(logs)
    (home / "state/counts/1.copy/_manifest").unlink()
    counting(logs, seen, home, 2)
    assert seen["counts"][2] == [("a", 4), ("b", 2)]


@pytest.mark.parametrize("at", [1, 2])
def test_a_job_killed_while_it_saves_at_a_graceful_stop_goes_on(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs, home, seen = tmp_path / "logs", tmp_path / "home", Seen()
    counting(logs, seen, home, 1)
    write, calls = snapshots.write, []

    def dying(frame: DataFrame, path: str) -> bool:
        calls.append(path)
        return write(frame, path) if "/state/" not in path or len(calls) < at else bool(killed(9))

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(batches, "SNAPSHOT_EVERY", 100)
        patch.setattr(snapshots, "write", dying)
        counting(logs, seen, home, 2)
    assert not (home / "STOPPED").exists()
    counting(logs, seen, home, 3)
    assert seen["counts"] == {n: [("a", 2 * n), ("b", n)] for n in (1, 2, 3)}


def test_a_state_that_cannot_be_saved_is_a_warning_and_the_next_start_replays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logs, home, seen = tmp_path / "logs", tmp_path / "home", Seen()

    def full(*args: Any) -> bool:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "write", full)
        counting(logs, seen, home, 1)
    assert "the states could not be saved (" in caplog.text
    assert "No space left on device" in caplog.text
    assert (home / "STOPPED").exists()
    counting(logs, seen, home, 2)
    assert seen["counts"][2] == [("a", 4), ("b", 2)]


def test_a_stop_before_any_batch_saves_what_an_earlier_run_did_not(tmp_path: Path) -> None:
    logs, home, seen = tmp_path / "logs", tmp_path / "home", Seen()
    with job(with_state, tmp_path / "new") as engine:
        engine.close()
    assert not list((tmp_path / "new/state").iterdir())
    counting(logs, seen, home, 1, close=False)
    assert not (home / "state/counts").exists()

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        lines = ss.sources.files(ssc, str(logs), name="logs").filter("length(value) = 1")
        return {"counts": lines.update_state_by_key("value", {"n": agg.count()}, name="counts")}

    for _ in range(2):
        with job(build, home) as engine:
            engine.close()
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir()
    counting(logs, seen, home, 2)
    assert seen["counts"][2] == [("a", 4), ("b", 2)]
