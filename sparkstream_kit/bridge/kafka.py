"""Kafka in the JVM: what the topics of a cluster hold, the records of exact offset ranges as a frame, rows sent.

Classes are in org.apache.kafka, of kafka-clients 3.9, and in org.apache.spark.sql.kafka010, Spark 4.2.1.
"""

from __future__ import annotations

import contextlib
import re
import uuid
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from py4j.java_gateway import JavaClass
from py4j.protocol import Py4JJavaError
from pyspark import __version__
from pyspark.sql import DataFrame, SparkSession

from ..columns import Columns, column_names
from ..errors import MissingLibrary, UsageError
from . import rows
from .jvm import context, java_list, reason, refusals, scala_object, scala_seq, view

SCHEMA = (
    "key binary, value binary, topic string, partition int, offset bigint, timestamp timestamp, timestampType int, "
    "headers array<struct<key: string, value: binary>>"
)
"""The columns of a record (KafkaRecordToRowConverter.kafkaSchema)."""

READ_MUCH = {
    "max.poll.records": "20000",
    "max.partition.fetch.bytes": str(4 << 20),
    "fetch.max.wait.ms": "1",
    "receive.buffer.bytes": "-1",
}
"""Consumer settings for reading ranges that are there, unless others are given. After each poll, Spark's consumer asks
for the first and the last offset (InternalKafkaConsumer.fetch). So polls should be few, and none should wait at the end
of a partition for records that nobody needs, by default for 500 ms: the answer comes after those, on the same
connection."""

PATIENCE = {"request.timeout.ms": "10000", "default.api.timeout.ms": "15000"}
"""How long a question waits for brokers that are away, unless one of these is given: the kit asks again."""

READ_ONLY = {"allow.auto.create.topics": "false"}
"""Reading never creates a topic, such as one that was deleted a moment ago."""

KEPT = {"acks": "all"}
"""A record counts as sent when all brokers in charge of it have it."""

SOON = {"max.block.ms": "15000", "delivery.timeout.ms": "30000", "request.timeout.ms": "10000"}
"""How long a producer waits for brokers that are away, unless one of these is given: the kit sends again."""

UNRESOLVED = "No resolvable bootstrap urls"
"""What Kafka's clients say of names that nobody knows now; their settings may be right."""

POLL_TIMEOUT = 30_000
"""Milliseconds that a task waits for records before it fails, and the batch is retried; Kafka's request.timeout.ms."""


class Topic(NamedTuple):
    """A topic: its id, and for each partition the first offset that it has and the one after the last."""

    id: str
    first: list[int]
    next: list[int]


class OffsetRange(NamedTuple):
    """The records of a partition from an offset on, up to but not including another."""

    topic: str
    partition: int
    start: int
    end: int


PACKAGE = f"org.apache.spark:spark-sql-kafka-0-10_2.13:{__version__}"
"""Spark's connector for Kafka, as --packages has it: it brings Kafka's client."""


def check_connector() -> None:
    """Raise MissingLibrary unless the JVM has Spark's connector for Kafka (KafkaSourceRDD)."""
    if not isinstance(view().org.apache.spark.sql.kafka010.KafkaSourceRDD, JavaClass):
        raise MissingLibrary(
            f"Kafka needs Spark's connector: start with --packages {PACKAGE} (spark-submit) or --conf "
            f"spark.jars.packages={PACKAGE}"
        )


def properties(path: str) -> dict[str, str]:
    """What a properties file says, read as Kafka's tools read it (java.util.Properties); UsageError if it cannot be."""
    found = view().java.util.Properties()
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise UsageError(f"got config={path}, which cannot be read: {error.strerror}") from None
    with refusals((f"got config={path}, which is not a properties file: " + "{}").format):
        found.load(view().java.io.ByteArrayInputStream(content))
    return {str(key): str(found.getProperty(key)) for key in found.stringPropertyNames()}


