"""Hashes, rankings and counters in a real Redis hold each batch once."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timezone
from pathlib import Path
from typing import Any

import pytest
import redis as library
from pyspark.sql import DataFrame, SparkSession
from pyspark.streaming import DStream

from sparkstream_kit.contracts import Batch
from sparkstream_kit.errors import BatchFailed, OutputRefused, UsageError
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.outputs import _redis
from sparkstream_kit.outputs._redis import Redis
from sparkstream_kit.testing import run_batches

ROOT = Path(__file__).parents[2]
Frame = Callable[..., DataFrame]


@pytest.fixture
def url(redis_server: int) -> Iterator[str]:
    """An empty database."""
    yield f"redis://127.0.0.1:{redis_server}/1"
    library.Redis(port=redis_server, db=1).flushdb()


@pytest.fixture
def db(url: str) -> Any:
    return library.Redis.from_url(url, decode_responses=True)


@pytest.fixture
def frame(spark: SparkSession) -> Frame:
    return lambda *rows, schema="host string, n bigint": spark.createDataFrame(list(rows), schema).repartition(2)


def batch(n: int, home: str = "home-a") -> Batch:
    return Batch(n, datetime.datetime.fromtimestamp(n, timezone.utc), home, {"lines": (n - 1, n)})


def of_home(n: int, start: int | None = None) -> Batch:
    """A batch of a home, which has end offsets, unlike one of a bare DStream."""
    ranges = {"lines": (n - 1 if start is None else start, n)}
    return Batch(n, batch(n).time, "home-a", ranges, {"lines": n})


@pytest.mark.parametrize("kind", ["redis-hash", "redis-ranking", "redis-counter"])
def test_a_home_that_does_not_know_the_newest_batch_is_refused(
    kind: str, url: str, frame: Frame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_redis, "KEPT_BATCHES", 2)
    it = Redis(url, kind, None, "it")
    for n in (1, 2, 3, 5):  # a slide skipped 4
        assert it.write(frame(("a", n)), of_home(n)) == 1
    outdated = "the home is an outdated copy; use a new home and another name="
    for n in (1, 2, 4):
        with pytest.raises(OutputRefused, match=f"Redis already holds batch 5 .* only come to batch {n}: {outdated}"):
            it.write(frame(("b", n)), of_home(n))
    for n in (0, 1, 2, 3, 4):
        with pytest.raises(OutputRefused, match=f"Redis already holds batch 5 .* only come to batch {n}: {outdated}"):
            it.check(frame(), of_home(n))
    with pytest.raises(OutputRefused, match=rf"batch 5 .* but this one has .*\[70, 5\]}}: {outdated}"):
        it.check(frame(), of_home(5, start=70))
    it.check(frame(), of_home(5))
    with pytest.raises(OutputRefused, match="Redis already holds batch 3 .* only come to batch 2"):
        it.write(frame(("b", 2)), batch(2))  # of a bare DStream
    assert it.write(frame(("b", 4)), batch(4)) == 1, "Spark runs a batch again that failed"


def test_keys_are_claimed_at_the_start_by_one_output_of_one_home(url: str, frame: Frame) -> None:
    Redis(url, "redis-hash", None, "it").check(frame(), batch(0))
    Redis(url, "redis-ranking", None, "it").check(frame(), batch(0))
    with pytest.raises(OutputRefused, match=r"the keys it:\* belong to the output 'it' of the kind redis-hash, and "):
        Redis(url, "redis-counter", None, "it").check(frame(), batch(0))
    with pytest.raises(OutputRefused, match="'it' holds results of the home home-a, and this is the home home-b"):
        Redis(url, "redis-hash", None, "it").check(frame(), batch(0, "home-b"))


@pytest.mark.parametrize("rows", [[("a", 1), ("b", 1), ("a", 2)], [(None, 1), (None, 1)]])
def test_two_rows_with_one_key_are_refused_by_a_hash(rows: list[Any], url: str, db: Any, frame: Frame) -> None:
    with pytest.raises(
        BatchFailed, match="batch 1 of the output 'it' has duplicate keys; redis-hash needs one row per"
    ):
        Redis(url, "redis-hash", None, "it").write(frame(*rows), batch(1))
    assert db.keys("it:*") == []


@pytest.mark.parametrize("rows", [[(None, 1), ("null", 2)], [("null", 2), (None, 1)]])
def test_a_key_that_is_the_word_null_wins_over_a_null(rows: list[Any], url: str, db: Any, frame: Frame) -> None:
    Redis(url, "redis-hash", None, "it").write(frame(*rows).coalesce(1), batch(1))
    assert db.hgetall("it:null") == {"n": "2"}


@pytest.mark.parametrize("scores", [(9, 10, -3), (10, -3, 9), (-3, 9, 10)])
def test_the_higher_of_two_scores_counts(scores: tuple[int, ...], url: str, db: Any, frame: Frame) -> None:
    rows = [("a", score) for score in scores]
    Redis(url, "redis-ranking", None, "it").write(frame(*rows, ("b", 3)).coalesce(1), batch(1))
    assert db.zrange("it", 0, -1, withscores=True) == [("b", 3), ("a", 10)]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("redis-hash", {"a": 30, "b": 1, "c": 30}),
        ("redis-ranking", {"a": 30, "c": 30}),
        ("redis-counter", {"a": 56, "b": 3, "c": 50}),
    ],
)
def test_batches_that_run_again_are_written_once_more(
    kind: str, expected: dict[str, int], url: str, db: Any, frame: Frame
) -> None:
    it = Redis(url, kind, None, "it")
    for n in (1, 2, 3):
        it.write(frame(("a", n), ("b", 1)), of_home(n))
    for _ in range(2):  # twice, as after a kill
        it.forget(of_home(1), 3)
    it.check(frame(), of_home(3))
    for n in (2, 2, 3):
        it.write(frame(("a", 10 * n), ("c", 10 * n)), of_home(n))
    if kind == "redis-ranking":
        assert dict(db.zrange("it", 0, -1, withscores=True)) == expected
    else:
        assert {key.removeprefix("it:"): int(db.hget(key, "n")) for key in db.keys("it:*")} == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("redis-hash", {"a": 20, "b": 1, "c": 30}),
        ("redis-ranking", {"a": 4, "b": 1}),
        ("redis-counter", {"a": 30, "b": 4, "c": 50}),
    ],
)
def test_a_backfill_beside_the_job_writes_batches_once_more(
    kind: str, expected: dict[str, int], url: str, db: Any, frame: Frame
) -> None:
    it = Redis(url, kind, None, "it")

    def again(n: int) -> Batch:
        return replace(of_home(n), again=True, backfill="7")

    for n in (1, 2, 3):
        it.write(frame(("a", n), ("b", 1)), of_home(n))
    it.check(frame(), again(1))
    it.write(frame(("c", 20)), again(2))
    it.write(frame(("a", 4), ("b", 1)), of_home(4))  # the job goes on
    for _ in range(2):  # twice, as after a kill
        it.write(frame(("a", 20), ("c", 30)), again(3))
    it.check(frame(), of_home(4))
    if kind == "redis-ranking":
        assert dict(db.zrange("it", 0, -1, withscores=True)) == expected
    else:
        assert {key.removeprefix("it:"): int(db.hget(key, "n")) for key in db.keys("it:*")} == expected


def test_outputs_of_different_kinds_may_share_a_name(url: str, db: Any, frame: Frame) -> None:
    Redis(url, "redis-hash", None, "host").write(frame(("a", 1)), batch(1))
    Redis(url, "redis-ranking", None, "host").write(frame(("a", 1)), batch(1))
    assert (db.hgetall("host:a"), db.zrange("host", 0, -1)) == ({"n": "1"}, ["a"])


def test_a_row_is_a_hash_that_the_next_batch_replaces(url: str, db: Any, spark: SparkSession, frame: Frame) -> None:
    given = spark.sql(
        """select 'a' as host, 1 as n, true as ok, 1.50 as price, cast(null as string) as note,
        timestamp'2026-10-25 01:30:00Z' as at, 'ü\n' as `odd ``name`"""
    )
    assert Redis(url, "redis-hash", None, "host").write(given, batch(1)) == 1
    said = {"n": "1", "ok": "true", "price": "1.50", "at": "2026-10-25 01:30:00", "odd `name": "ü\n"}
    assert db.hgetall("host:a") == said
    Redis(url, "redis-hash", None, "host").write(frame(("a", 2), (None, 3), ("b", None)), batch(2))
    assert (db.hgetall("host:a"), db.hgetall("host:null"), db.exists("host:b")) == ({"n": "2"}, {"n": "3"}, 0)


def test_a_ranking_holds_the_best_of_the_newest_batch(url: str, db: Any, frame: Frame) -> None:
    top, nan = Redis(url, "redis-ranking", None, "top", 2), float("nan")
    top.write(
        frame(("a", 1.0), ("b", 2.5), ("c", nan), ("d", None), ("e", -1.0), schema="host string, n double"), batch(1)
    )
    assert list(map(tuple, db.zrange("top", 0, -1, desc=True, withscores=True))) == [("b", 2.5), ("a", 1.0)]
    top.write(frame(("z", 0)), batch(2))
    assert db.zrange("top", 0, -1) == ["z"]
    top.write(frame(), batch(3))
    assert not db.exists("top")


def test_counters_are_added_to_once_for_each_batch(url: str, db: Any, frame: Frame) -> None:
    hits = Redis(url, "redis-counter", None, "hits")
    assert [hits.write(frame(("a", 2**62 - 1), ("b", -n), ("b", None)), batch(n)) for n in (1, 2, 2)] == [3, 3, 0]
    hits.write(frame(("a", -5)), batch(3))
    assert db.hgetall("hits:a") == {"n": str(2**63 - 2 - 5)}
    assert db.hgetall("hits:b") == {"n": "-3"}


@pytest.mark.parametrize("kind", ["redis-hash", "redis-ranking", "redis-counter"])
def test_a_batch_that_runs_again_changes_nothing(kind: str, url: str, db: Any, frame: Frame) -> None:
    target = Redis(url, kind, None, "it")
    assert target.write(frame(("a", 1)), batch(1)) == 1
    before = db.hgetall("it:a") or db.zrange("it", 0, -1, withscores=True)
    assert target.write(frame(("a", 1), ("b", 2)), batch(1)) == 0
    assert (db.hgetall("it:a") or db.zrange("it", 0, -1, withscores=True)) == before
    with pytest.raises(OutputRefused, match="the home is an outdated copy"):
        target.write(frame(), Batch(1, batch(1).time, "home-a", {"lines": (0, 9)}))


@pytest.mark.parametrize("kind", ["redis-hash", "redis-ranking"])
def test_of_two_drivers_that_write_one_batch_at_once_one_does(
    kind: str, url: str, db: Any, frame: Frame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one commits between the check of the ledger and EXEC: the transaction fails and is retried."""
    multi = library.client.Pipeline.multi

    def other_driver_first(pipe: Any) -> None:
        monkeypatch.setattr(library.client.Pipeline, "multi", multi)
        assert Redis(url, kind, None, "it").write(frame(("a", 1)), batch(1)) == 1
        multi(pipe)

    monkeypatch.setattr(library.client.Pipeline, "multi", other_driver_first)
    with pytest.raises(library.WatchError):
        Redis(url, kind, None, "it").write(frame(("a", 1), ("b", 2)), batch(1))
    assert Redis(url, kind, None, "it").write(frame(("a", 1), ("b", 2)), batch(1)) == 0
    assert (db.exists("it:b"), db.zscore("it", "b")) == (0, None)


