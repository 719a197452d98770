"""Alerts against the same rules in plain Python, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.streaming import StreamingContext

from sparkstream_kit.aggregates import count, sum
from sparkstream_kit.errors import UsageError
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.transforms._alerts import anomalies, rate_of_change, threshold
from tests.support.ticks import Given, few, run_ticks, run_with_kills
from tests.support.ticks import given as given_rows

pytestmark = pytest.mark.usefixtures("spark")

SCHEMA = "k string, v bigint"
LIMIT, ALPHA, AFTER = 1.5, 0.25, 3

BATCHES = st.lists(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(-9, 9)), max_size=3, unique_by=lambda row: row[0]),
    min_size=4,
    max_size=10,
)


def at(second: int) -> datetime:
    """As `collect` gives timestamps: local, without a zone."""
    return datetime.fromtimestamp(second, timezone.utc).astimezone().replace(tzinfo=None)


def build(rows: Given, schema: str = SCHEMA) -> Any:
    def define(ssc: StreamingContext) -> dict[str, FrameStream]:
        s = given_rows(ssc, rows, schema)
        return {
            "threshold": threshold(s, "k", sum("v"), above=5, below=-5),
            "rate_of_change": rate_of_change(s, "k", sum("v"), limit=3, per="1s"),
            "anomalies": anomalies(s, "k", sum("v"), alpha=ALPHA, limit=LIMIT, after=AFTER),
        }

    return define


def judge(name: str, metrics: Sequence[tuple[int, float]]) -> tuple[bool, float | None]:
    """Whether the last of a key's (second, metric) is an alert, and what was expected."""
    (now, seen), before = metrics[-1], [metric for metric in metrics[:-1] if math.isfinite(metric[1])]
    if name == "threshold":
        return abs(seen) > 5, math.copysign(5, seen)
    if not before:
        return False, None
    if name == "rate_of_change":
        then, last = before[-1]
        return not abs(seen - last) / (now - then) <= 3, last  # NaN is an alert, too
    # by definition: the newest metric weighs ALPHA, each one before it less by 1 - ALPHA, the first what is left
    weights = [ALPHA * (1 - ALPHA) ** age for age in range(len(before) - 1)]
    weights.append((1 - ALPHA) ** (len(before) - 1))
    newest_first = [x for _, x in reversed(before)]
    mean = math.fsum(w * x for w, x in zip(weights, newest_first, strict=True))
    variance = math.fsum(w * (x - mean) ** 2 for w, x in zip(weights, newest_first, strict=True))
    return len(before) >= AFTER and not abs(seen - mean) <= LIMIT * math.sqrt(variance), mean


def alerts(name: str, rows: Sequence[Sequence[tuple[str, float]]]) -> dict[int, list[Any]]:
    since: dict[str, int] = {}
    metrics: dict[str, list[tuple[int, float]]] = {"a": [], "b": []}
    expected: dict[int, list[Any]] = {}
    for second, batch in enumerate(rows, 1):
        expected[second] = []
        for k, v in sorted(batch):
            metrics[k].append((second, v))
            wrong, mark = judge(name, metrics[k])
            if wrong:
                since.setdefault(k, second)
                expected[second].append(
                    (k, at(second), at(since[k]), pytest.approx(mark), pytest.approx(v, nan_ok=True))
                )
            else:
                since.pop(k, None)
    return expected


@pytest.mark.slow
@few(4)
@given(rows=BATCHES, kills=st.sets(st.integers(2, 9), max_size=1))
def test_events_are_those_of_the_rule_through_kills(
    rows: list[list[tuple[str, int]]], kills: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    seen = run_with_kills(build(rows), tmp_path_factory.mktemp("home"), range(1, len(rows) + 1), kills)
    for name in ("threshold", "rate_of_change", "anomalies"):
        assert seen[name] == alerts(name, rows), name


@pytest.mark.slow
def test_a_figure_that_is_nan_or_infinite_is_an_event_and_nothing_is_learnt_from_it(tmp_path: Path) -> None:
    rows = [[("a", v)] for v in (1.0, 2.0, 7.0, math.nan, math.inf, 30.0)]

    def define(ssc: StreamingContext) -> dict[str, FrameStream]:
        streams: dict[str, FrameStream] = build(rows, "k string, v double")(ssc)
        return {name: streams[name] for name in ("rate_of_change", "anomalies")}

    seen = run_ticks(define, tmp_path, range(1, 7))
    assert seen == {name: alerts(name, rows) for name in ("rate_of_change", "anomalies")}
    assert [second for second, found in seen["anomalies"].items() if found] == [4, 5, 6]


def test_without_keys_a_batch_with_no_row_of_the_stream_is_judged_too(tmp_path: Path) -> None:
    def define(ssc: StreamingContext) -> dict[str, FrameStream]:
        return {"silence": threshold(given_rows(ssc, [[("a", 1)], [], []], SCHEMA), [], count(), below=1)}

    seen = run_ticks(define, tmp_path, [1, 2, 3])
    assert seen == {"silence": {1: [], 2: [(at(2), at(2), 1.0, 0.0)], 3: [(at(3), at(2), 1.0, 0.0)]}}


def test_numbers_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    def define(**numbers: Any) -> None:
        run_ticks(lambda ssc: {"x": anomalies(given_rows(ssc, [], SCHEMA), "k", count(), **numbers)}, tmp_path, [])

    with pytest.raises(UsageError, match="got alpha=1 and after=10"):
        define(alpha=1)
    with pytest.raises(UsageError, match="got no limit"):
        run_ticks(lambda ssc: {"x": threshold(given_rows(ssc, [], SCHEMA), "k", count())}, tmp_path, [])
