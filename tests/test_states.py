"""States read from outside of a job, as of any batch: compared with what the job itself had after that batch."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import functions as F
from pyspark.sql.types import StructType
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit import cli
from sparkstream_kit.context import new_context
from sparkstream_kit.engine import batches
from sparkstream_kit.errors import HomeDamaged, UsageError
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.recovery.home import Home
from sparkstream_kit.recovery.offset_log import OffsetLog
from sparkstream_kit.sources import _disks, _files
from sparkstream_kit.states import show
from tests.support.ticks import Build, Seen, given, job, killed, run_ticks

ROWS = [
    [(f"k{(n * size) % 4}", n * 10**17 * (-1) ** n, n / 4) for n in range(size)] for size in (3, 0, 5, 1, 7, 4, 1, 3, 9)
]
A = ss.aggregates
ALL: dict[str, Any] = {
    "count": A.count(),
    "sum": A.sum("v"),
    "mean": A.mean("v"),
    "total": A.sum("f"),
    "least": A.min("v"),
    "most": A.max(column="f"),
    "first": A.min_by("v", by="f"),
    "last": A.max_by("v", by="f"),
    "spread": A.variance("f"),
    "distinct": A.approx_count_distinct("v"),
    "median": A.approx_percentile("f", 0.5),
    "some": A.collect_set("v", limit=2),
    "top": A.top_k("v", 1),
}


def longest(rows: list[Any], state: Any) -> tuple[int, float]:
    return (len(rows) + (state.n if state else 0), max([row.f for row in rows] + [state.f if state else 0.0]))


def every_kind(ssc: StreamingContext) -> dict[str, FrameStream]:
    rows = given(ssc, ROWS, "k string, v bigint, f double")
    return {
        "all": rows.update_state_by_key("k", ALL, name="all"),
        "idle": rows.update_state_by_key("k", {"n": A.count()}, expire_after="2s", name="idle"),
        "python": rows.update_state_by_key_python("k", longest, "n int, f double", name="python"),
        "above": rows.update_state_by_key("k", {"n": A.count()}, name="below").update_state_by_key(
            [], {"rows": A.sum("n")}, name="above"
        ),
    }


def simple(ssc: StreamingContext) -> dict[str, FrameStream]:
    rows = given(ssc, ROWS, "k string, v bigint, f double")
    return {name: rows.update_state_by_key("k", {"n": A.count()}, name=name) for name in ("all", "both")}


def tree(home: Path) -> dict[str, str]:
    """Every file of a home, but the heartbeats of a driver that runs."""
    return {
        str(file.relative_to(home)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(home.rglob("*"))
        if file.is_file() and file.suffix != ".beat"
    }


def plain(state: ss.StateAt) -> list[tuple[Any, ...]]:
    mine = [column for column in state.rows.columns if not column.startswith("__")]
    return sorted(map(tuple, state.rows.select(*mine).collect()), key=repr)


@pytest.mark.parametrize(("end", "build"), [("runs", every_kind), ("killed in a batch", simple), ("stopped", simple)])
def test_a_state_is_what_the_job_had_after_each_batch(
    end: str, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 3)
    seen: Seen = {}
    with suppress(SystemExit), job(build, tmp_path, seen) as engine:
        for second in range(1, 6):
            if second == 5 and end == "killed in a batch":
                engine.graph.log.mark_done = killed  # type: ignore[method-assign]
            engine.tick(1000 * second)
        if end == "stopped":
            engine.close()
        else:
            compare(build, tmp_path, seen)
    if end != "runs":
        compare(build, tmp_path, seen)


def compare(build: Build, home: Path, seen: Seen) -> None:
    """Compare all states at all batches that can be read."""
    log, before = OffsetLog(f"file:{home}/offsets"), tree(home)
    done = log.last.n if log.is_done(log.last.n) else log.last.n - 1
    for name in seen:
        for n in {*range(log.compacted_to.n + 1, done + 1), *saved(home, name)}:
            state = ss.read_state(str(home), name, at=n, build=build)
            assert (state.n, state.time.timestamp()) == (n, log[n].time / 1000)
            assert plain(state) == seen[name][log[n].time // 1000], (name, n)
        assert ss.read_state(str(home), name, build=build).n == done
        newest = ss.read_state(str(home), name)
        assert (newest.n, plain(newest)) == (max(saved(home, name)), seen[name][log[newest.n].time // 1000])
        assert newest.rows.schema.names == ss.read_state(str(home), name, at=done, build=build).rows.schema.names
    assert tree(home) == before


def saved(home: Path, name: str) -> set[int]:
    return {int(path.name) for path in (home / f"state/{name}").iterdir() if path.name.isdigit()}


def test_a_damaged_snapshot_is_neither_used_nor_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 2)
    seen = run_ticks(simple, tmp_path, range(1, 6))
    for part in (tmp_path / "state/all/4").glob("part-*"):
        part.write_bytes(b"")
    before = tree(tmp_path)
    with pytest.raises(HomeDamaged, match="is damaged"):
        ss.read_state(str(tmp_path), "all")
    assert plain(ss.read_state(str(tmp_path), "all", at=5, build=simple)) == seen["all"][5]
    assert tree(tmp_path) == before


def test_aggregates_of_your_own_are_shown_as_they_are_kept(tmp_path: Path) -> None:
    squares = A.Aggregate((A.Part(lambda frame: F.sum(F.col("v") * F.col("v")), F.sum),), F.sqrt)

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        rows = given(ssc, [[(3,), (4,)]], "v double")
        return {"norm": rows.update_state_by_key([], {"norm": squares, "n": A.count()}, name="norm")}

    with job(build, tmp_path) as engine:
        engine.tick(1000)
        engine.close()
    assert plain(ss.read_state(str(tmp_path), "norm")) == [(25.0, 2)]


@pytest.mark.parametrize(
    "call", ["", "{", "[]", '["count", 1]', '["aggregate"]', '["approx_percentile", "v", 7]', '["sum", "v"]', "null"]
)
def test_what_is_saved_of_an_aggregate_may_be_anything(call: str) -> None:
    schema = StructType().add("n", "long", metadata={"call": call})
    assert A.saved(schema) == {}


def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 4)
    home = str(tmp_path / "home")
    with pytest.raises(UsageError, match="is not a home"):
        ss.read_state(home, "all")
    Home.open(home)
    with pytest.raises(UsageError, match=r"no saved state 'all': it has none"):
        ss.read_state(home, "all")
    run_ticks(simple, home, range(1, 3))
    Path(home, "state/all").mkdir()
    with pytest.raises(UsageError, match="not saved after any batch yet.*add --state all to its command"):
        ss.read_state(home, "all")
    run_ticks(simple, home, range(3, 10))
    with pytest.raises(UsageError, match="has no saved state 'al': it has 'all', 'both'"):
        ss.read_state(home, "al")
    with pytest.raises(UsageError, match=r"not saved after batch 5; there are snapshots after batch 4, 8\. .*all@5 to"):
        ss.read_state(home, "all", at=5)
    with pytest.raises(UsageError, match="after batch 10, and only batches 5 to 9 are replayable; there are snapshots"):
        ss.read_state(home, "all", at=10, build=simple)
    with pytest.raises(UsageError, match="after batch 1, and only batches 5 to 9"):
        ss.read_state(home, "all", at=1, build=simple)
    with pytest.raises(UsageError, match="the job has no state 'al': it has 'all', 'both'"):
        ss.read_state(home, "al", at=9, build=simple)

    def another(ssc: StreamingContext) -> None:
        given(ssc, ROWS, "k string, v bigint, f double", "other")

    with pytest.raises(UsageError, match="has read the source 'rows', which the job lacks"):
        ss.read_state(home, "all", at=9, build=another)


# --- what a reader must not do


@pytest.mark.parametrize("disk", ["local", "in place"])
def test_reading_beside_a_job_that_follows_files_does_not_disturb_it(
    disk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file was rotated, new lines are there that it has not seen, and its copies are gone: no help is allowed."""
    if disk == "in place":
        monkeypatch.setattr(_files, "disk_of", lambda path: (_disks.REMOTE, f"file:{path.removeprefix('file:')}"))
    logs, home, seen = tmp_path / "logs", tmp_path / "home", Seen()
    logs.mkdir()

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        lines = ss.sources.files(ssc, str(logs), name="logs")
        return {"lines": lines.update_state_by_key("value", {"n": A.count()}, name="lines")}

    with job(build, home, seen) as engine:
        for second in range(1, 4):
            with (logs / "access.log").open("a") as log:
                log.write(f"line {second}\n" * second)
            engine.tick(1000 * second)
        (logs / "access.log").rename(logs / "access.log.1")
        (logs / "access.log").write_text("new\n")
        before = tree(home)
        assert plain(ss.read_state(str(home), "lines", build=build)) == seen["lines"][3]
        shutil.rmtree(home / "sources/logs/landed", ignore_errors=True)
        if disk == "local":
            with pytest.raises(UsageError, match="the job has gone on"):
                ss.read_state(str(home), "lines", build=build)
        assert tree(home).items() <= before.items()
        engine.tick(4000)
    assert ("new", 1) in seen["lines"][4] and ("line 3", 3) in seen["lines"][4]


