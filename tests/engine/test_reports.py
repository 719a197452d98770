"""What a job says of its batches: events, the line in the log, totals that no restart loses or doubles."""

from __future__ import annotations

import gzip
import json
import logging
import re
import shlex
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pyspark.sql import DataFrame, SparkSession
from pyspark.streaming import DStream, StreamingContext
from pyspark.streaming.listener import StreamingListener

import sparkstream_kit as ss
from sparkstream_kit import events
from sparkstream_kit.contracts import Batch, Size
from sparkstream_kit.engine import batches, progress, reports
from sparkstream_kit.events import BatchDone, Event, JobFailed, JobStarted, JobStopped, StepFailed
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.job import _Json
from sparkstream_kit.testing import run_batches
from tests.support.ticks import given, job, killed, run_ticks, run_with_kills

ROWS = [[(n, n % 3) for n in range(size)] for size in (3, 0, 5, 1, 2, 4, 1, 3)]
"""Batches of different sizes, one of them empty."""


class Heard(list[Event]):
    """Events, of one or more runs."""

    def batches(self) -> list[BatchDone]:
        return [event for event in self if isinstance(event, BatchDone)]


def counted(heard: Heard) -> Any:
    """A job with a state and an output that counts its rows; `heard` gets its events."""

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        rows = given(ssc, ROWS, "v int, k int")
        ss.listen(ssc, heard.append)
        rows.filter("v > 0").for_each_batch(lambda frame, batch: frame.count(), name="positive")
        return {"sums": rows.update_state_by_key("k", {"n": ss.aggregates.count()})}

    return build


# --- totals


