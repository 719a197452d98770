from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from sparkstream_kit import cli
from sparkstream_kit.recovery import lease, storage
from sparkstream_kit.recovery.home import Home
from sparkstream_kit.recovery.offset_log import OffsetLog


@pytest.fixture
def home(spark: object, tmp_path: Path) -> Home:
    return Home.open(str(tmp_path / "home"))


def test_the_archive_runs_where_only_pyspark_is_installed(tmp_path: Path) -> None:
    assert cli.main(["archive", str(tmp_path / "kit.zip")]) == 0
    code = "import sparkstream_kit.job, sys; sys.exit('.zip' not in sparkstream_kit.job.__file__)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "kit.zip")})
    assert ran.returncode == 0


def test_the_same_sources_give_the_same_archive(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        cli.archive(tmp_path / name)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_status_tells_what_is_owed_and_who_runs_it(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    held = lease.acquire(home / "lease", "app-7")
    log = OffsetLog(home / "progress", held.epoch)
    log.append(1000, {"files": (None, 3)}, data=True)
    log.mark_done(1)
    log.append(2000, {"files": (3, 5)}, data=True, left={"files": 9})
    storage.write(home / "fingerprint.json", '{"spark": "4.2.1"}')
    storage.write(home / "checkpoint/checkpoint-3000.bk", "")
    assert cli.main(["status", home.root.removeprefix("file:")]) == 0
    told = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert re.fullmatch(r" *2 at 1970-01-01 00:00:02.000\+00:00, \d+ s ago \(not finished\)", told["last batch"])
    assert told["source files"].strip() == "read up to 5, where there was 9"
    assert re.fullmatch(r" *of 1970-01-01 00:00:03.000\+00:00, \d+ s ago, spark: 4.2.1", told["checkpoint"])
    assert "application app-7" in told["running"]
    held.release()
    cli.main(["status", home.root.removeprefix("file:")])
    assert "nobody holds the lease" in capsys.readouterr().out


def test_stop_deletes_the_marker_and_comes_back_when_nobody_runs_the_job(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    home.mark_running()
    assert not home.asked_to_stop()
    assert cli.main(["stop", home.root.removeprefix("file:"), "--wait"]) == 0
    assert home.asked_to_stop()
    assert capsys.readouterr().out.startswith("stopped after batch ")


def test_a_directory_that_is_no_home_is_told(spark: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(tmp_path)]) == 2
    assert "is no home of a job" in capsys.readouterr().err


def test_a_folder_of_batches_is_compacted_and_another_one_is_told(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in (1, 2, 3):
        spark.range(n).write.parquet(f"{tmp_path}/batch={n}")
    assert cli.main(["compact", str(tmp_path)]) == 2
    assert "is no folder of Parquet batches" in capsys.readouterr().err
    (tmp_path / "_home").touch()
    assert cli.main(["compact", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "2 batches merged\n"
    assert spark.read.parquet(str(tmp_path)).count() == 6