def test_the_context_that_is_active_stays_it(tmp_path: Path) -> None:
    run_ticks(simple, tmp_path, range(1, 4))
    active = new_context(ss.live_session(), 1000)
    active.queueStream([["a"]]).foreachRDD(lambda rdd: None)
    active.start()
    try:
        ss.read_state(str(tmp_path), "all", build=simple)
        assert StreamingContext.getActive() is active
    finally:
        active.stop(stopSparkContext=False)


def test_a_snapshot_has_a_copy_after_a_graceful_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 4)
    seen = Seen()
    with job(simple, tmp_path, seen) as engine:
        for second in range(1, 4):
            engine.tick(1000 * second)
        engine.close()
    for part in (tmp_path / "state/all/3").glob("part-*"):
        part.write_bytes(b"")
    assert plain(ss.read_state(str(tmp_path), "all")) == seen["all"][3]
    run_ticks(simple, tmp_path, [4, 5], seen)
    assert saved(tmp_path, "all") == {4}
    for build in (None, simple):
        assert plain(ss.read_state(str(tmp_path), "all", at=3, build=build)) == seen["all"][3]


def test_a_state_that_the_job_has_no_more_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 2)
    seen = run_ticks(simple, tmp_path, range(1, 4))

    def less(ssc: StreamingContext) -> dict[str, FrameStream]:
        rows = given(ssc, ROWS, "k string, v bigint, f double")
        return {"all": rows.update_state_by_key("k", {"n": A.count()}, name="all")}

    run_ticks(less, tmp_path, range(4, 9), give_up_outputs=["both"])
    state = ss.read_state(str(tmp_path), "both")
    assert (state.n, state.time, plain(state)) == (2, None, seen["both"][2])
    assert show(state, "both", 5).startswith("state 'both' after batch 2: ")


