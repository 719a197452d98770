"""Which batches a recovered context runs, and which checkpoints are resumed; tests/faults kills real drivers."""

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
from sparkstream_kit.errors import CheckpointRefused, UsageError
from sparkstream_kit.recovery.home import Home
from sparkstream_kit.sources._generator import generator
from sparkstream_kit.sources._socket import socket as socket_lines
from sparkstream_kit.testing import local_session

pytestmark = pytest.mark.slow
WEEK = 7 * 24 * 60 * 60 * 1000
Build = Callable[[StreamingContext], object]


@pytest.fixture(autouse=True)
def write_ahead_log(spark: SparkSession) -> Iterator[None]:
    """Receivers write to a write-ahead log, as in every job with a home."""
    name, conf = "spark.streaming.receiver.writeAheadLog.enable", live_conf(spark)
    conf.set(name, "true")
    yield
    conf.remove(name)


@pytest.fixture
def jump(spark: SparkSession) -> Iterator[Callable[[int], None]]:
    """Sets how many ms after its checkpoint a context with a manual clock is recovered."""
    name, conf = "spark.streaming.manualClock.jump", live_conf(spark)
    yield lambda ms: conf.set(name, str(ms))
    conf.remove(name)


def live_conf(spark: SparkSession) -> Any:
    """The settings that a new context reads."""
    return spark.sparkContext._jsc.sc().conf()  # type: ignore[union-attr]


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a server that never sends anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


Define = Callable[..., Build]


@pytest.fixture
def define(port: int, tmp_path: Path) -> Define:
    """Makes a definition like those of received streams: an input that never has data, and a receiver."""

    def make(more: Callable[[DStream[str]], DStream[Any]] = lambda lines: lines, files: int = 0) -> Build:
        def build(ssc: StreamingContext) -> None:
            for i in range(files + 1):
                ssc.textFileStream(str(tmp_path / f"incoming{i}")).foreachRDD(nothing)
            more(ssc.socketTextStream("127.0.0.1", port)).foreachRDD(nothing)

        return build

    return make


def nothing(rdd: RDD[Any]) -> None:
    pass


def recovered(build: Build, path: Path, at: int) -> StreamingContext:
    """A recovered context with an interval of 1s, first created at time 0 of a manual clock, without a batch since."""
    with streaming.manual_clock():
        get_or_create(build, checkpoint=str(path), batch_interval="1s")
        ssc = get_or_create(build, checkpoint=str(path), batch_interval="1s")
    streaming.advance_clock(ssc, at)
    return ssc


def batch_times(ssc: StreamingContext, last: int) -> list[int]:
    """The times of all batches that a context runs until `last`."""
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
def test_after_a_week_only_batches_that_may_have_received_data_run_before_the_present(
    define: Define, tmp_path: Path, more: Callable[[DStream[str]], DStream[str]], remembered: int
) -> None:
    ssc = recovered(define(more), tmp_path / "checkpoint", WEEK)
    assert surgery.leave_out_downtime(ssc, 3500, [], silent=1) == [(3500 + remembered + 1000, WEEK)]
    assert batch_times(ssc, WEEK) == [*range(1000, 3500 + remembered + 1000, 1000), WEEK]


def test_a_second_crash_does_not_bring_the_skipped_week_back(define: Define, tmp_path: Path) -> None:
    ssc = recovered(define(), tmp_path / "checkpoint", WEEK + 2000)
    gap = (4000, WEEK)
    assert surgery.leave_out_downtime(ssc, WEEK + 60_000, [gap], silent=1) == [gap]
    assert batch_times(ssc, WEEK + 2000) == [1000, 2000, 3000, WEEK, WEEK + 1000, WEEK + 2000]


