"""Which cases of a long list this run takes: a fifth of them, the next run the next fifth.

The number of the run is the count of commits, so there is no state to keep: `ROTATION=412` repeats run 412, and
`ROTATION=all` takes every case, as scripts/faults does.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PARTS = 5
"""A prime, so that runs which are two, three or four commits apart also come to every share."""

MANY_PARTS = 11
"""The same for tables of which a fifth would still be long."""

ALL = "all"


def current() -> str:
    """The rotation of this run: a number, or "all"."""
    given = os.environ.get("ROTATION") or str(commits(Path(__file__).parent) or int(time.time()) // 86_400)
    if given != ALL and not given.isdecimal():
        raise ValueError(f"ROTATION is {given!r}, expected a number or {ALL!r}")
    return given


def commits(folder: Path) -> int | None:
    """How many commits the branch has, a merge being one; None outside of a repository, or in a shallow clone."""

    def git(*words: str) -> str:
        run = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        if git("rev-parse", "--is-shallow-repository") == "true":
            return None
        return int(git("rev-list", "--count", "--first-parent", "HEAD"))
    except (OSError, subprocess.CalledProcessError):
        return None


def share(cases: Sequence[T], rotation: str, parts: int = PARTS) -> list[T]:
    """The cases of a rotation, in their order: every fifth of them, or another part of a list that is short."""
    if rotation == ALL:
        return list(cases)
    return list(cases[int(rotation) % parts :: parts])


def describe(rotation: str) -> str:
    """One line for the report of a run."""
    if rotation == ALL:
        return "rotation: all cases"
    return f"rotation {rotation}: share {int(rotation) % PARTS + 1} of {PARTS}; ROTATION={rotation} repeats it"


if __name__ == "__main__":
    print(current())