def test_the_batch_interval_is_that_of_the_job(tmp_path: Path) -> None:
    run_ticks(simple, tmp_path, [1, 2])
    with pytest.raises(UsageError, match="got a batch interval of 2s, and the job has one of 1s"):
        ss.read_state(str(tmp_path), "all", build=simple, batch_interval="2s")


def test_a_changed_copy_of_an_aggregate_is_not_taken_for_it() -> None:
    assert A.metadata({"n": A.count()})["n"]["call"] == '["count"]'
    assert "call" not in A.metadata({"n": replace(A.count(), result=lambda n: n * 100)})["n"]


# --- for people


def words(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    """Count lines."""
    output(source(ssc).update_state_by_key("value", {"n": A.count()}, name="lines"), name="lines")


@pytest.fixture
def lines(tmp_path: Path) -> list[str]:
    """The command line of a job that counts lines, after it was drained once."""
    logs, home = tmp_path / "logs", tmp_path / "home"
    logs.mkdir()
    (logs / "a.log").write_text("=cmd()|x\nb\x1b[2J\nb\x1b[2J\n" + "".join(f"line {n:02}\n" for n in range(30)))
    command = ["--source", f"files:{logs}", "--home", str(home), "--output", f"json:{tmp_path / 'out'}", "--drain"]
    assert ss.main(words, command) == 0
    return command


def test_the_command_shows_a_state(lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    home = lines[3]
    capsys.readouterr()
    assert cli.main(["state", home]) == 0
    assert capsys.readouterr().out == "lines: snapshots after batch 1\n"
    assert cli.main(["state", home, "lines", "--rows", "3"]) == 0
    head, _, columns, *rows, more = capsys.readouterr().out.splitlines()
    assert head.startswith("state 'lines' after batch 1 at 20") and head.endswith("UTC: 32 rows")
    assert (columns, rows, more) == (
        "value     n",
        ["=cmd()|x  1", r"b\x1b[2J  2", "line 00   1"],
        "and 29 more",
    )
    assert cli.main(["state", home, "lines", "--json", "--rows", "40"]) == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (len(objects), objects[1]) == (32, {"value": "b\x1b[2J", "n": 2})
    assert cli.main(["state", home, "lines", "--at", "7"]) == 2
    assert "add --state lines@7 to its command" in capsys.readouterr().err


def test_the_job_computes_a_state_and_runs_nothing(lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    home, logs = Path(lines[3]), Path(lines[1].removeprefix("files:"))
    (logs / "b.log").write_text("one more\n")
    before = tree(home)
    capsys.readouterr()
    for state in ("lines", "lines@1"):
        assert ss.main(words, [*lines, "--state", state]) == 0
        assert "state 'lines' after batch 1 at " in capsys.readouterr().out
    assert ss.main(words, [*lines, "--state", "liens"]) == 2
    assert "the job has no state 'liens': it has 'lines'" in capsys.readouterr().err
    assert ss.main(words, ["--source", "generator:", "--state", "lines"]) == 2
    assert "without a --home" in capsys.readouterr().err
    assert tree(home) == before


def test_wide_cells_are_cut_and_no_rows_are_a_table_too(tmp_path: Path) -> None:
    session = ss.live_session()
    frame = session.createDataFrame([("x" * 100, None, [1])], "a string, b int, c array<int>")
    when = datetime(2026, 1, 31, tzinfo=timezone.utc)
    assert show(ss.StateAt(3, when, frame), "s", 20).splitlines()[3] == f"{'x' * 59}…     [1]"
    assert show(ss.StateAt(3, when, frame.limit(0)), "s", 20).endswith(": 0 rows\n\na  b  c")