def client_settings(brokers: Columns, config: str | Mapping[str, str] | None) -> dict[str, str]:
    """Settings of Kafka's clients, given as such or as the path of a properties file; UsageError for Spark's names."""
    given = config if isinstance(config, Mapping) else properties(config) if config else {}
    if prefixed := [key for key in given if key.startswith("kafka.")]:
        kafkas_own = prefixed[0].removeprefix("kafka.")
        raise UsageError(f"got the setting {prefixed[0]}, expected Kafka's own name of it: {kafkas_own}")
    return {**given, "bootstrap.servers": ",".join(column_names(brokers))}


class Cluster:
    """A client of a Kafka cluster, which connects when it is first asked something.

    `settings` are those of Kafka's clients, `group` what the consumers in the executors call themselves.
    """

    def __init__(self, settings: Mapping[str, str], group: str):
        patience = {} if PATIENCE.keys() & settings.keys() else PATIENCE
        self._settings, self._group = {**READ_MUCH, **patience, **settings, **READ_ONLY}, f"{group}~{uuid.uuid4()}"
        self._committing: Any = None
        self._connected: Any = None
        self._requests: dict[tuple[tuple[str, int], ...], list[Any]] = {}  # for the last few sets of topics

    def names(self) -> list[str]:
        """The names of the topics that are visible to this client, without Kafka's own (clients.admin.Admin)."""
        found = _get(self._admin().listTopics().names())
        return sorted(filter(None, str(view().java.lang.String.join(",", found)).split(",")))

    def topics(self, names: Sequence[str]) -> dict[str, Topic]:
        """What topics hold now, without those that do not exist (clients.admin.Admin, TopicDescription).

        With isolation.level=read_committed the last record is the one before the first open transaction.

        Cost: two round trips, and a call for each topic.
        """
        admin = self._admin()
        described = admin.describeTopics(java_list(names)).topicNameValues()
        ids, sizes = {}, {}
        for name in names:
            try:
                found = _get(described.get(name))
            except Py4JJavaError as error:
                if not _is_caused_by(error, "UnknownTopicOrPartitionException", "InvalidTopicException"):
                    raise
                continue
            ids[name], sizes[name] = str(found.topicId().toString()), int(found.partitions().size())
        if not sizes:
            return {}
        key = tuple(sizes.items())
        if key not in self._requests:
            self._requests = {**dict(list(self._requests.items())[-3:]), key: _requests(sizes)}
        futures = [admin.listOffsets(request, self._options()).all() for request in self._requests[key]]
        first, after = (_offsets(str(_get(future).toString()), sizes) for future in futures)
        return {name: Topic(ids[name], first[name], after[name]) for name in sizes}

    def offsets_at(self, time: int, names: Mapping[str, int]) -> dict[str, list[int]]:
        """The offset of the first record at or after a time in ms, in each partition; -1 if there is none.

        `names` has the number of partitions of each topic (clients.admin.OffsetSpec).
        """
        ask = view().org.apache.kafka.clients.admin.OffsetSpec.forTimestamp(time)
        found = _get(self._admin().listOffsets(_request(names, ask), self._options()).all())
        return _offsets(str(found.toString()), names)

    def written(self, name: str, size: int) -> list[int]:
        """The offsets after the last records of a topic, open transactions included (clients.admin.OffsetSpec)."""
        kafka = view().org.apache.kafka
        everything = kafka.clients.admin.ListOffsetsOptions(kafka.common.IsolationLevel.READ_UNCOMMITTED)
        request = _request({name: size}, kafka.clients.admin.OffsetSpec.latest())
        found = _get(self._admin().listOffsets(request, everything).all())
        return _offsets(str(found.toString()), {name: size})[name]

    def commit(self, group: str, offsets: Mapping[str, Sequence[int]]) -> None:
        """Note how far a consumer group has read, for those who watch its lag (clients.admin.Admin).

        Nobody waits for it: if it fails, the next call raises what went wrong.

        Cost: three calls for each partition.
        """
        kafka, noted = view().org.apache.kafka, view().java.util.HashMap()
        for topic, nexts in offsets.items():
            for partition, offset in enumerate(nexts):
                where = kafka.common.TopicPartition(topic, partition)
                noted.put(where, kafka.clients.consumer.OffsetAndMetadata(offset))
        before, self._committing = self._committing, self._admin().alterConsumerGroupOffsets(group, noted).all()
        if before is not None and before.isDone():
            _get(before)

    def forget_fetched(self) -> None:
        """Read on without what the consumers have fetched ahead, of a topic that is another one now."""
        self._group = f"{self._group.partition('~')[0]}~{uuid.uuid4()}"

    def records(self, session: SparkSession, tasks: Sequence[Sequence[OffsetRange]], size: int) -> DataFrame:
        """The records of the ranges of each task, in their order. Columns: SCHEMA.

        An offset without a record, as transactions and compaction leave them, is skipped; a task fails if records that
        were there when the batch began have been removed (KafkaSourceRDD, KafkaOffsetRange, KafkaDataConsumer).

        Cost: a few calls for each range and task; the records are read by the executors.
        """
        kafka, params = view().org.apache.spark.sql.kafka010, self._for_executors()
        converter, companion = kafka.KafkaRecordToRowConverter(), scala_object(kafka, "KafkaRecordToRowConverter")
        tag = scala_object(view().scala.reflect, "ClassTag").apply(_class("org.apache.spark.sql.catalyst.InternalRow"))
        sc = context()._jsc.sc()
        rdds, anywhere = [], _none()
        for ranges in tasks:
            made = scala_seq([_range(each, anywhere) for each in ranges])
            rdd = kafka.KafkaSourceRDD(sc, params, made, POLL_TIMEOUT, True)
            read = rdd.map(converter.toInternalRowWithHeaders(), tag)
            rdds.append(read if len(ranges) == 1 else read.toJavaRDD().coalesce(1).rdd())
        all_read = rdds[0] if len(rdds) == 1 else sc.union(scala_seq(rdds), tag)
        return rows.frame(session, all_read, companion.kafkaSchema(True), size)

    def _admin(self) -> Any:
        """The connection (clients.admin.AdminClient), with Spark's delegation token, if any (KafkaSourceProvider).

        The settings of the consumers are checked, too, before a batch is recorded (clients.consumer.ConsumerConfig).
        """
        if self._connected is None:
            provider = scala_object(view().org.apache.spark.sql.kafka010, "KafkaSourceProvider")
            wanted = provider.kafkaParamsForDriver(_scala_map(self._settings))
            with _refused_settings():
                view().org.apache.kafka.clients.consumer.ConsumerConfig(self._for_executors())
                self._connected = view().org.apache.kafka.clients.admin.AdminClient.create(wanted)
            weakref.finalize(self, _close, self._connected).atexit = False
        return self._connected

    def _for_executors(self) -> Any:
        """The settings of the consumers in the executors (KafkaSourceProvider)."""
        provider = scala_object(view().org.apache.spark.sql.kafka010, "KafkaSourceProvider")
        return provider.kafkaParamsForExecutors(_scala_map(self._settings), self._group)

    def _options(self) -> Any:
        """Whether records of open transactions count (clients.admin.ListOffsetsOptions, common.IsolationLevel)."""
        kafka = view().org.apache.kafka
        levels = kafka.common.IsolationLevel
        committed = self._settings.get("isolation.level") == "read_committed"
        return kafka.clients.admin.ListOffsetsOptions(levels.READ_COMMITTED if committed else levels.READ_UNCOMMITTED)


