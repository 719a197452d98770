"""Every aggregate and every operation that looks back, over columns of all types, through every kind of restart.

What is expected is computed in plain Python from the rows of the batches as they were recorded. A run takes a share of
the cases by rotation, `scripts/faults` takes them all.
"""

from __future__ import annotations

import inspect
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pyspark.sql import Column, Row
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, LongType, StringType, StructField, StructType
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit import aggregates as agg
from sparkstream_kit.aggregates import Aggregate, Aggregates
from sparkstream_kit.engine import batches
from sparkstream_kit.frames import FrameStream, StateStream
from sparkstream_kit.testing import local_session
from tests.support import rotation
from tests.support.ticks import Build, Given, Seen, given, job, planned, run_ticks, run_with_kills

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("spark")]


class Line(NamedTuple):
    """A row: its key, its event time in seconds, and a number from which the columns of all types are made."""

    k: str | None
    s: int
    v: int | None


class Arrived(NamedTuple):
    """A row and the recorded second of its batch."""

    batch: int
    line: Line


SCHEMA = "k string, s int, v int"
ROWS: Given = [
    [("a", 11, 3), ("a", 10, 5), ("b", 12, None), (None, 11, 2)],
    [("a", 13, 3), ("b", 10, 7)],
    None,
    [("a", 17, None), ("b", 14, 1), ("b", 9, 4)],  # the last one is late
    [("a", 18, 6), (None, 16, 2), ("c", 18, 0)],
    None,
    [("b", 26, 7), ("a", 11, 9), ("d", 25, 1)],  # the second one is late
]
SECONDS = range(1, len(ROWS) + 1)
LATENESS, GAP, LENGTH = 3, 3, 4  # seconds


def at(second: int) -> datetime:
    """A timestamp as `collect` returns it: local, without a zone."""
    return datetime.fromtimestamp(second, timezone.utc).astimezone().replace(tzinfo=None)


# --- columns of all types, each in a nullable form and one that cannot be null


class Kind(NamedTuple):
    """A type: how a column of it is made of `v`, and the same in Python."""

    column: Callable[[Column], Column]
    value: Callable[[int], Any]


TYPES: dict[str, Kind] = {
    "int": Kind(lambda v: v, lambda v: v),
    "bigint": Kind(lambda v: v.cast("bigint") * F.lit(10**12), lambda v: v * 10**12),
    "string": Kind(lambda v: F.concat(F.lit("s"), v.cast("string")), lambda v: f"s{v}"),
    "double": Kind(lambda v: v * F.lit(0.25), lambda v: v * 0.25),
    "decimal": Kind(lambda v: v.cast("decimal(10,0)"), Decimal),
    "timestamp": Kind(F.timestamp_seconds, at),
    "array": Kind(lambda v: F.array(v, v + F.lit(1)), lambda v: [v, v + 1]),
    "struct": Kind(lambda v: F.struct(v.alias("x"), F.array(v).alias("y")), lambda v: (v, [v])),
}
NUMBERS = ("int", "bigint", "double", "decimal")
PLAIN = (*NUMBERS, "string", "timestamp")
KNOWN = -1
"""What stands for a null in the columns that cannot be null."""


def columns(rows: FrameStream, backwards: bool = False) -> FrameStream:
    """k, s, v, the event time `at`, and two columns for each type: `int` and `int_known`, ..."""
    v, known = F.col("v"), F.coalesce("v", F.lit(KNOWN))
    made = [F.col("k"), F.coalesce("s", F.lit(0)).alias("s"), v, F.timestamp_seconds("s").alias("at")]
    for name, kind in TYPES.items():
        made.append(F.when(v.isNotNull(), kind.column(v)).alias(name))
        made.append(F.coalesce(kind.column(known), kind.column(F.lit(KNOWN))).alias(f"{name}_known"))
    return rows.select(*(reversed(made) if backwards else made))


def value(column: str, line: Line) -> Any:
    name, _, known = column.partition("_")
    v = KNOWN if known and line.v is None else line.v
    return None if v is None else TYPES[name].value(v)


