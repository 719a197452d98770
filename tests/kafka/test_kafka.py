"""What the source reads from a real broker: each record once, whatever becomes of the broker, the topic or the job."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit.errors import InputLost, UsageError
from sparkstream_kit.frames import FrameStream
from tests.support.kafka import Broker, Client, Record
from tests.support.supervisor import wait_until
from tests.support.ticks import Build, Seen, job, killed

Read = Callable[..., Build]


@pytest.fixture
def reading(spark: SparkSession, broker: Broker) -> Read:
    """A job that yields topic, partition, offset and value of each record."""

    def make(*topics: str, **options: Any) -> Build:
        def build(ssc: StreamingContext) -> dict[str, FrameStream]:
            records = ss.sources.kafka(ssc, broker.address, list(topics), **options)
            return {"records": records.select("topic", "partition", "offset", "value")}

        return build

    return make


def at(build: Build, home: Path, *seconds: int, give_up: tuple[str, ...] = (), **options: Any) -> list[Any]:
    """The rows that a job brings at these seconds: by batch, topic, partition and offset."""
    seen: Seen = {}
    with job(build, home, seen, give_up_files=give_up, **options) as engine:
        for second in seconds:
            engine.tick(1000 * second)
    return [row for _, rows in sorted(seen.get("records", {}).items()) for row in sorted(rows)]


def values(rows: list[Any]) -> list[str]:
    return [row[3] for row in rows]


def numbered(first: int, last: int, partition: int = 0) -> list[Record]:
    return [Record(b"%d" % n, partition) for n in range(first, last)]


# --- rows


def test_rows_are_those_of_sparks_batch_source(
    spark: SparkSession, broker: Broker, client: Client, name: str, tmp_path: Path
) -> None:
    client.create(name, 3)
    headers = {"trace": b"\x00\xff", "empty": b"", "": b"x"}
    records = [
        Record(b"text", 0, b"key", 1_700_000_000_000, headers),
        Record(b"", 0),
        Record(None, 1, b"tombstone"),
        Record(bytes(range(256)), 1, bytes(reversed(range(256)))),
        Record("é\u2028\U0001f600".encode(), 2, b""),
    ]
    client.send(name, records)
    got: list[Row] = []

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        stream = ss.sources.kafka(ssc, broker.address, name)
        stream.for_each_batch(lambda frame, batch: got.extend(with_bytes(frame).collect()), name="all")
        return {}

    def with_bytes(frame: Any) -> Any:
        binary = [F.col(name).cast("binary").alias(name) for name in ("key", "value")]
        return frame.select(*binary, "topic", "partition", "offset", "timestamp", "headers")

    with job(build, tmp_path / "home") as engine:
        engine.tick(1000)
    options = {"kafka.bootstrap.servers": broker.address, "subscribe": name, "includeHeaders": "true"}
    batch = spark.read.format("kafka").options(**options).load().drop("timestampType")
    expected = batch.select(*got[0].__fields__).collect()
    assert sorted(got, key=lambda row: row[2:5]) == sorted(expected, key=lambda row: row[2:5])
    assert [row.value for row in sorted(got, key=lambda row: row[3:5])] == [record.value for record in records]


def test_records_of_a_partition_stay_in_order_also_if_it_is_cut_into_tasks(
    spark: SparkSession, broker: Broker, client: Client, name: str, tmp_path: Path
) -> None:
    client.create(name)
    client.write(spark.range(60_000).selectExpr("cast(id as string) value").coalesce(1), name)
    tasks, got = [], []

    def see(frame: Any, batch: ss.Batch) -> None:
        tasks.append(frame.rdd.getNumPartitions())
        got.extend(row.value for row in frame.select("value").collect())

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        ss.sources.kafka(ssc, broker.address, name).for_each_batch(see, name="all")
        return {}

    with job(build, tmp_path / "home") as engine:
        engine.tick(1000)
    assert got == [str(n) for n in range(60_000)]
    assert tasks == [2]


def test_nothing_new_brings_no_batch(reading: Read, client: Client, name: str, tmp_path: Path) -> None:
    client.create(name, 2)
    assert at(reading(name), tmp_path / "home", 1, 2) == []
    client.send(name, numbered(0, 3))
    assert values(at(reading(name), tmp_path / "home", 3, 4)) == ["0", "1", "2"]
    assert at(reading(name), tmp_path / "home", 5) == []


def test_a_record_of_ten_megabytes(reading: Read, client: Client, name: str, tmp_path: Path) -> None:
    client.create(name, max_message_bytes=str(11 << 20))
    client.send(name, [Record(b"x" * (10 << 20)), Record(b"after")], max_request_size=str(11 << 20))
    assert [len(value) for value in values(at(reading(name), tmp_path / "home", 1))] == [10 << 20, 5]


# --- where reading begins


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("earliest", "0213"),
        ("latest", ""),
        ("2023-11-14T22:13:21Z", "213"),
        ("2023-11-14T23:13:22+01:00", "23"),
        ("2100-01-01T00:00Z", ""),
        ('{"TOPIC": {"1": 1}}', "023"),
    ],
)
def test_it_begins_where_start_says(
    reading: Read, client: Client, name: str, tmp_path: Path, start: str, expected: str
) -> None:
    client.create(name, 2)
    times = [1_700_000_000_000 + 1000 * n for n in range(4)]
    client.send(name, [Record(b"%d" % n, n % 2, timestamp=time) for n, time in enumerate(times)])
    build = reading(name, start=start.replace("TOPIC", name))
    assert "".join(values(at(build, tmp_path / "home", 1))) == expected
    client.send(name, [Record(b"+")])
    assert values(at(build, tmp_path / "home", 2)) == ["+"]


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("soon", "expected earliest, latest, a time such as"),
        ("2026-01-31T08:00", "expected its time zone, too: 2026-01-31T08:00Z"),
        ("2026-01-31", "expected its time zone, too: 2026-01-31T00:00Z"),
        ('{"x": 3}', "expected offsets such as"),
        ('{"x": {"0": 1.9}}', "expected offsets such as"),
        ('{"x": {"-1": 2}}', "expected offsets such as"),
        ('{"y": {"0": 2}}', "the topics x: 'y' is not read"),
        ("{}]", "expected offsets such as"),
    ],
)
def test_a_start_that_says_nothing_is_refused(reading: Read, tmp_path: Path, start: str, words: str) -> None:
    with pytest.raises(UsageError, match=words), job(reading("x", start=start), tmp_path / "home"):
        pass


def test_offsets_that_a_partition_does_not_have_are_refused(
    reading: Read, client: Client, name: str, tmp_path: Path
) -> None:
    client.create(name)
    client.send(name, numbered(0, 3))
    for given, words in (('"0": 7', "begins at 0 and ends at 3"), ('"4": 0', "has 1")):
        with pytest.raises(UsageError, match=words):
            at(reading(name, start=f'{{"{name}": {{{given}}}}}'), tmp_path / "home", 1)


# --- topics that come, grow and go


def test_new_partitions_and_topics_are_read_from_their_beginning(
    reading: Read, client: Client, name: str, tmp_path: Path
) -> None:
    build = reading(f"{name}-*", start="latest")
    client.create(f"{name}-a")
    client.send(f"{name}-a", numbered(0, 3))
    assert at(build, tmp_path / "home", 1) == []
    client.create(f"{name}-b", 2)
    client.add_partitions(f"{name}-a", 2)
    client.send(f"{name}-a", [Record(b"a0"), Record(b"a1", 1)])
    client.send(f"{name}-b", [Record(b"b1", 1)])
    assert sorted(values(at(build, tmp_path / "home", 2))) == ["a0", "a1", "b1"]
    assert at(build, tmp_path / "home", 3) == []


def test_a_pattern_that_matches_nothing_yet(reading: Read, client: Client, name: str, tmp_path: Path) -> None:
    build = reading(f"{name}-*", start="latest")
    assert at(build, tmp_path / "home", 1) == []
    client.create(f"{name}-a")
    client.send(f"{name}-a", numbered(0, 3))
    assert values(at(build, tmp_path / "home", 2)) == ["0", "1", "2"]


def test_what_retention_removes_of_a_new_partition_is_missed(
    reading: Read, client: Client, name: str, tmp_path: Path
) -> None:
    client.create(name)
    assert at(reading(name), tmp_path / "home", 1) == []
    client.add_partitions(name, 2)
    client.send(name, numbered(0, 9, 1))
    client.delete_records(name, {1: 5})
    with pytest.raises(InputLost, match="the records 0 to 4 of partition 1"):
        at(reading(name), tmp_path / "home", 2)
    assert values(at(reading(name), tmp_path / "home", 3, give_up=(name,))) == ["5", "6", "7", "8"]


def test_a_drain_in_which_a_window_reads_an_older_batch_of_one_topic(
    reading: Read, client: Client, name: str, tmp_path: Path
) -> None:
    names = [f"{name}-a", f"{name}-b"]
    for topic in names:
        client.create(topic)
        client.send(topic, numbered(0, 9))
    with job(reading(*names), tmp_path / "home") as engine:
        source = engine.graph.sources["kafka"]
        end = source.latest_offset(None)
        half = source.limit(None, end, 10)
        assert source.prepare(None, half) == half
        rows = source.read(None, half).collect()
        again = source.read(None, {names[0]: half[names[0]]}).collect()
        assert again == [row for row in rows if row.topic == names[0]]
        assert source.prepare(half, end) == end
        rows += source.read(half, end).collect()
    assert sorted((row.topic, row.offset) for row in rows) == [(topic, n) for topic in names for n in range(9)]


@pytest.mark.parametrize("topics", ["a/b", "a b", ".", "x" * 260])
def test_a_name_that_no_topic_has_is_refused(reading: Read, tmp_path: Path, topics: str) -> None:
    with pytest.raises(UsageError, match="got the topic .*create it, or correct it"):
        at(reading(topics), tmp_path / "home", 1)


@pytest.mark.parametrize("topics", ["", ",", []])
def test_no_topics_are_refused(spark: SparkSession, topics: Any) -> None:
    ssc = StreamingContext(spark.sparkContext, 1)
    with pytest.raises(UsageError, match="expected names or patterns of topics"):
        ss.sources.kafka(ssc, "127.0.0.1:9", topics)
    ssc.stop(stopSparkContext=False)


def test_a_topic_that_does_not_exist_is_named_with_those_that_do(
    reading: Read, client: Client, name: str, tmp_path: Path
) -> None:
    client.create(name)
    with pytest.raises(UsageError, match=f"got the topic '{name}x', and the brokers have .*create it, or correct it"):
        at(reading(f"{name}x"), tmp_path / "home", 1)


def test_a_topic_that_was_deleted_and_created_again_is_another_one(
    reading: Read, client: Client, name: str, tmp_path: Path
) -> None:
    client.create(name)
    client.send(name, numbered(0, 3))
    assert values(at(reading(name), tmp_path / "home", 1)) == ["0", "1", "2"]
    client.delete(name)
    with pytest.raises(InputLost, match=f"{name!r}, read up to .*, has been deleted; .*--give-up {name}"):
        at(reading(name), tmp_path / "home", 2)
    client.create(name)
    client.send(name, numbered(10, 19))  # more than before: offsets alone would not show it
    with pytest.raises(InputLost, match="has been deleted and created again"):
        at(reading(name), tmp_path / "home", 3)
    assert values(at(reading(name), tmp_path / "home", 4, give_up=(name,))) == [str(n) for n in range(10, 19)]
    assert at(reading(name), tmp_path / "home", 5) == []


def test_a_topic_that_is_gone_for_good_is_given_up_once(
    reading: Read, client: Client, name: str, tmp_path: Path
) -> None:
    for part in ("a", "b"):
        client.create(f"{name}-{part}")
        client.send(f"{name}-{part}", [Record(part.encode())])
    build = reading(f"{name}-*")
    assert values(at(build, tmp_path / "home", 1)) == ["a", "b"]
    client.delete(f"{name}-a")
    with pytest.raises(InputLost, match=f"'{name}-a'.*has been deleted"):
        at(build, tmp_path / "home", 2)
    assert at(build, tmp_path / "home", 3, give_up=(f"{name}-a",)) == []
    client.send(f"{name}-b", [Record(b"more")])
    assert values(at(build, tmp_path / "home", 4)) == ["more"]
    client.delete(f"{name}-b")
    assert at(build, tmp_path / "home", 5, give_up=(f"{name}-b",)) == []
    client.create(f"{name}-a")
    client.send(f"{name}-a", [Record(b"new")])
    assert values(at(reading(f"{name}-*", start="latest"), tmp_path / "home", 6)) == ["new"]


def test_records_that_retention_removed_are_named_and_given_up_only_on_request(
    reading: Read, client: Client, name: str, tmp_path: Path
) -> None:
    client.create(name, 2)
    client.send(name, [*numbered(0, 3), *numbered(0, 3, 1)])
    at(reading(name), tmp_path / "home", 1)
    client.send(name, [*numbered(3, 9), *numbered(3, 9, 1)])
    client.delete_records(name, {0: 5})
    gap = f"the records 3 to 4 of partition 0 of the topic {name!r} are gone"
    for second in (2, 3):
        with pytest.raises(InputLost, match=f"{gap}.*--give-up {name}"):
            at(reading(name), tmp_path / "home", second)
    found = at(reading(name), tmp_path / "home", 4, give_up=(name,))
    assert [row[2] for row in found if row[1] == 0] == [5, 6, 7, 8]
    assert [row[2] for row in found if row[1] == 1] == [3, 4, 5, 6, 7, 8]
    notes = list((tmp_path / "home" / "sources" / "kafka" / "given-up").iterdir())
    assert [note.read_text().partition(" were")[0] for note in notes] == [gap.removesuffix(" are gone")]
    client.send(name, numbered(9, 10))
    assert values(at(reading(name), tmp_path / "home", 5)) == ["9"]


def test_a_long_gap_is_given_up_at_once(reading: Read, client: Client, name: str, tmp_path: Path) -> None:
    client.create(name)
    client.send(name, numbered(0, 2))
    at(reading(name), tmp_path / "home", 1, max_per_batch=2)
    client.send(name, numbered(2, 95))
    client.delete_records(name, {0: 90})
    with pytest.raises(InputLost, match="the records 2 to 89 of partition 0"):
        at(reading(name), tmp_path / "home", 2, max_per_batch=2)
    assert values(at(reading(name), tmp_path / "home", 3, give_up=(name,), max_per_batch=2)) == ["90", "91"]
    assert values(at(reading(name), tmp_path / "home", 4, 5, max_per_batch=2)) == ["92", "93", "94"]
    assert len(list((tmp_path / "home" / "sources" / "kafka" / "given-up").iterdir())) == 1


def test_records_of_a_recorded_batch_that_are_gone_before_it_is_done(
    reading: Read, client: Client, name: str, tmp_path: Path
) -> None:
    client.create(name)
    client.send(name, numbered(0, 6))
    with contextlib.suppress(SystemExit), job(reading(name), tmp_path / "home") as engine:
        engine.graph.log.mark_done = killed  # type: ignore[method-assign]
        engine.tick(1000)
    client.delete_records(name, {0: 4})
    with pytest.raises(InputLost, match="the records 0 to 3 of partition 0"):
        at(reading(name), tmp_path / "home", 2)
    assert values(at(reading(name), tmp_path / "home", 3, give_up=(name,))) == ["4", "5"]


def test_a_compacted_topic_and_its_gaps(reading: Read, client: Client, name: str, tmp_path: Path) -> None:
    fast = {"min_cleanable_dirty_ratio": "0.01", "segment_ms": "100", "max_compaction_lag_ms": "100"}
    client.create(name, cleanup_policy="compact", **fast)
    for n in range(30):
        client.send(name, [Record(b"%d" % n, key=b"k%d" % (n % 3))])
    # whether the broker has compacted by now or not: the last record of each key is there, and none twice
    found = at(reading(name), tmp_path / "home", 1, 2)
    offsets = [row[2] for row in found]
    assert len(offsets) == len(set(offsets))
    assert {"27", "28", "29"} <= set(values(found))


# --- transactions


def test_records_of_transactions_come_once_they_are_committed(
    reading: Read, client: Client, name: str, tmp_path: Path
) -> None:
    client.create(name)
    with client.producer(transactional_id=f"{name}-1") as producer:
        producer.initTransactions()
        for commit, value in ((True, b"committed"), (False, b"aborted")):
            producer.beginTransaction()
            producer.send(client.record(name, Record(value)))
            producer.flush()  # what has not been sent is dropped when it is aborted
            producer.commitTransaction() if commit else producer.abortTransaction()
        producer.beginTransaction()
        producer.send(client.record(name, Record(b"open")))
        producer.flush()
        client.send(name, [Record(b"behind it")])
        assert values(at(reading(name), tmp_path / "home", 1, 2)) == ["committed"]
        dirty = reading(name, config={"isolation.level": "read_uncommitted"})
        assert values(at(dirty, tmp_path / "dirty", 1)) == ["committed", "aborted", "open", "behind it"]
        producer.commitTransaction()
    assert values(at(reading(name), tmp_path / "home", 3)) == ["open", "behind it"]
    assert at(reading(name), tmp_path / "home", 4) == []


def test_transactions_are_respected_from_some_start_on(
    reading: Read, client: Client, name: str, tmp_path: Path
) -> None:
    client.create(name)
    dirty = reading(name, config={"isolation.level": "read_uncommitted"})
    with client.producer(transactional_id=f"{name}-1") as producer:
        producer.initTransactions()
        producer.beginTransaction()
        producer.send(client.record(name, Record(b"open")))
        producer.flush()
        assert values(at(dirty, tmp_path / "home", 1)) == ["open"]
        client.send(name, [Record(b"more")])
        assert at(reading(name), tmp_path / "home", 2) == []
        producer.commitTransaction()
    assert values(at(reading(name), tmp_path / "home", 3)) == ["more"]


# --- limits


def test_limits_in_all_and_for_each_partition(reading: Read, client: Client, name: str, tmp_path: Path) -> None:
    client.create(name, 2)
    client.send(name, [*numbered(0, 30), *numbered(0, 10, 1)])

    def count(build: Build, home: str, **options: Any) -> list[tuple[int, int]]:
        seen: Seen = {}
        with job(build, tmp_path / home, seen, **options) as engine:
            for second in range(1, 12):
                engine.tick(1000 * second)
        batches = [rows for _, rows in sorted(seen["records"].items())]
        assert sorted(row[1:3] for rows in batches for row in rows) == [
            *((0, n) for n in range(30)),
            *((1, n) for n in range(10)),
        ]
        return [(sum(row[1] == 0 for row in rows), sum(row[1] == 1 for row in rows)) for rows in batches]

    assert count(reading(name), "all", max_per_batch=8) == [(6, 2)] * 5
    assert count(reading(name, max_per_partition=12), "each") == [(12, 10), (12, 0), (6, 0)]
    sizes = count(reading(name, max_per_partition=4), "both", max_per_batch=6)
    assert all(a <= 4 and b <= 4 and a + b <= 6 for a, b in sizes)


def test_a_small_limit_starves_no_partition(reading: Read, client: Client, name: str, tmp_path: Path) -> None:
    client.create(name, 4)
    seen: Seen = {}
    with job(reading(name), tmp_path / "home", seen, max_per_batch=2) as engine:
        for second in range(1, 13):
            client.send(name, [record for partition in range(4) for record in numbered(second, second + 1, partition)])
            engine.tick(1000 * second)
    read = Counter(row[1] for rows in seen["records"].values() for row in rows)
    assert sum(read.values()) == 24 and min(read.values()) >= 4, read


# --- others who watch


def test_the_offsets_of_a_group_are_committed(reading: Read, client: Client, name: str, tmp_path: Path) -> None:
    client.create(name, 2)
    client.send(name, [*numbered(0, 3), *numbered(0, 2, 1)])
    at(reading(name, group="watched"), tmp_path / "home", 1)
    wait_until(lambda: client.committed("watched") == {f"{name}-0": 3, f"{name}-1": 2}, "the offsets are committed")
