"""Format strings as users have them in their configurations, against a plain Python writer of such lines."""

from __future__ import annotations

import random
import re
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import Row, SparkSession

from sparkstream_kit.errors import UsageError
from sparkstream_kit.transforms import _log_formats, _log_strings, access_log

TIME = "[10/Oct/2000:13:55:36 -0700]"
INSTANT = datetime(2000, 10, 10, 20, 55, 36, tzinfo=timezone.utc)


def parsed(spark: SparkSession, format: str, *lines: str) -> list[dict[str, object]]:
    """The fields of each line that are not null; fails if a line is rejected. The time is in UTC."""
    requests, rejected = access_log.split(spark.createDataFrame([(line,) for line in lines], "value string"), format)
    assert rejected.collect() == []
    return [known(row) for row in requests.coalesce(1).collect()]


def known(row: Row) -> dict[str, object]:
    fields = {name: value for name, value in row.asDict().items() if value is not None}
    if "timestamp" in fields:
        fields["timestamp"] = fields["timestamp"].astimezone(timezone.utc)
    return fields


def rejected(spark: SparkSession, format: str, *lines: str) -> list[str]:
    frame = spark.createDataFrame([(line,) for line in lines], "value string")
    assert access_log.parse(frame, format).count() == 0
    return [row.reason for row in access_log.rejected(frame, format).collect()]


REQUEST = {"method": "GET", "path": "/a?b", "protocol": "HTTP/1.1"}
WHO = {"client_ip": "::1", "timestamp": INSTANT}
COMMON = {**WHO, **REQUEST, "status": 200, "bytes": 5}
CLF = f'::1 - - {TIME} "GET /a?b HTTP/1.1" 200 5'
COMBINED = r"%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-agent}i\""


ODD = ["", *' "\\-,:[]09xé\r\x1a\ufeff', "  ", ", ", " : ", "] ", "\\\\", '\\\\"', "\x1a2"]


@pytest.mark.parametrize(
    ("format", "line"),
    [
        ("vhost_combined", f'a.example:443 ::1 - - {TIME} "GET / HTTP/1.1" 200 5 "-" "curl/8"'),
        ("main", f'::1 - - {TIME} "GET / HTTP/1.1" 200 5 "-" "curl/8" "10.0.0.1, ::2"'),
        ("traefik_common", f'::1 - - {TIME} "GET / HTTP/1.1" 200 5 "-" "curl/8" 17 "web@file" "http://a" 3ms'),
        ("%h,%t,%>s,%b,%O", f"::1,{TIME},200,-,5"),
        ('"%h","%u","%t","%r","%s","%b"', f'"::1","-","{TIME}","GET / HTTP/1.1","200","5"'),
        ("$remote_addr [$msec] $upstream_addr $request_time", "::1 [971211336.123] 10.0.0.1:80 0.003"),
        ('%{%s}t %a "%m %U%q %H" %>s "%u" %X', '971211336 ::1 "GET /a?b HTTP/1.1" 200 "ann" +'),
        ("%h %l %u %t [%{note}n]", f"::1 - - {TIME} [a]"),
        ("%u %t %h", f"- {TIME} [::1]"),
        ("%h %{foo}C", "::1 a"),
        ('%a %s%{foo}n "%r" %t', f'::1 200x "GET / HTTP/1.1" {TIME}'),
        ('%{sec}t%h "%r"', '1700000000host "GET / HTTP/1.1"'),
    ],
)
def test_usual_lines_are_read_as_any_line_is(
    spark: SparkSession, monkeypatch: pytest.MonkeyPatch, format: str, line: str
) -> None:
    draw = random.Random(format)
    lines = [line]
    for _ in range(1500):
        changed = line
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            at = draw.randrange(len(changed) + 1)
            changed = changed[:at] + draw.choice(ODD) + changed[at + draw.choice([0, 0, 1, 1, 2, 9]) :]
        lines.append(changed)
    frame = spark.createDataFrame(list(enumerate(lines)), "n int, value string").coalesce(1).cache()

    def read() -> list[list[Row]]:
        _log_formats.reader.cache_clear()
        return [result.collect() for result in access_log.split(frame, format)]

    fast = read()
    with monkeypatch.context() as patch:
        patch.setattr(_log_strings, "usual", lambda format: None)
        anyhow = read()
    _log_formats.reader.cache_clear()
    assert [row for row in fast[0] if row not in anyhow[0]] == []
    assert fast == anyhow
    assert len(fast[0]) > 20
    assert len(fast[1]) > 100


