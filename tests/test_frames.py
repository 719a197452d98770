"""FrameStream: its operations match DStream's, and its windows and states are exact after any restart."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from operator import add, sub
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F
from pyspark.streaming import DStream, StreamingContext

import sparkstream_kit as ss
from sparkstream_kit import aggregates as agg
from sparkstream_kit.columns import quoted
from sparkstream_kit.engine import batches
from sparkstream_kit.errors import UsageError
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.testing import local_session, run_batches
from tests.support.ticks import Build, Given, few, job, planned, run_ticks, run_with_kills
from tests.support.ticks import given as given_rows

pytestmark = pytest.mark.usefixtures("spark")

# --- each operation next to DStream's

LEFT = [[("a", 1), ("a", 2), ("b", 3), ("b", 3)], [("c", 4)], []]
RIGHT = [[("a", "x"), ("d", "y")], [], []]
NAMES = [("a", "first"), ("c", "third")]

Frames = Callable[[FrameStream, FrameStream], FrameStream]
Pairs = Callable[[DStream[Any], DStream[Any]], DStream[Any]]


def counted(values: list[int], total: int | None) -> int | None:
    """An update function like aggregates.count and sum, in one number."""
    return sum(values) + (total or 0)


def counted_below_6(values: list[int], total: int | None) -> int | None:
    """The same, but a key whose sum reaches 6 is dropped."""
    total = sum(values) + (total or 0)
    return total if total < 6 else None


def counted_rows(rows: list[Row], state: Row | None) -> tuple[int] | None:
    total = counted_below_6([row.v for row in rows], state and state.sum)
    return None if total is None else (total,)


def names() -> DataFrame:
    return local_session().createDataFrame(NAMES, "k string, name string")


# operation -> (on frames, on DStreams of pairs, whose elements are flattened like rows)
OPERATIONS: dict[str, tuple[Frames, Pairs]] = {
    "map": (
        lambda s, t: s.select(F.upper("k"), F.col("v") + 1),
        lambda s, t: s.map(lambda p: (p[0].upper(), p[1] + 1)),
    ),
    "map in Python": (
        lambda s, t: s.map_python(lambda row: (row.k * row.v,), "x string"),
        lambda s, t: s.map(lambda p: (p[0] * p[1],)),
    ),
    "filter": (lambda s, t: s.filter("v % 2 = 1"), lambda s, t: s.filter(lambda p: p[1] % 2 == 1)),
    "flatMap": (
        lambda s, t: s.flat_map(F.array_repeat("k", F.col("v").cast("int")), "k"),
        lambda s, t: s.flatMap(lambda p: [(p[0],)] * p[1]),
    ),
    "count": (lambda s, t: s.count(), lambda s, t: s.count().map(lambda n: (n,))),
    "countByValue": (lambda s, t: s.count_by_value(), lambda s, t: s.countByValue().map(lambda p: (*p[0], p[1]))),
    "reduceByKey": (
        lambda s, t: s.reduce_by_key("k", {"sum": agg.sum("v"), "max": agg.max("v")}),
        lambda s, t: (
            s.mapValues(lambda v: (v, v))
            .reduceByKey(lambda a, b: (a[0] + b[0], max(a[1], b[1])))
            .map(lambda p: (p[0], *p[1]))
        ),
    ),
    "groupByKey": (
        lambda s, t: s.group_by_key("k").select("k", F.array_sort("values.v")),
        lambda s, t: s.groupByKey().mapValues(sorted),
    ),
    "union": (lambda s, t: s.union(s.filter("v > 2")), lambda s, t: s.union(s.filter(lambda p: p[1] > 2))),
    "join": (lambda s, t: s.join(t, "k"), lambda s, t: s.join(t).map(lambda p: (p[0], *p[1]))),
    "leftOuterJoin": (
        lambda s, t: s.join(t, "k", "left"),
        lambda s, t: s.leftOuterJoin(t).map(lambda p: (p[0], *p[1])),
    ),
    "rightOuterJoin": (
        lambda s, t: s.join(t, "k", "right"),
        lambda s, t: s.rightOuterJoin(t).map(lambda p: (p[0], *p[1])),
    ),
    "fullOuterJoin": (
        lambda s, t: s.join(t, "k", "full"),
        lambda s, t: s.fullOuterJoin(t).map(lambda p: (p[0], *p[1])),
    ),
    "join with a static frame": (
        lambda s, t: s.join(names(), "k", "left"),
        lambda s, t: s.map(lambda p: (*p, dict(NAMES).get(p[0]))),
    ),
    "cogroup": (
        lambda s, t: s.cogroup(t, "k").select("k", F.array_sort("left.v"), F.array_sort("right.w")),
        lambda s, t: s.cogroup(t).map(lambda p: (p[0], sorted(p[1][0]), sorted(p[1][1]))),
    ),
    "transform": (
        lambda s, t: s.transform(lambda frame: frame.distinct()),
        lambda s, t: s.transform(lambda rdd: rdd.distinct()),
    ),
    "repartition": (
        lambda s, t: s.repartition(3).transform(
            lambda frame: frame.withColumn("in", F.lit(frame.rdd.getNumPartitions()))
        ),
        lambda s, t: s.repartition(3).map(lambda p: (*p, 3)),
    ),
    "several streams in SQL": (
        lambda s, t: s.sql("select batch.k, w from batch join other on batch.k = other.k", other=t),
        lambda s, t: s.join(t).map(lambda p: (p[0], p[1][1])),
    ),
    "window": (lambda s, t: s.window("2s"), lambda s, t: s.window(2)),
    "countByWindow": (
        lambda s, t: s.count_by_window("2s", "1s"),
        lambda s, t: s.window(2).count().map(lambda n: (n,)),
    ),
    "reduceByWindow": (
        lambda s, t: s.reduce_by_window({"v": agg.max("v")}, "2s", "1s").filter("v is not null"),
        lambda s, t: s.map(lambda p: p[1]).reduceByWindow(max, None, 2, 1).map(lambda v: (v,)),
    ),
    "countByValueAndWindow": (
        lambda s, t: s.count_by_value_and_window("2s", "1s"),
        lambda s, t: s.window(2).countByValue().map(lambda p: (*p[0], p[1])),
    ),
    "updateStateByKey": (
        lambda s, t: s.update_state_by_key("k", {"v": agg.sum("v")}),
        lambda s, t: s.updateStateByKey(counted),
    ),
    "updateStateByKey with an initial state": (
        lambda s, t: s.update_state_by_key(
            "k",
            {"v": agg.sum("v")},
            initial=local_session().createDataFrame([("z", 7)], "k string, v bigint"),
            name="with initial rows",
        ),
        lambda s, t: s.updateStateByKey(counted, initialRDD=s.context().sparkContext.parallelize([("z", 7)])),
    ),
    "updateStateByKey with a function, which drops a key": (
        lambda s, t: s.update_state_by_key_python("k", counted_rows, "sum bigint", name="in Python"),
        lambda s, t: s.updateStateByKey(counted_below_6),
    ),
}


@pytest.fixture(scope="module")
def both() -> dict[tuple[str, str], list[Any]]:
    """Every operation on frames and on DStreams, over the same batches in one run."""

    def build(left: DStream[Any], right: DStream[Any]) -> dict[tuple[str, str], Any]:
        s = given_rows(left.context(), LEFT, "k string, v bigint", "left")
        t = given_rows(left.context(), RIGHT, "k string, w string", "right")
        frames = {("frames", name): on_frames(s, t) for name, (on_frames, _) in OPERATIONS.items()}
        return frames | {("DStreams", name): on_pairs(left, right) for name, (_, on_pairs) in OPERATIONS.items()}

    return run_batches(build, LEFT, RIGHT)


def in_any_order(batch: Sequence[Sequence[Any]] | None) -> list[tuple[Any, ...]] | None:
    return None if batch is None else sorted(map(tuple, batch), key=repr)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_yields_the_same_as_the_dstream_operation(
    name: str, both: dict[tuple[str, str], list[Any]]
) -> None:
    frames, dstreams = (list(map(in_any_order, both[layer, name])) for layer in ("frames", "DStreams"))
    assert frames == dstreams
    assert any(dstreams)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["count", "window", "updateStateByKey"])
def test_a_frame_stream_differs_from_its_dstream_only_when_nothing_arrives_and_no_window_slides(name: str) -> None:
    on_frames, on_pairs = OPERATIONS[name]
    batches_ = [LEFT[0], [], LEFT[1], [], [], []]
    frames, dstreams = run_batches(
        lambda s: (on_frames(FrameStream.of(s, "k string, v bigint"), None), on_pairs(s, None)),  # type: ignore[arg-type]
        batches_,
    )
    idle = [frame is None for frame in frames]
    assert idle == ([False] * 5 + [True] if name == "window" else [not batch for batch in batches_])
    assert [in_any_order(x) for x, skip in zip(frames, idle, strict=True) if not skip] == [
        in_any_order(x) for x, skip in zip(dstreams, idle, strict=True) if not skip
    ]


def test_the_function_of_transform_is_called_in_every_batch(tmp_path: Path) -> None:
    called = []

    def note(frame: DataFrame) -> DataFrame:
        called.append(len(called))
        return frame.filter(F.lit(len(called) > 2))

    seen = run_ticks(
        lambda ssc: {"kept": given_rows(ssc, LEFT, "k string, v bigint").transform(note)}, tmp_path, [1, 2]
    )
    assert len(called) == 3  # once at the start, on the empty frame
    assert seen == {"kept": {1: [], 2: LEFT[1]}}


# --- windows next to DStream's, on any batches

BATCHES = st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-3, 3)), max_size=3), min_size=2, max_size=6)


@pytest.mark.slow
@few(4)
@given(rows=BATCHES, window=st.integers(1, 4), slide=st.integers(1, 3))
def test_windows_of_any_length_and_slide_yield_the_same_as_those_of_dstreams(
    rows: list[list[tuple[str, int]]], window: int, slide: int
) -> None:
    spans = f"{window}s", f"{slide}s"

    def build(pairs: DStream[Any]) -> dict[str, Any]:
        s = given_rows(pairs.context(), rows, "k string, v bigint")
        counts = pairs.mapValues(lambda v: (1, v)).reduceByKeyAndWindow(
            lambda a, b: tuple(map(add, a, b)),
            lambda a, b: tuple(map(sub, a, b)),
            window,
            slide,
            filterFunc=lambda p: p[1][0] > 0,
        )
        largest = pairs.reduceByKeyAndWindow(max, None, window, slide)
        return {
            "counts": s.reduce_by_key_and_window("k", {"n": agg.count(), "sum": agg.sum("v")}, *spans),
            "counts of DStreams": counts.map(lambda p: (p[0], *p[1])),
            "largest": s.reduce_by_key_and_window("k", {"max": agg.max("v")}, *spans),
            "largest of DStreams": largest,
            "rows": s.window(*spans),
            "rows of DStreams": pairs.window(window, slide),
        }

    seen = run_batches(build, rows)
    for name in ("counts", "largest", "rows"):
        assert list(map(in_any_order, seen[name])) == list(map(in_any_order, seen[f"{name} of DStreams"]))


# --- everything that looks back, against plain Python, across any restarts

TICKS = st.lists(
    st.none() | st.lists(st.tuples(st.sampled_from("ab"), st.integers(-3, 3)), max_size=3), min_size=3, max_size=9
)
SCHEMA = "k string, v bigint"


def looking_back(rows: Given) -> Build:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        s = given_rows(ssc, rows, SCHEMA)
        seen = s.update_state_by_key("k", {"n": agg.count()}, expire_after="2s", name="seen")
        return {
            "sums": s.reduce_by_key_and_window("k", {"sum": agg.sum("v")}, "3s", "2s"),
            "largest": s.reduce_by_key_and_window("k", {"max": agg.max("v")}, "3s"),
            "totals": s.update_state_by_key("k", {"sum": agg.sum("v")}),
            "present": seen,
            "expired": seen.expired(),
        }

    return build


def by_key(rows: Sequence[tuple[str, int]], reduce: Callable[[list[int]], int]) -> list[tuple[str, int]]:
    return [(k, reduce([v for key, v in rows if key == k])) for k in sorted({k for k, _ in rows})]


def in_plain_python(came: dict[int, list[Any]], second: int) -> dict[str, list[Any] | None]:
    """What the batch of a second yields, from the rows of all batches, by the second at which they were recorded."""
    recorded = [n for n in came if n <= second]

    def between(after: int, until: int) -> list[tuple[str, int]]:
        return [row for n in recorded if after < n <= until for row in came[n]]

    lives: dict[str, tuple[int, int]] = {}  # key -> rows, last seen
    gone: list[tuple[str, int]] = []
    for now in recorded:
        gone = []
        for k, v in by_key(came[now], len):
            lives[k] = (lives.get(k, (0, 0))[0] + v, now)
        for k in [k for k, (_, last) in lives.items() if last <= now - 2]:
            gone.append((k, lives.pop(k)[0]))
    fires = second // 2 > (recorded[-2] if len(recorded) > 1 else second - 1) // 2
    return {
        "sums": by_key(between(second - 3, second), sum) if fires else None,
        "largest": by_key(between(second - 3, second), max),
        "totals": by_key(between(0, second), sum),
        "present": sorted((k, n) for k, (n, _) in lives.items()),
        "expired": sorted(gone),
    }


@pytest.mark.slow
@few(4)
@given(rows=TICKS, kills=st.sets(st.integers(1, 9), max_size=3))
def test_windows_states_and_expiry_are_exact_across_any_kills(
    rows: Given, kills: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    seen = run_with_kills(looking_back(rows), tmp_path_factory.mktemp("home"), range(1, len(rows) + 4), kills)
    came = planned(rows, sorted(seen.get("totals", {})))
    for second in came:
        expected = in_plain_python(came, second)
        assert {name: seen[name].get(second) for name in expected} == expected
    assert sum(map(len, came.values())) == sum(len(batch or ()) for batch in rows)
    if came:  # three seconds after the last batch all windows are empty
        assert [seen[name][max(seen[name])] for name in ("sums", "largest")] == [[], []]


@pytest.fixture(autouse=True)
def frequent_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 2)


def test_a_window_may_look_back_over_windows(tmp_path: Path) -> None:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        s = given_rows(ssc, [[("a", 1)], [("a", 2)], [("a", 3)]], SCHEMA)
        sums = s.reduce_by_key_and_window("k", {"v": agg.sum("v")}, "2s")
        largest = s.reduce_by_key_and_window("k", {"v": agg.max("v")}, "2s")
        return {"sums": sums.window("2s"), "largest": largest.reduce_by_key_and_window("k", {"v": agg.min("v")}, "2s")}

    seen = run_ticks(build, tmp_path, [1, 2, 3])
    assert seen["sums"] == {1: [("a", 1)], 2: [("a", 1), ("a", 3)], 3: [("a", 3), ("a", 5)]}
    assert seen["largest"] == {1: [("a", 1)], 2: [("a", 1)], 3: [("a", 2)]}


def test_sums_of_decimals_keep_their_type_so_that_snapshots_still_fit(tmp_path: Path) -> None:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        s = given_rows(ssc, [[("0.10",)]] * 4, "v string").select(F.col("v").cast("decimal(4,2)").alias("v"))
        return {"total": s.update_state_by_key([], {"v": agg.sum("v")}, name="total")}

    seen = run_ticks(build, tmp_path, [1, 2])
    assert run_ticks(build, tmp_path, [3, 4], seen)["total"][4] == [(Decimal("0.40"),)]


def test_rows_of_an_initial_state_expire_as_if_they_had_arrived_just_before(tmp_path: Path) -> None:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        before = local_session().createDataFrame([("z", 0)], SCHEMA)
        s = given_rows(ssc, [*[None] * 9, [("a", 1)], [("a", 1)], [("a", 1)]], SCHEMA)
        state = s.update_state_by_key("k", {"n": agg.count()}, expire_after="2s", initial=before)
        return {"present": state, "expired": state.expired()}

    seen = run_ticks(build, tmp_path, range(1, 13))
    assert seen["present"] == {10: [("a", 1), ("z", 1)], 11: [("a", 2), ("z", 1)], 12: [("a", 3)]}
    assert seen["expired"] == {10: [], 11: [], 12: [("z", 1)]}


@pytest.mark.parametrize(
    ("kind", "initial", "total"),
    [
        ("double", "bigint", -4.0),
        ("decimal(20,4)", "bigint", Decimal("-4.0000")),
        ("bigint", "int", -4),
        ("int", "bigint", -4),
        ("int", "double", -4),
        ("double", "decimal(10,2)", -4.0),
    ],
)
def test_an_initial_state_takes_the_types_of_the_stream(kind: str, initial: str, total: Any, tmp_path: Path) -> None:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        before = local_session().sql(f"select cast('7' as {initial}) as k, cast('-5' as {initial}) as v")
        s = given_rows(ssc, [[("7", "1")], [("8", "2")]], "k string, v string")
        s = s.select(*(F.col(c).cast(kind).alias(c) for c in ("k", "v")))
        values = {"sum": agg.sum("v"), "mean": agg.mean("v"), "least": agg.min("v")}
        return {"totals": s.update_state_by_key("k", values, initial=before, name="totals")}

    seen: dict[str, dict[int, list[Any]]] = {}
    with job(build, tmp_path, seen) as engine:
        engine.tick(1000)
        engine.close()
    run_ticks(build, tmp_path, [2], seen)
    one = type(total)
    assert seen["totals"] == {1: [(7, total, -2.0, -5)], 2: [(7, total, -2.0, -5), (8, one(2), 2.0, 2)]}


@pytest.mark.parametrize(
    ("kind", "initial", "got"),
    [
        ("int", "8589934592", "bigint"),
        ("int", "cast(1.5 as double)", "double"),
        ("double", "9007199254740993", "bigint"),
        ("struct<x:int,y:int>", "named_struct('y', 1, 'x', 2)", "struct<y:int,x:int>"),
        ("int", "date'2024-01-01'", "date"),
    ],
)
def test_an_initial_state_whose_values_do_not_fit_the_stream_is_refused(
    kind: str, initial: str, got: str, tmp_path: Path
) -> None:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        before = local_session().sql(f"select 'a' as k, {initial} as V")
        s = given_rows(ssc, [], f"k string, v {kind}")
        return {"state": s.update_state_by_key("k", {"n": agg.count()}, initial=before)}

    message = f"got initial with V: {got}, expected {kind} as in the stream: cast or drop the column"
    with pytest.raises(UsageError, match=re.escape(message)):
        run_ticks(build, tmp_path, [])


# --- names and values that are easily confused


def with_odd_names(stream: FrameStream, key: str, value: str, column: str = "") -> dict[str, FrameStream]:
    """Each operation by key, for a key and a value of these names, and with the key's column named otherwise."""
    rows = stream.select(F.col("k").alias(column or key), F.col("v").alias(value), F.timestamp_seconds("v").alias("at"))
    sums = {"n": agg.count(), "total": agg.sum(value), "first": agg.min_by(value, by=value)}
    closed = ss.transforms.event_time_window(rows, [key], "at", sums, "2s", lateness="1s")
    return {
        "reduced": rows.reduce_by_key([key], sums),
        "grouped": rows.group_by_key([key]),
        "cogrouped": rows.cogroup(rows, [key]).transform(lambda frame: frame.withColumn("left", F.size("left"))),
        "windowed": rows.reduce_by_key_and_window([key], sums, "2s"),
        "not invertible": rows.reduce_by_key_and_window([key], {"most": agg.max(value)}, "2s"),
        "state": rows.update_state_by_key([key], sums, name="state", expire_after="2s"),
        "python": rows.update_state_by_key_python(
            [key], lambda new, old: (len(new) + (old.n if old else 0),), "n int", name="python"
        ),
        "alerts": ss.transforms.threshold(rows, [key], agg.sum(value), above=1).select(quoted(key), "actual"),
        "rates": ss.transforms.rate_of_change(rows, [key], agg.sum(value), limit=0, per="1s").select(quoted(key)),
        "closed": closed,
        "late": closed.late(),
        "sessions": ss.transforms.sessions(rows, [key], "at", sums, gap="1s", lateness="1s"),
        "once": ss.transforms.drop_duplicates(rows, [key], "at", within="1s", lateness="1s"),
        "joined": ss.transforms.join_within(
            rows,
            rows.select(quoted(key), F.col("at").alias("then")),
            [key],
            "-1s",
            "1s",
            timestamp="at",
            other_timestamp="then",
            lateness="1s",
        ),
        "enriched": ss.transforms.enrich(rows, lambda: local_session().createDataFrame([("a", 7)], [key, "w"]), [key]),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        ("a.b", "v"),
        ("tick`tock", "x.y"),
        ("with space", "sum(v)"),
        ("K,l", "$"),
        ("K", "v", "k"),  # the column in another case, as SQL finds it
    ],
    ids=str,
)
def test_a_column_of_any_name_can_be_a_key_and_be_aggregated(names: tuple[str, ...], tmp_path: Path) -> None:
    rows = [[("a", 1), (None, 2)], [("a", 5), ("b", 2), (None, 2)], [("b", 9)]]
    plain, odd = (
        run_ticks(
            lambda ssc: with_odd_names(given_rows(ssc, rows, "k string, v bigint"), *names),  # noqa: B023 - called at once
            tmp_path / directory,
            [1, 2, 3],
        )
        for directory, names in (("plain", ("k", "v")), ("odd", names))
    )
    assert odd == plain


