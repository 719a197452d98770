"""What a type checker makes of calls that tests and jobs write: `scripts/check` checks this file, and it runs, too."""

from __future__ import annotations

from typing import Any

import pytest
from pyspark.sql import DataFrame, Row
from pyspark.streaming import DStream
from typing_extensions import assert_type

import sparkstream_kit as ss
from sparkstream_kit.testing import run_batches, run_job

pytestmark = pytest.mark.usefixtures("spark")


def lengths(lines: DStream[str]) -> DStream[int]:
    return lines.map(len)


def frames_and_lengths(lines: DStream[str]) -> tuple[ss.FrameStream, DStream[int]]:
    return ss.FrameStream.of(lines), lengths(lines)


def by_name(lines: DStream[str]) -> dict[str, ss.FrameStream]:
    return {"all": ss.FrameStream.of(lines)}


def only_prints(lines: DStream[str]) -> None:
    lines.pprint()


def test_a_stream_returns_its_batches_and_several_streams_return_theirs() -> None:
    frames = run_batches(lambda lines: ss.FrameStream.of(lines), [["a"]])
    assert_type(frames, list[list[Row] | Any])
    assert frames == [[Row(value="a")]]

    elements = run_batches(lengths, [["a"], ["bc"]])
    assert_type(elements, list[list[int] | Any])
    assert elements == [[1], [2]]

    several = run_batches(frames_and_lengths, [["a"]])
    assert_type(several, tuple[list[list[Any] | Any], ...])
    assert several == ([[Row(value="a")]], [[1]])

    in_a_lambda = run_batches(lambda lines: (ss.FrameStream.of(lines), ss.FrameStream.of(lines, name="b")), [["a"]])
    assert_type(in_a_lambda, tuple[list[list[Any] | Any], ...])
    assert in_a_lambda == ([[Row(value="a")]], [[Row(value="a")]])

    named = run_batches(by_name, [["a"]])
    assert_type(named, dict[str, list[list[Any] | Any]])
    assert named == {"all": [[Row(value="a")]]}

    named_in_a_lambda = run_batches(lambda lines: {"all": ss.FrameStream.of(lines)}, [["a"]])
    assert_type(named_in_a_lambda, dict[str, list[list[Any] | Any]])
    assert named_in_a_lambda == named

    nothing = run_batches(only_prints, [["a"]])
    assert_type(nothing, tuple[()])
    assert nothing == ()


def test_a_batch_can_be_looked_at_without_ruling_out_that_a_slide_skipped_it() -> None:
    first, second = run_batches(lambda lines: ss.FrameStream.of(lines).count(), [["a", "b"], ["c"]])
    assert [row["count"] for row in first + second] == [2, 1]


def test_a_job_returns_the_rows_of_its_outputs() -> None:
    def build(ssc: Any, source: ss.JobSource, output: ss.JobOutput) -> None:
        output(source(ssc), name="lines")

    outputs = run_job(build, [["a"]])
    assert_type(outputs, dict[str, list[list[Row] | Any]])
    assert outputs == {"lines": [[Row(value="a")]]}


def test_pipe_keeps_the_types_of_the_function_it_calls() -> None:
    def longest(stream: ss.FrameStream, limit: int) -> ss.FrameStream:
        def step(frame: DataFrame) -> DataFrame:
            return frame.orderBy("value").limit(limit)

        return stream.transform(step)

    def build(lines: DStream[str]) -> ss.FrameStream:
        piped = ss.FrameStream.of(lines).pipe(longest, limit=1)
        assert_type(piped, ss.FrameStream)
        return piped

    assert run_batches(build, [["b", "a"]]) == [[Row(value="a")]]
