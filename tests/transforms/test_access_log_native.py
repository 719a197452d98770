"""The parser in Spark against `parse_line`, which shares no code with it."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from chispa import assert_df_equality
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.streaming import DStream

from sparkstream_kit.errors import UsageError
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.testing import run_batches
from sparkstream_kit.transforms import access_log, json_lines
from sparkstream_kit.transforms._log_formats import reader
from sparkstream_kit.transforms.access_log import Rejected, Request, parse_line
from tests.transforms.test_access_log import check

DATA = Path(__file__).parents[1] / "data"
SAMPLE = Path(__file__).parents[2] / "jobs" / "data" / "access_2000.log"
CASES = [json.loads(row) for row in (DATA / "parser_vectors.jsonl").read_text("utf-8").splitlines()]
VECTORS = [case["line"] for case in CASES]

LOG_FORMAT = r"%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-agent}i\""
VHOST = 'shop.example:443 ::1 - Ann Lee [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.1" 200 5 "-" "curl"'
NGINX_MAIN = rf'{LOG_FORMAT} "%{{X-Forwarded-For}}i"'
INGRESS = f"{LOG_FORMAT} %I %{{time}}x [%{{upstream}}x] [%{{other}}x]" + " %{more}x" * 5
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
TIME = "[10/Oct/2000:13:55:36 -0700]"
LINE = f'127.0.0.1 - - {TIME} "GET / HTTP/1.1" 200 5'


def frame_of(spark: SparkSession, lines: Iterable[str]) -> DataFrame:
    return spark.createDataFrame([(i, line) for i, line in enumerate(lines)], "n int, value string")


def native(spark: SparkSession, lines: list[str], format: str = "combined") -> list[Request | Rejected]:
    """The result of the parser in Spark for each line; fails if it is both a request and rejected, or neither."""
    requests, rejected = access_log.split(frame_of(spark, lines).coalesce(1), format)
    micros = F.unix_micros("timestamp").alias("timestamp")  # collect() only supports the years 1 to 9999
    found: list[tuple[int, Request | Rejected]] = []
    for n, *fields in requests.select("n", *(micros if f == "timestamp" else f for f in Request._fields)).collect():
        request = Request(*fields)
        at = EPOCH + timedelta(microseconds=request.timestamp)  # type: ignore[arg-type]
        found.append((n, request._replace(timestamp=at)))
    found += [(n, Rejected(line, reason)) for n, line, reason in rejected.collect()]
    assert sorted(n for n, _ in found) == list(range(len(lines)))
    return [result for _, result in sorted(found, key=lambda pair: pair[0])]


def assert_agreement(spark: SparkSession, lines: list[str]) -> None:
    for line, result in zip(lines, native(spark, lines), strict=True):
        assert result == parse_line(line), line


@pytest.mark.slow
@pytest.mark.parametrize("path", [SAMPLE, DATA / "hostile_400.log"], ids=lambda path: path.name)
def test_both_parsers_agree_on_a_real_log(spark: SparkSession, path: Path) -> None:
    assert_agreement(spark, path.read_text("utf-8").split("\n"))


def test_both_parsers_agree_on_the_cases_of_other_parsers(spark: SparkSession) -> None:
    assert_agreement(spark, VECTORS)


@pytest.mark.parametrize(
    ("format", "ids"),
    [
        (NGINX_MAIN, ["v014", "v019", "v024", "v025", "v026", "v027", "v028", "v081"]),
        (INGRESS, ["v020", "v021", "v022", "v023"]),
        (f"{LOG_FORMAT} %{{X-Forwarded-For}}i", ["v080"]),
    ],
)
def test_a_log_format_string_reads_combined_lines_with_more_fields_as_other_parsers_do(
    spark: SparkSession, format: str, ids: list[str]
) -> None:
    cases = [case for case in CASES if case["id"] in ids]
    assert [case["format"] for case in cases] == ["combined+extra"] * len(ids)
    for case, result in zip(cases, native(spark, [case["line"] for case in cases], format), strict=True):
        check(case, result)


def damaged(line: str) -> list[str]:
    """The line cut off at each position, and with one more character at each position."""
    cut = [line[:i] for i in range(len(line))]
    more = [*' "\\-],[\x1a', "  ", "\ufeff"]
    return cut + [line[:i] + text + line[i:] for i in range(len(line) + 1) for text in more]


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        LINE,
        f'10.0.0.1, ::1 i Ann, Lee {TIME} "GET /a b HTTP/1.1" - - "r" -',
        rf'::1 - "" {TIME} "\x16\" \\" 400 226 - "a\"b"',
        '::1 - - [29/Feb/2024:23:59:59 +0530] "GET /" 200 5 "http://a.example/" "curl/8.5"',
        f'::1 - [x] "y {TIME} "-" 200 5 - -',
        f'\ufeff::1  -  -  {TIME}   "GET / HTTP/1.1"  000  5  "r"  "a  b"  ',
    ],
)
def test_both_parsers_agree_on_a_line_damaged_anywhere(spark: SparkSession, line: str) -> None:
    assert_agreement(spark, damaged(line))


def test_both_parsers_agree_on_every_day_and_offset(spark: SparkSession) -> None:
    days = [f"{d:02}/{m}/{y}" for d in range(33) for m in ("Jan", "Feb", "Apr", "Dec", "Abc", "jan") for y in YEARS]
    times = ["00:00:00 +0001", "00:00:00 -0000", "23:59:59 -0001", "23:59:59 +0000", "12:30:00 +2359", "12:30:00 -2359"]
    times += ["24:00:00 +0000", "23:60:00 +0000", "23:59:61 +0000", "23:59:59 +2400", "23:59:59 +0060", "1:00:00 +0000"]
    times += ["23:59:60 +0000", "23:59:60 -0001", "00:00:60 +0001", "08:29:60 +1830"]
    stamps = [f"{day}:{times[i % 16]}" for i, day in enumerate(days)]
    stamps += [f"{day}:{time}" for day in ("01/Jan/0001", "31/Dec/9999", "29/Feb/2000") for time in times]
    assert_agreement(spark, [LINE.replace(TIME, f"[{stamp}]") for stamp in stamps])


YEARS = ("0000", "0001", "0004", "0100", "0400", "1900", "1970", "2000", "2023", "2024", "9996", "9999")

# Every part of a line, valid and invalid, and what may be between them.
noise = st.text(st.sampled_from(' ",-[]\\\x1a\x1f0129/:+GETHP.\n\r\té\ufffd💧'), max_size=12)
client = st.sampled_from(["127.0.0.1", "::1", "1.1.1.1, 2.2.2.2", "a,b", "a, ", "-", ""]) | noise
user = st.sampled_from(["-", "Ann Lee", '""', "", "- -", "Lee, Ann", "[a] [b", 'a"b', r"a\"b", '[a] "b']) | noise
stamp = st.sampled_from([TIME[1:-1], "31/Feb/2024:00:00:00 +0000", "01/Jan/0001:00:00:00 +0100", "-"]) | noise
request = (
    st.sampled_from(["GET / HTTP/1.1", "GET /a b HTTP/2", "GET /", "GET", "-", "", r"\x16\x03", "* /", "GET  HTTP/1.0"])
    | st.builds("{} {} {}".format, noise, noise, st.sampled_from(["HTTP/1.1", "HTTP/3", "http/1", "X/1.10"]))
    | noise
)
number = (
    st.sampled_from(["200", "99", "000", "009", "0200", "5", "-", "", str(2**63 - 1), str(2**63), "0" * 20, "٢٠٠"])
    | noise
)
text = st.sampled_from([' "-"', ' "r"', r' "a\"b"', ' ""', " -", "", ' "', " -x", " "]) | noise
blanks = st.sampled_from([" ", " ", " ", "  ", "   "])
end = st.sampled_from(["", "", "", "\n", "\r\n", " ", "  \n", '"', ' "x"'])
composed = st.builds(
    '{} {} {} [{}] "{}" {} {}{}{}{}'.format, client, noise, user, stamp, request, number, number, text, text, end
)
near = st.builds('{} - {} {} "{}" 200 5{}{}{}'.format, client, user, st.just(TIME), request, text, text, end)
padded = st.builds(
    '{}{}-{}{}{}{}{}"{}"{}000{}5{}{}{}'.format,
    *(client, blanks, blanks, user, blanks, st.just(TIME), blanks, request, blanks, blanks, text, text, end),
)
any_line = near | padded | composed | st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(st.lists(any_line, min_size=50, max_size=200))
@example([LINE + "\\", ' [] "', "", "\n", "\x1a", LINE + "\x1a", LINE.replace("GET", "\x1a2")])
def test_both_parsers_agree_on_any_text(spark: SparkSession, lines: list[str]) -> None:
    assert_agreement(spark, lines)


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit", ["a", "\\", '\\"', '"', "[ ", " [", "] ", ", ", " /", "- ", "A", '"" ', "\x1a", " ", "]  "]
)
@pytest.mark.parametrize(
    "hostile", ['::1 - - {time} "GET /{a} HTTP/1.1" 200 5 "{a}" "{a}"', '{a} - {a} {time} "{a}" 200 5', "{a}"]
)
def test_both_parsers_agree_on_hostile_lines_of_64_kb(spark: SparkSession, hostile: str, unit: str) -> None:
    assert_agreement(spark, [hostile.format(time=TIME, a=unit * (65536 // len(unit)))])


def test_a_frame_keeps_its_other_columns_in_front(spark: SparkSession) -> None:
    frame = spark.createDataFrame([(1, "f", LINE), (2, "f", "x")], "`a.b` int, status string, value string")
    requests, rejected = access_log.split(frame)
    assert requests.columns == ["a.b", *Request._fields]
    assert requests.dtypes[1:] == [
        ("client_ip", "string"),
        ("identity", "string"),
        ("user", "string"),
        ("timestamp", "timestamp"),
        ("method", "string"),
        ("path", "string"),
        ("protocol", "string"),
        ("status", "int"),
        ("bytes", "bigint"),
        ("referrer", "string"),
        ("user_agent", "string"),
    ]
    expected = [(2, "f", "x", "timestamp is not in brackets")]
    assert_df_equality(
        rejected,
        spark.createDataFrame(expected, "`a.b` int, status string, line string, reason string"),
        ignore_nullable=True,
    )


def test_a_null_is_not_a_line(spark: SparkSession) -> None:
    requests, rejected = access_log.split(spark.createDataFrame([(None,)], "value string"))
    assert (requests.count(), rejected.count()) == (0, 0)


def test_a_frame_without_lines_has_no_requests(spark: SparkSession) -> None:
    requests, rejected = access_log.split(spark.createDataFrame([], "value string"))
    assert (requests.count(), rejected.count()) == (0, 0)


def test_text_files_are_read_with_any_line_end_and_with_bytes_that_are_not_utf_8(
    spark: SparkSession, tmp_path: Path
) -> None:
    lines = [LINE.encode(), LINE.encode() + b' "-" "\xff\xfe"', b"\xff", LINE.replace("/ ", "/é ").encode()]
    (tmp_path / "access.log").write_bytes(b"\r\n".join(lines[:2]) + b"\n" + b"\n".join(lines[2:]))
    requests, rejected = access_log.split(spark.read.text(str(tmp_path)))
    assert [row.path for row in requests.select("path").collect()] == ["/", "/", "/é"]
    assert requests.select("user_agent").collect()[1][0] == "\ufffd\ufffd"
    # Rejected lines are unchanged, bytes included.
    assert rejected.select(F.hex("line"), "reason").collect() == [("FF", "timestamp is not in brackets")]


@pytest.mark.slow
def test_the_number_of_requests_does_not_depend_on_the_columns_used(spark: SparkSession) -> None:
    frame = frame_of(spark, [line for vector in VECTORS for line in damaged(vector)[::7]])
    requests = access_log.parse(frame)
    counts = {name: requests.select(name).count() for name in requests.columns}
    assert set(counts.values()) == {requests.count()}
    assert {len(requests.select(name).collect()) for name in requests.columns if name != "timestamp"} == {
        requests.count()
    }


def test_rejected_lines_do_not_make_a_filter_or_join_fail(spark: SparkSession) -> None:
    # Spark merges the predicates of a job with the parser's own, and a join adds more.
    lines = [LINE.replace("10/Oct", "31/Feb"), LINE.replace("-0700", "+9900"), LINE.replace("200 5", "x y"), "", LINE]
    requests = access_log.parse(frame_of(spark, lines))
    for name in Request._fields:
        assert requests.filter(F.col(name) != F.lit(None)).collect() == []
    kept = requests.filter("timestamp > '1970-01-01' and status = 200 and bytes < 6 and path = '/'").select("n")
    joined = requests.alias("a").join(requests.select("timestamp", "bytes"), ["timestamp", "bytes"]).select("n")
    assert (kept.collect(), joined.collect()) == ([(4,)], [(4,)])


def optimized(frame: DataFrame) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        frame.explain("extended")
    return printed.getvalue().partition("== Optimized Logical Plan ==")[2].partition("== Physical Plan ==")[0]


def test_unused_columns_are_not_computed(spark: SparkSession) -> None:
    requests = access_log.parse(frame_of(spark, [LINE]))
    others = ("timestamp_seconds", "octet_length", "_log_request", "_log_user_agent")
    assert all(name in optimized(requests) for name in others)
    assert not any(name in optimized(requests.select("bytes")) for name in others)


def test_a_line_is_cut_up_once_for_the_filter_and_all_columns(spark: SparkSession) -> None:
    plan = optimized(access_log.parse(frame_of(spark, [LINE])))
    assert (plan.count("split(value#"), plan.count("RLIKE(concat_ws(")) == (1, 1)


@pytest.mark.parametrize("kept", [[], ["file", "batch"]])
@pytest.mark.parametrize("format", access_log.formats())
def test_no_method_is_so_long_that_java_does_not_compile_it(spark: SparkSession, format: str, kept: list[str]) -> None:
    lines = frame_of(spark, [LINE]).withColumns({name: F.monotonically_increasing_id() for name in kept})
    for frame in access_log.split(lines, format):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            frame.explain("codegen")
        sizes = re.findall("maxMethodCodeSize:([0-9]+)", printed.getvalue())
        assert sizes and max(map(int, sizes)) < 8000, "HugeMethodLimit of HotSpot, without -XX:-DontCompileHugeMethods"


def test_expressions_are_built_once_per_context(spark: SparkSession) -> None:
    assert reader(spark.sparkContext, "combined") is reader(spark.sparkContext, "combined")


@pytest.mark.program
def test_expressions_are_built_again_for_a_new_context_and_a_new_jvm() -> None:
    program = """
