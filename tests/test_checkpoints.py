"""What a context owes that comes back after a week; tests/faults kills drivers and damages what they leave."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark import RDD
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext
from pyspark.streaming.listener import StreamingListener

from sparkstream_kit import bridge
from sparkstream_kit.context import get_or_create

pytestmark = pytest.mark.usefixtures("spark")
WEEK = 7 * 24 * 60 * 60 * 1000
Build = Callable[[StreamingContext], object]


@pytest.fixture
def port() -> Iterator[int]:
    """Where somebody listens who never sends anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def receive(port: int, tmp_path: Path) -> Build:
    """A definition like those of received streams: an input that never has anything, and a receiver."""

    def build(ssc: StreamingContext) -> None:
        ssc.textFileStream(str(tmp_path / "ticks")).foreachRDD(nothing)
        ssc.socketTextStream("127.0.0.1", port).foreachRDD(nothing)

    return build


def nothing(rdd: RDD[Any]) -> None:
    pass


def come_back(build: Build, path: Path) -> StreamingContext:
    """A context of 1s that was made at time 0, by its own clock, came to no batch and is recovered."""
    with bridge.manual_clock():
        get_or_create(build, checkpoint=str(path), batch_interval="1s")
        return get_or_create(build, checkpoint=str(path), batch_interval="1s")


def batches_of(ssc: StreamingContext, last: int) -> list[int]:
    """The times of all batches that a context runs up to the last one."""
    found, over = [], threading.Event()

    class Listener(StreamingListener):
        def onBatchCompleted(self, batchCompleted: Any) -> None:
            found.append(bridge.batch_of(batchCompleted)[0])
            if found[-1] >= last:
                over.set()

    ssc.addStreamingListener(Listener())
    ssc.start()
    assert over.wait(60), found
    ssc.stop(stopSparkContext=False)
    return found


@pytest.fixture
def jump(spark: SparkSession) -> Iterator[Callable[[int], None]]:
    """Sets how many ms after its checkpoint a context comes back that goes by its own clock."""
    name, conf = "spark.streaming.manualClock.jump", spark.sparkContext._jsc.sc().conf()  # type: ignore[union-attr]
    yield lambda ms: conf.set(name, str(ms))
    conf.remove(name)


def test_after_a_week_it_runs_what_it_may_have_received_and_then_goes_on(receive: Build, tmp_path: Path) -> None:
    ssc = come_back(receive, tmp_path / "checkpoint")
    bridge.advance_clock(ssc, WEEK)
    bridge.leave_out_downtime(ssc, 3000)
    assert batches_of(ssc, WEEK) == [1000, 2000, 3000, 4000, WEEK]


def test_after_a_moment_it_runs_every_batch(receive: Build, tmp_path: Path, jump: Callable[[int], None]) -> None:
    jump(3000)
    ssc = come_back(receive, tmp_path / "checkpoint")
    bridge.advance_clock(ssc, 4000)
    bridge.leave_out_downtime(ssc, 3000)
    assert batches_of(ssc, 4000) == [1000, 2000, 3000, 4000]


def with_files(ssc: StreamingContext, incoming: str) -> None:
    ssc.textFileStream(incoming).foreachRDD(nothing)


def with_state(ssc: StreamingContext, incoming: str) -> None:
    pairs = ssc.textFileStream(incoming).map(lambda line: (line, 1))
    pairs.updateStateByKey(lambda new, old: sum(new, old or 0)).foreachRDD(nothing)


@pytest.mark.parametrize("more", [with_files, with_state])
def test_with_an_input_or_a_step_that_looks_back_it_runs_every_batch(
    port: int, tmp_path: Path, jump: Callable[[int], None], more: Callable[[StreamingContext, str], None]
) -> None:
    def build(ssc: StreamingContext) -> None:
        ssc.socketTextStream("127.0.0.1", port).foreachRDD(nothing)
        more(ssc, str(tmp_path / "incoming"))
        if more is with_files:
            with_files(ssc, str(tmp_path / "more"))

    jump(9000)
    ssc = come_back(build, tmp_path / "checkpoint")
    bridge.advance_clock(ssc, 10_000)
    bridge.leave_out_downtime(ssc, 3000)
    assert batches_of(ssc, 10_000) == [*range(1000, 10_001, 1000)]
