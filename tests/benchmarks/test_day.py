"""The run of many batches checks its table and separates growth from noise; how much is held is not tested here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sparkstream_kit.testing import log_lines
from tests.benchmarks import day

ROOT = Path(__file__).parents[2]


@pytest.mark.program
def test_a_short_run_prints_what_was_held_and_writes_nothing() -> None:
    before = sorted(ROOT.rglob("tests/benchmarks/*"))
    ended = subprocess.run([ROOT / "scripts" / "bench", "day", "80"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert [line.split(" | ")[0] for line in ended.stdout.splitlines() if line[:3].strip("| ").isdigit()] == [
        f"| {n}" for n in range(10, 81, 10)
    ]
    assert sorted(ROOT.rglob("tests/benchmarks/*")) == before


def test_growth_is_not_confused_with_noise() -> None:
    found = [
        {"batches": n, "ms a batch": n, "up": 100 + n, "swings": 100 + n % 5, "slow": 10_000 + n} for n in range(40)
    ]
    assert day.growing(found) == ["up"]


def test_the_expected_table_forgets_clients_that_were_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(day, "LINES", 1)
    monkeypatch.setattr(day, "EXPIRED", 2 * day.INTERVAL)
    arrivals = "aabbba"  # a is idle for three batches
    assert len(log_lines(1, 0, 1)) == 1
    monkeypatch.setattr(day, "log_lines", lambda _, start, stop: [f"{arrivals[n]} - -" for n in range(start, stop)])
    assert day.counted(5) == [("a", 2), ("b", 3)]
    assert day.counted(6) == [("a", 1), ("b", 3)]