def producer_settings(settings: Mapping[str, str]) -> Any:
    """The settings of producers in the executors, with Spark's delegation token, if any (KafkaSourceProvider).

    One is made and closed again (clients.producer.KafkaProducer): UsageError for settings that Kafka's client refuses.
    """
    if "transactional.id" in settings:
        raise UsageError("got the setting transactional.id, expected none: the output kafka uses no transactions")
    soon = {} if SOON.keys() & settings.keys() else SOON
    given = {f"kafka.{key}": value for key, value in {**soon, **settings, **KEPT}.items()}
    provider = scala_object(view().org.apache.spark.sql.kafka010, "KafkaSourceProvider")
    with _refused_settings():
        wanted = view().org.apache.spark.sql.catalyst.util.CaseInsensitiveMap(_scala_map(given))
        found = provider.kafkaParamsForProducer(wanted)
        view().org.apache.kafka.clients.producer.KafkaProducer(found).close(view().java.time.Duration.ZERO)
    return found


def send(records: DataFrame, topic: str, params: Any) -> None:
    """Send rows with the columns key, value, headers and partition to a topic, with these settings of producers.

    It returns when the brokers have acknowledged all of them (KafkaWriter). The public way, DataFrameWriter, would show
    the settings in Spark's web UI, where passwords are redacted, private keys are not.
    """
    writer = scala_object(view().org.apache.spark.sql.kafka010, "KafkaWriter")
    writer.write(records._jdf.queryExecution(), params, view().scala.Some(topic))


