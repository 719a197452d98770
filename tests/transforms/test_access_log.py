"""The parser in plain Python: cases that other parsers agree on, disputed ones, and any text."""

import json
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sparkstream_kit.transforms.access_log import Rejected, Request, parse_line, unescape

DATA = Path(__file__).parents[1] / "data"
SAMPLE = Path(__file__).parents[2] / "jobs" / "data" / "access_2000.log"

# A new format needs one more entry here.
FORMATS: dict[str, Callable[[str], Request | Rejected]] = {"common": parse_line, "combined": parse_line}
VECTORS = [json.loads(row) for row in (DATA / "parser_vectors.jsonl").read_text("utf-8").splitlines()]
READABLE = [vector for vector in VECTORS if vector["format"] in FORMATS]
CORE = [vector for vector in READABLE if vector["core"]]
# Whether the module's docstring accepts them.
DISPUTED = {"v004": False, "v005": False, "v009": False, "v010": False, "v016": True, "v078": True}

MISSING = ("", "-", None)
TIME = "[10/Oct/2000:13:55:36 -0700]"
LINE = f'127.0.0.1 - - {TIME} "GET / HTTP/1.1" 200 5'


def parsed(line: str) -> Request:
    result = parse_line(line)
    assert isinstance(result, Request), result
    return result


def reason(line: str) -> str:
    result = parse_line(line)
    assert isinstance(result, Rejected), result
    return result.reason


def stated(field: str, request: Request) -> object:
    """The value of the request for `field`, as the cases name it."""
    if field == "timestamp_utc":
        return request.timestamp.strftime("%Y-%m-%dT%H:%M:%SZ")
    if field == "protocol_version":
        return (request.protocol or "").removeprefix("HTTP/")
    if field == "request":
        return " ".join(part for part in (request.method, request.path, request.protocol) if part)
    return getattr(request, field)


def check(vector: dict[str, Any], result: Request | Rejected) -> None:
    if vector["expected"] is None:
        assert isinstance(result, Rejected)
        return
    assert isinstance(result, Request), result
    for field, expected in vector["expected"].items():
        if field == "timestamp":
            instant = datetime.strptime(expected, "%d/%b/%Y:%H:%M:%S %z")
            assert (result.timestamp, result.timestamp.utcoffset()) == (instant, timedelta(0))
        elif expected in MISSING:
            assert stated(field, result) in MISSING, field
        elif field == "request" and result.method is None:
            assert " " not in expected  # noise, which has no method
        else:
            assert stated(field, result) == expected, field


@pytest.mark.parametrize("vector", CORE, ids=lambda vector: vector["id"])
def test_lines_on_which_all_parsers_agree_are_read_in_the_same_way(vector: dict[str, Any]) -> None:
    check(vector, FORMATS[vector["format"]](vector["line"]))


@pytest.mark.parametrize("vector", [v for v in READABLE if not v["core"]], ids=lambda vector: vector["id"])
def test_a_disputed_line_is_accepted_or_rejected_as_documented(vector: dict[str, Any]) -> None:
    result = FORMATS[vector["format"]](vector["line"])
    if DISPUTED[vector["id"]]:
        check(vector, result)
    else:
        assert isinstance(result, Rejected)


@pytest.mark.parametrize(("path", "count"), [(SAMPLE, 2000), (DATA / "hostile_400.log", 400)])
def test_every_line_of_a_real_log_is_a_request(path: Path, count: int) -> None:
    results = [parse_line(line) for line in path.read_text("utf-8").splitlines()]
    assert [type(result) for result in results] == [Request] * count


