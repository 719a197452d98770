"""Graceful stops of a job on frames, by its marker or by a signal, at any time: each is carried out, and once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from tests.support.supervisor import Job, counts, finish, recount

NewJob = Callable[..., Job]


def test_a_stop_is_carried_out_whenever_it_is_requested_and_the_next_start_continues(new_job: NewJob) -> None:
    job, count = new_job(save_every=3), 12_000
    arguments = [*counts(job, count=count, seed=3), "--max-per-batch", "100"]
    marker = job.home / "RUNNING"

    run = job.start(*arguments)
    run.wait_until(marker.exists, "the marker exists")
    marker.unlink()  # before the first batch
    assert run.end() == 0, run.said()

    run = job.start(*arguments)
    recorded = job.recorded()
    run.wait_until(lambda: job.recorded() > recorded, "it has recorded a batch")
    marker.unlink()  # in the middle of it
    assert run.end() == 0, run.said()
    assert every_batch_is_done(job.home), "the running batch was finished"

    run = job.start(*arguments)
    recorded = job.recorded()
    run.wait_until(lambda: job.recorded() > recorded, "the next start continues")
    run.kill()
    job.kills += 1
    recorded = job.recorded()
    marker.unlink()  # while the job is down

    run = job.start(*arguments)
    assert run.end() == 0, run.said()
    assert "a stop was requested while the job was down, so it stays stopped" in run.said()
    assert job.recorded() == recorded

    run = job.start(*arguments)
    run.wait_until(lambda: job.recorded() > recorded, "the start after that continues")
    run.signal(signal.SIGTERM)
    assert run.end() == 0, run.said()
    assert every_batch_is_done(job.home)

    finish(job, counts(job, count=count, seed=3))
    recount(job, "stopped again and again", count=count, seed=3)


def test_a_stop_while_an_output_fails_leaves_the_batch_unfinished_and_lasts(new_job: NewJob, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.touch()
    job, count = new_job(fail=str(away), failing=["text:lines"]), 1000
    arguments = [*counts(job, count=count, seed=10), "--max-per-batch", "300"]

    run = job.start(*arguments)
    run.wait_until(lambda: run.said().count("retrying in") >= 2, "it has failed twice")
    run.signal(signal.SIGTERM)
    assert run.end() == 1
    assert "batch 1: the output 'text:lines' still fails" in run.said()
    assert "the batch stays unfinished, and the next start finishes it" in run.said()

    run = job.start(*arguments)
    run.wait_until(lambda: run.said().count("retrying in") >= 2, "the next start retries it")
    (job.home / "RUNNING").unlink()
    assert run.end() == 1

    run = job.start(*arguments)
    assert run.end() == 0
    assert "a stop was requested while the job was down, so it stays stopped" in run.said()
    assert job.recorded() == 1, "nothing runs past the batch"

    away.unlink()
    run = finish(job, counts(job, count=count, seed=10))
    assert "finishing batch 1 of an earlier run" in run.said()
    recount(job, "stopped while an output fails", count=count, seed=10)


def test_a_drain_that_is_stopped_finishes_its_batch_and_the_next_one_continues(new_job: NewJob) -> None:
    job, count = new_job(save_every=3), 20_000
    arguments = counts(job, count=count, seed=11, windows=False)
    marker = job.home / "RUNNING"
    for stop in (lambda run: run.signal(signal.SIGTERM), lambda run: marker.unlink()):
        recorded = job.recorded()
        run = job.start(*arguments, "--drain", "--max-per-batch", "100")
        run.wait_until(lambda recorded=recorded: job.recorded() > recorded + 1, "it has recorded two batches")
        stop(run)
        assert run.end() == 0, run.said()
        assert every_batch_is_done(job.home)
        assert job.entries()[-1].range()[1] < count, "it stopped before the end"
    finish(job, arguments)
    recount(job, "a drain stopped twice", count=count, seed=11)


def every_batch_is_done(home: Path) -> bool:
    entries = [name.name for name in (home / "offsets").iterdir()]
    return all(f"{name}.done" in entries for name in entries if name.isdigit())
