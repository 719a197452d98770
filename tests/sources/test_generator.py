"""Generated lines are the same everywhere and always, and look like those of a real log."""

from collections import Counter
from datetime import timedelta, timezone
from itertools import combinations
from statistics import mean

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from sparkstream_kit.sources._generator import START, line, line_column, lines
from sparkstream_kit.transforms.access_log import Request, parse_line

COUNT = 50_000


@pytest.fixture(scope="module")
def generated() -> list[str]:
    return lines(1, 0, COUNT)


@pytest.fixture(scope="module")
def requests(generated: list[str]) -> list[Request]:
    results = [parse_line(one) for one in generated]
    assert [result for result in results if not isinstance(result, Request)] == []
    return [result for result in results if isinstance(result, Request)]


def in_spark(spark: SparkSession, seed: int, start: int, stop: int) -> list[str]:
    frame = spark.range(start, stop, numPartitions=1).select(line_column(seed, F.col("id")).alias("value"))
    return [row.value for row in frame.collect()]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 7, -3, 2**40])
@pytest.mark.parametrize("start", [0, 99_990, 497_690, 2**31 - 100, 2**40, 24 * 10**11])
def test_spark_and_python_generate_equal_lines(spark: SparkSession, seed: int, start: int) -> None:
    assert in_spark(spark, seed, start, start + 300) == lines(seed, start, start + 300)


@pytest.mark.parametrize("zone", ["America/New_York", "Pacific/Apia"])
def test_lines_do_not_depend_on_the_time_zone_of_the_session(spark: SparkSession, zone: str) -> None:
    session = spark.newSession()
    session.conf.set("spark.sql.session.timeZone", zone)
    assert in_spark(session, 1, 500_000, 500_200) == lines(1, 500_000, 500_200)


def test_offsets_of_type_int_generate_the_same_lines(spark: SparkSession) -> None:
    frame = spark.range(5).select(line_column(1, F.col("id").cast("int")).alias("value"))
    assert sorted(row.value for row in frame.collect()) == sorted(lines(1, 0, 5))


def test_a_line_stays_the_same_from_version_to_version() -> None:
    assert line(7, 0) == (
        '198.18.9.6 - - [17/May/2015:10:05:00 +0000] "GET /robots.txt HTTP/1.1" 304 - "http://shop.example/" '
        '"Mozilla/5.0 (X11; Linux x86_64; rv:38.0) Gecko/20100101 Firefox/38.0"'
    )


def test_a_range_holds_the_lines_at_its_offsets() -> None:
    assert lines(7, 3, 6) == [line(7, 3), line(7, 4), line(7, 5)]


def test_another_seed_generates_other_lines() -> None:
    same = sum(one == other for one, other in zip(lines(1, 0, 1000), lines(2, 0, 1000), strict=True))
    assert same < 10


def test_ten_lines_share_a_second(requests: list[Request]) -> None:
    start = START.replace(tzinfo=timezone.utc)
    assert [request.timestamp for request in requests] == [
        start + timedelta(seconds=offset // 10) for offset in range(COUNT)
    ]


def test_one_line_in_a_hundred_is_a_server_error_and_four_are_not_found(requests: list[Request]) -> None:
    counts = Counter(request.status for request in requests)
    errors = sum(count for status, count in counts.items() if status is not None and status >= 500)
    assert errors / COUNT == pytest.approx(0.01, abs=0.002)
    assert counts[404] / COUNT == pytest.approx(0.04, abs=0.004)


def test_a_thousand_clients_send_lines_and_the_busiest_a_tenth_of_them(requests: list[Request]) -> None:
    counts = Counter(request.client_ip for request in requests)
    assert len(counts) == 1000
    assert max(counts.values()) / COUNT == pytest.approx(0.1, abs=0.01)


def test_bytes_are_missing_where_no_body_is_sent(requests: list[Request]) -> None:
    assert {r.bytes is None for r in requests if r.status == 304 or r.method == "HEAD"} == {True}
    assert {r.bytes is None for r in requests if r.status != 304 and r.method != "HEAD"} == {False}


def test_a_line_has_about_160_bytes(generated: list[str]) -> None:
    assert mean(len(one.encode()) for one in generated) == pytest.approx(159, abs=1)


@pytest.mark.parametrize(
    ("one", "other"),
    list(combinations(["client_ip", "user", "method", "path", "status", "referrer", "user_agent"], 2)),
)
def test_fields_are_independent_of_each_other(requests: list[Request], one: str, other: str) -> None:
    pairs = Counter((getattr(request, one), getattr(request, other)) for request in requests)
    ones, others = Counter[object](), Counter[object]()
    for (left, right), count in pairs.items():
        ones[left] += count
        others[right] += count
    far = {
        pair: (count, expected)
        for pair, count in pairs.items()
        if abs(count - (expected := ones[pair[0]] * others[pair[1]] / COUNT)) > 5 * max(expected, 10) ** 0.5
    }
    assert far == {}
