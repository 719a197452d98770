"""A home that is lost is made anew from the ledger: the job goes on, and its sums are those of an untroubled run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

from sparkstream_kit import aggregates as agg
from sparkstream_kit import submit
from sparkstream_kit.errors import UsageError
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.outputs import sql
from sparkstream_kit.sources.files import files
from tests.outputs.test_sql import rows_of
from tests.ticks import given, job

NUMBERS = [[(n % 3, n)] * n for n in range(1, 9)]


def run(work: Path, ticks: range) -> dict[int, list[tuple[int, int]]]:
    """Sums into the table `sums`, once more through a running state; the state of each second."""
    seen: dict[str, dict[int, list[tuple[int, int]]]] = {}

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        rows = given(ssc, NUMBERS, "k int, v bigint")
        sums = rows.reduce_by_key("k", {"v": agg.sum("v")})
        sql.sql(sums, f"sqlite:///{work}/out.db", table="sums", mode="accumulate", key="k")
        return {"running": rows.update_state_by_key("k", {"v": agg.sum("v")})}

    with job(build, work / "home", seen) as engine:
        for second in ticks:
            engine.tick(1000 * second)
    return seen.get("running", {})


def expected(until: int) -> list[tuple[int, int]]:
    rows = [row for batch in NUMBERS[:until] for row in batch]
    return sorted((k, sum(v for key, v in rows if key == k)) for k in {k for k, _ in rows})


def rebuild(work: Path, *arguments: str) -> int:
    return submit.main(["rebuild", str(work / "home"), "--from", f"sqlite:///{work}/out.db", *arguments])


@pytest.mark.slow
@pytest.mark.parametrize("kept", [1000, 2], ids=["of all batches", "of the last two"])
def test_a_lost_home_goes_on_from_the_ledger(
    spark: SparkSession, tmp_path: Path, kept: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sql, "KEPT_BATCHES", kept)
    run(tmp_path, range(1, 6))
    identity = (tmp_path / "home" / "id").read_text()
    shutil.rmtree(tmp_path / "home")
    assert rebuild(tmp_path) == 0
    assert "goes on with batch 5" in capsys.readouterr().out
    assert (tmp_path / "home" / "id").read_text() == identity
    running = run(tmp_path, range(6, 9))
    assert sorted(rows_of(f"sqlite:///{tmp_path}/out.db", "sums", "k", "v")) == expected(8)
    replayed = running[8] == expected(8)
    assert replayed == (kept == 1000), "states are made again where every batch is known"


def test_what_cannot_be_rebuilt_is_told(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rebuild(tmp_path) == 2
    assert "cannot read the table sparkstream_ledger" in capsys.readouterr().err
    run(tmp_path, range(1, 2))
    assert rebuild(tmp_path) == 2
    assert "is a home already" in capsys.readouterr().err
    assert rebuild(tmp_path, "--id", "other") == 2
    assert "choose one with --id" in capsys.readouterr().err


def test_files_cannot_go_on_without_the_list_of_those_that_were_read(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a").write_text("a\n")

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        return {"lines": files(ssc, str(tmp_path / "logs"))}

    with job(build, tmp_path / "home", {}) as engine:
        engine.tick(1000)
    (tmp_path / "logs" / "a").unlink()
    shutil.rmtree(tmp_path / "home" / "sources")
    with (
        job(build, tmp_path / "home", {}) as engine,
        pytest.raises(UsageError, match="was read up to file 1, and its home only knows of 0"),
    ):
        engine.tick(2000)
