from __future__ import annotations

import errno
import multiprocessing
from pathlib import Path

import pytest

from sparkstream_kit.errors import UsageError
from sparkstream_kit.recovery import storage

SPAWN = multiprocessing.get_context("spawn")  # a forked child would share the JVM of other tests
ROUNDS, WRITERS = 40, 4


def race(root: str, me: int, ready: object, won: object) -> None:
    """Try to create the file of every round first, all writers at once."""
    for number in range(ROUNDS):
        ready.wait()  # type: ignore[attr-defined]
        try:
            storage.write_new(f"{root}/{number}", f"{me}" * 1000)
        except FileExistsError:
            continue
        won.put((number, me))  # type: ignore[attr-defined]


def test_of_many_processes_that_create_a_file_exactly_one_wins_and_the_file_has_its_text(tmp_path: Path) -> None:
    ready, won = SPAWN.Barrier(WRITERS), SPAWN.Queue()
    writers = [SPAWN.Process(target=race, args=(f"file:{tmp_path}", me, ready, won)) for me in range(WRITERS)]
    for writer in writers:
        writer.start()
    winners = dict(sorted(won.get(timeout=60) for _ in range(ROUNDS)))
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert won.empty()
    assert list(winners) == list(range(ROUNDS))
    assert {n: storage.read(f"file:{tmp_path}/{n}") for n in winners} == {n: f"{w}" * 1000 for n, w in winners.items()}
    assert storage.hidden(f"file:{tmp_path}") == []


def test_a_file_is_replaced_atomically(tmp_path: Path) -> None:
    path = f"file:{tmp_path}/note"
    storage.write(path, "old")
    with (tmp_path / "note").open() as reader:
        storage.write(path, "new text")
        assert reader.read() == "old", "a reader keeps the old file"
    assert storage.read(path) == "new text"
    assert storage.names(f"file:{tmp_path}") == ["note"]


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "fsync", full)
    for write in (storage.write, storage.write_new):
        with pytest.raises(OSError, match="No space left"):
            write(f"file:{tmp_path}/note", "text")
    assert list(tmp_path.iterdir()) == []


def directory(path: Path, content: str) -> str:
    path.mkdir()
    (path / "part").write_text(content)
    return f"file:{path}"


def test_the_first_directory_published_under_a_name_wins_and_the_second_is_removed(tmp_path: Path) -> None:
    target = f"file:{tmp_path}/batch=7"
    assert storage.publish(directory(tmp_path / ".one", "first"), target)
    assert not storage.publish(directory(tmp_path / ".two", "second"), target)
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == ["batch=7", "batch=7/part"]
    assert storage.read(f"{target}/part") == "first"


def test_a_directory_that_cannot_be_renamed_raises_and_stays(tmp_path: Path) -> None:
    temporary = directory(tmp_path / ".one", "first")
    with pytest.raises(OSError):
        storage.publish(temporary, f"file:{tmp_path}/missing/batch=7")
    assert storage.read(f"{temporary}/part") == "first"


def test_a_missing_path_can_be_deleted_on_a_read_only_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))  # as Linux does before it looks

    storage.write_new(f"file:{tmp_path}/there", "")
    monkeypatch.setattr(Path, "unlink", refuse)
    storage.delete(f"file:{tmp_path}/missing")
    with pytest.raises(OSError, match="Read-only"):
        storage.delete(f"file:{tmp_path}/there")


def test_a_missing_path_has_no_names_and_can_be_deleted(tmp_path: Path) -> None:
    missing = f"file:{tmp_path}/missing"
    storage.delete(missing)
    assert storage.names(missing) == []
    assert not storage.exists(missing)
    with pytest.raises(FileNotFoundError):
        storage.read(missing)


def test_a_file_system_that_always_overwrites_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.hadoop, "qualified", lambda path: path)
    with pytest.raises(
        UsageError, match="'s3a://bucket/home' is on a s3a file system.*put the home on HDFS or a local"
    ):
        storage.qualify("s3a://bucket/home")
