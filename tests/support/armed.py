"""Runs a job that is killed or disturbed at a named point: python armed.py OPTIONS JOB [ARGUMENT ...]

OPTIONS is a JSON object:
    copies          copy every entry of the offset log and every landed batch into this directory, since compaction
                    removes them, and Spark's checkpoint as it was before the first start
    kill            [point, k, "before" or "after"]: kill -9 the process group at the k-th call of a function in POINTS
    fail            fail every write of the outputs in `failing` while this file exists
    failing         the names of these outputs
    hold            land nothing while this file exists
    retry_for       seconds for which a failing output is retried
    save_every      batches between two snapshots of state
    ttl, beat       seconds of the lease
    machine         pretend to run on this machine
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparkstream_kit.bridge import dataframes, streaming
from sparkstream_kit.engine import batches, checkpoints
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.recovery import landing, lease, offset_log, snapshots, storage
from sparkstream_kit.recovery.home import Home

POINTS: dict[str, tuple[Any, str]] = {
    "append": (offset_log.OffsetLog, "append"),
    "done": (offset_log.OffsetLog, "mark_done"),
    "begin": (offset_log.OffsetLog, "begin_again"),
    "compact": (offset_log.OffsetLog, "compact"),
    "compacted": (offset_log, "_is_covered"),
    "save": (snapshots, "save"),
    "load": (snapshots, "load"),
    "publish": (storage, "publish"),
    "write": (storage, "write"),
    "write_new": (storage, "write_new"),
    "delete": (storage, "delete"),
    "land": (landing, "land"),
    "prune": (landing, "prune"),
    "renew": (lease.Lease, "renew"),
    "stopped": (Home, "mark_stopped"),
    "free": (dataframes, "free"),
    "hidden": (storage, "hidden"),
}


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    original = getattr(owner, name)
    setattr(owner, name, lambda *args, **kwargs: around(original, *args, **kwargs))


def kill_at(point: str, k: int, when: str) -> None:
    calls = 0

    def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        due = calls == k
        if due and when == "before":
            os.killpg(0, signal.SIGKILL)
        result = original(*args, **kwargs)
        if due:
            os.killpg(0, signal.SIGKILL)
        return result

    wrap(*POINTS[point], around)


def keep_copies(directory: Path) -> None:
    directory.mkdir(exist_ok=True)

    def copy(entries: Path) -> None:
        for entry in entries.iterdir():
            if entry.name.isdigit() and not (directory / entry.name).exists():
                shutil.copy(entry, directory / f".{entry.name}")
                os.rename(directory / f".{entry.name}", directory / entry.name)

    def opened(original: Callable[..., Any], self: Any, root: str, *args: Any) -> None:
        original(self, root, *args)
        copy(storage.local(root) or Path())

    def appended(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
        entry = original(self, *args, **kwargs)
        copy(storage.local(self._root) or Path())
        return entry

    def pruned(original: Callable[..., Any], landed: str, *args: Any) -> None:
        folder = storage.local(landed) or Path()
        for batch in folder.glob("[0-9]*"):
            copied = directory / "received" / folder.name / batch.name
            if not copied.exists():
                shutil.copytree(batch, copied.with_name(f".{batch.name}"), dirs_exist_ok=True)
                os.rename(copied.with_name(f".{batch.name}"), copied)
        original(landed, *args)

    def begun(original: Callable[..., Any], ssc: Any) -> None:
        original(ssc)
        first = directory / "checkpoint"
        if not first.exists():
            shutil.copytree(storage.local(streaming.checkpoint_directory(ssc) or "") or Path(), first)

    wrap(checkpoints, "write_first", begun)
    wrap(offset_log.OffsetLog, "__init__", opened)
    wrap(offset_log.OffsetLog, "append", appended)
    wrap(landing, "prune", pruned)


def fail_while(there: Path, names: list[str]) -> None:
    def for_each_batch(
        original: Callable[..., Any], self: Any, write: Any, *, name: str = "output", **more: Any
    ) -> None:
        def failing(frame: Any, batch: Any) -> None:
            if there.exists() and name in names:
                raise ConnectionError(f"{name} is away")
            write(frame, batch)

        original(self, failing, name=name, **more)

    wrap(FrameStream, "for_each_batch", for_each_batch)


def hold_while(there: Path) -> None:
    def land(original: Callable[..., Any], *args: Any) -> Any:
        while there.exists():
            time.sleep(0.01)
        return original(*args)

    wrap(landing, "land", land)


def arm(options: dict[str, Any]) -> None:
    batches.SNAPSHOT_EVERY = options.get("save_every", batches.SNAPSHOT_EVERY)
    lease.TTL, lease.BEAT = options.get("ttl", lease.TTL), options.get("beat", lease.BEAT)
    if "machine" in options:
        wrap(lease, "_machine", lambda original: options["machine"])
    if "retry_for" in options:
        wrap(
            batches.Engine,
            "__init__",
            lambda original, *args, **kwargs: original(*args, **{**kwargs, "retry_for": options["retry_for"]}),
        )
    if "copies" in options:
        keep_copies(Path(options["copies"]))
    if "fail" in options:
        fail_while(Path(options["fail"]), options["failing"])
    if "hold" in options:
        hold_while(Path(options["hold"]))
    if "kill" in options:
        kill_at(*options["kill"])


if __name__ == "__main__":
    arm(json.loads(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
