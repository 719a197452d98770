"""What `sparkstream status` says of jobs that run, fail, are killed and stop: the home is all it reads."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit import cli
from sparkstream_kit.contracts import Offset
from sparkstream_kit.errors import BatchFailed
from sparkstream_kit.events import BatchDone, Event
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.recovery.home import Home
from sparkstream_kit.status import EXIT_CODES, describe, status
from tests.support.ticks import given, job, run_ticks

ROWS = [[(n, n % 3) for n in range(size)] for size in (3, 0, 5, 1, 2, 4, 1, 3)]
COUNTS = {"n": ss.aggregates.count()}
HOSTILE = "a\x1b[2J\u202eb"


def facts(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(status(Home.existing(f"file:{home}"))))
    return found


def counting(ssc: StreamingContext) -> dict[str, FrameStream]:
    """A job with a state, and an output that counts its rows."""
    rows = given(ssc, ROWS, "v int, k int")
    rows.filter("v > 0").for_each_batch(lambda frame, batch: frame.count(), name="positive")
    return {"sums": rows.update_state_by_key("k", COUNTS, name="sums")}


def without_pauses(engine: Any) -> None:
    engine._retry_for = 60
    engine.stopping.wait = lambda timeout=None: False


# --- figures


@pytest.mark.parametrize("graceful", [True, False], ids=["stopped", "killed"])
def test_the_figures_of_a_job_outlive_it(graceful: bool, tmp_path: Path) -> None:
    heard: list[Event] = []

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        ss.listen(ssc, heard.append)
        return counting(ssc)

    with job(build, tmp_path) as engine:
        for second in (1, 2, 3):
            engine.tick(1000 * second)
        running = facts(tmp_path)
        if graceful:
            engine.close()
    last = [event for event in heard if isinstance(event, BatchDone)][-1]
    for found in (running, facts(tmp_path)):
        assert found["batches"][-1]["n"] == last.n == 3
        assert [batch["records"] for batch in found["batches"]] == [3, 0, 5]
        assert found["totals"] == {"records": 8, "bytes": 0, "rejected": 0, "batches": 3, "retries": 0}
        assert found["outputs"]["positive"] == {"rows": last.rows["positive"], "total_rows": 6, "retries": 0}
        assert found["outputs"]["sums"]["rows"] is None, "its function returns no number"
        assert found["sources"]["rows"]["lag"] == {"records": 0, "bytes": 0}
        assert (found["interval"], found["run"]["number"]) == (1, 1)
    assert running["health"] in ("running", "slow"), "by this machine's clock"
    ended = facts(tmp_path)
    assert ended["health"] == ("stopped" if graceful else "down")
    assert ended["states"]["sums"]["rows"] if graceful else ended["states"] == {}


def test_a_backlog_is_shown_in_records(tmp_path: Path) -> None:
    run_ticks(counting, tmp_path, [3], max_per_batch=1)
    found = facts(tmp_path)
    assert found["sources"]["rows"]["lag"]["records"] == sum(map(len, ROWS[1:3]))
    assert "source rows      read up to 1, 5 records waiting, available up to 3" in describe(found)


def test_a_new_home_has_no_figures(tmp_path: Path) -> None:
    home = Home.open(str(tmp_path / "home"))
    found = status(home)
    assert (found["health"], found["reason"]) == ("stopped", "it has not started yet")
    assert (found["batches"], found["totals"], found["run"], found["outputs"]) == ([], None, None, {})
    assert describe(found)


@pytest.mark.parametrize(
    "note",
    [
        *("", "{", "[]", "null", '{"lags": {"rows": 3}}', '{"rows": ["a"]}', '{"interval": []}', '{"interval": NaN}'),
        '{"lags": {"rows": [1e999, 0]}}',
    ],
)
def test_a_note_that_cannot_be_read_is_left_out(note: str, tmp_path: Path) -> None:
    run_ticks(counting, tmp_path, [1])
    (tmp_path / "offsets/1.done").write_text(note)
    found = facts(tmp_path)
    assert (found["totals"], found["batches"], found["interval"]) == (None, [], None)
    assert describe(found)


@pytest.mark.parametrize(
    "failure",
    [
        *("", "{", "[]", "null", '{"error": "x"}', '{"error": "x", "time": "y", "epoch": 1}'),
        '{"error": "x", "time": 1, "epoch": 1, "n": "a"}',
    ],
)
def test_a_failure_that_cannot_be_read_is_left_out(failure: str, tmp_path: Path) -> None:
    home = Home.open(str(tmp_path / "home"))
    (tmp_path / "home/failure").write_text(failure)
    assert status(home)["failure"] is None


def test_passwords_are_kept_out_of_the_home(tmp_path: Path) -> None:
    with job(counting, tmp_path) as engine:
        engine._note_failure("cannot connect to postgresql://kit:secret@db/logs", step="output 'sql'", n=1, tries=1)
        assert "secret" not in (tmp_path / "failure").read_text()
        assert "postgresql://kit:***@db/logs" in facts(tmp_path)["reason"]


# --- health


def test_while_a_step_fails_status_says_which_and_why(tmp_path: Path) -> None:
    found: list[dict[str, Any]] = []

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        streams = counting(ssc)

        def write(*_: object) -> None:
            found.append(facts(tmp_path))
            if len(found) < 3:
                raise OSError(f"disk full {HOSTILE}")

        streams["sums"].for_each_batch(write, name=HOSTILE)
        return streams

    with job(build, tmp_path) as engine:
        without_pauses(engine)
        engine.tick(1000)
        found.append(facts(tmp_path))
    assert [each["health"] for each in found] == ["running", "retrying", "retrying", "running"]
    assert found[2]["failure"] == {
        "step": f"output {HOSTILE!r}",
        "batch": 1,
        "error": "OSError: disk full a\\x1b[2J\\u202eb",
        "tries": 2,
        **{name: found[2]["failure"][name] for name in ("time", "age")},
    }
    assert "failed 2 times and is tried again (OSError: disk full" in found[2]["reason"]
    assert all("\x1b" not in describe(each) and "\u202e" not in describe(each) for each in found)
    assert not (tmp_path / "failure").exists()
    assert found[3]["outputs"][HOSTILE]["retries"] == 2


def test_a_job_without_progress_is_stalled(tmp_path: Path) -> None:
    with job(counting, tmp_path) as engine:
        engine.tick(1000)
        engine.reports.progressed -= 119
        engine._lease.renew()
        assert facts(tmp_path)["health"] == "running"
        engine.reports.progressed -= 61
        engine._lease.renew()
        assert facts(tmp_path)["health"] == "stalled"
        assert facts(tmp_path)["reason"] == "no progress for 180 s: the batch hangs, or is too large"
        engine._note_failure("disk full", step="output 'flaky'", n=2, tries=3)
        assert facts(tmp_path)["reason"].startswith("no progress for 180 s, as batch 2: the output 'flaky' failed 3 ti")
        (tmp_path / "RUNNING").unlink()
        assert facts(tmp_path)["health"] == "stalled", "it does not stop either"
        engine.tick(2000)
        engine._lease.renew()
        assert facts(tmp_path)["health"] == "stopping"


def test_a_driver_without_a_heartbeat_is_taken_for_dead(tmp_path: Path) -> None:
    with job(counting, tmp_path) as engine:
        engine.tick(1000)
        beat = tmp_path / "lease/1.beat"
        os.utime(beat, (beat.stat().st_mtime - 300, beat.stat().st_mtime - 300))
        found = facts(tmp_path)
        assert (found["health"], found["driver"] is None) == ("stalled", False)
        assert found["reason"].startswith("no sign of life for 30")
        engine._lease.renew()
        assert facts(tmp_path)["health"] == "running"


def test_a_drain_may_take_its_time(tmp_path: Path) -> None:
    found: list[dict[str, Any]] = []

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        streams = counting(ssc)
        streams["sums"].for_each_batch(lambda *_: found.append(facts(tmp_path)), name="look")
        return streams

    with job(build, tmp_path, drain=True, max_per_batch=1) as engine:
        engine.reports.progressed -= 10_000
        engine._lease.renew()
        engine.tick(8000)
        engine.close()
    assert [each["health"] for each in found] == ["draining"] * 8
    assert facts(tmp_path)["health"] == "stopped"


def test_a_source_that_is_away_is_said_to_be(tmp_path: Path) -> None:
    found: list[dict[str, Any]] = []
    with job(counting, tmp_path) as engine:
        without_pauses(engine)
        source = engine.graph.sources["rows"]

        def away(now: int | None) -> Offset:
            found.append(facts(tmp_path))
            if len(found) < 2:
                raise ConnectionError("refused")
            return source.latest_offset(now)

        engine.graph.sources["rows"] = ss.Source(away, source.read, source.schema, size=source.size)
        engine.tick(0)
        assert facts(tmp_path)["health"] == "running", "it is there again, without anything new"
    assert found[1]["reason"] == "the source 'rows' failed once and is tried again (ConnectionError: refused)"
    assert found[1]["failure"]["batch"] is None


def failing(ssc: StreamingContext) -> dict[str, FrameStream]:
    def write(*_: object) -> None:
        raise ValueError("no such table")

    streams = counting(ssc)
    streams["sums"].for_each_batch(write, name="broken")
    return streams


def test_why_a_job_ended_is_said_until_it_runs_again(tmp_path: Path) -> None:
    with job(failing, tmp_path) as engine:
        engine._retry_for = 0.000_001
        with suppress(BatchFailed):
            engine.guarded(lambda: engine.tick(1000))
    ended = facts(tmp_path)
    assert ended["health"] == "down"
    assert ended["reason"].startswith("batch 1: the output 'broken' still fails (ValueError: no such table)")
    assert (ended["failure"]["step"], EXIT_CODES["down"]) == (None, 3)
    with job(counting, tmp_path, give_up_outputs=["broken"]):
        assert facts(tmp_path)["health"] == "running"
    assert facts(tmp_path)["reason"] == ended["reason"], "it has not gone on"
    with job(counting, tmp_path, give_up_outputs=["broken"]) as engine:
        engine.tick(1000)
        assert facts(tmp_path)["failure"] is None
    cut_off = facts(tmp_path)
    assert (cut_off["health"], cut_off["failure"]) == ("down", None)
    assert cut_off["reason"] == "the last run was cut off; start it again"


def test_a_home_that_cannot_be_written_does_not_keep_the_error_back(tmp_path: Path) -> None:
    with job(failing, tmp_path) as engine:
        object.__setattr__(engine.graph, "_home", _Full(engine.graph.home.root, engine.graph.home.id))
        with pytest.raises(ValueError, match="no such table"):
            engine.guarded(lambda: engine.tick(1000))


class _Full(Home):
    def note_failure(self, failure: object) -> None:
        raise OSError("no space left on device")


def test_slow_and_rejecting_jobs_are_warnings(tmp_path: Path) -> None:
    run_ticks(counting, tmp_path, [1, 2, 3, 4, 5, 6])
    for n in range(1, 7):
        path = tmp_path / f"offsets/{n}.done"
        note = json.loads(path.read_text())
        note["batch"] |= {"seconds": 3.0}
        path.write_text(json.dumps(note))
    held = Home.existing(f"file:{tmp_path}")
    with job(counting, tmp_path):
        assert status(held)["health"] == "slow"
        assert EXIT_CODES["slow"] == EXIT_CODES["rejecting"] == EXIT_CODES["retrying"] == 1


# --- --watch


@pytest.mark.parametrize("how", [[], ["--json"]], ids=["text", "json"])
def test_watch_shows_it_again_until_ctrl_c(how: list[str], tmp_path: Path) -> None:
    run_ticks(counting, tmp_path, [1])
    command = [sys.executable, "-m", "sparkstream_kit.cli", "status", str(tmp_path), "--watch", *how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None and watching.stderr is not None
        first = watching.stdout.readline()
        again = next(line for line in watching.stdout if line.startswith(first[:10]))
        watching.send_signal(signal.SIGINT)
        watching.stdout.read()
        assert watching.stderr.read() == ""
    assert watching.returncode == EXIT_CODES["down"]
    if how:
        assert json.loads(first)["health"] == json.loads(again)["health"] == "down"
    else:
        assert again.startswith("health") and "■ down" in again


def test_on_a_terminal_watch_replaces_what_it_showed_in_colour(tmp_path: Path) -> None:
    run_ticks(counting, tmp_path, [1])
    main, screen = pty.openpty()
    command = [sys.executable, "-m", "sparkstream_kit.cli", "status", str(tmp_path), "--watch"]
    colours = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with subprocess.Popen(command, stdout=screen, env=colours) as watching:
        os.close(screen)
        shown = b""
        while shown.count(cli.CLEAR.encode()) < 2:
            shown += os.read(main, 4096)
        watching.send_signal(signal.SIGINT)
    os.close(main)
    assert b"\x1b[31m\xe2\x96\xa0 down" in shown


def test_watch_goes_on_when_the_home_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_ticks(counting, tmp_path, [1])
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 1:
            (tmp_path / "offsets").rename(tmp_path / "away")
        elif len(pauses) == 2:
            (tmp_path / "away").rename(tmp_path / "offsets")
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr("sparkstream_kit.cli.time.sleep", pause)
    assert cli.main(["status", str(tmp_path), "--watch"]) == EXIT_CODES["down"]
    said = capsys.readouterr()
    assert (said.out.count("■ down"), said.err.count("has lost its offset log")) == (2, 1)
    assert pauses == [2, 2, 2]
