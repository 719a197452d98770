"""Failing outputs and full disks: nothing is lost, and nothing is written twice."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.supervisor import Job, counts, finish, recount

NewJob = Callable[..., Job]


@pytest.fixture
def away(tmp_path: Path) -> Path:
    """The outputs fail while this file exists."""
    file = tmp_path / "away"
    file.touch()
    return file


def test_an_output_that_fails_for_a_while_is_retried_until_it_works(new_job: NewJob, away: Path) -> None:
    job, count = new_job(fail=str(away), failing=["text:lines"]), 1000
    arguments = counts(job, count=count, seed=1, windows=False)
    run = job.start(*arguments, "--drain", "--max-per-batch", "400")
    complaint = "batch 1: the output 'text:lines' failed (ConnectionError: text:lines is away); retrying in "
    run.wait_until(lambda: run.said().count(complaint) >= 3, "it has failed three times")
    assert (job.out / "each" / "batch=1").exists(), "an output that works does not wait for it"
    assert job.recorded() == 1, "nothing runs past the batch"
    away.unlink()
    assert run.end() == 0, run.said()
    error = "ConnectionError: text:lines is away"
    assert re.search(rf"batch 1 done in .* errors=.output 'text:lines' \d+ times \({error}\)", run.said())
    assert re.search(rf"output 'text:lines': retried \d+ times, last error: {error}", run.said()), "and in the summary"
    recount(job, "an output that fails for a while", count=count, seed=1)


def test_a_job_ends_when_an_output_never_works_and_the_next_start_finishes_the_batch(
    new_job: NewJob, away: Path
) -> None:
    job, count = new_job(fail=str(away), failing=["text:lines", "json:each"], retry_for=1), 1000
    arguments = counts(job, count=count, seed=2)
    run = job.start(*arguments, "--max-per-batch", "300")
    assert run.end() == 1
    assert "batch 1: the output 'text:lines' still fails" in run.said()
    assert "the batch stays unfinished, and the next start finishes it" in run.said()
    assert "output 'json:each': retried" in run.said(), "the summary is logged here, too"
    assert (job.out / "running" / "batch=1").exists()
    assert job.recorded() == 1

    away.unlink()
    run = finish(job, arguments)
    assert "finishing batch 1 of an earlier run" in run.said()
    recount(job, "an output that never works", count=count, seed=2)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk for one test."""
    if os.geteuid() != 0:
        pytest.skip("mounting a disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """Fill the disk."""
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


@contextlib.contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Make the disk read-only, even for root."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


@pytest.mark.parametrize("broken", [full, read_only])
def test_a_job_waits_while_nothing_can_be_written_to_the_disk_of_its_output(
    new_job: NewJob, disk: Path, broken: Callable[[Path], contextlib.AbstractContextManager[None]]
) -> None:
    job, count = new_job(), 1000
    job.out = disk / "out"
    arguments = [*counts(job, count=count, seed=3), "--output", f"each=sql:sqlite:///{disk}/each.db?batch_column=n"]
    run = job.start(*arguments, "--max-per-batch", "300", "--stop-after", "1batches")
    assert run.end() == 0, run.said()
    with broken(disk):
        run = job.start(*arguments, "--drain")
        run.wait_until(lambda: run.said().count("retrying in") >= 5, "it has retried")
    assert run.end() == 0, run.said()
    recount(job, f"the disk of the output: {broken.__name__}", count=count, seed=3)
    rows: dict[int, Counter[tuple[str, int]]] = defaultdict(Counter)
    with contextlib.closing(sqlite3.connect(disk / "each.db")) as database:
        for *row, n in database.execute("SELECT * FROM each"):
            rows[n][tuple(row)] += 1
    assert rows == job.rows("json", "each")


def test_a_job_ends_when_the_disk_of_its_home_is_full_and_continues_when_there_is_space(
    new_job: NewJob, disk: Path
) -> None:
    job, count = new_job(save_every=3), 12_000
    job.home = disk / "home"
    arguments = counts(job, count=count, seed=4)
    run = job.start(*arguments, "--max-per-batch", "100")
    run.wait_until(lambda: job.recorded() >= 2, "two batches were recorded")
    with full(disk):
        assert run.end() == 1
        assert "No space left on device" in run.said()
    finish(job, arguments)
    recount(job, "a full disk of the home", count=count, seed=4)
