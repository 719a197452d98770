"""Read Azure Event Hubs and IoT Hub, whose endpoint for Kafka needs no other connector than Kafka's."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

from ..bridge import kafka as bridge
from ..errors import UsageError
from ..frames import FrameStream
from . import _amqp
from ._kafka import kafka

PATIENT = {"request.timeout.ms": "20000", "default.api.timeout.ms": "30000"}
"""Event Hubs may take 20 s to answer. These go together: none is set if one is given."""

FRESH = {"metadata.max.age.ms": "180000", "connections.max.idle.ms": "180000"}
"""Event Hubs drops connections that are idle for four minutes."""

PARTS = ("Endpoint", "SharedAccessKeyName", "SharedAccessKey", "SharedAccessSignature", "EntityPath")
EXPECTED = (
    "expected Endpoint=sb://NAMESPACE.servicebus.windows.net/;SharedAccessKeyName=...;SharedAccessKey=...;"
    "EntityPath=HUB, or env:VARIABLE or file:PATH, which hold it"
)


def event_hubs(
    ssc: StreamingContext,
    connection: str,
    *,
    hub: str | None = None,
    start: str = "earliest",
    config: str | Mapping[str, str] | None = None,
    max_per_partition: int | None = None,
    group: str | None = None,
    name: str = "event_hubs",
) -> FrameStream:
    """Read the events of an event hub, each once, through its endpoint for Kafka.

        clicks = ss.sources.event_hubs(ssc, "env:CLICKS_CONNECTION", start="2026-01-31T08:00Z")

    `connection` is a connection string as the portal shows it, or where it is: `env:VARIABLE` or `file:PATH`, which
    keeps the key out of the list of processes. `hub` is needed if the string has no EntityPath.

    Columns: value: string (the body), partition_key: string, properties: map<string,string>, hub: string, partition:
    int, offset: bigint, timestamp: timestamp (when it was enqueued), headers: array<struct<key: string, value:
    binary>>. Properties of senders that speak AMQP, as Azure's libraries do, are decoded, but null if they are
    characters, decimals, lists or maps. A single property whose bytes are text as well as AMQP, such as a lone `true`,
    which is the letter A, is taken for text; `headers` has the bytes.

    `start`, `config`, `max_per_partition`, `group`, guarantees, errors and cost are those of `kafka`: Event Hubs has an
    endpoint for it from the tier Standard on. Hubs have no topic ids, so one that was deleted and created again is
    noticed only if it is shorter. The emulator's connection string works, too.

    Raises UsageError for an invalid connection string, without its key.

    URI: event-hubs:CONNECTION?hub=...&start=...&config=...&max_per_partition=...&group=...
    """
    host, topic, settings = endpoint(_resolved(connection), hub)
    more = bridge.client_settings(host, config)
    patient = {} if PATIENT.keys() & more.keys() else PATIENT
    records = kafka(
        ssc,
        host,
        [topic],
        start=start,
        config={**patient, **settings, **more},
        max_per_partition=max_per_partition,
        group=group,
        name=name,
    )
    return records.select(
        "value",
        F.col("key").alias("partition_key"),
        _amqp.properties(F.col("headers")).alias("properties"),
        F.col("topic").alias("hub"),
        "partition",
        "offset",
        "timestamp",
        "headers",
    )


def iot_hub(
    ssc: StreamingContext,
    connection: str,
    *,
    hub: str | None = None,
    start: str = "earliest",
    config: str | Mapping[str, str] | None = None,
    max_per_partition: int | None = None,
    group: str | None = None,
    name: str = "iot_hub",
) -> FrameStream:
    """Read the messages that devices send to an IoT Hub, each once, through its built-in endpoint.

        measured = ss.sources.iot_hub(ssc, "env:DEVICES_CONNECTION")

    `connection` is the "Event Hub-compatible endpoint" of the built-in endpoints, or where it is, as for `event_hubs`.

    Columns: device_id and module_id: string, message_source: string (Telemetry, twinChangeEvents and so on),
    enqueued_at: timestamp (when the IoT Hub got it), then those of `event_hubs`. They are null if the message does not
    say.

    Guarantees, errors and cost are those of `event_hubs`.

    URI: iot-hub:CONNECTION?hub=...&start=...&config=...&max_per_partition=...&group=...
    """
    events = event_hubs(
        ssc,
        connection,
        hub=hub,
        start=start,
        config=config,
        max_per_partition=max_per_partition,
        group=group,
        name=name,
    )
    said = F.col("properties")
    return events.select(
        said["iothub-connection-device-id"].alias("device_id"),
        said["iothub-connection-module-id"].alias("module_id"),
        said["iothub-message-source"].alias("message_source"),
        F.try_to_timestamp(said["iothub-enqueuedtime"]).alias("enqueued_at"),
        "*",
    )


def endpoint(connection: str, hub: str | None) -> tuple[str, str, dict[str, str]]:
    """The address of a hub for Kafka, its topic, and the settings of Kafka's clients.

    >>> address, topic, settings = endpoint(
    ...     "Endpoint=sb://logs.servicebus.windows.net/;SharedAccessKeyName=reader;SharedAccessKey=c2VjcmV0=;EntityPath=web",
    ...     None,
    ... )
    >>> address, topic, settings["security.protocol"]
    ('logs.servicebus.windows.net:9093', 'web', 'SASL_SSL')
    """
    pairs = (part.partition("=") for part in connection.strip().strip(";").split(";"))
    parts = {key.strip().lower(): value.strip() for key, _, value in pairs}
    try:
        at = urlsplit(parts.get("endpoint", ""))
        host, port = at.hostname, at.port
    except ValueError:
        host = port = None
    found = [part for part in PARTS if parts.get(part.lower())]
    if not host or not ({*PARTS[1:3]} <= {*found} or PARTS[3] in found):
        raise UsageError(f"got a connection string with {', '.join(found) or 'no parts'}, {EXPECTED}")
    if not connection.strip().isprintable():
        raise UsageError(f"got a connection string with a line break or the like in it, {EXPECTED}")
    topic = hub or parts.get("entitypath")
    if not topic:
        raise UsageError("got a connection string without EntityPath, expected hub=, the name of the event hub, too")
    if not re.fullmatch(r"[\w.-]+", topic):
        raise UsageError(f"got the event hub {topic!r}, expected letters, digits, dots, hyphens and underscores")
    is_emulator = parts.get("usedevelopmentemulator", "").lower() == "true"
    password = re.sub(r'(["\\])', r"\\\1", connection.strip())
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    return (
        f"{f'[{host}]' if ':' in host else host}:{port or (9092 if is_emulator else 9093)}",
        topic,
        {
            **FRESH,
            "security.protocol": "SASL_PLAINTEXT" if is_emulator else "SASL_SSL",
            "sasl.mechanism": "PLAIN",
            "sasl.jaas.config": f'{module} required username="$ConnectionString" password="{password}";',
        },
    )


def _resolved(connection: str) -> str:
    """The connection string itself, or what the environment variable or the file has."""
    where, _, what = connection.partition(":")
    if where == "env":
        if not os.environ.get(what):
            raise UsageError(f"got connection={connection}, and the environment has no {what}: set it")
        return os.environ[what]
    if where == "file":
        try:
            with open(what, encoding="utf-8-sig") as file:
                return file.read()
        except (OSError, ValueError) as error:
            raise UsageError(f"got connection={connection}, which cannot be read: {error}") from None
    return connection
