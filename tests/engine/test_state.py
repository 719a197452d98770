"""Saved states that cannot be continued are refused; test_frames shows that all others are exact."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

from sparkstream_kit import aggregates as agg
from sparkstream_kit.engine import batches
from sparkstream_kit.errors import HomeDamaged, StateRefused
from sparkstream_kit.frames import FrameStream
from tests.support.ticks import given, run_ticks

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
    run_ticks(without_state, tmp_path, [5, 6, 7, 8])
    expected = (
        "state 'sums' was last saved after batch 4, but the log only goes back to batch 8: give the state another"
    )
    with pytest.raises(StateRefused, match=expected):
        run_ticks(with_state, tmp_path, [9])


def test_a_state_without_a_readable_snapshot_is_refused_if_its_input_is_gone(tmp_path: Path) -> None:
    run_ticks(with_state, tmp_path, [1, 2, 3, 4, 5, 6])
    for manifest in (tmp_path / "state" / "sums").glob("*/_manifest"):
        manifest.unlink()
    expected = f"no snapshot of the state 'sums' can be read, .*: restore .*{tmp_path}/state/sums from a backup"
    with pytest.raises(HomeDamaged, match=expected):
        run_ticks(with_state, tmp_path, [7])
