"""What the page shows of a job that is killed, restarted, fails and stops: compared with the job's own events."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit.engine import batches, reports
from sparkstream_kit.events import BatchDone, Event
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.page import server
from sparkstream_kit.page.model import Page
from sparkstream_kit.recovery.offset_log import OffsetLog
from tests.support.ticks import Build, given, job, killed, run_ticks

ROWS = [[(n, n % 3) for n in range(size)] for size in (3, 0, 5, 1, 2, 4, 1, 3)]


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_start", lambda *_: None)


def shown_on(pages: list[Page], heard: list[Event] | None = None) -> Build:
    """A job with a page, a state and a counting output; `pages` gets its page, `heard` its events."""

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        ss.serve_page(ssc)
        rows = given(ssc, ROWS, "v int, k int")
        pages.append(rows.graph.shared["page"])
        ss.listen(ssc, (heard if heard is not None else []).append)
        rows.filter("v > 0").for_each_batch(lambda frame, batch: frame.count(), name="positive")
        return {"sums": rows.update_state_by_key("k", {"n": ss.aggregates.count()}, name="sums")}

    return build


def everything(page: Page) -> dict[str, Any]:
    _, parts = page.since(0)
    return parts


def test_a_page_shows_what_the_events_say(tmp_path: Path) -> None:
    pages: list[Page] = []
    heard: list[Event] = []
    run_ticks(shown_on(pages, heard), tmp_path, [1, 2, 3])
    (page,), done = pages, [event for event in heard if isinstance(event, BatchDone)]
    shown = everything(page)
    assert (shown["job"]["run"], shown["job"]["interval"]) == (1, 1)
    assert shown["batches"] == [reports.brief(event) for event in done]
    assert [batch["records"] for batch in shown["batches"]] == [3, 0, 5]
    assert shown["totals"] == {"records": 8, "bytes": 0, "rejected": 0, "batches": 3, "retries": 0}
    assert shown["sources"] == [
        {"name": "rows", "records": 5, "bytes": None, "lag_records": 0, "lag_bytes": 0},
    ]
    positive = {"name": "positive", "rows": 4, "total_rows": 6, "retries": 0, "error": ""}
    assert shown["outputs"][0] == positive
    assert [state["name"] for state in shown["states"]] == ["sums"]


def test_what_a_browser_asks_for_bit_by_bit_is_all_there_is(tmp_path: Path) -> None:
    pages: list[Page] = []
    with job(shown_on(pages), tmp_path) as engine:
        version, seen = pages[0].since(0)
        known = {batch["n"]: batch for batch in seen.pop("batches", [])}
        for second in range(1, 9):
            engine.tick(1000 * second)
            if second % 3 == 0:
                continue  # the browser is slow
            version, news = pages[0].since(version)
            known |= {batch["n"]: batch for batch in news.pop("batches", [])}
            seen |= news
        assert pages[0].since(version) == (version, {})
        assert everything(pages[0]) == {**seen, "batches": list(known.values())}


@pytest.mark.parametrize("every", [2, 100], ids="snapshot every {}".format)
def test_a_restarted_job_shows_the_batches_before(every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", every)
    heard: list[Event] = []
    for second in range(1, 9):
        run_ticks(shown_on([], heard), tmp_path, [second])
    pages: list[Page] = []
    with job(shown_on(pages), tmp_path):
        shown = everything(pages[0])
    done = [event for event in heard if isinstance(event, BatchDone)]
    assert shown["batches"] == [reports.brief(event) for event in done]
    assert shown["job"]["run"] == 9
    assert shown["totals"]["records"] == sum(map(len, ROWS))


def test_a_batch_whose_report_was_lost_with_its_driver_is_shown_after_the_restart(tmp_path: Path) -> None:
    def mark_and_die(mark: Callable[..., None], n: int, note: str) -> None:
        mark(n, note)
        killed()

    with job(shown_on([]), tmp_path) as engine, suppress(SystemExit):
        engine.graph.log.mark_done = partial(mark_and_die, engine.graph.log.mark_done)  # type: ignore[method-assign]
        engine.tick(1000)
    pages: list[Page] = []
    with job(shown_on(pages), tmp_path):
        assert [batch["records"] for batch in everything(pages[0])["batches"]] == [3]


def test_the_history_is_bounded_in_memory_and_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 2)
    monkeypatch.setattr(reports, "HISTORY", 3)
    monkeypatch.setattr("sparkstream_kit.page.model.HISTORY", 3)
    pages: list[Page] = []
    for ticks in (range(1, 6), range(6, 9)):
        run_ticks(shown_on(pages), tmp_path, ticks)
    for page, last in zip(pages, (5, 8), strict=True):
        assert [batch["n"] for batch in everything(page)["batches"]] == [last - 2, last - 1, last]


def test_a_start_reads_no_more_notes_than_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_ticks(shown_on([]), tmp_path, range(1, 9))
    monkeypatch.setattr(reports, "HISTORY", 3)
    read: list[int] = []
    note = OffsetLog.note

    def noted(self: OffsetLog, n: int) -> str:
        read.append(n)
        return note(self, n)

    monkeypatch.setattr(OffsetLog, "note", noted)
    pages: list[Page] = []
    with job(shown_on(pages), tmp_path):
        assert [batch["n"] for batch in everything(pages[0])["batches"]] == [6, 7, 8]
    assert sorted(set(read)) == [6, 7, 8]


NOTES = ["", "{", "[]", '{"totals": {}}', "null", '{"batch": 3}', '{"batch": {"n": "x"}}', '{"batch": {"n": 1}}']


@pytest.mark.parametrize("note", NOTES)
def test_a_damaged_note_costs_its_batch_alone(note: str, tmp_path: Path) -> None:
    run_ticks(shown_on([]), tmp_path, [1, 2])
    (tmp_path / "offsets/1.done").write_text(note)
    pages: list[Page] = []
    with job(shown_on(pages), tmp_path) as engine:
        engine.tick(3000)
        assert [batch["n"] for batch in everything(pages[0])["batches"]] == [2, 3]


def test_a_job_that_fails_and_recovers_says_so(tmp_path: Path) -> None:
    pages: list[Page] = []
    broken = [True]

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        streams = shown_on(pages)(ssc)

        def write(*_: object) -> None:
            if broken:
                broken.pop()
                raise OSError("disk full <script>")

        streams["sums"].for_each_batch(write, name="flaky")
        return streams

    with job(build, tmp_path) as engine:
        engine._retry_for = 60
        engine.stopping.wait = lambda timeout=None: False  # type: ignore[method-assign]
        engine.tick(1000)
        assert pages[0].health().state == "running"
        (flaky,) = [output for output in everything(pages[0])["outputs"] if output["name"] == "flaky"]
        assert (flaky["retries"], flaky["error"]) == (1, "OSError: disk full <script>")


def test_while_an_output_fails_the_page_says_which(tmp_path: Path) -> None:
    pages: list[Page] = []
    found: list[Any] = []

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        streams = shown_on(pages)(ssc)

        def write(*_: object) -> None:
            found.append(pages[0].health())
            if len(found) < 3:
                raise OSError("disk full")

        streams["sums"].for_each_batch(write, name="flaky")
        return streams

    with job(build, tmp_path) as engine:
        engine._retry_for = 60
        engine.stopping.wait = lambda timeout=None: False  # type: ignore[method-assign]
        engine.tick(1000)
    assert [health.state for health in found] == ["running", "retrying", "retrying"]
    assert found[2].reason == "batch 1: the output 'flaky' failed 2 times and is tried again (OSError: disk full)"


def test_a_source_that_is_away_for_a_while_leaves_no_trace(tmp_path: Path) -> None:
    pages: list[Page] = []
    with job(shown_on(pages), tmp_path) as engine:
        engine._retry_for = 60
        source = engine.graph.sources["rows"]
        seen: list[str] = []

        def away(now: int | None) -> Any:
            seen.append(pages[0].health().state)
            if len(seen) < 3:
                raise ConnectionError("refused")
            return source.latest_offset(now)

        engine.stopping.wait = lambda timeout=None: False  # type: ignore[method-assign]
        engine.graph.sources["rows"] = ss.Source(away, source.read, source.schema, size=source.size)
        engine.tick(2000)
        assert seen == ["running", "retrying", "retrying"]
        engine.graph.sources["rows"] = source
        engine.tick(2000)
        assert pages[0].health().state == "running"


def test_the_page_tells_how_a_job_ended(tmp_path: Path) -> None:
    pages: list[Page] = []
    with job(shown_on(pages), tmp_path) as engine:
        assert pages[0].health().reason == "waiting for the first batch"
        engine.stopping.set()
        assert pages[0].health().state == "stopping"
        engine.close()
        assert pages[0].health().state == "stopped"
    with job(shown_on(pages), tmp_path) as engine:
        engine.failed(OSError("disk full"))
        assert pages[1].health()[:2] == ("failed", "bad")
        assert "disk full" in pages[1].health().reason
