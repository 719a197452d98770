"""Engines without Spark: what each tick plans, runs and records."""

from __future__ import annotations

import dataclasses
import itertools
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparkstream_kit.contracts import Source
from sparkstream_kit.engine import batches, retries
from sparkstream_kit.engine.rate import RateController
from sparkstream_kit.errors import BatchFailed
from sparkstream_kit.events import Listener
from sparkstream_kit.recovery.offset_log import OffsetLog


class Job:
    """Successive engines on one log, over a source of numbers whose latest offset is `made`."""

    def __init__(self, root: str):
        self.root, self.made, self.batches = root, 0, []
        self.listeners: list[Listener] = []

    def engine(self, **options: Any) -> batches.Engine:
        source = Source(lambda now: self.made, lambda start, end: None, "n bigint")  # type: ignore[arg-type, return-value]
        ctx = SimpleNamespace(frame=lambda compute: object())
        graph: Any = SimpleNamespace(
            log=OffsetLog(self.root),
            interval=1000,
            sources={"numbers": source},
            received={},
            states={},
            outputs={
                "all": SimpleNamespace(
                    compute=None, write=lambda frame, batch: self.batches.append(batch), rejects=False
                )
            },
            listeners=self.listeners,
            home=SimpleNamespace(root=self.root, failure=lambda: None),
            session=None,
            time=lambda entry: datetime.fromtimestamp(entry.time / 1000, timezone.utc),
            write=lambda output, entry, ready: output.write(None, entry.ranges["numbers"]),
            context=lambda entry: ctx,
            drop_contexts=lambda **options: None,
            fit_shuffles=lambda: None,
            settle=lambda: None,
            is_due=lambda time: False,
            replayable_from=lambda: 0,
            keep_from=0,
        )
        lease: Any = SimpleNamespace(check=lambda: None, start_renewing=lambda *_: None, epoch=1)
        engine = batches.Engine(None, graph, lease, **options)  # type: ignore[arg-type]
        engine.activate(None)  # type: ignore[arg-type]
        return engine


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(batches, "_live", None)
    monkeypatch.setattr(batches.streaming, "newest_waiting_tick", lambda ssc: 0)
    monkeypatch.setattr(batches.streaming, "clock_ms", lambda ssc: 0)
    monkeypatch.setattr(batches.surgery, "InputRates", lambda ssc: SimpleNamespace(add=lambda time, records: None))
    monkeypatch.setattr(batches, "Meters", lambda *arguments, **options: SimpleNamespace(start=int, stop=int))
    return Job(f"file:{tmp_path}")


def test_each_tick_plans_what_is_new_and_an_idle_tick_records_nothing(job: Job) -> None:
    engine = job.engine()
    for time, job.made in [(1000, 10), (2000, 10), (3000, 25)]:
        engine.tick(time)
    assert job.batches == [(None, 10), (10, 25)]
    assert [e.time for e in engine.graph.log.after(0)] == [1000, 3000]


def test_recorded_time_increases_even_if_the_clock_is_set_back(job: Job) -> None:
    engine = job.engine()
    for time, job.made in [(5000, 10), (2000, 20), (6000, 30)]:
        engine.tick(time)
    assert [e.time for e in engine.graph.log.after(0)] == [5000, 5001, 6000]


def test_no_batch_exceeds_the_limit(job: Job) -> None:
    engine, job.made = job.engine(max_per_batch=4), 10
    for time in (1, 2, 3, 4):
        engine.tick(time)
    assert job.batches == [(None, 4), (4, 8), (8, 10)]


