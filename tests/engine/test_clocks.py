"""A clock that was wrong once: what it can do to results, and the way back."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit import cli
from sparkstream_kit.engine import batches, clocks
from sparkstream_kit.errors import HomeDamaged
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.recovery import lease, snapshots
from sparkstream_kit.recovery.offset_log import OffsetLog
from tests.support.ticks import Seen, given, job, killed

NOW = 1_600_000_000
"""What the machine's clock says in seconds when it is right; a multiple of 10."""
YEAR = 364 * 86_400
HITS = {"hits": ss.aggregates.count()}

Streams = Callable[[FrameStream], dict[str, FrameStream]]
Step = tuple[int, list[Any] | None]
"""What the clock says, in seconds after NOW, and the rows that come then."""


class Machine:
    """A job on a home, the rows that have come so far, and the clock of the machine that runs it."""

    def __init__(self, home: Path, streams: Streams, schema: str):
        self.home, self.streams, self.schema = home, streams, schema
        self.second = 0
        self.rows: list[list[Any] | None] = []
        self.seen: Seen = {}

    def clock(self) -> int:
        return 1000 * (NOW + self.second)

    def build(self, ssc: StreamingContext) -> dict[str, FrameStream]:
        return self.streams(given(ssc, self.rows, self.schema))

    def run(self, *steps: Step, close: bool = True, kill: bool = False) -> dict[str, list[list[Any]]]:
        """A run of the job; returns the rows of each batch that it began, or finished for an earlier run."""
        if steps:
            self.second = steps[0][0]
        self.seen = {}
        with job(self.build, self.home, self.seen) as engine, contextlib.suppress(SystemExit):
            for n, (self.second, rows) in enumerate(steps, 1):
                self.rows.append(rows)
                if kill and n == len(steps):
                    engine.graph.log.mark_done = killed  # type: ignore[method-assign]
                engine.tick(self.clock())
            if close:
                engine.close()
        return {name: [rows for _, rows in sorted(of.items())] for name, of in self.seen.items()}

    def cli(self, *words: str) -> int:
        return cli.main([words[0], str(self.home), *words[1:]])