def test_a_gap_recorded_by_a_clock_that_was_ahead_is_dropped(
    define: Define, tmp_path: Path, jump: Callable[[int], None]
) -> None:
    jump(5000)
    ssc = recovered(define(), tmp_path / "checkpoint", 6000)
    assert surgery.leave_out_downtime(ssc, 60_000, [(3000, WEEK)], silent=1) == []
    assert batch_times(ssc, 6000) == [*range(1000, 6001, 1000)]


@pytest.mark.parametrize("with_more", [{"files": 1}, {"more": counted}], ids=["files", "state"])
def test_every_batch_runs_if_an_input_or_step_looks_back(
    define: Define, tmp_path: Path, jump: Callable[[int], None], with_more: dict[str, Any]
) -> None:
    jump(9000)
    ssc = recovered(define(**with_more), tmp_path / "checkpoint", 10_000)
    assert surgery.leave_out_downtime(ssc, 3000, [], silent=1) == []
    assert batch_times(ssc, 10_000) == [*range(1000, 10_001, 1000)]


def test_a_driver_killed_before_its_first_batch_leaves_a_checkpoint(define: Define, tmp_path: Path) -> None:
    assert streaming.is_recovered(recovered(define(), tmp_path / "checkpoint", 0))


def test_a_function_that_cannot_be_pickled_is_refused_in_one_sentence(define: Define, tmp_path: Path) -> None:
    lock = threading.Lock()
    build = define(lambda lines: lines.map(lambda line: lock.locked()))
    with pytest.raises(
        CheckpointRefused, match=r"cannot write the first checkpoint .* cannot pickle '_thread.lock' object"
    ):
        get_or_create(build, checkpoint=str(tmp_path / "checkpoint"), batch_interval="100ms")


# --- a Spark whose classes are not those that the surgery knows


