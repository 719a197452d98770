from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import ANY

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

from sparkstream_kit import cli
from sparkstream_kit.job import JobOutput, JobSource, main
from sparkstream_kit.page import server


def build(ssc: StreamingContext, source: JobSource, output: JobOutput) -> None:
    """Lines and characters of each batch."""
    lines = source(ssc)
    output(lines.count(), "lines")
    output(lines.select(F.length("value").alias("length")), "lengths")


@pytest.fixture
def run(spark: SparkSession, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[object]:
    """Run the job in this process; gives the exit code and what it said on stderr."""

    def call(*words: str) -> tuple[int, str]:
        code = main(build, words)
        return code, capfd.readouterr().err

    yield call


def rows(folder: Path) -> list[dict[str, object]]:
    files = sorted(folder.glob("batch=*/part-*.json"), key=lambda f: int(f.parent.name.removeprefix("batch=")))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_drain_processes_all_that_is_there_in_batches_of_the_size_asked_for(run, tmp_path: Path) -> None:
    code, _ = run(
        *("--source", "generator:?count=250&seed=3", "--output", f"json:{tmp_path}/out", "--home", f"{tmp_path}/home"),
        *("--max-per-batch", "100", "--batch-interval", "200ms", "--drain"),
    )
    assert code == 0
    assert rows(tmp_path / "out" / "lines") == [{"count": 100}, {"count": 100}, {"count": 50}]
    assert len(rows(tmp_path / "out" / "lengths")) == 250


def test_batches_run_again_into_the_outputs_that_are_named(run, tmp_path: Path) -> None:
    job = ("--source", "generator:?count=250&seed=3", "--home", f"{tmp_path}/home", "--batch-interval", "200ms")
    out = ("--output", f"json:{tmp_path}/out")
    assert run(*job, *out, "--max-per-batch", "100", "--drain", "--keep-batches", "9")[0] == 0
    for output in ("lines", "lengths"):
        for file in (tmp_path / "out" / output / "batch=2").glob("part-*"):
            file.write_text("")
    assert run(*job, *out, "--backfill") == (2, ANY)
    assert cli.main(["backfill", f"{tmp_path}/home", "--from", "2", "--to", "2"]) == 0
    assert run(*job, "--output", f"lines=json:{tmp_path}/out", "--output", "console:", "--backfill")[0] == 0
    assert rows(tmp_path / "out" / "lines") == [{"count": 100}, {"count": 100}, {"count": 50}]
    assert len(rows(tmp_path / "out" / "lengths")) == 150, "left out"


def both(ssc: StreamingContext, source: JobSource, output: JobOutput) -> None:
    output(source(ssc, "east").union(source(ssc, "west")).count(), "lines")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["east=generator:?count=1"], "the job needs --source west=KIND:..., got east=generator"),
        (["generator:?count=1"], "the job needs --source west=KIND:..., got generator"),
        (["east=generator:?count=1", "south=generator:?count=1"], "the job needs --source west=KIND:..., got "),
    ],
)
def test_one_source_does_not_serve_two_names(
    words: list[str], said: str, spark: SparkSession, capfd: pytest.CaptureFixture[str]
) -> None:
    sources = [word for text in words for word in ("--source", text)]
    assert main(both, [*sources, "--output", "console:", "--drain"]) == 2
    assert f"error: {said}" in capfd.readouterr().err


def test_a_source_has_the_name_that_the_command_line_gives_it(run, tmp_path: Path) -> None:
    words = ("--output", f"json:{tmp_path}/out", "--home", f"{tmp_path}/home", "--drain", "--batch-interval", "200ms")
    assert run("--source", "east=generator:?count=5", *words)[0] == 0
    assert json.loads((tmp_path / "home" / "offsets" / "1.compacted").read_text())["end_offsets"] == {"east": 5}


def test_an_output_for_a_result_that_the_job_does_not_have_is_refused(run) -> None:
    code, error = run("--source", "generator:?count=1", "--output", "lnies=console:", "--drain")
    assert code == 2
    assert "got --output lnies=..., but the job has no result of that name: it has lengths, lines" in error


