"""Live logs that the real logrotate rotates, and a job on them that is killed: every line once, by the writers' count.

A job reads the logs of several modes at once, so each kill hits all of them. Each run takes all modes, with 20 kills in
total; `ROTATION=all` kills each job 20 times.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import rotation
from tests.support.logrotate import MODES, Mode, Rotated
from tests.support.supervisor import POINTS, VICTIMS, Job, kill_at_point, kill_at_random

NewJob = Callable[..., Job]
NewLog = Callable[..., Rotated]
ROTATION = rotation.current()


class Reads(NamedTuple):
    """What a job reads, and how often a run kills it."""

    modes: list[Mode]
    glob: str
    kills: int


READS = {
    "renamed": Reads([mode for mode in MODES if not mode.truncates], "**/access*", 8),
    "truncated": Reads([mode for mode in MODES if mode.truncates], "**/access*", 8),
    "renamed out of the glob": Reads(MODES[:1], "**/*.log", 4),
}


@pytest.fixture
def new_log(tmp_path: Path) -> Iterator[NewLog]:
    logs: list[Rotated] = []

    def make(mode: Mode, seed: int, may_rotate: Callable[[], bool]) -> Rotated:
        logs.append(Rotated(tmp_path, mode, seed, may_rotate=may_rotate))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


@pytest.mark.parametrize("name", READS)
def test_every_line_of_a_rotated_log_comes_once(new_job: NewJob, new_log: NewLog, name: str) -> None:
    job, chance = new_job(script="rotated.py", save_every=3), random.Random(f"{name} {ROTATION}")
    modes, glob, kills = READS[name]
    listed = 0

    def may_rotate() -> bool:
        """A file that came and went between two listings was never in the glob, so nobody could know of it."""
        nonlocal listed
        if "out of" in name and job.recorded() < listed + 2:
            return False
        listed = job.recorded()
        return True

    logs = [new_log(mode, chance.randrange(10**6), may_rotate) for mode in modes]
    arguments = ["--source", f"files:{job.work}/logs?glob={glob}", "--batch-interval", "200ms"]
    arguments += ["--output", f"lines=text:{job.out}", "--output", f"running=json:{job.out}"]
    for _ in range(20 if ROTATION == rotation.ALL else kills):
        if chance.random() < 0.4:
            kill_at_point(job, arguments, chance.choice(POINTS), most=None)
        else:
            kill_at_random(job, arguments, chance.choice(VICTIMS), chance, most=None, after=(0, 1, 3, 6, 10))
    for log in logs:
        log.stop()
    last = job.start(*arguments, "--drain")
    assert last.end() == 0, last.said()
    recount(job, name, logs)


def recount(job: Job, name: str, logs: list[Rotated]) -> None:
    """Compare what came out with what was written, or with what logrotate has left of it."""
    batches = job.rows("text", "lines")
    came, facts = sum(batches.values(), Counter[str]()), []
    missing, doubled = Counter[str](), +came
    for log in logs:
        written, left = log.written(), log.left()
        lost = written - left
        assert left - written == Counter(), "there is nothing in the files that was not written"
        assert log.mode.truncates or not lost, "logrotate loses lines only where it truncates"
        missing += left - came
        doubled -= written
        facts.append(f"{log.mode.name} {log.rotations} rotations" + (f" that lost {lost.total()}" if lost else ""))
    title = f"logs {name} by logrotate ({', '.join(facts)})"
    job.report(title, came.total(), missing.total(), doubled.total())

    totals = itertools.accumulate(Counter(methods(batches[n])) for n in sorted(batches))
    running = job.rows("json", "running")
    assert [running[n] for n in sorted(batches)] == [Counter(total.items()) for total in totals]


def methods(lines: Counter[str]) -> Iterator[str]:
    return (line.split('"')[1].split()[0] for line in lines.elements())
