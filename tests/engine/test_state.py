"""Saved states that cannot be continued are refused; test_frames shows that all others are exact."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit import aggregates as agg
from sparkstream_kit.engine import batches, progress
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
    expected = (
        f"no snapshot of the state 'sums' up to batch 6 can be read, .*: restore .*{tmp_path}/state/sums from a backup"
    )
    with pytest.raises(HomeDamaged, match=expected):
        run_ticks(with_state, tmp_path, [7])


def test_a_long_replay_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 100)
    run_ticks(with_state, tmp_path, range(1, 4))
    caplog.clear()
    monkeypatch.setattr(progress, "SAY_AFTER", 0)
    with caplog.at_level("INFO"):
        run_ticks(with_state, tmp_path, [4])
    said = [record.getMessage() for record in caplog.records if "replaying" in record.getMessage()]
    assert said == [f"state 'sums': replaying batch {n} of 4" for n in (1, 2, 3, 4)]


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

    def dying(frame: DataFrame, path: str, epoch: int, **options: Any) -> bool:
        calls.append(path)
        return write(frame, path, epoch, **options) if "/state/" not in path or len(calls) < at else bool(killed(9))

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(batches, "SNAPSHOT_EVERY", 100)
        patch.setattr(snapshots, "write", dying)
        counting(logs, seen, home, 2)
    assert not (home / "STOPPED").exists()
    counting(logs, seen, home, 3)
    assert seen["counts"] == {n: [("a", 2 * n), ("b", n)] for n in (1, 2, 3)}


def state_over_state(ssc: StreamingContext) -> dict[str, FrameStream]:
    sums = given(ssc, ROWS, "k string, v bigint").update_state_by_key("k", {"v": agg.sum("v")}, name="sums")
    return {"sums": sums, "largest": sums.update_state_by_key("k", {"v": agg.max("v")}, name="largest")}


STEPS = 6
"""What the end of a graceful stop writes for two states, twice each, and then removes for each."""


def disk_full() -> None:
    raise OSError("No space left on device")


@pytest.mark.parametrize("fails", [partial(killed, 9), disk_full], ids=["killed", "full"])
@pytest.mark.parametrize("at", range(1, STEPS + 1))
def test_whatever_the_end_of_a_stop_did_not_save_a_state_over_a_state_goes_on(
    at: int, fails: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def failing(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            steps.append(step.__name__)
            return fails() if len(steps) == at else step(*args, **options)

        return run

    seen = Seen()
    with job(state_over_state, tmp_path, seen) as engine:
        engine.tick(1000)
        engine.close()
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 100)
    with monkeypatch.context() as patch, suppress(SystemExit), job(state_over_state, tmp_path, seen) as engine:
        engine.tick(2000)
        engine.tick(3000)
        patch.setattr(snapshots, "write", failing(snapshots.write))
        patch.setattr(snapshots, "prune", failing(snapshots.prune))
        engine.close()
    assert steps == ["write", "write", "write", "write", "prune", "prune"][:at]
    run_ticks(state_over_state, tmp_path, [4, 5], seen)
    assert seen == run_ticks(state_over_state, tmp_path / "straight", range(1, 6))


def over_states(ssc: StreamingContext, *, alert: bool) -> dict[str, FrameStream]:
    rows = given(ssc, ROWS, "k string, v bigint")
    sums = rows.update_state_by_key("k", {"v": agg.sum("v")}, name="sums")
    streams = {"sums": sums, "window": rows.count_by_window("2s")}
    return streams | {"alerts": ss.transforms.threshold(sums, "k", agg.max("v"), above=6)} if alert else streams


@pytest.mark.parametrize("lost", [False, True], ids=["new", "deleted"])
def test_a_state_that_starts_late_starts_where_the_states_below_it_are_known(
    lost: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with job(partial(over_states, alert=lost), tmp_path) as engine:
        for second in range(1, 6):
            engine.tick(1000 * second)
        engine.close()
    if lost:
        shutil.rmtree(tmp_path / "state/threshold")
    seen = run_ticks(partial(over_states, alert=True), tmp_path, [6, 7])
    assert "the state 'threshold' starts empty after batch 5: its earlier input is no longer available" in caplog.text
    assert seen["sums"] == {6: [("a", 6)], 7: [("a", 7)]}
    assert [len(rows) for rows in seen["alerts"].values()] == [0, 1]


def test_a_state_that_cannot_be_saved_is_a_warning_and_the_next_start_replays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logs, home, seen = tmp_path / "logs", tmp_path / "home", Seen()

    def full(*args: Any, **options: Any) -> bool:
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


# --- what a state means

COUNT, SUM, MEAN, LEAST = agg.count(), agg.sum("v"), agg.mean("v"), agg.min("v")


def saved_then(tmp_path: Path, first: agg.Aggregates, second: agg.Aggregates, expire_after: str | None = None) -> Seen:
    """Three batches of a running state, then the job with other aggregates under the same names."""

    def build(aggregates: agg.Aggregates, expire_after: str | None = None) -> Any:
        def states(ssc: StreamingContext) -> dict[str, FrameStream]:
            rows = given(ssc, ROWS, "k string, v bigint")
            return {"state": rows.update_state_by_key("k", aggregates, name="state", expire_after=expire_after)}

        return states

    run_ticks(build(first), tmp_path, [1, 2, 3, 4])
    with job(build(second, expire_after), tmp_path):
        pass  # before any batch
    return run_ticks(build(second, expire_after), tmp_path, [5, 6])


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        (COUNT, SUM, "x was count\\(\\*\\) and is now sum\\(v\\)"),
        (LEAST, agg.max("v"), "x was min\\(v\\) and is now max\\(v\\)"),
        (agg.min("v"), agg.min("w"), "x was min\\(v\\) and is now min\\(w\\)"),
        (SUM, COUNT, "x_1 is gone; x_2 is gone; x was sum\\(v\\) and is now count\\(\\*\\)"),
        (agg.collect_set("v", 3), agg.collect_set("v", 4), "x was collect_set\\(v, 3\\) and is now"),
    ],
)
def test_a_state_that_meant_something_else_is_refused_at_the_start(
    first: agg.Aggregate, second: agg.Aggregate, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "ROWS", [[("a", 1)]] * 12)

    def build(aggregate: agg.Aggregate) -> Any:
        def states(ssc: StreamingContext) -> dict[str, FrameStream]:
            rows = given(ssc, ROWS, "k string, v bigint").select("k", "v", (F.col("v") * 2).alias("w"))
            return {"state": rows.update_state_by_key("k", {"x": aggregate}, name="state")}

        return states

    run_ticks(build(first), tmp_path, [1, 2])
    with pytest.raises(StateRefused, match=f"no longer fits the job \\({why}"), job(build(second), tmp_path):
        pass


def test_a_sum_may_become_a_mean_which_is_made_of_the_same_parts(tmp_path: Path) -> None:
    assert saved_then(tmp_path, {"x": SUM}, {"x": MEAN})["state"] == {5: [("a", 1.0)], 6: [("a", 1.0)]}


def test_a_state_that_learns_to_expire_keeps_the_keys_it_has(tmp_path: Path) -> None:
    batches_ = [[("a", 1)], [("b", 1)], *[[("c", 1)]] * 8]

    def build(expire_after: str | None) -> Any:
        def states(ssc: StreamingContext) -> dict[str, FrameStream]:
            rows = given(ssc, batches_, "k string, v bigint")
            state = rows.update_state_by_key("k", {"n": COUNT}, name="state", expire_after=expire_after)
            return {"state": state, "expired": state.expired()}

        return states

    run_ticks(build(None), tmp_path, [1, 2, 3, 4])
    seen = run_ticks(build("3s"), tmp_path, [5, 6, 7, 8])
    # what was saved before counts as seen in the last batch before the change
    assert seen["state"][5] == [("a", 1), ("b", 1), ("c", 3)]
    assert seen["expired"] == {5: [], 6: [], 7: [("a", 1), ("b", 1)], 8: []}
    assert seen["state"][8] == [("c", 6)]
