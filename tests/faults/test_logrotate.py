"""A live log that the real logrotate rotates, and a job on it that is killed: every line once, by the writer's count.

Each run takes all modes of logrotate, with 20 kills in total; `ROTATION=all` kills the job of each mode 20 times.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import rotation
from tests.support.logrotate import MODES, Mode, Rotated
from tests.support.supervisor import POINTS, VICTIMS, Job, kill_at_point, kill_at_random

NewJob = Callable[..., Job]
ROTATION = rotation.current()
KILLS = 20


def kills_of(mode: Mode) -> int:
    """How often the job of a mode is killed: the kills of a run are shared, and the next run begins with another."""
    if ROTATION == rotation.ALL:
        return KILLS
    turn = (MODES.index(mode) + int(ROTATION)) % len(MODES)
    return len(range(turn, KILLS, len(MODES)))


@pytest.fixture
def new_log(tmp_path: Path) -> Iterator[Callable[[Mode, int], Rotated]]:
    logs: list[Rotated] = []

    def make(mode: Mode, seed: int) -> Rotated:
        logs.append(Rotated(tmp_path, mode, seed))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_every_line_of_a_rotated_log_comes_once(
    new_job: NewJob, new_log: Callable[[Mode, int], Rotated], mode: Mode
) -> None:
    job, chance = new_job(script="rotated.py", save_every=3), random.Random(f"{mode} {ROTATION}")
    log = new_log(mode, chance.randrange(10**6))
    arguments = ["--source", f"files:{log.logs}?glob={mode.glob}", "--batch-interval", "200ms"]
    arguments += ["--output", f"lines=text:{job.out}", "--output", f"running=json:{job.out}"]
    for _ in range(kills_of(mode)):
        if chance.random() < 0.4:
            kill_at_point(job, arguments, chance.choice(POINTS), most=None)
        else:
            kill_at_random(job, arguments, chance.choice(VICTIMS), chance, most=None, after=(0, 1, 3, 6, 10))
    log.stop()
    last = job.start(*arguments, "--drain")
    assert last.end() == 0, last.said()
    recount(job, log)


def recount(job: Job, log: Rotated) -> None:
    """Compare what came out with what was written, or with what logrotate has left of it."""
    written, left = log.written(), log.left()
    assert left - written == Counter()
    batches = job.rows("text", "lines")
    came = sum(batches.values(), Counter[str]())
    lost = written - left
    assert log.mode.truncates or not lost, "logrotate loses lines only where it truncates"
    title = f"logrotate: {log.mode.name}, {log.rotations} rotations" + (f", which lost {lost.total()}" if lost else "")
    job.report(title, came.total(), (left - came).total(), (came - written).total())

    totals = itertools.accumulate(Counter(methods(batches[n])) for n in sorted(batches))
    running = job.rows("json", "running")
    assert [running[n] for n in sorted(batches)] == [Counter(total.items()) for total in totals]


def methods(lines: Counter[str]) -> Iterator[str]:
    return (line.split('"')[1].split()[0] for line in lines.elements())
