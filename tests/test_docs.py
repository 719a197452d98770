"""README.md and docs/*.md are true: their Python runs as printed, and what they name exists.

The blocks of a page run in order, in one namespace and an empty working directory. A block that begins with the comment
`# name.py` is written to that file, for the commands and imports below it; functions named test_... are called as
pytest calls them. A text block is what the block before it prints, but for the time of day.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import re
import runpy
import shlex
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit import cli, errors, job, status, uris
from sparkstream_kit.recovery import home as home_module
from sparkstream_kit.recovery import lease, snapshots, storage
from sparkstream_kit.recovery.home import FORMAT, Home
from sparkstream_kit.recovery.offset_log import OffsetLog
from tests.support import ticks

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sparkstream_kit"
PAGES = {
    str(page.relative_to(ROOT)): page.read_text()
    for page in sorted(
        [
            *ROOT.glob("*.md"),
            *(ROOT / "docs").glob("*.md"),
            ROOT / "conf/README.md",
            ROOT / "jobs/course/README.md",
        ]
    )
}
FOREIGN_OPTIONS = {
    *("--conf", "--files", "--jars", "--load-spark-defaults", "--master", "--packages", "--properties-file"),
    "--py-files",  # these are spark-submit's
    *("--driver-memory", "--dist"),  # in PYSPARK_SUBMIT_ARGS, and pytest-xdist's
    *("--config", "--storage"),  # the first words of two of Prometheus
}
LINE = '203.0.113.9 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5\n'


class Block(NamedTuple):
    """A fenced block and the line of its fence."""

    line: int
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    fences = re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [Block(page.count("\n", 0, m.start()) + 1, m[1], m[2]) for m in fences]


def commands(block: Block) -> list[list[str]]:
    lines = block.text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def prose(page: str) -> str:
    """The page without its blocks, but with its commands."""
    return re.sub(r"^```(?!sh$)\w+\n.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)


RUNNING = [name for name, page in PAGES.items() if any(block.language == "python" for block in blocks(page))]


# --- what the README leaves to its reader: a function of a line, and one that saves a batch


def given(place: Path) -> dict[str, Any]:
    """Lines arrive in hdfs:///logs while the adopted job runs; once it has saved one, it is stopped."""
    logs, served = place / "logs", place / "jobs/served"
    logs.mkdir()

    def save(batch: Any, *_: Any) -> None:
        if not batch.collect():  # textFileStream takes what arrives after the start
            (logs / f"{len(list(logs.iterdir()))}.log").write_text(LINE)
            return
        markers = [marker for marker in (served / "RUNNING", served / "home/RUNNING") if marker.exists()]
        for marker in markers:
            marker.unlink()
        ssc = StreamingContext.getActive()
        if ssc is not None and not markers:
            threading.Thread(target=ssc.stop, args=(False, True)).start()

    return {"bytes_of": lambda line: int(line.rpartition(" ")[2]), "save": save}


# --- Python runs as printed


class Run:
    """Runs the blocks of a page in a place of their own."""

    def __init__(self, page: str, place: Path):
        self._page, self._place = page, place
        self._namespace: dict[str, Any] = {"__name__": Path(page).stem, **given(place)}
        self.files: list[str] = []

    def run(self, block: Block, spark: SparkSession) -> None:
        text = block.text.replace("hdfs:///", f"file:{self._place}/").replace("/tmp/kit", str(self._place))
        if file := re.match(r"# (\w+)\.py\n", text):
            (self._place / f"{file[1]}.py").write_text(text)
            self.files.append(file[1])
        elif block.language == "python":
            self._call(text, block.line, spark)
        elif block.language == "sh":
            for words in commands(block._replace(text=text)):
                self._command(words)

    def forget(self) -> None:
        """Let other pages have modules of the same names."""
        for file in self.files:
            sys.modules.pop(file, None)

    def _call(self, text: str, line: int, spark: SparkSession) -> None:
        before = dict(self._namespace)
        code = compile("\n" * line + text, str(ROOT / self._page), "exec")
        try:
            exec(code, self._namespace)
        except SystemExit as end:
            assert not end.code
        for name, function in self._namespace.items():
            if name.startswith("test_") and before.get(name) is not function:
                function(spark)

    def _command(self, words: list[str]) -> None:
        program, *rest = words
        if program == "python" and rest[0].removesuffix(".py") in self.files:
            sys.argv = rest
            with pytest.raises(SystemExit) as end:
                runpy.run_path(rest[0], run_name="__main__")
            assert end.value.code == 0
        elif program == "sparkstream" and any(str(self._place) in word for word in rest):
            assert cli.main(rest) == 0


