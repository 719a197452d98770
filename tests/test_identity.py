"""What saved data is found by is said by the user and never depends on the order of statements."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit.engine import batches
from sparkstream_kit.engine.graph import graph_of
from sparkstream_kit.frames import FrameStream
from tests.support.ticks import Seen, few, job, killed, run_ticks
from tests.support.ticks import given as given_rows

ROWS = [[(code, status) for code in "ab" for status in (200, 404, 500)][i:] for i in range(6)]
COUNT = {"n": ss.aggregates.count()}
Statement = Callable[[FrameStream], FrameStream]

# Statements that keep something under the home, by the name of the output that shows it. Some of them differ only in
# what they count, so that exchanged states would show. Those without name= have the default one.
STATEMENTS: dict[str, Callable[[FrameStream, dict[str, str]], FrameStream]] = {
    "good": lambda s, name: s.filter("status < 500").update_state_by_key("client", COUNT, **name),
    "bad": lambda s, name: s.filter("status >= 500").update_state_by_key("client", COUNT, **name),
    "paths": lambda s, name: s.update_state_by_key_python("client", lambda rows, n: (len(rows),), "n int", **name),
    "visits": lambda s, name: ss.transforms.sessions(timed(s), "client", "at", COUNT, gap="1s", lateness="1s", **name),
    "hours": lambda s, name: ss.transforms.event_time_window(
        timed(s), "client", "at", COUNT, "2s", lateness="1s", **name
    ),
    "firsts": lambda s, name: ss.transforms.drop_duplicates(
        timed(s), "client", "at", within="1s", lateness="1s", **name
    ),
    "pairs": lambda s, name: ss.transforms.join_within(
        timed(s),
        timed(s).select("client", F.col("at").alias("then")),
        "client",
        "-1s",
        0,
        timestamp="at",
        other_timestamp="then",
        lateness="1s",
        **name,
    ),
    "errors": lambda s, name: ss.transforms.threshold(s, "client", ss.aggregates.count(), above=1, **name),
    "known": lambda s, name: ss.transforms.enrich(s, lambda: table("known"), on="client", **name),
    "owners": lambda s, name: ss.transforms.enrich(s, lambda: table("owner"), on="client", **name),
}


def timed(stream: FrameStream) -> FrameStream:
    return stream.select("client", F.timestamp_seconds(F.col("status") / 100).alias("at"))


def table(what: str) -> Any:
    return ss.live_session().createDataFrame([("a", f"{what} a"), ("b", f"{what} b")], f"client string, {what} string")


def program(order: list[str], named: set[str]) -> Callable[[StreamingContext], dict[str, FrameStream]]:
    """A job of these statements in this order; those in `named` say a name of their own."""

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        requests = given_rows(ssc, ROWS, "client string, status int")
        return {key: STATEMENTS[key](requests, {"name": f"of {key}"} if key in named else {}) for key in order}

    return build


@pytest.fixture(autouse=True)
def snapshots_at_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 1)


def run(order: list[str], named: set[str], home: Path, ticks: range) -> Seen | str:
    """What each stream gave, or the refusal."""
    try:
        return run_ticks(program(order, named), home, ticks)
    except ss.UsageError as refusal:
        return str(refusal)


@pytest.mark.slow
@few(4)
@given(
    orders=st.sampled_from([2, 3]).flatmap(
        lambda k: st.lists(st.sampled_from(sorted(STATEMENTS)), min_size=k, max_size=k, unique=True).flatmap(
            lambda keys: st.tuples(st.just(keys), st.permutations(keys), st.sets(st.sampled_from(keys)))
        )
    )
)
def test_statements_that_change_places_between_two_runs_give_the_same_or_are_refused(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, orders: tuple[list[str], list[str], set[str]]
) -> None:
    first, second, named = orders
    where = tmp_path_factory.mktemp("homes")
    straight = run(first, named, where / "straight", range(1, 5))
    before = run(first, named, where / "exchanged", range(1, 3))
    after = run(second, named, where / "exchanged", range(3, 5))
    if isinstance(straight, str) or isinstance(before, str) or isinstance(after, str):
        assert straight == before
        for refusal in (before, after):
            assert isinstance(refusal, str)
            assert "give each a name= of its own" in refusal
        return
    assert {key: {**before[key], **after[key]} for key in first} == straight


def test_two_counts_without_names_whose_states_would_change_places_are_refused(
    spark: SparkSession, tmp_path: Path
) -> None:
    assert "two states are named 'by-client'" in str(run(["good", "bad"], set(), tmp_path, range(1, 3)))
    assert not isinstance(run(["good", "bad"], {"bad"}, tmp_path, range(1, 3)), str)


DEFAULTS: dict[str, Callable[[StreamingContext], object]] = {
    "states": lambda ssc: rows_of(ssc).update_state_by_key("client", COUNT),
    "states in Python": lambda ssc: rows_of(ssc).update_state_by_key_python("client", lambda rows, n: (1,), "n int"),
    "sessions": lambda ssc: ss.transforms.sessions(timed(rows_of(ssc)), "client", "at", COUNT),
    "event-time windows": lambda ssc: ss.transforms.event_time_window(
        timed(rows_of(ssc)), "client", "at", COUNT, "2s", lateness="1s"
    ),
    "duplicates": lambda ssc: ss.transforms.drop_duplicates(timed(rows_of(ssc)), "client", "at", within="1s"),
    "interval joins": lambda ssc: ss.transforms.join_within(
        timed(rows_of(ssc)),
        timed(rows_of(ssc)).select("client", F.col("at").alias("then")),
        "client",
        0,
        1,
        timestamp="at",
        other_timestamp="then",
    ),
    "thresholds": lambda ssc: ss.transforms.threshold(rows_of(ssc), [], ss.aggregates.count(), above=1),
    "rates of change": lambda ssc: ss.transforms.rate_of_change(
        rows_of(ssc), [], ss.aggregates.count(), limit=1, per="1s"
    ),
    "anomalies": lambda ssc: ss.transforms.anomalies(rows_of(ssc), [], ss.aggregates.count()),
    "enrichments": lambda ssc: ss.transforms.enrich(rows_of(ssc), lambda: table("known"), on="client"),
    "sources": lambda ssc: ss.sources.generator(ssc),
    "files": lambda ssc: ss.sources.files(ssc, "/"),
    "DStreams": lambda ssc: FrameStream.of(ssc.textFileStream("/")),
    "sockets": lambda ssc: ss.sources.socket(ssc, "localhost", 9),
    "console": lambda ssc: ss.outputs.console(rows_of(ssc)),
    "json": lambda ssc: ss.outputs.json(rows_of(ssc), "/nowhere"),
    "parquet": lambda ssc: ss.outputs.parquet(rows_of(ssc), "/nowhere"),
    "sql": lambda ssc: ss.outputs.sql(rows_of(ssc), "sqlite:///nowhere.db"),
    "Redis": lambda ssc: ss.outputs.redis_hash(rows_of(ssc), "redis://localhost"),
    "webhooks": lambda ssc: ss.outputs.webhook(rows_of(ssc), "http://localhost/"),
    "rejected": lambda ssc: ss.outputs.rejected(rows_of(ssc)),
    "functions": lambda ssc: rows_of(ssc).for_each_batch(lambda frame, batch: None),
    "functions of RDDs": lambda ssc: rows_of(ssc).for_each_rdd(lambda rdd: None),
}
COUNTER = itertools.count()


def rows_of(ssc: StreamingContext) -> FrameStream:
    """A source with a name of its own, so that only what is built on it can be refused."""
    return given_rows(ssc, [], "client string, status int", f"rows-{next(COUNTER)}")


@pytest.mark.parametrize("kind", DEFAULTS)
def test_two_of_a_kind_without_a_name_are_refused_and_with_one_accepted(kind: str, spark: SparkSession) -> None:
    ssc = StreamingContext(spark.sparkContext, 1)
    try:
        DEFAULTS[kind](ssc)
        with pytest.raises(ss.UsageError, match=r"two [\w ]+ are named '[^']+': give each a name= of its own"):
            DEFAULTS[kind](ssc)
    finally:
        ssc.stop(stopSparkContext=False)


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "_hidden"])
def test_a_name_that_cannot_be_the_name_of_a_directory_is_refused(name: str, spark: SparkSession) -> None:
    ssc = StreamingContext(spark.sparkContext, 1)
    try:
        with pytest.raises(ss.UsageError, match=r"got the name '.*', expected one without /"):
            ss.sources.generator(ssc, name=name)
    finally:
        ssc.stop(stopSparkContext=False)


@pytest.mark.parametrize("name", ["x" * 201, "é" * 101])
def test_a_name_that_is_too_long_for_a_directory_is_refused(name: str, spark: SparkSession) -> None:
    ssc = StreamingContext(spark.sparkContext, 1)
    try:
        too_long = rf"got a name of {len(name)} characters, {name[:20]}\.\.\., expected at most 200 bytes"
        with pytest.raises(ss.UsageError, match=too_long):
            rows_of(ssc).update_state_by_key("client", COUNT, name=name)
        rows_of(ssc).update_state_by_key("client", COUNT, name=name[:100])
    finally:
        ssc.stop(stopSparkContext=False)


SCHEMA = "client string, status int"


def numbers(ssc: StreamingContext, name: str, until: int = 9) -> FrameStream:
    return given_rows(ssc, [[("a", second)] for second in range(1, until + 1)], SCHEMA, name)


def test_a_source_under_a_new_name_is_refused_and_given_up_only_on_request(
    spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_ticks(lambda ssc: {"rows": numbers(ssc, "logs")}, tmp_path, range(1, 4))
    renamed = r"has read the source 'logs' up to 3, and .* only 'weblogs': keep the name= .* --give-up-source logs"
    with pytest.raises(ss.UsageError, match=renamed):
        run_ticks(lambda ssc: {"rows": numbers(ssc, "weblogs")}, tmp_path, [4])
    seen = run_ticks(lambda ssc: {"rows": numbers(ssc, "logs")}, tmp_path, [4])
    assert seen == {"rows": {4: [("a", 4)]}}, "the refusal has changed nothing"
    run_ticks(lambda ssc: {"rows": numbers(ssc, "weblogs")}, tmp_path, [5], give_up_sources=["logs"])
    assert "the source 'logs' is given up; it was read up to 4" in caplog.text
    assert run_ticks(lambda ssc: {"rows": numbers(ssc, "weblogs")}, tmp_path, [6]) == {"rows": {6: [("a", 6)]}}


def test_a_source_that_was_given_up_and_comes_back_continues_where_it_was(
    spark: SparkSession, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def both(ssc: StreamingContext) -> dict[str, FrameStream]:
        rows = numbers(ssc, "logs").union(given_rows(ssc, [[("b", 1)], [("b", 2)], [("b", 3)]], SCHEMA, "more"))
        return {"rows": rows, "n": rows.update_state_by_key("client", COUNT)}

    def one(ssc: StreamingContext) -> dict[str, FrameStream]:
        rows = numbers(ssc, "logs")
        return {"rows": rows, "n": rows.update_state_by_key("client", COUNT)}

    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 2)  # so that the log is compacted beyond the batches of the source
    run_ticks(both, tmp_path, [1, 2])
    run_ticks(one, tmp_path, [3], give_up_sources=["more"])
    assert run_ticks(one, tmp_path, [4, 5, 6])["n"][6] == [("a", 6), ("b", 2)], "it is given up once"
    assert "is back" not in caplog.text
    back = run_ticks(both, tmp_path, [7, 8])
    assert "the source 'more' is back; it continues after 2, as it had been read" in caplog.text
    assert back == {
        "rows": {7: [("a", 7), ("b", 3)], 8: [("a", 8)]},
        "n": {7: [("a", 7), ("b", 3)], 8: [("a", 8), ("b", 3)]},
    }


def test_a_source_that_is_added_while_a_drain_is_interrupted_is_drained_too(
    spark: SparkSession, tmp_path: Path
) -> None:
    def both(ssc: StreamingContext) -> dict[str, FrameStream]:
        more = given_rows(ssc, [[("b", 1)], [("b", 2)]], SCHEMA, "more")
        return {"rows": numbers(ssc, "logs", 3).union(more)}

    drain: dict[str, Any] = {"drain": True, "max_per_batch": 2}
    with job(lambda ssc: {"rows": numbers(ssc, "logs", 3)}, tmp_path, **drain) as engine:
        engine.graph.log.mark_done = killed  # type: ignore[method-assign]
        with pytest.raises(SystemExit):
            engine.tick(1000)
    seen = Seen()
    with job(both, tmp_path, seen, **drain) as engine:
        engine.tick(2000)
        assert engine.drained.is_set()
        assert engine.graph.log.last.end_offsets == {"logs": 3, "more": 2}
    assert sorted(row for rows in seen["rows"].values() for row in rows) == [
        *(("a", n) for n in (1, 2, 3)),
        ("b", 1),
        ("b", 2),
    ]


def test_an_unfinished_batch_needs_the_source_it_read(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 20)  # or the log would be compacted
    run_ticks(lambda ssc: {"rows": numbers(ssc, "logs")}, tmp_path, [1])
    (tmp_path / "offsets" / "1.done").unlink()  # killed before it was done
    with pytest.raises(
        ss.UsageError, match="batch 1 is unfinished and has input from the source 'logs', which the job"
    ):
        run_ticks(lambda ssc: {"rows": numbers(ssc, "weblogs")}, tmp_path, [2], give_up_sources=["logs"])


def test_a_state_that_would_start_in_the_middle_beside_one_that_is_not_used_is_refused(
    spark: SparkSession, tmp_path: Path
) -> None:
    def counted(name: str) -> Callable[[StreamingContext], dict[str, FrameStream]]:
        return lambda ssc: {"n": numbers(ssc, "logs").update_state_by_key("client", COUNT, name=name)}

    run_ticks(counted("hits"), tmp_path, range(1, 6))
    refusal = r"the state 'requests' is new, .* has a state 'hits' that the job does not use: .* delete .*/state/hits"
    with pytest.raises(ss.StateRefused, match=refusal):
        run_ticks(counted("requests"), tmp_path, [6])
    assert run_ticks(counted("hits"), tmp_path, [6]) == {"n": {6: [("a", 6)]}}
    shutil.rmtree(tmp_path / "state" / "hits")
    (rows,) = run_ticks(counted("requests"), tmp_path, [7])["n"].values()
    assert rows[0][1] < 7, "it starts where the log still has its input"


def test_sockets_that_change_names_do_not_resume_from_one_checkpoint(spark: SparkSession) -> None:
    def fingerprint(ports: dict[str, int]) -> list[str]:
        ssc = StreamingContext(spark.sparkContext, 1)
        try:
            for name, port in ports.items():
                ss.sources.socket(ssc, "localhost", port, name=name)
            graph = graph_of(ssc)
            return sorted(f"{name} {graph.receivers[name]}" for name in graph.received)
        finally:
            ssc.stop(stopSparkContext=False)

    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1, "b": 2}) != fingerprint({"a": 2, "b": 1})