@pytest.mark.parametrize(("kind", "key"), [("redis-hash", "it:a"), ("redis-counter", "it:a"), ("redis-ranking", "it")])
def test_keys_that_no_batch_writes_expire(kind: str, key: str, url: str, db: Any, frame: Frame) -> None:
    Redis(url, kind, "1h", "it").write(frame(("a", 1)), batch(1))
    assert 3_500_000 < db.pttl(key) <= 3_600_000
    assert db.ttl(f"sparkstream:ledger:home-a:{kind}:it") == -1


@pytest.mark.parametrize(
    ("kind", "key", "why"),
    [
        ("redis-hash", "it:b", "the key 'it:b' holds a string, but the output 'it' writes a hash"),
        ("redis-ranking", "it", "the key 'it' holds a string, but the output 'it' writes a zset"),
        ("redis-counter", "it:b", "Redis rejects batch 1 of the output 'it': WRONGTYPE"),
    ],
)
def test_a_key_of_another_type_fails_the_batch_as_a_whole(
    kind: str, key: str, why: str, url: str, db: Any, frame: Frame
) -> None:
    db.set(key, "x")
    rows = [(name, 1) for name in "abc"]
    with pytest.raises(BatchFailed, match=why):
        Redis(url, kind, None, "it").write(frame(*rows), batch(1))
    assert all(value in ("0", None) for value in (db.hget("it:a", "n"), db.hget("it:c", "n")))
    db.delete(key)
    Redis(url, kind, None, "it").write(frame(*rows), batch(1))
    assert db.hget("it:c", "n") == "1" or db.zscore("it", "c") == 1


