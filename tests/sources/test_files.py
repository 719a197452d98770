"""Each file is read once, the list of files stays short, and a file that is gone or changed is named."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

from sparkstream_kit.errors import InputLost
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.recovery import storage
from sparkstream_kit.sources import _files
from tests.support.ticks import Seen, job, killed


def parts(home: Path) -> list[Path]:
    return sorted((home / "sources" / "files").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("step", [None, ("write_new", 1), ("delete", 1), ("delete", 3)], ids=str)
def test_each_file_is_read_once_while_parts_of_the_list_are_merged(
    spark: SparkSession, tmp_path: Path, step: tuple[str, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_files, "PARTS", 3)
    monkeypatch.setattr(_files, "FULL", 6)
    logs, home = tmp_path / "logs", tmp_path / "home"
    logs.mkdir()
    seen: Seen = {}

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        return {"lines": _files.files(ssc, str(logs))}

    def run(seconds: range) -> None:
        with job(build, home, seen) as engine:
            for second in seconds:
                (logs / f"{second:02d}").write_text(f"{second}\n")
                engine.tick(1000 * second)

    def kill_in_a_merge(name: str, k: int) -> None:
        original, calls = getattr(storage, name), 0

        def dies(path: str, *text: Any) -> None:
            nonlocal calls
            original(path, *text)
            calls += "/sources/files/" in path and (name == "delete" or "-" in path.rpartition("/")[2])
            if calls == k:
                killed(9)

        with monkeypatch.context() as patch, contextlib.suppress(SystemExit):
            patch.setattr(storage, name, dies)
            run(range(1, 12))
            pytest.fail("it was never killed")

    if step is not None:
        kill_in_a_merge(*step)
    run(range(1 if step is None else 5, 15))  # the first merge comes with the fourth part
    came = sorted(int(row[0]) for rows in seen["lines"].values() for row in rows)
    assert came == list(range(1, 15))
    assert len(parts(home)) <= 3 + 2, "two full ones, and those not merged yet"


def test_of_parts_with_the_same_first_file_the_longest_counts(spark: SparkSession, tmp_path: Path) -> None:
    """A part that a driver writes late, after a pause in a merge, changes nothing."""
    logs, home = tmp_path / "logs", tmp_path / "home"
    logs.mkdir()
    for name in ("a", "b", "c"):
        (logs / name).write_text(f"{name}\n")
    seen: Seen = {}

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        return {"lines": _files.files(ssc, str(logs))}

    with job(build, home, seen) as engine:
        engine.tick(1000)
    (whole,) = parts(home)
    whole.rename(whole.with_name(f"{whole.name}-{3:012d}"))
    (late := whole.with_name(f"{0:012d}-{1:012d}")).write_text(f'[["file:{logs}/a", 2]]')
    (logs / "d").write_text("d\n")
    with job(build, home, seen) as engine:
        engine.tick(2000)
    assert late.exists()
    assert sorted(row[0] for rows in seen["lines"].values() for row in rows) == ["a", "b", "c", "d"]


def lines_at(home: Path, logs: Path, second: int, **options: Any) -> set[str]:
    """The lines that a job reads at a second."""
    seen: Seen = {}

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        return {"lines": _files.files(ssc, str(logs), **options)}

    with job(build, home, seen) as engine:
        engine.tick(1000 * second)
    return {row[0] for rows in seen.get("lines", {}).values() for row in rows}


def test_hidden_and_unfinished_files_are_ignored(spark: SparkSession, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    for name in ("a.log", ".b.log", "_c.log", "d.log.tmp", "e.log._COPYING_", "f.txt", "[g].log"):
        (logs / name).write_text(f"{name}\n")
    (logs / "h.log").mkdir()
    assert lines_at(tmp_path / "home", logs, 1, glob="*.log") == {"a.log", "[g].log"}
    assert lines_at(tmp_path / "home", logs, 2, glob="*") == {"f.txt"}, "each file once"


def test_a_file_that_has_just_changed_waits_for_min_age(spark: SparkSession, tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    for name, age in (("old", 90), ("new", 0)):
        (logs / name).write_text(f"{name}\n")
        at = (logs / name).stat().st_mtime - age
        os.utime(logs / name, (at, at))
    assert lines_at(tmp_path / "home", logs, 1, min_age="1min") == {"old"}
    assert lines_at(tmp_path / "home", logs, 2) == {"new"}


@pytest.mark.parametrize(("what", "said"), [("gone", "is gone"), ("longer", "has 4 bytes now")])
def test_a_pending_file_that_is_gone_or_changed_is_named(
    spark: SparkSession, tmp_path: Path, what: str, said: str
) -> None:
    logs, home = tmp_path / "logs", tmp_path / "home"
    logs.mkdir()
    (logs / "a").write_text("a\n")
    lines_at(home, logs, 1)
    (home / "offsets" / "1.done").unlink()  # killed before the batch was done
    if what == "gone":
        (logs / "a").unlink()
    else:
        (logs / "a").write_text("a\nb\n")
    with pytest.raises(InputLost, match=f"input file .*/logs/a {said}, but .* still needs its 2 bytes: restore it"):
        lines_at(home, logs, 2)
    (logs / "a").write_text("a\n")
    assert lines_at(home, logs, 3) == {"a"}
