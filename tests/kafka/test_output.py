"""Rows sent to a real broker: all, in the order of their key, with an id that stays when they are sent again."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

import sparkstream_kit as ss
from sparkstream_kit.bridge import jvm
from sparkstream_kit.bridge import kafka as bridge
from sparkstream_kit.errors import OutputRefused, UsageError
from tests.support import kafka
from tests.support.kafka import Broker, Client, Record
from tests.support.supervisor import ROOT, finish, kill_at_point, kill_at_random
from tests.support.ticks import Build, given, job

SCRIPT = str(ROOT / "tests" / "kafka" / "jobs" / "records.py")
JSON_LINES = "k string, n int"


def sent(spark: SparkSession, broker: Broker, topic: str) -> list[Row]:
    """The records of a topic, as Spark's own source reads them: by partition, in their order."""
    options = {"kafka.bootstrap.servers": broker.address, "subscribe": topic, "includeHeaders": "true"}
    return spark.read.format("kafka").options(**options).load().orderBy("partition", "offset").collect()


def header(record: Row, name: str) -> str:
    (value,) = (value for key, value in record.headers if key == name)
    return bytes(value).decode()


def ids(records: list[Row]) -> list[str]:
    return [header(record, "sparkstream-id") for record in records]


def sending(
    to: Broker, topic: str, batches: Any, schema: str, change: Any = lambda rows: rows, **options: Any
) -> Build:
    def build(ssc: Any) -> dict[str, Any]:
        ss.outputs.kafka(change(given(ssc, batches, schema)), to.address, topic, **options)
        return {}

    return build


def send(build: Build, home: Path, *seconds: int) -> None:
    with job(build, home) as engine:
        for second in seconds:
            engine.tick(1000 * second)


@pytest.fixture
def send_rows(broker: Broker, client: Client, name: str, tmp_path: Path) -> Callable[..., None]:
    """A function that sends rows in one batch to the topic of the test, which has three partitions."""

    def run(rows: list[Any], schema: str, change: Any = lambda rows: rows, **options: Any) -> None:
        client.create(name, 3)
        send(sending(broker, name, [rows], schema, change, **options), tmp_path, 1)

    return run


# --- records


def test_any_columns_are_one_json_object_with_its_nulls(
    spark: SparkSession, broker: Broker, name: str, send_rows: Any
) -> None:
    send_rows([("a", 1), ("b", None), (None, 3)], JSON_LINES, key="k")
    records = Counter((record.key, record.value) for record in sent(spark, broker, name))
    assert records == Counter(
        {(b"a", b'{"k":"a","n":1}'): 1, (b"b", b'{"k":"b","n":null}'): 1, (None, b'{"k":null,"n":3}'): 1}
    )


def test_a_value_is_sent_as_it_is_with_key_headers_and_partition(
    spark: SparkSession, broker: Broker, name: str, send_rows: Any
) -> None:
    def with_headers(rows: ss.FrameStream) -> ss.FrameStream:
        one = F.struct(F.lit("trace").alias("key"), F.col("value").cast("binary").alias("value"))
        return rows.select("*", F.when(F.col("value").isNotNull(), F.array(one, one)).alias("headers"))

    send_rows([("a", "x", 2), (None, "y", 0), ("a", None, 1)], "key string, value string, partition int", with_headers)
    records = sent(spark, broker, name)
    assert [(r.partition, r.key, r.value) for r in records] == [(0, None, b"y"), (1, b"a", None), (2, b"a", b"x")]
    own = [[(key, bytes(value)) for key, value in r.headers if not key.startswith("sparkstream-")] for r in records]
    assert own == [[("trace", b"y")] * 2, [], [("trace", b"x")] * 2]


def test_bytes_and_other_keys(spark: SparkSession, broker: Broker, name: str, send_rows: Any) -> None:
    def as_bytes(rows: ss.FrameStream) -> ss.FrameStream:
        return rows.select(F.unhex("text").alias("value"), "`the.key`")

    send_rows([("00ff80", 7)], "text string, `the.key` bigint", as_bytes, key="the.key")
    assert [(record.key, record.value) for record in sent(spark, broker, name)] == [(b"7", b"\x00\xff\x80")]


