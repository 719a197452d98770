"""Stories of a job that is fed, killed, stopped, drained, changed and restored, with a recount after each step.

    python -m tests.support.model --minutes N [--seed S]

A story is a list of steps, drawn from a seed, so it can be printed and told again. The engine, the home, the files that
are read and what is written are real; only Spark's clock is missing, and a kill is an exception that nothing catches.
What is expected is recounted in plain Python from the lines that were fed. A story that fails is shrunk: steps are left
out as long as it still fails.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit import aggregates as agg
from sparkstream_kit.contracts import Batch
from sparkstream_kit.engine import batches
from sparkstream_kit.errors import KitError, StateRefused
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.outputs._compaction import compact
from sparkstream_kit.recovery import lease
from sparkstream_kit.testing import local_session

from .armed import POINTS
from .ticks import job

Step = tuple[Any, ...]
"""The name of a method of World, and its arguments."""

Line = tuple[str, int]
"""A key and a number, which no other line has."""

KEYS = ("a", "b", "c")
WINDOW = 3  # seconds
OPTIONAL = ("most", "least", "some", "again", "seen")
"""What the code of the job may have or lack: two aggregates of its state, the first of which may become another one of
the same name and type, another state, another output."""

KILLED_AT = ("append", "done", "compact", "save", "load", "publish", "write", "write_new", "delete", "free")


class Killed(BaseException):
    """The process is gone."""


class World:
    """A job, its input, its outputs, and what is known of both."""

    def __init__(self, root: Path):
        self.root, self.home = root, root / "home"
        self.logs, self.out, self.database = root / "logs", root / "out", root / "out.db"
        self.logs.mkdir(parents=True)
        self.second = self.changed_at = 0
        self.fed: list[Line] = []
        self.code = {"most"}
        self.running_code: set[str] = set()
        self.last_code: set[str] = set(self.code)
        """The code of the last run that began."""
        self.raw: dict[int, list[Line]] = {}
        self.times: dict[int, float] = {}
        self.states: dict[int, dict[str, list[Any]]] = {}
        self.since: dict[str, int] = {}
        """The last batch before each optional part was added for the first time, or again."""
        self.had: dict[int, list[bool]] = {}
        """For each batch whether the optional output was there at each of its attempts."""
        self.newest: Path | None = None
        """The home that was put aside when an older one was restored."""
        self.aside: list[dict[int, Any]] = []
        """What was known of the batches of that home."""
        self.restored = False
        self.sql = True
        self.job: contextlib.ExitStack | None = None
        self.engine: Any = None
        self._mtime = time.time_ns() - 10**12
        self._files = 0

    # --- the job

    def build(self, ssc: StreamingContext) -> dict[str, FrameStream]:
        fields = F.split("value", " ")
        lines = ss.sources.files(ssc, str(self.logs), "*.log*", name="logs")
        rows = lines.select(fields[0].alias("k"), fields[1].cast("bigint").alias("v"))
        most = agg.min("v") if "least" in self.code else agg.max("v")
        aggregates = {"n": agg.count(), "most": most, "some": agg.collect_set("v", 3)}
        kept = {name: made for name, made in aggregates.items() if name == "n" or name in self.code}
        state = rows.update_state_by_key("k", kept, name="counts")
        rows.for_each_batch(self._note_rows, name="rows")
        state.for_each_batch(self._note("counts"), name="watch counts")
        above = state.update_state_by_key("k", {"top": agg.max("n")}, name="above")
        above.for_each_batch(self._note("above"), name="watch above")
        if "again" in self.code:
            again = rows.update_state_by_key("k", {"n": agg.count()}, name="again")
            again.for_each_batch(self._note("again"), name="watch again")
        ss.outputs.parquet(rows, str(self.out), name="lines")
        ss.outputs.json(rows.reduce_by_key_and_window("k", {"n": agg.count()}, f"{WINDOW}s"), str(self.out), name="w")
        url = f"sqlite:///{self.database}"
        if self.sql:
            totals = rows.reduce_by_key("k", {"n": agg.count()})
            ss.outputs.sql(totals, url, mode="accumulate", key="k", name="totals")
        if self.sql and "seen" in self.code:
            ss.outputs.sql(rows, url, name="seen")
        return {}

    def _note_rows(self, frame: DataFrame, batch: Batch) -> None:
        rows = sorted(map(tuple, frame.collect()))
        if not self.restored:
            known = self.raw.get(batch.n, rows), self.times.get(batch.n, batch.time.timestamp())
            assert known == (rows, batch.time.timestamp()), f"batch {batch.n} runs again with other rows: {rows}"
        self.raw[batch.n], self.times[batch.n] = rows, batch.time.timestamp()
        self.had.setdefault(batch.n, []).append("seen" in self.running_code)

    def _note(self, name: str) -> Callable[[DataFrame, Batch], None]:
        def note(frame: DataFrame, batch: Batch) -> None:
            self.states.setdefault(batch.n, {})[name] = [row.asDict() for row in frame.collect()]
            self.states[batch.n]["code"] = list(self.running_code)

        return note

    def _start(self, **options: Any) -> bool:
        """Start the job if it does not run; whether it runs. A refusal must have a reason."""
        if self.engine is not None:
            return True
        self.running_code = set(self.code)
        stack = contextlib.ExitStack()
        try:
            given_up = ["sql:seen", "watch again"]  # what the code may lack
            self.engine = stack.enter_context(job(self.build, self.home, give_up_outputs=given_up, **options))
        except KitError as error:
            self._refused(error)
            return False
        except Killed:
            begun = batches.live()
            if begun is not None:
                begun._lease.release()  # this process lives, so what it holds would stay held
            raise
        self.job, self.last_code = stack, set(self.code)
        self.check()
        return True

    def _end(self) -> None:
        """The process ends, as if it were killed unless the engine was closed."""
        stack, self.job, self.engine = self.job, None, None
        if stack is not None:
            with contextlib.suppress(Killed):
                stack.close()

    def _refused(self, error: KitError) -> None:
        """Whether a refusal is one that is promised; then do what its message advises."""
        self._end()
        if self.newest is not None:
            self._back_to_the_newest()
        elif isinstance(error, StateRefused) and "was last saved after batch" in str(error):
            self.code.discard("again")
        elif isinstance(error, StateRefused) and (self.code ^ self.last_code) & {"least"}:
            self.code ^= {"least"}
        elif isinstance(error, StateRefused) and self._saved_parts() - self.code:
            self.code |= self._saved_parts()
        else:
            raise error

    def _saved_parts(self) -> set[str]:
        """The optional aggregates that the newest snapshot has."""
        saved = sorted((self.home / "state/counts").glob("[0-9]*"), key=lambda path: int(path.name.split(".")[0]))
        names = [pyarrow.parquet.read_table(next(path.glob("*.parquet"))).column_names for path in saved[-1:]]
        return {"most", "some"}.intersection(*names)

    def _back_to_the_newest(self) -> None:
        assert self.newest is not None
        shutil.rmtree(self.home)
        self.newest.rename(self.home)
        self.newest, self.restored = None, False
        self.raw, self.times, self.had, self.states = self.aside

    # --- steps

    def write_files_only(self) -> None:
        """Have no SQL outputs, if the job has not run yet: they refuse before files could."""
        self.sql = self.sql and bool(self.raw)

    def feed(self, lines: int, file: int) -> None:
        """Append lines to a file."""
        first = len(self.fed)
        new = [(KEYS[v % 3], v) for v in range(first, first + lines)]
        path = self.logs / f"{file}.log"
        with path.open("a") as opened:
            opened.writelines(f"{k} {v}\n" for k, v in new)
        self._mtime += 10**9
        os.utime(path, ns=(self._mtime, self._mtime))
        self.fed += new

    def rotate(self, file: int) -> None:
        """Rename a file, so that a new one is written under its name."""
        path = self.logs / f"{file}.log"
        if path.exists():
            self._files += 1
            path.rename(self.logs / f"{file}.log.{self._files}")

    def tick(self, after: int = 1) -> None:
        """Let that many seconds pass, then tick."""
        self.second += after
        if self._start():
            self._run(lambda: self.engine.tick(1000 * self.second))

    def kill(self, point: str, k: int, when: str) -> None:
        """Tick, or start and tick, and be killed at the k-th call of a function, or after the tick."""
        self.second += 1
        with killed_at(point, k, when):
            try:
                if self._start():
                    self._run(lambda: self.engine.tick(1000 * self.second))
            except Killed:
                pass
        self._end()

    def stop(self) -> None:
        """Stop gracefully."""
        if self.engine is not None:
            self._run(lambda: self.engine.close())
            self._end()

    def kill_while_it_stops(self, point: str, k: int, when: str) -> None:
        """Stop gracefully, and be killed at the k-th call of a function."""
        with killed_at(point, k, when), contextlib.suppress(Killed):
            self.stop()
        self._end()

    def drain(self) -> None:
        """End, and drain: process all that is there, and stop."""
        self._end()
        self.second += 1
        if self._start(drain=True):
            self._run(lambda: self.engine.tick(1000 * self.second))
            if self.engine is not None:
                assert self.engine.drained.is_set(), "the drain did not end"
                assert self._lines_out() == Counter(self.fed), "a drain processes all lines"
                self.stop()

    def lose_memory(self) -> None:
        """An executor dies, with all that was in memory."""
        if self.engine is not None:
            self.engine.graph.drop_everything()

    def change(self, part: str) -> None:
        """Change the code of the job by adding or removing a part; it takes effect at the next start."""
        self._end()
        if part == "least" and not all((state / "means").exists() for state in self.home.glob("state/counts")):
            return
        self.code ^= {part}
        if part in self.code:
            self.since[part] = max(self.raw, default=0)

    def delete_newest_snapshot(self) -> None:
        """End, and delete the newest of two snapshots of each state."""
        self._end()
        for state in (self.home / "state").glob("*"):
            saved = sorted(state.glob("[0-9]*"), key=lambda path: (int(path.name.split(".")[0]), path.name))
            if len(saved) > 1:
                shutil.rmtree(saved[-1])

    def compact(self) -> None:
        """Compact the Parquet output, beside the running job."""
        if (self.out / "lines/_home").exists():
            compact(str(self.out / "lines"))
        self.check()

    def kill_a_compaction(self, point: str, k: int, when: str) -> None:
        """Compact the Parquet output, and be killed at the k-th call of a function."""
        with killed_at(point, k, when), contextlib.suppress(Killed):
            if (self.out / "lines/_home").exists():
                compact(str(self.out / "lines"))

    def copy(self) -> None:
        """End, and copy the home, as a backup does."""
        self._end()
        if self.newest is None and self.home.exists():
            shutil.rmtree(self.root / "copy", ignore_errors=True)
            shutil.copytree(self.home, self.root / "copy")

    def restore(self) -> None:
        """End, and restore the older copy of the home."""
        self._end()
        if self.newest is None and (self.root / "copy").exists():
            self.newest = self.root / "newest"
            self.home.rename(self.newest)
            shutil.copytree(self.root / "copy", self.home)
            self.restored = True
            self.aside = [self.raw, self.times, self.had, self.states]
            last = max((int(path.name) for path in (self.home / "offsets").glob("*") if path.name.isdigit()), default=0)
            last = max(last, self._compacted_to())
            older = ({n: facts for n, facts in known.items() if n <= last} for known in self.aside)
            self.raw, self.times, self.had, self.states = older

    def older_format(self) -> None:
        """End, and let the home be one of the format before."""
        self._end()
        if self.home.exists() and self.last_code == self.code:  # it does not know what its states mean
            (self.home / "format").write_text("1\n")
            for new in [self.home / "outputs", *self.home.glob("state/*/means"), *self.out.glob("*/batch=*/_ranges")]:
                new.unlink(missing_ok=True)

    def finish(self) -> None:
        """Process what is left, until the windows are empty, and stop."""
        for _ in range(5):
            if self._lines_out() == Counter(self.fed) and self.engine is not None:
                break
            self.tick()
        self.check(final=True)
        self.stop()

    def _run(self, step: Callable[[], None]) -> None:
        try:
            step()
        except KitError as error:
            self._refused(error)
        except Killed:
            self._end()
            raise
        else:
            self.check()

    # --- the recount

    def done(self) -> list[int]:
        """The batches that are done, as the home says."""
        compacted = self._compacted_to()
        return [n for n in sorted(self.raw) if n <= compacted or (self.home / f"offsets/{n}.done").exists()]

    def _compacted_to(self) -> int:
        return max((int(path.stem) for path in (self.home / "offsets").glob("*.compacted")), default=0)

    def check(self, final: bool = False) -> None:
        """Compare all that came out with the lines that were fed."""
        lines, expected = self._lines_out(), Counter(self.fed)
        assert lines - expected == Counter(), f"lines came out twice or from nowhere: {lines - expected}"
        if final:
            assert lines == expected, f"lines are missing: {expected - lines}"
        done = self.done()
        if self.newest is not None:
            if not done or done[-1] < max(self.aside[0], default=0):
                return  # the outputs are ahead of this home
            shutil.rmtree(self.newest)  # this home has caught up, and nobody has refused it
            self.newest = None
        total = Counter(k for n in done for k, _ in self.raw[n])
        assert not final or not self.sql or self._totals() == Counter(k for k, _ in self.fed), self._totals()
        if self.engine is None or not done or len(done) != len(self.raw):
            return  # an unfinished batch may be out or not
        assert not self.sql or self._totals() == total, f"totals are {self._totals()}, expected {total}"
        self._check_states(done)
        if not self.restored:  # else recorded times may be others than those of what was out already
            self._check_windows(done)
        if self.sql and not self.restored:
            self._check_the_optional_output(done)

    def _check_states(self, done: list[int]) -> None:
        n = done[-1]
        rows = [line for m in done for line in self.raw[m]]
        counts = {row["k"]: row for row in self.states[n].get("counts", [])}
        assert len(counts) == len(self.states[n]["counts"]), "a key comes once"
        expected = Counter(k for k, _ in rows)
        assert {k: row["n"] for k, row in counts.items()} == expected, f"batch {n}: state {counts}, expected {expected}"
        above = sorted((row["k"], row["top"]) for row in self.states[n].get("above", []))
        assert above == sorted(expected.items()), f"batch {n}: the state over the state {above}, expected {expected}"
        extreme = least if "least" in self.states[n]["code"] else most
        for part, recount in (("most", extreme), ("some", some)):
            if all(part in row for row in counts.values()):
                found = {k: None if row[part] == [] else row[part] for k, row in counts.items()}
                starts = self._possible_starts(part, done)
                possible = [{k: recount(self._values(k, m, done)) for k in counts} for m in starts]
                assert found in possible, f"batch {n}: {part} is {found}, expected one of {possible}"
        if "again" in self.states[n]:
            found = {row["k"]: row["n"] for row in self.states[n]["again"]}
            starts = self._possible_starts("again", done)
            possible = [Counter(k for b in done if b > m for k, _ in self.raw[b]) for m in starts]
            assert found in possible, f"batch {n}: the added state is {found}, expected one of {possible}"

    def _possible_starts(self, part: str, done: list[int]) -> list[int]:
        """The batches after which an added part may begin: it is rebuilt from as much of the log as there is."""
        return [0, *(n for n in done if n <= self.since.get(part, 0) + 1)] if part in self.since else [0]

    def _values(self, key: str, after: int, done: list[int]) -> list[int]:
        return [v for n in done if n > after for k, v in self.raw[n] if k == key]

    def _check_windows(self, done: list[int]) -> None:
        written = {int(path.name.partition("=")[2]) for path in (self.out / "w").glob("batch=*")}
        for n in done[-4:]:
            now = self.times[n]
            inside = Counter(k for m in done if now - WINDOW < self.times[m] <= now for k, _ in self.raw[m])
            rows = [row for file in (self.out / f"w/batch={n}").glob("*.json") for row in json_lines(file)]
            assert n in written, f"batch {n} has no window"
            assert sorted((row["k"], row["n"]) for row in rows) == sorted(inside.items()), f"the window of batch {n}"

    def _check_the_optional_output(self, done: list[int]) -> None:
        sure = Counter(line for n in done if self.had[n][-1] for line in self.raw[n])
        perhaps = Counter(line for n in done if any(self.had[n]) for line in self.raw[n])
        seen = Counter(self._table("seen", "k, v"))
        assert sure <= seen <= perhaps, f"the added output has {seen}, expected {sure} to {perhaps}"

    def _lines_out(self) -> Counter[Line]:
        if (self.out / "lines/_compacting").exists():  # in the middle of an exchange, which the next one finishes
            compact(str(self.out / "lines"))
        files = [file for file in (self.out / "lines").glob("batch=*/*.parquet")]
        tables = (pyarrow.parquet.read_table(file, partitioning=None) for file in files)
        return Counter((row["k"], row["v"]) for table in tables for row in table.to_pylist())

    def _totals(self) -> Counter[str]:
        return Counter(dict(self._table("totals", "k, n")))

    def _table(self, name: str, columns: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self.database)) as database:
            try:
                return database.execute(f"select {columns} from {name}").fetchall()
            except sqlite3.OperationalError:
                return []  # not there yet


def most(values: list[int]) -> int | None:
    return max(values, default=None)


def least(values: list[int]) -> int | None:
    return min(values, default=None)


def some(values: list[int]) -> list[int] | None:
    return sorted(set(values))[:3] or None


def json_lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@contextlib.contextmanager
def killed_at(point: str, k: int, when: str) -> Iterator[None]:
    """Raise Killed at the k-th call of a function of `armed.POINTS`, once."""
    owner, name = POINTS[point]
    original, calls = getattr(owner, name), 0

    def around(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if sys._getframe(1).f_globals["__name__"] == lease.__name__:
            return original(*args, **kwargs)  # this process lives, so what it holds would stay held
        calls += 1
        if calls == k and when == "before":
            raise Killed(point)
        result = original(*args, **kwargs)
        if calls == k:
            raise Killed(point)
        return result

    setattr(owner, name, around)
    try:
        yield
    finally:
        setattr(owner, name, original)


# --- stories


def draw(seed: str, length: int = 14) -> list[Step]:
    """A story, which is the same for the same seed."""
    chance = random.Random(seed)

    def moment() -> tuple[str, int, str]:
        return chance.choice(KILLED_AT), chance.randint(1, 4), chance.choice(["before", "after"])

    steps: dict[str, tuple[int, Callable[[], Step]]] = {
        "feed": (6, lambda: ("feed", chance.randint(1, 4), chance.randint(1, 2))),
        "tick": (6, lambda: ("tick", chance.choice([1, 1, 1, 2, 5]))),
        "kill": (4, lambda: ("kill", *moment())),
        "stop": (2, lambda: ("stop",)),
        "kill_while_it_stops": (1, lambda: ("kill_while_it_stops", *moment())),
        "drain": (1, lambda: ("drain",)),
        "lose_memory": (1, lambda: ("lose_memory",)),
        "rotate": (1, lambda: ("rotate", chance.randint(1, 2))),
        "change": (2, lambda: ("change", chance.choice(OPTIONAL))),
        "delete_newest_snapshot": (1, lambda: ("delete_newest_snapshot",)),
        "compact": (1, lambda: ("compact",)),
        "kill_a_compaction": (1, lambda: ("kill_a_compaction", *moment())),
        "copy": (1, lambda: ("copy",)),
        "restore": (1, lambda: ("restore",)),
        "older_format": (1, lambda: ("older_format",)),
    }
    weights = [weight for weight, _ in steps.values()]
    first: list[Step] = [("write_files_only",)] if chance.random() < 0.3 else []
    return first + [make() for _, make in chance.choices(list(steps.values()), weights, k=length)]


def tell(story: Sequence[Step]) -> None:
    """Let a story happen in a new world; raises what goes wrong in it."""
    every, batches.SNAPSHOT_EVERY = batches.SNAPSHOT_EVERY, 3
    try:
        with tempfile.TemporaryDirectory() as root:
            world = World(Path(root) / "world")
            try:
                for name, *arguments in [*story, ("finish",)]:
                    getattr(world, name)(*arguments)
            finally:
                world._end()
    finally:
        batches.SNAPSHOT_EVERY = every


def failure(story: Sequence[Step]) -> Exception | None:
    """What goes wrong in a story."""
    try:
        tell(story)
    except Exception as error:
        return error
    return None


def same_failure(error: Exception) -> Callable[[Sequence[Step]], bool]:
    """Whether a story fails with an error of the same type."""
    return lambda story: type(failure(story)) is type(error)


def shrink(story: Sequence[Step], fails: Callable[[Sequence[Step]], object], until: float) -> list[Step]:
    """Leave out steps as long as the story still fails: halves first, then single ones."""
    story, size = list(story), max(1, len(story) // 2)
    while True:
        start = 0
        shorter = False
        while start < len(story):
            if time.monotonic() > until:
                return story
            candidate = story[:start] + story[start + size :]
            if fails(candidate):
                story, shorter = candidate, True
            else:
                start += size
        if size == 1 and not shorter:
            return story
        size = max(1, size // 2)


def as_text(story: Sequence[Step]) -> str:
    """The steps of a story, one a line, as they are written in a test."""
    return "\n".join(f"    {step!r}," for step in story)


def main() -> None:
    """Tell stories for some minutes; print the seed, and each story that fails, shrunk."""
    parser = argparse.ArgumentParser(prog="model", description="Stories of a job, recounted.")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", default=None, help="repeats a run")
    given = parser.parse_args()
    seed = given.seed or str(time.time_ns() // 10**9)
    until, told, failed = time.monotonic() + 60 * given.minutes, 0, 0
    logging.disable(logging.WARNING)
    local_session()
    print(f"seed {seed}", flush=True)
    while time.monotonic() < until:
        story = draw(f"{seed} {told}")
        error = failure(story)
        if error is None:
            print(f"story {told}: {len(story)} steps", flush=True)
        else:
            failed += 1
            print(f"story {told} of seed {seed} fails: {type(error).__name__}: {error}", flush=True)
            short = shrink(story, same_failure(error), time.monotonic() + 300)
            print(f"the shortest that fails as well:\n{as_text(short)}\n{failure(short)}\n", flush=True)
        told += 1
    print(f"seed {seed}: {told} stories, {failed} fail", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
