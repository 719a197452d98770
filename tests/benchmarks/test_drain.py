"""The drain of a topic compares what both arms have read; how long it takes is not tested here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.kafka
def test_a_short_drain_prints_a_table_and_writes_nothing() -> None:
    before = sorted(ROOT.rglob("tests/benchmarks/*"))
    ended = subprocess.run([ROOT / "scripts" / "bench", "kafka", "2000"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    rows = [line.split(" | ")[:2] for line in ended.stdout.splitlines() if line.startswith("| ")][1:]
    assert rows == [[f"| {what}", n] for n in ("2,000", "200") for what in ("records and bytes", "grouped by status")]
    assert sorted(ROOT.rglob("tests/benchmarks/*")) == before
