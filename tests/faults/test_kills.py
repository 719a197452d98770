"""kill -9 of a job on generated lines: every batch of every output is what its recorded time and range say, once."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

import pytest

from tests.faults.supervisor import POINTS, VICTIMS, Job, Point, counts, finish, kill_at_point, kill_at_random, recount

NewJob = Callable[..., Job]


def test_killed_at_random_moments_and_changed_in_between(new_job: NewJob) -> None:
    job, chance, count = new_job(save_every=3), random.Random(0), 12_000
    arguments = counts(job, count=count, seed=7)
    for script in ("counts.py", "counts_changed.py"):
        for victim in VICTIMS:
            kill_at_random(job, arguments, victim, chance, script=script)
    finish(job, arguments)
    assert job.kills == 6
    assert job.rows("json", "methods"), "the output that was added"
    recount(job, "killed at random", count=count, seed=7)


@pytest.mark.parametrize("points", [POINTS[:6], POINTS[6:11], POINTS[11:]], ids=["outputs", "state", "done"])
def test_killed_at_every_step_of_a_tick(new_job: NewJob, points: list[Point]) -> None:
    job, count = new_job(save_every=3), 6000
    arguments = counts(job, count=count, seed=8)
    for point in points:
        kill_at_point(job, arguments, point)
    finish(job, arguments)
    recount(job, f"killed at {', '.join(f'{name} {k} {when}' for name, k, when in points)}", count=count, seed=8)


def test_killed_in_a_drain_which_still_ends_where_it_was_to_end(new_job: NewJob) -> None:
    job, count = new_job(save_every=3), 3000
    arguments = counts(job, count=count, seed=9)
    for point in (("claim", 3, "after"), ("done", 2, "before")):
        run = job.start(*arguments, "--drain", "--max-per-batch", "400", kill=point)
        assert run.end() == -signal.SIGKILL, run.said()
        job.kills += 1
    finish(job, arguments)
    recount(job, "killed in a drain", count=count, seed=9)