from pyspark import SparkContext
from sparkstream_kit.testing import local_session
from sparkstream_kit.transforms import access_log

for _ in range(2):
    for _ in range(2):
        session = local_session()
        print(access_log.rejected(session.createDataFrame([("x",)], "value string")).count())
        session.stop()
    SparkContext._gateway.shutdown()
    SparkContext._gateway = SparkContext._jvm = None
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=DATA.parents[1])
    assert done.stdout.split() == ["1", "1", "1", "1"], done.stderr


def test_the_time_zone_of_the_session_does_not_matter(spark: SparkSession) -> None:
    spark.conf.set("spark.sql.session.timeZone", "America/New_York")
    try:
        stamps = ["10/Mar/2024:02:30:00 +0000", "03/Nov/2024:01:30:00 -0400", "01/Jan/0001:00:00:00 +0000"]
        assert_agreement(spark, [LINE.replace(TIME, f"[{stamp}]") for stamp in stamps])
    finally:
        spark.conf.unset("spark.sql.session.timeZone")


@pytest.mark.slow
def test_lines_are_parsed_under_structured_streaming(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.log").write_text(SAMPLE.read_text("utf-8"), "utf-8")
    lines = spark.readStream.text(str(tmp_path / "in"))
    query = (
        access_log.parse(lines)
        .writeStream.format("memory")
        .queryName("requests")
        .option("checkpointLocation", str(tmp_path / "checkpoint"))
        .trigger(availableNow=True)
        .start()
    )
    query.awaitTermination()
    assert_df_equality(
        spark.table("requests"),
        access_log.parse(spark.read.text(str(SAMPLE))),
        ignore_row_order=True,
        ignore_nullable=True,
    )


def test_rejected_lines_of_one_format_can_be_split_by_another() -> None:
    def build(lines: DStream[str]) -> tuple[FrameStream, ...]:
        requests, rejected = access_log.split(FrameStream.of(lines))
        more = json_lines.split(rejected.select(F.col("line").alias("value")), "a int")
        return requests.select("path", "bytes"), rejected, *more

    requests, rejected, objects, others = run_batches(build, [[LINE, '{"a": 1}'], [], [LINE]])
    assert requests == [[("/", 5)], None, [("/", 5)]]
    assert rejected == [[('{"a": 1}', "timestamp is not in brackets")], None, []]
    assert (objects, others) == ([[(1,)], None, []], [[], None, []])


# --- other formats


def test_a_log_format_string_of_combined_reads_what_combined_reads(spark: SparkSession) -> None:
    lines = [line for line in SAMPLE.read_text("utf-8").splitlines() if line.count('"') == 6]
    lines.append(rf'1.1.1.1, ::1 - Ann Lee {TIME} "\"\\" 200 5 "a\"b" "-"')
    assert native(spark, lines, LOG_FORMAT) == [parse_line(line) for line in lines]


def test_a_log_format_string_of_combined_is_at_most_stricter(spark: SparkSession) -> None:
    lines = damaged(f'{LINE} "r" "a"')
    for line, result in zip(lines, native(spark, lines, LOG_FORMAT), strict=True):
        assert isinstance(result, Rejected) or result == parse_line(line), line


def test_the_virtual_host_may_come_first(spark: SparkSession) -> None:
    requests = access_log.parse(spark.createDataFrame([(VHOST,), (LINE,)], "value string"), "vhost_combined")
    assert requests.select("virtual_host", "client_ip", "user", "path", "bytes", "user_agent").collect() == [
        ("shop.example", "::1", "Ann Lee", "/", 5, "curl")
    ]


def test_a_log_format_may_lack_fields_and_have_others(spark: SparkSession) -> None:
    line = r'a.example 12 [10/Oct/2000:13:55:36 -0700] 8080 GET /a?b HTTP/1.1 100% 404 - "x\"y" "de"'
    format = '%V %D %t %p %m %U%q %H 100%% %>s %B "%{User-Agent}i" "%{Accept-Language}i"'
    row = access_log.parse(spark.createDataFrame([(line,)], "value string"), format).first()
    assert row is not None
    known = {name: value for name, value in row.asDict().items() if value is not None and name != "timestamp"}
    assert row.asDict().keys() - Request._fields == {
        *("virtual_host", "request_time_us", "server_port", "http_accept_language"),
    }
    assert known == {
        "virtual_host": "a.example",
        "method": "GET",
        "path": "/a?b",
        "protocol": "HTTP/1.1",
        "status": 404,
        "user_agent": r"x\"y",
        "request_time_us": 12,
        "server_port": 8080,
        "http_accept_language": "de",
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("::1 [x] 200", "line does not match the format at %t"),
        (f"::1 {TIME} 99", "line does not match the format at %>s"),
        (f"::1 {TIME} 200 5", "line goes on after the end of the format"),
        ("::1 [01/Jan/0001:00:00:00 +0100] 200", "timestamp is not a date that exists"),
    ],
)
def test_a_line_that_is_not_in_the_format_is_rejected_with_the_directive(
    spark: SparkSession, line: str, reason: str
) -> None:
    frame = spark.createDataFrame([(line,)], "value string")
    assert access_log.rejected(frame, "%h %t %>s").collect() == [(line, reason)]
    assert access_log.parse(frame, "%h %t %>s").count() == 0


@pytest.mark.parametrize(
    ("format", "message"),
    [("combine", "got the format 'combine', expected combined, common"), ("%h %Z", "got %Z in the format, which is")],
)
def test_an_unsupported_format_is_refused(spark: SparkSession, format: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        access_log.parse(spark.createDataFrame([], "value string"), format)


# --- columns


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.text(st.sampled_from('\\x0fnq"bt%+ é'), max_size=30) | st.binary().map(repr), min_size=50, max_size=200)
)
@example([r"\xc3\xa9", r"\xff \q \x4 \\x41", r"caf\xc3\xa9+%41", "\\", "a+b%20", r"\\\x41\\"])
def test_quoted_text_is_decoded_as_unescape_does(spark: SparkSession, texts: list[str]) -> None:
    frame = spark.createDataFrame([(text,) for text in texts], "text string")
    decoded = [row[0] for row in frame.coalesce(1).select(access_log.unescaped(frame.text)).collect()]

    def replaced(text: str) -> str:
        return re.sub("\ufffd+", "\ufffd", text)

    assert [replaced(text) for text in decoded] == [replaced(access_log.unescape(text)) for text in texts]