def test_a_backlog_of_a_week_is_read_in_batches_that_take_about_one_interval(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, fixed, per_record = 0.0, 0.1, 1 / 250_000
    monkeypatch.setattr(batches.clock, "monotonic", lambda: now)
    taken: list[float] = []

    def process(batch: tuple[int | None, int]) -> None:
        nonlocal now
        taken.append(fixed + (batch[1] - (batch[0] or 0)) * per_record)
        now += taken[-1]

    engine, job.made = job.engine(), 7 * 24 * 3600 * 1000
    engine.graph.outputs["all"].write = lambda frame, batch: process(batch)
    for time in range(1, 40):
        engine.tick(1000 * time)
    assert taken[0] < 1, "the first one is small"
    assert all(0.9 < seconds < 1.1 for seconds in taken[5:])


def test_batches_stop_shrinking_if_even_the_smallest_takes_longer_than_an_interval() -> None:
    rate, source = (
        RateController(1.0),
        Source(lambda now: None, lambda start, end: None, "n bigint", initial_batch_size=1000),
    )  # type: ignore[arg-type, return-value]
    for _ in range(50):
        size = rate.end_offset("numbers", source, 0, 10**9)
        rate.update(2 + size / 10_000)
    assert 2 + size / 10_000 == pytest.approx(4, rel=0.1)  # twice the shortest


def test_without_a_backlog_a_batch_takes_all_that_has_arrived() -> None:
    rate, source = RateController(1.0), Source(lambda now: None, lambda start, end: None, "n bigint")  # type: ignore[arg-type, return-value]
    for second in range(50):
        assert rate.end_offset("numbers", source, 5000 * second, 5000 * (second + 1)) == 5000 * (second + 1)
        rate.update(3.0)


def test_the_newest_tick_that_came_due_during_a_batch_plans_for_all_of_them(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, waiting = job.engine(), 1
    monkeypatch.setattr(batches.streaming, "newest_waiting_tick", lambda ssc: waiting)
    taken = 1000  # ticks that come due while a batch runs; one more comes due for each that is skipped
    for tick in range(1, 5000):
        job.made, done = tick, len(job.batches)
        engine.tick(tick)
        waiting += taken if len(job.batches) > done else 1
    assert [end for _, end in job.batches] == [1, 1001, 3000]


def test_batches_do_not_wait_longer_and_longer_if_landing_takes_longer_than_the_interval(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, now, ended = job.engine(), 0.0, []
    monkeypatch.setattr(batches.clock, "monotonic", lambda: now)
    monkeypatch.setattr(batches.streaming, "newest_waiting_tick", lambda ssc: int(now) * 1000)
    for tick in range(1, 1000):
        now += 3  # what landing this tick took, with an interval of one second
        job.made, done = tick, len(job.batches)
        engine.tick(1000 * tick)
        if len(job.batches) > done:
            ended.append(now)
    assert max(after - before for before, after in itertools.pairwise(ended)) <= 6


def test_after_a_stop_request_the_unfinished_batch_is_finished_and_nothing_is_planned(job: Job) -> None:
    job.engine().graph.log.append(500, {"numbers": (None, 5)}, data=True)
    engine, job.made = job.engine(), 10
    engine.stopping.set()
    engine.tick(1000)
    assert job.batches == [(None, 5)]
    assert engine.graph.log.is_done(1)


def test_a_source_whose_server_is_away_is_asked_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, away, pauses = job.engine(retry_for=retries.RETRY_FOR), 2, list[float]()
    monkeypatch.setattr(engine.stopping, "wait", pauses.append)
    latest_offset = engine.graph.sources["numbers"].latest_offset

    def fails(now: int | None) -> int | None:
        nonlocal away
        away -= 1
        if away >= 0:
            raise ConnectionError("the server is away")
        return latest_offset(now)  # type: ignore[return-value]

    monkeypatch.setitem(
        engine.graph.sources, "numbers", dataclasses.replace(engine.graph.sources["numbers"], latest_offset=fails)
    )
    job.made = 5
    engine.tick(1000)
    assert job.batches == [(None, 5)] and pauses == [0.5, 1]

    away = 10**9
    engine._retry_for = 0.000_001
    with pytest.raises(BatchFailed, match="source 'numbers' still fails .*away.*no batch is unfinished"):
        engine.tick(2000)
    engine._retry_for = retries.RETRY_FOR
    monkeypatch.setattr(engine.stopping, "wait", lambda _: engine.stopping.set())
    job.made = 9
    engine.tick(3000)
    assert job.batches == [(None, 5)], "a stop request while it is away does not fail"


def test_a_drain_that_is_stopped_while_a_source_is_away_leaves_its_end_to_the_next(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = job.engine(drain=True, retry_for=retries.RETRY_FOR)
    source, job.made = engine.graph.sources["numbers"], 4

    def fails(now: int | None) -> None:
        raise ConnectionError("the server is away")

    engine.graph.sources["numbers"] = dataclasses.replace(source, latest_offset=fails)
    monkeypatch.setattr(engine.stopping, "wait", lambda _: engine.stopping.set())
    engine.tick(1000)
    assert not engine.drained.is_set()
    job.engine(drain=True).tick(2000)
    assert job.batches == [(None, 4)]


def test_a_limit_of_the_sources_own_leaves_the_rate_alone(job: Job) -> None:
    engine, job.made = job.engine(), 10**9
    source = engine.graph.sources["numbers"]
    engine.graph.sources["numbers"] = dataclasses.replace(source, limit=lambda start, end, most: (start or 0) + 1)
    for tick in range(1, 1200):
        engine.tick(tick)
    assert len(job.batches) == 1199


def test_after_a_stop_request_the_newest_tick_processes_what_receivers_have_brought(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, job.made = job.engine(max_per_batch=6), 10
    engine.graph.received["numbers"] = (None, None)  # type: ignore[assignment]
    engine.stopping.set()
    monkeypatch.setattr(batches.streaming, "newest_waiting_tick", lambda ssc: 3000)
    for time in (1000, 2000):
        engine.tick(time)
        assert job.batches == []
    engine.tick(3000)
    assert job.batches == [(None, 6), (6, 10)]


def test_an_interrupted_drain_ends_where_it_first_found_the_end(job: Job) -> None:
    job.engine(drain=True).graph.log.begin_drain({"numbers": 10})
    job.made = 99
    engine = job.engine(drain=True, max_per_batch=6)
    engine.tick(1000)
    assert job.batches == [(None, 6), (6, 10)]
    assert engine.drained.is_set()
    job.engine(drain=True).tick(2000)
    assert job.batches[2:] == [(10, 99)], "the next drain finds its own end"


def test_a_drain_after_an_abandoned_one_does_not_go_back_to_its_end(job: Job) -> None:
    job.engine(drain=True).graph.log.begin_drain({"numbers": 10})
    job.made = 20
    job.engine().tick(1000)
    job.made = 30
    job.engine(drain=True).tick(2000)
    assert job.batches == [(None, 20), (20, 30)]


def test_every_later_step_raises_the_same_failure_again(job: Job) -> None:
    engine = job.engine()

    def fail() -> None:
        raise ValueError("cannot")

    for step in (fail, lambda: engine.tick(1000)):
        with pytest.raises(ValueError, match="cannot"):
            engine.guarded(step)
    assert engine.graph.log.last.n == 0