@pytest.mark.parametrize(
    ("format", "line", "expected"),
    [
        # delimiters
        (r"%h\t%t\t%r\t%>s\t%b", f"::1\t{TIME}\tGET /a?b HTTP/1.1\t200\t5", COMMON),
        ("%h|%u|%t|%r|%>s|%b", f"::1|Ann Lee|{TIME}|GET /a?b HTTP/1.1|200|5", {**COMMON, "user": "Ann Lee"}),
        ('"%h","%u","%t","%r","%s","%b"', f'"::1","-","{TIME}","GET /a?b HTTP/1.1","200","5"', COMMON),
        ("%h,%t,%>s,%b,%O", f"::1,{TIME},200,-,5", {**WHO, "status": 200, "bytes_sent": 5}),
        (
            r"{\"client\":\"%h\", \"time\":\"%t\", \"request\":\"%r\", \"status\":%>s, \"bytes\":%b}",
            f'{{"client":"::1", "time":"{TIME}", "request":"GET /a?b HTTP/1.1", "status":200, "bytes":5}}',
            COMMON,
        ),
        (r"{\"user\":\"%u\",\"status\":%s}", '{"user":"""","status":200}', {"status": 200}),
        # users without a name
        (COMBINED, f'::1 - "" {TIME} "GET /a?b HTTP/1.1" 200 5 "-" "-"', COMMON),
        (
            "vhost_combined",
            f'a.example:80 ::1 - "" {TIME} "GET /a?b HTTP/1.1" 200 5 "-" "-"',
            {**COMMON, "virtual_host": "a.example", "server_port": 80},
        ),
        (COMBINED, f'::1 -  {TIME} "GET /a?b HTTP/1.1" 200 5 "-" "-"', COMMON),
        # clients
        (
            '%{X-Forwarded-For}i %l %u %t "%r" %>s %b',
            CLF.replace("::1", "::1, ::2"),
            {**COMMON, "client_ip": "::1, ::2"},
        ),
        ('%{X-Forwarded-For}i %l %u %t "%r" %>s %b', CLF, COMMON),
        ('%a %l %u %t "%r" %>s %b', CLF, COMMON),
        (
            '%h %a "%{X-Forwarded-For}i" %{X-Real-IP}i %{c}a',
            'a.example ::1 "::2, ::3" ::4 ::5',
            {
                "client_ip": "::1",
                "remote_host": "a.example",
                "http_x_forwarded_for": "::2, ::3",
                "http_x_real_ip": "::4",
                "realip_remote_addr": "::5",
            },
        ),
        # fields with columns of their own
        (
            '%D %T %{ms}T %I %O %X %k %{X-Request-Id}i "%{Set-Cookie}o" %{sid}C %{Foo}e %{n}n %{SSL_PROTOCOL}x',
            '1 2 3 4 5 + 6 abc "a b" c - e TLSv1.3',
            {
                **{"request_time_us": 1, "request_time_s": 2, "request_time_ms": 3, "request_length": 4, "bytes": 5},
                **{"connection_status": "+", "keepalive_requests": 6, "http_x_request_id": "abc"},
                **{"sent_http_set_cookie": "a b", "cookie_sid": "c", "note_n": "e", "ssl_protocol": "TLSv1.3"},
            },
        ),
        ("%h %{User-Agent}i", "::1 curl/8 (x y)", {"client_ip": "::1", "user_agent": "curl/8 (x y)"}),
        # modifiers
        (
            "%<>s %!200,304{Referer}i %>{us}T %^FB %{s}!200>T",
            "200 - 5 7 -",
            {"status": 200, "request_time_us": 5} | {"time_to_first_byte_us": 7},
        ),
        ("%s %>s", "301 200", {"status": 200}),
        ("%{a}{Referer}i", "x", {"referrer": "x"}),
        # blanks, and fields that are empty
        (
            f"{COMBINED} %D",
            f'::1  -  -  {TIME}  "GET /a?b HTTP/1.1"  200   5  "-" "a  b"  7 ',
            {**COMMON, "user_agent": "a  b", "request_time_us": 7},
        ),
        ("%m %U%q %q %s", "GET /a?b  200", {"method": "GET", "path": "/a?b", "status": 200}),
        ("%h %s", "\ufeff::1 000", {"client_ip": "::1", "status": 0}),
        # times
        ("%{sec}t %s", "971211336 200", {"timestamp": INSTANT, "status": 200}),
        ("%{%s}t %s", "971211336 200", {"timestamp": INSTANT, "status": 200}),
        ("%{begin:msec}t", "971211336000", {"timestamp": INSTANT}),
        ("%{usec}t", "971211336000001", {"timestamp": INSTANT + timedelta(microseconds=1)}),
        ("[%{%d/%b/%Y:%H:%M:%S %z}t]", TIME, {"timestamp": INSTANT}),
        ("%{%FT%T%z}t", "2000-10-10T13:55:36-0700", {"timestamp": INSTANT}),
        ("%{%Y-%m-%d %H:%M:%S %z}t|%s", "2000-10-10 20:55:36 +0000|200", {"timestamp": INSTANT, "status": 200}),
        ("%{end}t", TIME, {"timestamp": INSTANT}),
        (
            "%t %{end}t %{msec_frac}t",
            f"{TIME} {TIME} 042",
            {"timestamp": INSTANT, "time_end": TIME, "time_msec_frac": "042"},
        ),
        ("%t", "[31/Dec/2016:23:59:60 +0000]", {"timestamp": datetime(2017, 1, 1, tzinfo=timezone.utc)}),
        # nginx
        ("main", f'{CLF} "-" "-" "-"', COMMON),
        ("main", f'{CLF} "-" "a" "::2, ::3"', {**COMMON, "user_agent": "a", "http_x_forwarded_for": "::2, ::3"}),
        (
            "$remote_addr ${status} $request_time",
            "::1 009 0.003",
            {"client_ip": "::1", "status": 9, "request_time": "0.003"},
        ),
        (
            "$time_iso8601 $msec",
            "2000-10-10T13:55:36-07:00 971211337.042",
            {"timestamp": INSTANT, "msec": "971211337.042"},
        ),
        ("$msec", "971211336.000", {"timestamp": INSTANT}),
        (
            '"$scheme://$host$request_uri" $status $upstream_response_time $upstream_status $path',
            '"https://a.example/a?b" 200 0.1, 0.2 : 0.3 502, 200 p',
            {
                **{"scheme": "https", "virtual_host": "a.example", "path": "/a?b", "status": 200, "var_path": "p"},
                **{"upstream_response_time": "0.1, 0.2 : 0.3", "upstream_status": "502, 200"},
            },
        ),
        ("$request_method $uri$is_args$args $http_x", "GET /a?b ", {"method": "GET", "path": "/a?b"}),
        (
            '{"ip":"$remote_addr","t":"$time_iso8601","uri":"$request_uri","status":"$status","rt":$upstream_response_time}',
            r'{"ip":"::1","t":"2000-10-10T20:55:36+00:00","uri":"/a\"?b","status":"200","rt":}',
            {**WHO, "path": r"/a\"?b", "status": 200},
        ),
        ("$http_x_forwarded_for - $remote_user [$time_local] $bytes_sent", f"::1 - - {TIME} 5", {**WHO, "bytes": 5}),
        (
            "traefik_common",
            f'{CLF} "-" "curl/8" 12 "web@docker" "http://10.0.0.1:80" 3ms',
            {
                **{**COMMON, "user_agent": "curl/8", "note_requestcount": "12", "note_routername": "web@docker"},
                **{"note_serviceurl": "http://10.0.0.1:80", "request_time_ms": 3},
            },
        ),
    ],
)
def test_a_line_is_read_as_its_configuration_says(
    spark: SparkSession, format: str, line: str, expected: dict[str, object]
) -> None:
    assert parsed(spark, format, line) == [expected]