@pytest.fixture
def machine(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    def made(streams: Streams, schema: str = "k string, second bigint") -> Machine:
        machine = Machine(tmp_path / "home", streams, schema)
        monkeypatch.setattr(clocks, "machine_clock", machine.clock)
        return machine

    return made


# --- timestamps in rows


def by_event_time(rows: FrameStream) -> dict[str, FrameStream]:
    timed = rows.transform(lambda frame: frame.withColumn("at", F.timestamp_seconds(F.col("second") + NOW)))
    closed = ss.transforms.event_time_window(timed, "k", "at", HITS, "10s", lateness="5s")
    visits = ss.transforms.sessions(timed, "k", "at", HITS, gap="3s", lateness="5s")
    times = [(F.unix_seconds(column) - NOW).alias(column) for column in ("start", "end")]
    return {
        "closed": closed.select("k", *times, "hits"),
        "visits": visits.select("k", *times, "hits"),
        "late": closed.late().select("k", "second"),
        "late visits": visits.late().select("k", "second"),
    }


def test_one_row_of_a_later_century_makes_no_other_row_late(
    machine: Callable[..., Machine], caplog: pytest.LogCaptureFixture
) -> None:
    century = 100 * 365 * 86_400
    ran = machine(by_event_time).run(
        (10, [("a", 1), ("x", century), ("x", century)]),
        (11, [("a", 2), ("b", 9)]),
        (30, [("x", century + 1), ("a", 28)]),
        (50, [("a", 48)]),
    )
    assert ran["closed"] == [[], [], [("a", 0, 10, 2), ("b", 0, 10, 1)], [("a", 20, 30, 1)]]
    assert ran["visits"] == [[], [], [("a", 1, 2, 2), ("b", 9, 9, 1)], [("a", 28, 28, 1)]]
    assert ran["late"] == ran["late visits"] == [[("x", century)] * 2, [], [("x", century + 1)], []]
    assert (
        caplog.text.count("rows of 'sessions' have timestamps up to 2120-08-20 12:26:40 UTC, and the clock said ") == 1
    )


def test_a_row_ahead_of_the_clock_waits_in_its_window_and_every_row_counts_once(
    machine: Callable[..., Machine],
) -> None:
    hour = 3600
    ran = machine(by_event_time).run(
        (10, [("a", 1), ("a", hour + 1)]),
        (20, [("b", 6), ("b", 4)]),  # the watermark is at 5, as the clock was at 10
        (hour + 30, [("a", hour + 2), ("c", hour + 20)]),
    )
    assert ran["closed"] == [[], [], [("a", 0, 10, 1), ("a", hour, hour + 10, 2), ("b", 0, 10, 1)]]
    assert ran["late"] == [[], [("b", 4)], []]
    assert ran["visits"][-1] == [("a", hour + 1, hour + 2, 2), ("b", 6, 6, 1)]


def test_what_is_credible_follows_the_clock_of_the_first_run_when_a_batch_runs_again(
    machine: Callable[..., Machine],
) -> None:
    day = 86_400
    job = machine(by_event_time)
    first = job.run((10, [("a", day + 15), ("a", day + 16)]), close=False, kill=True)
    assert first["late"] == [[("a", day + 16)]]
    job.second = 1_000
    again = job.run((1_000, []))
    assert again["late"][0] == [("a", day + 16)]


def test_a_watermark_that_was_saved_too_far_ahead_comes_back_to_the_clock(machine: Callable[..., Machine]) -> None:
    """As versions saved it in which a row could move it beyond the clock."""
    job = machine(by_event_time)
    job.run((10, [("a", 9)]))
    for name in ("event-windows-watermark", "sessions-watermark"):
        state = job.home / "state" / name
        poisoned = ss.live_session().createDataFrame([(4_000_000_000_000_000, 4_000_000_000_000_000, None)], FIELDS)
        for saved in sorted(path.name for path in state.iterdir()):
            (state / saved).rename(state / f"damaged-{saved}")
            snapshots.write(poisoned, f"file:{state}/{saved}")
    ran = job.run((20, [("a", 11), ("a", 4)]), (40, [("a", 39)]))
    assert ran["late"] == [[("a", 4)], []]
    assert ran["closed"] == [[], [("a", 0, 10, 1), ("a", 10, 20, 1)]]


FIELDS = "before bigint, after bigint, incredible bigint"


# --- the recorded time


def counted(rows: FrameStream) -> dict[str, FrameStream]:
    counts = rows.update_state_by_key("k", HITS, expire_after="20s", name="counts")
    return {
        "counts": counts,
        "expired": counts.expired(),
        "last 10 s": rows.reduce_by_key_and_window("k", HITS, "10s", "10s"),
    }


BEFORE: tuple[Step, ...] = ((1, [("a", 1)]), (2, [("b", 1)]))
AHEAD: tuple[Step, ...] = ((YEAR, [("a", 1), ("c", 1)]), (YEAR + 1, [("a", 1)]))


def test_a_clock_that_was_ahead_is_reported_once_and_status_shows_it(
    machine: Callable[..., Machine], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    job = machine(counted)
    job.run(*BEFORE, *AHEAD)
    assert "ahead of" not in caplog.text
    job.run((10, [("a", 1)]), (20, None), (30, None))
    (warning,) = [r.getMessage() for r in caplog.records if "ahead of" in r.getMessage()]
    assert warning.startswith("the recorded time is 363 days ahead of this machine's clock: ")
    assert f"run `sparkstream reset-clock file:{job.home}`" in warning
    job.cli("status")
    shown = capsys.readouterr().out
    assert "the recorded time is 363 days ahead of it: stop the job and run sparkstream reset-clock" in shown
    assert "s ahead of the clock" in shown
    job.cli("status", "--json")
    assert json.loads(capsys.readouterr().out)["recorded_ahead"] == YEAR + 1.001 - 30


def test_after_a_reset_windows_and_expiry_go_on_as_if_what_was_ahead_had_come_at_the_reset(
    machine: Callable[..., Machine], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    job = machine(counted)
    ahead = job.run(*BEFORE, *AHEAD)
    assert ahead["expired"][2] == [("b", 1)], "by the clock that was ahead"
    job.second = 34
    assert job.cli("reset-clock") == 0
    assert capsys.readouterr().out == "times were up to 363 days ahead, and are brought back to now\n"
    ran = job.run((39, [("c", 1)]), (41, [("d", 1)]), (53, []), (55, [("d", 1)]), (60, [("d", 1)]))
    assert "ahead of" not in caplog.text
    assert ran["last 10 s"] == [[("a", 2), ("c", 2), ("d", 1)], [], [("d", 2)]]
    assert ran["expired"] == [[], [], [], [("a", 3)], [("c", 2)]]
    assert ran["counts"][-1] == [("d", 3)]
    assert job.cli("reset-clock") == 0
    assert capsys.readouterr().out == "no time is ahead\n"


def test_a_reset_holds_for_every_later_start_and_needs_no_snapshot_of_the_stop(
    machine: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 2)
    job = machine(counted)
    job.run(*BEFORE, *AHEAD)
    job.second = 34
    assert job.cli("reset-clock") == 0
    job.run((39, [("c", 1)]), close=False)
    job.run((41, [("d", 1)]), close=False, kill=True)
    ran = job.run((44, [("d", 1)]), (50, []))
    assert ran["counts"] == [[("a", 3), ("c", 2), ("d", n)] for n in (1, 2, 2)]
    assert ran["last 10 s"] == [[("a", 2), ("c", 2), ("d", 1)], [("d", 2)]]


def test_event_time_goes_on_after_a_reset_though_rows_were_dated_by_the_clock_that_was_ahead(
    machine: Callable[..., Machine],
) -> None:
    job = machine(by_event_time)
    ran = job.run((1, [("a", 1)]), (YEAR, [("a", YEAR)]), (YEAR + 30, [("a", YEAR + 30)]))
    assert ran["closed"] == [[], [("a", 0, 10, 1)], [("a", YEAR - YEAR % 10, YEAR - YEAR % 10 + 10, 1)]]
    job.second = 60
    assert job.run((60, [("a", 59)]))["late"] == [[("a", 59)]], "without a reset"
    assert job.cli("reset-clock") == 0
    ran = job.run((61, [("a", 60), ("a", 54)]), (90, [("a", 88)]))
    assert ran["late"] == [[("a", 54)], []], "the watermark is at 55"
    assert ran["closed"] == [[], [("a", 60, 70, 1)]]


def test_alerts_do_not_begin_after_they_are_raised(machine: Callable[..., Machine]) -> None:
    def alerting(rows: FrameStream) -> dict[str, FrameStream]:
        return {
            "alerts": ss.transforms.threshold(rows, "k", ss.aggregates.sum("second"), above=5).select("since", "time")
        }

    job = machine(alerting)
    job.run((1, [("a", 1)]), (YEAR, [("a", 9)]))
    job.second = 60
    assert job.cli("reset-clock") == 0
    ((row,),) = job.run((70, [("a", 9)]))["alerts"]
    assert (row[1] - row[0]).total_seconds() == 10


# --- what a reset refuses


def refused(job: Machine, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert job.cli("reset-clock") == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    return sentence


def test_a_job_that_runs_or_was_cut_off_is_not_reset(
    machine: Callable[..., Machine], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = machine(counted)
    job.run(*BEFORE, *AHEAD, close=False)
    job.second = 34
    assert "did not stop gracefully: start the job once more and stop it" in refused(job, capsys)
    job.run()
    with monkeypatch.context() as patch:
        patch.setattr(lease, "_is_free", lambda *_: False)
        assert "the home is in use by " in refused(job, capsys)
    assert job.cli("reset-clock") == 0


def test_a_state_that_was_not_saved_at_the_stop_is_not_reset(
    machine: Callable[..., Machine], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = machine(counted)
    job.run(*BEFORE)

    def full(*args: object, **options: object) -> bool:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "write", full)
        job.run(*AHEAD)
    job.second = 34
    assert "the state 'counts' was last saved after batch 2, and the job stopped after batch 4: " in refused(
        job, capsys
    )
    job.run((34, []))
    assert job.cli("reset-clock") == 0


def test_a_note_of_resets_that_is_damaged_is_refused_by_its_path(
    machine: Callable[..., Machine],
) -> None:
    job = machine(counted)
    job.run(*BEFORE, *AHEAD)
    job.second = 34
    job.cli("reset-clock")
    (job.home / "offsets/resets").write_text("{")
    with pytest.raises(HomeDamaged, match=r"offsets/resets of the offset log is damaged"):
        OffsetLog(f"file:{job.home}/offsets")


def test_a_clock_that_goes_back_while_spark_s_timer_waits_for_it_is_reported_without_a_tick(
    machine: Callable[..., Machine], caplog: pytest.LogCaptureFixture
) -> None:
    """As `lifecycle` asks while it waits: Spark's timer brings no tick until the clock has caught up."""
    waiting = machine(counted)
    waiting.rows.append([("a", 1)])
    waiting.second = YEAR
    with job(waiting.build, waiting.home) as engine:
        engine.tick(waiting.clock())
        for waiting.second in (10, 20, YEAR, 30):
            engine.check_clock()
    said = [r.getMessage()[:38] for r in caplog.records if "ahead of this machine's clock" in r.getMessage()]
    assert said == ["the recorded time is 363 days ahead of"] * 2, "once each time it happens"