def test_a_counter_beyond_64_bits_fails_the_batch_as_a_whole(url: str, db: Any, frame: Frame) -> None:
    hits = Redis(url, "redis-counter", None, "hits")
    hits.write(frame(("a", 2**63 - 1), ("b", -5)), batch(1))
    with pytest.raises(BatchFailed, match="Redis rejects batch 2 of the output 'hits': .*overflow"):
        hits.write(frame(("b", -1), ("c", 2), ("a", 1)), batch(2))
    assert (db.hget("hits:a", "n"), db.hget("hits:b", "n")) == (str(2**63 - 1), "-5")


def test_more_rows_than_one_transaction_holds_fail_the_batch(
    url: str, frame: Frame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_redis, "MOST_ROWS", 2)
    assert Redis(url, "redis-hash", None, "it").write(frame(("a", 1), ("b", 1)), batch(1)) == 2
    with pytest.raises(BatchFailed, match="batch 2 of the output 'it' has more than 2 rows"):
        Redis(url, "redis-hash", None, "it").write(frame(("a", 1), ("b", 1), ("c", 1)), batch(2))


def test_another_home_is_refused_by_name(url: str, frame: Frame) -> None:
    Redis(url, "redis-hash", None, "it").write(frame(("a", 1)), batch(1))
    with pytest.raises(OutputRefused, match="'it' holds results of the home home-a, and this is the home home-b"):
        Redis(url, "redis-hash", None, "it").check(frame(), batch(0, "home-b"))


