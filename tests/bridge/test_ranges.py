"""Exact ranges: cuts of a file at line ends, read one after the other, are the file."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from sparkstream_kit.bridge import placement, ranges

DATA = Path(__file__).parents[1] / "data" / "hostile_400.log"


def rows(spark: SparkSession, places: list[tuple[str, int, int]]) -> list[str]:
    return [row.value for row in ranges.lines(spark, places).collect()]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_cuts_of_a_file_are_the_file_also_when_it_has_grown(
    spark: SparkSession, tmp_path: Path, seed: int, line_end: str
) -> None:
    chance = random.Random(seed)
    lines = [*DATA.read_text().splitlines(), "", "x", ""]
    chance.shuffle(lines)
    file = tmp_path / "a [log] {1}*?, %20 é"
    data = "".join(f"{line}{line_end}" for line in ["first", *lines]).encode()
    file.write_bytes(data)
    ends = [at + 1 for at, byte in enumerate(data) if byte == ord("\n")]
    cuts = [0, *sorted(chance.sample(ends[:-1], 50)), len(data)]
    places = [(f"file:{file}", start, end) for start, end in itertools.pairwise(cuts)]
    assert rows(spark, places) == ["first", *lines]
    with file.open("ab") as grown:
        grown.write(b"half a line")
    for n in chance.sample(range(len(places)), 5):
        _, start, end = places[n]
        assert rows(spark, [places[n]]) == data[start:end].decode().replace(line_end, "\n").split("\n")[:-1]


def test_thousands_of_ranges_are_one_job_of_few_tasks(spark: SparkSession, tmp_path: Path) -> None:
    places = []
    for n in range(300):
        (tmp_path / f"{n:03d}").write_text(f"{n}\n")
        places.append((f"file:{tmp_path}/{n:03d}", 0, (tmp_path / f"{n:03d}").stat().st_size))
    frame = ranges.lines(spark, places)
    assert [row.value for row in frame.collect()] == [str(n) for n in range(300)]
    assert frame.rdd.getNumPartitions() <= spark.sparkContext.defaultParallelism


@pytest.mark.parametrize("most", [2, 7, 64, 1000])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_tasks_may_begin_at_any_byte(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, line_end: str
) -> None:
    lines = ["", "é", "a\u2028b", "", "\U0001f600" * 9, "x" * 200, "", ""]
    file = tmp_path / "lines"
    file.write_bytes("".join(f"{line}{line_end}" for line in lines).encode())
    monkeypatch.setattr(placement, "MOST", most)
    assert rows(spark, [(str(file), 0, file.stat().st_size)]) == lines


def test_few_bytes_are_one_task_and_no_bytes_too(spark: SparkSession, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_text("a\nb\n" * 1000)
    pieces = [(str(file), at, at + 4) for at in range(0, 4000, 4)]
    for places in (pieces, []):
        lines = ranges.lines(spark, places)
        assert lines.rdd.getNumPartitions() == 1
        assert "Exchange" not in lines.groupBy("value").count()._jdf.queryExecution().executedPlan().toString()
        assert lines.groupBy().count().collect() == [(2 * len(places),)]


def test_a_reader_sees_settings_that_change(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("short\nlonger\n")
    places, whole = [(f"file:{tmp_path}/lines", 0, 13)], ["short", "longer"]
    hadoop = spark.sparkContext._jsc.hadoopConfiguration()
    limit = "mapreduce.input.linerecordreader.line.maxlength"
    for settings in spark.conf, hadoop:
        assert rows(spark, places) == whole
        settings.set(limit, "5")
        try:
            assert rows(spark, places) != whole
        finally:
            settings.unset(limit)
    assert rows(spark, places) == whole
