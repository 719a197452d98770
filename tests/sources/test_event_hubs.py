"""Connection strings of Azure: what they say, and what is said of those that say too little."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkstream_kit import sources
from sparkstream_kit.errors import UsageError
from sparkstream_kit.sources import _event_hubs
from sparkstream_kit.uris import parse

KEY = "SharedAccessKeyName=reader;SharedAccessKey=c2VjcmV0=="
SPACE = "Endpoint=sb://logs.servicebus.windows.net/"


def test_a_connection_string_is_an_endpoint_for_kafka() -> None:
    connection = f"{SPACE};{KEY};EntityPath=web"
    address, topic, settings = _event_hubs.endpoint(f" {connection}\n", None)
    assert (address, topic) == ("logs.servicebus.windows.net:9093", "web")
    assert settings["security.protocol"] == "SASL_SSL"
    assert settings["sasl.jaas.config"].endswith(f'required username="$ConnectionString" password="{connection}";')


@pytest.mark.parametrize(
    ("connection", "hub", "address", "topic", "protocol"),
    [
        (f"{SPACE};{KEY}", "web", "logs.servicebus.windows.net:9093", "web", "SASL_SSL"),
        (f"{SPACE};{KEY};EntityPath=web", "other", "logs.servicebus.windows.net:9093", "other", "SASL_SSL"),
        (f"endpoint=sb://h:9100/;{KEY};ENTITYPATH=web;", None, "h:9100", "web", "SASL_SSL"),
        ("Endpoint=sb://h/;SharedAccessSignature=sig;EntityPath=web", None, "h:9093", "web", "SASL_SSL"),
        (
            f"Endpoint=sb://localhost;{KEY};UseDevelopmentEmulator=true;",
            "web",
            "localhost:9092",
            "web",
            "SASL_PLAINTEXT",
        ),
    ],
)
def test_forms_of_connection_strings(connection: str, hub: str | None, address: str, topic: str, protocol: str) -> None:
    found, name, settings = _event_hubs.endpoint(connection, hub)
    assert (found, name, settings["security.protocol"]) == (address, topic, protocol)


def test_quotes_in_a_key_stay_in_the_password() -> None:
    *_, settings = _event_hubs.endpoint(f'{SPACE};SharedAccessKeyName=a;SharedAccessKey=b"\\c', "web")
    assert settings["sasl.jaas.config"].endswith(r'SharedAccessKey=b\"\\c";')


@pytest.mark.parametrize(
    ("connection", "words"),
    [
        (f"{SPACE};{KEY}", "without EntityPath, expected hub="),
        (f"{KEY};EntityPath=web", "with SharedAccessKeyName, SharedAccessKey, EntityPath, expected Endpoint=sb://"),
        (f"{SPACE};EntityPath=web", "with Endpoint, EntityPath, expected"),
        (f"Endpoint=sb://h:port/;{KEY}", "with Endpoint, SharedAccessKeyName, SharedAccessKey, expected"),
        ("c2VjcmV0==", "with no parts, expected"),
        (
            f"{SPACE};SharedAccessKeyName=a;SharedAccessKey=;EntityPath=web",
            "with Endpoint, SharedAccessKeyName, Entity",
        ),
        (f"{SPACE};SharedAccessKeyName=a;SharedAccessKey=c2Vj\nc2VjcmV0==;EntityPath=web", "with a line break"),
        (f"{SPACE};{KEY};EntityPath=a,b*", "got the event hub 'a,b*', expected letters"),
        ("", "with no parts, expected"),
    ],
)
def test_what_is_missing_is_said_and_the_key_is_not(connection: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        _event_hubs.endpoint(connection, None)
    assert words in str(refused.value)
    assert "c2VjcmV0" not in str(refused.value)


def test_where_a_connection_string_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HUB", raising=False)
    with pytest.raises(UsageError, match="got connection=env:HUB, and the environment has no HUB"):
        _event_hubs._resolved("env:HUB")
    with pytest.raises(UsageError, match="got connection=file:/nowhere/hub, which cannot be read: .*No such file"):
        _event_hubs._resolved("file:/nowhere/hub")


def test_on_a_command_line() -> None:
    spec = parse("event-hubs:env:HUB?start=latest", sources)
    assert spec.arguments == {"connection": "env:HUB", "start": "latest"}
    with pytest.raises(
        UsageError, match="got port=//h/;SharedAccessKeyName=reader;SharedAccessKey=[*]+ for socket"
    ) as refused:
        parse(f"socket:Endpoint=sb://h/;{KEY}", sources)
    assert "c2VjcmV0" not in str(refused.value)
    spec = parse(f"iot-hub:{SPACE};{KEY};EntityPath=web?hub=x", sources)
    assert spec.arguments == {"connection": f"{SPACE};{KEY};EntityPath=web", "hub": "x"}
    assert "c2VjcmV0" not in repr(spec)
