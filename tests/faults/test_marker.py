"""The marker of a home: deleted while the job runs, starts, or is down, it means stop, and means it once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from tests.faults.supervisor import Job, counts, finish, recount

NewJob = Callable[..., Job]


def test_a_stop_is_carried_out_whenever_it_is_asked_for_and_the_next_start_goes_on(new_job: NewJob) -> None:
    job, count = new_job(save_every=3), 12_000
    arguments = [*counts(job, count=count, seed=3), "--max-per-batch", "100"]
    marker = job.home / "RUNNING"

    run = job.start(*arguments)
    run.wait_until(marker.exists, "the marker is there")
    marker.unlink()  # before the first batch
    assert run.end() == 0, run.said()

    run = job.start(*arguments)
    claimed = job.claimed()
    run.wait_until(lambda: job.claimed() > claimed, "it has claimed a batch")
    marker.unlink()  # in the middle of it
    assert run.end() == 0, run.said()
    assert every_batch_is_done(job.home), "the batch that ran was finished"

    run = job.start(*arguments)
    claimed = job.claimed()
    run.wait_until(lambda: job.claimed() > claimed, "the next start goes on")
    run.kill()
    job.kills += 1
    claimed = job.claimed()
    marker.unlink()  # while the job is down

    run = job.start(*arguments)
    assert run.end() == 0, run.said()
    assert "a stop was asked for while the job was down, so it stays stopped" in run.said()
    assert job.claimed() == claimed

    run = job.start(*arguments)
    run.wait_until(lambda: job.claimed() > claimed, "the start after that goes on")
    run.signal(signal.SIGTERM)
    assert run.end() == 0, run.said()
    assert every_batch_is_done(job.home)

    finish(job, arguments)
    recount(job, "stopped again and again", count=count, seed=3)


def every_batch_is_done(home: Path) -> bool:
    entries = [name.name for name in (home / "progress").iterdir()]
    return all(f"{name}.done" in entries for name in entries if name.isdigit())
