"""A broker that goes away, or that does not let a job in: the job goes on, or ends with a sentence; nothing is lost."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit.bridge import kafka as bridge
from sparkstream_kit.errors import UsageError
from sparkstream_kit.frames import FrameStream
from tests.support import kafka
from tests.support.kafka import Broker, Client, Record
from tests.support.supervisor import ROOT
from tests.support.ticks import Build, job

IMPATIENT = {"default.api.timeout.ms": "1500", "request.timeout.ms": "1000"}
JAAS = 'org.apache.kafka.common.security.plain.PlainLoginModule required username="reader" password="{}";'


@pytest.fixture
def own_broker(spark: SparkSession, tmp_path: Path) -> Any:
    """A broker that only one test uses, and kills."""
    made = Broker(tmp_path / "kafka")
    made.start()
    yield made
    made.stop()


def collecting(broker: str, topic: str, got: list[str], before: Any = lambda: None, **options: Any) -> Build:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        def collect(frame: Any, batch: ss.Batch) -> None:
            before()
            got.extend(row.value for row in frame.collect())

        ss.sources.kafka(ssc, broker, topic, **options).for_each_batch(collect, name="all")
        return {}

    return build


def test_a_broker_killed_and_started_again_in_mid_batch(own_broker: Broker, tmp_path: Path) -> None:
    Client(own_broker.address).send("t", [Record(b"%d" % n) for n in range(100)])
    got: list[str] = []
    starting = threading.Thread(target=own_broker.start)

    def kill() -> None:
        if not starting.ident:
            own_broker.kill()
            starting.start()

    with job(collecting(own_broker.address, "t", got, kill), tmp_path / "home") as engine:
        engine.tick(1000)
        starting.join()
        assert got == [str(n) for n in range(100)]
        Client(own_broker.address).send("t", [Record(b"more")])
        engine.tick(2000)
    assert got[100:] == ["more"]


def test_a_job_waits_for_a_broker_that_is_away_and_stops_in_peace_meanwhile(
    new_job: Any, own_broker: Broker, tmp_path: Path
) -> None:
    settings = tmp_path / "client.properties"
    settings.write_text("".join(f"{key}={value}\n" for key, value in IMPATIENT.items()))
    Client(own_broker.address).send("t", [Record(b"%d" % n) for n in range(100)])
    made = new_job(script=str(ROOT / "tests" / "kafka" / "jobs" / "records.py"))
    source = f"kafka:{own_broker.address}/t?config={settings}"
    arguments = ["--source", source, "--batch-interval", "200ms", *kafka.confs()]
    arguments += ["--output", f"records=text:{made.out}", "--output", f"running=json:{made.out}"]
    run = made.start(*arguments)
    run.wait_to_say("batch 1 done")
    own_broker.kill()
    complaint = "the next batch: the source 'kafka' failed"
    run.wait_until(lambda: run.said().count(complaint) >= 2, "it has asked twice")
    own_broker.start()
    Client(own_broker.address).send("t", [Record(b"%d" % n) for n in range(100, 200)])

    def written() -> dict[int, Counter[str]]:
        return made.rows("text", "records")

    def all_is_done() -> bool:
        batches = written()
        return sum(map(Counter.total, batches.values())) >= 200 and run.said().count(" done in ") >= len(batches)

    run.wait_until(all_is_done, "all records are in batches that are done")
    own_broker.kill()
    known = run.said().count(complaint)
    run.wait_until(lambda: run.said().count(complaint) > known, "it has asked again")
    run.signal(15)
    assert run.end() == 0, run.said()
    own_broker.start()
    found = sum(written().values(), Counter[str]())
    sent = Counter(f"0 {n} {n}" for n in range(200))
    made.report("a broker that goes away", 200, (sent - found).total(), (found - sent).total())


# --- who may read


def secured(password: str) -> dict[str, str]:
    return {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.jaas.config": JAAS.format(password),
    }


def test_a_password_is_read_from_a_file_and_a_wrong_one_refused_and_not_told(
    broker: Broker, client: Client, name: str, tmp_path: Path, capfd: Any
) -> None:
    client.create(name)
    client.send(name, [Record(b"secret")])
    got: list[str] = []
    settings = tmp_path / "client.properties"
    for password in ("let me in", "open sesame"):
        lines = [f"{key}={value}\n" for key, value in secured(password).items()]
        settings.write_text("# of this job\n" + "".join(lines))
        with job(collecting(broker.secured, name, got, config=str(settings)), tmp_path / "home") as engine:
            if password == "open sesame":
                engine.tick(1000)
                continue
            with pytest.raises(UsageError, match="the brokers refuse this client .Authentication failed:") as refused:
                engine.tick(1000)
            assert "let me in" not in str(refused.value)
    assert got == ["secret"]
    assert not any(word in "".join(capfd.readouterr()) for word in ("let me in", "open sesame"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"kafka.security.protocol": "SSL"}, "expected Kafka's own name of it: security.protocol"),
        ({"security.protocol": "TLS"}, "Kafka's client refuses its settings: .*TLS"),
        ({"security.protocol": "SASL_PLAINTEXT"}, "Kafka's client refuses its settings: .*the JAAS configuration"),
        ({"isolation.level": "READ_COMMITTED"}, "Kafka's client refuses its settings: .*isolation.level"),
        ({"max.poll.records": "0"}, "Kafka's client refuses its settings: .*max.poll.records"),
        ("/nowhere/client.properties", "got config=/nowhere/client.properties, which cannot be read: No such file"),
    ],
)
def test_settings_that_are_wrong_are_refused(
    spark: SparkSession, broker: Broker, tmp_path: Path, config: Any, words: str
) -> None:
    with (
        pytest.raises(UsageError, match=words),
        job(collecting(broker.address, "t", [], config=config), tmp_path / "home") as engine,
    ):
        engine.tick(1000)


def test_a_properties_file_is_read_as_java_writes_it(broker: Broker, tmp_path: Path) -> None:
    file = tmp_path / "client.properties"
    file.write_bytes("client.id=caf\u00e9\n".encode("latin-1"))
    assert bridge.properties(str(file)) == {"client.id": "caf\u00e9"}
    file.write_text("client.id=\\u12\n")
    with pytest.raises(UsageError, match="which is not a properties file: .*Malformed"):
        bridge.properties(str(file))


def test_nobody_listens_and_the_sentence_says_so(spark: SparkSession, tmp_path: Path) -> None:
    build = collecting("127.0.0.1:1", "t", [], config=IMPATIENT)
    with pytest.raises(Exception, match="Timed out waiting for a node assignment"), job(build, tmp_path) as engine:
        engine.tick(1000)