def test_an_output_with_a_name_takes_only_the_stream_of_that_name(run, tmp_path: Path) -> None:
    code, _ = run(
        *("--source", "generator:?count=5", "--output", f"lines=json:{tmp_path}/out", "--batch-interval", "200ms"),
        "--drain",
    )
    assert code == 0
    assert [folder.name for folder in (tmp_path / "out").iterdir()] == ["lines"]


@pytest.fixture
def drain(run, tmp_path: Path):
    """Drain five lines, or what a longer source has more, with these arguments."""

    def call(*words: str, count: int = 5) -> tuple[int, str]:
        source = ("--source", f"generator:?count={count}", "--home", f"{tmp_path}/home", "--drain")
        return run(*source, "--batch-interval", "200ms", *words)

    return call


def test_one_result_goes_to_two_places_of_one_kind(drain, tmp_path: Path) -> None:
    first, second = f"lines=json:{tmp_path}/a", f"lines=json:{tmp_path}/b?name=copy"
    code, error = drain("--output", first, "--output", second.partition("?")[0])
    assert code == 2
    assert "two outputs are named 'json:lines': give each a name= of its own" in error
    assert drain("--output", first, "--output", second)[0] == 0
    assert rows(tmp_path / "a/lines") == rows(tmp_path / "b/copy") == [{"count": 5}]


def test_one_result_goes_to_two_databases(drain, tmp_path: Path) -> None:
    a, b = (f"lines=sql:sqlite:///{tmp_path}/{name}.db" for name in "ab")
    assert drain("--output", a, "--output", f"{b}?name=backup&table=lines")[0] == 0
    assert drain("--output", a, "--output", f"{b}?name=backup&table=lines", count=8)[0] == 0
    for name in "ab":
        with sqlite3.connect(tmp_path / f"{name}.db") as database:
            assert database.execute("select count from lines order by rowid").fetchall() == [(5,), (3,)]


def test_a_name_for_several_results_is_refused(drain, tmp_path: Path) -> None:
    code, error = drain("--output", f"json:{tmp_path}/out?name=copy")
    assert code == 2
    assert "got name=copy for the results lengths, lines: say which of them it is for, as in lengths=json:" in error