def test_the_first_line_of_the_sample_is_read_field_by_field() -> None:
    with SAMPLE.open(encoding="utf-8", newline="") as lines:
        request = parsed(next(lines))
    assert request == Request(
        client_ip="83.149.9.216",
        identity=None,
        user=None,
        timestamp=datetime(2015, 5, 17, 10, 5, 3, tzinfo=timezone.utc),
        method="GET",
        path="/presentations/logstash-monitorama-2013/images/kibana-search.png",
        protocol="HTTP/1.1",
        status=200,
        bytes=203023,
        referrer="http://semicomplete.com/presentations/logstash-monitorama-2013/",
        user_agent=(
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_9_1) AppleWebKit/537.36 (KHTML, like Gecko) "
            "Chrome/32.0.1700.77 Safari/537.36"
        ),
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "timestamp is not in brackets"),
        ("- - - - - - -", "timestamp is not in brackets"),
        (f"::1 - - {TIME} GET / 200 5", "request is not in quotes after the timestamp"),
        (f'::1 - {TIME} "GET /" 200 5', "user is missing: fewer than three fields before the timestamp"),
        (
            f'example.com:80 ::1 - - {TIME} "GET /" 200 5',
            "user starts with '- ': more than three fields before the timestamp",
        ),
        ('::1 - - [2000-10-10T20:55:36Z] "GET /" 200 5', "timestamp is not dd/Mon/yyyy:hh:mm:ss +hhmm"),
        ('::1 - - [31/Feb/2000:13:55:36 +0000] "GET /" 200 5', "timestamp is not a date that exists"),
        ('::1 - - [01/Foo/2000:13:55:36 +0000] "GET /" 200 5', "timestamp is not a date that exists"),
        ('::1 - - [01/Jan/0001:00:00:00 +0100] "GET /" 200 5', "timestamp is not a date that exists"),
        ('::1 - - [31/Dec/9999:23:59:59 -0100] "GET /" 200 5', "timestamp is not a date that exists"),
        ('::1 - - [10/Oct/2000:24:00:00 +0000] "GET /" 200 5', "timestamp is not a date that exists"),
        ('::1 - - [10/Oct/2000:23:00:00 +2400] "GET /" 200 5', "timestamp is not dd/Mon/yyyy:hh:mm:ss +hhmm"),
        (rf'::1 - - {TIME} "GET /\" 200 5', "request has no closing quote"),
        (f'::1 - - {TIME} "GET /"', "status and bytes do not follow the request"),
        (f'::1 - - {TIME} "GET /" 99 5', "status is not a number from 100 to 999"),
        (f'::1 - - {TIME} "GET /" 099 5', "status is not a number from 100 to 999"),
        (f'::1 - - {TIME} "GET /" 9999 5', "status is not a number from 100 to 999"),
        (f'::1 - - {TIME} "GET /" ٢٠٠ 5', "status is not a number from 100 to 999"),
        (f'::1 - - {TIME} "GET /" 200 -5', "bytes is not a number from 0 to 2**63 - 1"),
        (f'::1 - - {TIME} "GET /" 200 9223372036854775808', "bytes is not a number from 0 to 2**63 - 1"),
        (f'::1 - - {TIME} "GET /" 200 {"9" * 65536}', "bytes is not a number from 0 to 2**63 - 1"),
        (f'::1 - - {TIME} "GET /" 200 5 x', "referrer is not in quotes"),
        (f'::1 - - {TIME} "GET /" 200 5 -x "a"', "referrer is not in quotes"),
        (f'::1 - - {TIME} "GET /" 200 5 "r', "referrer has no closing quote"),
        (f'::1 - - {TIME} "GET /" 200 5 "r"', "user agent is not in quotes"),
        (rf'::1 - - {TIME} "GET /" 200 5 "r" "a\"', "user agent has no closing quote"),
        (f'::1 - - {TIME} "GET /" 200 5 "r" "a" "b"', "user agent is not the end of the line"),
    ],
)
def test_a_rejected_line_names_the_field_that_is_wrong(line: str, expected: str) -> None:
    assert reason(line) == expected


def test_the_largest_bigint_is_accepted_as_bytes() -> None:
    assert parsed(f'::1 - - {TIME} "GET /" 200 {2**63 - 1}').bytes == 2**63 - 1


@pytest.mark.parametrize("client", ["::1", "a.example", "1.2.3.4, 5.6.7.8, 9.9.9.9", "1.2.3.4,5.6.7.8", "unknown"])
def test_the_client_is_kept_as_logged(client: str) -> None:
    request = parsed(LINE.replace("127.0.0.1", client))
    assert (request.client_ip, request.identity, request.user) == (client, None, None)


@pytest.mark.parametrize(
    ("logged", "user"),
    [("Ann B. Lee", "Ann B. Lee"), ("[a] [b", "[a] [b"), ('""', None), ("", None), (r"a\"b", r"a\"b")],
)
def test_a_user_may_contain_spaces_and_brackets(logged: str, user: str | None) -> None:
    request = parsed(f'::1 - {logged} {TIME} "GET / HTTP/1.1" 200 5')
    assert (request.client_ip, request.identity, request.user) == ("::1", None, user)


