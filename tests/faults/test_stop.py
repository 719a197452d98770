"""How real jobs end: by a marker, a signal, a failed batch, kill -9; no input is lost.

Each test follows one job, a bare DStream on files, through its runs. The job prints what it does, and the test waits
for those lines.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyspark
import pytest

ROOT = Path(__file__).parents[2]
LOGGING = ROOT / "conf" / "log4j2.properties"
PATIENCE = 300  # seconds, far more than any step takes

JOB = """
import signal, sys, threading
from pathlib import Path
from pyspark import SparkConf
from sparkstream_kit import context, lifecycle

work, until = Path(sys.argv[1]), sys.argv[2]

def say(*words):
    print(*words, flush=True)

def build(ssc):
    def write(rdd):
        lines = rdd.collect()
        if lines:
            say("begun", *lines)
        if "fail" in lines and not (work / "fixed").exists():
            raise ValueError("cannot process this line")
        if "hang" in lines:
            threading.Event().wait()
        if lines:
            say("wrote", *lines)
    ssc.textFileStream(str(work / "incoming")).foreachRDD(write)

def flag():
    say("waiting")
    return False

if until == "cut off":
    lifecycle.DRAIN_LIMIT = 1000
conf = SparkConf().set("spark.ui.enabled", "false")
ssc = context.get_or_create(build, checkpoint=str(work / "checkpoint"), batch_interval="200ms", conf=conf)
if until == "runs":
    start = ssc.start
    ssc.start = lambda: (say("starting"), start())
    sys.exit(lifecycle.run(ssc, marker=str(work / "RUNNING"), poll="100ms"))
ssc.start()
say("started", ssc.sparkContext.master, ssc.sparkContext.getConf().get("spark.run"))
if until == "marker":
    code = lifecycle.stop_on_marker(ssc, str(work / "RUNNING"), poll="100ms")
else:
    code = lifecycle.stop_when(ssc, flag, poll="100ms")
say("stopped", signal.getsignal(signal.SIGTERM).name, ssc.sparkContext.parallelize([1, 2]).getNumPartitions())
sys.exit(code)
"""


class Run:
    """One process of the job, in a process group of its own."""

    def __init__(self, command: list[str], number: int, log: Path):
        self.lines: list[str] = []
        self._new: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._log = log
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYSPARK_PYTHON": sys.executable,
            "SPARK_SUBMIT_OPTS": f"{os.environ.get('SPARK_SUBMIT_OPTS', '')} -Dlog4j2.configurationFile={LOGGING}",
            "PYSPARK_SUBMIT_ARGS": f"--master local[1] --conf spark.run={number} pyspark-shell",
        }
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                command,
                env=env,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
                # a shell lets what runs in the background ignore SIGINT, and a JVM handles no signal that it ignores
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._new.put(line.strip())
        self._new.put(None)

    def wait_for(self, line: str) -> None:
        """Read the output of the job until it has this line; batches may run before the job prints that it started."""
        deadline = time.monotonic() + PATIENCE
        while not any(said.startswith(line) for said in self.lines):
            try:
                said = self._new.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                said = None
            if said is None:
                raise AssertionError(f"the job never printed {line!r}, but {self.lines}\n{self.complaints()}")
            self.lines.append(said)

    def end(self) -> int:
        """The exit code, once the process has ended and all its output is read."""
        code = self.process.wait(PATIENCE)
        while (said := self._new.get(timeout=PATIENCE)) is not None:
            self.lines.append(said)
        return code

    def kill(self) -> None:
        """kill -9 of Python and the JVM."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.end()

    def complaints(self) -> str:
        return self._log.read_text()


class Job:
    """The job of one test: its directory and its runs."""

    def __init__(self, work: Path):
        self.work = work
        self.runs: list[Run] = []
        (work / "incoming").mkdir()
        (work / "job.py").write_text(JOB)

    def start(self, until: str, *, submit: bool = False) -> Run:
        number = len(self.runs) + 1
        by = [sys.executable]
        if submit:
            # bin/spark-submit becomes the JVM, and Python its child
            spark_submit = str(Path(pyspark.__file__).parent / "bin" / "spark-submit")
            by = [spark_submit, "--master", "local[1]", "--conf", f"spark.run={number}"]
        run = Run([*by, str(self.work / "job.py"), str(self.work), until], number, self.work / f"{number}.log")
        self.runs.append(run)
        return run

    def feed(self, *lines: str) -> None:
        """Move a complete file into the input directory."""
        staged = self.work / "-".join(lines)
        staged.write_text("\n".join(lines))
        staged.rename(self.work / "incoming" / staged.name)

    def written(self) -> list[str]:
        """Every line that any run has written."""
        return [
            word for run in self.runs for line in run.lines if line.startswith("wrote") for word in line.split()[1:]
        ]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    started = Job(tmp_path)
    yield started
    for run in started.runs:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)


