"""kill -9 of a job on generated lines: each output has each batch once, as its recorded time and offset range say.

A run takes a share of the kills by rotation; `scripts/faults` takes them all.
"""

from __future__ import annotations

import itertools
import operator
import random
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from sparkstream_kit.cli import main
from sparkstream_kit.sources import _generator
from tests.support import rotation
from tests.support.supervisor import (
    POINTS,
    ROOT,
    VICTIMS,
    Job,
    counts,
    finish,
    kill_at_point,
    kill_at_random,
    kill_soon,
    recount,
)

NewJob = Callable[..., Job]
STATUS = r'" (\d{3}) '
ROTATION = rotation.current()


def test_killed_at_random_moments_and_changed_in_between(new_job: NewJob) -> None:
    job, chance, count = new_job(save_every=3), random.Random(ROTATION), 12_000
    arguments = counts(job, count=count, seed=7)
    for victim in rotation.share(VICTIMS, ROTATION, parts=3):
        kill_at_random(job, arguments, victim, chance)
    for victim in rotation.share(VICTIMS[1:] + VICTIMS[:1], ROTATION, parts=3):
        kill_at_random(job, arguments, victim, chance, after=(2, 4, 6), script="counts_changed.py")
    finish(job, [*arguments, "--give-up-output", "json:methods"])  # which this version of the job does not have
    assert job.kills == (6 if ROTATION == rotation.ALL else 2)
    assert job.rows("json", "methods"), "the output that was added"
    recount(job, "killed at random", count=count, seed=7)


@pytest.mark.parametrize("first", rotation.share(range(rotation.PARTS), ROTATION))
def test_killed_at_every_step_of_a_tick(new_job: NewJob, first: int) -> None:
    job, count, points = new_job(save_every=3), 6000, POINTS[first :: rotation.PARTS]
    arguments = counts(job, count=count, seed=8)
    for point in points:
        kill_at_point(job, arguments, point)
    finish(job, arguments)
    recount(job, f"killed at {', '.join(f'{name} {k} {when}' for name, k, when in points)}", count=count, seed=8)


def test_killed_while_batches_run_again(new_job: NewJob) -> None:
    job, count = new_job(save_every=3), 6000
    arguments = [*counts(job, count=count, seed=11, windows=False), "--keep-batches", "100"]
    run = job.start(*arguments, "--max-per-batch", "200", "--stop-after", "9batches")
    assert run.end() == 0, run.said()
    for to, point in ((4, ("begin", 1, "before")), (3, ("done", 2, "before"))):
        assert main(["rewind", str(job.home), "--to", str(to)]) == 0
        kill_at_point(job, arguments, point)
    run = finish(job, arguments)
    assert "batches 5 to " in run.said() and "run again, as requested by sparkstream rewind" in run.said()
    recount(job, "killed while batches run again", count=count, seed=11)


def test_killed_while_a_backfill_runs_beside_it(new_job: NewJob) -> None:
    job, count = new_job(save_every=3), 6000
    arguments = counts(job, count=count, seed=12)
    run = job.start(*arguments, "--keep-batches", "100", "--max-per-batch", "200", "--stop-after", "9batches")
    assert run.end() == 0, run.said()
    first = {file: file.stat().st_ino for file in (job.out / "each").glob("batch=*/part-*")}
    assert main(["backfill", str(job.home), "--from", "3", "--to", "8"]) == 0
    chance = random.Random(ROTATION)
    beside = job.start(
        *arguments, "--backfill", kill=("publish", chance.randint(2, 20), chance.choice(("before", "after")))
    )
    running = job.start(*arguments, "--max-per-batch", "200")
    assert beside.end() == -signal.SIGKILL, beside.said()
    running.wait_until(lambda: job.recorded() > 12, "batches are recorded")
    kill_soon(job, running, "both", chance)
    job.kills += 1
    beside = job.start(*arguments, "--backfill")
    finish(job, arguments)
    assert beside.end() == 0, beside.said()
    assert "batch 8 has run again in " in beside.said() and "backfill done, " in beside.said()
    kept = {file for file, inode in first.items() if file.exists() and file.stat().st_ino == inode}
    numbers = {int(file.parent.name.removeprefix("batch=")) for file in kept}
    assert numbers & set(range(1, 10)) == {1, 2, 9}, "the others were replaced"
    recount(job, "killed while a backfill runs beside it", count=count, seed=12)


def test_killed_in_a_drain_that_still_ends_where_it_was_meant_to_end(new_job: NewJob) -> None:
    job, count = new_job(save_every=3), 3000
    arguments = counts(job, count=count, seed=9, windows=False)
    for point in (("append", 3, "after"), ("done", 2, "before")):
        run = job.start(*arguments, "--drain", "--max-per-batch", "400", kill=point)
        assert run.end() == -signal.SIGKILL, run.said()
        job.kills += 1
    finish(job, arguments)
    recount(job, "killed in a drain", count=count, seed=9)


def test_twenty_kills_of_a_real_job_whose_code_changes_and_whose_checkpoint_is_lost(new_job: NewJob) -> None:
    job, count, kills = new_job(script=str(ROOT / "jobs" / "running_status_counts.py")), 150_000, range(20)
    arguments = ["--source", f"generator:?rate=5000&seed=20&count={count}", "--output", f"json:{job.out}"]
    arguments += ["--batch-interval", "200ms"]
    lost = False
    for number in rotation.share(kills, ROTATION):
        options: dict[str, Any] = {"script": "statuses_changed.py"} if number >= 10 else {}
        if 10 <= number < 15:
            options["after"] = (1, 2, 4, 6)  # only the changed job has a checkpoint, from before its first batch
        if number >= 15 and not lost:
            shutil.rmtree(job.home / "checkpoint")
            lost = True
        kill_at_random(job, arguments, VICTIMS[number % 3], random.Random(f"20 {number}"), most=3000, **options)
    finish(job, arguments, script="statuses_changed.py")
    each = [Counter(re.findall(STATUS, "\n".join(_generator.lines(20, *c.range())))) for c in job.entries()]
    running = {n: totals for n, totals in enumerate(itertools.accumulate(each, operator.add), start=1)}
    found = {n: Counter({str(status): k for status, k in rows}) for n, rows in job.rows("json", "statuses").items()}
    sent, written = Counter(re.findall(STATUS, "\n".join(_generator.lines(20, 0, count)))), found[job.recorded()]
    job.report("a real job, changed", count, (sent - written).total(), (written - sent).total())
    assert lost and job.kills == len(rotation.share(kills, ROTATION))
    assert found == running, "every batch was written, with the counts up to it"
    assert job.rows("json", "methods"), "the output that was added"
