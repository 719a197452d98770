"""Events against the same rules in plain Python, batch by batch."""

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
from sparkstream_kit.transforms.events import deviations, jumps, outside
from tests.ticks import Given, few, run_ticks, run_with_kills
from tests.ticks import given as given_rows

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


def build(rows: Given) -> Any:
    def define(ssc: StreamingContext) -> dict[str, FrameStream]:
        s = given_rows(ssc, rows, SCHEMA)
        return {
            "outside": outside(s, "k", sum("v"), above=5, below=-5),
            "jumps": jumps(s, "k", sum("v"), limit=3, per="1s"),
            "deviations": deviations(s, "k", sum("v"), alpha=ALPHA, limit=LIMIT, after=AFTER),
        }

    return define


def judge(name: str, figures: Sequence[tuple[int, int]]) -> tuple[bool, float | None]:
    """Whether the last of a key's (second, figure) is an event, and what was expected."""
    (now, seen), before = figures[-1], figures[:-1]
    if name == "outside":
        return abs(seen) > 5, math.copysign(5, seen)
    if not before:
        return False, None
    if name == "jumps":
        then, last = before[-1]
        return abs(seen - last) / (now - then) > 3, last
    mean, variance = float(before[0][1]), 0.0
    for _, x in before[1:]:
        variance = (1 - ALPHA) * (variance + ALPHA * (x - mean) ** 2)
        mean = (1 - ALPHA) * mean + ALPHA * x
    return len(before) >= AFTER and abs(seen - mean) > LIMIT * math.sqrt(variance), mean


def events(name: str, rows: Sequence[Sequence[tuple[str, int]]]) -> dict[int, list[Any]]:
    since: dict[str, int] = {}
    figures: dict[str, list[tuple[int, int]]] = {"a": [], "b": []}
    expected: dict[int, list[Any]] = {}
    for second, batch in enumerate(rows, 1):
        expected[second] = []
        for k, v in sorted(batch):
            figures[k].append((second, v))
            wrong, mark = judge(name, figures[k])
            if wrong:
                since.setdefault(k, second)
                expected[second].append((k, at(second), at(since[k]), pytest.approx(mark), v))
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
    for name in ("outside", "jumps", "deviations"):
        assert seen[name] == events(name, rows), name


def test_without_keys_a_batch_with_no_row_of_the_stream_is_judged_too(tmp_path: Path) -> None:
    def define(ssc: StreamingContext) -> dict[str, FrameStream]:
        return {"silence": outside(given_rows(ssc, [[("a", 1)], [], []], SCHEMA), [], count(), below=1)}

    seen = run_ticks(define, tmp_path, [1, 2, 3])
    assert seen == {"silence": {1: [], 2: [(at(2), at(2), 1.0, 0.0)], 3: [(at(3), at(2), 1.0, 0.0)]}}


def test_numbers_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    def define(**numbers: Any) -> None:
        run_ticks(lambda ssc: {"x": deviations(given_rows(ssc, [], SCHEMA), "k", count(), **numbers)}, tmp_path, [])

    with pytest.raises(UsageError, match="got alpha=1 and after=10"):
        define(alpha=1)
    with pytest.raises(UsageError, match="got no limit"):
        run_ticks(lambda ssc: {"x": outside(given_rows(ssc, [], SCHEMA), "k", count())}, tmp_path, [])