@pytest.fixture
def another_spark(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, Spark's Checkpoint is made and dated in another way."""

    def change(found: str) -> str:
        return found.replace("Checkpoint(StreamingContext,Time)", "Checkpoint(StreamingContext,long)").replace(
            "Time Checkpoint.checkpointTime", "long Checkpoint.checkpointTime"
        )

    declared = surgery._declared
    return lambda: monkeypatch.setattr(surgery, "_declared", lambda name: [change(found) for found in declared(name)])


def test_a_spark_that_makes_checkpoints_in_another_way_is_refused_and_nothing_is_written(
    define: Define, tmp_path: Path, another_spark: Callable[[], None]
) -> None:
    another_spark()
    expected = r"^PySpark .* is not supported \(.*`Checkpoint\(StreamingContext,Time\)`\): use PySpark 4\.0 to 4\.3$"
    with pytest.raises(CheckpointRefused, match=expected):
        get_or_create(define(), checkpoint=str(tmp_path / "checkpoint"), batch_interval="1s")
    assert [path for path in (tmp_path / "checkpoint").rglob("*") if path.is_file()] == []


def test_a_spark_that_dates_checkpoints_in_another_way_runs_every_batch(
    define: Define, tmp_path: Path, jump: Callable[[int], None], another_spark: Callable[[], None]
) -> None:
    jump(9000)
    ssc = recovered(define(), tmp_path / "checkpoint", 10_000)
    another_spark()
    with pytest.raises(UsageError, match=r"does not declare `Time Checkpoint\.checkpointTime`"):
        surgery.leave_out_downtime(ssc, 3000, [], silent=1)
    assert batch_times(ssc, 10_000) == [*range(1000, 10_001, 1000)]


# --- checkpoints of another Spark, Python, interval or set of receivers

Start = Callable[..., StreamingContext]


@pytest.fixture
def start(port: int, tmp_path: Path) -> Start:
    """Starts a job with a receiver, and kills it just before its context would start."""

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
    """The checkpoint of a first start."""
    assert not streaming.is_recovered(start())
    assert streaming.is_recovered(start()), "nothing changed, so it is resumed"
    return tmp_path / "home" / "checkpoint"


def with_blocks(checkpoint: Path) -> None:
    """Two blocks in the write-ahead log of the receiver, and a third one cut off after its length."""
    log = checkpoint / "receivedData" / "0" / "log-1-60001"
    log.parent.mkdir(parents=True)
    log.write_bytes(struct.pack(">i3si1s", 3, b"abc", 1, b"d") + struct.pack(">i", 9))


@pytest.mark.parametrize("what", ["spark", "python", "interval", "receiver", "nothing received", "foreign", "cut off"])
def test_a_checkpoint_that_does_not_fit_is_set_aside_unless_it_may_hold_received_records(
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
    with pytest.raises(CheckpointRefused, match="it holds 2 received blocks, some possibly unprocessed"):
        start(**change)
    assert not streaming.is_recovered(start(**change, give_up_received=True))
    (aside,) = checkpoint.parent.glob("checkpoint-aside-*")
    assert (aside / "receivedData").exists()


def test_a_drained_checkpoint_is_set_aside_although_its_write_ahead_log_still_has_blocks(
    checkpoint: Path, start: Start
) -> None:
    with_blocks(checkpoint)
    Home.open(str(checkpoint.parent)).mark_stopped(drained=True)
    assert not streaming.is_recovered(start(interval=2000))


def test_the_names_of_sparks_log_files_say_until_when_blocks_were_assigned_to_batches() -> None:
    assert checkpoints._received_until(["log-1000-61000", "log-5000-65000", ".log-9-99999.crc"]) == 65_000
    assert checkpoints._received_until([]) is None


def test_a_job_starts_with_a_warning_where_its_downtime_cannot_be_skipped(
    checkpoint: Path, start: Start, another_spark: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    log = checkpoint / "receivedBlockMetadata" / "log-1000-61000"
    log.parent.mkdir()
    log.touch()
    another_spark()
    assert streaming.is_recovered(start())
    assert "all batches of the downtime run first, which may take a while: PySpark " in caplog.text
    assert not (checkpoint.parent / "downtime.json").exists()


# --- which ticks may run again, and a checkpoint that gets stale


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., None]:
    """Leaves exactly the checkpoints of these seconds."""

    def write(*seconds: int) -> None:
        for old in tmp_path.glob("checkpoint-*"):
            old.unlink()
        for second in seconds:
            (tmp_path / f"checkpoint-{1000 * second}").touch()
            (tmp_path / f"checkpoint-{1000 * second}.bk").touch()

    return write


def test_a_tick_is_settled_once_all_checkpoints_were_written_after_it_ended(
    tmp_path: Path, written: Callable[..., None]
) -> None:
    looks = checkpoints.Checkpoints(f"file:{tmp_path}", 1000)

    def look(second: int, waiting: int) -> int:
        return looks.look(1000 * second, lambda: 1000 * waiting)

    written(100, 130)
    assert look(100, 130) == 0, "the checkpoint of 130 may have been written when 100 had not ended"
    written(125, 131)
    assert look(120, 131) == 0, "Spark falls back to the oldest one"
    written(131, 140)
    assert look(140, 140) == 100_000
    assert look(141, 141) == 100_000, "it looks every 20 ticks"
    written(141, 160)
    assert look(160, 160) == 140_000
    written(141, 160)
    assert [look(second, second) for second in range(180, 1000, 20)] == [140_000] * 41, "none is written any more"


def test_a_checkpoint_that_gets_stale_is_warned_about_once_until_it_is_written_again(
    tmp_path: Path, written: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    looks = checkpoints.Checkpoints(f"file:{tmp_path}", 1000)
    written(100)
    said = []
    for second in range(100, 360, 20):
        if second == 300:
            written(300)
        looks.look(1000 * second, lambda: 0)
        said.append(caplog.text.count("and Spark writes no newer one"))
    assert said == [0] * 4 + [1] * 9
    assert "is 80 s old" in caplog.text
    assert caplog.text.count("Spark writes its checkpoint again") == 1
