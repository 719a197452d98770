"""Every name is only a name: below directories that look like patterns a job gives the rows that it gives elsewhere.

The tests of the source files have the names of its input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit import aggregates as agg
from sparkstream_kit import cli
from sparkstream_kit.bridge import hadoop
from sparkstream_kit.engine import batches
from sparkstream_kit.errors import UsageError
from sparkstream_kit.recovery import landing, snapshots
from sparkstream_kit.recovery.home import Home
from tests.support.ticks import given, job, run_ticks

NAMES = [
    "[prod]",
    "{a,b}",
    "a*b",
    "q?",
    "back\\slash",
    "with space ",
    "100%",
    "%5B",
    "#1",
    "a,b",
    "é€",
    "x=1",
    "new\nline",
]
DEEP = "/".join(NAMES)
ROWS = [[("a", n), ("b", n), ("a", n)] for n in range(8)]
"""A row comes twice in each batch, so that rows which are lost and others which are doubled never look right."""
Rows = dict[str, list[Any]]


@pytest.fixture(autouse=True)
def frequent_snapshots(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 2)


def run(place: Path, ticks: range) -> None:
    """One run of the job, which ends like a killed process."""
    session = SparkSession.builder.getOrCreate()

    def build(ssc: StreamingContext) -> dict[str, ss.FrameStream]:
        rows, out = given(ssc, ROWS, "k string, v bigint"), str(place / "out")
        landed = ss.FrameStream.of(ssc.textFileStream("/"), "line string", name="land[ed]")
        known = ss.transforms.enrich(rows, lambda: session.sql("SELECT 'a' AS k, 'A' AS known"), on="k", name="known\\")
        ss.outputs.json(rows.reduce_by_key_and_window("k", {"sum": agg.sum("v")}, "3s", "1s"), out, name="window[1]")
        ss.outputs.json(rows.update_state_by_key("k", {"sum": agg.sum("v")}, name="k*"), out, name="state?")
        ss.outputs.parquet(known, out, partition_by="k", name="{rows,lines}")
        ss.outputs.text(landed, out, name="landed")
        ss.outputs.rejected(landed)
        return {}

    with job(build, place / "home") as engine:
        for second in ticks:
            lines = session.range(0, 3, 1, 2).selectExpr(f"concat('{second}-', id div 2) AS line")
            landing.land(lines, engine.graph.home / "received/land[ed]", 1000 * second)
            engine.tick(1000 * second)
        files = {str(path): path for path in (place / "home").rglob("*")}
        assert not [path for path in files if "/damaged-" in path], "good snapshots were set aside"


def written(place: Path) -> Rows:
    """The rows of each batch of each output, and those of the rejected lines, read without Spark."""
    found: Rows = {}
    for file in sorted((place / "out").rglob("[!.]*.*")):
        name = "/".join(file.relative_to(place / "out").parts[:-1])
        if file.is_file():
            found.setdefault(name, []).extend(
                [*pyarrow.parquet.ParquetFile(file).read().to_pylist()]
                if file.suffix == ".parquet"
                else file.read_text().splitlines()
            )
    for file in sorted((place / "logs").iterdir()):
        found.setdefault(f"replayed {file.name.rpartition('-')[2]}", []).extend(file.read_text().splitlines())
    return {name: sorted(map(str, rows)) for name, rows in found.items()}


def whole_life(place: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Rows, Rows]:
    """What a job has written, before and after its output is compacted and its rejected lines are replayed."""
    (place / "logs").mkdir(parents=True)
    home = str(place / "home")
    run(place, range(1, 6))  # killed after an odd batch, so that the state is a snapshot and a replay
    run(place, range(6, 9))
    before = written(place)
    assert cli.main(["replay-rejected", home, str(place / "logs")]) == 0
    assert cli.main(["compact", str(place / "out/{rows,lines}")]) == 0
    assert "24 lines written to 8 files" in capsys.readouterr().out
    assert cli.main(["status", home, "--json"]) == cli.EXIT_CODES["down"]
    assert json.loads(capsys.readouterr().out)["last_batch"]["n"] == 8
    assert cli.main(["stop", home]) == 0
    assert not (place / "home/RUNNING").exists()
    return before, written(place)


@pytest.mark.slow
def test_a_job_with_state_windows_and_outputs_gives_the_same_rows_below_names_that_look_like_patterns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = whole_life(tmp_path / "plain", capsys)
    assert len(before["state?/batch=8"]) == 2, "the two keys"
    assert len(before["landed/batch=8"]) == 3
    assert after.keys() != before.keys(), "batches were compacted"
    assert whole_life(tmp_path / DEEP, capsys) == (before, after)


def test_a_home_whose_path_has_a_colon_is_refused_and_an_output_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"home file:.*/12:00/home has a colon, which Spark cannot list: use one wi"):
        Home.open(str(tmp_path / "12:00/home"))
    out = str(tmp_path / "12:00/out")

    def build(ssc: StreamingContext) -> dict[str, ss.FrameStream]:
        ss.outputs.parquet(given(ssc, ROWS, "k string, v bigint"), out)
        return {}

    run_ticks(build, tmp_path / "home", [1, 2, 3])
    assert cli.main(["compact", f"{out}/parquet"]) == 0
    assert capsys.readouterr().out == "2 batches merged\n"
    files = Path(out).rglob("[!.]*.parquet")
    rows = [tuple(row.values()) for file in files for row in pyarrow.parquet.ParquetFile(file).read().to_pylist()]
    assert sorted(rows) == sorted(row for batch in ROWS[:3] for row in batch)


def test_a_colon_beside_a_pattern_is_refused_by_what_reads_it_and_does_not_count_as_damage(
    spark: SparkSession, tmp_path: Path
) -> None:
    state = f"file:{tmp_path}/a:[b]"
    snapshots.save(spark.range(3), state, 20)
    with pytest.raises(UsageError, match=r"a:\[b\]/20' has a colon and a \[, which Spark cannot read: rename one"):
        snapshots.load(spark, state, 20, spark.range(0))
    assert snapshots.numbers(state) == [20]


def test_a_path_of_bytes_that_are_not_utf8_is_refused(spark: SparkSession) -> None:
    with pytest.raises(UsageError, match="is not valid UTF-8, which Hadoop needs: rename it"):
        hadoop.qualified(os.fsdecode(b"/logs/\xff"))


@pytest.mark.slow
def test_a_name_that_the_locale_of_the_jvm_lacks_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sparkstream_kit", "compact", str(tmp_path / "caf\u00e9")]
    ran = subprocess.run(command, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True)
    assert ran.returncode == UsageError.exit_code
    assert "cannot write '" in ran.stderr
    assert "start the job with LC_ALL=C.UTF-8, or use a name in ASCII" in ran.stderr
