from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sparkstream_kit.health import MOST_REJECTED, STALLED_AFTER, health

ALERTS = (Path(__file__).parents[1] / "conf" / "prometheus" / "alerts.yml").read_text()


NOW = 1_800_000_000


def several(*facts: dict[str, Any]) -> list[dict[str, Any]]:
    """A history of batches, each with what is different about it."""
    usual = {"ended": NOW - 1, "seconds": 0.4, "delay": 0.9, "records": 100, "rejected": 0}
    return [{"n": n, **usual, **fact} for n, fact in enumerate(facts, 1)]


@pytest.mark.parametrize(
    ("state", "batches", "idle", "failing"),
    [
        ("running", [], 0, ""),
        ("running", several({}), 1, ""),
        ("running", several({}), STALLED_AFTER, ""),
        ("running", several({"records": None, "rejected": None}), 1, ""),
        ("running", several(*[{"seconds": 3}] * 4), 1, ""),
        ("running", several(*[{"seconds": 3}] * 5, {}), 1, ""),
        ("running", several({"delay": 50}, {"delay": 40}), 1, ""),
        ("running", several({"rejected": 5}), 1, ""),
        ("slow", several(*[{"seconds": 3}] * 5), 1, ""),
        ("running", several(*[{"seconds": 3, "ended": NOW - 10}] * 5), 1, ""),
        ("running", several({}, {"delay": 11, "ended": NOW - 7}), 1, ""),
        ("slow", several({}, {"delay": 5}, {"delay": 11}), 1, ""),
        ("rejecting", several({"rejected": 6}), 1, ""),
        ("rejecting", several(*[{"rejected": 80}] * 20), 1, ""),
        ("running", several({"rejected": 100}, *[{}] * 20), 1, ""),
        ("running", several({"records": 10}, {"records": None, "rejected": 30}), 1, ""),
        ("retrying", several({}), 1, "the output 'sql:hits' failed once"),
        ("retrying", [], 1, "the output 'sql:hits' failed once"),
        ("stalled", several({}), STALLED_AFTER + 1, ""),
        ("stalled", several({}), STALLED_AFTER + 1, "the output 'sql:hits' failed once"),
    ],
)
def test_the_health_of_a_job(state: str, batches: list[dict[str, Any]], idle: float, failing: str) -> None:
    found = health(batches, interval=2, now=NOW, idle=idle, failing=failing)
    assert found.state == state
    assert failing in found.reason


def test_batches_that_run_again_are_late_and_may_take_long() -> None:
    late = several(*[{"seconds": 3, "delay": 4000 + n} for n in range(8)])
    again = {"interval": 2, "now": NOW, "again": "batches 8 to 9"}
    found = health(late, idle=1, **again)
    assert (found.state, found.level) == ("rerunning", "good")
    assert found.reason == "batches 8 to 9 run again, after a rewind; batch 8 took 3.00 s"
    assert health(late, idle=1, failing="the output failed", **again).state == "retrying"
    assert health(late, idle=STALLED_AFTER + 1, **again).state == "stalled"
    assert health(late, idle=1, draining=True, **again).state == "rerunning"


def test_a_job_with_a_long_interval_has_more_time() -> None:
    assert health([], interval=60, now=NOW, idle=599).state == "running"
    assert health([], interval=60, now=NOW, idle=601).state == "stalled"


def test_the_thresholds_are_those_of_the_alert_rules() -> None:
    assert f"clamp_min(10 * sparkstream_batch_interval_seconds, {STALLED_AFTER})" in ALERTS
    assert re.search(rf"increase\(sparkstream_records_total\[10m\]\)\) > {MOST_REJECTED}\n", ALERTS)
    assert "sparkstream_batch_delay_seconds > 5 * sparkstream_batch_interval_seconds" in ALERTS
