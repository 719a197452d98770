"""Which batches a recovered context runs, and which checkpoint it resumes from; tests/faults kills real drivers."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark import RDD
from pyspark.sql import SparkSession
from pyspark.streaming import DStream, StreamingContext
from pyspark.streaming.listener import StreamingListener

from sparkstream_kit.bridge import streaming, surgery
from sparkstream_kit.context import at_home, get_or_create, new_context
from sparkstream_kit.engine import checkpoints
from sparkstream_kit.engine.batches import live
from sparkstream_kit.errors import UsageError
from sparkstream_kit.recovery.home import Home
from sparkstream_kit.sources._generator import generator
from sparkstream_kit.sources._socket import socket as socket_lines
from sparkstream_kit.testing import local_session

pytestmark = pytest.mark.slow
WEEK = 7 * 24 * 60 * 60 * 1000
Build = Callable[[StreamingContext], object]


@pytest.fixture(autouse=True)
def write_ahead_log(spark: SparkSession) -> Iterator[None]:
    """Receivers keep what they receive, as they do in every job with a home."""
    name, conf = "spark.streaming.receiver.writeAheadLog.enable", live_conf(spark)
    conf.set(name, "true")
    yield
    conf.remove(name)


@pytest.fixture
def jump(spark: SparkSession) -> Iterator[Callable[[int], None]]:
    """Sets how many ms after its checkpoint a context comes back that goes by its own clock."""
    name, conf = "spark.streaming.manualClock.jump", live_conf(spark)
    yield lambda ms: conf.set(name, str(ms))
    conf.remove(name)


def live_conf(spark: SparkSession) -> Any:
    """The settings that contexts look at when they are made."""
    return spark.sparkContext._jsc.sc().conf()  # type: ignore[union-attr]


@pytest.fixture
def port() -> Iterator[int]:
    """Where somebody listens who never sends anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


Define = Callable[..., Build]


@pytest.fixture
def define(port: int, tmp_path: Path) -> Define:
    """Makes a definition like those of received streams: an input that never has anything, and a receiver's."""

    def make(more: Callable[[DStream[str]], DStream[Any]] = lambda lines: lines, files: int = 0) -> Build:
        def build(ssc: StreamingContext) -> None:
            for i in range(files + 1):
                ssc.textFileStream(str(tmp_path / f"incoming{i}")).foreachRDD(nothing)
            more(ssc.socketTextStream("127.0.0.1", port)).foreachRDD(nothing)

        return build

    return make


def nothing(rdd: RDD[Any]) -> None:
    pass


def come_back(build: Build, path: Path, at: int) -> StreamingContext:
    """A context of 1s that was made at time 0, by its own clock, came to no batch and is recovered later."""
    with streaming.manual_clock():
        get_or_create(build, checkpoint=str(path), batch_interval="1s")
        ssc = get_or_create(build, checkpoint=str(path), batch_interval="1s")
    streaming.advance_clock(ssc, at)
    return ssc


def batches_of(ssc: StreamingContext, last: int) -> list[int]:
    """The times of all batches that a context runs up to the last one."""
    found, over = [], threading.Event()

    class Listener(StreamingListener):
        def onBatchCompleted(self, batchCompleted: Any) -> None:
            found.append(streaming.batch_of(batchCompleted)[0])
            if found[-1] >= last:
                over.set()

    ssc.addStreamingListener(Listener())
    ssc.start()
    assert over.wait(60), found
    ssc.stop(stopSparkContext=False)
    return found


def windowed(lines: DStream[str]) -> DStream[str]:
    return lines.window(3, 1)


def counted(lines: DStream[str]) -> DStream[Any]:
    return lines.map(lambda line: (line, 1)).updateStateByKey(lambda new, old: sum(new, old or 0))


@pytest.mark.parametrize(
    ("more", "remembered"), [(lambda lines: lines, 1000), (windowed, 4000)], ids=["plain", "window"]
)
def test_after_a_week_it_runs_what_it_may_have_received_and_then_goes_on(
    define: Define, tmp_path: Path, more: Callable[[DStream[str]], DStream[str]], remembered: int
) -> None:
    ssc = come_back(define(more), tmp_path / "checkpoint", WEEK)
    assert surgery.leave_out_downtime(ssc, 3500, [], silent=1) == [(3500 + remembered + 1000, WEEK)]
    assert batches_of(ssc, WEEK) == [*range(1000, 3500 + remembered + 1000, 1000), WEEK]


def test_a_second_crash_brings_the_week_not_back(define: Define, tmp_path: Path) -> None:
    ssc = come_back(define(), tmp_path / "checkpoint", WEEK + 2000)
    gap = (4000, WEEK)
    assert surgery.leave_out_downtime(ssc, WEEK + 60_000, [gap], silent=1) == [gap]
    assert batches_of(ssc, WEEK + 2000) == [1000, 2000, 3000, WEEK, WEEK + 1000, WEEK + 2000]


