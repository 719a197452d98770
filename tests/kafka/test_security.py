"""Ways in which a real broker lets a job in, and Azure's connection strings, against one that speaks TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit.bridge.jvm import java_list, view
from sparkstream_kit.errors import UsageError
from sparkstream_kit.frames import FrameStream
from tests.support import kafka
from tests.support.kafka import Broker, Client, Record
from tests.support.ticks import given, job

SCRAM, PASSWORD = "SCRAM-SHA-512", 'open "sesame"'
CONNECTION = "Endpoint=sb://127.0.0.1:{secured}/;SharedAccessKeyName=reader;SharedAccessKey=c2VjcmV0LQ=="
MODULES = "org.apache.kafka.common.security"
SETTINGS = f"""\
listeners=PLAINTEXT://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller}},\\
    SASL_SSL://127.0.0.1:{{secured}},SSL://127.0.0.1:{{other}}
advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},SASL_SSL://127.0.0.1:{{secured}},SSL://127.0.0.1:{{other}}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
sasl.enabled.mechanisms=PLAIN,{SCRAM},OAUTHBEARER
listener.name.sasl_ssl.plain.sasl.jaas.config={MODULES}.plain.PlainLoginModule required \\
    user_$ConnectionString="{CONNECTION}";
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={MODULES}.scram.ScramLoginModule required;
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config={MODULES}.oauthbearer.OAuthBearerLoginModule required \\
    unsecuredLoginStringClaim_sub="broker";
ssl.keystore.type=PEM
ssl.truststore.type=PEM
listener.name.ssl.ssl.client.auth=required
"""


@pytest.fixture(scope="module")
def pem(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A private key, and its certificate."""
    return kafka.certificate(tmp_path_factory.mktemp("pem"))