def test_a_marker_stops_a_running_job_and_one_that_is_down_and_the_next_start_runs_again(job: Job) -> None:
    marker = job.work / "RUNNING"

    run = job.start("marker")
    run.wait_for("started")
    job.feed("one")
    run.wait_for("wrote one")
    assert marker.exists()
    job.feed("two")
    marker.unlink()
    assert run.end() == 0, run.complaints()

    run = job.start("marker")
    run.wait_for("started")
    job.feed("three")
    run.wait_for("wrote three")
    assert marker.exists(), "a stop that was carried out does not affect the next start"
    run.kill()
    marker.unlink()
    job.feed("four")

    run = job.start("marker")
    assert run.end() == 0, run.complaints()
    assert not marker.exists()

    run = job.start("waits")
    run.wait_for("started local[1] 4")
    run.wait_for("waiting")
    job.feed("five")
    run.wait_for("wrote five")
    run.process.send_signal(signal.SIGINT)
    assert run.end() == 0, run.complaints()
    assert {"one", "two", "three", "four", "five"} == set(job.written())


def test_a_job_that_recovers_is_stopped_by_a_signal_or_its_marker_before_it_has_started(job: Job) -> None:
    run = job.start("runs")
    run.wait_for("starting")
    job.feed("one")
    job.feed("two")
    run.wait_for("wrote")
    run.kill()
    for number in (signal.SIGTERM, signal.SIGINT):
        run = job.start("runs")
        run.wait_for("starting")
        run.process.send_signal(number)
        assert run.end() == 0, run.complaints()
    (job.work / "RUNNING").unlink()
    job.start("runs").kill()  # a crash after the marker was deleted
    run = job.start("runs")
    assert run.end() == 0, run.complaints()
    assert set(job.written()) == {"one", "two"}


def test_a_failed_batch_ends_the_job_and_the_next_start_runs_it_again_with_its_own_settings(job: Job) -> None:
    run = job.start("waits", submit=True)
    run.wait_for("started local[1] 1")
    job.feed("good")
    run.wait_for("wrote good")
    job.feed("fail")
    run.wait_for("begun fail")
    job.feed("later")
    assert run.end() == 1
    assert run.lines[-1] == "begun fail", "nothing ran past it"
    assert "a batch failed, the next start runs it again: ValueError: cannot process this line" in run.complaints()
    assert "in write" in run.complaints(), "the traceback names the line of the job"

    (job.work / "fixed").touch()
    run = job.start("waits")
    run.wait_for("started local[1] 2")
    run.wait_for("wrote fail")
    run.wait_for("wrote later")
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 0, run.complaints()
    assert run.lines[-1] == "stopped SIG_DFL 1", "the signal handlers are restored, and Spark is alive"


def test_a_signal_to_spark_submit_reaches_the_jvm_and_drains(job: Job) -> None:
    run = job.start("waits", submit=True)
    run.wait_for("started local[1] 1")
    job.feed("before")
    run.wait_for("wrote before")
    job.feed("last")
    run.wait_for("begun last")
    # the whole group, as Ctrl-C and service managers do: one request, although two processes hear it
    os.killpg(run.process.pid, signal.SIGTERM)
    assert run.end() == 0, run.complaints()
    assert job.written() == ["before", "last"]
    assert run.lines[-1].startswith("stopped")


def test_a_drain_that_never_ends_is_cut_off(job: Job) -> None:
    run = job.start("cut off")
    run.wait_for("waiting")
    job.feed("hang")
    run.wait_for("begun hang")
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 1
    assert "the drain did not end within 1s: the next start processes what is left" in run.complaints()


@pytest.mark.parametrize("submit", [False, True])
def test_a_second_signal_ends_the_process_at_once(submit: bool, job: Job) -> None:
    run = job.start("waits", submit=submit)
    run.wait_for("waiting")
    job.feed("hang")
    run.wait_for("begun hang")
    run.process.send_signal(signal.SIGTERM)
    run.process.send_signal(signal.SIGINT)
    assert run.end() != 0
    assert "stopped at once by a second signal" in run.complaints()
