"""Pairs of kinds of jobs, sources, outputs and faults; the results are recounted batch by batch.

    python -m tests.support.matrix [--kills N] [--seed S]

A row is one job: it is killed, hit by another fault, and then finishes its work. The recount takes the batches from
what was recorded (entries of the offset log, ranges of files, landed blocks) and computes in plain Python.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet

from sparkstream_kit.sources import _generator
from tests.support import sockets, supervisor
from tests.support.supervisor import Entry, Figures, Job, Point, Run

INTERVAL, WINDOW, SLIDE = 500, 2000, 1000  # ms; the window and the slide as in jobs/kinds.py
GAP, LATENESS = 20, 30  # seconds, of the sessions in jobs/kinds.py
LINES = 8000  # per kill
FILE = 100  # lines per file
BURSTS, BURST = 3, 150  # number of bursts, and lines in each

KINDS = ("stateless", "windowed", "stateful", "sessions")
SOURCES = ("generator", "files", "socket")
OUTPUTS = ("json", "parquet", "append", "accumulate")
KILLS = ("both", "python", "jvm", "point")
FAULTS = ("failing", "deleted", "two", "paused")

POINTS: tuple[Point, ...] = (
    ("write_new", 1, "after"),
    ("append", 1, "before"),
    ("append", 2, "after"),
    ("done", 1, "before"),
    ("done", 2, "after"),
    ("compact", 1, "before"),
)
"""Points that every job with a backlog reaches."""

SOCKET_POINTS: tuple[Point, ...] = (
    ("land", 1, "after"),
    ("append", 1, "after"),
    ("done", 1, "before"),
    ("done", 1, "after"),
)
"""Points that a job reaches with the first lines it receives."""


class Row(NamedTuple):
    """One job, and what happens to it."""

    kind: str
    source: str
    output: str
    kill: str
    fault: str


def pairwise(*factors: tuple[str, ...], seed: int = 0) -> list[tuple[str, ...]]:
    """Rows of one value per factor, so that any two values of two factors meet in a row; greedily few rows."""

    def pairs(row: tuple[str, ...]) -> set[tuple[tuple[int, str], ...]]:
        return set(itertools.combinations(enumerate(row), 2))

    candidates = {row: pairs(row) for row in itertools.product(*factors)}
    missing, rows = set().union(*candidates.values()), []
    order = random.Random(seed).sample(sorted(candidates), len(candidates))
    while missing:
        rows.append(max(order, key=lambda row: len(candidates[row] & missing)))
        missing -= candidates[rows[-1]]
    return rows


ROWS = [Row(*row) for row in pairwise(KINDS, SOURCES, OUTPUTS, KILLS, FAULTS, seed=31)]


# --- sources: where the lines of a job come from, and which of them a batch had


class Generated:
    """Lines that the job generates; all are available at once."""

    def __init__(self, job: Job, seed: int, count: int):
        self._seed, self._count = seed, count
        self.words = f"generator:?rate=1000000&seed={seed}&count={count}"
        self.most = 900  # records per batch

    def lines(self, entry: Entry) -> list[str]:
        start, end = entry.range()
        return _generator.lines(self._seed, start, end)

    def all_lines(self) -> list[str]:
        return _generator.lines(self._seed, 0, self._count)

    def close(self) -> None:
        pass


class Files(Generated):
    """The same lines in files, all there from the start."""

    def __init__(self, job: Job, seed: int, count: int):
        super().__init__(job, seed, count)
        self._journal, folder = job.home / "sources" / "files", job.work / "incoming"
        folder.mkdir()
        for start in range(0, count, FILE):
            lines = _generator.lines(seed, start, min(count, start + FILE))
            (folder / f"{start:08d}.log").write_text("".join(f"{line}\n" for line in lines))
        self.words, self.most = f"files:{folder}", 9 * max(file.stat().st_size for file in folder.iterdir())

    def lines(self, entry: Entry) -> list[str]:
        parts = sorted(self._journal.glob("[0-9]*"))
        ranges = [range_ for part in parts for range_ in json.loads(part.read_text())["ranges"]]
        start, end = (int(str(offset).partition(":")[0]) for offset in entry.range())
        texts = (Path(path).read_bytes()[first:last] for _, path, first, last, *_ in ranges[start:end])
        return b"".join(texts).decode().splitlines()


class Sent:
    """Lines that a server sends to the job in bursts."""

    def __init__(self, job: Job, seed: int):
        self._job = job
        self.server = sockets.Server(lambda n: f"{_generator.line(seed, n)} {sockets.numbered(n)}")
        self.words, self.most = f"socket:127.0.0.1:{self.server.port}", 900
        self._landed: dict[str, list[str]] = {}

    def expect(self) -> None:
        """A new driver will connect; at a first start it also checks whether somebody listens."""
        self.server.expect_a_new_driver(looks=not self._job.recorded())

    def feed(self, run: Run) -> None:
        """Send lines, and wait until each of them is in the write-ahead log or landed."""
        for _ in range(BURSTS):
            self.server.send(BURST)
            run.wait_until(self._is_safe, "everything sent is safe")

    def _is_safe(self) -> bool:
        sent = set(range(self.server.sent))
        return sockets.logged(self._job.home / "checkpoint") | self._numbers() >= sent

    def all_is_out(self) -> bool:
        """Whether everything sent belongs to a batch."""
        return sum(len(self.lines(entry)) for entry in self._job.entries()) >= self.server.sent

    def lines(self, entry: Entry) -> list[str]:
        start, end = entry.range()
        return [line for name, lines in self._found().items() if start < int(name[:10]) <= end for line in lines]

    def all_lines(self) -> list[str]:
        return [self.server.line(n) for n in range(self.server.sent)]

    def close(self) -> None:
        self.server.close()

    def _numbers(self) -> set[int]:
        return {n for lines in self._found().values() for n in sockets.numbers("\n".join(lines).encode())}

    def _found(self) -> dict[str, list[str]]:
        """The landed lines: still in the home, or copied before they were removed."""
        for root in (self._job.home / "received", self._job.copies / "received"):
            for folder in (root / "socket").glob("[0-9]*"):
                if folder.name not in self._landed:
                    table = pyarrow.parquet.read_table(folder, partitioning=None)
                    self._landed[folder.name] = table.column("value").to_pylist()
        return self._landed


# --- the expected result of each batch


class Recorded(NamedTuple):
    """A batch as it was recorded."""

    n: int
    time: int
    lines: list[str]


Expected = dict[int, Counter[tuple[str, int]]]
"""For each batch in which the output writes: its rows of key and count."""


def each(batches: list[Recorded]) -> Expected:
    return {b.n: Counter(statuses(b).items()) for b in batches}


def running(batches: list[Recorded]) -> Expected:
    totals = itertools.accumulate((statuses(b) for b in batches), lambda total, new: total + new)
    return {b.n: Counter(total.items()) for b, total in zip(batches, totals, strict=True)}


def in_windows(batches: list[Recorded]) -> Expected:
    found, before = {}, batches[0].time - INTERVAL
    for b in batches:
        if b.time // SLIDE > before // SLIDE:
            inside = (statuses(c) for c in batches if b.time - WINDOW < c.time <= b.time)
            found[b.n] = Counter(sum(inside, Counter[str]()).items())
        before = b.time
    return found


def closed_sessions(batches: list[Recorded]) -> Expected:
    found: Expected = {}
    watermark = newest = 0
    open_: dict[str, list[int]] = defaultdict(list)
    for b in batches:
        for line in b.lines:
            fields = line.split(" ")
            at = int(datetime.strptime(fields[3], "[%d/%b/%Y:%H:%M:%S").replace(tzinfo=timezone.utc).timestamp())
            newest = max(newest, at)
            if at >= watermark:
                open_[fields[0]].append(at)
        watermark, found[b.n] = newest - LATENESS, Counter()
        for client, times in open_.items():
            times.sort()
            pauses = [i + 1 for i, (one, next_) in enumerate(itertools.pairwise(times)) if next_ - one > GAP]
            visits = [times[i:j] for i, j in itertools.pairwise([0, *pauses, len(times)]) if i < j]
            closed = [visit for visit in visits if visit[-1] + GAP < watermark]
            found[b.n].update((f"{client} {visit[0]} {visit[-1]}", len(visit)) for visit in closed)
            open_[client] = [at for visit in visits[len(closed) :] for at in visit]
    return found


def statuses(batch: Recorded) -> Counter[str]:
    return Counter(line.split(" ")[8] for line in batch.lines)


RECOUNTS: dict[str, Callable[[list[Recorded]], Expected]] = {
    "stateless": each,
    "windowed": in_windows,
    "stateful": running,
    "sessions": closed_sessions,
}


# --- outputs: the rows in each of them, and the rows that are expected there


def words_of(output: str, job: Job) -> str:
    if output in ("json", "parquet"):
        return f"{output}:{job.out}"
    key = "&key=key" if output == "accumulate" else ""
    return f"sql:sqlite:///{job.out}/counts.db?mode={output}{key}"


def kept(output: str, rows: Expected) -> Counter[Any]:
    """Files have rows by batch, append has them without it, and accumulate only has their sums."""
    every = [(n, key, count, times) for n, batch in rows.items() for (key, count), times in batch.items()]
    if output == "append":
        return total(((key, count), times) for _, key, count, times in every)
    if output == "accumulate":
        return total((key, count * times) for _, key, count, times in every)
    return total(((n, key, count), times) for n, key, count, times in every)


def total(pairs: Iterable[tuple[Any, int]]) -> Counter[Any]:
    found: Counter[Any] = Counter()
    for key, number in pairs:
        found[key] += number
    return found


def found_in(output: str, job: Job) -> Counter[Any]:
    if output in ("json", "parquet"):
        return kept(output, job.rows(output, "counts"))
    with sqlite3.connect(job.out / "counts.db") as database:
        rows: list[tuple[str, int]] = database.execute("select key, count from counts").fetchall()
    return Counter(rows) if output == "append" else total(rows)


# --- a row: killed, hit by a fault, finished, recounted


def go_through(row: Row, work: Path, *, seed: int, kills: int = 1) -> Figures:
    """Put a job through a row, with further kills if `kills` is more than 1, and recount it."""
    chance = random.Random(f"{seed} {row}")
    job = Job(work, script="kinds.py", save_every=3, ttl=3, beat=0.5)
    job.out.mkdir()
    source: Any = {
        "generator": lambda: Generated(job, seed, LINES * (kills + 1)),
        "files": lambda: Files(job, seed, LINES * (kills + 1)),
        "socket": lambda: Sent(job, seed),
    }[row.source]()
    arguments = ["--source", source.words, "--output", words_of(row.output, job), "--batch-interval", f"{INTERVAL}ms"]
    arguments += ["--conf", f"spark.kind={row.kind}"]
    try:
        for victim in [row.kill, *chance.choices(KILLS, k=kills - 1)]:
            kill(job, source, arguments, victim, chance)
        FAULT[row.fault](job, source, arguments, row.output)
        batches = [Recorded(c.n, c.time, source.lines(c)) for c in job.entries()]
        expected, found = kept(row.output, RECOUNTS[row.kind](batches)), found_in(row.output, job)
        written, sent = Counter(line for b in batches for line in b.lines), Counter(source.all_lines())
        missing, doubled = (sent - written) + (expected - found), (written - sent) + (found - expected)
        return job.report(" ".join(row), sent.total(), missing.total(), doubled.total())
    finally:
        job.close()
        source.close()


def kill(job: Job, source: Any, arguments: list[str], victim: str, chance: random.Random) -> None:
    """Kill the job at a random moment, or at a point."""
    if not isinstance(source, Sent):
        if victim == "point":
            supervisor.kill_at_point(job, arguments, chance.choice(POINTS), most=source.most)
        else:
            supervisor.kill_at_random(job, arguments, victim, chance, most=source.most)
        return
    source.expect()
    if victim != "point":
        run = job.start(*arguments)
        source.feed(run)
        supervisor.kill_soon(job, run, victim, chance)
        return
    hold = job.work / "hold"
    hold.touch()
    run = job.start(*arguments, hold=str(hold), kill=chance.choice(SOCKET_POINTS))
    source.feed(run)  # held, so that it is safe before the job reaches the point
    hold.unlink()
    assert run.end() == -signal.SIGKILL, run.said()
    job.kills += 1


def last_run(job: Job, source: Any, arguments: list[str], **options: Any) -> Run:
    """Start the run that finishes the work."""
    if not isinstance(source, Sent):
        return job.start(*arguments, "--drain", **options)
    source.expect()
    run = job.start(*arguments, **options)
    source.feed(run)
    return run


def let_end(source: Any, run: Run) -> None:
    """Wait until the last run has finished everything and stopped gracefully."""
    if isinstance(source, Sent):
        run.wait_until(source.all_is_out, "all lines are written")
        run.signal(signal.SIGTERM)
    assert run.end() == 0, run.said()


def held(job: Job, source: Any, arguments: list[str], output: str) -> tuple[Run, Path]:
    """The last run, whose output fails as long as a file exists."""
    away = job.work / "away"
    away.touch()
    name = f"{output if output in ('json', 'parquet') else 'sql'}:counts"
    run = last_run(job, source, arguments, fail=str(away), failing=[name])
    run.wait_until(lambda: run.said().count("retrying in") >= 2, "it has failed twice")
    return run, away


def failing(job: Job, source: Any, arguments: list[str], output: str) -> None:
    """The output fails for a while."""
    run, away = held(job, source, arguments, output)
    away.unlink()
    let_end(source, run)


def deleted(job: Job, source: Any, arguments: list[str], output: str) -> None:
    """While the job is down, everything expendable is deleted: newer snapshots, unfinished writes, Spark's files."""
    doomed = [job.home / "ticks", job.out / "counts" / ".attempts", job.work / "local"]
    if not isinstance(source, Sent):
        doomed.append(job.home / "checkpoint")
    for state in (job.home / "state").iterdir():
        saves = sorted(int(save.name) for save in state.glob("[0-9]*"))
        doomed += [state / str(n) for n in saves[1:]]
    for path in doomed:
        shutil.rmtree(path, ignore_errors=True)
    let_end(source, last_run(job, source, arguments))


