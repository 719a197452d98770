"""A job on executors that are processes of their own: a driver that may collect little runs it, whatever its state."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet

ROOT = Path(__file__).parents[2]


def test_what_is_collected_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    lines = [f"key {n % 200_000:06}" for n in range(300_000)]
    for part in range(3):
        (logs / f"{part}.log").write_text("".join(f"{line}\n" for line in lines[part::3]))
    command = [sys.executable, str(ROOT / "tests" / "cluster" / "jobs" / "keys.py")]
    command += ["--source", f"files:{logs}?min_age=1ms", "--output", f"parquet:{tmp_path}/out"]
    command += ["--home", f"{tmp_path}/home", "--drain", "--max-per-batch", "1200000"]  # bytes: of each file a batch
    conf = {
        "spark.master": "local-cluster[2,1,1024]",
        "spark.driver.maxResultSize": "64k",  # of all tasks of a job; a state of this size has 20 MB
        "spark.ui.enabled": "false",
    }
    for name, value in conf.items():
        command += ["--conf", f"{name}={value}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SPARK_LOCAL_DIRS": str(tmp_path / "local")}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    batches = sorted((tmp_path / "out" / "seen").glob("batch=*"), key=lambda path: int(path.name.partition("=")[2]))
    assert len(batches) > 2
    rows = pyarrow.parquet.read_table(batches[-1], partitioning=None).to_pylist()
    assert Counter({row["value"]: row["n"] for row in rows}) == Counter(lines)
    assert len(rows) == 200_000
    assert len(list(batches[-1].glob("*.parquet"))) == 2, "one for each core: the state is larger than a task"
