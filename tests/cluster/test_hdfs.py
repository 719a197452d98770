from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from sparkstream_kit import cli
from sparkstream_kit.bridge import hadoop
from sparkstream_kit.errors import UsageError
from sparkstream_kit.recovery import storage
from sparkstream_kit.recovery.home import Home

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "jobs" / "data" / "access_2000.log"
PATIENCE = 300  # seconds, far more than any step takes


def test_of_many_writers_of_a_new_file_exactly_one_wins(spark: SparkSession, hdfs: str) -> None:
    path = f"{hdfs}/race/1"

    def write(n: int) -> bool:
        try:
            storage.write_new(path, f"writer {n}")
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(24)))
    assert won.count(True) == 1
    assert storage.read(path) == f"writer {won.index(True)}"
    assert storage.names(f"{hdfs}/race") == ["1"], "the temporary files of the others are gone"


def test_a_file_is_replaced_in_one_step_and_a_missing_one_is_reported(spark: SparkSession, hdfs: str) -> None:
    storage.write(f"{hdfs}/beat", "1")
    storage.write(f"{hdfs}/beat", "2")
    assert storage.read(f"{hdfs}/beat") == "2"
    storage.delete(f"{hdfs}/beat")
    with pytest.raises(FileNotFoundError):
        storage.read(f"{hdfs}/beat")
    assert storage.names(f"{hdfs}/nowhere") == []


def test_a_directory_is_never_published_into_an_existing_one(spark: SparkSession, hdfs: str) -> None:
    for attempt in ("a", "b"):
        spark.range(3).write.parquet(f"{hdfs}/out/.{attempt}")
    assert storage.publish(f"{hdfs}/out/.a", f"{hdfs}/out/batch=1")
    assert not storage.publish(f"{hdfs}/out/.b", f"{hdfs}/out/batch=1")
    assert storage.names(f"{hdfs}/out") == ["batch=1"]
    assert spark.read.parquet(f"{hdfs}/out/batch=1").count() == 3


def test_a_home_that_others_can_write_to_is_refused(spark: SparkSession, hdfs: str) -> None:
    Home.open(f"{hdfs}/mine")
    hadoop: Any = spark._jvm.org.apache.hadoop.fs
    path = hadoop.Path(f"{hdfs}/shared")
    fs = path.getFileSystem(spark._jsc.hadoopConfiguration())
    fs.mkdirs(path)
    fs.setPermission(path, hadoop.permission.FsPermission("775"))
    with pytest.raises(UsageError, match="other users can write to .*/shared, .* chmod go-w"):
        Home.open(f"{hdfs}/shared")


def test_a_job_with_its_home_on_hdfs_continues_after_kill_9_and_loses_and_duplicates_nothing(
    spark: SparkSession, hdfs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = SAMPLE.read_text().splitlines(keepends=True)
    (tmp_path / "logs").mkdir()
    for i in range(0, len(lines), 100):
        (tmp_path / "logs" / f"{i:04d}.log").write_text("".join(lines[i : i + 100]))
    _copy_to_hdfs(spark, tmp_path / "logs", f"{hdfs}/job/logs")
    command = [sys.executable, str(ROOT / "jobs" / "running_status_counts.py")]
    command += ["--source", f"files:{hdfs}/job/logs", "--output", f"json:{hdfs}/job/out", "--home", f"{hdfs}/job/home"]
    command += ["--max-per-batch", "1", "--batch-interval", "500ms"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    with (tmp_path / "first.log").open("wb") as log:
        first = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + PATIENCE
        while not hadoop.path_exists(f"{hdfs}/job/home/offsets/3.done"):
            assert first.poll() is None and time.monotonic() < deadline, (tmp_path / "first.log").read_text()
            time.sleep(0.05)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert not hadoop.path_exists(f"{hdfs}/job/home/offsets/10.done"), "it was killed before its end"
    assert cli.main(["status", f"{hdfs}/job/home", "--json"]) == 3
    status = json.loads(capsys.readouterr().out)
    assert (status["health"], status["batches"][2]["n"], status["interval"]) == ("down", 3, 0.5)
    second = subprocess.run([*command, "--drain"], env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert second.returncode == 0, second.stderr

    batches = [name for name in hadoop.names(f"{hdfs}/job/out/statuses") if name.startswith("batch=")]
    last = max(batches, key=lambda name: int(name.removeprefix("batch=")))
    got = {row.status: row["count"] for row in spark.read.json(f"{hdfs}/job/out/statuses/{last}").collect()}
    assert got == Counter(int(line.split('" ')[1].split()[0]) for line in lines)
    assert len(batches) == len(lines) // 100, json.dumps(batches)
    capsys.readouterr()
    assert cli.main(["state", f"{hdfs}/job/home", "by-status", "--json"]) == 0
    assert {row["status"]: row["count"] for row in map(json.loads, capsys.readouterr().out.splitlines())} == got


def _copy_to_hdfs(spark: SparkSession, source: Path, target: str) -> None:
    """Copy each file unchanged."""
    hadoop.make_directory(target)
    for file in sorted(source.iterdir()):
        storage.write_new(f"{target}/{file.name}", file.read_text())