@pytest.mark.parametrize(
    ("kills", "every"), [(set(), 2), ({1}, 100), ({2, 4, 6}, 2), ({1, 2, 3, 4, 5, 6, 7, 8}, 3)], ids=str
)
def test_each_record_is_counted_once_whatever_ends_the_job(
    kills: set[int], every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", every)
    heard = Heard()
    run_with_kills(counted(heard), tmp_path, range(1, 9), kills)
    done = heard.batches()
    assert [event.n for event in done] == list(range(1, len(done) + 1)), "a batch is done once"
    assert [event.totals["batches"] for event in done] == [event.n for event in done]
    assert done[-1].totals["records"] == sum(map(len, ROWS)) == sum(event.records or 0 for event in done)
    assert done[-1].totals["source.rows.records"] == sum(map(len, ROWS))
    positive = sum(v > 0 for batch in ROWS for v, _ in batch)
    assert done[-1].totals["output.positive.rows"] == positive == sum(event.rows["positive"] for event in done)


def marked_and_killed(mark: Callable[..., None], n: int, note: str) -> None:
    mark(n, note)
    killed()


def test_a_kill_right_after_the_done_mark_loses_no_count(tmp_path: Path) -> None:
    heard = Heard()
    for second in range(1, 9):
        with job(counted(heard), tmp_path) as engine, suppress(SystemExit):
            engine.graph.log.mark_done = partial(marked_and_killed, engine.graph.log.mark_done)  # type: ignore[method-assign]
            engine.tick(1000 * second)
    assert heard.batches() == [], "the driver died before it could tell"
    with job(counted(heard), tmp_path) as engine:
        assert engine.reports.totals["records"] == sum(map(len, ROWS))


def test_two_batches_in_one_tick_are_measured_each_for_itself(tmp_path: Path) -> None:
    heard = Heard()
    with job(counted(heard), tmp_path) as engine, suppress(SystemExit):
        engine.graph.log.mark_done = killed  # type: ignore[method-assign]
        engine.tick(1000)
    run_ticks(counted(heard), tmp_path, [3])
    again, new = heard.batches()
    assert (again.n, again.records, new.n, new.records) == (1, 3, 2, 5)
    for event in (again, new):
        assert sum(event.phases[phase] for phase in ("outputs", "states", "snapshots")) <= event.seconds
    assert again.phases["plan"] == again.phases["prepare"] == 0, "it was planned by the driver before"


def test_a_graceful_stop_keeps_the_totals(tmp_path: Path) -> None:
    heard = Heard()
    for ticks in ([1, 2, 3], [4, 5]):
        with job(counted(heard), tmp_path) as engine:
            for second in ticks:
                engine.tick(1000 * second)
            engine.close()
    assert heard.batches()[-1].totals["records"] == sum(map(len, ROWS[:5]))


@pytest.mark.parametrize("note", ["", "{", "[]", '{"totals": 3}', '{"totals": {"records": "many"}}', "null"])
def test_without_a_readable_note_totals_begin_again(note: str, tmp_path: Path) -> None:
    heard = Heard()
    run_ticks(counted(heard), tmp_path, [1])
    (tmp_path / "offsets/1.done").write_text(note)
    run_ticks(counted(heard), tmp_path, [3])
    assert heard.batches()[-1].totals["records"] == 5


# --- events


def test_a_job_tells_when_it_starts_and_stops(tmp_path: Path) -> None:
    heard = Heard()
    for ticks in ([1], [3]):
        with job(counted(heard), tmp_path) as engine:
            for second in ticks:
                engine.tick(1000 * second)
            engine.close()
    home = f"file:{tmp_path}"
    assert [event for event in heard if not isinstance(event, BatchDone)] == [
        *(JobStarted(home, after=0, starts=1), JobStopped(1, drained=False)),
        *(JobStarted(home, after=1, starts=2), JobStopped(1, drained=False)),
    ]
    assert [type(event) for event in heard[:3]] == [JobStarted, BatchDone, JobStopped]


def test_what_fails_is_an_event_and_then_that_the_job_ends(tmp_path: Path) -> None:
    heard = Heard()

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        def write(frame: DataFrame, batch: Batch) -> None:
            raise OSError("the disk is on fire")

        ss.listen(ssc, heard.append)
        given(ssc, ROWS, "v int, k int").for_each_batch(write, name="burning")
        return {}

    with job(build, tmp_path) as engine:
        engine._retry_for = 0.7
        for _ in range(2):
            with pytest.raises(ss.BatchFailed):
                engine.guarded(lambda: engine.tick(1000))
    started, *failed, ended = heard
    assert isinstance(started, JobStarted)
    assert failed[0] == StepFailed(1, "output 'burning'", "OSError: the disk is on fire", 0.5)
    assert {type(event) for event in failed} == {StepFailed}
    assert isinstance(ended, JobFailed), "reported once"
    assert "the disk is on fire" in ended.error


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_a_listener_that_raises_harms_nothing(
    error: BaseException, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()

    def broken(event: Event) -> None:
        raise error

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        ss.listen(ssc, broken)
        return counted(heard)(ssc)  # type: ignore[no-any-return]

    seen = run_ticks(build, tmp_path, [1, 3])
    assert sorted(seen["sums"]) == [1, 3]
    assert len(heard.batches()) == 2
    assert "broken failed on BatchDone" in caplog.text


def test_a_source_that_cannot_tell_its_size_harms_nothing(tmp_path: Path) -> None:
    heard = Heard()

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        stream = given(ssc, ROWS, "v int, k int", name="rows")

        def size(start: Any, end: Any) -> Size:
            raise OSError("gone")

        stream.graph.sources.update(rows=replace(stream.graph.sources["rows"], size=size))
        ss.listen(ssc, heard.append)
        return {"rows": stream}

    run_ticks(build, tmp_path, [1])
    (done,) = heard.batches()
    assert (done.records, done.sizes) == (None, {"rows": Size()})


# --- sizes


def test_files_know_their_lines_and_what_is_left(tmp_path: Path) -> None:
    logs, heard = tmp_path / "logs", Heard()
    logs.mkdir()
    (logs / "a.log").write_text("one\ntwo\r\nthree\n")
    (logs / "b.log.gz").write_bytes(gzip.compress(b"four\nfive\n"))

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        ss.listen(ssc, heard.append)
        return {"lines": ss.sources.files(ssc, str(logs))}

    seen = run_ticks(build, tmp_path / "home", [1, 2, 3], max_per_batch=1)
    first, second = heard.batches()
    assert [len(rows) for rows in seen["lines"].values()] == [first.records, second.records]
    assert sorted([(first.records, first.bytes), (second.records, second.bytes)]) == [(2, 10), (3, 15)]
    assert first.lags["files"] == Size(None, second.bytes), "the rest of what was found"
    assert second.lags["files"] == Size(0, 0)


def test_rejected_lines_are_counted_where_an_output_takes_them(tmp_path: Path) -> None:
    heard = Heard()
    texts = [[("no log line",), ('1.1.1.1 - - [17/May/2015:10:05:00 +0000] "GET / HTTP/1.1" 200 1 "-" "-"',)], [("x",)]]

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        ss.listen(ssc, heard.append)
        requests, failed = ss.transforms.access_log.split(given(ssc, texts, "value string"))
        ss.outputs.rejected(failed)
        ss.outputs.json(failed, str(tmp_path / "out"))
        ss.outputs.json(requests, str(tmp_path / "out"), name="requests")
        return {}

    run_ticks(build, tmp_path / "home", [1, 2])
    assert [event.rejected for event in heard.batches()] == [1, 1]
    assert heard.batches()[-1].totals["rejected"] == 2, "two outputs of them do not double them"
    assert [dict(event.rows) for event in heard.batches()] == 2 * [{"rejected:rejected": 1, "json:json": 1}]


def test_a_state_has_its_rows_from_the_first_snapshot_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 2)
    heard = Heard()
    run_ticks(counted(heard), tmp_path, [1, 3, 4])
    run_ticks(counted(heard), tmp_path, [5])
    assert [event.states["by-k"].records for event in heard.batches()] == [None, 3, 3, 3]
    assert all((event.states["by-k"].bytes or 0) > 0 for event in heard.batches()[1:3])


# --- Spark's own figures


def test_the_streaming_tab_has_the_records_of_frames(spark: SparkSession) -> None:
    found = []

    class Tab(StreamingListener):
        def onBatchCompleted(self, batchCompleted: Any) -> None:
            info = batchCompleted.batchInfo()
            found.append((info.batchTime().milliseconds(), info.numRecords()))

    def build(ticks: DStream[Any]) -> FrameStream:
        ticks.context().addStreamingListener(Tab())
        return ss.sources.generator(ticks.context(), rate=100, count=250).count()

    assert run_batches(build, [[], [], []]) == [[(100,)], [(100,)], [(50,)]]
    assert found == [(1000, 100), (2000, 100), (3000, 50)]


# --- the log


def words(line: str) -> dict[str, str]:
    """The words of a line, read as a shell reads them."""
    return dict(word.partition("=")[::2] for word in shlex.split(line))


def test_a_batch_is_one_line_of_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run_ticks(counted(Heard()), tmp_path, [1])
    (line,) = [message for message in caplog.messages if " done in " in message]
    found = words(re.sub(r"^batch 1 done in [\d.]+ s: ", "", line))
    assert found["time"] == "1970-01-01T00:00:01.000Z"
    assert (found["records"], found["offsets.rows"], found["rows.positive"]) == ("3", "[null,1]", "2")
    assert {"plan", "prepare", "outputs", "states", "snapshots", "delay"} <= found.keys()


def report(**changes: Any) -> BatchDone:
    empty = ("phases", "ranges", "sizes", "lags", "rows", "retries", "errors", "states")
    facts: dict[str, Any] = {name: {} for name in empty} | {"seconds": 0.1, "delay": 0.1, "ended": 0, "rejected": None}
    return BatchDone(**{"n": 1, "time": datetime(2026, 1, 31, tzinfo=timezone.utc)} | facts | changes)


def test_names_and_errors_cannot_break_the_line() -> None:
    hostile = 'a "b" = \x1b[2J\nbatch 9 done in 0.1 s: é \u202e'
    line = reports.line(report(rows={hostile: 1}, retries={hostile: 2}, errors={hostile: hostile}))
    assert line.isascii() and line.isprintable()
    assert len(line.splitlines()) == 1


def test_offsets_of_many_partitions_do_not_fill_the_log() -> None:
    many = {f"topic-{n}": {"id": "x", "first": [0] * 10, "next": [n] * 10} for n in range(300)}
    done = report(ranges={"kafka": (None, many), "rows": (1, 2)})
    assert len(reports.line(done)) < 500 and "offsets.rows=[1,2]" in reports.line(done)
    assert len(json.dumps(reports.as_json(done))) < 1000


def test_the_log_as_json_has_a_line_for_each_record_with_all_figures_of_a_batch() -> None:
    done = report(sizes={"rows": Size(3, None)}, lags={"rows": Size(0, 0)})
    record = logging.makeLogRecord({"msg": "line\n\x1b[2J é", "event": reports.as_json(done)})
    line = _Json().format(record)
    assert line.isascii() and "\n" not in line
    found = json.loads(line)
    assert found["message"] == "line\n\x1b[2J é"
    event = found["event"]
    assert (event["type"], event["n"], event["records"], event["bytes"]) == ("BatchDone", 1, 3, None)
    assert found["time"] != event["time"] == "2026-01-31T00:00:00.000+00:00"
    assert event["sizes"] == {"rows": {"records": 3, "bytes": None}}
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        failed = logging.makeLogRecord({"msg": "failed", "exc_info": __import__("sys").exc_info()})
    assert "ValueError" in json.loads(_Json().format(failed))["exception"]


def test_every_event_is_json() -> None:
    for event in (JobStarted("file:/h", 0, 1), StepFailed(None, "source 'a'", "e", 0.5), JobFailed("e"), report()):
        assert json.loads(json.dumps(reports.as_json(event)))["type"] == type(event).__name__
    assert events.JobStopped(1, drained=True) == JobStopped(1, drained=True)


# --- progress


def test_what_takes_long_is_said_with_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "SAY_AFTER", 0.001)
    caplog.set_level("INFO")
    asked = threading.Semaphore(0)

    def how_far() -> str:
        asked.release()
        return "3 of 7 tasks"

    with progress.watched("batch 1", how_far):
        for _ in range(2):  # the first line is out when it asks for the second
            assert asked.acquire(timeout=60)
    assert caplog.messages[0] == "batch 1: 0 s so far, 3 of 7 tasks"


