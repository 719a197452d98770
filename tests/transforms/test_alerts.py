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

import sparkstream_kit as ss
from sparkstream_kit.aggregates import count, sum
from sparkstream_kit.transforms import anomalies, rate_of_change, threshold
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
    """A timestamp as `collect` returns it: local, without a zone."""
    return datetime.fromtimestamp(second, timezone.utc).astimezone().replace(tzinfo=None)


def build(rows: Given, schema: str = SCHEMA) -> Any:
    def define(ssc: StreamingContext) -> dict[str, ss.FrameStream]:
        s = given_rows(ssc, rows, schema)
        return {
            "threshold": threshold(s, "k", sum("v"), above=5, below=-5),
            "rate_of_change": rate_of_change(s, "k", sum("v"), limit=3, per="1s"),
            "anomalies": anomalies(s, "k", sum("v"), alpha=ALPHA, limit=LIMIT, after=AFTER),
        }

    return define


def judge(name: str, metrics: Sequence[tuple[int, float]]) -> tuple[bool, float | None]:
    """Whether the last (second, metric) of a key is an alert, and the expected value."""
    (now, actual), before = metrics[-1], [metric for metric in metrics[:-1] if math.isfinite(metric[1])]
    if name == "threshold":
        return abs(actual) > 5, math.copysign(5, actual)
    if not before:
        return False, None
    if name == "rate_of_change":
        then, last = before[-1]
        return not abs(actual - last) / (now - then) <= 3, last  # NaN is an alert, too
    # by definition: the newest metric has the weight ALPHA, each older one 1 - ALPHA times that, the first the rest
    weights = [ALPHA * (1 - ALPHA) ** age for age in range(len(before) - 1)]
    weights.append((1 - ALPHA) ** (len(before) - 1))
    newest_first = [x for _, x in reversed(before)]
    mean = math.fsum(w * x for w, x in zip(weights, newest_first, strict=True))
    variance = math.fsum(w * (x - mean) ** 2 for w, x in zip(weights, newest_first, strict=True))
    return len(before) >= AFTER and not abs(actual - mean) <= LIMIT * math.sqrt(variance), mean


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
def test_alerts_are_those_of_the_rule_through_kills(
    rows: list[list[tuple[str, int]]], kills: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    seen = run_with_kills(build(rows), tmp_path_factory.mktemp("home"), range(1, len(rows) + 1), kills)
    for name in ("threshold", "rate_of_change", "anomalies"):
        assert seen[name] == alerts(name, rows), name


@pytest.mark.slow
def test_a_metric_that_is_nan_or_infinite_is_an_alert_and_does_not_train_the_mean(tmp_path: Path) -> None:
    rows = [[("a", v)] for v in (1.0, 2.0, 7.0, math.nan, math.inf, 30.0)]

    def define(ssc: StreamingContext) -> dict[str, ss.FrameStream]:
        streams: dict[str, ss.FrameStream] = build(rows, "k string, v double")(ssc)
        return {name: streams[name] for name in ("rate_of_change", "anomalies")}

    seen = run_ticks(define, tmp_path, range(1, 7))
    assert seen == {name: alerts(name, rows) for name in ("rate_of_change", "anomalies")}
    assert [second for second, found in seen["anomalies"].items() if found] == [4, 5, 6]


def test_without_keys_a_batch_without_rows_is_evaluated_too(tmp_path: Path) -> None:
    def define(ssc: StreamingContext) -> dict[str, ss.FrameStream]:
        return {"silence": threshold(given_rows(ssc, [[("a", 1)], [], []], SCHEMA), [], count(), below=1)}

    seen = run_ticks(define, tmp_path, [1, 2, 3])
    assert seen == {"silence": {1: [], 2: [(at(2), at(2), 1.0, 0.0)], 3: [(at(3), at(2), 1.0, 0.0)]}}


@pytest.mark.parametrize("name", ["threshold", "rate_of_change", "anomalies"])
def test_an_alert_has_the_keys_two_timestamps_and_two_numbers(name: str, tmp_path: Path) -> None:
    found = {}

    def define(ssc: StreamingContext) -> dict[str, ss.FrameStream]:
        stream = build([])(ssc)[name]
        found[name] = stream.graph.empty(stream.compute).dtypes
        return {name: stream}

    run_ticks(define, tmp_path, [])
    times = [("time", "timestamp"), ("since", "timestamp")]
    assert found[name] == [("k", "string"), *times, ("expected", "double"), ("actual", "double")]


def test_invalid_parameters_are_refused(tmp_path: Path) -> None:
    def define(**numbers: Any) -> None:
        run_ticks(lambda ssc: {"x": anomalies(given_rows(ssc, [], SCHEMA), "k", count(), **numbers)}, tmp_path, [])

    with pytest.raises(ss.UsageError, match="got alpha=1 and after=10"):
        define(alpha=1)
    with pytest.raises(ss.UsageError, match="got no limit"):
        run_ticks(lambda ssc: {"x": threshold(given_rows(ssc, [], SCHEMA), "k", count())}, tmp_path, [])
