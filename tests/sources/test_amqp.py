"""Properties of AMQP senders: values as two other encoders write them, Azure's for Python and Apache Qpid Proton."""

from __future__ import annotations

from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from sparkstream_kit.sources import _amqp

ENCODED = {
    "40": None,
    "41": "true",
    "42": "false",
    "5601": "true",
    "5600": "false",
    "a100": "",
    "a10474657874": "text",
    "a109c3a9c3a920e282ac20": "éé € ",
    "b10000012c" + "61" * 300: "a" * 300,
    "a30373796d": "sym",
    "a003616263": "abc",
    "b000000002c3a9": "é",
    "5400": "0",
    "54ff": "-1",
    "547f": "127",
    "71ffffff7f": "-129",
    "71fffeee90": "-70000",
    "7100000080": "128",
    "5500": "0",
    "55ff": "-1",
    "81ffffff0000000000": "-1099511627776",
    "814000000000000000": "4611686018427387904",
    "818000000000000000": "-9223372036854775808",
    "51fb": "-5",
    "61fed4": "-300",
    "50c8": "200",
    "60ea60": "60000",
    "43": "0",
    "5207": "7",
    "70ee6b2800": "4000000000",
    "44": "0",
    "53c8": "200",
    "80ffffffffffffffff": "18446744073709551615",
    "723dcccccd": "0.1",
    "72bf800000": "-1.0",
    "7200000001": "1.4E-45",
    "82bfb999999999999a": "-0.1",
    "820000000000000000": "0.0",
    "8201a56e1fc2f8f359": "1.0E-300",
    "820000000000000001": "4.9E-324",
    "82fff0000000000000": "-Infinity",
    "827ff8000000000000": "NaN",
    "7300000041": None,
    "7422500001": None,
    "842200000000000001": None,
    "94" + "22" * 16: None,
    "00a3036162635401": None,
    "45": None,
    "c003015401": None,
    "c103020000": None,
    "9812345678123456781234567812345678": "12345678-1234-5678-1234-567812345678",
    "830000019c1310e47b": "2026-01-31T08:00:00.123Z",
    "83ffffffffffffffff": "1969-12-31T23:59:59.999Z",
    "830000000000000000": "1970-01-01T00:00:00Z",
    "830000e677d21fdbff": "9999-12-31T23:59:59.999Z",
    "837fffffffffffffff": None,
}
"""Values in hex, and as text."""

AMQP = bytes.fromhex("a10178")


def decoded(spark: SparkSession, *records: list[tuple[str, bytes | None]] | None) -> list[Any]:
    rows = [(each and [(key, value and bytearray(value)) for key, value in each],) for each in records]
    frame = spark.createDataFrame(rows, "headers array<struct<key: string, value: binary>>")
    return [row[0] for row in frame.select(_amqp.properties(F.col("headers"))).collect()]


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/New_York"])
def test_values_of_all_types_are_text(spark: SparkSession, zone: str) -> None:
    before = spark.conf.get("spark.sql.session.timeZone")
    spark.conf.set("spark.sql.session.timeZone", str(zone))
    try:
        (got,) = decoded(spark, [(code, bytes.fromhex(code)) for code in ENCODED])
    finally:
        spark.conf.set("spark.sql.session.timeZone", str(before))
    assert got == ENCODED


def test_values_that_are_cut_or_too_long_are_none_of_amqp(spark: SparkSession) -> None:
    fixed = [code for code in ENCODED if not code.startswith("00")]
    wrong = [other for code in fixed for other in (bytes.fromhex(code)[:-1], bytes.fromhex(code) + b"\x01")]
    got = decoded(spark, *([("a", AMQP), ("b", value)] for value in wrong if value))
    assert {record["a"] for record in got} == {"\ufffd\x01x"}


def test_properties_of_senders_that_speak_kafka_are_text(spark: SparkSession) -> None:
    plain = [("type", b"A"), ("page", b"P1"), ("lang", b"text"), ("empty", b""), ("none", None)]
    got = decoded(spark, plain, [("a", b"A"), ("b", "é".encode())], [], None, [("a", AMQP), ("b", b"flat")])
    assert got == [
        {"type": "A", "page": "P1", "lang": "text", "empty": "", "none": None},
        {"a": "A", "b": "é"},
        {},
        {},
        {"a": "\ufffd\x01x", "b": "flat"},
    ]


def test_of_two_with_one_name_the_last_one_counts(spark: SparkSession) -> None:
    assert decoded(spark, [("a", b"1"), ("b", b"2"), ("a", b"3")]) == [{"b": "2", "a": "3"}]