@pytest.mark.parametrize(
    ("kind", "schema", "why"),
    [
        ("redis-hash", "host string", "needs two columns or more, the first one a key: got host"),
        ("redis-ranking", "host string, n int, m int", "needs two columns, the first one a key: got host, n, m"),
        (
            "redis-ranking",
            "host string, n string",
            "the column 'n' for the output 'it' is string, which redis-ranking cannot hold",
        ),
        (
            "redis-counter",
            "host string, n double",
            "the column 'n' for the output 'it' is double, which redis-counter cannot",
        ),
        (
            "redis-hash",
            "host string, n array<int>",
            "the column 'n' for the output 'it' is array<int>, which redis-hash",
        ),
        ("redis-hash", "host map<int, int>, n int", "the column 'host' for the output 'it' is map<int,int>, which"),
    ],
)
def test_columns_that_do_not_fit_are_refused(kind: str, schema: str, why: str, url: str, frame: Frame) -> None:
    with pytest.raises(OutputRefused, match=why):
        Redis(url, kind, None, "it").check(frame(schema=schema), batch(0))


def test_a_server_that_is_away_fails_the_first_start_and_is_awaited_later(
    frame: Frame, caplog: pytest.LogCaptureFixture
) -> None:
    away = Redis("redis://kit:s3cret@127.0.0.1:1/0", "redis-hash", None, "it")
    with pytest.raises(UsageError, match=r"'it' cannot use redis://kit:\*\*\*@127.0.0.1:1/0 .*refused") as refused:
        away.check(frame(), batch(0))
    away.check(frame(), batch(7))
    assert "the output 'it' is waiting for redis://kit:***@127.0.0.1:1/0" in caplog.text
    assert "s3cret" not in f"{refused.value} {caplog.text} {away}"