@pytest.fixture(scope="module")
def secured(pem: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that listens with SASL_SSL, and with SSL for those who have the same certificate."""
    folder = tmp_path_factory.mktemp("secured")
    both = folder / "both.pem"
    both.write_text("".join(file.read_text() for file in pem))
    made = Broker(folder, f"{SETTINGS}ssl.keystore.location={both}\nssl.truststore.location={pem[1]}\n")
    made.start()
    client = Client(made.address)
    client.create("web", 2)
    admin = view().org.apache.kafka.clients.admin
    info = admin.ScramCredentialInfo(admin.ScramMechanism.SCRAM_SHA_512, 4096)
    change = admin.UserScramCredentialUpsertion("reader", info, PASSWORD)
    client.admin.alterUserScramCredentials(java_list([change])).all().get()
    client.send("web", [Record(b"hello", 0), Record(b"again", 1, b"me")])
    yield made
    made.stop()


@pytest.fixture
def trust(pem: tuple[Path, Path]) -> dict[str, str]:
    return {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(pem[1])}


def sasl(mechanism: str, module: str, options: str) -> dict[str, str]:
    return {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": mechanism,
        "sasl.jaas.config": f"{MODULES}.{module} required {options};",
    }


def values(stream: Any, home: Path) -> list[str]:
    """The values of what a source brings in its first batch."""
    got: list[str] = []

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        stream(ssc).for_each_batch(lambda rows, batch: got.extend(row.value for row in rows.collect()), name="all")
        return {}

    with job(build, home) as engine:
        engine.tick(1000)
    return sorted(got)


# --- Kafka


@pytest.mark.parametrize("way", ["scram", "oauthbearer", "ssl"])
def test_records_are_read_and_sent(
    spark: SparkSession, secured: Broker, pem: tuple[Path, Path], trust: dict[str, str], way: str, tmp_path: Path
) -> None:
    password = PASSWORD.replace('"', '\\"')
    settings = {
        "scram": sasl(SCRAM, "scram.ScramLoginModule", f'username="reader" password="{password}"'),
        "oauthbearer": sasl(
            "OAUTHBEARER", "oauthbearer.OAuthBearerLoginModule", 'unsecuredLoginStringClaim_sub="reader"'
        ),
        "ssl": {
            "security.protocol": "SSL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.key": pem[0].read_text(),
            "ssl.keystore.certificate.chain": pem[1].read_text(),
        },
    }[way]
    address, config = secured.other if way == "ssl" else secured.secured, {**settings, **trust}
    assert values(lambda ssc: ss.sources.kafka(ssc, address, "web", config=config), tmp_path / "in") == [
        "again",
        "hello",
    ]

    topic = Client(secured.address).create(f"out-{way}")

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        ss.outputs.kafka(given(ssc, [[("sent",)]], "value string"), address, topic, config=config)
        return {}

    with job(build, tmp_path / "out") as engine:
        engine.tick(1000)
    assert values(lambda ssc: ss.sources.kafka(ssc, secured.address, topic), tmp_path / "back") == ["sent"]


def test_a_certificate_that_nobody_vouches_for_is_refused(secured: Broker, tmp_path: Path) -> None:
    config = {"security.protocol": "SSL"}
    with pytest.raises(UsageError, match="the brokers refuse this client .unable to find valid certification path"):
        values(lambda ssc: ss.sources.kafka(ssc, secured.other, "web", config=config), tmp_path)


# --- Azure


def test_an_event_hub_is_read_with_its_connection_string(
    secured: Broker, trust: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = CONNECTION.replace("{secured}", secured.secured.rpartition(":")[2])
    monkeypatch.setenv("HUB", connection)
    (tmp_path / "hub").write_text(f"{connection}\n")
    for number, where in enumerate((connection, "env:HUB", f"file:{tmp_path / 'hub'}")):
        config = {**trust, **({"request.timeout.ms": "60000"} if number else {})}  # beyond the kit's, which give way
        stream = lambda ssc: ss.sources.event_hubs(ssc, where, hub="web", config=config)  # noqa: B023, E731
        assert values(stream, tmp_path / str(number)) == ["again", "hello"]
    wrong = connection.replace("c2VjcmV0", "d3Jvbmch")
    with pytest.raises(UsageError, match="the brokers refuse this client .Authentication failed") as refused:
        values(lambda ssc: ss.sources.event_hubs(ssc, wrong, hub="web", config=trust), tmp_path / "wrong")
    assert "d3Jvbmch" not in str(refused.value)


def test_properties_and_partition_keys_of_events_are_columns(
    secured: Broker, trust: dict[str, str], tmp_path: Path
) -> None:
    client = Client(secured.address)
    text = lambda value: b"\xa1" + bytes([len(value)]) + value  # noqa: E731  # as AMQP has it
    device = {
        "iothub-connection-device-id": text(b"thermometer"),
        "iothub-message-source": text(b"Telemetry"),
        "iothub-enqueuedtime": bytes.fromhex("830000019c1310e47b"),
        "alarm": b"A",
        "level": bytes.fromhex("5403"),
    }
    client.create("devices")
    client.send("devices", [Record(b"21.5", 0, b"north", headers=device), Record(b"plain", headers={"alarm": b"A"})])
    connection = f"{CONNECTION.replace('{secured}', secured.secured.rpartition(':')[2])}"
    got = []

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        messages = ss.sources.iot_hub(ssc, connection, hub="devices", config=trust)
        messages.for_each_batch(lambda rows, batch: got.extend(rows.orderBy("offset").collect()), name="all")
        return {}

    with job(build, tmp_path) as engine:
        engine.tick(1000)
    measured, plain = got
    assert (measured.device_id, measured.module_id, measured.message_source) == ("thermometer", None, "Telemetry")
    assert measured.enqueued_at.timestamp() == 1_769_846_400.123
    assert (measured.value, measured.partition_key, measured.hub, measured.offset) == ("21.5", "north", "devices", 0)
    assert {"alarm": "true", "level": "3"}.items() < measured.properties.items()
    assert (plain.value, plain.partition_key, plain.properties, plain.device_id) == (
        "plain",
        None,
        {"alarm": "A"},
        None,
    )