@pytest.mark.parametrize(
    ("logged", "method", "path", "protocol"),
    [
        ("GET /a b/c HTTP/1.1", "GET", "/a b/c", "HTTP/1.1"),
        ("GET /a?q=] HTTP/2", "GET", "/a?q=]", "HTTP/2"),
        ("GET /", "GET", "/", None),
        ("OPTIONS * HTTP/1.0", "OPTIONS", "*", "HTTP/1.0"),
        ("CONNECT a.example:443 HTTP/1.1", "CONNECT", "a.example:443", "HTTP/1.1"),
        ("GET  HTTP/1.1", "GET", None, "HTTP/1.1"),
        ("-", None, None, None),
        ("", None, None, None),
        (r"\x16\x03\x01\x02", None, None, None),
        ("\ufffd\ufffd \x00", None, None, None),
        ("SSH-2.0-Go", None, None, None),
        ("t3 12.2.1", None, None, None),
    ],
)
def test_a_request_line_is_split_or_is_noise(
    logged: str, method: str | None, path: str | None, protocol: str | None
) -> None:
    request = parsed(f'::1 - - {TIME} "{logged}" 400 -')
    assert (request.method, request.path, request.protocol) == (method, path, protocol)
    assert (request.status, request.bytes) == (400, None)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_end_is_not_part_of_the_line(end: str) -> None:
    assert parse_line(LINE + end) == parse_line(LINE)


def test_a_byte_order_mark_and_blanks_at_the_end_are_not_part_of_the_line() -> None:
    assert parse_line(f"\ufeff{LINE}  \r\n") == parse_line(LINE)


def test_several_blanks_between_fields_count_as_one() -> None:
    padded = f'::1  -  Ann  Lee   {TIME}  "GET /a  b HTTP/1.1"  200   5  "r  r"   -'
    request = parsed(padded)
    assert request == parsed(f'::1 - Ann  Lee {TIME} "GET /a  b HTTP/1.1" 200 5 "r  r" -')
    assert (request.user, request.path, request.referrer) == ("Ann  Lee", "/a  b", "r  r")
    assert parsed(f'::1 -  -  {TIME} "GET / HTTP/1.1" 200 5').user is None  # as Jetty writes it


def test_what_nginx_logs_for_a_client_that_closed_is_a_status() -> None:
    assert [parsed(LINE.replace(" 200 ", f" {status} ")).status for status in ("000", "009")] == [0, 9]


def test_a_leap_second_is_the_first_second_of_the_next_minute() -> None:
    leap = parsed(LINE.replace(TIME, "[31/Dec/2016:23:59:60 +0000]"))
    assert leap.timestamp == datetime(2017, 1, 1, tzinfo=timezone.utc)
    assert parsed(LINE.replace(TIME, "[01/Jan/2017:05:29:60 +0530]")).timestamp == leap.timestamp


def test_a_status_that_was_never_sent_is_missing() -> None:
    assert parsed(LINE.replace(" 200 ", " - ")).status is None


@pytest.mark.parametrize("offset", [-720, -90, 0, 330, 840])
def test_a_timestamp_is_the_same_instant_in_utc_whatever_its_offset(offset: int) -> None:
    instant = datetime(2024, 2, 29, 23, 59, 59, tzinfo=timezone(timedelta(minutes=offset)))
    request = parsed(LINE.replace(TIME, instant.strftime("[%d/%b/%Y:%H:%M:%S %z]")))
    assert (request.timestamp, request.timestamp.tzinfo) == (instant, timezone.utc)


@given(st.text())
@example(LINE + "\\")
@example(' [] "')
def test_any_text_is_a_request_or_is_returned_unchanged(text: str) -> None:
    result = parse_line(text)
    assert isinstance(result, Request) or result.line == text


@given(st.text(alphabet=' ",-[]\\0123456789/:+GETHP.\n', max_size=80), st.integers(0, len(LINE)))
def test_a_line_with_noise_in_it_is_a_request_or_is_returned_unchanged(noise: str, position: int) -> None:
    line = LINE[:position] + noise + LINE[position:]
    result = parse_line(line)
    assert isinstance(result, Request) or result.line == line