def test_two_outputs_for_one_directory_are_refused_before_the_first_batch(drain, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, error = drain("--output", f"lines=json:{out}", "--output", f"lines=parquet:{out}")
    assert code == 2
    assert (
        f"file:{out}/lines belongs to the output 'json:lines', and this is the output 'parquet:lines' of the" in error
    )
    assert rows(out / "lines") == []


def test_an_output_that_is_left_out_is_refused_unless_it_is_given_up(drain, tmp_path: Path) -> None:
    lines, lengths = (("--output", f"{name}=json:{tmp_path}/out") for name in ("lines", "lengths"))
    assert drain(*lines, *lengths, "--output", "lines=console:")[0] == 0
    for left_out in (lines, ("--output", "console:")):
        code, error = drain(*left_out, count=8)
        assert code == 2
        assert "the job wrote the output 'json:lengths' before, and has no output of that name now, only " in error
        assert "--give-up-output json:lengths" in error
    assert drain(*lines, "--give-up-output", "json:lengths", count=8)[0] == 0
    assert drain(*lines, count=9)[0] == 0, "it is given up once"
    assert rows(tmp_path / "out/lines") == [{"count": 5}, {"count": 3}, {"count": 1}]
    assert len(rows(tmp_path / "out/lengths")) == 5
    assert drain(*lines, *lengths, count=11)[0] == 0
    assert len(rows(tmp_path / "out/lengths")) == 7


def test_a_home_from_before_outputs_were_noted_starts(drain, tmp_path: Path) -> None:
    assert drain("--output", f"json:{tmp_path}/out")[0] == 0
    (tmp_path / "home/outputs").unlink()
    (tmp_path / "home/format").write_text("1\n")
    assert drain("--output", f"lines=json:{tmp_path}/out", count=8)[0] == 0
    assert rows(tmp_path / "out/lines") == [{"count": 5}, {"count": 3}]


def test_it_says_that_it_runs_and_where_it_goes_on(run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    words = ("--source", "generator:?count=5", "--output", f"json:{tmp_path}/out", "--home", f"{tmp_path}/home")
    for last in ("no batch so far", "after batch 1"):
        caplog.clear()
        with caplog.at_level("INFO"):
            assert run(*words, "--batch-interval", "200ms", "--drain")[0] == 0
        assert f"running: a batch interval of 200ms, {last}, home file:{tmp_path}/home" in caplog.text


def test_with_a_page_and_no_outputs_every_result_is_on_it(drain) -> None:
    assert drain("--page", "0")[0] == 0
    (found,) = server._servers()
    panels = found.page.since(0)[1]["panels"]
    assert [(panel["name"], panel["show"], len(panel["rows"])) for panel in panels] == [
        ("lines", "table", 1),
        ("lengths", "table", 5),
    ]
    assert found.page.health().state == "stopped"


def test_it_stops_gracefully_after_the_requested_number_of_batches(run, tmp_path: Path) -> None:
    home = ("--home", f"{tmp_path}/home", "--output", f"json:{tmp_path}/out")
    code, _ = run("--source", "generator:?rate=100", *home, "--batch-interval", "200ms", "--stop-after", "2batches")
    assert code == 0
    assert len(rows(tmp_path / "out" / "lines")) >= 2
    assert (tmp_path / "home" / "STOPPED").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--source", "files:/nowhere/at/all"], "error: '/nowhere/at/all' is not a directory"),
        (["--source", "files:s3a://bucket/logs"], "error: this Spark cannot open 's3a://bucket/logs' (Class "),
        (["--source", "generator:?count=1", "--home", "s3a://bucket/home"], "error: this Spark cannot open 's3a://"),
        (["--source", "socket:127.0.0.1:1"], "error: nobody listens on 127.0.0.1:1"),
        (["--source", "generator:?count=1", "--batch-interval", "fast"], "error: invalid duration 'fast'"),
        (["--source", "generator:?count=1", "--home", "/proc/home"], "error: cannot write the home '/proc/home'"),
        (["--source", "generator:", "--drain"], "error: cannot drain 'generator', a source that never ends"),
        (["--source", "generator:?count=1", "--stop-after", "soon"], "error: invalid duration 'soon'"),
        (
            ["--source", "generator:?count=1", "--format", "combine"],
            "error: got the format 'combine', expected combined, ",
        ),
        (
            ["--source", "generator:?count=1", "--format", "%h %Z"],
            "error: got %Z in the format, which is not a directive",
        ),
        (["--source", "generator:?count=1", "--conf", "spark.x"], "error: got --conf spark.x, expected"),
        (["--source", "generator:?count=1", "--page", "80a"], "error: got the address '80a' for the page, expected a"),
        (
            ["--source", "generator:?count=1", "--output", "page:"],
            "error: the output page: needs a page: start the job with --page 8080",
        ),
        (["--source", "generator:?count=1", "--backfill"], "error: got --backfill without an --output that keeps its "),
        (
            ["--source", "generator:?count=1", "--backfill", "--output", "json:/x"],
            "error: got --backfill without a --home",
        ),
        ([], "error: the job needs one --source, got none"),
        (
            ["--source", "a=generator:", "--source", "b=generator:"],
            "error: the job needs one --source, got a=generator, b=generator",
        ),
    ],
)
def test_what_cannot_work_is_reported_in_one_sentence_and_exits_with_2(run, words: list[str], said: str) -> None:
    code, error = run(*words)
    (sentence,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert sentence.startswith(said)
    assert "Traceback" not in error
    assert "\tat " not in error


def test_help_shows_what_the_job_says_of_itself_and_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    sys.modules[__name__].__doc__ = "Counts lines."
    with pytest.raises(SystemExit) as ended:
        main(build, ["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    for words in (
        "Counts lines.",
        "files:PATH?glob=...",
        "generator:",
        "socket:HOST:PORT",
        "--page [HOST:]PORT",
        "page:?show=table|latest|line|bar&rows=...&by=...&value=...&x=...",
        "json:DIRECTORY",
        "console:",
        "--format NAME|STRING",
        "vhost_combined, main, traefik_common,",
    ):
        assert words in shown
