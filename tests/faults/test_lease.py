"""Two drivers on one home: the second one learns who holds the lease, and one that was paused too long is fenced."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from tests.support.supervisor import Job, counts, finish, recount, wait_until

NewJob = Callable[..., Job]


def test_a_second_driver_is_refused_and_a_paused_one_is_fenced_when_it_wakes_up(new_job: NewJob) -> None:
    job, count = new_job(ttl=3, beat=0.5), 6000
    arguments = [*counts(job, count=count, seed=5), "--max-per-batch", "100"]
    first = job.start(*arguments)
    first.wait_until(lambda: job.recorded() >= 2, "two batches were recorded")

    second = job.start(*arguments)
    assert second.end() == 2
    assert f"the home is in use by process {first.process.pid} on " in second.said()
    assert "Traceback" not in second.said()

    recorded = job.recorded()
    first.wait_until(lambda: job.recorded() > recorded, "it has recorded another one")
    os.killpg(first.process.pid, signal.SIGSTOP)
    recorded = job.recorded()
    third = job.start(*arguments, machine="elsewhere")  # on the same machine it would kill the first
    third.wait_until(lambda: job.recorded() >= recorded + 2, "the next driver continues")
    os.killpg(first.process.pid, signal.SIGCONT)
    assert first.end() == 1
    assert f"another driver took the lease: process {third.process.pid} on " in first.said()

    recorded = job.recorded()
    third.wait_until(lambda: job.recorded() > recorded, "the holder was not disturbed")
    third.signal(signal.SIGTERM)
    assert third.end() == 0, third.said()
    finish(job, counts(job, count=count, seed=5))
    recount(job, "two drivers", count=count, seed=5)


def test_of_two_that_start_at_once_one_runs(new_job: NewJob) -> None:
    job, count = new_job(), 500
    arguments = counts(job, count=count, seed=6)
    runs = [job.start(*arguments, "--max-per-batch", "10") for _ in range(2)]
    wait_until(lambda: any(run.process.poll() is not None for run in runs), "one of them has ended")
    refused, running = sorted(runs, key=lambda run: run.process.poll() is None)
    assert refused.end() == 2
    assert f"in use by process {running.process.pid} on " in refused.said()
    assert running.kill() == -signal.SIGKILL
    job.kills += 1
    finish(job, arguments)
    recount(job, "two at once", count=count, seed=6)
