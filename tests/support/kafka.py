"""A Kafka broker of the tests' own, started by scripts/kafka, and a client in the JVM of the session."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pyspark import SparkContext
from pyspark.sql import DataFrame

from sparkstream_kit.bridge.jvm import java_list, view
from tests.support.supervisor import PATIENCE, wait_until

SCRIPT = Path(__file__).parents[2] / "scripts" / "kafka"


def jars() -> str:
    """The paths of Spark's connector, separated by commas; fetched if need be."""
    run = subprocess.run([str(SCRIPT), "jars"], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    return run.stdout.strip()


def confs() -> list[str]:
    """Arguments of a job with which it has the connector."""
    settings = {"jars": jars(), "driver.bindAddress": "127.0.0.1", "driver.host": "127.0.0.1"}
    return [word for key, value in settings.items() for word in ("--conf", f"spark.{key}={value}")]


def free_ports() -> int:
    """A port that is free, like the two above it; none that a client's connection gets while the broker is away."""
    while True:
        port = random.randrange(10_000, 30_000)
        with contextlib.ExitStack() as taken, contextlib.suppress(OSError):
            for each in (port, port + 1, port + 2):
                taken.enter_context(socket.create_server(("127.0.0.1", each)))
            return port


SASL = """\
listeners=PLAINTEXT://127.0.0.1:{0},CONTROLLER://127.0.0.1:{1},SASL_PLAINTEXT://127.0.0.1:{2}
advertised.listeners=PLAINTEXT://127.0.0.1:{0},SASL_PLAINTEXT://127.0.0.1:{2}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=\
    org.apache.kafka.common.security.plain.PlainLoginModule required user_reader="open sesame";
"""


class Broker:
    """A broker on the loopback address, which also listens for a user, `reader`, with the password "open sesame"."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_ports()
        self.address, self.secured = f"127.0.0.1:{self.port}", f"127.0.0.1:{self.port + 2}"
        self._settings = folder / "more.properties"
        folder.mkdir(parents=True, exist_ok=True)
        self._settings.write_text(SASL.format(self.port, self.port + 1, self.port + 2))

    def start(self) -> None:
        self._run("start", str(self._settings))

    def stop(self) -> None:
        self._run("stop")

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        end = os.pidfd_open(int((self.folder / "data" / "pid").read_text()))
        signal.pidfd_send_signal(end, signal.SIGKILL)
        ended, *_ = select.select([end], [], [], PATIENCE)
        os.close(end)
        assert ended

    def _run(self, *arguments: str) -> None:
        env = {**os.environ, "KAFKA_PORT": str(self.port), "KAFKA_DATA": str(self.folder / "data")}
        command, out = [str(SCRIPT), *arguments], subprocess.PIPE
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout.decode()


class Record(NamedTuple):
    """What is sent."""

    value: bytes | None
    partition: int = 0
    key: bytes | None = None
    timestamp: int | None = None
    """In ms; None: now."""
    headers: Mapping[str, bytes] = {}


class Client:
    """Topics and records, through Kafka's own client in the JVM."""

    def __init__(self, address: str, settings: Mapping[str, str] | None = None):
        self.address = address
        self._settings = {"bootstrap.servers": address, **(settings or {})}
        self._kafka = view().org.apache.kafka
        self.admin = self._kafka.clients.admin.AdminClient.create(_map(self._settings))

    def create(self, topic: str, partitions: int = 1, **config: str) -> str:
        optional = view().java.util.Optional
        new = self._kafka.clients.admin.NewTopic(topic, optional.of(partitions), optional.empty())
        new.configs(_map({key.replace("_", "."): value for key, value in config.items()}))
        self.admin.createTopics(java_list([new])).all().get()
        wait_until(lambda: topic in list(self.admin.listTopics().names().get()), f"the topic {topic} is there")
        return topic

    def delete(self, topic: str) -> None:
        self.admin.deleteTopics(java_list([topic])).all().get()
        wait_until(lambda: topic not in list(self.admin.listTopics().names().get()), f"the topic {topic} is gone")

    def add_partitions(self, topic: str, total: int) -> None:
        more = view().java.util.HashMap()
        more.put(topic, self._kafka.clients.admin.NewPartitions.increaseTo(total))
        self.admin.createPartitions(more).all().get()

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """What retention does."""
        what = view().java.util.HashMap()
        # by reflection: py4j finds no static method whose name a method of objects has, too
        kind = self.admin.getClass().getClassLoader().loadClass("org.apache.kafka.clients.admin.RecordsToDelete")
        methods = [made for made in kind.getMethods() if made.getName() == "beforeOffset"]
        (before_offset,) = (made for made in methods if made.getParameterCount() == 1)
        for partition, offset in before.items():
            record = before_offset.invoke(None, _array(view().java.lang.Long.valueOf(offset)))
            what.put(self._kafka.common.TopicPartition(topic, partition), record)
        self.admin.deleteRecords(what).all().get()

    def committed(self, group: str) -> dict[str, int]:
        """The offsets of a consumer group, by topic-partition."""
        found = self.admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get()
        return {str(key.toString()): int(found[key].offset()) for key in found}

    def send(self, topic: str, records: Iterable[Record], **settings: str) -> None:
        with self.producer(**settings) as producer:
            for record in records:
                producer.send(self.record(topic, record))

    def write(self, frame: DataFrame, topic: str) -> None:
        """Send many records: the rows of a frame, those of each of its partitions in their order."""
        frame.write.format("kafka").option("kafka.bootstrap.servers", self.address).option("topic", topic).save()

    @contextlib.contextmanager
    def producer(self, **settings: str) -> Any:
        """A producer; what it has sent has arrived when the block ends. `transactional_id` is transactional.id."""
        serializer = self._kafka.common.serialization.ByteArraySerializer
        given = {**self._settings, "acks": "all", **{key.replace("_", "."): value for key, value in settings.items()}}
        made = self._kafka.clients.producer.KafkaProducer(_map(given), serializer(), serializer())
        try:
            yield made
        finally:
            made.close()

    def record(self, topic: str, record: Record) -> Any:
        header = self._kafka.common.header.internals.RecordHeader
        headers = java_list(header(key, value) for key, value in record.headers.items())
        return self._kafka.clients.producer.ProducerRecord(
            topic, record.partition, record.timestamp, record.key, record.value, headers
        )


def _map(items: Mapping[str, str]) -> Any:
    made = view().java.util.HashMap()
    for key, value in items.items():
        made.put(key, value)
    return made


def _array(item: Any) -> Any:
    gateway = SparkContext._active_spark_context._gateway
    made = gateway.new_array(view().java.lang.Object, 1)
    made[0] = item
    return made