word = st.text(st.characters(exclude_characters=' ",\r\n', exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: text != "-" and "[" not in text
)
quoted = st.lists(
    st.text(st.characters(exclude_characters='"\\', exclude_categories=["Cs"]), min_size=1)
    | st.sampled_from([r"\"", r"\\", r"\x16", r"\n"])
).map("".join)


@given(
    client=word,
    identity=st.none() | word,
    user=st.none() | st.lists(word, min_size=1, max_size=3).map(" ".join),
    instant=st.datetimes(
        datetime(1, 1, 2),
        datetime(9999, 12, 30),
        timezones=st.integers(-840, 840).map(lambda m: timezone(timedelta(minutes=m))),
    ),
    method=st.sampled_from(["GET", "POST", "PROPFIND", "get"]),
    path=quoted.filter(lambda text: text not in MISSING),
    protocol=st.sampled_from(["HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/3"]),
    status=st.none() | st.integers(100, 999),
    size=st.none() | st.integers(0, 2**63 - 1),
    named=st.none() | st.tuples(quoted, quoted),
)
def test_a_line_composed_from_fields_parses_back_to_them(
    client: str,
    identity: str | None,
    user: str | None,
    instant: datetime,
    method: str,
    path: str,
    protocol: str,
    status: int | None,
    size: int | None,
    named: tuple[str, str] | None,
) -> None:
    def dash(value: object) -> object:
        return "-" if value is None else value

    instant = instant.replace(microsecond=0)
    # strftime does not pad the year to four digits on every platform
    stamp = f"{instant:%d/%b}/{instant.year:04}:{instant:%H:%M:%S %z}"
    who, request = f"{client} {dash(identity)} {dash(user)}", f"{method} {path} {protocol}"
    line = f'{who} [{stamp}] "{request}" {dash(status)} {dash(size)}'
    referrer = agent = None
    if named is not None:
        line += ' "{}" "{}"'.format(*named)
        referrer, agent = (None if text in MISSING else text for text in named)
    instant = instant.astimezone(timezone.utc)
    assert parse_line(line) == Request(
        client, identity, user, instant, method, path, protocol, status, size, referrer, agent
    )


def calls_to_parse(line: str) -> int:
    """How many Python and C functions the parser's own code calls for a line."""
    calls = 0

    def count(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        # the garbage collector may run finalizers in between
        calls += event in ("call", "c_call") and frame.f_code.co_filename == parse_line.__code__.co_filename

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        parse_line(line)
    finally:
        sys.setprofile(before)
    return calls


@pytest.mark.parametrize(
    "hostile",
    [
        '::1 - - {time} "{a}" 200 5 "-" "-"',
        '::1 - - {time} "GET /{a} HTTP/1.1" 200 5 "{a}" "{a}"',
        '::1 - - {time} "GET /{a}',
        '::1 - - {time} "GET /" 200 5 "-" "{a}',
        '::1 - {a} {time} "GET /" 200 5',
        '{a} - - {time} "GET /" 200 5',
        "{a}",
    ],
)
@pytest.mark.parametrize("unit", ["a", "\\", '\\"', "\\x", "[ ", " [", "] ", ",", " /", "- "])
def test_a_long_hostile_line_takes_no_more_calls_than_a_short_one(hostile: str, unit: str) -> None:
    # No call scans the line more than once: in the patterns each character can match in one place only.
    short, long = (hostile.format(time=TIME, a=unit * (length // len(unit))) for length in (64, 65536))
    assert calls_to_parse(long) == calls_to_parse(short)


def test_a_long_list_of_proxies_takes_at_most_two_calls_for_each() -> None:
    proxies = "1.1.1.1, " * 7000
    assert parsed(proxies + LINE).client_ip == proxies + "127.0.0.1"
    assert calls_to_parse(proxies + LINE) - calls_to_parse(LINE) <= 2 * 7000


@given(st.binary())
def test_escaped_bytes_are_decoded_as_utf_8(data: bytes) -> None:
    assert unescape("".join(f"\\x{byte:02x}" for byte in data)) == data.decode("utf-8", "replace")


@given(st.text().map(lambda text: text.replace("\\", "\\\\").replace('"', '\\"')))
def test_unescape_undoes_the_escapes_of_quotes_and_backslashes(logged: str) -> None:
    assert unescape(logged).replace("\\", "\\\\").replace('"', '\\"') == logged


@given(st.text(alphabet='\\x0fnq"'))
def test_unescape_accepts_any_text(text: str) -> None:
    assert len(unescape(text)) <= len(text)
