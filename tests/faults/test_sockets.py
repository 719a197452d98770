"""A socket job whose driver is killed: what Spark's receiver has put into the write-ahead log is written once.

The server sends a few hundred numbered lines at a time, and then waits until each of them is safe: in a file of the
write-ahead log that the driver's own log of blocks names, or written already. A job that is killed then has them all
pending.
"""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.sockets import Server, logged
from tests.support.supervisor import VICTIMS, Job, Run

BURST = 200


class SocketJob:
    """The job lines.py, from a socket to text files."""

    def __init__(self, job: Job, server: Server):
        self.job, self.server = job, server

    def start(self, *arguments: str, **options: object) -> Run:
        self.server.expect_a_new_driver(looks=not self.job.recorded())
        source = f"socket:127.0.0.1:{self.server.port}"
        output = f"text:{self.job.out}"
        return self.job.start("--source", source, "--output", output, "--batch-interval", "1s", *arguments, **options)

    def out(self) -> Counter[int]:
        """How often each number was written."""
        lines = sum(self.job.rows("text", "lines").values(), Counter[str]())
        return Counter({int(line[5:11]): times for line, times in lines.items()})

    def are_safe(self) -> bool:
        """Whether all lines sent are written or in the write-ahead log."""
        return logged(self.job.home / "checkpoint") | set(self.out()) >= set(range(self.server.sent))

    def feed(self, run: Run) -> None:
        """Send a burst and wait until it is safe."""
        self.server.send(BURST)
        run.wait_until(self.are_safe, "what was sent is safe")

    def wait_until_all_is_out(self, run: Run) -> None:
        run.wait_until(lambda: len(self.out()) == self.server.sent, "all lines are written")

    def report(self, title: str) -> None:
        out, sent = self.out(), self.server.sent
        missing = sum(n not in out for n in range(sent))
        self.job.report(title, sent, missing, sum(times - 1 for times in out.values()))


@pytest.fixture
def job(new_job: Callable[..., Job], server: Server) -> SocketJob:
    return SocketJob(new_job(script="lines.py"), server)


def test_what_was_acknowledged_comes_out_once_however_the_driver_is_killed(job: SocketJob) -> None:
    for victim in VICTIMS:
        run = job.start()
        job.feed(run)
        job.feed(run)
        assert run.kill(victim) != 0
        job.job.kills += 1
    (job.job.work / "hold").touch()
    run = job.start(hold=str(job.job.work / "hold"))  # the next runs find the pending batches in Spark's checkpoint
    job.feed(run)
    run.kill()
    job.job.kills += 1
    for point in (("land", 1, "before"), ("publish", 1, "after"), ("done", 1, "before")):
        run = job.start(kill=point)
        assert run.end() == -signal.SIGKILL, run.said()
        job.job.kills += 1
    run = job.start()
    run.wait_to_say(" done in ")  # it has finished the batch of the run before
    job.wait_until_all_is_out(run)
    run.signal(signal.SIGTERM)
    assert run.end() == 0, run.said()
    job.report("socket with a write-ahead log")


def test_what_came_before_spark_wrote_its_first_checkpoint_is_written_too(job: SocketJob) -> None:
    hold, checkpoint = job.job.work / "hold", job.job.home / "checkpoint"
    hold.touch()
    run = job.start(hold=str(hold))
    job.feed(run)
    before = newest_batch(checkpoint)
    run.wait_until(lambda: newest_batch(checkpoint) > before + 1000, "Spark has assigned all of it to a batch")
    run.kill()
    job.job.kills += 1
    for file in [*checkpoint.glob("checkpoint-*"), *checkpoint.glob(".checkpoint-*")]:  # with their checksums
        file.unlink()  # as if it had been killed before it wrote one
    (first,) = (job.job.copies / "checkpoint").glob("checkpoint-*")
    shutil.copy(first, checkpoint)

    run = job.start()
    job.wait_until_all_is_out(run)
    run.signal(signal.SIGTERM)
    assert run.end() == 0, run.said()
    job.report("socket whose first checkpoint was never written")


def newest_batch(checkpoint: Path) -> int:
    """The time in ms of the newest batch that has a checkpoint."""
    names = (file.name.removesuffix(".bk") for file in checkpoint.glob("checkpoint-*"))
    return max((int(name.partition("-")[2]) for name in names), default=0)


def test_a_checkpoint_that_is_damaged_is_refused_and_a_discarded_one_is_replaced(job: SocketJob) -> None:
    run = job.start()
    job.feed(run)
    job.wait_until_all_is_out(run)
    run.kill()
    job.job.kills += 1

    checkpoint = job.job.home / "checkpoint"
    for file in checkpoint.glob("checkpoint-*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    run = job.start()
    assert run.end() == 2, run.said()
    blocks = len(list(checkpoint.glob("receivedData/*/log-*")))  # a file for each: closeFileAfterWrite
    assert f"it holds {blocks} received blocks, some possibly unprocessed" in run.said()

    run = job.start("--give-up-received")
    job.feed(run)
    job.wait_until_all_is_out(run)
    run.signal(signal.SIGTERM)
    assert run.end() == 0, run.said()
    job.report("socket whose checkpoint was discarded")
