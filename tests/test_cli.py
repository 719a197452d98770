from __future__ import annotations

import json
import re
import subprocess
import sys
import time
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


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    return {name: fact.strip() for name, fact in (line.split("  ", 1) for line in capsys.readouterr().out.splitlines())}


def test_status_shows_progress_lag_and_who_runs_the_job(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    held, now = lease.acquire(home / "lease", "app-7"), round(1000 * time.time())
    home.mark_starting()
    home.mark_running()
    log = OffsetLog(home / "offsets", held.epoch)
    log.append(1000, {"files": (None, 3)}, data=True)
    log.mark_done(1)
    log.append(now, {"files": (3, 5)}, data=True, available={"files": 9})
    storage.write(home / "fingerprint.json", '{"spark": "4.2.1"}')
    storage.write(home / "checkpoint/checkpoint-3000.bk", "")
    assert cli.main(["status", home.root.removeprefix("file:")]) == 0
    facts = said(capsys)
    assert re.fullmatch(r"2 at \d{4}-.*\+00:00, \d+ s ago \(not finished\)", facts["last batch"])
    assert facts["source files"] == "read up to 5, more waiting, available up to 9"
    assert re.fullmatch(r"of 1970-01-01 00:00:03.000\+00:00, \d+ s ago, stale: .*, spark: 4.2.1", facts["checkpoint"])
    assert facts["health"] == "● running: waiting for the first batch"
    assert re.search(r"application app-7, run 1, since \d{4}-.*, \d+ s ago$", facts["driver"])


def test_status_as_json_has_the_documented_members(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    log = OffsetLog(home / "offsets")
    log.append(1000, {"files": (None, 3)}, data=True, available={"files": 9})
    log.mark_done(1)
    assert cli.main(["status", home.root.removeprefix("file:"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["last_batch"].pop("age") > 1_000_000
    assert facts == {
        "format": 2,
        "home": home.root,
        "id": home.id,
        "health": "stopped",
        "level": "off",
        "reason": "it stopped gracefully after batch 1",
        "driver": None,
        "run": None,
        "stop_pending": False,
        "failure": None,
        "interval": None,
        "batches": [],
        "totals": None,
        "outputs": {},
        "last_batch": {
            "n": 1,
            "time": "1970-01-01T00:00:01.000+00:00",
            "done": True,
            "skip": None,
            "ranges": {"files": [None, 3]},
        },
        "recorded_ahead": 0,
        "skipped": [],
        "sources": {
            "files": {"end_offset": 3, "available": 9, "lag": {"records": None, "bytes": None}, "removable_files": []}
        },
        "again": None,
        "backfill": None,
        "replayable": {"first": 1, "last": 1},
        "states": {},
        "checkpoint": None,
    }


def test_status_tells_of_an_unfinished_batch_what_the_next_start_does(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home.root.removeprefix("file:")
    OffsetLog(home / "offsets").append(1000, {"files": (None, 3)}, data=True)
    cli.main(["status", path])
    assert re.search(r" \(not finished; the next start runs it again. If .* skip --help\)$", said(capsys)["last batch"])
    assert cli.main(["skip", path, "1", "--reason", "v is 0"]) == 0
    capsys.readouterr()
    cli.main(["status", path])
    assert said(capsys)["last batch"].endswith(" (not finished; the next start skips it, as requested: v is 0)")
    cli.main(["status", path, "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert (facts["last_batch"]["skip"], facts["skipped"]) == ("v is 0", [])
    held = lease.acquire(home / "lease")
    cli.main(["status", path])
    assert said(capsys)["last batch"].endswith(" (not finished)"), "a driver is at it"
    held.release()


def test_status_takes_nothing_that_another_source_keeps_for_a_journal_of_files(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    storage.write(home / "sources/generator", "1000")
    storage.write(home / "sources/mine", "a note")
    storage.write(home / "sources/other/000000000000", "[1, 2]")
    OffsetLog(home / "offsets").append(
        1000, dict.fromkeys(("generator", "other"), (None, 3)) | {"mine": (None, "x")}, True
    )
    assert cli.main(["status", home.root.removeprefix("file:"), "--json"]) == 0
    sources = json.loads(capsys.readouterr().out)["sources"]
    assert {name: source["removable_files"] for name, source in sources.items()} == {
        "generator": [],
        "mine": [],
        "other": [],
    }


def test_the_exit_code_of_status_tells_the_health(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    def health() -> tuple[int, str]:
        return cli.main(["status", home.root.removeprefix("file:")]), said(capsys)["health"].split()[1].rstrip(":")

    assert health() == (0, "stopped")
    held = lease.acquire(home / "lease")
    home.mark_starting()
    home.mark_running()
    assert health() == (0, "running")
    held._idle = lambda: 700
    held.renew()
    assert health() == (4, "stalled"), "it makes no progress"
    held._idle = lambda: 7
    held.renew()
    storage.delete(home / "RUNNING")
    assert health() == (0, "stopping")
    held.release()
    assert health() == (3, "down"), "it did not stop gracefully"
    home.mark_stopped()
    assert health() == (0, "stopped")


def test_a_batch_left_by_an_earlier_driver_does_not_make_the_next_one_stalled(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    held = lease.acquire(home / "lease")
    home.mark_starting()
    home.mark_running()
    OffsetLog(home / "offsets", held.epoch).append(1000, {"files": (None, 3)}, data=True)
    held.release()
    lease.acquire(home / "lease")
    assert cli.main(["status", home.root.removeprefix("file:")]) == 0
    assert said(capsys)["health"].startswith("● running")


@pytest.mark.parametrize("damage", ["lease", "format"])
def test_what_cannot_be_read_is_one_sentence(damage: str, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    lease.acquire(home / "lease")
    where = Path(home.root.removeprefix("file:")) / ("lease/1" if damage == "lease" else "format")
    where.write_bytes(b"\xff")
    assert cli.main(["status", home.root.removeprefix("file:")]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("error: ")


def test_stop_deletes_the_marker_and_comes_back_when_nobody_runs_the_job(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    path = home.root.removeprefix("file:")
    home.mark_starting()
    home.mark_running()
    home.mark_stopped(drained=True)
    assert not home.stop_requested()
    assert cli.main(["stop", path, "--wait"]) == 0
    assert home.stop_requested()
    assert capsys.readouterr().out == "stopped after batch 0\n"


def test_stop_tells_what_is_left_of_a_job_that_was_not_drained(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    path = home.root.removeprefix("file:")
    home.mark_starting()
    home.mark_running()
    log = OffsetLog(home / "offsets")
    log.append(1000, {"socket": (None, 3)}, data=True)
    for offset in range(1, 6):
        storage.make_directory(home / f"received/socket/{offset:010d}-{1000 * offset}")
    storage.make_directory(home / "checkpoint/receivedData/0")
    assert cli.main(["stop", path, "--wait"]) == 1
    assert capsys.readouterr() == (
        "",
        "error: no driver runs the job, but it was not drained (batch 1 is unfinished; socket has 2 received batches "
        "that no batch has read; the write-ahead log may hold records): the next start carries out the stop and exits "
        "with 0, and the one after it processes what is left\n",
    )
    log.mark_done(1)
    storage.delete(home / "received/socket")
    storage.delete(home / "checkpoint")
    assert cli.main(["stop", path, "--wait"]) == 1
    assert "not drained (the last run was cut off after batch 1)" in capsys.readouterr().err
    home.mark_stopped()
    assert cli.main(["stop", path, "--wait"]) == 0


def test_a_directory_that_is_not_a_home_is_refused(
    spark: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status", str(tmp_path)]) == 2
    assert "is not a home" in capsys.readouterr().err


def test_a_folder_of_batches_is_compacted_and_another_one_is_refused(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in (1, 2, 3):
        spark.range(n).write.parquet(f"{tmp_path}/batch={n}")
    assert cli.main(["compact", str(tmp_path)]) == 2
    assert "is not the folder of a Parquet output" in capsys.readouterr().err
    (tmp_path / "_home").touch()
    assert cli.main(["compact", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "2 batches merged\n"
    assert spark.read.parquet(str(tmp_path)).count() == 6