@contextlib.contextmanager
def _refused_settings() -> Iterator[None]:
    """UsageError for settings that Kafka's client refuses; what it says of a name that it cannot resolve passes."""
    try:
        yield
    except Exception as error:
        if UNRESOLVED in reason(error):
            raise
        with refusals("Kafka's client refuses its settings: {}".format):
            raise


def _range(each: OffsetRange, anywhere: Any) -> Any:
    """A range of a partition (kafka010.KafkaOffsetRange, common.TopicPartition)."""
    partition = view().org.apache.kafka.common.TopicPartition(each.topic, each.partition)
    return view().org.apache.spark.sql.kafka010.KafkaOffsetRange(partition, each.start, each.end, anywhere)


def _close(admin: Any) -> None:
    """Close a connection without waiting (clients.admin.Admin)."""
    with contextlib.suppress(Exception):  # the JVM may be gone
        admin.close(view().java.time.Duration.ZERO)


_OFFSET = re.compile(r"([\w.-]+)-(\d+)=ListOffsetsResultInfo\(offset=(-?\d+)")


def _offsets(text: str, sizes: Mapping[str, int]) -> dict[str, list[int]]:
    """The offsets of a Map<TopicPartition, ListOffsetsResultInfo>, as it writes itself: one call for all partitions."""
    found = {(topic, int(partition)): int(offset) for topic, partition, offset in _OFFSET.findall(text)}
    return {topic: [found[topic, partition] for partition in range(size)] for topic, size in sizes.items()}


def _requests(sizes: Mapping[str, int]) -> list[Any]:
    """What asks for the first and the last offsets (clients.admin.OffsetSpec)."""
    spec = view().org.apache.kafka.clients.admin.OffsetSpec
    return [_request(sizes, spec.earliest()), _request(sizes, spec.latest())]


def _request(sizes: Mapping[str, int], what: Any) -> Any:
    """A question about each partition, a call for each (common.TopicPartition)."""
    made = view().java.util.HashMap()
    for topic, size in sizes.items():
        for partition in range(size):
            made.put(view().org.apache.kafka.common.TopicPartition(topic, partition), what)
    return made


def _get(future: Any) -> Any:
    """The result of a KafkaFuture; UsageError if the brokers refuse this client, which a retry would not change."""
    try:
        return future.get()
    except Py4JJavaError as error:
        if _is_caused_by(error, "AuthenticationException", "AuthorizationException"):
            raise UsageError(f"the brokers refuse this client ({reason(error)}): correct its settings") from error
        raise


def _is_caused_by(error: Py4JJavaError, *kinds: str) -> bool:
    """Whether a KafkaFuture failed with an error of one of these kinds (common.errors)."""
    cause = error.java_exception.getCause()
    kind = cause and cause.getClass()
    while kind is not None:
        if kind.getSimpleName() in kinds:
            return True
        kind = kind.getSuperclass()
    return False


def _scala_map(items: Mapping[str, str]) -> Any:
    """An immutable Map of Scala (scala.collection.immutable.Map)."""
    made = scala_object(view().scala.collection.immutable, "Map").empty()
    for key, value in items.items():
        made = made.updated(key, value)
    return made


def _none() -> Any:
    """None of Scala (scala.Option)."""
    return scala_object(view().scala, "Option").empty()


def _class(name: str) -> Any:
    """A java.lang.Class."""
    return view().java.lang.Class.forName(name)
