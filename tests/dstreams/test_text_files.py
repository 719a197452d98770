"""text_files: each batch is written completely or not at all, once, under a name that no other batch has."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pyspark import RDD
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext
from pyspark.streaming.util import rddToFileName

from sparkstream_kit.dstreams import text_files

BATCH_MS = 1_700_000_000_000
Save = Callable[[datetime, RDD[Any]], None]


class Tapped:
    """What an output needs of a DStream; keeps the callback, so that a test can run any batch."""

    def foreachRDD(self, callback: Save) -> None:
        self.save = callback


def saver(directory: Path, suffix: str = "", **options: bool) -> Save:
    stream = Tapped()
    text_files(stream, str(directory), suffix, **options)  # type: ignore[arg-type]
    return stream.save


def batch_time(ms: int) -> datetime:
    """The time of a batch as PySpark passes it to a callback: local, without a time zone."""
    return datetime.fromtimestamp(ms / 1000)


def batches(directory: Path) -> dict[str, list[str]]:
    """What a reader sees: the lines of each directory that is not hidden."""
    return {
        path.name: sorted(line for part in path.glob("part-*") for line in part.read_text().splitlines())
        for path in directory.iterdir()
        if not path.name.startswith(".")
    }


@pytest.fixture
def lines(spark: SparkSession) -> Callable[..., RDD[str]]:
    return lambda *given: spark.sparkContext.parallelize(given, 2)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_each_batch_of_a_bare_dstream_has_its_own_directory(spark: SparkSession, tmp_path: Path) -> None:
    ssc = StreamingContext(spark.sparkContext, 0.1)  # type: ignore[arg-type]
    given = [spark.sparkContext.parallelize(batch) for batch in (["a", "b"], ["c"])]
    stream, over = ssc.queueStream(given), threading.Event()
    text_files(stream, str(tmp_path), "txt", keep_empty=False)
    stream.foreachRDD(lambda rdd: over.set() if rdd.isEmpty() else None)
    ssc.start()
    try:
        assert over.wait(60), "there was no batch after the given ones"
    finally:
        ssc.stop(stopSparkContext=False)
    found = batches(tmp_path)
    assert sorted(found.values()) == [["a", "b"], ["c"]]
    first, second = sorted(found)
    assert int(second[6:-4]) - int(first[6:-4]) == 100, "the names must be batch times, one interval apart"


def test_the_name_is_the_exact_batch_time_with_the_suffix(tmp_path: Path, lines: Callable[..., RDD[str]]) -> None:
    saver(tmp_path)(batch_time(BATCH_MS + 1), lines("a"))
    saver(tmp_path, "log")(batch_time(BATCH_MS + 999), lines("b"))
    assert batches(tmp_path) == {"batch-1700000000001": ["a"], "batch-1700000000999.log": ["b"]}


def test_batches_in_the_hour_that_repeats_when_daylight_saving_ends_have_different_names(
    tmp_path: Path, lines: Callable[..., RDD[str]], berlin: None
) -> None:
    summer, winter = 1_792_888_200_500, 1_792_891_800_500  # 25 October 2026, 02:30:00.5, twice
    times = batch_time(summer), batch_time(winter)
    assert times[0].timetuple()[:6] == times[1].timetuple()[:6] == (2026, 10, 25, 2, 30, 0)
    assert rddToFileName("", None, times[0]) == rddToFileName("", None, times[1]), (
        "saveAsTextFiles gives both the same name"
    )
    for each, word in zip(times, ("summer", "winter"), strict=True):
        saver(tmp_path)(each, lines(word))
    assert batches(tmp_path) == {f"batch-{summer}": ["summer"], f"batch-{winter}": ["winter"]}


@pytest.mark.parametrize(("keep_empty", "directories"), [(True, {f"batch-{BATCH_MS}": []}), (False, {})])
def test_an_empty_batch_leaves_a_directory_only_if_requested(
    keep_empty: bool, directories: dict[str, list[str]], tmp_path: Path, lines: Callable[..., RDD[str]]
) -> None:
    saver(tmp_path, keep_empty=keep_empty)(batch_time(BATCH_MS), lines())
    assert batches(tmp_path) == directories


def test_a_batch_that_runs_again_replaces_its_first_attempt(tmp_path: Path, lines: Callable[..., RDD[str]]) -> None:
    save = saver(tmp_path)
    save(batch_time(BATCH_MS), lines("old", "older", "oldest"))
    save(batch_time(BATCH_MS), lines("new"))
    assert batches(tmp_path) == {f"batch-{BATCH_MS}": ["new"]}


@pytest.mark.parametrize("keep_empty", [True, False])
def test_an_empty_rerun_keeps_what_the_first_attempt_wrote(
    keep_empty: bool, tmp_path: Path, lines: Callable[..., RDD[str]]
) -> None:
    save = saver(tmp_path, keep_empty=keep_empty)
    save(batch_time(BATCH_MS), lines("kept"))
    save(batch_time(BATCH_MS), lines())
    assert batches(tmp_path) == {f"batch-{BATCH_MS}": ["kept"]}


def test_an_attempt_that_fails_halfway_is_never_visible(tmp_path: Path, lines: Callable[..., RDD[str]]) -> None:
    def die_at_second(line: str) -> str:
        if line == "second":
            raise OSError("no space left on device")
        return line

    save = saver(tmp_path)
    with pytest.raises(Exception, match="no space left on device"):
        save(batch_time(BATCH_MS), lines("first", "second").map(die_at_second))
    assert list(tmp_path.iterdir()), "the attempt must have left something"
    assert batches(tmp_path) == {}
    save(batch_time(BATCH_MS), lines("first", "second"))
    assert batches(tmp_path) == {f"batch-{BATCH_MS}": ["first", "second"]}
