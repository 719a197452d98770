"""Duplicates, against one pass in plain Python over all rows in their order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

from sparkstream_kit.bridge import placement
from sparkstream_kit.columns import quoted
from sparkstream_kit.engine import batches
from sparkstream_kit.errors import UsageError
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.transforms import drop_duplicates
from tests.support.ticks import Build, Given, few, job, planned, run_ticks, run_with_kills
from tests.support.ticks import given as given_rows

pytestmark = pytest.mark.usefixtures("spark")

SCHEMA = "k string, second int, v string"
WITHIN, LATENESS = 4, 6

Line = tuple[str | None, int | None, str | None]


@pytest.fixture(autouse=True)
def frequent_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 2)


def timed(ssc: StreamingContext, rows: Given, schema: str = SCHEMA) -> FrameStream:
    return given_rows(ssc, rows, schema).select("*", F.timestamp_seconds("second").alias("timestamp"))


def program(rows: Given, keys: Sequence[str] = ("k",)) -> Build:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        once = drop_duplicates(timed(ssc, rows), keys, "timestamp", within=f"{WITHIN}s", lateness=f"{LATENESS}s")
        return {"once": once.select("k", "second", "v"), "late": once.late().select("k", "second", "v")}

    return build


def text(line: Line) -> str:
    fields = {"k": line[0], "second": line[1], "v": line[2], "timestamp": line[1]}
    return json.dumps({name: value for name, value in fields.items() if value is not None}, separators=(",", ":"))


def expected(came: Mapping[int, Sequence[Line]], by_key: bool = True) -> dict[str, dict[int, list[Line]]]:
    """The rows that stay and the late ones, batch by batch."""
    once: dict[int, list[Line]] = {}
    late: dict[int, list[Line]] = {}
    stayed: list[tuple[object, int]] = []
    watermark, latest = -(10**9), -(10**9)
    for batch, lines in came.items():
        once[batch], late[batch], on_time = [], [], []
        for line in lines:
            if line[1] is None or line[1] < watermark:
                late[batch].append(line)
            else:
                on_time.append((line[1], text(line), line))
        for second, _, line in sorted(on_time, key=lambda row: row[:2]):
            key = line[0] if by_key else ""
            if not any(key == other and abs(second - then) <= WITHIN for other, then in stayed):
                stayed.append((key, second))
                once[batch].append(line)
            latest = max(latest, second)
        watermark = latest - LATENESS
    return {
        "once": {n: sorted(rows, key=repr) for n, rows in once.items()},
        "late": {n: sorted(rows, key=repr) for n, rows in late.items()},
    }


LINES = st.lists(
    st.none()
    | st.lists(
        st.tuples(
            st.sampled_from(["a", "b", None]), st.none() | st.integers(-14, 6), st.sampled_from(["x", "y", '"', None])
        ),
        max_size=9,
    ),
    min_size=3,
    max_size=9,
).map(
    lambda rows: [
        None if batch is None else [(k, None if at is None else 20 + 3 * n + at, v) for k, at, v in batch]
        for n, batch in enumerate(rows)
    ]
)


@pytest.mark.slow
@few(4)
@given(rows=LINES, kills=st.sets(st.integers(1, 9), max_size=3))
def test_what_stays_equals_one_pass_over_all_rows_in_any_order_and_through_kills(
    rows: list[list[Line] | None], kills: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    seen = run_with_kills(program(rows), tmp_path_factory.mktemp("home"), range(1, len(rows) + 1), kills)
    came = planned(rows, sorted(seen.get("late", {})))
    assert sum(map(len, came.values())) == sum(len(batch or ()) for batch in rows)
    assert {name: seen.get(name, {}) for name in ("once", "late")} == expected(came)


@pytest.mark.slow
@few(2)
@given(rows=LINES)
def test_without_keys_all_rows_are_of_one_key(
    rows: list[list[Line] | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    seen = run_ticks(program(rows, []), tmp_path_factory.mktemp("home"), range(1, len(rows) + 1))
    came = planned(rows, sorted(seen.get("late", {})))
    assert {name: seen.get(name, {}) for name in ("once", "late")} == expected(came, by_key=False)


def test_a_row_makes_rows_drop_on_both_sides_of_it_and_up_to_within(tmp_path: Path) -> None:
    rows = [
        [("a", 10, "first")],
        [("a", 5, ""), ("a", 6, ""), ("a", 14, ""), ("a", 15, "")],
        [("a", 9, ""), ("b", 9, "")],
    ]
    seen = run_ticks(program(rows), tmp_path, range(1, 4))["once"]
    assert seen == {1: [("a", 10, "first")], 2: [("a", 15, ""), ("a", 5, "")], 3: [("b", 9, "")]}


@pytest.mark.slow
def test_nothing_comes_twice_if_every_batch_is_killed_and_delivered_again(tmp_path: Path) -> None:
    batch: list[Line] = [("a", 10, "x"), ("a", 12, "y"), (None, 11, "z"), ("b", 16, "")]
    rows = [batch, batch[::-1], [*batch, ("a", 15, "w")], batch]
    seen = run_with_kills(program(rows), tmp_path, range(1, 5), {1, 2, 3, 4})
    assert seen == expected(planned(rows, sorted(seen["late"])))
    stay = sorted((row for of in seen["once"].values() for row in of), key=repr)
    assert stay == [("a", 10, "x"), ("a", 15, "w"), ("b", 16, ""), (None, 11, "z")]


@pytest.mark.slow
def test_a_key_with_many_rows_in_a_batch_keeps_those_that_are_apart(tmp_path: Path) -> None:
    seconds = [*range(1, 1200), *range(1300, 1400, 5)]
    rows = [[("a", second, "") for second in reversed(seconds)], [("a", second, "") for second in range(1200, 1300)]]
    seen = run_ticks(program(rows), tmp_path, [1, 2])
    wanted = expected(dict(enumerate(rows, 1)))
    assert seen["once"][1] == wanted["once"][1]
    assert len(seen["once"][1]) == 260


@pytest.mark.slow
def test_rows_of_any_type_and_columns_of_any_name_stay_as_they_are(tmp_path: Path) -> None:
    odd = ["a.b", "tick`tock", "with space", "__AT", "start", "__row.x", "$"]
    rows = [[("a", 1, 1), (None, 1, 2)], [("a", 2, 3), (None, 30, 4)]]

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        n = F.coalesce("n", F.lit(0))
        values = [
            F.create_map(F.lit("n"), n),
            F.struct(n, F.struct(F.array(n), F.create_map(n, F.struct(n)))),
            F.encode(n.cast("string"), "utf-8"),
            F.array(n, F.lit(None)),
            F.lit(None),
            F.make_dt_interval(secs=n),
            F.parse_json(F.lit('{"v": 1}')),
        ]
        lines = timed(ssc, rows, "k string, second int, n int")
        named = [value.alias(name) for name, value in zip(odd, values, strict=True)]
        stream = lines.select(F.col("k").alias("key.`1"), F.col("timestamp").alias("the time"), "n", *named)
        once = drop_duplicates(stream, ["key.`1"], quoted("the time"), within="4s")
        assert once.columns == stream.columns
        shown = [F.to_json(F.struct("*")).alias("json"), F.to_json(F.struct(quoted("a.b"))).alias("map")]
        return {"in": stream.select("n", *shown), "out": once.select("n", *shown), "late": once.late().select("n")}

    seen = run_ticks(build, tmp_path, [1, 2])
    assert seen["out"] == {1: seen["in"][1], 2: seen["in"][2][1:]}
    assert seen["late"] == {1: [], 2: []}


@pytest.mark.slow
def test_of_rows_with_one_key_and_timestamp_the_first_by_its_json_stays(tmp_path: Path) -> None:
    """Also if they differ in what JSON usually rounds; and floats that are equal are one key."""
    rows = [[(-0.0, 9), (0.0, 7)], [(0.0, 3), (float("nan"), 5), (float("nan"), 4)], [(float("nan"), 1)]]
    as_text = [[(str(x), micros) for x, micros in batch] for batch in rows]

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        lines = given_rows(ssc, as_text, "x string, micros int").select(
            F.col("x").cast("double").alias("x"),
            F.timestamp_micros("micros").alias("seen"),
            F.timestamp_seconds(F.lit(1)).alias("at"),
        )
        once = drop_duplicates(lines, "x", "at", within="1s")
        return {"once": once.select(F.unix_micros("seen"))}

    assert run_ticks(build, tmp_path, [1, 2, 3])["once"] == {1: [(9,)], 2: [(4,)], 3: []}


@pytest.mark.slow
def test_the_state_holds_what_rows_on_time_can_reach_and_two_uses_have_states_of_their_own(tmp_path: Path) -> None:
    seconds = 12
    rows = [[("a", 10 * n + i, str(n)) for i in range(10)] for n in range(1, seconds + 1)]
    wait = {"lateness": f"{LATENESS}s"}

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        lines = timed(ssc, rows)
        every = drop_duplicates(lines, "second", "timestamp", within=f"{WITHIN}s", **wait)
        of_these = drop_duplicates(every, "k", "timestamp", within="9s", **wait, name="of these")
        return {"every": every.select("second"), "of these": of_these.select("second")}

    with job(build, tmp_path, seen := {}) as engine:
        for second in range(1, seconds + 1):
            engine.tick(1000 * second)
        last = engine.graph.context(engine.graph.log.last)
        kept = {name: engine.graph.states[name].retained(last).count() for name in ("duplicates", "of these")}
    assert kept == {"duplicates": WITHIN + LATENESS + 1, "of these": 1}
    assert seen["every"] == {n: [(10 * n + i,) for i in range(10)] for n in range(1, seconds + 1)}
    assert seen["of these"] == {n: [(10 * n,)] for n in range(1, seconds + 1)}


@pytest.mark.slow
def test_a_key_in_another_case_in_many_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "LEAST", 1 << 10)
    monkeypatch.setattr(placement, "MOST", 1 << 10)
    rows = [[(f"key {n % 700}", 10 * second, str(n)) for n in range(1400)] for second in range(1, 5)]

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        once = drop_duplicates(timed(ssc, rows), "K", "timestamp", within="15s", lateness="1s")
        return {"once": once.select("k", "second")}

    seen = run_ticks(build, tmp_path, range(1, 5))["once"]
    keys = sorted(f"key {n}" for n in range(700))
    assert seen == {n: sorted((key, 10 * n) for key in keys) if n % 2 else [] for n in range(1, 5)}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a column that is not a timestamp": ({"timestamp": "v"}, "unix_micros"),
    "a span of zero": ({"within": "0s"}, "invalid duration '0s'"),
    "a negative span": ({"within": "-1s"}, "invalid duration '-1s'"),
    "an invalid lateness": ({"lateness": "soon"}, "invalid duration 'soon'"),
    "a key that is missing": ({"keys": "nope"}, "nope"),
    "a key named like what the state keeps": ({"keys": "__at"}, "named __at"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_start_refuses(what: str, tmp_path: Path) -> None:
    changed, message = REFUSED[what]
    given = {"keys": "k", "timestamp": "timestamp", "within": "1s", **changed}
    with pytest.raises(UsageError, match=message):
        run_ticks(lambda ssc: {"out": drop_duplicates(timed(ssc, []), **given)}, tmp_path, [])


def test_two_without_names_are_refused(tmp_path: Path) -> None:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        lines = timed(ssc, [])
        return {n: drop_duplicates(lines, "k", "timestamp", within="1s") for n in ("one", "two")}

    with pytest.raises(UsageError, match="two states are named 'duplicates'"):
        run_ticks(build, tmp_path, [])
