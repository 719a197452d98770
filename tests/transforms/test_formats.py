"""The contract of all formats, which the docstring of `transforms` states, on each of them."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

import sparkstream_kit as ss
from sparkstream_kit.testing import run_batches

REQUEST = '::1 - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.1" 200 5'


class Case(NamedTuple):
    """A format, how it is called, and lines for it."""

    format: ModuleType
    arguments: tuple[str, ...]
    valid: tuple[str, ...]
    invalid: tuple[str, ...]
    new_column: str
    """A column that `parse` returns."""


JUNK = ("", " ", "-", '"', "\\", "\x1a", "\n", "\ufffd", "{", "[]", "null", "a,b", "%h")
CASES = {
    "access_log": Case(
        ss.transforms.access_log,
        (),
        (REQUEST, f'{REQUEST} "-" "curl/8.5"', REQUEST.replace("200", "404")),
        (REQUEST[:-2], f"{REQUEST} x", REQUEST.replace("10/Oct", "31/Feb"), '{"status": 200}', *JUNK),
        "status",
    ),
    "access_log with a LogFormat": Case(
        ss.transforms.access_log,
        ("%h %>s",),
        ("::1 200", "a.example 404"),
        ("::1", "::1 200 5", "::1 99", REQUEST, *JUNK),
        "status",
    ),
    "access_log of nginx": Case(
        ss.transforms.access_log,
        ('$remote_addr [$time_local] "$request" $status $request_time',),
        ('::1 [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.1" 200 0.003',),
        ("::1", '::1 [31/Feb/2000:13:55:36 -0700] "GET / HTTP/1.1" 200 0.003', REQUEST, *JUNK),
        "request_time",
    ),
    "access_log of Caddy": Case(
        ss.transforms.access_log,
        ("caddy",),
        ('{"ts": 1646861401.5, "status": 200}', '{"ts": "2022-03-09T21:30:01Z", "status": 0, "request": {"uri": "/"}}'),
        (
            '{"ts": 1646861401.5}',
            '{"status": 200}',
            '{"ts": 1, "status": "x"}',
            '{"ts": 1, "status": 200}{}',
            REQUEST,
            *JUNK,
        ),
        "status",
    ),
    "json_lines": Case(
        ss.transforms.json_lines,
        ("status int, path string",),
        ('{"status": 200, "path": "/"}', "{}", ' {"other": [1]} '),
        ('{"status": 200', '{"status": "x"}', '{"status": 1}{}', REQUEST, *JUNK),
        "status",
    ),
}

each_case = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def frame_of(spark: SparkSession, lines: Iterable[str | None]) -> DataFrame:
    """Lines with a second column that tells which line a parsed row comes from."""
    return spark.createDataFrame([(line, line) for line in lines], "origin string, value string")


def origins(frame: DataFrame) -> Counter[str]:
    return Counter(row.origin for row in frame.collect())


def functions(format: ModuleType) -> list[Callable[..., Any]]:
    return [format.parse, format.rejected, format.split]


def test_every_format_is_tested_here() -> None:
    modules = {getattr(ss.transforms, name) for name in ss.transforms.__all__}
    formats = {module for module in modules if inspect.ismodule(module)}
    assert formats == {case.format for case in CASES.values()}


@each_case
def test_parse_rejected_and_split_take_the_same_parameters(case: Case) -> None:
    first, *others = [inspect.signature(function).parameters.values() for function in functions(case.format)]
    described = [(p.name, p.default, p.kind) for p in first]
    assert described[0][0] == "lines"
    for parameters in others:
        assert [(p.name, p.default, p.kind) for p in parameters] == described


@each_case
def test_split_returns_what_parse_and_rejected_return(case: Case, spark: SparkSession) -> None:
    lines = frame_of(spark, [*case.valid, *case.invalid]).coalesce(1)
    parsed, rejected = case.format.split(lines, *case.arguments)
    for result, alone in ((parsed, case.format.parse), (rejected, case.format.rejected)):
        expected = alone(lines, *case.arguments)
        assert result.schema == expected.schema
        assert result.collect() == expected.collect()


@each_case
def test_every_line_is_parsed_or_rejected_as_often_as_it_arrives(case: Case, spark: SparkSession) -> None:
    valid = Counter({line: number for number, line in enumerate(case.valid, 1)})
    invalid = Counter({line: number for number, line in enumerate(case.invalid, 1)})
    parsed, rejected = case.format.split(frame_of(spark, (valid + invalid).elements()), *case.arguments)
    assert origins(parsed) == valid
    assert origins(rejected) == invalid


@pytest.mark.slow
@each_case
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_lines_are_parsed_or_rejected_as_often_as_they_arrive(
    case: Case, spark: SparkSession, data: st.DataObject
) -> None:
    known = st.sampled_from([*case.valid, *case.invalid])
    damaged = st.builds(lambda line, at, more: line[:at] + more + line[at:], known, st.integers(0, 60), known)
    lines = data.draw(st.lists(known | damaged | st.text(st.characters(codec="utf-8")), min_size=20, max_size=100))
    lines += lines[::3]
    parsed, rejected = case.format.split(frame_of(spark, lines), *case.arguments)
    assert origins(parsed) + origins(rejected) == Counter(lines)
    assert not origins(parsed).keys() & origins(rejected).keys()


@each_case
def test_a_rejected_line_is_unchanged_and_has_a_reason(case: Case, spark: SparkSession) -> None:
    rejected = case.format.rejected(frame_of(spark, [*case.valid, *case.invalid]), *case.arguments)
    assert rejected.dtypes == [("origin", "string"), ("line", "string"), ("reason", "string")]
    rows = rejected.collect()
    assert [row.line for row in rows] == [row.origin for row in rows]
    assert all(row.reason for row in rows)


@each_case
def test_null_lines_are_ignored(case: Case, spark: SparkSession) -> None:
    parsed, rejected = case.format.split(frame_of(spark, [None, case.valid[0], None]), *case.arguments)
    assert (origins(parsed), origins(rejected)) == (Counter([case.valid[0]]), Counter())


@each_case
def test_other_columns_are_kept_in_front_and_those_with_a_new_name_replaced(case: Case, spark: SparkSession) -> None:
    rows = [("log/a", "mine", 7, "mine", case.valid[0]), ("log/b", "mine", 8, "mine", case.invalid[0])]
    lines = spark.createDataFrame(
        rows, f"`the.file` string, {case.new_column} string, n int, line string, value string"
    )
    parsed, rejected = case.format.split(lines, *case.arguments)
    assert parsed.columns[:3] == ["the.file", "n", "line"]
    assert parsed.columns[3:] == case.format.parse(lines.select("value"), *case.arguments).columns
    assert [row[:3] for row in parsed.collect()] == [("log/a", 7, "mine")]
    assert "mine" not in [row[case.new_column] for row in parsed.collect()]
    assert rejected.columns == ["the.file", case.new_column, "n", "line", "reason"]
    assert [row[:4] for row in rejected.collect()] == [("log/b", "mine", 8, case.invalid[0])]


@each_case
def test_a_stream_is_split_as_a_frame_is(case: Case, spark: SparkSession) -> None:
    batches = [[*case.valid, *case.invalid, case.valid[0]], [case.invalid[1]] * 2, [case.valid[0]]]
    parsed, rejected = run_batches(lambda lines: case.format.split(ss.FrameStream.of(lines), *case.arguments), batches)
    for batch, some, others in zip(batches, parsed, rejected, strict=True):
        expected = case.format.split(frame_of(spark, batch).drop("origin"), *case.arguments)
        assert Counter(some) == Counter(expected[0].collect())
        assert Counter(others) == Counter(expected[1].collect())