def test_further_fields_follow_in_the_order_of_the_format_with_types_from_the_manual(spark: SparkSession) -> None:
    frame = spark.createDataFrame([], "value string")
    columns = access_log.parse(frame, f"%v {COMBINED} %D %{{X-Request-Id}}i %X").dtypes
    assert columns[0] == ("virtual_host", "string")
    assert [name for name, _ in columns[1:12]] == list(access_log.Request._fields)
    assert columns[12:] == [
        ("request_time_us", "bigint"),
        ("http_x_request_id", "string"),
        ("connection_status", "string"),
    ]


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("combine", "got the format 'combine', expected combined, common, vhost_combined, main, traefik_common, caddy"),
        ("", "got the format '', expected combined, "),
        ("%h %Z", "got %Z in the format, which is not a directive of Apache"),
        ("%h %>200", "got %>200 in the format, which is not a directive of Apache"),
        ("%h %{Referer", "got %{ in the format, which is not a directive of Apache"),
        ("%h %^XX", r"got %\^XX in the format, which is not a directive of Apache"),
        ("%i %h", "got %i in the format, expected %{NAME}i"),
        ("%{foo}p", "got %{foo}p in the format, expected %p or %{canonical}p or"),
        ("100%%", "got the format '100%%', expected at least one directive"),
        ("%h %r %s", "got %r before a blank in the format, .* expected it in quotes, or %m %U%q %H"),
        ("%h%l", "got %h directly before the next directive"),
        ("$host$uri_x $status", r"got \$host directly before the next directive"),
        ("$status $ ", r"got \$ without a name in the format"),
        ("%h %{%H:%M}t", "got %{%H:%M}t in the format, which does not say when a request was"),
        ("%h %{%c}t", "got %{%c}t in the format, expected sec, msec, usec, or a time made of"),
    ],
)
def test_an_unsupported_format_is_refused_by_the_name_of_the_directive(format: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.compile(message)):
        access_log.check_format(format)


