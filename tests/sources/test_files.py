"""What the source of files keeps in the home: the journal of ranges and their copies, and what if one is lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit import cli
from sparkstream_kit.engine import batches
from sparkstream_kit.errors import Fenced, InputLost, UsageError
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.recovery import storage
from sparkstream_kit.recovery.home import Home
from sparkstream_kit.sources import _journal
from tests.support.ticks import Build, Seen, job, killed

HOUR = 3600


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


def lines(logs: Path, *, named: str = "logs", **options: Any) -> Build:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        return {"lines": ss.sources.files(ssc, str(logs), name=named, **options)}

    return build


def lines_at(home: Path, logs: Path, second: int, *, give_up: tuple[str, ...] = (), **options: Any) -> list[str]:
    """The lines that a job brings at a second, sorted."""
    seen: Seen = {}
    with job(lines(logs, **options), home, seen, give_up_files=give_up) as engine:
        engine.tick(1000 * second)
    return sorted(row[0] for rows in seen.get("lines", {}).values() for row in rows)


def journal(home: Path) -> list[str]:
    return sorted(name for name in os.listdir(home / "sources" / "logs") if name != "landed")


def age(file: Path, seconds: int) -> None:
    at = file.stat().st_mtime - seconds
    os.utime(file, (at, at))


# --- the journal


@pytest.mark.slow
@pytest.mark.parametrize("step", [None, ("write", 1), ("delete", 1), ("delete", 3)], ids=str)
def test_each_line_is_read_once_while_parts_of_the_journal_are_merged(
    spark: SparkSession, tmp_path: Path, logs: Path, step: tuple[str, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_journal, "PARTS", 3)
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 2)
    home, seen = tmp_path / "home", Seen()

    def run(seconds: range) -> None:
        with job(lines(logs), home, seen) as engine:
            for second in seconds:
                (logs / f"{second:02d}").write_text(f"{second}\n")
                with (logs / "grows").open("a") as file:
                    file.write(f"{100 + second}\n")
                engine.tick(1000 * second)

    def kill_in_a_merge(name: str, k: int) -> None:
        original, calls = getattr(storage, name), 0

        def dies(path: str, *text: Any) -> None:
            nonlocal calls
            original(path, *text)
            calls += "/sources/logs/0" in path and (name == "delete" or path.endswith(".base"))
            if calls == k:
                killed(9)

        with monkeypatch.context() as patch, contextlib.suppress(SystemExit):
            patch.setattr(storage, name, dies)
            run(range(1, 12))
            pytest.fail("it was never killed")

    if step is not None:
        kill_in_a_merge(*step)
    run(range(12, 20))
    came = sorted(int(row[0]) for rows in seen["lines"].values() for row in rows)
    wrote = [int(line) for file in logs.iterdir() for line in file.read_text().split()]
    assert came == sorted(wrote)
    assert len(journal(home)) <= 1 + 3 + 2, "a base, and the parts since the last merge"


def test_a_base_that_a_paused_driver_writes_late_changes_nothing(
    spark: SparkSession, tmp_path: Path, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_journal, "PARTS", 0)
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 1)
    home = tmp_path / "home"
    (logs / "a").write_text("a\n")
    assert lines_at(home, logs, 1) == ["a"]
    late = (home / "sources" / "logs" / journal(home)[-1]).read_text()
    (logs / "b").write_text("b\n")
    assert lines_at(home, logs, 2) == ["b"]
    (home / "sources" / "logs" / f"{1:012d}.base").write_text(late)
    (logs / "c").write_text("c\n")
    assert lines_at(home, logs, 3) == ["c"]


def test_a_driver_that_finds_ranges_of_another_one_stops(spark: SparkSession, tmp_path: Path, logs: Path) -> None:
    home = tmp_path / "home"
    (logs / "a").write_text("a\n")
    with job(lines(logs), home) as engine:
        engine.tick(1000)
        (logs / "b").write_text("b\n")
        (home / "sources" / "logs" / f"{1:012d}").write_text("{}")
        with pytest.raises(Fenced, match="another driver has written to .*/sources/logs: this one must stop"):
            engine.tick(2000)


def test_a_list_of_files_of_format_1_goes_on(spark: SparkSession, tmp_path: Path, logs: Path) -> None:
    """It holds paths and sizes. Its files are known by these, also when they have grown since."""
    home = tmp_path / "home"
    for name in ("a", "b"):
        (logs / name).write_text(f"{name}\n")
    assert lines_at(home, logs, 1) == ["a", "b"]
    (part,) = journal(home)
    (home / "format").write_text("1\n")
    (home / "sources" / "logs" / part).write_text(json.dumps([[f"file:{logs}/a", 2], [f"file:{logs}/b", 2]]))
    shutil.rmtree(home / "sources" / "logs" / "landed")
    entry = json.loads((home / "offsets" / "1").read_text())
    entry["ranges"]["logs"][1] = entry["end_offsets"]["logs"] = "2:" + format_1_digest(logs)
    (home / "offsets" / "1").write_text(json.dumps(entry))
    (home / "offsets" / "1.done").unlink()
    with (logs / "b").open("a") as file:
        file.write("more\n")
    assert lines_at(home, logs, 2) == ["a", "b", "more"], "the unfinished batch first"
    assert (home / "format").read_text() == "2\n"


def format_1_digest(logs: Path) -> str:
    """As version 0.1.0 made it."""
    from hashlib import sha256

    digest = ""
    for name in ("a", "b"):
        digest = sha256(f"{digest}{json.dumps([f'file:{logs}/{name}', 2])}".encode()).hexdigest()[:16]
    return digest


# --- copies in the home, and what is lost


def test_what_is_copied_is_removed_once_no_batch_needs_it(
    spark: SparkSession, tmp_path: Path, logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 3)
    home = tmp_path / "home"
    landed = home / "sources" / "logs" / "landed"
    for second in range(1, 4):
        (logs / f"{second}").write_text(f"{second}\n")
        assert lines_at(home, logs, second) == [str(second)]
        assert len(list(landed.iterdir())) == second % 3
    assert (landed.stat().st_mode & 0o077) == 0, "only the owner of the home can read what is in there"


def test_a_lost_copy_is_made_again_and_a_lost_file_is_named_and_can_be_given_up(
    spark: SparkSession, tmp_path: Path, logs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = tmp_path / "home"
    (logs / "a").write_text("a\n")
    (logs / "b").write_text("b\n")
    lines_at(home, logs, 1)

    def crash() -> None:
        (home / "offsets" / "1.done").unlink(missing_ok=True)
        shutil.rmtree(home / "sources" / "logs" / "landed")

    crash()
    assert lines_at(home, logs, 2) == ["a", "b"]
    crash()
    (logs / "a").unlink()
    said = f"batch 1 cannot be read: bytes 0 to 2 of the input file '{logs}/a' are gone or have changed: restore it, or"
    with pytest.raises(InputLost, match=f"{said} give them up by --give-up {logs}/a; the batch is unfinished"):
        lines_at(home, logs, 3)
    assert lines_at(home, logs, 4, give_up=(f"{logs}/a",)) == ["b"]
    assert f"'{logs}/a': its bytes 0 to 2 are gone, and given up" in caplog.text
    crash()
    assert lines_at(home, logs, 5) == ["b"], "it is noted in the home"


def test_without_its_journal_a_home_goes_on_only_if_the_directory_is_as_it_was(
    spark: SparkSession, tmp_path: Path, logs: Path
) -> None:
    home = tmp_path / "home"
    (logs / "a").write_text("a\n")
    assert lines_at(home, logs, 1) == ["a"]
    shutil.rmtree(home / "sources" / "logs")
    (logs / "b").write_text("b\n")
    assert lines_at(home, logs, 2) == ["b"]
    shutil.rmtree(home / "sources" / "logs")
    with (logs / "a").open("a") as file:
        file.write("more\n")
    with pytest.raises(InputLost, match="the 2 ranges of files that batches have read do not match the list in"):
        lines_at(home, logs, 3)


def test_status_names_the_files_that_may_be_removed(
    spark: SparkSession, tmp_path: Path, logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    for name in ("old", "new", "grown", "half"):
        (logs / name).write_text("a line\nanother" if name == "half" else "a line\n")
        if name != "new":
            age(logs / name, 2 * HOUR)
    with job(lines(logs, inactive_after="1d"), home) as engine:
        engine.tick(1000)
        engine.close()
    with (logs / "grown").open("a") as file:
        file.write("one more\n")
    age(logs / "grown", 2 * HOUR)
    cli.main(["status", str(home), "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["sources"]["logs"]["removable_files"] == [f"{logs}/old"]
    cli.main(["status", str(home)])
    assert "1 file may be removed" in capsys.readouterr().out


# --- which files, and how much of them


def test_hidden_and_unfinished_files_are_ignored(spark: SparkSession, tmp_path: Path, logs: Path) -> None:
    for name in ("a.log", ".b.log", "_c.log", "d.log.tmp", "e.log._COPYING_", "f.txt", "[g].log", "h.log.part", "i~"):
        (logs / name).write_text(f"{name}\n")
    (logs / "j.log").mkdir()
    assert lines_at(tmp_path / "home", logs, 1, glob="*.log") == ["[g].log", "a.log"]
    assert lines_at(tmp_path / "home", logs, 2, glob="*") == ["f.txt"], "each file once"
    assert lines_at(tmp_path / "home", logs, 3, glob=["*.part", "_*"]) == ["_c.log", "h.log.part"]


def test_several_directories_and_globs_are_one_source(spark: SparkSession, tmp_path: Path) -> None:
    for name in ("nginx/access.log", "nginx/old/access.log", "apache2/access.log", "apache2/error.log", "c/access.log"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n")

    def came(paths: list[str], globs: list[str]) -> list[str]:
        def build(ssc: StreamingContext) -> dict[str, FrameStream]:
            return {"lines": ss.sources.files(ssc, paths, globs)}

        seen: Seen = {}
        with job(build, tmp_path / f"home-{len(os.listdir(tmp_path))}", seen) as engine:
            engine.tick(1000)
        return sorted(row[0] for row in seen["lines"][1])

    here = str(tmp_path)
    assert came([f"{here}/nginx", f"{here}/apache2"], ["*.log"]) == [
        "apache2/access.log",
        "apache2/error.log",
        "nginx/access.log",
    ]
    assert came([here], ["{nginx,apache2}/acc*", "apache2/error*"]) == [
        "apache2/access.log",
        "apache2/error.log",
        "nginx/access.log",
    ]
    assert came([f"{here}/nginx"], ["**/access*.log"]) == ["nginx/access.log", "nginx/old/access.log"]


def test_a_file_that_has_just_changed_waits_for_min_age(spark: SparkSession, tmp_path: Path, logs: Path) -> None:
    for name, seconds in (("old", 90), ("new", 0)):
        (logs / name).write_text(f"{name}\n")
        age(logs / name, seconds)
    assert lines_at(tmp_path / "home", logs, 1, min_age="1min") == ["old"]
    age(logs / "new", 90)
    assert lines_at(tmp_path / "home", logs, 2, min_age="1min") == ["new"]


def test_a_limit_counts_bytes_and_takes_at_least_one_range(spark: SparkSession, tmp_path: Path, logs: Path) -> None:
    for name in "abcd":
        (logs / name).write_text(f"{name}23456789\n")
        age(logs / name, 100 - ord(name))
    seen: Seen = {}
    with job(lines(logs), tmp_path / "home", seen, max_per_batch=25) as engine:
        for second in (1, 2, 3):
            engine.tick(1000 * second)
    assert [len(rows) for rows in seen["lines"].values()] == [2, 2]
    seen = {}
    with job(lines(logs), tmp_path / "other", seen, max_per_batch=1) as engine:
        for second in (1, 2, 3, 4):
            engine.tick(1000 * second)
    assert [len(rows) for rows in seen["lines"].values()] == [1, 1, 1, 1]


def test_a_large_file_comes_in_many_batches(spark: SparkSession, tmp_path: Path, logs: Path) -> None:
    text = "".join(f"{n:099d}\n" for n in range(50_000))  # 5 MB
    (logs / "a").write_text(text)
    seen: Seen = {}
    with job(lines(logs), tmp_path / "home", seen, max_per_batch=2 << 20) as engine:
        for second in (1, 2, 3, 4):
            engine.tick(1000 * second)
    assert [row[0] for rows in seen["lines"].values() for row in rows] == text.splitlines()
    assert len(seen["lines"]) == 3


def test_a_drain_says_which_files_end_within_a_line(
    spark: SparkSession, tmp_path: Path, logs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (logs / "whole").write_text("a line\n")
    (logs / "half").write_text("a line\nhalf")
    (logs / "only").write_text("half")
    seen: Seen = {}
    with job(lines(logs), tmp_path / "home", seen, drain=True) as engine:
        engine.tick(1000)
    assert [row[0] for row in seen["lines"][1]] == ["a line", "a line"]
    assert f"2 files end within a line, which is left to a later start (inactive_after): '{logs}/half'" in caplog.text
    for name in ("half", "only"):
        age(logs / name, 61)
    seen = {}
    with job(lines(logs), tmp_path / "home", seen, drain=True) as engine:
        engine.tick(2000)
    assert [row[0] for row in seen["lines"][2]] == ["half", "half"]


def test_bytes_of_another_encoding_are_read_by_its_name(spark: SparkSession, tmp_path: Path, logs: Path) -> None:
    (logs / "a").write_bytes("café\n".encode("latin-1"))
    assert lines_at(tmp_path / "a", logs, 1, encoding="latin-1") == ["café"]
    assert lines_at(tmp_path / "b", logs, 1) == ["caf\ufffd"]
    for encoding, said in (("utf-16", "contains ASCII: convert the files with iconv"), ("latin-99", "Python knows")):
        with pytest.raises(UsageError, match=said):
            lines_at(tmp_path / "c", logs, 1, encoding=encoding)


def test_a_home_of_an_older_version_is_marked_when_a_job_runs(spark: SparkSession, tmp_path: Path, logs: Path) -> None:
    home = tmp_path / "home"
    lines_at(home, logs, 1)
    (home / "format").write_text("1\n")
    Home.existing(f"file:{home}")
    assert (home / "format").read_text() == "1\n", "reading does not change it"
    lines_at(home, logs, 2)
    assert (home / "format").read_text() == "2\n"
