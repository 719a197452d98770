"""Every operation over every other one, as with DStreams: ticks without data, other sources and kills change nothing.

What is expected comes from a model of DStreams in plain Python, in which a stream is its list of batches. The model is
compared with Spark's DStreams below. A run takes a share of the pairs by rotation, `scripts/faults` takes them all.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F
from pyspark.streaming import DStream, StreamingContext

from sparkstream_kit import aggregates as agg
from sparkstream_kit.errors import UsageError
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.testing import run_batches
from tests.support import rotation
from tests.support.ticks import Given, Seen, given, run_ticks, run_with_kills

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("spark")]

Pair = tuple[str | None, int]
Batch = list[Pair]
Batches = list[Batch | None]
"""A stream: its batch at each tick, or None where a slide skips it."""

SCHEMA = "k string, v bigint"
ROWS: Given = [
    [("a", 1), ("b", 2)],
    None,
    [("a", 3), (None, 4)],
    None,
    None,
    [("b", 5)],
    None,
    None,
    None,
    None,
    None,
    None,
]
OTHERS: Given = [[("a", 10)], None, None, None, None, None, [("b", 20), (None, 30)], *[None] * 5]
TICKS = range(1, len(ROWS) + 1)
IDLE = [tick for tick in TICKS if ROWS[tick - 1] is None and OTHERS[tick - 1] is None]


# --- the model


def each(function: Callable[[Batch], Batch]) -> Callable[[Batches, Batches], Batches]:
    return lambda stream, _: [None if batch is None else function(batch) for batch in stream]


def both(function: Callable[[Batch, Batch], Batch]) -> Callable[[Batches, Batches], Batches]:
    return lambda stream, other: [
        None if a is None or b is None else function(a, b) for a, b in zip(stream, other, strict=True)
    ]


def reduced(reduce: Callable[[list[int]], int]) -> Callable[[Batch], Batch]:
    return lambda batch: [(k, reduce([v for key, v in batch if key == k])) for k in dict(batch)]


def in_window(
    length: int, slide: int = 1, then: Callable[[Batch], Batch] = list
) -> Callable[[Batches, Batches], Batches]:
    def windows(stream: Batches, _: Batches) -> Batches:
        inside = ([row for batch in stream[max(0, t - length) : t] for row in batch or ()] for t in TICKS)
        return [None if t % slide else then(rows) for t, rows in zip(TICKS, inside, strict=True)]

    return windows


def running(stream: Batches, _: Batches) -> Batches:
    totals: Counter[str | None] = Counter()
    found: Batches = []
    for batch in stream:
        for k, v in batch or ():
            totals[k] += v
        found.append(None if batch is None else list(totals.items()))
    return found


def expiring(stream: Batches, idle: int) -> Iterator[tuple[Batch, Batch]]:
    """The keys that stay at each tick, and those that leave after this many seconds without a row."""
    totals: Counter[str | None] = Counter()
    seen: dict[str | None, int] = {}
    for t, batch in zip(TICKS, stream, strict=True):
        for k, v in batch or ():
            totals[k] += v
            seen[k] = t
        gone = [k for k, last in seen.items() if last <= t - idle]
        left = [(k, totals.pop(k)) for k in gone]
        seen = {k: last for k, last in seen.items() if k not in gone}
        yield list(totals.items()), left


def joined(left: Batch, right: Batch) -> Batch:
    return [(k, v + w) for k, v in left for key, w in right if k == key and k is not None]  # as in SQL


def cogrouped(left: Batch, right: Batch) -> Batch:
    return [
        (k, sum(key == k for key, _ in left) + 10 * sum(key == k for key, _ in right)) for k in dict([*left, *right])
    ]


# --- the operations, on frames, in the model and on DStreams


class Operation(NamedTuple):
    """The same operation three times. On frames it gets the stream, another one, and a name for its state."""

    on_frames: Callable[[FrameStream, FrameStream, str], FrameStream]
    model: Callable[[Batches, Batches], Batches]
    on_dstreams: Callable[[DStream[Any], DStream[Any]], DStream[Any]] | None = None
    slide: int = 1
    looks: bool = False
    """Whether it is a window, which is refused over a state."""
    remembers: bool = False
    """Whether it is a state."""


SUM, MAX = {"v": agg.sum("v")}, {"v": agg.max("v")}


def pairs(n: DStream[int]) -> DStream[Pair]:
    return n.map(lambda n: ("n", n))


def total(rows: list[Row], state: Row | None) -> tuple[int]:
    return (sum(row.v for row in rows) + (state.v if state else 0),)


OPERATIONS: dict[str, Operation] = {
    "map": Operation(
        lambda s, t, name: s.select("k", (F.col("v") + 1).alias("v")),
        each(lambda batch: [(k, v + 1) for k, v in batch]),
        lambda s, t: s.map(lambda p: (p[0], p[1] + 1)),
    ),
    "filter": Operation(
        lambda s, t, name: s.filter("v % 2 = 1"),
        each(lambda batch: [(k, v) for k, v in batch if v % 2]),
        lambda s, t: s.filter(lambda p: p[1] % 2 == 1),
    ),
    "flatMap": Operation(
        lambda s, t, name: s.flat_map(F.array(*(F.struct("k", F.col("v") + F.lit(n)) for n in (0, 10))), "row").select(
            "row.k", F.col("row.col2").alias("v")
        ),
        each(lambda batch: [(k, v + n) for k, v in batch for n in (0, 10)]),
        lambda s, t: s.flatMap(lambda p: [(p[0], p[1] + n) for n in (0, 10)]),
    ),
    "transform": Operation(
        lambda s, t, name: s.transform(DataFrame.distinct),
        each(lambda batch: list(set(batch))),
        lambda s, t: s.transform(lambda rdd: rdd.distinct()),
    ),
    "cache": Operation(lambda s, t, name: s.cache(), each(list), lambda s, t: s.cache()),
    "reduceByKey": Operation(
        lambda s, t, name: s.reduce_by_key("k", SUM),
        each(reduced(sum)),
        lambda s, t: s.reduceByKey(lambda a, b: a + b),
    ),
    "countByValue": Operation(
        lambda s, t, name: s.count_by_value().select("k", (10 * F.col("v") + F.col("count")).alias("v")),
        each(lambda batch: [(k, 10 * v + n) for (k, v), n in Counter(batch).items()]),
        lambda s, t: s.countByValue().map(lambda p: (p[0][0], 10 * p[0][1] + p[1])),
    ),
    "count": Operation(  # what looks back does not see the zeros of batches in which its sources bring nothing
        lambda s, t, name: s.count().filter("count > 0").select(F.lit("n").alias("k"), F.col("count").alias("v")),
        each(lambda batch: [("n", len(batch))] if batch else []),
        lambda s, t: pairs(s.count().filter(lambda n: n > 0)),
    ),
    "union": Operation(lambda s, t, name: s.union(t), both(lambda a, b: a + b), lambda s, t: s.union(t)),
    "join": Operation(
        lambda s, t, name: s.join(t.select("k", F.col("v").alias("w")), "k").select(
            "k", (F.col("v") + F.col("w")).alias("v")
        ),
        both(joined),
        lambda s, t: s.filter(lambda p: p[0] is not None).join(t).mapValues(sum),
    ),
    "cogroup": Operation(
        lambda s, t, name: s.cogroup(t, "k").select("k", F.expr("bigint(size(left) + 10 * size(right))").alias("v")),
        both(cogrouped),
        lambda s, t: s.cogroup(t).mapValues(lambda sides: len(sides[0]) + 10 * len(sides[1])),
    ),
    "window": Operation(lambda s, t, name: s.window("2s"), in_window(2), lambda s, t: s.window(2), looks=True),
    "window with a slide": Operation(
        lambda s, t, name: s.window("4s", "2s"), in_window(4, 2), lambda s, t: s.window(4, 2), slide=2, looks=True
    ),
    "countByWindow": Operation(
        lambda s, t, name: (
            s.count_by_window("3s").filter("count > 0").select(F.lit("n").alias("k"), F.col("count").alias("v"))
        ),
        in_window(3, 1, lambda batch: [("n", len(batch))] if batch else []),
        lambda s, t: pairs(s.countByWindow(3, 1)),
        looks=True,
    ),
    "reduceByKeyAndWindow": Operation(
        lambda s, t, name: s.reduce_by_key_and_window("k", SUM, "2s"),
        in_window(2, 1, reduced(sum)),
        lambda s, t: s.reduceByKeyAndWindow(lambda a, b: a + b, None, 2, 1),
        looks=True,
    ),
    "reduceByKeyAndWindow without an inverse": Operation(
        lambda s, t, name: s.reduce_by_key_and_window("k", MAX, "3s"),
        in_window(3, 1, reduced(max)),
        lambda s, t: s.reduceByKeyAndWindow(max, None, 3, 1),
        looks=True,
    ),
    "reduceByKeyAndWindow with a slide": Operation(
        lambda s, t, name: s.reduce_by_key_and_window("k", SUM, "4s", "2s"),
        in_window(4, 2, reduced(sum)),
        lambda s, t: s.reduceByKeyAndWindow(lambda a, b: a + b, None, 4, 2),
        slide=2,
        looks=True,
    ),
    "updateStateByKey": Operation(
        lambda s, t, name: s.update_state_by_key("k", SUM, name=name),
        running,
        lambda s, t: s.updateStateByKey(lambda new, old: sum(new) + (old or 0)),
        remembers=True,
    ),
    "updateStateByKey in Python": Operation(
        lambda s, t, name: s.update_state_by_key_python("k", total, "v bigint", name=name), running, remembers=True
    ),
    "updateStateByKey with expiry": Operation(
        lambda s, t, name: s.update_state_by_key("k", SUM, expire_after="2s", name=name),
        lambda s, t: [None if batch is None else stay for batch, (stay, _) in zip(s, expiring(s, 2), strict=True)],
        remembers=True,
    ),
    "what expires": Operation(
        lambda s, t, name: s.update_state_by_key("k", SUM, expire_after="2s", name=name).expired(),
        lambda s, t: [left for _, left in expiring(s, 2)],
        remembers=True,
    ),
}

PAIRS = [*itertools.product(OPERATIONS, OPERATIONS)]
REFUSED = [(first, second) for first, second in PAIRS if OPERATIONS[first].remembers and OPERATIONS[second].looks]


def model(*names: str) -> Batches:
    """What the model says of the operations of these names, one over the other."""
    batches, others = ([list(map(tuple, batch or ())) for batch in given] for given in (ROWS, OTHERS))
    return functools.reduce(lambda stream, name: OPERATIONS[name].model(stream, others), names, batches)  # type: ignore[arg-type, return-value]


def sorted_(batch: Sequence[Any] | None) -> list[Any] | None:
    return None if batch is None else sorted(map(tuple, batch), key=repr)


# --- frames against the model


def composed(ssc: StreamingContext, chains: Sequence[tuple[str, ...]], beside: bool) -> dict[str, FrameStream]:
    """A job with these chains of operations, if need be beside a source that has data at every tick."""
    rows, others = given(ssc, ROWS, SCHEMA), given(ssc, OTHERS, SCHEMA, "others")
    streams = {"rows": rows, "others": others}
    if beside:
        streams["unrelated"] = given(ssc, [[("x", 1)]] * len(ROWS), SCHEMA, "unrelated")
    for chain in chains:
        stream = rows
        for n, name in enumerate(chain, 1):
            stream = OPERATIONS[name].on_frames(stream, others, " over ".join(reversed(chain[:n])) + f" in {chain}")
        streams[" then ".join(chain)] = stream
    return streams


def differences(seen: Seen, chains: Sequence[tuple[str, ...]], beside: bool) -> dict[str, str]:
    """The chains whose batches are not those of the model, with both.

    At a tick at which nothing arrives a frame stream may skip a batch that is empty or equal to the one before. Without
    a window, an expiry or a state over a state nothing is due at such a tick, so every stream may skip it, though a
    DStream repeats its state then.
    """
    found = {}
    for chain in chains:
        name = " then ".join(chain)
        due = (
            any(OPERATIONS[one].looks or "expir" in one for one in chain)
            or sum(OPERATIONS[one].remembers for one in chain) > 1
        )
        expected, got, before = model(*chain), seen.get(name, {}), [None]
        for tick, batch in zip(TICKS, map(sorted_, expected), strict=True):
            is_skipped = not beside and tick in IDLE and tick not in got and (not due or batch in ([], *before))
            if got.get(tick) != batch and not is_skipped:
                found[name] = f"second {tick}: expected {batch}, got {got.get(tick)}"
                break
            before = [batch] if batch is not None else before
    return found


def straight(chains: Sequence[tuple[str, ...]], home: Path) -> dict[str, str]:
    return differences(run_ticks(lambda ssc: composed(ssc, chains, False), home, TICKS), chains, False)


def beside_another_source(chains: Sequence[tuple[str, ...]], home: Path) -> dict[str, str]:
    return differences(run_ticks(lambda ssc: composed(ssc, chains, True), home, TICKS), chains, True)


def killed(chains: Sequence[tuple[str, ...]], home: Path) -> dict[str, str]:
    return differences(run_with_kills(lambda ssc: composed(ssc, chains, False), home, TICKS, {3, 6}), chains, False)


RUNS = (straight, beside_another_source, killed)
CASES = rotation.share(
    [(run, *pair) for pair in PAIRS if pair not in REFUSED for run in RUNS], rotation.current(), rotation.MANY_PARTS
)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
@pytest.mark.parametrize("first", OPERATIONS)
def test_an_operation_over_another_one_yields_what_dstreams_yield(
    first: str, run: Callable[[Sequence[tuple[str, ...]], Path], dict[str, str]], tmp_path: Path
) -> None:
    chains = [(first, second) for case, one, second in CASES if case is run and one == first]
    assert run(chains, tmp_path) == {}


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
def test_a_chain_of_windows_and_states_yields_what_dstreams_yield(
    run: Callable[[Sequence[tuple[str, ...]], Path], dict[str, str]], tmp_path: Path
) -> None:
    chains = [
        ("window", "window", "window"),
        ("window", "map", "reduceByKeyAndWindow", "updateStateByKey"),
        ("reduceByKeyAndWindow", "window", "updateStateByKey"),
        ("window", "updateStateByKey", "filter", "updateStateByKey"),
        ("updateStateByKey", "union", "updateStateByKey"),
    ]
    assert run(chains, tmp_path) == {}


def test_a_window_over_a_window_sees_the_ticks_without_data(tmp_path: Path) -> None:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        return {"twice": given(ssc, [["a"], None, ["b"], None, None], "k string").window("2s").window("2s")}

    seen = run_ticks(build, tmp_path, range(1, 6))
    assert ["".join(k for (k,) in seen["twice"][second]) for second in range(1, 6)] == ["a", "aa", "ab", "bb", "b"]


def test_a_window_over_a_state_is_refused(tmp_path: Path) -> None:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        for pair in REFUSED:
            with pytest.raises(UsageError, match="a window over a state cannot be rebuilt"):
                composed(ssc, [pair], False)
            vars(ssc).pop("_sparkstream_kit_graph")  # the next one starts from scratch
        return {"rows": given(ssc, ROWS, SCHEMA)}

    run_ticks(build, tmp_path, [])


# --- the model against DStreams

COMPARED = [
    (first, second)
    for first, second in PAIRS
    if OPERATIONS[first].on_dstreams
    and OPERATIONS[second].on_dstreams
    and (OPERATIONS[first].slide == 1 or second not in ("union", "join", "cogroup"))  # Spark refuses two slides
    and OPERATIONS[second].slide % OPERATIONS[first].slide == 0
]


def test_the_model_yields_what_dstreams_yield() -> None:
    singles = [(name,) for name, operation in OPERATIONS.items() if operation.on_dstreams]
    chains: list[tuple[str, ...]] = [*singles, *COMPARED]
    chains = rotation.share(chains, rotation.current(), rotation.MANY_PARTS)

    def build(rows: DStream[Any], others: DStream[Any]) -> dict[tuple[str, ...], DStream[Any]]:
        def chained(stream: DStream[Any], name: str) -> DStream[Any]:
            on_dstreams = OPERATIONS[name].on_dstreams
            assert on_dstreams is not None
            return on_dstreams(stream, others)

        return {chain: functools.reduce(chained, chain, rows) for chain in chains}

    seen = run_batches(build, *([batch or [] for batch in given] for given in (ROWS, OTHERS)))
    for chain in chains:
        assert [sorted_(batch) for batch in seen[chain]] == [sorted_(batch) for batch in model(*chain)], chain
