"""Rejected lines stay under the home, within bounds, until they are replayed, once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from sparkstream_kit import cli
from sparkstream_kit.errors import OutputRefused, UsageError
from sparkstream_kit.outputs import _rejected
from sparkstream_kit.recovery import storage
from sparkstream_kit.recovery.home import Home
from tests.support.ticks import given, job, killed

LINES = [["a", "b"], [], ["c"], ["d", "d"]]


def run(home: Path, lines: Sequence[Sequence[str | None]], ticks: range) -> None:
    def build(ssc: object) -> dict[str, object]:
        _rejected.rejected(given(ssc, [[(x, "why") for x in batch] for batch in lines], "line string, reason string"))
        return {}

    with job(build, home) as engine:
        for second in ticks:
            engine.tick(1000 * second)


def kept(home: Path) -> dict[str, list[str]]:
    session = SparkSession.builder.getOrCreate()
    folders = sorted(path for path in (home / "rejected/rejected").iterdir() if path.name.isdigit())
    return {path.name: sorted(row.line for row in session.read.parquet(str(path)).collect()) for path in folders}


@pytest.fixture
def home(spark: SparkSession, tmp_path: Path) -> Path:
    run(tmp_path / "home", LINES, range(1, 5))
    (tmp_path / "logs").mkdir()
    return tmp_path / "home"


def replay(home: Path) -> int:
    return cli.main(["replay-rejected", str(home), str(home.parent / "logs")])


def replayed(home: Path) -> list[str]:
    return sorted(line for file in (home.parent / "logs").iterdir() for line in file.read_text().splitlines())


def test_each_batch_is_kept_and_replayed_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kept(home) == {"1": ["a", "b"], "3": ["c"], "4": ["d", "d"]}
    assert replay(home) == 0
    assert capsys.readouterr().out == f"5 lines written to 3 files in {home.parent / 'logs'}\n"
    assert replayed(home) == ["a", "b", "c", "d", "d"]
    assert kept(home) == {}
    assert replay(home) == 0
    assert capsys.readouterr().out == "no rejected lines to replay\n"
    assert replayed(home) == ["a", "b", "c", "d", "d"]


def test_a_batch_that_the_job_may_run_again_is_left_to_a_later_replay(home: Path) -> None:
    (home / "offsets/4.done").unlink()
    assert replay(home) == 0
    assert replayed(home) == ["a", "b", "c"]
    run(home, LINES, range(5, 6))
    assert replay(home) == 0
    assert replayed(home) == ["a", "b", "c", "d", "d"]


def test_what_would_not_come_back_as_the_same_line_stays_in_the_home(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").mkdir()
    no_lines = ["a\nb", None, "c\r"]
    run(tmp_path / "home", [["x", *no_lines, "", "y\u2028z"], [None]], range(1, 3))
    for _ in range(2):
        assert replay(tmp_path / "home") == 0
    said = capsys.readouterr().out
    assert said == f"3 lines written to 1 files in {tmp_path / 'logs'}\nno rejected lines to replay\n"
    (file,) = (tmp_path / "logs").iterdir()
    assert sorted(file.read_bytes().decode().split("\n")) == ["", "", "x", "y\u2028z"]
    for n, left in enumerate((no_lines, [None]), 1):
        where = f"{tmp_path}/home/rejected/rejected/no-line-{n}"
        rows = spark.read.parquet(where).collect()
        assert sorted([(row.line, row.reason) for row in rows], key=repr) == [
            (x, "why") for x in sorted(left, key=repr)
        ]
        assert (
            f"{len(left)} rejected rows of batch {n} are null or have line breaks, so that a file cannot" in caplog.text
        )
        assert f"they stay in file:{where}, as Parquet" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("step", ["write_new", "delete"])
@pytest.mark.parametrize("call", [1, 2])
def test_a_replay_that_is_killed_is_finished_by_the_next_and_replays_each_line_once(
    home: Path, step: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = getattr(storage, step), []

    def dies(*arguments: str) -> None:
        original(*arguments)
        calls.append(arguments)
        if len(calls) == call:
            killed(9)

    with monkeypatch.context() as patch:
        patch.setattr(storage, step, dies)
        with pytest.raises(SystemExit):
            replay(home)
    run(home, [*LINES, ["e"]], range(5, 6))  # what is rejected meanwhile belongs to the next replay
    assert replay(home) == 0
    assert replay(home) == 0
    assert replayed(home) == ["a", "b", "c", "d", "d", "e"]


def test_floods_are_bounded(tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rejected, "ROWS", 3)
    monkeypatch.setattr(_rejected, "BATCHES", 2)
    run(tmp_path, [[f"{n}{x}" for x in "abcde"] for n in range(5)], range(1, 6))
    assert {n: len(lines) for n, lines in kept(tmp_path).items()} == {"4": 3, "5": 3}
    monkeypatch.setattr(_rejected, "BYTES", 1)
    run(tmp_path, [[], [], [], [], [], ["f"]], range(6, 7))
    assert kept(tmp_path) == {"6": ["f"]}, "the newest stays, whatever its size"


def test_one_batch_is_bounded_in_bytes_and_the_log_says_what_was_dropped(
    tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_rejected, "BATCH_BYTES", 100)  # a reason has 3
    caplog.set_level("INFO")
    long = [f"{n}{'ü' * 13}" for n in range(5)]
    run(tmp_path, [["a", "b"], long, ["x" * 97]], range(1, 4))
    lines = kept(tmp_path)
    assert {n: len(lines) for n, lines in lines.items()} == {"1": 2, "2": 3, "3": 1}
    assert len(set(lines["2"])) == 3 and set(lines["2"]) < set(long)
    assert (
        "batch 2 has 5 rejected rows of 150 bytes: dropped 2 of them, as a batch keeps up to 10000 row" in caplog.text
    )
    done = [r.getMessage().rpartition(" ")[2] for r in caplog.records if "done in" in r.getMessage()]
    assert done == [f"rows.rejected:rejected={n}" for n in (2, 3, 1)]


def test_rows_without_a_line_and_a_missing_directory_are_refused(tmp_path: Path, spark: SparkSession) -> None:
    with (
        pytest.raises(OutputRefused, match="'rejected' needs a column line, got text: select it"),
        job(no_line, tmp_path / "home"),
    ):
        pass
    with pytest.raises(UsageError, match="is not a directory: name the one that a job reads"):
        _rejected.replay(Home.open(str(tmp_path / "home")), str(tmp_path / "nowhere"))


def test_a_type_that_the_home_cannot_keep_is_refused_at_the_start(tmp_path: Path, spark: SparkSession) -> None:
    def build(ssc: object) -> dict[str, object]:
        _rejected.rejected(given(ssc, [], "line string").select("line", F.expr("make_interval(1)").alias("after")))
        return {}

    refused = "'rejected' cannot write after interval, a type that parquet does not hold"
    with pytest.raises(OutputRefused, match=refused), job(build, tmp_path / "home"):
        pass


def no_line(ssc: object) -> dict[str, object]:
    _rejected.rejected(given(ssc, [], "text string"))
    return {}