# --- the aggregates


class Sample(NamedTuple):
    """An aggregate of a column, the types that it takes, and the same in plain Python over pairs of value and `s`."""

    make: Callable[[str], Aggregate]
    types: Sequence[str]
    expected: Callable[[list[tuple[Any, int]]], Any]


def known(pairs: Iterable[tuple[Any, int]]) -> list[Any]:
    return [value for value, _ in pairs if value is not None]


def nulls_first(pair: tuple[Any, int]) -> tuple[int, bool, Any]:
    return pair[1], pair[0] is not None, pair[0]


def distinct(values: Iterable[Any]) -> list[Any]:
    return [value for value, _ in itertools.groupby(sorted(values))]


def as_numbers(pairs: list[tuple[Any, int]]) -> list[float]:
    return [float(value) for value in known(pairs)]


SAMPLES: dict[str, Sample] = {
    "count": Sample(lambda c: agg.count(), ["int"], len),
    "sum": Sample(agg.sum, NUMBERS, lambda pairs: sum(known(pairs)) if known(pairs) else None),
    "min": Sample(agg.min, [*TYPES], lambda pairs: min(known(pairs), default=None)),
    "max": Sample(agg.max, [*TYPES], lambda pairs: max(known(pairs), default=None)),
    "min_by": Sample(
        lambda c: agg.min_by(c, by="s"), [*TYPES], lambda pairs: min(pairs, key=nulls_first, default=(None, 0))[0]
    ),
    "max_by": Sample(
        lambda c: agg.max_by(c, by="s"), [*TYPES], lambda pairs: max(pairs, key=nulls_first, default=(None, 0))[0]
    ),
    "mean": Sample(agg.mean, NUMBERS, lambda pairs: statistics.fmean(as_numbers(pairs)) if known(pairs) else None),
    "variance": Sample(
        agg.variance, NUMBERS, lambda pairs: statistics.variance(as_numbers(pairs)) if len(known(pairs)) > 1 else None
    ),
    "approx_count_distinct": Sample(agg.approx_count_distinct, [*TYPES], lambda pairs: len(distinct(known(pairs)))),
    "approx_percentile": Sample(
        lambda c: agg.approx_percentile(c, 0.5),
        NUMBERS,
        lambda pairs: sorted(as_numbers(pairs))[(len(known(pairs)) - 1) // 2] if known(pairs) else None,
    ),
    "collect_set": Sample(lambda c: agg.collect_set(c, 3), [*TYPES], lambda pairs: distinct(known(pairs))[:3]),
    "top_k": Sample(lambda c: agg.top_k(c, 20), PLAIN, lambda pairs: [*Counter(known(pairs)).items()]),
}


def columns_of(sample: Sample) -> list[str]:
    return [f"{name}{form}" for name in sample.types for form in ("", "_known")]


def test_every_aggregate_has_a_sample() -> None:
    made = {
        name
        for name, function in inspect.getmembers(agg, inspect.isfunction)
        if not name.startswith("_") and inspect.signature(function).return_annotation == "Aggregate"
    }
    assert made == set(SAMPLES)


def test_the_columns_have_the_nullability_that_they_are_named_for(tmp_path: Path) -> None:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        stream = columns(given(ssc, ROWS, SCHEMA))
        for field in stream.graph.empty(stream.compute).schema:
            assert field.nullable is (field.name != "s" and not field.name.endswith("_known")), field.name
        return {"rows": stream}

    run_ticks(build, tmp_path, [])


# --- what operations yield, as groups of rows

Group = tuple[tuple[Any, ...], list[Arrived]]
"""The first columns of a row that comes out, and the rows that it is made of."""

Came = dict[int, list[Line]]
"""The rows of each batch, by its recorded second."""

Groups = Callable[[Came], dict[int, list[Group] | None]]


def by_key(rows: Iterable[Arrived]) -> list[Group]:
    found: dict[str | None, list[Arrived]] = {}
    for row in rows:
        found.setdefault(row.line.k, []).append(row)
    return [((k,), inside) for k, inside in found.items()]


def all_together(rows: Iterable[Arrived]) -> list[Group]:
    return [((), list(rows))]


def arrived(came: Came, after: int, until: int) -> list[Arrived]:
    return [Arrived(n, Line(*line)) for n in came if after < n <= until for line in came[n]]


def everything(group: Callable[[Iterable[Arrived]], list[Group]]) -> Groups:
    return lambda came: {n: group(arrived(came, 0, n)) for n in came}


def in_windows(length: int, slide: int, group: Callable[[Iterable[Arrived]], list[Group]]) -> Groups:
    def windows(came: Came) -> dict[int, list[Group] | None]:
        before = [min(came, default=1) - 1, *came]
        return {
            n: group(arrived(came, n - length, n)) if n // slide > last // slide else None
            for n, last in zip(came, before, strict=False)
        }

    return windows


def lives(came: Came, idle: int) -> Iterator[tuple[int, list[Group], list[Group]]]:
    """The keys that stay after each batch, and those that leave after this many seconds without a row."""
    alive: dict[str | None, list[Arrived]] = {}
    for n in came:
        for row in arrived(came, n - 1, n):
            alive.setdefault(row.line.k, []).append(row)
        gone = [k for k, rows in alive.items() if rows[-1].batch <= n - idle]
        left = [((k,), alive.pop(k)) for k in gone]
        yield n, [((k,), [*rows]) for k, rows in alive.items()], left


def on_time(came: Came) -> Iterator[tuple[int, list[Arrived], list[Arrived], float]]:
    """The rows on time until each batch, the late ones in it, and the watermark after it."""
    good: list[Arrived] = []
    watermark = -math.inf
    for n in came:
        rows = arrived(came, n - 1, n)
        late = [row for row in rows if row.line.s < watermark]
        good = good + [row for row in rows if row not in late]
        watermark = max((row.line.s - LATENESS for row in good), default=watermark)
        yield n, good, late, watermark


def new_ones(after: dict[int, list[Group]]) -> dict[int, list[Group] | None]:
    """Those that were not there after the batch before."""
    before: list[Group] = []
    found: dict[int, list[Group] | None] = {}
    for n, groups in after.items():
        starts = [start for start, _ in before]
        found[n] = [group for group in groups if group[0] not in starts]
        before = groups
    return found


def event_windows(came: Came) -> dict[int, list[Group] | None]:
    def closed(good: list[Arrived], watermark: float) -> list[Group]:
        found: dict[tuple[Any, ...], list[Arrived]] = {}
        for row in good:
            start = row.line.s // LENGTH * LENGTH
            if start + LENGTH <= watermark:
                found.setdefault((row.line.k, at(start), at(start + LENGTH)), []).append(row)
        return [*found.items()]

    return new_ones({n: closed(good, watermark) for n, good, _, watermark in on_time(came)})


def visits(came: Came) -> dict[int, list[Group] | None]:
    def closed(good: list[Arrived], watermark: float) -> list[Group]:
        found = []
        for (k,), rows in by_key(good):
            rows.sort(key=lambda row: row.line.s)
            pauses = [i + 1 for i, (a, b) in enumerate(itertools.pairwise(rows)) if b.line.s - a.line.s > GAP]
            for i, j in itertools.pairwise([0, *pauses, len(rows)]):
                first, last = rows[i].line.s, rows[j - 1].line.s
                if last + GAP < watermark:
                    found.append(((k, at(first), at(last)), rows[i:j]))
        return found

    return new_ones({n: closed(good, watermark) for n, good, _, watermark in on_time(came)})


# --- the operations that take any aggregate


class Operation(NamedTuple):
    """A public operation, how it is applied, and the groups of rows that it aggregates."""

    method: str
    apply: Callable[[FrameStream, Aggregates], FrameStream]
    groups: Groups
    saved: bool = True
    """Whether what it remembers is saved: an aggregate that is added later starts then."""


FROM = 17
"""The first batches have no rows from this second of event time on."""


def few(s: FrameStream) -> FrameStream:
    return s.filter(F.col("s") >= FROM)


def of_few(groups: Groups) -> Groups:
    return lambda came: groups({n: [line for line in lines if Line(*line).s >= FROM] for n, lines in came.items()})


def expiring(s: FrameStream, a: Aggregates, name: str) -> StateStream:
    return s.update_state_by_key("k", a, expire_after="2s", name=name)


OPERATIONS: dict[str, Operation] = {
    "state": Operation(
        "update_state_by_key", lambda s, a: s.update_state_by_key("k", a, name="state"), everything(by_key)
    ),
    "state without keys": Operation(
        "update_state_by_key",
        lambda s, a: few(s).update_state_by_key([], a, name="one"),
        of_few(everything(all_together)),
    ),
    "expiring state": Operation(
        "update_state_by_key",
        lambda s, a: expiring(s, a, "present"),
        lambda came: {n: present for n, present, _ in lives(came, 2)},
    ),
    "expired": Operation(
        "expired",
        lambda s, a: expiring(s, a, "expired").expired(),
        lambda came: {n: gone for n, _, gone in lives(came, 2)},
    ),
    "window": Operation(
        "reduce_by_key_and_window",
        lambda s, a: s.reduce_by_key_and_window("k", a, "3s"),
        in_windows(3, 1, by_key),
        saved=False,
    ),
    "window without keys": Operation(
        "reduce_by_window",
        lambda s, a: s.reduce_by_window(a, "4s", "2s"),
        in_windows(4, 2, all_together),
        saved=False,
    ),
    "window of few rows without keys": Operation(
        "reduce_by_window",
        lambda s, a: few(s).reduce_by_window(a, "3s"),
        of_few(in_windows(3, 1, all_together)),
        saved=False,
    ),
    "event-time window": Operation(
        "event_time_window",
        lambda s, a: ss.transforms.event_time_window(s, "k", "at", a, f"{LENGTH}s", lateness=f"{LATENESS}s"),
        event_windows,
    ),
    "sessions": Operation(
        "sessions",
        lambda s, a: ss.transforms.sessions(s, "k", "at", a, gap=f"{GAP}s", lateness=f"{LATENESS}s"),
        visits,
    ),
}


# --- restarts


class Upgrade(NamedTuple):
    """The job that runs first, and the one that continues from its home."""

    before: Build
    after: Build


def straight(up: Upgrade, home: Path) -> Seen:
    return run_ticks(up.after, home, SECONDS)


def stopped_gracefully(up: Upgrade, home: Path) -> Seen:
    seen: Seen = {}
    for seconds in (SECONDS[:2], SECONDS[2:5], SECONDS[5:]):
        with job(up.after, home, seen) as engine:
            for second in seconds:
                engine.tick(1000 * second)
            engine.close()
    return seen


def killed(up: Upgrade, home: Path) -> Seen:
    batches.SNAPSHOT_EVERY = 100  # restored by a fixture
    return run_with_kills(up.after, home, SECONDS, {2, 5})


def killed_after_a_snapshot(up: Upgrade, home: Path) -> Seen:
    batches.SNAPSHOT_EVERY = 1
    return run_with_kills(up.after, home, SECONDS, {2, 5})


def without_its_memory(up: Upgrade, home: Path) -> Seen:
    """The job loses what it had in memory, as if an executor had died with it: just after a snapshot, and later."""
    seen: Seen = {}
    with job(up.after, home, seen) as engine:
        for second in SECONDS:
            engine.tick(1000 * second)
            if second in (2, 5):
                engine.graph.drop_everything()
    return seen


def upgraded(up: Upgrade, home: Path) -> Seen:
    seen: Seen = {}
    with job(up.before, home, seen) as engine:
        for second in range(1, ADDED + 1):
            engine.tick(1000 * second)
        engine.close()
    return run_ticks(up.after, home, range(ADDED + 1, SECONDS[-1] + 1), seen)


ADDED = 4
"""The second after which the job is upgraded."""

Restart = Callable[[Upgrade, Path], Seen]
RESTARTS: tuple[Restart, ...] = (
    straight,
    stopped_gracefully,
    killed,
    killed_after_a_snapshot,
    without_its_memory,
    upgraded,
)


@pytest.fixture(autouse=True)
def frequent_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 2)