def without_times(text: str) -> str:
    lines = re.sub(r"\b\d\d:\d\d:\d\d\b", "HH:MM:SS", text).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNNING)
def test_the_python_of_a_page_runs_and_prints_what_the_page_shows(
    name: str,
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", [""])
    importlib.invalidate_caches()
    page = Run(name, tmp_path)
    printed = ""
    for block in blocks(PAGES[name]):
        if block.language == "text":
            assert without_times(printed) == without_times(block.text), f"{name}, line {block.line}"
        else:
            page.run(block, spark)
            printed = capsys.readouterr().out
    page.forget()


# --- commands and options exist


def options(parser: argparse.ArgumentParser) -> set[str]:
    inside = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    nested = (options(sub) for action in inside for sub in action.choices.values())
    return set(parser._option_string_actions).union(*nested)


def build(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    """Do nothing."""


def script_help(name: str) -> str:
    """The comment at the top of a script, which is its --help."""
    return (ROOT / "scripts" / name).read_text().partition("\n\n")[0].partition("source ")[0]


def check_job(arguments: list[str]) -> None:
    chosen = job._parser(build).parse_args(arguments)
    for texts, package in ((chosen.source, ss.sources), (chosen.output or [], ss.outputs)):
        for text in texts:
            uris.parse(text, package)


def check_command(words: list[str], files: list[str]) -> None:
    """Fail if a command names what does not exist."""
    program, *rest = words
    if program == "sparkstream":
        cli._parser().parse_args(rest)
    elif program.startswith("scripts/"):
        help_ = script_help(program.removeprefix("scripts/"))
        assert [word for word in rest if word.startswith("--") and word not in help_] == []
        if program == "scripts/install":
            check_extras(rest)
    elif program == "pip":
        for extras in re.findall(r"\.\[([\w,]+)\]", " ".join(rest)):
            check_extras(extras.split(","))
    elif program in ("python", "spark-submit"):
        at = next(i for i, word in enumerate(rest) if word.endswith(".py"))
        assert {word for word in rest[:at] if word.startswith("--")} <= FOREIGN_OPTIONS
        if rest[at].startswith("docs/"):
            assert (ROOT / rest[at]).exists()
        else:
            assert rest[at].removesuffix(".py") in files or (ROOT / rest[at]).exists()
            check_job(rest[at + 1 :])
    else:
        known = "cp export git jupyter kill psql rm source sqlite3 tar yarn"
        assert program in known.split(), f"is {program} a command?"


def check_extras(extras: list[str]) -> None:
    assert set(extras) <= set(metadata.metadata("sparkstream_kit").get_all("Provides-Extra") or [])


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_exist_with_their_options(name: str) -> None:
    shown = blocks(PAGES[name])
    files = [m[1] for block in shown if (m := re.match(r"# (\w+)\.py\n", block.text))]
    for block in shown:
        if block.language == "sh":
            for words in commands(block):
                check_command(words, files)


def test_a_command_that_does_not_exist_is_found() -> None:
    for line in ("sparkstream halt HOME", "sparkstream stop HOME --now", "python job.py --sauce files:/a"):
        with pytest.raises(SystemExit):
            check_command(line.split(), ["job"])
    with pytest.raises(ss.UsageError):
        check_command(["python", "job.py", "--source", "kafka:topic"], ["job"])
    for line in ("scripts/test --quick", "pip install .[pandas]", "spark-submit --home a job.py", "make all"):
        with pytest.raises(AssertionError):
            check_command(line.split(), ["job"])


@pytest.mark.parametrize("name", PAGES)
def test_the_options_commands_and_scripts_that_a_page_mentions_exist(name: str) -> None:
    text = prose(PAGES[name])
    known = options(job._parser(build)) | options(cli._parser()) | FOREIGN_OPTIONS
    scripts = {file.name for file in (ROOT / "scripts").iterdir()}
    known |= {word for script in scripts for word in re.findall(r"--[a-z][a-z-]+", script_help(script))}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - known == set()
    assert set(re.findall(r"\bscripts/(\w+)", text)) - scripts == set()
    (subcommands,) = [a.choices for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction)]
    assert set(re.findall(r"`sparkstream ([a-z-]+)", text)) - {*subcommands} == set()
    for option, uri in re.findall(r"`--(source|output) ([^`]+)`", text):
        uris.parse(uri.strip('"'), ss.sources if option == "source" else ss.outputs)


# --- names, files and links exist


@pytest.mark.parametrize("name", PAGES)
def test_the_names_of_the_package_that_a_page_mentions_exist(name: str) -> None:
    for dotted in re.findall(r"\bss\.([a-zA-Z_][\w.]*\w)", PAGES[name]):
        thing: Any = ss
        for part in dotted.split("."):
            thing = getattr(thing, part)


@pytest.mark.parametrize("name", PAGES)
def test_the_files_that_a_page_mentions_exist(name: str) -> None:
    places = (ROOT, (ROOT / name).parent, PACKAGE, ROOT / "tests")
    mentioned = set(re.findall(r"(?<![\w/.-])(?:[\w.-]+/)*[\w-]+\.(?:py|md)\b", prose(PAGES[name])))
    own = {f"{m[1]}.py" for block in blocks(PAGES[name]) if (m := re.match(r"# (\w+)\.py\n", block.text))}
    assert {file for file in mentioned - own if not any((place / file).exists() for place in places)} == set()


@pytest.mark.parametrize("name", PAGES)
def test_the_tests_that_a_page_mentions_exist(name: str) -> None:
    tests = set(
        re.findall(r"^ *def (test_\w+)", "\n".join(f.read_text() for f in (ROOT / "tests").rglob("*.py")), re.M)
    )
    mentioned = set(re.findall(r"`(test_\w+)(?:\.\.\.)?`", PAGES[name]))
    assert {start for start in mentioned if not any(test.startswith(start) for test in tests)} == set()


def promises(page: str) -> Iterator[tuple[str, str]]:
    """The first and the last cell of each row of each table, but for figures, which show no promise."""
    for header, body in re.findall(r"^(\|.*\|)\n\|[-|]+\|\n((?:\|.*\|\n?)+)", page, re.MULTILINE):
        if not header.startswith("| run |"):
            for row in body.splitlines():
                cells = row.strip("|").split(" | ")
                yield cells[0].strip(), cells[-1].strip()


def evidence(cell: str) -> list[tuple[str, bool]]:
    """The tests that a cell names, files below tests/ or beginnings of names, and whether there are such."""
    files = {str(file.relative_to(ROOT / "tests")): file.read_text() for file in (ROOT / "tests").rglob("test_*.py")}
    names = re.findall(r"^ *def (test_\w+)", "\n".join(files.values()), re.MULTILINE)
    named = re.findall(r"`((?:\w+/)*test_\w+\.py|test_\w+(?=(?:\.\.\.)?`))", cell)
    return [(name, name in files or any(test.startswith(name) for test in names)) for name in named]


def test_each_promise_of_guarantees_md_names_a_test_that_there_is() -> None:
    found = list(promises(PAGES["docs/guarantees.md"]))
    assert len(found) > 50
    before = False  # whether the row above names one: "the same" means it
    for promise, cell in found:
        tests = evidence(cell)
        before = bool(tests) or (before and cell.startswith("the same"))
        assert before, f"no test is named for: {promise}"
        assert [name for name, exists in tests if not exists] == [], promise


def test_a_promise_without_a_test_is_found() -> None:
    table = "| what | promised | shown by |\n|---|---|---|\n| a kill | nothing | {} |\n"
    for cell, expected in [
        ("a look at it", []),
        ("`faults/test_kill.py`", [("faults/test_kill.py", False)]),
        ("`test_docs.py`, `test_a_promise_without_...`", [("test_docs.py", True), ("test_a_promise_without_", True)]),
    ]:
        ((promise, last),) = promises(table.format(cell))
        assert (promise, evidence(last)) == ("a kill", expected)


def headings(page: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", PAGES)
def test_the_links_of_a_page_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", prose(PAGES[name])):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        assert not anchor or anchor in headings(target.read_text()), link


# --- docs/operate.md: status, exit codes and errors


def valid(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a JSON value fits a schema, as far as the page uses JSON Schema."""
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    wanted = schema.get("type", [])
    for_type = [wanted] if isinstance(wanted, str) else wanted
    fits = [value is None if kind == "null" else isinstance(value, types[kind]) for kind in for_type]
    if (fits and not any(fits)) or value not in schema.get("enum", [value]):
        return False
    if not isinstance(value, dict):
        return True
    known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    return set(schema.get("required", [])) <= set(value) and all(
        valid(member, known[name]) if name in known else others is not False and valid(member, others)
        for name, member in value.items()
    )


def status_schema() -> dict[str, Any]:
    (block,) = [block for block in blocks(PAGES["docs/operate.md"]) if block.language == "json"]
    schema: dict[str, Any] = json.loads(block.text)
    return schema


def paths(schema: dict[str, Any], above: str = "") -> Iterator[str]:
    """The fields of a schema, as the table names them: a.b, and a.*.b where the names in a vary."""
    for name, below in schema.get("properties", {}).items():
        yield f"{above}{name}"
        yield from paths(below, f"{above}{name}.")
        yield from paths(below.get("additionalProperties") or {}, f"{above}{name}.*.")


@pytest.fixture
def home(spark: SparkSession, tmp_path: Path) -> Home:
    """A home with everything that status tells."""
    home = Home.open(str(tmp_path / "home"))
    log = OffsetLog(home / "offsets", lease.acquire(home / "lease").epoch)
    log.append(1000, {"files": (None, "3:1f0c"), "generator": (None, 5)}, data=True, available={"generator": 9})
    snapshots.write(spark.range(1), home / "state/counts/1")
    storage.write(home / "fingerprint.json", '{"spark": "4.2.1"}')
    storage.write(home / "checkpoint/checkpoint-3000", "")
    return home


def test_status_has_the_schema_that_operate_md_shows(home: Home, tmp_path: Path) -> None:
    schema = status_schema()
    homes = (home, Home.open(str(tmp_path / "new")))
    full, empty = (json.loads(json.dumps(status.status(h))) for h in homes)
    assert valid(full, schema) and valid(empty, schema)
    assert all(full[name] for name in ("driver", "last_batch", "sources", "replayable", "states", "checkpoint"))
    assert not valid({**full, "more": 1}, schema)
    assert not valid({**full, "health": "fine"}, schema)
    assert not valid({**full, "last_batch": {**full["last_batch"], "n": "1"}}, schema)
    assert not valid({name: fact for name, fact in full.items() if name != "home"}, schema)


def test_operate_md_explains_every_field_of_status() -> None:
    of_status, _, _ = PAGES["docs/operate.md"].partition("\n## Watch\n")
    explained = re.findall(r"^\| `([a-z_.*]+)` \| [a-z]+(?:, null)? \|", of_status, re.MULTILINE)
    minor = {"replayable.first", "replayable.last", "states.*.snapshots"}  # in the row of what they are in
    assert sorted({*explained, *minor}) == sorted(paths(status_schema()))


def test_operate_md_lists_the_exit_code_of_every_health() -> None:
    listed = re.findall(r"^\| `(\w+)` \| (\d) \|", PAGES["docs/operate.md"], re.MULTILINE)
    assert {health: int(code) for health, code in listed if health.islower()} == status.EXIT_CODES
    assert status_schema()["properties"]["health"]["enum"] == list(status.EXIT_CODES)


def test_operate_md_tells_what_to_do_after_every_error() -> None:
    listed = re.findall(r"^\| `(\w+)` \| (\d) \|", PAGES["docs/operate.md"], re.MULTILINE)
    classes = (kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not errors.KitError)
    codes = {kind.__name__: kind.exit_code for kind in classes if issubclass(kind, errors.KitError)}
    assert {name: int(code) for name, code in listed if not name.islower()} == codes


def test_operate_md_lists_all_that_is_in_a_home() -> None:
    (table,) = re.findall(r"^## What a home holds\n(.*?)^## ", PAGES["docs/operate.md"], re.MULTILINE | re.DOTALL)
    listed = {
        name for row in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE) for name in re.findall(r"`(.*?)`", row)
    }
    assert listed == set(re.findall(r"[a-z]+/|\w+\.json|^[A-Za-z]+(?=  )", home_module.__doc__ or "", re.MULTILINE))


# --- VERSIONING.md: homes


def test_a_home_of_a_newer_format_is_refused_by_its_number(home: Home) -> None:
    storage.write(home / "format", f"{FORMAT + 1}\n")
    with pytest.raises(ss.NewerFormat, match=f"has the format {FORMAT + 1}, and this version .* reads up to {FORMAT}"):
        Home.existing(home.root)


def test_fields_that_a_newer_version_added_are_ignored(home: Home) -> None:
    before = OffsetLog(home / "offsets").last
    entry = json.loads(storage.read(home / "offsets/1"))
    storage.write(home / "offsets/1", json.dumps({**entry, "watermark": 7}))
    assert OffsetLog(home / "offsets").last == before


# --- docs/extend.md: its job is killed


@pytest.mark.slow
def test_the_job_of_extend_md_counts_every_word_once_however_often_it_is_killed(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Run("docs/extend.md", tmp_path)
    for block in blocks(PAGES["docs/extend.md"]):
        if block.text.startswith("# "):
            page.run(block, spark)
    monkeypatch.syspath_prepend(str(tmp_path))
    count_words = importlib.import_module("count_words")

    def build(ssc: StreamingContext) -> dict[str, ss.FrameStream]:
        count_words.build(ssc, None, None)
        return {}

    with closing(sqlite3.connect(tmp_path / "events.db")) as connection, connection:
        connection.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, text TEXT)")
    for second in range(1, 6):
        with closing(sqlite3.connect(tmp_path / "events.db")) as connection, connection:
            connection.execute("INSERT INTO events (text) VALUES ('to be')")
        with ticks.job(build, tmp_path / "home") as engine, contextlib.suppress(SystemExit):
            if second % 2:  # killed when the batch is committed, before its done mark
                engine.graph.log.mark_done = ticks.killed  # type: ignore[method-assign]
            engine.tick(1000 * second)
    with closing(sqlite3.connect(tmp_path / "totals.db")) as connection:
        assert connection.execute("SELECT word, n FROM totals ORDER BY word").fetchall() == [("be", 5), ("to", 5)]
        assert connection.execute("SELECT n FROM written ORDER BY n").fetchall() == [(1,), (2,), (3,), (4,), (5,)]
    page.forget()
