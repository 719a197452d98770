"""Starts jobs in process groups of their own, kills them, and recounts independently what they should have written.

What is expected follows from the times and offset ranges in the offset log, since killed and clean runs cut batches
differently; `armed.py` copies its entries. The recount shares no code with the kit but the Python version of the
generator.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow.parquet

from sparkstream_kit.sources import _generator

ROOT = Path(__file__).parents[2]
LOGGING = ROOT / "conf" / "log4j2.properties"
HERE = Path(__file__).parent
JOBS = ROOT / "tests" / "faults" / "jobs"
PATIENCE = 300  # seconds, far more than any step takes
INTERVAL, WINDOW, SLIDE = 200, 2000, 1000  # ms, as in jobs/counts.py
VICTIMS = ("both", "python", "jvm")

Point = tuple[str, int, str]
POINTS: list[Point] = [
    ("write_new", 1, "after"),  # the lease is taken, and not renewed yet
    ("append", 1, "before"),
    ("append", 2, "after"),
    ("publish", 1, "before"),  # the first output is written, but not published
    ("publish", 2, "after"),  # some outputs are published
    ("free", 1, "before"),  # the state has advanced
    ("load", 1, "after"),
    ("save", 1, "before"),
    ("hidden", 1, "before"),  # the snapshot exists, and older ones, too
    ("save", 1, "after"),
    ("done", 1, "before"),
    ("done", 2, "after"),
    ("compact", 1, "before"),
    ("compacted", 1, "before"),  # the compacted entry is written, and what it covers still exists
    ("compact", 1, "after"),
]
"""Where `armed.py` kills a job, in the order of a tick: before and after each step, and within steps of several."""


@dataclass(frozen=True)
class Figures:
    """What a job went through, and the result: missing and doubled must always be 0."""

    title: str
    kills: int = 0
    restarts: int = 0
    batches: int = 0
    records: int = 0
    missing: int = 0
    doubled: int = 0

    def __str__(self) -> str:
        title, *figures = astuple(self)
        names = [field.name for field in fields(self)][1:]
        return f"{title}: {', '.join(f'{figure} {name}' for figure, name in zip(figures, names, strict=True))}"

    def __add__(self, other: Figures) -> Figures:
        mine, theirs = astuple(self), astuple(other)
        return Figures(self.title, *map(sum, zip(mine[1:], theirs[1:], strict=True)))


REPORTS: list[Figures] = []
"""The figures of each supervised job; tests/conftest.py prints them at the end."""


def wait_until(holds: Callable[[], object], what: str) -> None:
    """Wait for something that happens outside this process."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"timed out waiting until {what}"
        time.sleep(0.01)


class Run:
    """One process of a job and the JVM it starts, in a session of their own."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str]):
        self._log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)

    def said(self) -> str:
        return self._log.read_text()

    def wait_until(self, holds: Callable[[], object], what: str) -> None:
        """Wait for something that the job does while it runs."""
        wait_until(lambda: self.process.poll() is not None or holds(), f"{what}:\n{self.said()}")
        assert holds(), f"the job ended ({self.process.returncode}) before {what}:\n{self.said()}"

    def wait_to_say(self, words: str) -> None:
        self.wait_until(lambda: words in self.said(), f"it said {words!r}")

    def end(self, patience: float = PATIENCE) -> int:
        """The exit code, once both Python and the JVM have ended."""
        code = self.process.wait(patience)
        wait_until(lambda: not self._members(), "all processes of the job have ended")
        return code

    def kill(self, victim: str = "both") -> int:
        """kill -9 of Python, of the JVM or of both; the other one must not survive."""
        if victim == "both":
            os.killpg(self.process.pid, signal.SIGKILL)
        else:
            for pid, name in self._members().items():
                if (name == "java") == (victim == "jvm"):
                    with contextlib.suppress(ProcessLookupError):  # a worker that has ended meanwhile
                        os.kill(pid, signal.SIGKILL)
        return self.end()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def processes(self, words: str) -> list[int]:
        """The processes of the job with these words in their command line."""
        found = []
        for pid in self._members():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if words in Path(f"/proc/{pid}/cmdline").read_text():
                    found.append(pid)
        return found

    def sweep(self) -> None:
        for pid in self._members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def _members(self) -> dict[int, str]:
        """The processes of the session, by name."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
            except OSError:
                continue
            state, _, _, session = rest.split()[:4]
            if int(session) == self.process.pid and state not in "ZX":
                found[int(folder.name)] = name
        return found