def test_a_gap_that_a_wrong_clock_has_made_is_forgotten(
    define: Define, tmp_path: Path, jump: Callable[[int], None]
) -> None:
    jump(5000)
    ssc = come_back(define(), tmp_path / "checkpoint", 6000)
    assert surgery.leave_out_downtime(ssc, 60_000, [(3000, WEEK)], silent=1) == []
    assert batches_of(ssc, 6000) == [*range(1000, 6001, 1000)]


@pytest.mark.parametrize("with_more", [{"files": 1}, {"more": counted}], ids=["files", "state"])
def test_with_an_input_or_a_step_that_looks_back_it_runs_every_batch(
    define: Define, tmp_path: Path, jump: Callable[[int], None], with_more: dict[str, Any]
) -> None:
    jump(9000)
    ssc = come_back(define(**with_more), tmp_path / "checkpoint", 10_000)
    assert surgery.leave_out_downtime(ssc, 3000, [], silent=1) == []
    assert batches_of(ssc, 10_000) == [*range(1000, 10_001, 1000)]


def test_a_driver_that_died_before_its_first_batch_has_left_a_checkpoint(define: Define, tmp_path: Path) -> None:
    assert streaming.is_recovered(come_back(define(), tmp_path / "checkpoint", 0))


def test_a_function_that_cannot_be_pickled_is_refused_in_one_line(define: Define, tmp_path: Path) -> None:
    lock = threading.Lock()
    build = define(lambda lines: lines.map(lambda line: lock.locked()))
    with pytest.raises(UsageError, match=r"cannot write the first checkpoint .* cannot pickle '_thread.lock' object"):
        get_or_create(build, checkpoint=str(tmp_path / "checkpoint"), batch_interval="100ms")


# --- what belongs to another Spark, Python, interval or set of receivers

Start = Callable[..., StreamingContext]


@pytest.fixture
def start(port: int, tmp_path: Path) -> Start:
    """Starts a job that receives lines, up to where its context would be started, and dies."""

    def start(
        *, host: str = "127.0.0.1", interval: int = 1000, receives: bool = True, **options: bool
    ) -> StreamingContext:
        ssc = new_context(local_session(), interval)
        lines = socket_lines(ssc, host, port) if receives else generator(ssc, count=1)
        lines.for_each_batch(lambda frame, batch: None)
        ssc = at_home(ssc, str(tmp_path / "home"), **options)
        engine = live()
        assert engine is not None
        engine._lease.release()
        return ssc

    return start


@pytest.fixture
def checkpoint(start: Start, tmp_path: Path) -> Path:
    """What a first start has left."""
    assert not streaming.is_recovered(start())
    assert streaming.is_recovered(start()), "what is the same is gone on with"
    return tmp_path / "home" / "checkpoint"


def with_blocks(checkpoint: Path) -> None:
    """Two blocks in the write-ahead log of the receiver, the second one cut off behind its length."""
    log = checkpoint / "receivedData" / "0" / "log-1-60001"
    log.parent.mkdir(parents=True)
    log.write_bytes(struct.pack(">i3si1s", 3, b"abc", 1, b"d") + struct.pack(">i", 9))


@pytest.mark.parametrize("what", ["spark", "python", "interval", "receiver", "nothing received", "foreign", "cut off"])
def test_another_ones_checkpoint_is_set_aside_unless_it_may_hold_received_lines(
    what: str, checkpoint: Path, start: Start
) -> None:
    change: dict[str, Any] = {}
    if what in ("spark", "python"):
        note = checkpoint.parent / "fingerprint.json"
        note.write_text(json.dumps({**json.loads(note.read_text()), what: "2.4"}))
    elif what in ("foreign", "cut off"):
        for file in checkpoint.glob("checkpoint-*"):
            file.write_bytes(b"PAR1" if what == "foreign" else file.read_bytes()[:99])
    else:
        change = {
            "interval": {"interval": 2000},
            "receiver": {"host": "localhost"},
            "nothing received": {"receives": False},
        }[what]
    with_blocks(checkpoint)
    with pytest.raises(UsageError, match="it holds 2 received blocks, some possibly unprocessed"):
        start(**change)
    assert not streaming.is_recovered(start(**change, give_up_received=True))
    (aside,) = checkpoint.parent.glob("checkpoint-aside-*")
    assert (aside / "receivedData").exists()


def test_what_was_drained_is_set_aside_although_sparks_log_is_still_there(checkpoint: Path, start: Start) -> None:
    with_blocks(checkpoint)
    Home.open(str(checkpoint.parent)).mark_stopped(drained=True)
    assert not streaming.is_recovered(start(interval=2000))


def test_how_far_blocks_were_given_to_batches_is_in_the_names_of_sparks_log() -> None:
    assert checkpoints._received_until(["log-1000-61000", "log-5000-65000", ".log-9-99999.crc"]) == 65_000
    assert checkpoints._received_until([]) is None
