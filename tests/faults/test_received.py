"""Socket jobs under steady traffic that are stopped, or killed while Spark cannot write its checkpoint."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from tests.support.sockets import Server, logged, numbers
from tests.support.supervisor import ROOT, Job, Run


@pytest.fixture
def job(new_job: Callable[..., Job]) -> Job:
    return new_job(script="lines.py", save_every=3)


def start(job: Job, server: Server, interval: str = "1s") -> Run:
    server.expect_a_new_driver(looks=not job.recorded())
    words = ["--source", f"socket:127.0.0.1:{server.port}", "--output", f"text:{job.out}", "--batch-interval", interval]
    return job.start(*words)


def out(job: Job) -> Counter[int]:
    """How often each number was written."""
    lines = sum(job.rows("text", "lines").values(), Counter[str]())
    return Counter({numbers(line.encode()).pop(): times for line, times in lines.items()})


class Traffic:
    """A sender of 100 lines a second, until the connection or the test ends it."""

    def __init__(self, server: Server):
        self._server, self._over = server, threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _send(self) -> None:
        while not self._over.wait(0.01):
            try:
                self._server.send(1)
            except OSError:
                return

    def end(self) -> None:
        self._over.set()
        self._thread.join()


def test_a_graceful_stop_under_traffic_drains_what_was_stored_and_needs_no_checkpoint_afterwards(
    job: Job, server: Server
) -> None:
    run = start(job, server, "5s")  # long enough that no queue of batches exceeds the limit of a drain
    traffic = Traffic(server)
    run.wait_until(lambda: job.recorded() >= 2, "two batches are recorded")
    command = [sys.executable, "-m", "sparkstream_kit", "stop", str(job.home), "--wait"]
    stopped = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.end() == 0, run.said()
    traffic.end()
    assert (stopped.returncode, stopped.stdout) == (0, f"stopped after batch {job.recorded()}\n"), stopped.stderr
    stored = logged(job.home / "checkpoint")
    found = out(job)
    assert set(found) >= stored
    assert set(found) == set(range(max(found) + 1)), "only the newest lines were not stored yet"
    assert max(found.values()) == 1
    assert (job.home / "STOPPED").read_text() == "drained\n"

    run = start(job, server, "2s")  # no record is in the old checkpoint, so it is set aside
    run.wait_to_say("was set aside as")
    first = server.sent
    server.send(100)
    run.wait_until(lambda: set(out(job)) >= set(range(first, first + 100)), "new lines are written")
    run.signal(signal.SIGTERM)
    assert run.end() == 0, run.said()
    missing = [n for n in range(server.sent) if n not in out(job)]
    assert missing == list(range(max(found) + 1, first)), "those that the receiver held when it was stopped"
    job.report("a socket stopped under traffic", server.sent - len(missing), 0, sum(out(job).values()) - len(out(job)))


def test_what_was_received_while_no_checkpoint_could_be_written_comes_out_once_after_a_crash(
    job: Job, server: Server
) -> None:
    run = start(job, server)
    server.send(100)
    run.wait_until(lambda: len(out(job)) == 100, "all lines are written")
    # Spark writes into `temp` with a checksum beside it, which cannot be created below a missing directory
    (job.home / "checkpoint" / ".temp.crc").symlink_to(job.work / "missing" / "file")
    run.wait_to_say("Could not write checkpoint")
    for _ in range(24):
        recorded = job.recorded()
        server.send(20)
        run.wait_until(lambda recorded=recorded: job.recorded() > recorded, "another batch is recorded")
    run.wait_until(lambda: len(out(job)) == server.sent, "all lines are written")
    run.kill()
    job.kills += 1
    (job.home / "checkpoint" / ".temp.crc").unlink()

    run = start(job, server)
    server.send(100)
    run.wait_until(lambda: set(out(job)) == set(range(server.sent)), "all lines are written")
    run.signal(signal.SIGTERM)
    assert run.end() == 0, run.said()
    found = out(job)
    doubled = sum(times - 1 for times in found.values())
    job.report("a checkpoint that could not be written", server.sent, server.sent - len(found), doubled)