@pytest.mark.parametrize("format", access_log.formats())
def test_every_format_with_a_name_can_be_read(spark: SparkSession, format: str) -> None:
    access_log.check_format(format)
    assert access_log.parse(spark.createDataFrame([], "value string"), format).columns[-1] in (
        *("user_agent", "server_port", "http_x_forwarded_for", "request_time_ms"),
    )


@pytest.mark.parametrize(
    ("format", "line", "reason"),
    [
        ("%h %b", "::1 5x", "line goes on after the end of the format"),
        ("%h,%b,%s", "::1,x,200", "line does not match the format at %b"),
        ("%{%FT%T%z}t", "2023-02-31T00:00:00+0000", "timestamp is not a date that exists"),
        ("%{%FT%T%z}t", "2023-13-01T00:00:00+0000", "timestamp is not a date that exists"),
        ("$time_iso8601", "2023-01-01T00:00:00", "line does not match the format at $time_iso8601"),
        ("$status", "001", "line does not match the format at $status"),
        ("%D", "1" * 19, "line does not match the format at %D"),
    ],
)
def test_a_line_in_another_format_is_rejected_with_the_directive(
    spark: SparkSession, format: str, line: str, reason: str
) -> None:
    assert rejected(spark, format, line) == [reason]


# --- against a writer: what a server would log for a request, by the manual

