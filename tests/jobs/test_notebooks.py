"""The notebooks of the course, executed, and cells as people run them: again, changed, interrupted, with errors."""

from __future__ import annotations

import ast
import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from sparkstream_kit.sources import _generator
from tests.support.kernels import ENVIRONMENT, Cell, Kernel, kernel
from tests.support.supervisor import ROOT

pytestmark = pytest.mark.program

COURSE = ROOT / "jobs/course"
NOTEBOOKS = sorted(path.stem for path in (COURSE / "notebooks/en").glob("*.ipynb"))
SAMPLE = (ROOT / "jobs/data/access_2000.log").read_text().splitlines()
LINE = re.compile(r'(?P<client>\S+) \S+ \S+ \[[^]]+\] "\S+ (?P<path>\S+) [^"]+" (?P<status>\d{3}) (?P<bytes>\d+|-) .*')


def read(language: str, name: str) -> Any:
    return nbformat.read(COURSE / f"notebooks/{language}/{name}.ipynb", as_version=4)


def sources(notebook: Any, kind: str) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


# --- as files


def test_the_notebooks_are() -> None:
    assert [
        *("0_first_stream", "1_operations", "2_windows_and_state"),
        *("3_outputs_and_recovery", "exercise_1_bytes_served", "exercise_2_busiest_clients"),
        *("exercise_3_running_totals", "tour"),
    ] == NOTEBOOKS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_both_languages_have_the_same_code_and_as_many_texts(name: str) -> None:
    english, spanish = read("en", name), read("es", name)
    assert sources(english, "code") == sources(spanish, "code")
    assert [cell.cell_type for cell in english.cells] == [cell.cell_type for cell in spanish.cells]
    assert [cell.metadata for cell in english.cells] == [cell.metadata for cell in spanish.cells]
    same = set(sources(english, "markdown")) & set(sources(spanish, "markdown"))
    assert same == set(), "a text is not translated"


@pytest.mark.parametrize("name", NOTEBOOKS)
@pytest.mark.parametrize("language", ["en", "es"])
def test_notebooks_are_kept_without_outputs(language: str, name: str) -> None:
    notebook = read(language, name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell for cell in code if cell.outputs or cell.execution_count] == []
    assert max(len(line) for cell in notebook.cells for line in cell.source.splitlines()) <= 120


# --- executed


def executed(name: str) -> Any:
    """The notebook with its outputs; nbclient raises the error of a cell that should have none."""
    notebook = read("en", name)
    folder = COURSE / "notebooks/en"
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    with pytest.MonkeyPatch.context() as environment, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for variable, value in {**ENVIRONMENT, "TMPDIR": folder}.items():
            environment.setenv(variable, value)
        client.execute()
    return notebook


