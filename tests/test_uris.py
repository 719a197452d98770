from __future__ import annotations

from types import ModuleType

import pytest

from sparkstream_kit import outputs, sources, uris
from sparkstream_kit.errors import UsageError


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("files:/logs", {"path": "/logs"}),
        (
            "files:hdfs://nn:8020/logs?glob=*.log&min_age=5s",
            {"path": "hdfs://nn:8020/logs", "glob": "*.log", "min_age": "5s"},
        ),
        ("files:/q?", {"path": "/q?"}),
        ("files:/q?/[prod]?glob=a?.log", {"path": "/q?/[prod]", "glob": "a?.log"}),
        ("files:/a?b/100%/x#y, z", {"path": "/a?b/100%/x#y, z"}),
        ("files:/logs?glob=a+b*.log", {"path": "/logs", "glob": "a+b*.log"}),
        ("files:/a+b?glob=a%20%26%2B%3D*.log", {"path": "/a+b", "glob": "a &+=*.log"}),
        ("files:/logs?glob=", {"path": "/logs", "glob": ""}),
        ("generator:", {}),
        ("generator:?rate=5000&count=150000&seed=7", {"rate": 5000, "count": 150000, "seed": 7}),
        ("socket:localhost:9999", {"host": "localhost", "port": 9999}),
    ],
)
def test_a_source_is_spelled_as_its_function_is_called(text: str, arguments: dict[str, object]) -> None:
    spec = uris.parse(text, sources)
    assert (spec.name, spec.arguments) == ("", arguments)
    assert spec.function.__name__ == spec.kind


def test_a_name_before_the_kind_says_which_of_several_it_is() -> None:
    spec = uris.parse("clicks=json:file:///out", outputs)
    assert (spec.name, spec.kind, spec.arguments) == ("clicks", "json", {"directory": "file:///out"})


def test_an_output_may_be_named_in_its_options() -> None:
    spec = uris.parse("lines=json:/copy?name=copy", outputs, named=True)
    assert (spec.name, spec.arguments) == ("lines", {"directory": "/copy", "name": "copy"})
    assert uris.Spec("", "json", lambda target, **given: given, spec.arguments)(None, name="lines")["name"] == "copy"


def test_options_of_a_url_reach_its_library_as_they_are() -> None:
    spec = uris.parse("sql:postgresql://kit@db/logs?mode=upsert&options=-c%20a%3Db+c&key=a+b&sslmode", outputs)
    assert spec.arguments == {
        "url": "postgresql://kit@db/logs?options=-c%20a%3Db+c&sslmode",
        "mode": "upsert",
        "key": "a+b",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("logs", r"got 'logs', expected \[NAME=\]KIND:REST, where KIND is event-hubs, files, "),
        ("file:/logs", "got the kind 'file', expected event-hubs, files, "),
        ("files:", "got files:, expected files:PATH"),
        ("files:/logs?globb=x", "got the option 'globb' for files, expected encoding, glob, inactive_after or min_age"),
        ("files:/logs?name=x", "got the option 'name' for files, expected encoding"),
        ("socket:localhost", "got socket:localhost, expected socket:HOST:PORT"),
        ("socket:localhost:http", "got port=http for socket, expected a number"),
        ("generator:rate=5", "got generator:rate%3D5, expected generator: followed by nothing but"),
        ("generator:?rate=fast", "got rate=fast for generator, expected a number"),
    ],
)
def test_an_invalid_argument_is_reported_with_what_is_expected(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        uris.parse(text, sources)


@pytest.mark.parametrize(
    "text",
    [
        "sqll:postgresql://kit:geheim@db/logs",
        "sqll:postgresql://db/logs?password=geheim",
        "Webhook:https://hooks.example.com/geheim",
        "redis:redis://:geheim@db",
    ],
)
def test_a_secret_in_a_wrong_word_is_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        uris.parse(text, outputs)
    assert "geheim" not in str(caught.value)


def test_a_password_is_not_in_the_repr_of_what_was_read() -> None:
    spec = uris.parse("totals=sql:postgresql://kit:geheim@db/logs", outputs)
    assert spec.arguments["url"] == "postgresql://kit:geheim@db/logs"
    assert "geheim" not in repr(spec)


@pytest.mark.parametrize("package", [sources, outputs], ids=["sources", "outputs"])
def test_every_kind_is_a_function_of_a_context_or_stream_with_a_name(package: ModuleType) -> None:
    for kind in uris.kinds(package):
        assert "name" in uris.function(package, kind).__kwdefaults__
