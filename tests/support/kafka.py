"""A Kafka broker of the tests' own, started by scripts/kafka, and a client in the JVM of the session."""

from __future__ import annotations

import base64
import contextlib
import os
import random
import select
import signal
import socket
import subprocess
from collections.abc import Iterable, Mapping, Sequence
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
    """A port that is free, like the three above it; none that a client's connection gets while the broker is away."""
    while True:
        port = random.randrange(10_000, 30_000)
        with contextlib.ExitStack() as taken, contextlib.suppress(OSError):
            for each in range(port, port + 4):
                taken.enter_context(socket.create_server(("127.0.0.1", each)))
            return port


SASL = """\
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},SASL_PLAINTEXT://127.0.0.1:{secured}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{secured}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN
# records of long ago stay
log.retention.ms=-1
listener.name.sasl_plaintext.plain.sasl.jaas.config=\
    org.apache.kafka.common.security.plain.PlainLoginModule required user_reader="open sesame";
"""


class Broker:
    """A broker on the loopback address, which also listens for a user, `reader`, with the password "open sesame".

    Other `settings` are a template with {port}, {controller}, {secured}, and {other}, which is free.
    """

    def __init__(self, folder: Path, settings: str = SASL):
        self.folder, self.port = folder, free_ports()
        self.address, self.secured, self.other = (f"127.0.0.1:{self.port + n}" for n in (0, 2, 3))
        self._settings = folder / "more.properties"
        folder.mkdir(parents=True, exist_ok=True)
        ports = dict(zip(("port", "controller", "secured", "other"), range(self.port, self.port + 4), strict=True))
        for name, port in ports.items():
            settings = settings.replace(f"{{{name}}}", str(port))
        self._settings.write_text(settings)

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


def certificate(folder: Path) -> tuple[Path, Path]:
    """PEM files with a private key and its certificate, which is one for 127.0.0.1, and for whom this one vouches."""
    store, password = folder / "store.p12", "changeit"
    keytool = [
        f"{os.environ['JAVA_HOME']}/bin/keytool",
        "-keystore",
        str(store),
        "-storepass",
        password,
        "-alias",
        "it",
    ]
    make = ["-genkeypair", "-keyalg", "RSA", "-dname", "CN=127.0.0.1", "-ext", "san=ip:127.0.0.1", "-validity", "2"]
    subprocess.run([*keytool, *make], check=True, capture_output=True)
    public = subprocess.run([*keytool, "-exportcert", "-rfc"], check=True, capture_output=True, text=True).stdout
    opened = view().java.security.KeyStore.getInstance("PKCS12")
    characters = _array_of(view().char, password)
    opened.load(view().java.io.FileInputStream(str(store)), characters)
    standard = view().java.lang.Class.forName("java.security.spec.PKCS8EncodedKeySpec")
    key = view().java.security.KeyFactory.getInstance("RSA").getKeySpec(opened.getKey("it", characters), standard)
    encoded = base64.encodebytes(key.getEncoded()).decode()
    secret = f"-----BEGIN PRIVATE KEY-----\n{encoded}-----END PRIVATE KEY-----\n"
    files = folder / "key.pem", folder / "certificate.pem"
    for file, content in zip(files, (secret, public), strict=True):
        file.write_text(content)
    return files


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
            record = before_offset.invoke(
                None, _array_of(view().java.lang.Object, [view().java.lang.Long.valueOf(offset)])
            )
            what.put(self._kafka.common.TopicPartition(topic, partition), record)
        self.admin.deleteRecords(what).all().get()

    def committed(self, group: str) -> dict[str, int]:
        """The offsets of a consumer group, by topic-partition."""
        found = self.admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get()
        return {str(key.toString()): int(found[key].offset()) for key in found}

    def send(self, topic: str, records: Iterable[Record], **settings: str) -> None:
        with self.producer(**settings) as producer:
            sent = [producer.send(self.record(topic, record)) for record in records]
            producer.flush()
            for each in sent:
                each.get()

    def write(self, frame: DataFrame, topic: str) -> None:
        """Send many records: the rows of a frame, those of each of its partitions in their order."""
        frame.write.format("kafka").option("kafka.bootstrap.servers", self.address).option("topic", topic).save()

    @contextlib.contextmanager
    def producer(self, **settings: str) -> Any:
        """A producer; what it has sent has arrived when the block ends. `transactional_id` is transactional.id.

        One request at a time: a partition that is just being made may refuse the first one and accept the second, and
        what comes again then is out of order until it is given up (delivery.timeout.ms).
        """
        serializer = self._kafka.common.serialization.ByteArraySerializer
        fixed = {"acks": "all", "max.in.flight.requests.per.connection": "1"}
        given = {**self._settings, **fixed, **{key.replace("_", "."): value for key, value in settings.items()}}
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


def _array_of(kind: Any, items: Sequence[Any]) -> Any:
    made = SparkContext._active_spark_context._gateway.new_array(kind, len(items))
    for at, item in enumerate(items):
        made[at] = item
    return made