def results(notebook: Any) -> list[Any]:
    """What the cells return, as Python values where they are such."""
    texts = [
        output.data["text/plain"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "execute_result"
    ]
    found = []
    for text in texts:
        try:
            found.append(ast.literal_eval(text))
        except (SyntaxError, ValueError):
            found.append(text)
    return found


def displays(notebook: Any) -> list[Any]:
    return [
        output.data
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type == "display_data"
    ]


def errors(notebook: Any) -> list[str]:
    """The sentences of the cells that should fail, and do."""
    failing = [cell for cell in notebook.cells if "raises-exception" in cell.metadata.get("tags", [])]
    return [output.evalue for cell in failing for output in cell.outputs if output.output_type == "error"]


def fields(line: str) -> dict[str, str]:
    match = LINE.fullmatch(line)
    assert match, line
    return match.groupdict()


def statuses(lines: list[str]) -> Counter[int]:
    return Counter(int(fields(line)["status"]) for line in lines)


def test_0_shows_a_stream_replaces_it_and_survives_an_error() -> None:
    notebook = executed("0_first_stream")
    batches = [SAMPLE[start : start + 200] for start in range(0, 1000, 200)]
    missing = [sum(fields(line)["status"] == "404" for line in batch) for batch in batches]
    longest = [max(map(len, batch)) for batch in batches]
    assert sum(missing) > 0
    assert results(notebook) == [(5, SAMPLE[0]), 0, missing, longest, statuses(SAMPLE)[404]]
    assert errors(notebook) == [
        "a batch failed, and is lost, because the job has no checkpoint: ValueError: invalid literal for int() with "
        "base 10: '-'"
    ]
    lines, not_found, *later = displays(notebook)
    assert re.fullmatch(r"lines - batch at \d\d:\d\d:\d\d UTC\nvalue\n200", lines["text/plain"])
    rows = not_found["text/plain"].splitlines()[2:]
    assert len(rows) in missing
    names = [display["text/plain"].split(" - ")[0] for display in later]  # nbclient drops updates of cells that ended
    assert names == ["lines", "longest line", "bytes"]


def test_1_gives_what_plain_python_counts() -> None:
    notebook = executed("1_operations")
    batches = [SAMPLE[:500], SAMPLE[500:1000], SAMPLE[1000:1500]]
    first = [fields(line) for line in batches[0]]
    visits = Counter(line["client"] for line in first)
    dead = Counter(line["client"] for line in first if line["status"] in ("301", "404"))
    rejected, malformed, counts, by_status, paths, dead_links, busiest, code = results(notebook)
    assert rejected == "Rejected(line='no log line', reason='timestamp is not in brackets')"
    assert malformed == f"[[{rejected}], [], []]"
    assert counts == [[500], [500], [500]]
    assert by_status == [sorted(statuses(batch).items()) for batch in batches]
    different = {client: len({line["path"] for line in first if line["client"] == client}) for client in visits}
    assert dict(paths) == {client: different[client] for client, _ in paths}
    assert [number for _, number in paths] == sorted(different.values(), reverse=True)[:5]
    assert dict(dead_links) == {client: (visits[client], dead[client]) for client, _ in dead_links}
    assert [numbers[1] for _, numbers in dead_links] == sorted(dead.values(), reverse=True)[:5]
    assert busiest == sorted(visits.items(), key=lambda pair: (-pair[1], pair[0]))[:5]
    assert code == 0
    clients, bars = displays(notebook)
    assert "<td" in clients["text/html"]
    assert '<img alt="statuses - batch at' in bars["text/html"]


def test_2_counts_in_windows_and_from_the_first_start_on() -> None:
    notebook = executed("2_windows_and_state")
    ends = [0, 10, 30, 70, 150, 310, 630]
    batches = [SAMPLE[start:end] for start, end in pairwise(ends)]
    sizes, windows, moving, recent, totals, first, second = results(notebook)
    assert sizes == [len(batch) for batch in batches]
    assert moving == [[sum(sizes[max(0, end - 3) : end])] for end in range(1, 7)]
    assert windows == [window if end % 2 == 0 else None for end, window in enumerate(moving, 1)]
    spans = [SAMPLE[ends[max(0, end - 3)] : ends[end]] for end in range(1, 7)]
    assert recent == [sorted(statuses(span).items()) for span in spans]
    assert totals == [sorted(statuses(SAMPLE[:end]).items()) for end in ends[1:]]
    assert (first, second) == (0, 0)
    for display, lines in zip(displays(notebook), (SAMPLE[:1000], SAMPLE), strict=True):
        rows = [line.split() for line in display["text/plain"].splitlines()[2:]]
        assert {int(status): int(number) for status, number in rows} == statuses(lines)


def test_3_has_each_line_once_although_java_was_killed() -> None:
    notebook = executed("3_outputs_and_recovery")
    tops, *codes, (is_equal, lines) = results(notebook)
    assert (codes, is_equal, lines) == ([0, 0], True, 20_000)
    for batch, top in zip((SAMPLE[:1000], SAMPLE[1000:]), re.findall(r"\[Row.*?\]", tops, re.DOTALL), strict=True):
        clients = Counter(fields(line)["client"] for line in batch)
        found = {client: int(number) for client, number in re.findall(r"client='(\S+)', count=(\d+)", top)}
        assert found == {client: clients[client] for client in found}
        assert sorted(found.values()) == sorted(clients.values())[-3:]
    assert [error for error in errors(notebook) if "Java has ended" in error] == errors(notebook) != []
    bars = displays(notebook)[-1]["text/plain"].splitlines()[2:]
    generated = statuses(_generator.lines(0, 0, 20_000))
    assert {int(status): int(hits) for status, hits in map(str.split, bars)} == generated


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name.startswith("exercise")])
def test_the_check_of_an_exercise_knows_the_solution_from_a_first_try(name: str) -> None:
    notebook = executed(name)
    first, solution = results(notebook)
    assert first.startswith("not yet: ")
    assert solution == "right"
    (hidden,) = [cell for cell in notebook.cells if "solution" in cell.metadata.get("tags", [])]
    assert hidden.metadata["jupyter"] == {"source_hidden": True}


def test_the_tour_shows_what_it_says() -> None:
    notebook = executed("tour")
    code, is_equal, tested = results(notebook)
    assert (code, is_equal) == (0, True)
    assert "Row(status=404, hits=2)" in tested
    assert "Row(reason='timestamp is not in brackets')" in tested
    misspelled, refused = errors(notebook)
    assert "`staus` cannot be resolved" in misspelled
    assert refused == "a batch failed, the next start runs it again: this batch is not for me"
    requests, lines, paths, clients, *_ = displays(notebook)
    assert requests["text/plain"].startswith("requests - ")  # nbclient drops updates of cells that ended
    for chart in (lines, paths):
        assert "data:image/png;base64," in chart["text/html"]
    rows = [row.split() for row in clients["text/plain"].splitlines()[2:]]
    assert rows == sorted(rows, key=lambda row: -int(row[1]))
    assert len(rows) == 3


# --- cells as people run them


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """One kernel for all tests below: each must leave it usable."""
    with kernel(tmp_path_factory.mktemp("notebook")) as running:
        cell = running.run("import sparkstream_kit as ss, os\nss.live_session().range(3).count()")
        assert cell.result == "3", cell.error
        yield running


