"""Executors with receivers that die, and senders that disconnect: acknowledged records are written once."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pyspark
import pytest

from tests.support.sockets import Server, logged, numbers
from tests.support.supervisor import Job, Run, wait_until

BURST = 200


@pytest.fixture
def job(new_job: Callable[..., Job]) -> Job:
    return new_job(script="lines.py")


def start(job: Job, server: Server, *arguments: str, **options: object) -> Run:
    server.expect_a_new_driver(looks=not job.recorded())
    words = ["--source", f"socket:127.0.0.1:{server.port}", "--output", f"text:{job.out}", "--batch-interval", "500ms"]
    return job.start(*words, *arguments, **options)


def out(job: Job) -> Counter[int]:
    """How often each number was written."""
    lines = sum(job.rows("text", "lines").values(), Counter[str]())
    return Counter({numbers(line.encode()).pop(): times for line, times in lines.items()})


def feed(job: Job, server: Server, run: Run, lost: Iterable[int] = ()) -> None:
    """Send lines, and wait until they and all earlier ones that were not lost are safe."""
    server.send(BURST)
    sent = set(range(server.sent)).difference(lost)
    run.wait_until(lambda: logged(job.home / "checkpoint") | set(out(job)) >= sent, "what was sent is safe")


def stop_and_recount(job: Job, server: Server, run: Run, title: str) -> None:
    """Stop the job gracefully once everything is written."""
    run.wait_until(lambda: len(out(job)) == server.sent, "all lines are written")
    run.signal(signal.SIGTERM)
    assert run.end() == 0, run.said()
    found = out(job)
    missing = sum(n not in found for n in range(server.sent))
    job.report(title, server.sent, missing, sum(times - 1 for times in found.values()))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments for a cluster of one executor process, and a copy of Spark's folder, into which its worker writes."""
    spark = tmp_path / "spark"
    spark.mkdir()
    for part in Path(pyspark.__file__).parent.iterdir():
        if part.name != "work":
            (spark / part.name).symlink_to(part)
    monkeypatch.setenv("SPARK_HOME", str(spark))
    return ["--conf", "spark.master=local-cluster[1,2,1024]"]


def kill_the_executor(job: Job, run: Run) -> None:
    """kill -9 of the process of the receiver; the worker starts another one."""
    victims = run.processes("CoarseGrainedExecutorBackend")
    assert len(victims) == 1, victims
    os.kill(victims[0], signal.SIGKILL)
    wait_until(lambda: victims[0] not in run.processes("CoarseGrainedExecutorBackend"), "it is gone")
    job.kills += 1


def test_what_a_receiver_acknowledged_is_written_once_when_its_executor_dies(
    job: Job, server: Server, cluster: list[str]
) -> None:
    hold = job.work / "hold"
    run = start(job, server, *cluster, hold=str(hold))
    feed(job, server, run)
    run.wait_until(lambda: len(out(job)) == server.sent, "all lines are written")
    for _ in range(2):
        hold.touch()
        feed(job, server, run)  # safe, but not written: in the write-ahead log and in the executor
        server.expect_a_new_receiver()
        kill_the_executor(job, run)
        hold.unlink()
        feed(job, server, run)  # to the receiver in the next executor
    stop_and_recount(job, server, run, "a receiver whose executor dies")


def test_a_receiver_that_can_store_nothing_ends_the_job_and_the_next_start_reconnects(job: Job, server: Server) -> None:
    run = start(job, server)
    feed(job, server, run)
    folder = job.home / "checkpoint" / "receivedData" / "0"
    away = folder.with_name("away")
    folder.rename(away)
    folder.touch()  # no directory for blocks: Spark's pushing thread ends, and the receiver still counts as active
    server.send(BURST)
    assert run.end() == 1, run.said()
    assert "a receiver stopped storing data (SocketReceiver-0 on localhost: " in run.said()
    job.kills += 1
    lost = set(range(BURST, server.sent))  # in flight when the connection was closed
    folder.unlink()
    away.rename(folder)
    run = start(job, server)
    feed(job, server, run, lost)
    run.wait_until(lambda: set(out(job)) | lost == set(range(server.sent)), "all other lines are written")
    run.signal(signal.SIGTERM)
    assert run.end() == 0, run.said()
    assert max(out(job).values()) == 1


def test_a_sender_that_dies_and_comes_back_is_found_again(job: Job, server: Server) -> None:
    run = start(job, server)
    feed(job, server, run)
    for tries in (1, 2):
        server.die()
        run.wait_until(lambda tries=tries: run.said().count("Connection refused") > tries, "it has retried")
        server.come_back()
        feed(job, server, run)
    run.wait_until(lambda: len(out(job)) == server.sent, "all lines are written")
    run.kill()
    job.kills += 1
    server.die()
    run = start(job, server)  # nobody listens; only a first start would refuse
    server.expect_a_new_receiver()
    run.wait_until(lambda: "Connection refused" in run.said(), "it has tried to connect")
    server.come_back()
    feed(job, server, run)
    stop_and_recount(job, server, run, "a sender that dies")
