"""Windows: what they read again, what they keep in memory, and what they say when they cannot look back far enough."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from pyspark.streaming import StreamingContext

from sparkstream_kit import aggregates as agg
from sparkstream_kit.engine import batches, windows
from sparkstream_kit.errors import UsageError
from sparkstream_kit.frames import FrameStream
from tests.support.ticks import Given, given, job, run_ticks

AGGREGATES = {"n": agg.count(), "most": agg.max("v"), "sum": agg.sum("v"), "all": agg.collect_set("v", 100)}


def random_batches(seed: int, ticks: int) -> list[list[tuple[str, int]] | None]:
    chance = random.Random(seed)
    return [
        None
        if chance.random() < 0.3
        else [(chance.choice("abc"), chance.randrange(9)) for _ in range(chance.randrange(4))]
        for _ in range(ticks)
    ]


def recounted(given_batches: Given, tick: int, length: int) -> list[Any]:
    """The rows of a window by key, computed from the batches in it."""
    rows = [row for batch in given_batches[max(0, tick - length) : tick] for row in batch or ()]
    values = {key: [v for k, v in rows if k == key] for key in sorted({k for k, _ in rows})}
    return [(key, len(v), max(v), sum(v), sorted(set(v))) for key, v in values.items()]


@pytest.mark.parametrize("invertible", [True, False])
@pytest.mark.parametrize("length", [1, 7, 30])
def test_a_window_of_any_length_is_that_of_a_recount_also_after_restarts(
    length: int, invertible: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "FANOUT", 3)
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 4)  # compacts the log
    rows, slide = random_batches(length, 45), 1 if length == 1 else 2
    chosen = {name: a for name, a in AGGREGATES.items() if name in ("n", "sum") or not invertible}

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        stream = given(ssc, rows, "k string, v bigint")
        return {"window": stream.reduce_by_key_and_window("k", chosen, f"{length}s", f"{slide}s")}

    seen: dict[str, dict[int, list[Any]]] = {}
    for lives in (range(1, 13), range(13, 14), range(14, 34), range(34, 46)):
        run_ticks(build, tmp_path, lives, seen)
    kept = [0, *(1 + list(AGGREGATES).index(name) for name in chosen)]
    expected = {
        tick: [tuple(row[i] for i in kept) for row in recounted(rows, tick, length)] for tick in range(slide, 46, slide)
    }
    assert {tick: found for tick, found in seen["window"].items() if found or expected[tick]} == {
        tick: found for tick, found in expected.items() if found
    }


@pytest.mark.parametrize("aggregates", [{"n": agg.count()}, {"n": agg.count(), "top": agg.top_k("v", 2)}])
def test_a_window_without_keys_has_a_row_also_if_all_batches_that_it_reads_again_are_empty(
    aggregates: dict[str, agg.Aggregate], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "FANOUT", 2)  # blocks of blocks are empty, too

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        stream = given(ssc, [[("a", tick)] for tick in range(1, 12)], "k string, v bigint")
        return {"window": stream.filter("v = 10").reduce_by_window(aggregates, "6s")}

    seen: dict[str, dict[int, list[Any]]] = {}
    run_ticks(build, tmp_path, range(1, 7), seen)
    with job(build, tmp_path, seen) as engine:
        for tick in range(7, 12):
            if tick == 9:
                engine.graph.drop_everything()
            engine.tick(1000 * tick)
    none, one = ((0,), (1,)) if len(aggregates) == 1 else ((0, []), (1, [(10, 1)]))
    assert seen["window"] == {tick: [one if tick >= 10 else none] for tick in range(1, 12)}


def test_after_a_restart_a_window_reads_its_batches_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[("a", tick)] for tick in range(1, 42)]

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        stream = given(ssc, rows, "k string, v bigint")
        return {"window": stream.reduce_by_key_and_window("k", {"most": agg.max("v")}, "40s", "1s")}

    run_ticks(build, tmp_path, range(1, 41))
    stored: list[int] = []
    store = windows.AggregatedWindow._store
    monkeypatch.setattr(
        windows.AggregatedWindow, "_store", lambda self, last, frame: stored.append(last) or store(self, last, frame)
    )
    assert run_ticks(build, tmp_path, [41])["window"] == {41: [("a", 41)]}
    assert len(stored) == len({tick // windows.FANOUT for tick in range(2, 42)})


def test_a_window_that_was_added_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 2)
    rows = [[("a", 1)]] * 8

    def build(length: int) -> Any:
        def counts(ssc: StreamingContext) -> dict[str, FrameStream]:
            return {"counts": given(ssc, rows, "k string, v bigint").count_by_window(f"{length}s")}

        return counts

    run_ticks(build(2), tmp_path, range(1, 5))
    run_ticks(build(2), tmp_path, [5])
    assert "a window of" not in caplog.text
    assert run_ticks(build(6), tmp_path, [6, 7])["counts"][6] == [(5,)], "the first batch is no longer in the log"
    assert caplog.text.count("a window of 6s is new or longer than before, and the batches up to 1 are no longer") == 1
    assert "until 1970-01-01 00:00:07 UTC" in caplog.text


def test_a_drain_in_many_batches_is_refused_for_windows(tmp_path: Path) -> None:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        return {"counts": given(ssc, [[("a", 1)]], "k string, v bigint").count_by_window("2s")}

    with (
        pytest.raises(UsageError, match="a drain in several batches .* no time passes between them"),
        job(build, tmp_path, drain=True, max_per_batch=1),
    ):
        pass
    assert run_ticks(build, tmp_path, [5], drain=True)["counts"] == {5: [(1,)]}


def test_a_window_that_nothing_reads_refuses_no_drain(tmp_path: Path) -> None:
    def build(over: str) -> Any:
        def streams(ssc: StreamingContext) -> dict[str, FrameStream]:
            rows = given(ssc, [[("a", 1)]], "k string, v bigint")
            counts = rows.reduce_by_key_and_window("k", {"n": agg.count()}, "2s").count_by_window("2s")
            if over == "state":
                counts.update_state_by_key([], {"n": agg.count()}, name="counts")
            return {"rows": rows, "counts": counts} if over == "output" else {"rows": rows}

        return streams

    for over in ("output", "state"):
        with (
            pytest.raises(UsageError, match="a drain in several batches"),
            job(build(over), tmp_path, drain=True, max_per_batch=1),
        ):
            pass
    assert run_ticks(build(""), tmp_path, [5], drain=True, max_per_batch=1) == {"rows": {5: [("a", 1)]}}
