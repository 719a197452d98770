from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.support import rotation
from tests.support.matrix import ROWS
from tests.support.supervisor import POINTS

LISTS = {"rows of the matrix": ROWS, "points": POINTS, "twenty kills": range(20)}


@pytest.mark.parametrize("cases", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("step", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("first", [0, 411])
@pytest.mark.parametrize("parts", [rotation.PARTS, rotation.MANY_PARTS])
def test_every_case_comes_up_once_in_as_many_runs_as_there_are_parts_however_many_commits_lie_between_them(
    cases: list[object], parts: int, step: int, first: int
) -> None:
    runs = [rotation.share(cases, str(first + step * run), parts) for run in range(parts)]
    assert Counter(case for run in runs for case in run) == Counter(cases)
    sizes = sorted(map(len, runs))
    assert sizes[0] > 0 and sizes[-1] - sizes[0] <= 1, "the runs take equally long"


def test_the_rotation_can_be_given_as_a_number_or_as_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROTATION", "13")
    assert rotation.share(range(10), rotation.current()) == [3, 8]
    assert rotation.describe(rotation.current()) == "rotation 13: share 4 of 5; ROTATION=13 repeats it"
    monkeypatch.setenv("ROTATION", "all")
    assert rotation.share(range(10), rotation.current()) == [*range(10)]
    assert rotation.describe(rotation.current()) == "rotation: all cases"
    monkeypatch.setenv("ROTATION", "-1")
    with pytest.raises(ValueError, match="ROTATION is '-1', expected a number or 'all'"):
        rotation.current()


def test_each_commit_on_the_branch_and_each_merge_moves_the_rotation_by_one(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
        subprocess.run(["git", "-C", tmp_path, *who, *words], check=True, capture_output=True)

    def commit(message: str) -> None:
        git("commit", "--allow-empty", "-m", message)

    assert rotation.commits(tmp_path) is None, "not a repository"
    git("init", "-b", "main")
    assert rotation.commits(tmp_path) is None, "no commit"
    commit("one")
    commit("two")
    assert rotation.commits(tmp_path) == 2
    git("switch", "-c", "side")
    for message in ("three", "four", "five"):
        commit(message)
    git("switch", "main")
    git("merge", "--no-ff", "-m", "merged", "side")
    assert rotation.commits(tmp_path) == 3
    shallow = tmp_path / "shallow"
    git("clone", "--depth", "1", f"file://{tmp_path}", str(shallow))
    assert rotation.commits(shallow) is None, "the count of a shallow clone never moves"
