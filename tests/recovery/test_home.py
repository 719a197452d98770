from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparkstream_kit.errors import HomeDamaged, NewerFormat, UsageError
from sparkstream_kit.recovery import storage
from sparkstream_kit.recovery.home import Home


@pytest.fixture(autouse=True)
def _without_spark(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(storage, "qualify", lambda path: f"file:{path}")
    yield


def test_a_home_keeps_its_id_and_is_accessible_to_its_user_only(tmp_path: Path) -> None:
    created = Home.open(str(tmp_path / "apps" / "served"))
    assert Home.open(str(tmp_path / "apps" / "served")) == created
    assert Home.open(str(tmp_path / "apps" / "other")).id != created.id
    assert stat.S_IMODE((tmp_path / "apps" / "served").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_home_that_others_can_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(UsageError, match=f"other users can write to .*{tmp_path}, .*chmod go-w it"):
        Home.open(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint").chmod(0o777)
    with pytest.raises(UsageError, match="other users can write to .*/checkpoint, and so can run code"):
        Home.open(str(tmp_path))


def test_a_home_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:  # files of root are trusted
        os.chown(tmp_path, 4711, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 815)
    with pytest.raises(UsageError, match=f"another user owns .*{tmp_path}"):
        Home.open(str(tmp_path))


def refused_to_move(path: Path, who: str) -> None:
    expected = f"{who} can rename what is in {path}, and so put another home in the place of "
    with pytest.raises(UsageError, match=rf"^{re.escape(expected)}.*/home, .*: chown {path} to yourself or root and "):
        Home.open(str(path / "below" / "home"))


def test_a_home_below_a_directory_in_which_others_may_rename_is_refused(tmp_path: Path) -> None:
    Home.open(str(tmp_path / "below" / "home"))
    tmp_path.chmod(0o777)
    refused_to_move(tmp_path, "anybody")
    tmp_path.chmod(0o1777)
    Home.open(str(tmp_path / "below" / "home"))  # as in /tmp


def test_a_home_below_a_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from the user who owns the home, and neither what is above it nor what root owns."""
    lstat = Path.lstat

    def owned(path: Path) -> Any:
        found = lstat(path)
        owner = 4711 if path == tmp_path else os.geteuid()
        return os.stat_result((*found[:4], owner, *found[5:]))

    monkeypatch.setattr(Path, "lstat", owned)
    refused_to_move(tmp_path, "another user, who owns it,")


def test_a_home_behind_a_link_that_others_may_replace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "mine" / "below").mkdir(parents=True)
    (tmp_path / "open" / "below").symlink_to(tmp_path / "mine" / "below")
    Home.open(str(tmp_path / "open" / "below" / "home"))
    (tmp_path / "open").chmod(0o777)
    refused_to_move(tmp_path / "open", "anybody")
    (tmp_path / "open").chmod(0o755)
    (tmp_path / "mine").chmod(0o777)
    with pytest.raises(UsageError, match=f"anybody can rename what is in {tmp_path}/mine, "):
        Home.open(str(tmp_path / "open" / "below" / "home"))


def test_a_home_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write the home .*: name a directory that this user can write"):
        Home.open(str(tmp_path / "file" / "home"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home whose job runs, or has crashed."""
    home = Home.open(str(tmp_path / "home"))
    home.mark_starting()
    home.mark_running()
    return home


def test_a_new_home_has_no_pending_stop_and_runs(tmp_path: Path) -> None:
    home = Home.open(str(tmp_path / "home"))
    assert not home.stop_pending()
    home.mark_starting()
    home.mark_running()
    assert not home.stop_requested()


def test_a_marker_deleted_after_a_crash_means_that_a_stop_is_pending(home: Home) -> None:
    assert not home.stop_pending()
    storage.delete(home / "RUNNING")
    assert home.stop_pending()


def test_a_marker_deleted_during_a_restart_after_a_crash_still_requests_a_stop(home: Home) -> None:
    storage.delete(home / "RUNNING")
    home.mark_starting()
    home.mark_running()
    assert home.stop_requested()


def test_a_stop_that_was_carried_out_does_not_stop_the_next_start(home: Home) -> None:
    storage.delete(home / "RUNNING")
    home.mark_stopped()
    assert not home.stop_pending()
    home.mark_starting()
    home.mark_running()
    assert not home.stop_requested()
    storage.delete(home / "RUNNING")
    assert home.stop_pending(), "the earlier stop no longer counts once the job has run again"


def test_a_home_whose_creation_was_interrupted_has_no_pending_stop(tmp_path: Path) -> None:
    Home.open(str(tmp_path / "home"))
    (tmp_path / "home" / "id").unlink()
    assert not Home.open(str(tmp_path / "home")).stop_pending()


def test_a_home_without_its_format_is_refused_as_damaged(home: Home) -> None:
    storage.delete(home / "format")
    with pytest.raises(HomeDamaged, match=f"{home.root} has no valid file `format`: restore the home from a backup"):
        Home.existing(home.root)


def test_a_home_of_a_newer_version_is_refused(home: Home) -> None:
    storage.write(home / "format", "3\n")
    with pytest.raises(NewerFormat, match="has the format 3, and this version of sparkstream_kit reads up to 2: use"):
        Home.open(home.root.removeprefix("file:"))
