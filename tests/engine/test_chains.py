"""Batches that run the code of an earlier one: nobody can tell by their rows."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

from sparkstream_kit import aggregates as agg
from sparkstream_kit.bridge import placement, ranges
from sparkstream_kit.contracts import Source
from sparkstream_kit.engine.chains import SETTING, is_same, same_for_every_batch
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.transforms import access_log
from tests.support.ticks import few, run_ticks

Step = Callable[[FrameStream], FrameStream]
Batches = list[list[str]]

REQUEST = '::1 - ann [10/Oct/2000:13:55:{:02} -0700] "GET /{} HTTP/1.1" {} {} "-" "curl"'


@pytest.fixture
def spark(spark: SparkSession) -> Iterator[SparkSession]:
    yield spark
    spark.conf.unset(SETTING)


def results(folder: Path, batches: Batches, *steps: Step, between: Callable[[int], object] = lambda n: None) -> Any:
    """The rows of each batch; `between` is called before each of them."""
    folder.mkdir()
    paths = [folder / f"{n}.log" for n in range(len(batches))]
    for path, lines in zip(paths, batches, strict=True):
        path.write_text("".join(f"{line}\n" for line in lines))

    def read(start: int | None, end: int) -> DataFrame:
        between(end)
        read = [(str(path), 0, path.stat().st_size) for path in paths[start or 0 : end]]
        return ranges.lines(SparkSession.getActiveSession(), read)  # type: ignore[arg-type]

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        source = Source(lambda now: len(paths) if now is None else min(now // 1000, len(paths)), read, "value string")
        stream = FrameStream.from_source(ssc, "lines", source)
        for step in steps:
            stream = step(stream)
        return {"result": stream}

    return run_ticks(build, folder / "home", range(1, len(batches) + 1))["result"]


def built_each_time(spark: SparkSession, folder: Path, batches: Batches, *steps: Step) -> Any:
    spark.conf.set(SETTING, "false")
    try:
        return results(folder, batches, *steps)
    finally:
        spark.conf.unset(SETTING)


def requests(*bytes: int) -> list[str]:
    return [REQUEST.format(n % 60, n % 3, 200 + n % 2, size) for n, size in enumerate(bytes)]


# --- any steps

PLAIN: dict[str, Step] = {
    "filter, SQL": lambda lines: lines.filter("value > 'b'"),
    "filter": lambda lines: lines.filter(F.length("value") % 2 == 1),
    "select": lambda lines: lines.select(F.concat(F.lit("b"), F.upper("value")).alias("value")),
    "flat_map": lambda lines: lines.flat_map(F.split("value", "[ b]"), "value"),
    "a function": lambda lines: lines.transform(lambda frame: frame.select(F.reverse("value").alias("value"))),
    "count_by_value": lambda lines: lines.count_by_value().select("value"),
    "sessions of a value": lambda lines: lines.group_by_key("value").select("value"),
    "rejected": lambda lines: lines.transform(access_log.rejected).select(F.col("line").alias("value")),
}
LAST: dict[str, Step] = {
    "lines": lambda lines: lines,
    "count": lambda lines: lines.count(),
    "values": lambda lines: lines.count_by_value(),
    "by length": lambda lines: lines.select("value", F.length("value").alias("size")).reduce_by_key(
        "size", {"n": agg.count(), "first": agg.min("value"), "different": agg.approx_count_distinct("value")}
    ),
    "requests": lambda lines: lines.transform(access_log.parse),
    "bytes": lambda lines: lines.transform(access_log.parse).reduce_by_key(
        ["path", "status"], {"bytes": agg.sum("bytes"), "mean": agg.mean("bytes"), "last": agg.max("timestamp")}
    ),
}
LINES = st.one_of(
    st.text("ab c", max_size=5),
    st.builds(REQUEST.format, st.integers(0, 59), st.sampled_from("ab"), st.sampled_from(["200", "x"]), st.integers(0)),
)


@pytest.mark.slow
@given(st.data())
@few(40)
def test_rows_are_those_of_steps_that_are_built_for_every_batch(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    batches = data.draw(st.lists(st.lists(LINES, max_size=12), min_size=3, max_size=5), label="batches")
    names = data.draw(st.lists(st.sampled_from(list(PLAIN)), max_size=3), label="steps")
    last = data.draw(st.sampled_from(list(LAST)), label="last step")
    steps = [*(PLAIN[name] for name in names), LAST[last]]
    folder = tmp_path_factory.mktemp("chains")
    with pytest.MonkeyPatch.context() as patch:
        # the bytes of a task: some batches have one, others several
        patch.setattr(placement, "MOST", data.draw(st.sampled_from([60, 300, 1 << 20]), label="bytes"))
        expected = built_each_time(spark, folder / "built", batches, *steps)
        assert results(folder / "reused", batches, *steps) == expected
    assert len(expected) == len(batches)


# --- what is called, and how often


def calls_of(folder: Path, batches: Batches, step: Callable[[DataFrame], DataFrame], *after: Step) -> int:
    """How often a step is built by batches, but for once at the start. To keep its code, it is built twice."""
    called = []

    def counting(frame: DataFrame) -> DataFrame:
        called.append(frame)
        return step(frame)

    marked = same_for_every_batch(counting) if step is access_log.parse else counting
    results(folder, batches, lambda lines: lines.transform(marked), *after)
    return len(called) - 1


def test_steps_of_the_kit_are_built_once_and_functions_of_the_user_called_for_every_batch(
    spark: SparkSession, tmp_path: Path
) -> None:
    batches = [requests(1, 2), requests(3), requests(), requests(4)]
    assert calls_of(tmp_path / "kit", batches, access_log.parse) == 2
    assert calls_of(tmp_path / "user", batches, lambda frame: access_log.parse(frame)) == 4
    spark.conf.set(SETTING, "false")
    assert calls_of(tmp_path / "off", batches, access_log.parse) == 4


@dataclass
class Upper:
    """A function that cannot be hashed."""

    column: str = "value"

    def __call__(self, frame: DataFrame) -> DataFrame:
        return frame.select(F.upper(self.column))


def test_a_function_that_wraps_a_step_of_the_kit_is_the_users() -> None:
    parse = access_log.parse
    assert is_same(parse)
    assert is_same(functools.partial(parse, format="common"))
    assert not is_same(functools.wraps(parse)(lambda lines: parse(lines)))
    assert not is_same(Upper())


def test_batches_of_one_task_and_of_several_have_code_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "MOST", 300)
    batches = [requests(*range(n)) for n in (1, 9, 2, 8, 1)]

    def total(requests: FrameStream) -> FrameStream:
        return requests.reduce_by_key("status", {"bytes": agg.sum("bytes")})

    assert calls_of(tmp_path / "totals", batches, access_log.parse, total) == 4
    # what follows may need few columns of many rows: their steps are built together with it
    assert calls_of(tmp_path / "requests", batches, access_log.parse) == 6


def test_adaptive_execution_runs_as_ever(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "MOST", 300)
    batches = [requests(*range(n)) for n in (9, 8, 1, 9)]
    steps = [
        lambda lines: lines.transform(access_log.parse),
        lambda rows: rows.reduce_by_key("path", {"n": agg.sum("bytes")}),
    ]
    expected = built_each_time(spark, tmp_path / "built", batches, *steps)
    adaptive = spark.conf.get("spark.sql.adaptive.enabled")
    spark.conf.set("spark.sql.adaptive.enabled", "true")
    try:
        assert results(tmp_path / "adaptive", batches, *steps) == expected
    finally:
        spark.conf.set("spark.sql.adaptive.enabled", adaptive)


def test_a_cached_stream_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn_twice(lines: FrameStream) -> FrameStream:
        drawn = lines.select("value", F.expr("reflect('java.util.UUID', 'randomUUID')").alias("x")).cache()
        return (
            drawn.filter("value > 'a'").select("x").union(drawn.select("value", "x").filter("value > 'a'").select("x"))
        )

    for most in (1 << 20, 3):
        monkeypatch.setattr(placement, "MOST", most)
        seen = results(tmp_path / str(most), [["a", "b", "c"], ["d"], [], ["e", "f"]], drawn_twice)
        assert [len(rows) for rows in seen.values()] == [4, 2, 0, 4]
        assert all(sorted(rows) == sorted(2 * list(set(rows))) for rows in seen.values())


# --- what rows alone do not tell


@pytest.mark.parametrize(
    "column",
    ["rand()", "uuid()", "monotonically_increasing_id() + rand()", "timestamp'now'", "cast('now' as timestamp)"],
)
def test_chance_is_drawn_for_every_batch(tmp_path: Path, column: str) -> None:
    drawn = results(tmp_path / "job", [["a"]] * 4, lambda lines: lines.select(F.expr(column)))
    assert len({row for [row] in drawn.values()}) == 4


@pytest.mark.parametrize("reuse", ["true", "false"])
def test_what_is_drawn_is_the_same_for_all_that_use_it(spark: SparkSession, tmp_path: Path, reuse: str) -> None:
    def in_two_halves(lines: FrameStream) -> FrameStream:
        drawn = lines.select("value", F.expr("rand()").alias("x"))
        return drawn.filter("x < 0.5").select("value").union(drawn.filter("x >= 0.5").select("value"))

    spark.conf.set(SETTING, reuse)
    batches = [[f"{n:02}" for n in range(20)]] * 4
    assert results(tmp_path / "job", batches, in_two_halves) == {n: [(x,) for x in batches[0]] for n in range(1, 5)}


def test_a_day_is_that_of_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quarters = itertools.count(900, 900)
    monkeypatch.setattr(time, "time", lambda: next(quarters))
    assert calls_of(tmp_path / "job", [requests(1)] * 3, access_log.parse) > 2


def test_a_frame_can_be_named_by_its_alias(tmp_path: Path) -> None:
    named = [
        lambda lines: lines.transform(lambda frame: frame.alias("t").localCheckpoint()),
        lambda rows: rows.filter("value > 'a'"),
        lambda rows: rows.transform(lambda frame: frame.select("t.value")),
    ]
    assert results(tmp_path / "job", [["a", "b"]] * 3, *named) == {n: [("b",)] for n in (1, 2, 3)}


def test_the_keys_of_a_state_stay_where_they_are(tmp_path: Path) -> None:
    plans = []

    def keeping(frame: DataFrame) -> DataFrame:
        plans.append(frame._jdf.queryExecution().executedPlan().toString())
        return frame

    seen = results(
        tmp_path / "job",
        [["a", "b"], ["b"], ["c"]],
        lambda lines: lines.update_state_by_key("value", {"n": agg.count()}),
        lambda counts: counts.reduce_by_key("value", {"n": agg.sum("n")}).transform(keeping),
    )
    assert seen[3] == [("a", 1), ("b", 2), ("c", 1)]
    assert not any("Exchange" in plan for plan in plans[1:])


def test_a_variable_of_SQL_is_read_in_every_batch(spark: SparkSession, tmp_path: Path) -> None:
    spark.sql("declare or replace variable bound int default 0")
    seen = results(
        tmp_path / "job",
        [["1", "2", "3"]] * 3,
        lambda lines: lines.filter("int(value) > bound"),
        between=lambda n: spark.sql(f"set variable bound = {n}"),
    )
    assert seen == {1: [("2",), ("3",)], 2: [("3",)], 3: []}


def test_a_subquery_is_run_in_every_batch(spark: SparkSession, tmp_path: Path) -> None:
    spark.range(1).createOrReplaceTempView("numbers")
    seen = results(
        tmp_path / "job",
        [["0", "1", "2"]] * 3,
        lambda lines: lines.filter("int(value) = (select max(id) from numbers)"),
        between=lambda n: spark.range(n).createOrReplaceTempView("numbers"),
    )
    assert seen == {1: [("0",)], 2: [("1",)], 3: [("2",)]}


def test_a_function_of_SQL_can_be_replaced(spark: SparkSession, tmp_path: Path) -> None:
    def define(n: int) -> None:
        spark.sql(f"create or replace temporary function stamped(x string) returns string return concat(x, {n})")

    define(0)
    seen = results(tmp_path / "job", [["a"]] * 3, lambda lines: lines.select(F.expr("stamped(value)")), between=define)
    assert seen == {1: [("a1",)], 2: [("a2",)], 3: [("a3",)]}


def test_a_setting_of_SQL_counts_from_the_batch_on_in_which_it_changes(spark: SparkSession, tmp_path: Path) -> None:
    zones = ["UTC", "Asia/Tokyo", "Asia/Tokyo", "UTC"]
    try:
        seen = results(
            tmp_path / "job",
            [["2000-01-01T00:00:00Z"]] * 4,
            lambda lines: lines.select(F.hour(F.col("value").cast("timestamp"))),
            between=lambda n: spark.conf.set("spark.sql.session.timeZone", zones[n - 1]),
        )
    finally:
        spark.conf.set("spark.sql.session.timeZone", "UTC")
    assert seen == {1: [(0,)], 2: [(9,)], 3: [(9,)], 4: [(0,)]}