blank_free = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters=":._-/"), min_size=1)
word = blank_free.filter(lambda text: text != "-")
phrase = st.lists(word, min_size=1, max_size=3).map(" ".join)
ESCAPED = st.sampled_from([r"\"", r"\\", r"\x16", " "])
quoted = (
    st.lists(word | ESCAPED, min_size=1, max_size=5)
    .map(lambda parts: "".join(parts).strip(" "))
    .filter(lambda text: text not in ("", "-"))
)
NUMBER = st.none() | st.integers(0, 10**15)
DIRECTIVES: dict[str, tuple[str, st.SearchStrategy[object]]] = {
    "%h": ("client_ip", word | st.lists(word, min_size=2, max_size=3).map(", ".join)),
    "%l": ("identity", st.none() | word),
    '"%{Referer}i"': ("referrer", st.none() | quoted),
    '"%{User-Agent}i"': ("user_agent", st.none() | quoted),
    "%>s": ("status", st.integers(100, 999)),
    "%b": ("bytes", NUMBER),
    "%D": ("request_time_us", NUMBER),
    "%{X}e": ("env_x", st.none() | word),
    '"%{Y}o"': ("sent_http_y", st.none() | quoted),
    "%v": ("virtual_host", st.none() | word),
    "%{usec}t": ("timestamp", st.integers(0, 10**16)),
}


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_a_server_writes_is_read_back_whatever_the_format(spark: SparkSession, data: st.DataObject) -> None:
    chosen = data.draw(st.permutations(list(DIRECTIVES)).flatmap(lambda all: st.integers(1, 11).map(lambda n: all[:n])))
    delimiter = data.draw(st.sampled_from([" ", "\t", "|", ";"]))
    rows = data.draw(st.lists(st.tuples(*(DIRECTIVES[d][1] for d in chosen)), min_size=1, max_size=20))
    lines = []
    for row in rows:
        texts = ["-" if value is None else str(value) for value in row]
        lines.append(delimiter.join(f'"{t}"' if d.startswith('"') else t for d, t in zip(chosen, texts, strict=True)))
    expected = [{DIRECTIVES[d][0]: v for d, v in zip(chosen, row, strict=True) if v is not None} for row in rows]
    for fields in expected:
        if "timestamp" in fields:
            epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
            fields["timestamp"] = epoch + timedelta(microseconds=fields["timestamp"])  # type: ignore[arg-type]
    assert parsed(spark, delimiter.join(chosen), *lines) == expected


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    instant=st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(timezone.utc)),
    minutes=st.integers(-840, 840),
    format=st.sampled_from(["%Y-%m-%dT%H:%M:%S%z", "%F %T %z", "%d/%b/%Y:%H:%M:%S %z", "%z %S %M %H %d %m %Y"]),
)
def test_a_time_is_read_as_strptime_does(spark: SparkSession, instant: datetime, minutes: int, format: str) -> None:
    instant = instant.replace(microsecond=0).astimezone(timezone(timedelta(minutes=minutes)))
    long = format.replace("%F", "%Y-%m-%d").replace("%T", "%H:%M:%S")
    assert parsed(spark, f"%{{{format}}}t", instant.strftime(long)) == [{"timestamp": instant}]


HOSTILE = ["a", "\\", '\\"', '"', "[ ", " [", "] ", ", ", " ", "- ", '"" ', " : ", "5", "1,", "\x1a", "\ufeff"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "format",
    [
        f"{COMBINED} %D %{{X}}i %{{Y}}i",
        '%{X-Forwarded-For}i %u %t "%m %U%q %H" %s %{User-Agent}i',
        '$remote_addr $remote_user [$time_local] "$request" $upstream_addr $upstream_status $x $y',
        '{"a": "%h", "u": "%u", "b": %b, "c": "%{X}i"}',
        "%h|%u|%r|%{%FT%T%z}t|%b",
    ],
)
def test_a_hostile_line_of_64_kb_takes_linear_time(spark: SparkSession, format: str) -> None:
    # A pattern of quadratic time would run for minutes, or overflow the stack.
    lines = []
    for unit in HOSTILE:
        text = unit * (65536 // len(unit))
        lines += [
            text,
            f"::1 {text}",
            f"::1 - {text} {TIME} 5",
            f'::1 - - {TIME} "{text}" 200 5 "{text}" {text}',
            f"::1|{text}",
        ]
        lines += [f'{{"a": "{text}", "u": "{text}']
    requests, others = access_log.split(spark.createDataFrame([(line,) for line in lines], "value string"), format)
    assert requests.count() + others.count() == len(lines)
    assert all(row.reason for row in others.select("reason").collect())