def test_headers_say_where_a_record_comes_from_and_tell_equal_rows_apart(
    spark: SparkSession, broker: Broker, client: Client, name: str, tmp_path: Path
) -> None:
    client.create(name, 3)
    batches = [[("a", 1), ("a", 1), ("b", 1)], [("a", 1)]]
    send(sending(broker, name, batches, JSON_LINES, key="k", name="twice"), tmp_path / "home", 1, 2)
    send(sending(broker, name, batches, JSON_LINES, key="k"), tmp_path / "other", 1, 2)
    records = sent(spark, broker, name)
    assert len(records) == len(set(ids(records))) == 8
    origins = [[header(r, f"sparkstream-{what}") for what in ("home", "output", "batch")] for r in records]
    assert Counter((output, n) for _, output, n in origins) == {
        **{("twice", "1"): 3, ("twice", "2"): 1},
        **{("kafka", "1"): 3, ("kafka", "2"): 1},
    }
    assert len({home for home, _, _ in origins}) == 2


def test_headers_of_a_job_before_are_replaced(spark: SparkSession, broker: Broker, name: str, send_rows: Any) -> None:
    def forwarded(rows: ss.FrameStream) -> ss.FrameStream:
        names = ("sparkstream-id", "trace", "sparkstream-batch")
        headers = [F.struct(F.lit(each).alias("key"), F.encode("value", "utf-8").alias("value")) for each in names]
        return rows.select("value", F.array(*headers).alias("headers"))

    send_rows([("x",), ("y",)], "value string", forwarded)
    records = sent(spark, broker, name)
    assert len({*ids(records)} - {"x", "y"}) == 2
    assert [[key for key, _ in record.headers] for record in records] == [
        ["trace", *(f"sparkstream-{kind}" for kind in ("home", "output", "batch", "id"))]
    ] * 2


def test_timestamps_keep_their_microseconds(spark: SparkSession, broker: Broker, name: str, send_rows: Any) -> None:
    send_rows([(1_700_000_000_123_456,)], "n bigint", lambda rows: rows.select(F.timestamp_micros("n").alias("at")))
    ((value,),) = (
        spark.createDataFrame([(bytes(sent(spark, broker, name)[0].value).decode(),)], "v string")
        .selectExpr("unix_micros(from_json(v, 'at timestamp').at)")
        .collect()
    )
    assert value == 1_700_000_000_123_456


