"""The seventh program of the course is killed while it counts, restarted, and has counted each line once."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "jobs" / "course" / "p07_running_count.py"
SAMPLE = (ROOT / "jobs" / "data" / "access_2000.log").read_text().splitlines()
STATUS = re.compile(r'" (\d{3}) (?:\d+|-) "')
BATCH_INTERVAL = "5s"  # long enough to catch up after the restart on a busy machine
DEADLINE = 300  # seconds


class Job:
    """The program, its two directories, and what it has written."""

    def __init__(self, directory: Path):
        self.arriving, self.home = directory / "arriving", directory / "home"
        self.arriving.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(self.arriving), str(self.home), BATCH_INTERVAL],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,  # so that kill() reaches the JVM, too
        )

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def ends(self) -> int:
        assert self._process is not None
        return self._process.wait(DEADLINE)

    def wait_until(self, condition: Callable[[], object]) -> None:
        assert self._process is not None
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert self._process.poll() is None, "the job ended by itself"
            assert time.monotonic() < deadline, f"timed out, {self.counted()} lines are counted"
            time.sleep(0.2)

    def arrive(self, number: int) -> None:
        """Move in file `number` of 20, a hundred lines each: Spark wants files new, and complete at once."""
        written = self.arriving.with_name(f"{number:02}.log")
        written.write_text("\n".join(SAMPLE[100 * number : 100 * (number + 1)]) + "\n")
        written.rename(self.arriving / written.name)

    def history(self) -> list[Counter[str]]:
        """The counts of each batch, oldest first."""
        return [self._counts(batch) for batch in self._batches()]

    def counted(self) -> int:
        """Lines counted in the newest batch; 0 while a batch that runs again replaces its first attempt."""
        with contextlib.suppress(IndexError, FileNotFoundError):
            return self._counts(self._batches()[-1]).total()
        return 0

    def _batches(self) -> list[Path]:
        return sorted((self.home / "counts").glob("batch-*.tsv"), key=lambda path: int(path.name[6:-4]))

    @staticmethod
    def _counts(batch: Path) -> Counter[str]:
        rows = [line.split("\t") for part in batch.glob("part-*") for line in part.read_text().splitlines()]
        return Counter({status: int(number) for status, number in rows})


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    job.kill()


def test_counts_after_kill_9_and_a_restart_are_those_of_an_uninterrupted_run(job: Job) -> None:
    marker = job.home / "running"
    job.start()
    job.wait_until(marker.exists)

    for number in range(6):
        job.arrive(number)
    job.wait_until(lambda: job.counted() >= 600)
    for number in range(6, 12):
        job.arrive(number)
    job.wait_until(lambda: job.counted() > 600)
    job.arrive(12)  # whether Spark sees it is left to chance
    job.kill()
    before = job.history()
    assert 600 < job.counted() <= 1300

    for number in range(13, 16):
        job.arrive(number)  # while the job is down
    job.start()
    job.wait_until(lambda: job.counted() >= 1600)
    for number in range(16, 20):
        job.arrive(number)
    job.wait_until(lambda: job.counted() >= 2000)
    marker.unlink()
    assert job.ends() == 0

    after = job.history()
    assert after[-1] == Counter(STATUS.search(line)[1] for line in SAMPLE)  # type: ignore[index]
    assert len(after) > len(before)
    totals = [counts.total() for counts in after]
    assert totals == sorted(totals), "a count decreased"