def test_what_is_quick_is_not_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with progress.watched("batch 1"):
        pass
    assert caplog.messages == []


def test_a_drain_says_what_share_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batches, "SAY_AFTER", 0)
    caplog.set_level("INFO")
    logs = tmp_path / "logs"
    logs.mkdir()
    for n in range(4):
        (logs / f"{n}.log").write_text("a line\n")

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        return {"lines": ss.sources.files(ssc, str(logs))}

    run_ticks(build, tmp_path / "home", [1], drain=True, max_per_batch=1)
    shares = [message for message in caplog.messages if message.startswith("drain")]
    assert shares == [f"drain: {share} % of the input of this run done" for share in (25, 50, 75, 100)]


# --- traces


def test_the_phases_of_a_batch_are_spans_within_it(tmp_path: Path) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        ss.listen(ssc, ss.spans(provider.get_tracer("test")))
        return counted(Heard())(ssc)  # type: ignore[no-any-return]

    run_ticks(build, tmp_path, [1])
    *phases, batch = exporter.get_finished_spans()
    assert batch.context is not None and batch.parent is None
    assert [phase.parent for phase in phases] == [batch.context] * 5
    times = [moment for phase in phases for moment in (phase.start_time, phase.end_time)]
    assert times == sorted(times, key=lambda moment: moment or 0)
    assert batch.start_time == times[0] and (times[-1] or 0) <= (batch.end_time or 0)
    assert dict(batch.attributes or {})["sparkstream.records"] == 3


def test_a_failed_job_is_a_span_with_its_error() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    ss.spans(provider.get_tracer("test"))(JobFailed("the disk is full"))
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.status.is_ok, span.status.description) == ("job", False, "the disk is full")