@dataclass(frozen=True)
class Entry:
    """An entry of the offset log, as found on disk."""

    n: int
    time: int
    data: bool
    ranges: dict[str, list[Any]]

    def range(self) -> tuple[int, int]:
        """The offset range of a job with one source: the first offset, and the one after the last."""
        (start, end), *_ = self.ranges.values() or [(0, 0)]
        return start or 0, end


class Job:
    """One home, one directory of outputs, and the runs of the job."""

    def __init__(self, work: Path, *, script: str = "counts.py", **options: Any):
        self.work, self.home, self.out = work, work / "home", work / "out"
        self.copies = work / "copies"
        self.runs: list[Run] = []
        self.kills = 0
        self._script, self._options = script, {"copies": str(self.copies), **options}

    def start(self, *arguments: str, script: str | None = None, python: str = sys.executable, **options: Any) -> Run:
        """Start the job with these arguments; --home is added."""
        options = {**self._options, **options}
        command = [python, str(HERE / "armed.py"), json.dumps(options)]
        command += [str(JOBS / (script or self._script)), "--home", str(self.home), *arguments]
        command += ["--conf", "spark.ui.enabled=false", "--conf", "spark.sql.shuffle.partitions=1"]
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PYSPARK_PYTHON": python,
            "SPARK_SUBMIT_OPTS": f"{os.environ.get('SPARK_SUBMIT_OPTS', '')} -Dlog4j2.configurationFile={LOGGING}",
            "SPARK_LOCAL_DIRS": str(self.work / "local"),
        }
        run = Run(command, self.work / f"run-{len(self.runs)}.log", env)
        self.runs.append(run)
        return run

    def entries(self) -> list[Entry]:
        """Every entry ever written, oldest first."""
        entries = (json.loads((self.copies / str(n)).read_text()) for n in range(1, self.recorded() + 1))
        return [Entry(e["n"], e["time"], e["data"], e["ranges"]) for e in entries]

    def recorded(self) -> int:
        """The number of batches ever recorded."""
        return max((int(p.name) for p in self.copies.glob("[0-9]*")), default=0)

    def rows(self, kind: str, output: str) -> dict[int, Counter[Any]]:
        """What an output wrote in each batch: lines, or pairs of (key, count)."""
        return {
            int(folder.name.partition("=")[2]): Counter(_rows(kind, folder))
            for folder in (self.out / output).glob("batch=*")
        }

    def report(self, title: str, records: int, missing: int, doubled: int) -> Figures:
        """Report the figures of this job; fail if something is missing or doubled."""
        figures = Figures(title, self.kills, len(self.runs) - 1, self.recorded(), records, missing, doubled)
        REPORTS.append(figures)
        assert (missing, doubled) == (0, 0), figures
        return figures

    def close(self) -> None:
        for run in self.runs:
            run.sweep()


def _rows(kind: str, folder: Path) -> list[Any]:
    files = [p for p in folder.iterdir() if not p.name.startswith((".", "_"))]
    if kind == "parquet":
        frames = [pyarrow.parquet.read_table(p, partitioning=None).to_pylist() for p in files]
        return [tuple(row.values()) for rows in frames for row in rows]
    lines = [line for p in files for line in p.read_text().splitlines()]
    return lines if kind == "text" else [tuple(json.loads(line).values()) for line in lines]


# --- jobs/counts.py on generated lines: arguments, kills, and the expected result


