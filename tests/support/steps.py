"""Jobs that read files which change in steps, and are stopped in between in one of the ways of `RUNS`.

A case is a generator: it does something to files, yields the lines that the job must bring then, and so on. A list is
compared in its order; a Counter where several files arrive at once and nothing says which is first.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from pyspark.sql import DataFrame
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit.contracts import Batch
from sparkstream_kit.frames import FrameStream

from .ticks import job, killed

Line = int | str
"""The number of a line of `log_line`, or any other line as it is."""

Steps = Iterator[list[Line] | Counter[Line]]


class Files(Protocol):
    """What a job is asked to read; a case may change it, which takes a new start."""

    path: Any
    glob: str
    options: dict[str, Any]
    home: str


def log_line(number: int) -> str:
    """A line as servers write them; all are equally long, so that a size proves nothing."""
    agent = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
    return f'198.51.100.7 - - [26/Nov/2026:10:00:00 +0000] "GET /r/{number:06d} HTTP/1.1" 200 5120 "-" "{agent}"'


def short(row: str) -> Line:
    """A row as cases name it. Of a line that is longer than any reader needs, a beginning is enough."""
    number = row.partition("/r/")[2][:6]
    if number.isdecimal() and row == log_line(int(number)):
        return int(number)
    return "long" if len(row) >= 1 << 16 and set(row) == {"x"} else row


def text(*lines: Line) -> bytes:
    return "".join(f"{log_line(line) if isinstance(line, int) else line}\n" for line in lines).encode()


# --- a job, and how it lives meanwhile


class Reader:
    """A job on the files of a case, which is started as often as its run wants."""

    def __init__(self, logs: Files):
        self._logs = logs
        self._rows: dict[int, list[str]] = {}
        self._runs: Counter[int] = Counter()
        self._second = self._seen = 0

    def _build(self, ssc: StreamingContext) -> dict[str, FrameStream]:
        logs = self._logs

        def keep(frame: DataFrame, batch: Batch) -> None:
            rows = [row.value for row in frame.collect()]
            self._runs[batch.n] += 1
            assert self._rows.setdefault(batch.n, rows) == rows, "a batch that runs again has the same rows"

        lines = ss.sources.files(ssc, str(logs.path), logs.glob, name="logs", **logs.options)
        lines.for_each_batch(keep, name="lines")
        return {}

    def started(self) -> contextlib.AbstractContextManager[Any]:
        return job(self._build, self._logs.home, max_per_batch=10**9)

    def tick(self, engine: Any) -> None:
        self._second += 1
        engine.tick(1000 * self._second)

    def killed_tick(self, engine: Any) -> None:
        """A tick in which the process is killed after the outputs, before the done mark of a new batch."""
        log, last = engine.graph.log, engine.graph.log.last.n
        unfinished, mark_done = not log.is_done(last), log.mark_done
        log.mark_done = lambda n, note="": killed(9) if n > last else mark_done(n, note)
        with contextlib.suppress(SystemExit):
            self.tick(engine)
        assert self._runs[last] == (2 if unfinished else self._runs[last]), "the batch before was not run again"

    def tick_killed_early(self, engine: Any) -> None:
        """A tick in which the process is killed once the source knows what is new, and has kept none of it."""
        sources = engine.graph.sources
        sources["logs"] = dataclasses.replace(sources["logs"], prepare=lambda start, end: killed(9))
        with contextlib.suppress(SystemExit):
            self.tick(engine)

    def came(self) -> list[Line]:
        """The lines of the batches since the last question."""
        new = sorted(n for n in self._rows if n > self._seen)
        self._seen = max([self._seen, *new])
        return [short(row) for n in new for row in self._rows[n]]


def compare(step: int, came: list[Line], expected: list[Line] | Counter[Line]) -> None:
    found = Counter(came) if isinstance(expected, Counter) else came
    assert found == expected, f"step {step}"


def runs_through(steps: Steps, logs: Files) -> None:
    reader, at = Reader(logs), None
    with contextlib.ExitStack() as running:
        engine: Any = None
        for step, expected in enumerate(steps, 1):
            if at != (at := logs.path):  # another path is another start
                running.close()
                engine = running.enter_context(reader.started())
            reader.tick(engine)
            compare(step, reader.came(), expected)


def stops_gracefully(steps: Steps, logs: Files) -> None:
    reader = Reader(logs)
    for step, expected in enumerate(steps, 1):
        with reader.started() as engine:
            reader.tick(engine)
            compare(step, reader.came(), expected)
            engine.close()


def is_killed(steps: Steps, logs: Files) -> None:
    """After each step the job is killed in its batch, and started again before the next step."""
    reader = Reader(logs)
    for step, expected in enumerate(steps, 1):
        with reader.started() as engine:
            reader.killed_tick(engine)
        with reader.started() as engine:
            reader.killed_tick(engine)  # nothing is new, so it lives
        compare(step, reader.came(), expected)


def is_down_for_a_step(steps: Steps, logs: Files) -> None:
    """After each step the job is killed in its batch, and started again after the next step."""
    reader = Reader(logs)
    for step, expected in enumerate(steps, 1):
        with reader.started() as engine:
            reader.killed_tick(engine)
        compare(step, reader.came(), expected)


def is_down_before_it_reads(steps: Steps, logs: Files) -> None:
    """After every second step the job is killed before it reads what it has planned, and is down for the next step.

    What is planned may be gone by then, so only cases in which nothing is lost are for this.
    """
    reader = Reader(logs)
    planned: list[Line] = []
    for step, expected in enumerate(steps, 1):
        with reader.started() as engine:
            if step % 2:
                reader.tick_killed_early(engine)
                planned = expected_lines(expected)
                continue
            reader.tick(engine)
        assert Counter(reader.came()) == Counter([*planned, *expected_lines(expected)]), f"step {step}"


def expected_lines(expected: list[Line] | Counter[Line]) -> list[Line]:
    return list(expected.elements()) if isinstance(expected, Counter) else expected


RUNS: tuple[Callable[[Steps, Files], None], ...] = (runs_through, stops_gracefully, is_killed, is_down_for_a_step)