def test_cogroup_keeps_null_keys_together_as_dstreams_do() -> None:
    left, right = [[(None, 1), ("a", 2)]], [[(None, 3), ("b", 4)]]

    def build(a: DStream[Any], b: DStream[Any]) -> FrameStream:
        one, other = (FrameStream.of(s, "k string, v int", name=name) for s, name in ((a, "a"), (b, "b")))
        both = one.cogroup(other, "k")
        return both.select("k", F.col("left.v").alias("left"), F.col("right.v").alias("right"))

    def plain(a: DStream[Any], b: DStream[Any]) -> DStream[Any]:
        return a.cogroup(b).map(lambda pair: (pair[0], list(pair[1][0]), list(pair[1][1])))

    [frames], [pairs] = run_batches(build, left, right), run_batches(plain, left, right)
    assert (
        sorted(map(tuple, frames), key=repr)
        == sorted(pairs, key=repr)
        == [
            ("a", [2], []),
            ("b", [], [4]),
            (None, [1], [3]),
        ]
    )


# --- what the start refuses

COUNT = {"n": agg.count()}


def named_like(s: FrameStream, name: str) -> FrameStream:
    return s.select(F.col("k").alias(name), F.timestamp_seconds("v").alias("at"))


REFUSED: dict[str, tuple[Callable[[FrameStream], FrameStream], str]] = {
    "a missing column": (lambda s: s.select("nope"), "output 'out' cannot work: .*nope"),
    "a column that a step has dropped": (lambda s: s.select("k").select("v"), "output 'out' cannot work: .*`v`"),
    "the clock": (
        lambda s: s.transform(lambda frame: frame.withColumn("now", F.current_timestamp())),
        "the job uses current_timestamp or its like, which changes when a batch runs again: take the recorded time",
    ),
    "the date, before a window": (
        lambda s: s.select(F.current_date().alias("k")).count_by_value_and_window("2s"),
        "the job uses current_timestamp or its like, which",
    ),
    "the clock in a query": (
        lambda s: s.sql("select now() as t, * from batch"),
        "the job uses current_timestamp or its like, which",
    ),
    "the clock, before a state": (
        lambda s: s.select(F.unix_timestamp().alias("k")).update_state_by_key("k", {"n": agg.count()}),
        "the job uses current_timestamp or its like, which",
    ),
    "a missing column in a query": (lambda s: s.sql("select nope from batch"), "output 'out' cannot work: .*nope"),
    "a column of the wrong type": (lambda s: s.flat_map(F.col("v"), "x"), "output 'out' cannot work: .*BIGINT"),
    "an aggregate of the wrong type": (
        lambda s: s.reduce_by_key("k", {"n": agg.sum("of")}),
        "output 'out' cannot work: .*ARRAY",
    ),
    "a union of streams with different columns": (lambda s: s.union(s.select("k")), "output 'out' cannot work: .*"),
    "a missing key of a window": (
        lambda s: s.reduce_by_key_and_window("nope", {"n": agg.count()}, "2s"),
        "output 'out' cannot work: .*nope",
    ),
    "a missing column before counting by value": (
        lambda s: s.select("nope").count_by_value(),
        "a step of the job cannot work: .*nope",
    ),
    "a transform that does not return a DataFrame": (
        lambda s: s.transform(lambda frame: frame.count()),  # type: ignore[arg-type,return-value]
        "given to transform returned int, expected a DataFrame",
    ),
    "a window that is not a multiple of the interval": (
        lambda s: s.window("1500ms"),
        "window 1500ms is not a multiple",
    ),
    "a window over a state": (
        lambda s: s.update_state_by_key("k", {"n": agg.count()}).filter("n > 1").window("2s"),
        "a window over a state cannot be rebuilt",
    ),
    "a key named like a column that windows add": (
        lambda s: ss.transforms.event_time_window(named_like(s, "Start"), "Start", "at", COUNT, "1min", lateness="1s"),
        "got a key or aggregate named Start, expected a name other than start, end: rename it",
    ),
    "an aggregate named like a column that windows add": (
        lambda s: ss.transforms.event_time_window(
            named_like(s, "k"), [], "at", {"end": agg.max("at")}, "1min", lateness="1s"
        ),
        "got a key or aggregate named end, expected a name other than start, end: rename it",
    ),
    "a key named like a column that sessions add": (
        lambda s: ss.transforms.sessions(named_like(s, "start"), "start", "at", COUNT),
        "got a key or aggregate named start, expected a name other than start, end: rename it",
    ),
    "a key named like a column that alerts add": (
        lambda s: ss.transforms.threshold(named_like(s, "time"), "time", agg.count(), above=1),
        "got a key or aggregate named time, expected a name other than time, since, expected, actual: rename it",
    ),
    "a key named like the collected values": (
        lambda s: named_like(s, "values").group_by_key("values"),
        "got a key or aggregate named values, expected a name other than values: rename it",
    ),
    "a key named like one of the sides": (
        lambda s: named_like(s, "right").cogroup(named_like(s, "right"), "right"),
        "got a key or aggregate named right, expected a name other than left, right, values: rename it",
    ),
    "a column named like the count of values": (
        lambda s: named_like(s, "Count").count_by_value(),
        "got a key or aggregate named Count, expected a name other than count: rename it",
    ),
    "a column named like the count of values in a window": (
        lambda s: named_like(s, "count").count_by_value_and_window("2s"),
        "got a key or aggregate named count, expected a name other than count: rename it",
    ),
    "a key named like what a window keeps": (
        lambda s: named_like(s, "__n").reduce_by_key_and_window("__n", COUNT, "2s"),
        "got a key or aggregate named __n, expected a name other than __n, __rows: rename it",
    ),
    "a key named like what expiry keeps": (
        lambda s: named_like(s, "__time").update_state_by_key("__time", COUNT, expire_after="2s"),
        "got a key or aggregate named __time, expected a name other than __seen, __time: rename it",
    ),
    "a key and an aggregate of the same name": (
        lambda s: s.update_state_by_key("k", {"K": agg.count()}),
        "got the columns k and K, expected names that differ: rename or drop one",
    ),
    "two states with the same name": (
        lambda s: s.update_state_by_key("k", {}, name="x").union(s.update_state_by_key("k", {}, name="x")),
        "two states are named 'x'",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_start_refuses(what: str, tmp_path: Path) -> None:
    define, message = REFUSED[what]
    with pytest.raises(UsageError, match=message):
        run_ticks(
            lambda ssc: {"out": define(given_rows(ssc, [], "k string, v bigint, of array<string>"))}, tmp_path, []
        )


@pytest.mark.parametrize("kind", ["json", "parquet", "text", "sql", "webhook"])
def test_columns_of_the_same_name_are_refused_at_the_start(kind: str, tmp_path: Path) -> None:
    where = {"sql": f"sqlite:///{tmp_path}/rows.db", "webhook": "http://127.0.0.1:1/"}.get(kind, str(tmp_path / "out"))

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        rows = given_rows(ssc, [[("a", 1)]], SCHEMA).select("k", F.col("v").alias("K"))
        getattr(ss.outputs, kind)(rows, where)
        return {}

    with pytest.raises(UsageError, match="got the columns k and K, expected names that differ: rename or drop one"):
        run_ticks(build, tmp_path / "home", [])


def test_two_outputs_or_sources_with_the_same_name_are_refused(tmp_path: Path) -> None:
    def two_outputs(ssc: StreamingContext) -> dict[str, FrameStream]:
        rows = given_rows(ssc, [], SCHEMA)
        rows.for_each_rdd(print, name="out")
        return {"out": rows}

    with pytest.raises(UsageError, match="two outputs are named 'out'"):
        run_ticks(two_outputs, tmp_path, [])
    with pytest.raises(UsageError, match="two sources are named 'rows'"):
        run_ticks(lambda ssc: {"out": given_rows(ssc, [], SCHEMA).union(given_rows(ssc, [], SCHEMA))}, tmp_path, [])
