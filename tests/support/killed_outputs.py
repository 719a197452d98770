"""Kills writers of the outputs that need Spark, at every step: python killed_outputs.py FOLDER RECEIVER

Each kill ends a Python process of its own. The JVM behind PYSPARK_GATEWAY_PORT lives on, since starting one takes
seconds, and every step of these outputs is a call from the driver's Python. After each kill the same is written again,
to the end. Prints a JSON list each time, [OUTPUT-STEP, what was written]; at step 0 nothing was killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import deltalake
import pyarrow.dataset
from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway
from pyspark.sql import DataFrame, DataFrameWriter, SparkSession

from sparkstream_kit.bridge import jvm
from sparkstream_kit.contracts import Batch
from sparkstream_kit.outputs import _compaction, _delta, _files, _webhook
from sparkstream_kit.recovery import storage
from tests.support.armed import wrap

STEPS: list[tuple[Any, str]] = [
    *((storage, name) for name in ("write", "write_new", "delete", "publish")),
    *((DataFrameWriter, name) for name in ("save", "parquet")),
    *((deltalake.DeltaTable, name) for name in ("create", "create_write_transaction")),
    (_webhook, "_post"),
]
"""Calls that change something visible to others; the process dies before or after one of them."""

Write = Callable[[DataFrame, Batch], object]
Act = Callable[[SparkSession, Path], object]


class Stream:
    """Receives the function that an output passes to for_each_batch."""

    write: Write
    rejects = False

    def for_each_batch(self, write: Write, **_: Any) -> None:
        self.write = write


def write_batches(spark: SparkSession, output: Callable[..., None], to: str, count: int = 2) -> None:
    """Batches of two rows, each in a file of its own."""
    stream = Stream()
    output(stream, to, name="rows")
    for n in range(1, count + 1):
        rows = spark.range(0, 2, 1, 2).selectExpr("id", f"{n} as n")
        stream.write(rows, Batch(n, datetime.fromtimestamp(n, timezone.utc), "home", {"x": (n - 1, n)}))


def found(folder: Path) -> Any:
    """The rows, and the names of files and folders that are the same each time."""
    root = folder / "rows"
    if not root.exists():  # a webhook: the receiver knows
        return None
    if (root / "_delta_log").exists():
        data = deltalake.DeltaTable(root).to_pyarrow_dataset()
    else:
        data = pyarrow.dataset.dataset(root, format="parquet")
    rows = sorted(f"{row['n']}.{row['id']}" for row in data.to_table(columns=["id", "n"]).to_pylist())
    below = {path.name: len(list(path.iterdir())) for path in root.glob("*atch*") if path.is_dir()}
    return rows, sorted(path.name for path in root.iterdir()), below


def connected() -> SparkSession:
    """A session on the JVM of another Python process."""
    gateway = launch_gateway()
    jvm: Any = gateway.jvm
    jsc = jvm.JavaSparkContext.fromSparkContext(jvm.org.apache.spark.SparkContext.getOrCreate())
    sc = SparkContext(gateway=gateway, jsc=jsc, conf=SparkConf(_jvm=jvm, _jconf=jsc.getConf()))
    return SparkSession(sc)


def in_a_process(act: Act, place: Path, dies_at: int | None = None) -> int:
    """Act and print the result, or be killed at a step; returns the exit code.

    The process that forks runs nothing of Spark or Delta.
    """
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        step()
        result = original(*args, **kwargs)
        step()
        return result

    try:
        spark = connected()
        jvm.jvm_process = lambda: None  # counts as killed, too, so that no lease waits for it
        for owner, name in STEPS:
            wrap(owner, name, around)
        act(spark, place)
        if dies_at is None:
            print(json.dumps([place.name, found(place)]), flush=True)
        os._exit(0)
    except Exception:
        traceback.print_exc()
        os._exit(1)


def main(work: Path, receiver: str) -> None:
    """Write with each output, and die one step later each time, until a write finishes."""
    acts: dict[str, Act] = {
        "parquet": lambda spark, place: write_batches(spark, _files.parquet, str(place)),
        "delta": lambda spark, place: write_batches(spark, _delta.delta, str(place)),
        "webhook": lambda spark, place: write_batches(spark, _webhook.webhook, f"{receiver}/{place.name}"),
        "compaction": lambda _, place: _compaction.compact(f"{place}/rows"),
    }
    prepared = work / "prepared"
    assert in_a_process(lambda spark, place: write_batches(spark, _files.parquet, str(place), 3), prepared, 0) == 0
    for output, act in acts.items():
        code, dies_at = -signal.SIGKILL, 0
        while code == -signal.SIGKILL:
            place = work / f"{output}-{dies_at}"
            if output == "compaction":
                shutil.copytree(prepared, place)
            code = in_a_process(act, place, dies_at) if dies_at else -signal.SIGKILL
            assert code in (0, -signal.SIGKILL), code
            assert in_a_process(act, place) == 0, f"after the kill at step {dies_at} of {output}"
            dies_at += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