JOB = """
def build(ssc):
    lines = ss.sources.generator(ssc, rate=50)
    ss.show({shown})

ssc = ss.get_or_create(build, home={home!r}, batch_interval="100ms", replace=True)
{run}
"""


def job(home: str, shown: str = "lines, rows=1", run: str = "ss.start(ssc)") -> str:
    return JOB.format(home=home, shown=shown, run=run)


def has_batches(cell: Cell) -> bool:
    return cell.updates >= 2


def newest(cell: Cell) -> int:
    """The number of the batch that its display shows."""
    found = re.search(r" - batch (\d+) at ", cell.texts()[0])
    return int(found[1]) if found else 0


def test_an_interrupt_stops_the_stream_and_the_cell_runs_again(cells: Kernel) -> None:
    cell = job("interrupted", run="ss.run(ssc)")
    first = cells.run(cell, interrupt=has_batches)
    assert (first.result, first.error) == ("0", None), "stopped gracefully"
    second = cells.run(cell, interrupt=has_batches)
    assert (second.result, second.error) == ("0", None)
    assert newest(second) > newest(first) > 0, "it goes on where the first one was"


def test_a_changed_cell_replaces_the_job_that_runs(cells: Kernel) -> None:
    first = cells.run(job("replaced"))
    cells.wait(first, has_batches)
    second = cells.run(job("replaced", shown="lines.count()"))
    cells.wait(second, has_batches)
    assert newest(second) > newest(first)
    assert second.texts()[0].splitlines()[1] == "count"
    stopped = cells.run("ssc.stop(False, True)")
    assert stopped.error is None
    again = cells.run(job("replaced"))
    cells.wait(again, has_batches)
    assert newest(again) > newest(second), "a stopped stream starts again"


def test_an_interrupt_reaches_a_job_that_was_started_in_the_background(cells: Kernel) -> None:
    started = cells.run(job("background"))
    waiting = cells.run(
        "ss.stop_when(ssc, lambda: print('waits'))",
        interrupt=lambda cell: "waits" in cell.text and has_batches(started),
    )
    assert (waiting.result, waiting.error) == ("0", None)
    assert cells.run("ss.live_session().range(5).count()").result == "5"


def test_the_error_of_a_batch_appears_in_the_cell(cells: Kernel) -> None:
    fails = job("fails", run="ss.run(ssc)").replace(
        "    ss.show",
        "    def refuse(frame, batch):\n        raise ss.UsageError('not this one')\n\n"
        "    lines.for_each_batch(refuse, name='refuses')\n    ss.show",
    )
    failed = cells.run(fails)
    assert failed.error == "BatchFailed: a batch failed, the next start runs it again: not this one"
    background = cells.run(fails.replace("ss.run(ssc)", "ss.start(ssc)"))
    other = cells.run("1 + 1")
    cells.wait(background, lambda cell: "not this one" in cell.text)
    assert "not this one" not in other.text, "it appears below the cell that started the job"
    mended = cells.run(fails.replace("raise ss.UsageError('not this one')", "pass").replace("ss.run", "ss.start"))
    cells.wait(mended, has_batches)


def test_a_hostile_line_is_text(cells: Kernel) -> None:
    line = "<script>alert(1)</script> $x$ =1+1 \x1b[2J"
    cell = cells.run(
        "from pyspark.streaming import StreamingContext\n"
        "ss.get_or_create(lambda ssc: ss.sources.generator(ssc).for_each_batch(lambda f, b: None, name='none'),"
        " batch_interval='1s', replace=True)\n"
        "ssc = StreamingContext(ss.live_session().sparkContext, 1)\n"
        f"hostile = ssc.queueStream([[{line!r}]], default=ssc.sparkContext.parallelize([{line!r}]))\n"
        "ss.show(hostile)\n"
        "ss.show(hostile.map(lambda text: (text, 1)), 'bar')\n"
        "ss.start(ssc)"
    )
    cells.wait(cell, lambda cell: cell.updates >= 4)
    assert cells.run("ss.stop_when(ssc, lambda: True)").result == "0"
    table, bars = cell.displays.values()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; $x$ =1+1 \\x1b[2J</td>" in table["text/html"]
    assert "tex2jax_ignore" in table["text/html"]
    for data in (table, bars):
        assert "<script" not in data["text/html"]
        assert "\x1b" not in "".join(data.values())
    assert "data:image/png;base64," in bars["text/html"]


def test_the_kernel_survives_a_java_that_was_killed(cells: Kernel) -> None:
    started = cells.run(job("killed"))
    cells.wait(started, has_batches)
    killed = cells.run("import subprocess\nsubprocess.run(['pkill', '-KILL', '-P', str(os.getpid()), 'java'])\n1")
    assert killed.result == "1"
    again = cells.run(job("killed"))
    assert again.error is None
    cells.wait(again, has_batches)
    assert newest(again) > newest(started)
    cells.wait(started, lambda cell: "Java has ended, as it does when it is killed" in cell.text)
    assert cells.run("ss.stop_when(ssc, lambda: True)").result == "0"