def two(job: Job, source: Any, arguments: list[str], output: str) -> None:
    """The job is started once more while it runs."""
    run, away = held(job, source, arguments, output)
    second = job.start(*arguments)
    assert second.end() == 2, second.said()
    assert f"the home is in use by process {run.process.pid} on " in second.said()
    away.unlink()
    let_end(source, run)


def paused(job: Job, source: Any, arguments: list[str], output: str) -> None:
    """The job is paused for longer than the lease; another one takes over and kills it, and is killed itself."""
    socket, recorded = isinstance(source, Sent), job.recorded()

    def start() -> Run:
        if not socket:
            return job.start(*arguments, "--max-per-batch", str(source.most // 9))
        source.expect()
        run = job.start(*arguments)
        source.feed(run)
        return run

    first = start()
    first.wait_until(lambda: socket or job.recorded() > recorded, "it has recorded a batch")
    os.killpg(first.process.pid, signal.SIGSTOP)
    leases = set((job.home / "lease").glob("*"))
    second = start()
    second.wait_until(lambda: set((job.home / "lease").glob("*")) - leases, "it holds the lease")
    os.killpg(first.process.pid, signal.SIGCONT)  # resumed, it can end
    assert first.end() == -signal.SIGKILL, first.said()
    assert second.kill() == -signal.SIGKILL  # so that the next run finds what both left behind
    job.kills += 1
    let_end(source, last_run(job, source, arguments))


FAULT: dict[str, Callable[[Job, Any, list[str], str], None]] = {
    "failing": failing,
    "deleted": deleted,
    "two": two,
    "paused": paused,
}


def main() -> None:
    """Go through the rows, with up to five kills in each, until the number of kills is reached; print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="total number of kills (default: 20)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of lines and kills (default: 0)")
    options = parser.parse_args()
    rows = random.Random(options.seed).sample(ROWS, len(ROWS))
    sums: dict[str, Figures] = {kind: Figures(kind) for kind in KINDS}
    left = options.kills
    for number, row in enumerate(itertools.cycle(rows)):
        if not left:
            break
        work = Path(tempfile.mkdtemp(prefix="faults-"))
        print(f"{' '.join(row)}, in {work}", file=sys.stderr)  # kept if the row fails
        kills = min(5, left)
        figures = go_through(row, work, seed=options.seed + number, kills=kills)
        print(figures, file=sys.stderr)
        shutil.rmtree(work)
        sums[row.kind] += figures
        left -= kills
    print(*sums.values(), sum(sums.values(), Figures("total")), sep="\n")


if __name__ == "__main__":
    main()
