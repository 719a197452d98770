"""Interval joins, against pairs that plain Python finds among all rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

from sparkstream_kit.columns import quoted
from sparkstream_kit.engine import batches
from sparkstream_kit.errors import UsageError
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.transforms import join_within
from tests.support.ticks import Build, Given, Seen, few, job, planned, run_ticks, run_with_kills
from tests.support.ticks import given as given_rows

pytestmark = pytest.mark.usefixtures("spark")

LATENESS = 5
NAMES = ("pairs", "late", "other late", "unmatched", "other unmatched")

Line = tuple[str | None, int | None, str]


@pytest.fixture(autouse=True)
def frequent_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 2)


def timed(ssc: StreamingContext, rows: Given, side: str) -> FrameStream:
    stream = given_rows(ssc, rows, f"k string, {side}_second int, {side} string", side)
    return stream.select("*", F.timestamp_seconds(f"{side}_second").alias(f"{side}_at"))


def program(left: Given, right: Given, lower: int, upper: int, keys: Sequence[str] = ("k",)) -> Build:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        sides = [timed(ssc, left, "l"), timed(ssc, right, "r")]
        if not keys:
            sides = [sides[0].select(F.col("k").alias("lk"), "l_second", "l", "l_at"), sides[1]]
        joined = join_within(
            *sides, keys, f"{lower}s", f"{upper}s", timestamp="l_at", other_timestamp="r_at", lateness=f"{LATENESS}s"
        )
        k = "k" if keys else "lk"
        return {
            "pairs": joined.select(k, "l_second", "l", "r_second", "r"),
            "late": joined.late().select(k, "l_second", "l"),
            "other late": joined.other_late().select("k", "r_second", "r"),
            "unmatched": joined.unmatched().select(k, "l_second", "l"),
            "other unmatched": joined.other_unmatched().select("k", "r_second", "r"),
        }

    return build


class Side:
    """The rows of one stream that are on time, and its watermark."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, Line]] = []  # with the batch
        self.watermark = self.latest = -(10**9)

    def add(self, batch: int, lines: Iterable[Line]) -> list[Line]:
        """Returns the late rows."""
        late = [line for line in lines if line[1] is None or line[1] < self.watermark]
        self.rows += [(batch, line) for line in lines if line[1] is not None and line[1] >= self.watermark]
        return late

    def advance(self) -> None:
        self.latest = max([self.latest, *(line[1] for _, line in self.rows)])  # type: ignore[list-item]
        self.watermark = self.latest - LATENESS


def expected(
    left: dict[int, list[Line]], right: dict[int, list[Line]], lower: int, upper: int, by_key: bool = True
) -> Seen:
    """Each output, batch by batch, from all rows that have arrived by then."""
    sides = Side(), Side()
    seen: Seen = {name: {} for name in NAMES}
    gone: set[tuple[int, int]] = set()

    def are_pair(one: Any, other: Any) -> bool:
        equal = not by_key or (one[0] == other[0] and one[0] is not None)
        return equal and one[1] + lower <= other[1] <= one[1] + upper

    for batch in left:
        seen["late"][batch], seen["other late"][batch] = (
            sides[0].add(batch, left[batch]),
            sides[1].add(batch, right[batch]),
        )
        seen["pairs"][batch] = [
            (*one, *other[1:])
            for came, one in sides[0].rows
            for other_came, other in sides[1].rows
            if max(came, other_came) == batch and are_pair(one, other)
        ]
        for side in sides:
            side.advance()
        for n, name in enumerate(("unmatched", "other unmatched")):
            seen[name][batch] = []
            reach = upper if n == 0 else -lower
            for i, (_, line) in enumerate(sides[n].rows):
                if (n, i) not in gone and line[1] + reach < sides[1 - n].watermark:  # type: ignore[operator]
                    gone.add((n, i))
                    others = [other for _, other in sides[1 - n].rows]
                    if not any(are_pair(line, other) if n == 0 else are_pair(other, line) for other in others):
                        seen[name][batch].append(line)
    return {name: {n: sorted(rows, key=repr) for n, rows in of.items()} for name, of in seen.items()}