@pytest.mark.parametrize(
    "rest", ["kit:s3cret/2@host/0", "kit:s3cret@host:port/0", "host/0?passwort=s3cret", "host/0?db=s3cret"]
)
def test_no_part_of_a_wrong_url_is_shown(rest: str, frame: Frame) -> None:
    with pytest.raises(UsageError, match="got an invalid Redis URL") as refused:
        Redis(f"redis://{rest}", "redis-hash", None, "it").check(frame(), batch(7))
    assert "s3cret" not in str(refused.value)


def test_a_job_serves_three_views_of_one_stream(url: str, db: Any) -> None:
    def job(lines: DStream[tuple[str, int]]) -> None:
        hits = FrameStream.of(lines, "host string, n bigint")
        _redis.redis_counter(hits, url, name="hits")
        _redis.redis_hash(hits, url, name="last", expire="1h")
        _redis.redis_ranking(hits, url, name="top", keep=1)

    run_batches(job, [[("a", 1), ("b", 2)], [("a", 10)]])
    assert (db.hgetall("hits:a"), db.hgetall("hits:b")) == ({"n": "11"}, {"n": "2"})
    assert (db.hgetall("last:a"), db.zrange("top", 0, -1)) == ({"n": "10"}, ["a"])


KILLS = """
import os, signal, sys
from datetime import datetime, timezone
import redis as library
from redis.connection import AbstractConnection
from sparkstream_kit.contracts import Batch
from sparkstream_kit.outputs import _redis as redis

url = sys.argv[1]
steps, deadly = 0, None

def step():
    global steps
    steps += 1
    if steps == deadly:
        os.kill(os.getpid(), signal.SIGKILL)

def around(function):
    def stepping(*arguments, **options):
        step()
        answer = function(*arguments, **options)
        step()
        return answer
    return stepping

class Frame:
    "What the output needs of a DataFrame; the process under test is the driver's, without a JVM."
    columns = ["host", "n"]
    schema = None
    def __init__(self, rows): self.rows = rows
    def limit(self, n): return self
    def coalesce(self, n): return self
    def collect(self): return self.rows

def run():
    for kind, n, rows in (
        ("redis-counter", 1, [("a", "1"), ("b", "2")]),
        ("redis-counter", 2, [("b", "3"), ("c", "4")]),
        ("redis-hash", 2, [("b", "3"), ("c", "4")]),
        ("redis-ranking", 2, [("b", "3"), ("c", "4")]),
    ):
        batch = Batch(n, datetime.fromtimestamp(n, timezone.utc), "home", {"x": (n - 1, n)})
        redis.Redis(url, kind, None, kind).write(Frame(rows), batch)

def found():
    db = library.Redis.from_url(url, decode_responses=True)
    hashes = {key: db.hget(key, "n") for key in sorted(db.keys("redis-*:?"))}
    ranking = list(map(tuple, db.zrange("redis-ranking", 0, -1, withscores=True)))
    db.flushdb()
    return hashes, ranking

def run_in_a_process(dies_at=None):
    global steps, deadly
    pid = os.fork()
    if pid == 0:
        try:
            steps, deadly = 0, dies_at
            AbstractConnection.send_packed_command = around(AbstractConnection.send_packed_command)
            AbstractConnection.read_response = around(AbstractConnection.read_response)
            run()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

redis.Redis._check_columns = lambda self, schema: None
redis._strings = lambda frame: frame
assert run_in_a_process() == 0
expected, kills = found(), 0
while (code := run_in_a_process(dies_at=kills + 1)) != 0:
    assert code == -signal.SIGKILL, code
    assert run_in_a_process() == 0
    got, kills = found(), kills + 1
    assert got == expected, (kills, got, expected)
print(kills, "kills")
print(*expected)
"""


def test_a_driver_killed_between_any_two_steps_leaves_each_batch_once(url: str) -> None:
    run = subprocess.run([sys.executable, "-c", KILLS, url], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    kills, found = run.stdout.splitlines()
    assert int(kills.split()[0]) > 40, "before and after every command and reply of four writes"
    counters = {"redis-counter:a": "1", "redis-counter:b": "5", "redis-counter:c": "4"}
    hashes = {**counters, "redis-hash:b": "3", "redis-hash:c": "4"}
    assert found == f"{hashes} {[('b', 3.0), ('c', 4.0)]}"
