"""each_frame: the batches of any bare DStream as DataFrames; lines never pass through a Python worker."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from chispa import assert_df_equality
from pyspark import RDD
from pyspark.sql import DataFrame, SparkSession
from pyspark.streaming import DStream, StreamingContext

from sparkstream_kit.bridge import streaming
from sparkstream_kit.dstreams import each_frame

Write = Callable[[DataFrame], object]


@pytest.fixture
def no_python_worker(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage that needs a Python worker fails, because there is no such Python."""
    monkeypatch.setattr(spark.sparkContext, "pythonExec", "/no/such/python")


def run_text_stream(
    spark: SparkSession, incoming: Path, text: str, define: Callable[[DStream[str]], threading.Event]
) -> None:
    """Run a bare context on one file, under the manual clock, until the event that `define` returns is set."""
    incoming.mkdir()
    (incoming / "lines").write_text(text)
    os.utime(incoming / "lines", (0.1, 0.1))  # the first batch takes the files of (0, 0.2] s after 1970
    with streaming.manual_clock():
        ssc = StreamingContext(spark.sparkContext, 0.2)  # type: ignore[arg-type]
    over = define(ssc.textFileStream(str(incoming)))
    ssc.start()
    try:
        streaming.advance_clock(ssc, 200)
        assert over.wait(60), "the file was never read"
    finally:
        ssc.stop(stopSparkContext=False)


def seen_by(rows: list[str]) -> tuple[Write, threading.Event]:
    """A write function that collects the values of every frame, and an event that its first row sets."""
    over = threading.Event()

    def write(frame: DataFrame) -> None:
        assert frame.dtypes == [("value", "string")]
        rows.extend(row.value for row in frame.collect())
        if rows:
            over.set()

    return write, over


def test_lines_of_files_reach_the_function_without_a_python_worker(
    spark: SparkSession, tmp_path: Path, no_python_worker: None
) -> None:
    rows: list[str] = []

    def define(lines: DStream[str]) -> threading.Event:
        write, over = seen_by(rows)
        lines.foreachRDD(each_frame(write))
        return over

    run_text_stream(spark, tmp_path / "in", "müller\n\nlast line", define)
    assert sorted(rows) == ["", "last line", "müller"]


def test_lines_need_no_python_worker_after_windows_and_unions_either(
    spark: SparkSession, tmp_path: Path, no_python_worker: None
) -> None:
    rows: list[str] = []

    def define(lines: DStream[str]) -> threading.Event:
        write, over = seen_by(rows)
        lines.union(lines.window(2, 0.2)).foreachRDD(each_frame(write))  # type: ignore[arg-type]
        return over

    run_text_stream(spark, tmp_path / "in", "one", define)
    assert set(rows) == {"one"}


def test_other_streams_fail_without_a_python_worker(spark: SparkSession, no_python_worker: None) -> None:
    with pytest.raises(Exception, match="/no/such/python"):
        each_frame(lambda frame: frame.count())(spark.sparkContext.parallelize([("a", 1)]).map(lambda row: row))


def frame_of(rdd: RDD[tuple[str, int]], schema: str | None = None) -> list[DataFrame]:
    frames: list[DataFrame] = []
    each_frame(frames.append, schema)(rdd)
    return frames


def test_other_batches_become_dataframes_with_the_given_schema(spark: SparkSession) -> None:
    (frame,) = frame_of(spark.sparkContext.parallelize([("a", 1), ("b", 2)]), "word string, n int")
    assert_df_equality(frame, spark.createDataFrame([("a", 1), ("b", 2)], "word string, n int"))


def test_an_empty_batch_with_a_schema_is_an_empty_dataframe(spark: SparkSession) -> None:
    (frame,) = frame_of(spark.sparkContext.parallelize([], 1), "word string, n int")
    assert_df_equality(frame, spark.createDataFrame([], "word string, n int"))


def test_columns_are_inferred_without_a_schema(spark: SparkSession) -> None:
    (frame,) = frame_of(spark.sparkContext.parallelize([("a", 1)]))
    assert frame.dtypes == [("_1", "string"), ("_2", "bigint")]


def test_an_empty_batch_without_a_schema_is_skipped(spark: SparkSession) -> None:
    assert frame_of(spark.sparkContext.parallelize([], 1)) == []


def test_the_callback_returns_none_because_spark_would_take_anything_else_for_an_rdd(spark: SparkSession) -> None:
    assert each_frame(lambda frame: frame)(spark.sparkContext.parallelize([("a", 1)])) is None  # type: ignore[func-returns-value]