def lines(ahead: int) -> st.SearchStrategy[list[list[Line] | None]]:
    line = st.tuples(
        st.sampled_from(["a", "a", "b", None]), st.none() | st.integers(-12, 6), st.sampled_from(["x", "y"])
    )
    rows = st.lists(st.none() | st.lists(line, max_size=7), min_size=6, max_size=6)
    return rows.map(
        lambda rows: [
            None if batch is None else [(k, None if at is None else 20 + ahead + 4 * n + at, v) for k, at, v in batch]
            for n, batch in enumerate(rows)
        ]
    )


BOUNDS = st.sampled_from([(-3, 2), (0, 0), (2, 6), (-7, -2), (-9, 9)])


def compared(seen: Seen, left: Given, right: Given, bounds: tuple[int, int], *, by_key: bool = True) -> None:
    recorded = sorted(seen.get("pairs", {}))
    came, other_came = planned(left, recorded), planned(right, recorded)
    assert sum(map(len, came.values())) == sum(len(batch or ()) for batch in left)
    assert sum(map(len, other_came.values())) == sum(len(batch or ()) for batch in right)
    assert {name: seen.get(name, {}) for name in NAMES} == expected(came, other_came, *bounds, by_key)


@pytest.mark.slow
@few(2)
@given(left=lines(0), right=lines(1), bounds=BOUNDS, kills=st.sets(st.integers(1, 6), max_size=3))
def test_pairs_and_rows_without_one_are_those_among_all_rows_in_any_order_and_through_kills(
    left: Given, right: Given, bounds: tuple[int, int], kills: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    build = program(left, right, *bounds)
    compared(run_with_kills(build, tmp_path_factory.mktemp("home"), range(1, 7), kills), left, right, bounds)


@pytest.mark.slow
def test_without_keys_the_timestamps_alone_decide(tmp_path: Path) -> None:
    left: Given = [[("a", 10, "x"), (None, 12, "y")], [("b", 14, "z"), ("b", 3, "late")], [("a", 30, "w")]]
    right: Given = [[("c", 9, "x")], [(None, 12, "y"), ("a", None, "late")], [("b", 40, "")]]
    seen = run_ticks(program(left, right, -2, 1, keys=()), tmp_path, range(1, 4))
    compared(seen, left, right, (-2, 1), by_key=False)
    assert [len(seen[name][n]) for name in NAMES for n in (1, 2, 3)] == [1, 2, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]


def test_equal_rows_are_in_pairs_of_their_own_and_the_bounds_belong_to_the_interval(tmp_path: Path) -> None:
    left: Given = [[("a", 10, "x"), ("a", 10, "x")], None, [("a", 13, "z")]]
    right: Given = [[("a", 9, "y"), ("a", 12, "y"), ("a", 13, "no")], [("a", 12, "y"), ("a", 8, "no")], None]
    seen = run_ticks(program(left, right, -1, 2), tmp_path, range(1, 4))
    pairs = [("a", 10, "x", 12, "y"), ("a", 10, "x", 9, "y")]
    assert seen["pairs"] == {
        1: sorted(2 * pairs, key=repr),
        2: 2 * pairs[:1],
        3: [("a", 13, "z", 12, "y"), ("a", 13, "z", 12, "y"), ("a", 13, "z", 13, "no")],
    }


FEW: tuple[Given, Given] = (
    [[("a", 10, "x"), (None, 11, "x")], [("a", 12, "y")], [("b", 9, "z")], [("a", 30, "w"), ("b", 31, "")]],
    [[("a", 9, "x")], [("b", 13, "y"), ("a", 14, "y")], [("a", 12, "z"), ("a", 2, "late")], [("b", 32, "w")]],
)


@pytest.mark.slow
def test_nothing_is_lost_or_doubled_if_every_batch_is_killed(tmp_path: Path) -> None:
    seen = run_with_kills(program(*FEW, -3, 4), tmp_path, range(1, 5), {1, 2, 3, 4})
    compared(seen, *FEW, (-3, 4))


@pytest.mark.slow
def test_rows_of_a_stream_come_in_batches_that_the_other_one_skips(tmp_path: Path) -> None:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        left, right = (timed(ssc, rows, side) for rows, side in zip(FEW, "lr", strict=True))
        times = {"timestamp": "l_at", "other_timestamp": "r_at", "lateness": f"{LATENESS}s"}
        joined = join_within(left.window("2s", "2s"), right, "k", "-3s", "4s", **times)
        return {
            "pairs": joined.select("k", "l_second", "l", "r_second", "r"),
            "unmatched": joined.unmatched().select("k", "l_second", "l"),
            "other unmatched": joined.other_unmatched().select("k", "r_second", "r"),
        }

    left, right = FEW
    in_windows = {1: [], 2: [*left[0], *left[1]], 3: [], 4: [*left[2], *left[3]]}  # type: ignore[misc]
    wanted = expected(in_windows, dict(enumerate(right, 1)), -3, 4)  # type: ignore[arg-type]
    seen = run_ticks(build, tmp_path, range(1, 5))
    assert seen == {name: wanted[name] for name in seen}
    assert sum(map(len, seen["pairs"].values())) == 8


@pytest.mark.slow
def test_a_stream_joins_itself_with_rows_of_any_type_and_columns_of_any_name(tmp_path: Path) -> None:
    rows = [[("a", 1), (None, 1)], [("a", 3), ("a", 30)]]

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        n = F.coalesce("second", F.lit(0))
        lines = given_rows(ssc, rows, "k string, second int").select(
            F.col("k").alias("key.`1"),
            F.timestamp_seconds("second").alias("__at"),
            F.create_map(F.lit("n"), n).alias("a.b"),
            F.struct(n, F.struct(F.array(n), F.create_map(n, F.struct(n)))).alias("tick`tock"),
            F.encode(n.cast("string"), "utf-8").alias("with space"),
            F.parse_json(F.lit('{"v": 1}')).alias("start"),
            n.alias("__left"),
        )
        renamed = lines.select(
            quoted("key.`1"), *(F.col(quoted(name)).alias(f"then {name}") for name in lines.columns if name != "key.`1")
        )
        joined = join_within(
            lines, renamed, ["key.`1"], "-2s", 0, timestamp="__at", other_timestamp=quoted("then __at")
        )
        assert joined.columns == [*lines.columns, *renamed.columns[1:]]
        assert joined.unmatched().columns == lines.columns
        assert joined.other_unmatched().columns == renamed.columns
        one = F.to_json(F.struct(*map(quoted, lines.columns[1:])))
        other = F.to_json(F.struct(*map(quoted, renamed.columns[1:])))
        return {
            "in": lines.select("__left", one),
            "out": joined.select("__left", quoted("then __left"), one, F.replace(other, F.lit("then "), F.lit(""))),
        }

    seen = run_ticks(build, tmp_path, [1, 2])
    of = {second: text for second, text in seen["in"][1] + seen["in"][2]}
    pairs = {1: [(1, 1)], 2: [(3, 1), (3, 3), (30, 30)]}
    assert seen["out"] == {
        n: sorted(((one, other, of[one], of[other]) for one, other in found), key=repr) for n, found in pairs.items()
    }


@pytest.mark.slow
def test_the_state_holds_what_can_still_find_a_partner_and_two_joins_have_states_of_their_own(tmp_path: Path) -> None:
    seconds = 6
    left = [[("a", 10 * n + i, "x") for i in range(10)] for n in range(1, seconds + 1)]
    right = [[("a", 10 * n + i, "y") for i in range(0, 10, 5)] for n in range(1, seconds + 1)]
    times = {"timestamp": "l_at", "other_timestamp": "r_at", "lateness": f"{LATENESS}s"}

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        one, other = timed(ssc, left, "l"), timed(ssc, right, "r")
        ago = join_within(one, other, "k", "-4s", "-1s", **times)
        later = join_within(one, other, "k", "1s", "4s", **times, name="later")
        return {"ago": ago.select("l_second", "r_second"), "later": later.select("l_second", "r_second")}

    with job(build, tmp_path, seen := {}) as engine:
        for second in range(1, seconds + 1):
            engine.tick(1000 * second)
        last = engine.graph.context(engine.graph.log.last)
        kept = {name: engine.graph.states[name].retained(last).count() for name in ("join", "later")}
    end = 10 * seconds
    marks = end + 9 - LATENESS, end + 5 - LATENESS
    for name, lower, upper in (("join", -4, -1), ("later", 1, 4)):
        rows = [at for batch in left for _, at, _ in batch if at + upper >= marks[1]]
        others = [at for batch in right for _, at, _ in batch if at - lower >= marks[0]]
        assert kept[name] == len(rows) + len(others)
        assert kept[name] < 20
    for name, lower, upper in (("ago", -4, -1), ("later", 1, 4)):
        found = [pair for of in seen[name].values() for pair in of]
        ats, other_ats = ([at for batch in rows for _, at, _ in batch] for rows in (left, right))
        assert sorted(found) == sorted((a, b) for a in ats for b in other_ats if a + lower <= b <= a + upper)


Change = Callable[[FrameStream], FrameStream]
REFUSED: dict[str, tuple[Change, dict[str, Any], str]] = {
    "bounds in the wrong order": (
        lambda s: s,
        {"lower": "2s", "upper": "-1s"},
        "got lower='2s' and upper='-1s', expected lower <= upper: exchange them",
    ),
    "an invalid bound": (lambda s: s, {"lower": "--2s"}, "invalid duration '--2s'"),
    "a negative lateness": (lambda s: s, {"lateness": "-1s"}, "invalid duration '-1s'"),
    "a column of both": (
        lambda s: s.select("k", "r_at", F.col("r").alias("L")),
        {},
        "both streams have a column `L`: rename it",
    ),
    "keys of two types": (
        lambda s: s.select("r_at", F.lit(1).alias("k")),
        {},
        "got the key k as string and int, expected one type",
    ),
    "a column that no state can hold": (
        lambda s: s.select("*", F.make_interval().alias("span")),
        {},
        "got the column span interval, which no state can hold",
    ),
    "a key that one of them lacks": (lambda s: s, {"keys": "l"}, "got the key l as string and no column"),
    "a key named like a column of the state": (lambda s: s, {"keys": "__at"}, "named __at"),
    "a column that is not a timestamp": (lambda s: s, {"other_timestamp": "r"}, "unix_micros"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_start_refuses(what: str, tmp_path: Path) -> None:
    change, changed, message = REFUSED[what]
    given = {"keys": "k", "lower": 0, "upper": 1, "timestamp": "l_at", "other_timestamp": "r_at", **changed}
    with pytest.raises(UsageError, match=message):
        run_ticks(
            lambda ssc: {"out": join_within(timed(ssc, [], "l"), change(timed(ssc, [], "r")), **given)}, tmp_path, []
        )


def test_two_without_names_are_refused(tmp_path: Path) -> None:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        sides = timed(ssc, [], "l"), timed(ssc, [], "r")
        return {n: join_within(*sides, "k", 0, 1, timestamp="l_at", other_timestamp="r_at") for n in ("one", "two")}

    with pytest.raises(UsageError, match="two states are named 'join'"):
        run_ticks(build, tmp_path, [])