def test_rows_of_a_key_keep_their_order(
    spark: SparkSession, broker: Broker, client: Client, name: str, tmp_path: Path
) -> None:
    client.create(name, 4)

    def many(frame: DataFrame) -> DataFrame:
        return spark.range(0, 40_000, 1, 8).select((F.col("id") % 37).alias("k"), F.expr("id div 11 as n"))

    send(sending(broker, name, [[("", 0)]], JSON_LINES, lambda rows: rows.transform(many), key="k"), tmp_path, 1)
    rows = [json.loads(record.value) for record in sent(spark, broker, name)]
    assert len(rows) == 40_000
    for k in range(37):
        assert [row["n"] for row in rows if row["k"] == k] == [n // 11 for n in range(k, 40_000, 37)]


# --- once for a consumer that remembers


def test_a_batch_that_runs_again_sends_the_same_ids(
    spark: SparkSession, broker: Broker, client: Client, name: str, tmp_path: Path
) -> None:
    client.create(name, 3)
    batches = [[("a", n % 3) for n in range(20)], [("b", n) for n in range(5)]]

    def two_outputs(ssc: Any) -> dict[str, Any]:
        def fail(frame: DataFrame, batch: ss.Batch) -> None:
            if not (tmp_path / "mended").exists():
                raise OSError("the second output is away")

        rows = given(ssc, batches, JSON_LINES)
        ss.outputs.kafka(rows.repartition(len(list(tmp_path.iterdir())) + 1), broker.address, name)
        rows.for_each_batch(fail, name="second")
        return {}

    with pytest.raises(OSError, match="the second output is away"):
        send(two_outputs, tmp_path / "home", 1)
    first = sent(spark, broker, name)
    (tmp_path / "mended").touch()
    send(two_outputs, tmp_path / "home", 2)
    again = sent(spark, broker, name)
    assert (len(first), len(again)) == (20, 45)
    assert len(set(ids(first))) == 20
    assert set(ids(first)) < set(ids(again))
    assert len(set(ids(again))) == 25
    assert Counter(Counter(ids(again)).values()) == {2: 20, 1: 5}


def test_a_consumer_that_drops_known_ids_has_each_row_once_whatever_was_killed(
    new_job: Any, spark: SparkSession, broker: Broker, client: Client, name: str
) -> None:
    count = 6_000
    for topic in (name, f"{name}-out"):
        client.create(topic, 4)
    numbers = spark.range(0, count, 1, 4)
    client.write(numbers.selectExpr("cast(id % 700 as string) value", "cast(id % 4 as int) partition"), name)
    made = new_job(script=SCRIPT)
    arguments = ["--source", f"kafka:{broker.address}/{name}?max_per_partition=100", "--batch-interval", "200ms"]
    arguments += ["--output", f"records=kafka:{broker.address}/{name}-out", "--output", f"running=json:{made.out}"]
    arguments += kafka.confs()
    kill_at_random(made, arguments, "jvm", random.Random(name), most=400)
    for point in (("publish", 1, "before"), ("done", 2, "before")):  # the other output's file, and the batch's own mark
        kill_at_point(made, arguments, point, most=400)
    finish(made, arguments)
    records = sent(spark, broker, f"{name}-out")
    assert len(records) > count  # something was sent again
    once = {header(record, "sparkstream-id"): bytes(record.value).decode() for record in records}
    written = Counter(once.values())
    expected = Counter(f"{r.partition} {r.offset} {bytes(r.value).decode()}" for r in sent(spark, broker, name))
    made.report("rows sent to a topic", count, (expected - written).total(), (written - expected).total())


def test_the_consumer_of_the_docs_has_each_row_once(
    spark: SparkSession, broker: Broker, client: Client, name: str, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "kafka.md").read_text()
    (recipe,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = {}
    exec(recipe, found)
    client.create(name, 3)
    batches = [[("a", n // 2) for n in range(20)]]
    send(sending(broker, name, batches, JSON_LINES, key="k"), tmp_path / "home", 1)
    records = sent(spark, broker, name)
    again = [Record(bytes(r.value), headers={key: bytes(value) for key, value in r.headers}) for r in records[:7]]
    got: list[str] = []

    def build(ssc: Any) -> dict[str, Any]:
        once = found["once"](ss.sources.kafka(ssc, broker.address, name, max_per_partition=8))
        once.for_each_batch(lambda rows, batch: got.extend(row.value for row in rows.collect()), name="all")
        return {}

    client.send(name, [*again, Record(b"other"), Record(b"other"), *again])
    with job(build, tmp_path / "consumer") as engine:
        for second in range(1, 9):
            engine.tick(1000 * second)
    assert Counter(got) == {**{f'{{"k":"a","n":{n}}}': 2 for n in range(10)}, "other": 2}


# --- what is refused


@pytest.mark.parametrize(
    ("schema", "options", "words"),
    [
        ("value string, path string", {}, "got the column path: string, expected value and perhaps key"),
        ("value int", {}, "got the column value: int"),
        ("value string, headers array<string>", {}, "got the column headers: array<string>"),
        ("value string, partition string", {}, "got the column partition: string"),
        ("path string", {"key": "host"}, "got key=host, expected one of the columns path"),
    ],
)
def test_columns_that_do_not_fit_are_refused_at_the_start(
    broker: Broker, client: Client, name: str, tmp_path: Path, schema: str, options: Any, words: str
) -> None:
    client.create(name)
    with pytest.raises(OutputRefused, match=words):
        send(sending(broker, name, [], schema, **options), tmp_path)


NO_KEY = "array(struct(cast(null as string) as key, cast('v' as binary) as value))"


@pytest.mark.parametrize(
    ("row", "options", "words"),
    [
        ("'x' as value, -1 as partition", {}, "got the partition -1, and the topic has 3, from 0 on"),
        ("'x' as value, 3 as partition", {}, "got the partition 3, and the topic has 3, from 0 on"),
        (f"'x' as value, {NO_KEY} as headers", {}, "got a header whose key is null"),
        (
            "repeat('x', 2000) as value",
            {"config": {"max.request.size": "1000"}},
            "larger than 1000, which is the value",
        ),
        ("repeat('x', 2000) as value", {}, "larger than the max message size"),
    ],
)
def test_a_row_that_kafka_refuses_fails_the_batch_as_one_that_fails_each_time(
    broker: Broker, client: Client, name: str, tmp_path: Path, row: str, options: Any, words: str
) -> None:
    client.create(name, 3, max_message_bytes="1500")
    one_row = sending(
        broker,
        name,
        [[("", 1)]],
        JSON_LINES,
        lambda rows: rows.transform(lambda frame: frame.selectExpr(f"inline(array(struct({row})))")),
        **options,
    )
    with pytest.raises(Exception, match=words) as failed:
        send(one_row, tmp_path, 1)
    assert jvm.is_caused_by_data(failed.value)


def test_a_row_without_a_key_in_a_compacted_topic_fails_the_batch_in_the_same_way(
    broker: Broker, client: Client, name: str, tmp_path: Path
) -> None:
    client.create(name, 1, cleanup_policy="compact")
    rows = [(f"key {n}", "x") for n in range(20)] + [(None, "y")]
    with pytest.raises(Exception, match="Compacted topic cannot accept message without key|part of a batch") as failed:
        send(sending(broker, name, [rows], "key string, value string"), tmp_path, 1)
    assert jvm.is_caused_by_data(failed.value)


def test_a_topic_that_is_deleted_is_not_created_by_sending_to_it(
    spark: SparkSession, broker: Broker, client: Client, name: str, tmp_path: Path
) -> None:
    client.create(name, 2)
    build = sending(broker, name, [[("a", 1)], [("b", 2)]], JSON_LINES)
    with job(build, tmp_path) as engine:
        engine.tick(1000)
        client.delete(name)
        with pytest.raises(ConnectionError, match=f"the topic '{name}' does not exist any more: create it"):
            engine.tick(2000)
        assert name not in list(client.admin.listTopics().names().get())
    client.create(name, 5)
    send(build, tmp_path, 3)
    assert [record.value for record in sent(spark, broker, name)] == [b'{"k":"b","n":2}']


def test_a_topic_that_does_not_exist_is_refused_and_not_created(
    broker: Broker, client: Client, name: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"the topic '{name}' of the output 'kafka' does not exist: create it"):
        send(sending(broker, name, [], JSON_LINES), tmp_path)
    assert name not in list(client.admin.listTopics().names().get())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"kafka.linger.ms": "5"}, "expected Kafka's own name of it: linger.ms"),
        ({"linger.ms": "soon"}, "Kafka's client refuses its settings: .*linger.ms"),
        ({"compression.type": "zip"}, "Kafka's client refuses its settings: .*compression.type"),
        ({"delivery.timeout.ms": "1000"}, "Kafka's client refuses its settings: .*delivery.timeout.ms"),
        ({"interceptor.classes": "no.such"}, "Kafka's client refuses its settings: .*no.such"),
        ({"transactional.id": "t"}, "got the setting transactional.id, expected none"),
    ],
)
def test_settings_that_are_wrong_are_refused(
    spark: SparkSession, broker: Broker, tmp_path: Path, config: Any, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        send(sending(broker, "t", [], JSON_LINES, config=config), tmp_path)


def test_acks_stay_all(spark: SparkSession, broker: Broker) -> None:
    params = bridge.producer_settings(bridge.client_settings(broker.address, {"acks": "0"}))
    assert params.get("acks") == "all"