# --- an aggregate in every operation, through a restart

CASES = rotation.share([*itertools.product(SAMPLES, RESTARTS)], rotation.current(), rotation.MANY_PARTS)


@pytest.mark.parametrize(("name", "restart"), CASES, ids=[f"{name}-{restart.__name__}" for name, restart in CASES])
def test_an_aggregate_is_exact_in_every_operation(name: str, restart: Restart, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    after = {"n": agg.count()} | {column: sample.make(column) for column in columns_of(sample)}
    before = dict(reversed([item for item in after.items() if not item[0].endswith("_known")]))
    added = [column for column in after if column not in before] if restart is upgraded else []

    def build(aggregates: Aggregates, backwards: bool) -> Build:
        def define(ssc: StreamingContext) -> dict[str, FrameStream]:
            rows = columns(given(ssc, ROWS, SCHEMA), backwards)
            return {label: operation.apply(rows, aggregates) for label, operation in OPERATIONS.items()}

        return define

    seen = restart(Upgrade(build(before, True), build(after, False)), tmp_path)
    came = planned(ROWS, sorted(seen["state"]))
    assert sum(map(len, came.values())) == sum(len(batch or ()) for batch in ROWS)
    wrong = []
    for label, operation in OPERATIONS.items():
        for second, groups in operation.groups(came).items():
            found = seen[label].get(second)
            if (groups is None) is not (found is None):
                wrong.append(f"{label}, second {second}: expected {groups}, got {found}")
                continue
            first_run = restart is upgraded and second <= ADDED
            names = [*before] if first_run else [*after]
            fresh = [] if first_run or not operation.saved else added
            wrong += [
                f"{label}, second {second}: {what}"
                for what in differences(sample, names, fresh, groups or [], found or [])
            ]
    assert wrong == []


def differences(
    sample: Sample, names: Sequence[str], added: Sequence[str], groups: Sequence[Group], found: Sequence[Any]
) -> Iterator[str]:
    """Where the rows that came out are not those of the groups."""
    keys = len(groups[0][0]) if groups else 0
    got = sorted(found, key=lambda row: repr(row[:keys]))
    expected = sorted(groups, key=lambda group: repr(group[0]))
    if [start for start, _ in expected] != [row[:keys] for row in got]:
        yield f"expected {[start for start, _ in expected]}, got {[row[:keys] for row in got]}"
        return
    for (start, rows), row in zip(expected, got, strict=True):
        for name, cell in zip(names, row[keys:], strict=True):
            inside = [r for r in rows if name not in added or r.batch > ADDED]
            pairs = [(None if name == "n" else value(name, r.line), r.line.s) for r in inside]
            wanted = len(pairs) if name == "n" else sample.expected(pairs)
            if not same(cell, wanted) and not (name in added and not inside and cell is None):
                yield f"{name} of {start}: expected {wanted}, got {cell}"


def same(got: Any, expected: Any) -> bool:
    if isinstance(got, list) and got and isinstance(got[0], Row) and "item" in got[0]:  # equally frequent: in any order
        in_order = [row["count"] for row in got] == sorted((row["count"] for row in got), reverse=True)
        return in_order and sorted(map(tuple, got)) == sorted(expected)
    if isinstance(expected, float):
        return bool(got == pytest.approx(expected))
    return bool(got == expected)


# --- operations without a choice of aggregates, and keys of all types


def longest(rows: list[Row], state: Row | None) -> tuple[Any, ...]:
    values = [row.v for row in rows if row.v is not None] + (state["values"] if state else [])
    return len(rows) + (state.n if state else 0), sorted(values), (max(values, default=KNOWN), "x")


INSIDE = StructType([StructField("most", LongType(), False), StructField("x", StringType(), True)])
MEMORY = StructType(
    [
        StructField("n", LongType(), False),
        StructField("values", ArrayType(LongType(), False), False),
        StructField("last", INSIDE, False),
    ]
)
COUNT = {"n": agg.count()}
ODD = "what `is` this.k"
ALL_TYPES = [f"{name}{form}" for name in TYPES for form in ("", "_known")]


def names() -> Any:
    return local_session().createDataFrame([("a", "Ann"), ("b", "Bob")], "k string, name string")


def before_the_first() -> Any:
    return local_session().createDataFrame([("z", 7), ("a", 1)], "k string, v int")


Rows = dict[int, list[Any] | None]


class Other(NamedTuple):
    """An operation and the rows that it yields, by the recorded second of the batch."""

    method: str
    apply: Callable[[FrameStream], FrameStream]
    expected: Callable[[Came], Rows]


def counted(groups: Groups) -> Callable[[Came], Rows]:
    return lambda came: {
        n: None if found is None else [(*start, len(rows)) for start, rows in found]
        for n, found in groups(came).items()
    }


def in_python(came: Came) -> Rows:
    def row(rows: list[Arrived]) -> tuple[Any, ...]:
        values = sorted(r.line.v for r in rows if r.line.v is not None)
        return len(rows), values, (max(values, default=KNOWN), "x")

    return {n: [(*start, *row(rows)) for start, rows in by_key(arrived(came, 0, n))] for n in came}


def by_all_types(rows: Iterable[Arrived]) -> list[Group]:
    found: dict[int | None, list[Arrived]] = {}
    for row in rows:
        found.setdefault(row.line.v, []).append(row)
    return [(tuple(value(name, inside[0].line) for name in ALL_TYPES), inside) for inside in found.values()]


def sums(came: Came) -> Rows:
    def total(k: str | None, rows: list[Arrived]) -> int | None:
        values = [row.line.v for row in rows if row.line.v is not None] + {"z": [7], "a": [1]}.get(k or "", [])
        return sum(values) if values else None

    def row(n: int) -> list[Any]:
        groups = dict(by_key(arrived(came, 0, n)))
        return [(k, total(k, groups.get((k,), []))) for k in dict.fromkeys(["z", "a", *(k for (k,) in groups)])]

    return {n: row(n) for n in came}


def alerts(is_alert: Callable[[list[tuple[int, float]]], float | None]) -> Callable[[Came], Rows]:
    """The alerts on the sum of v: `is_alert` gets the metrics of a key; what it expected, or None for no alert."""

    def found(came: Came) -> Rows:
        metrics: dict[str | None, list[tuple[int, float]]] = {}
        since: dict[str | None, int] = {}
        rows: Rows = {}
        for n in came:
            out: list[Any] = []
            for (k,), inside in by_key(arrived(came, n - 1, n)):
                values = [row.line.v for row in inside if row.line.v is not None]
                if not values:
                    continue  # a metric that is null leaves the key unchanged
                metrics.setdefault(k, []).append((n, float(sum(values))))
                expected = is_alert(metrics[k])
                if expected is None:
                    since.pop(k, None)
                else:
                    out.append((k, at(n), at(since.setdefault(k, n)), expected, float(sum(values))))
            rows[n] = out
        return rows

    return found


def jumped(metrics: list[tuple[int, float]]) -> float | None:
    (then, last), (now, actual) = metrics[-2:] if len(metrics) > 1 else metrics * 2
    return last if abs(actual - last) > 2 * (now - then) else None


def unusual(metrics: list[tuple[int, float]]) -> float | None:
    """With alpha = 0.5, so the newest metric before has the weight of all older ones together."""
    before = [metric for _, metric in metrics[:-1]]
    if len(before) < 1:
        return None
    weights = [0.5**i for i in range(1, len(before))] + [0.5 ** (len(before) - 1)]
    mean = sum(w * x for w, x in zip(weights, reversed(before), strict=True))
    deviation = math.sqrt(sum(w * (x - mean) ** 2 for w, x in zip(weights, reversed(before), strict=True)))
    return mean if abs(metrics[-1][1] - mean) > deviation else None


def late(came: Came) -> Rows:
    return {n: [tuple(row.line) for row in late] for n, _, late, _ in on_time(came)}


def firsts(came: Came) -> Rows:
    stayed: list[Line] = []
    found: Rows = {}
    for n, good, _, _ in on_time(came):
        before = len(stayed)
        for line in sorted((row.line for row in good if row.batch == n), key=lambda line: line.s):
            if not any(line.k == other.k and abs(line.s - other.s) <= GAP for other in stayed):
                stayed.append(line)
        found[n] = [tuple(line) for line in stayed[before:]]
    return found


def pairs_of(came: Came) -> Rows:
    found: Rows = {}
    for n, good, _, _ in on_time(came):
        met = [(one, other) for one in good for other in good if max(one.batch, other.batch) == n]
        found[n] = [
            (one.line.k, one.line.s, other.line.s, other.line.v)
            for one, other in met
            if one.line.k is not None and one.line.k == other.line.k and -GAP <= other.line.s - one.line.s <= 1
        ]
    return found


def plain(came: Came) -> Rows:
    return {n: [tuple(row.line) for row in arrived(came, n - 2, n)] for n in came}


def values_in_window(rows: Iterable[Arrived]) -> list[Group]:
    found: dict[Any, list[Arrived]] = {}
    for row in rows:
        found.setdefault((row.line.k, row.line.v), []).append(row)
    return [*found.items()]


OTHERS: dict[str, Other] = {
    "window of rows": Other("window", lambda s: s.select("k", "s", "v").window("2s"), plain),
    "countByWindow": Other(
        "count_by_window", lambda s: s.count_by_window("3s"), counted(in_windows(3, 1, all_together))
    ),
    "countByValueAndWindow": Other(
        "count_by_value_and_window",
        lambda s: s.select("k", "v").count_by_value_and_window("3s"),
        counted(in_windows(3, 1, values_in_window)),
    ),
    "state in Python": Other(
        "update_state_by_key_python",
        lambda s: s.select("k", "v").update_state_by_key_python("k", longest, MEMORY, name="python"),
        in_python,
    ),
    "initial state": Other(
        "update_state_by_key",
        lambda s: s.select("k", "v").update_state_by_key(
            "k", {"v": agg.sum("v")}, initial=before_the_first(), name="i"
        ),
        sums,
    ),
    "threshold": Other(
        "threshold",
        lambda s: ss.transforms.threshold(s, "k", agg.sum("v"), above=4),
        alerts(lambda metrics: 4.0 if metrics[-1][1] > 4 else None),
    ),
    "rate of change": Other(
        "rate_of_change",
        lambda s: ss.transforms.rate_of_change(s, "k", agg.sum("v"), limit=2, per="1s"),
        alerts(jumped),
    ),
    "anomalies": Other(
        "anomalies",
        lambda s: ss.transforms.anomalies(s, "k", agg.sum("v"), alpha=0.5, limit=1, after=1),
        alerts(unusual),
    ),
    "enrichment": Other(
        "enrich",
        lambda s: ss.transforms.enrich(s.select("k", "v"), names, on="k"),
        lambda came: {n: [(k, v, {"a": "Ann", "b": "Bob"}.get(k)) for k, _, v in came[n]] for n in came},
    ),
    "late rows of windows": Other(
        "late",
        lambda s: (
            ss.transforms.event_time_window(s, "k", "at", COUNT, "4s", lateness=f"{LATENESS}s", name="w")
            .late()
            .select("k", "s", "v")
        ),
        late,
    ),
    "duplicates": Other(
        "drop_duplicates",
        lambda s: ss.transforms.drop_duplicates(s, "k", "at", within=f"{GAP}s", lateness=f"{LATENESS}s").select(
            "k", "s", "v"
        ),
        firsts,
    ),
    "interval join": Other(
        "join_within",
        lambda s: ss.transforms.join_within(
            s.select("k", "s", "at"),
            s.select("k", F.col("s").alias("other_s"), F.col("v").alias("other_v"), F.col("at").alias("other_at")),
            "k",
            f"-{GAP}s",
            "1s",
            timestamp="at",
            other_timestamp="other_at",
            lateness=f"{LATENESS}s",
        ).select("k", "s", "other_s", "other_v"),
        pairs_of,
    ),
    "late rows of sessions": Other(
        "late",
        lambda s: (
            ss.transforms.sessions(s, "k", "at", COUNT, lateness=f"{LATENESS}s", name="s").late().select("k", "s", "v")
        ),
        late,
    ),
    "state by keys of all types": Other(
        "update_state_by_key",
        lambda s: s.update_state_by_key(ALL_TYPES, COUNT, name="types"),
        counted(everything(by_all_types)),
    ),
    "window by keys of all types": Other(
        "reduce_by_key_and_window",
        lambda s: s.reduce_by_key_and_window(ALL_TYPES, COUNT, "3s"),
        counted(in_windows(3, 1, by_all_types)),
    ),
    "state by a key with dots and backticks": Other(
        "update_state_by_key",
        lambda s: s.select(F.col("k").alias(ODD)).update_state_by_key([ODD], COUNT, name="odd"),
        counted(everything(by_key)),
    ),
    "window by a key with dots and backticks": Other(
        "reduce_by_key_and_window",
        lambda s: s.select(F.col("k").alias(ODD)).reduce_by_key_and_window([ODD], COUNT, "3s"),
        counted(in_windows(3, 1, by_key)),
    ),
}

OTHER_CASES = rotation.share([*itertools.product(OTHERS, RESTARTS)], rotation.current())


@pytest.mark.parametrize("restart", RESTARTS, ids=lambda restart: restart.__name__)
def test_an_operation_is_exact_whatever_it_remembers(restart: Restart, tmp_path: Path) -> None:
    labels = [label for label, case in OTHER_CASES if case is restart]

    def build(backwards: bool) -> Build:
        def define(ssc: StreamingContext) -> dict[str, FrameStream]:
            rows = columns(given(ssc, ROWS, SCHEMA), backwards)
            return {"rows": rows.select("k"), **{label: OTHERS[label].apply(rows) for label in labels}}

        return define

    seen = restart(Upgrade(build(True), build(False)), tmp_path)
    came = planned(ROWS, sorted(seen["rows"]))
    assert sum(map(len, came.values())) == sum(len(batch or ()) for batch in ROWS)
    for label in labels:
        for second, rows in OTHERS[label].expected(came).items():
            expected = None if rows is None else sorted(rows, key=repr)
            assert seen[label].get(second) == expected, f"{label}, second {second}"


KEEPS_NOTHING = {
    *("of", "from_source", "transform", "pipe", "filter", "select", "flat_map", "map_python", "sql", "repartition"),
    *("columns", "count", "reduce_by_key", "count_by_value", "group_by_key", "cache", "union", "join", "cogroup"),
    *("for_each_batch", "for_each_rdd", "access_log", "json_lines"),
}


def test_every_operation_that_remembers_something_is_among_them() -> None:
    tested = {operation.method for operation in (*OPERATIONS.values(), *OTHERS.values())}
    kinds = (FrameStream, StateStream, type_of_closed_windows())
    methods = {name for kind in kinds for name in vars(kind) if not name.startswith("_")}
    assert methods | set(ss.transforms.__all__) == tested | KEEPS_NOTHING
    assert tested & KEEPS_NOTHING == set()


def type_of_closed_windows() -> Mapping[str, Any] | Any:
    return inspect.getmodule(ss.transforms.sessions).ClosedWindows  # type: ignore[union-attr]
