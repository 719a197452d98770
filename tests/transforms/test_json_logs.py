"""The JSON of servers, against Python's json and datetime."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from pyspark.sql import SparkSession

from sparkstream_kit.transforms import access_log

# The example of https://caddyserver.com/docs/logging, and a line in the shape of Traefik's documentation.
CADDY = (
    '{"level":"info","ts":1646861401.5241024,"logger":"http.log.access","msg":"handled request","request":{"remote_ip":'
    '"127.0.0.1","remote_port":"41342","client_ip":"127.0.0.1","proto":"HTTP/2.0","method":"GET","host":"localhost",'
    '"uri":"/a?b","headers":{"User-Agent":["curl/7.82.0"],"Accept":["*/*"],"Referer":["http://a.example/\\"\\u00e9"]}},'
    '"bytes_read":0,"user_id":"","duration":0.000929675,"size":10900,"status":200,"resp_headers":{"Server":["Caddy"]}}'
)
TRAEFIK = (
    '{"ClientAddr":"192.0.2.1:4711","ClientHost":"192.0.2.1, 10.0.0.1","ClientPort":"4711","ClientUsername":"-",'
    '"DownstreamContentSize":5,"DownstreamStatus":404,"Duration":123456,"RequestMethod":"GET","RequestPath":"/a?b",'
    '"RequestProtocol":"HTTP/1.1","StartUTC":"2024-01-02T03:04:05.678901234Z","StartLocal":"2024-01-02T04:04:05+01:00",'
    '"entryPointName":"web","level":"info","msg":"","request_User-Agent":"curl/8","time":"2024-01-02T03:04:05Z"}'
)
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def caddy(line: str) -> tuple[Any, ...]:
    entry = json.loads(line)
    request = entry["request"]
    headers = request["headers"]
    ts = entry["ts"]
    at = datetime.fromisoformat(ts) if isinstance(ts, str) else EPOCH + timedelta(microseconds=int(ts * 1_000_000))
    who = (request.get("client_ip", request["remote_ip"]), None, entry["user_id"] or None)
    served = (request["method"], request["uri"], request["proto"], entry["status"], entry["size"])
    return (*who, at, *served, *((headers.get(name) or [None])[0] for name in ("Referer", "User-Agent")))


def traefik(line: str) -> tuple[Any, ...]:
    entry = json.loads(line)
    at = datetime.fromisoformat((entry.get("StartUTC") or entry["StartLocal"])[:26].rstrip("Z") + "+00:00")
    who = (entry["ClientHost"], None, None if entry["ClientUsername"] == "-" else entry["ClientUsername"])
    served = tuple(entry[name] for name in ("RequestMethod", "RequestPath", "RequestProtocol", "DownstreamStatus"))
    size = entry["DownstreamContentSize"]
    return (*who, at, *served, size, entry.get("request_Referer"), entry.get("request_User-Agent"))


@pytest.mark.parametrize(
    ("format", "line", "read"),
    [
        ("caddy", CADDY, caddy),
        ("caddy", CADDY.replace('"client_ip":"127.0.0.1",', "").replace('"user_id":""', '"user_id":"ann"'), caddy),
        ("caddy", CADDY.replace("1646861401.5241024", '"2022-03-09T21:30:01.524+01:00"'), caddy),
        ("caddy", CADDY.replace("1646861401.5241024", "1646861401"), caddy),
        ("caddy", CADDY.replace('"status":200', '"status":0'), caddy),
        ("caddy", CADDY.replace('["curl/7.82.0"]', "[]"), caddy),
        ("traefik", TRAEFIK, traefik),
        ("traefik", TRAEFIK.replace('"request_User-Agent":"curl/8"', '"request_Referer":"r"'), traefik),
        ("traefik", f"\ufeff{TRAEFIK} ", lambda line: traefik(line.strip("\ufeff"))),
    ],
)
def test_the_columns_are_those_of_combined(spark: SparkSession, format: str, line: str, read: Any) -> None:
    requests, rejected = access_log.split(spark.createDataFrame([(line,)], "value string"), format)
    assert requests.dtypes == access_log.parse(spark.createDataFrame([], "value string")).dtypes
    assert rejected.collect() == []
    found = requests.first()
    assert found is not None
    assert (*found[:3], found[3].astimezone(timezone.utc), *found[4:]) == read(line)


@pytest.mark.parametrize(
    ("format", "line", "reason"),
    [
        ("caddy", "::1 - -", "line is not one JSON object"),
        ("caddy", CADDY + "{}", "line is not one JSON object"),
        ("caddy", CADDY.replace('"status":200', '"status":"OK"'), "a member has another type than in the format"),
        ("caddy", '{"level":"info","ts":1646861401.5,"msg":"serving initial configuration"}', "status is missing"),
        ("caddy", TRAEFIK, "ts is missing"),
        ("caddy", CADDY.replace("1646861401.5241024", "1646861401524.1"), "ts is neither seconds since 1970 nor"),
        (
            "caddy",
            CADDY.replace("1646861401.5241024", '"2022-02-31T00:00:00Z"'),
            "ts is neither seconds since 1970 nor",
        ),
        ("caddy", CADDY.replace('"status":200', '"status":99'), "status is not a number from 100 to 999"),
        ("traefik", CADDY, "StartUTC or StartLocal is missing"),
        ("traefik", TRAEFIK.replace('Size":5', 'Size":-5'), "DownstreamContentSize is negative"),
    ],
)
def test_a_line_of_something_else_is_rejected_with_the_reason(
    spark: SparkSession, format: str, line: str, reason: str
) -> None:
    requests, rejected = access_log.split(spark.createDataFrame([(line,)], "value string"), format)
    assert requests.count() == 0
    ((got, why),) = rejected.collect()
    assert got == line
    assert why.startswith(reason)


# Lines that are not one object: blank, several, or closing the array into which they are put to be read.
NO_OBJECT = [
    "",
    " ",
    "\t",
    "\u00a0",
    "{",
    "}",
    "[]",
    "null",
    '"',
    ",",
    "{},{}",
    '],"line":[',
    '],"line":[{}',
    "\\",
    "\0",
]


@pytest.mark.parametrize(("format", "line"), [("caddy", CADDY), ("traefik", TRAEFIK)])
def test_blank_and_hostile_lines_are_rejected_and_make_nothing_fail(
    spark: SparkSession, format: str, line: str
) -> None:
    for texts in ([*NO_OBJECT, line], *([text, line] for text in NO_OBJECT)):
        requests, rejected = access_log.split(
            spark.createDataFrame([(text,) for text in texts], "value string"), format
        )
        assert requests.count() == 1
        assert [tuple(row) for row in rejected.collect()] == [
            (text, "line is not one JSON object") for text in texts[:-1]
        ]