def counts(job: Job, *, count: int, seed: int, windows: bool = True) -> list[str]:
    """Arguments of the job: all outputs, one as Parquet and one as text; without windows for drains in batches."""
    return [
        *(() if windows else ("--conf", "spark.kind=without windows")),
        *("--source", f"generator:?rate=100000&seed={seed}&count={count}", "--batch-interval", f"{INTERVAL}ms"),
        *(
            "--output",
            f"lines=text:{job.out}",
            "--output",
            f"each=json:{job.out}",
            "--output",
            f"running=json:{job.out}",
        ),
        *("--output", f"window=parquet:{job.out}", "--output", f"methods=json:{job.out}"),
    ]


def recount(job: Job, title: str, *, count: int, seed: int) -> None:
    """Compare every batch of every output with what its recorded time and offset range imply."""
    entries = job.entries()
    lines = {c.n: _generator.lines(seed, *c.range()) for c in entries}
    statuses = {n: Counter(re.findall(r'" (\d{3}) ', "\n".join(batch))) for n, batch in lines.items()}
    running: Counter[str] = Counter()
    expected: dict[str, dict[int, Any]] = {"lines": {}, "each": {}, "running": {}, "window": {}}
    before = entries[0].time - INTERVAL
    for c in entries:
        running += statuses[c.n]
        expected["lines"][c.n] = Counter(lines[c.n])
        expected["each"][c.n] = Counter(statuses[c.n].items())
        expected["running"][c.n] = Counter(running.items())
        if c.time // SLIDE > before // SLIDE:
            inside = (statuses[d.n] for d in entries if c.time - WINDOW < d.time <= c.time)
            expected["window"][c.n] = Counter(sum(inside, Counter[str]()).items())
        before = c.time
    found = {"lines": job.rows("text", "lines"), "window": job.rows("parquet", "window")}
    found |= {name: job.rows("json", name) for name in ("each", "running")}
    if not (job.out / "window").exists():  # left out by `counts`
        del expected["window"]
    sent, written = Counter(_generator.lines(seed, 0, count)), sum(found["lines"].values(), Counter[str]())
    job.report(title, count, (sent - written).total(), (written - sent).total())
    assert running == Counter(re.findall(r'" (\d{3}) ', "\n".join(sent.elements())))
    for name, batches in expected.items():
        assert found[name] == batches, name
    methods = job.rows("json", "methods")
    assert methods == {n: Counter(Counter(line.split('"')[1].split()[0] for line in lines[n]).items()) for n in methods}


def kill_at_random(
    job: Job,
    arguments: list[str],
    victim: str,
    chance: random.Random,
    *,
    most: int | None = 900,
    after: Sequence[int] = (0, 1, 2, 4, 6),
    **options: Any,
) -> None:
    """Start the job and kill it a fraction of a second after one of these numbers of batches; 0: once it has the lease.

    A batch has at most `most` records; None: as many as there are.
    """
    recorded = job.recorded() + chance.choice(after)
    leases = set((job.home / "lease").glob("*"))
    run = job.start(*arguments, *limited(most and chance.randint(most // 9, most)), **options)
    run.wait_until(lambda: set((job.home / "lease").glob("*")) - leases, "it holds the lease")
    run.wait_until(lambda: job.recorded() >= recorded, f"batch {recorded} is recorded")
    kill_soon(job, run, victim, chance)


def kill_soon(job: Job, run: Run, victim: str, chance: random.Random) -> None:
    """Kill a run after a fraction of a second."""
    time.sleep(chance.random() * 0.6)  # waits for nothing: it makes the moment random
    assert run.kill(victim) != 0
    job.kills += 1


def kill_at_point(job: Job, arguments: list[str], point: Point, *, most: int | None = 200, **options: Any) -> None:
    """Start the job, which kills itself at this point."""
    run = job.start(*arguments, *limited(most), "--stop-after", "12batches", kill=point, **options)
    assert run.end() == -signal.SIGKILL, f"it never reached {point}:\n{run.said()}"
    job.kills += 1


def limited(most: int | None) -> list[str]:
    return [] if most is None else ["--max-per-batch", str(most)]


def finish(job: Job, arguments: list[str], **options: Any) -> Run:
    """Let the job process everything that is left."""
    run = job.start(*arguments, "--drain", **options)
    assert run.end() == 0, run.said()
    return run
