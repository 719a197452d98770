"""A lost home is rebuilt from the ledger: the job continues, and its sums are those of an undisturbed run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

from sparkstream_kit import aggregates as agg
from sparkstream_kit import cli
from sparkstream_kit.errors import InputLost
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.outputs import _sql, _sql_ledger
from sparkstream_kit.sources._files import files
from tests.outputs.test_sql import NEWER, execute, rows_of
from tests.support.ticks import Build, Seen, given, job

NUMBERS = [[(n % 3, n)] * n for n in range(1, 9)]


def run(work: Path, ticks: range) -> dict[int, list[tuple[int, int]]]:
    """Add sums to the table `sums` and keep them in a running state, too; returns the state of each second."""
    seen: dict[str, dict[int, list[tuple[int, int]]]] = {}

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        rows = given(ssc, NUMBERS, "k int, v bigint")
        sums = rows.reduce_by_key("k", {"v": agg.sum("v")})
        _sql.sql(sums, f"sqlite:///{work}/out.db", table="sums", mode="accumulate", key="k")
        return {"running": rows.update_state_by_key("k", {"v": agg.sum("v")})}

    with job(build, work / "home", seen) as engine:
        for second in ticks:
            engine.tick(1000 * second)
    return seen.get("running", {})


def expected(until: int) -> list[tuple[int, int]]:
    rows = [row for batch in NUMBERS[:until] for row in batch]
    return sorted((k, sum(v for key, v in rows if key == k)) for k in {k for k, _ in rows})


def rebuild(work: Path, *arguments: str) -> int:
    return cli.main(["rebuild", str(work / "home"), "--from", f"sqlite:///{work}/out.db", *arguments])


@pytest.mark.slow
@pytest.mark.parametrize("kept", [1000, 2], ids=["of all batches", "of the last two"])
def test_a_lost_home_continues_from_the_ledger(
    spark: SparkSession, tmp_path: Path, kept: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_sql_ledger, "KEPT_BATCHES", kept)
    run(tmp_path, range(1, 6))
    identity = (tmp_path / "home" / "id").read_text()
    shutil.rmtree(tmp_path / "home")
    assert rebuild(tmp_path) == 0
    assert "continues with batch 5" in capsys.readouterr().out
    assert (tmp_path / "home" / "id").read_text() == identity
    running = run(tmp_path, range(6, 9))
    assert sorted(rows_of(f"sqlite:///{tmp_path}/out.db", "sums", "k", "v")) == expected(8)
    replayed = running[8] == expected(8)
    assert replayed == (kept == 1000), "states are rebuilt if the ledger has every batch"


def test_what_cannot_be_rebuilt_is_refused(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rebuild(tmp_path) == 2
    assert "cannot read the table sparkstream_ledger" in capsys.readouterr().err
    run(tmp_path, range(1, 2))
    assert rebuild(tmp_path) == 2
    assert "is already a home" in capsys.readouterr().err
    assert rebuild(tmp_path, "--id", "other") == 2
    assert "choose one with --id" in capsys.readouterr().err


def test_a_home_is_not_rebuilt_from_a_ledger_of_a_newer_format(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, range(1, 2))
    shutil.rmtree(tmp_path / "home")
    execute(f"sqlite:///{tmp_path}/out.db", "update sparkstream_ledger set format = 2")
    assert rebuild(tmp_path) == 2
    assert capsys.readouterr().err == f"error: {NEWER}\n"
    assert not (tmp_path / "home").exists()


def count_lines(work: Path, *, state_first: bool = False) -> Build:
    """Lines of files, counted per first letter into a table and in a running state."""

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        letters = files(ssc, str(work / "logs")).select(F.substring("value", 1, 1).alias("k"))
        running = letters.update_state_by_key("k", {"n": agg.count()})
        if state_first:
            running.for_each_batch(lambda frame, batch: frame.collect(), name="before")
        counts = letters.reduce_by_key("k", {"n": agg.count()})
        _sql.sql(counts, f"sqlite:///{work}/out.db", table="counts", mode="accumulate", key="k")
        return {"running": running}

    return build


def write(work: Path, second: int) -> None:
    """A file that arrives at that second."""
    file = work / "logs" / f"{9 - second}"  # the order of the names is not that of the times
    file.write_text("a\nb\n"[: 2 * second])
    os.utime(file, (second, second))


@pytest.fixture
def lost(spark: SparkSession, tmp_path: Path) -> Path:
    """A job that has read two files, one after the other, and lost its home."""
    (tmp_path / "logs").mkdir()
    with job(count_lines(tmp_path), tmp_path / "home") as engine:
        for second in (1, 2):
            write(tmp_path, second)
            engine.tick(1000 * second)
    shutil.rmtree(tmp_path / "home")
    assert rebuild(tmp_path) == 0
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("state_first", [False, True])
def test_files_continue_if_the_directory_still_has_those_that_were_read(lost: Path, state_first: bool) -> None:
    seen: Seen = {}
    write(lost, 3)
    with job(count_lines(lost, state_first=state_first), lost / "home", seen) as engine:
        engine.tick(3000)
    assert seen["running"][3] == [("a", 3), ("b", 2)]
    assert sorted(rows_of(f"sqlite:///{lost}/out.db", "counts", "k", "n")) == [("a", 3), ("b", 2)]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["gone", "longer", "older"])
def test_files_are_refused_if_those_that_were_read_have_changed(lost: Path, what: str) -> None:
    first, second = sorted((lost / "logs").iterdir(), reverse=True)
    if what == "gone":
        first.unlink()
    elif what == "longer":
        first.write_text("a\na\n")
        os.utime(first, (1, 1))
    else:
        os.utime(second, (0, 0))
    write(lost, 3)
    with (
        job(count_lines(lost), lost / "home") as engine,
        pytest.raises(
            InputLost, match=r"the 2 ranges of files .* do not match the list in .*: files are missing, have changed"
        ),
    ):
        engine.tick(3000)
    assert sorted(rows_of(f"sqlite:///{lost}/out.db", "counts", "k", "n")) == [("a", 2), ("b", 1)]
