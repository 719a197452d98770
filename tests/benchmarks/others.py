"""W3 in programs that are not Spark, by the CPU seconds of their processes on one file.

DuckDB parses the fields by one regular expression; its rows are compared. GoAccess makes its usual report, which has
more than W3 asks for, and must have accepted every line. Whatever is not installed is not run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from . import on_lines
from .inputs import read_lines
from .measure import OutputsDiffer, progress

QUERY = r"""
import json, sys, duckdb
pattern = '^(\\S+) (\\S+) (\\S+) \\[([^]]+)\\] "(\\S+) (\\S+) ([^"]+)" (\\d{3}) (\\d+|-) "([^"]*)" "([^"]*)"$'
names = "client identity user time method path protocol status bytes referrer agent".split()
duckdb.execute("set enable_progress_bar = false")  # it is printed among the rows once a query takes long
print(json.dumps(duckdb.execute('''
    select cast(fields.status as int), fields.path, count(*)
    from (
        select regexp_extract(line, ?, ?) as fields
        from read_csv(?, columns = {'line': 'varchar'}, auto_detect = false, delim = '\1', quote = '', escape = '',
                      header = false)
    )
    where fields.client <> ''
    group by all
''', [pattern, names, sys.argv[1]]).fetchall()))
"""


class Other(NamedTuple):
    """A program, with its CPU seconds per million lines, or why there are none."""

    name: str
    cpu: float | None
    why_not: str = ""


def others(batch: Path) -> list[Other]:
    """DuckDB and GoAccess on the lines of a batch."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "access.log")
        with file.open("wb") as joined:
            for part in sorted(batch.iterdir()):
                joined.write(part.read_bytes())
        rows = sorted(on_lines.STEPS["W3"]()(read_lines(batch)))
        return [_duckdb(file, rows), _goaccess(file, Path(folder, "report.json"), sum(row[2] for row in rows))]


def _duckdb(file: Path, rows: list) -> Other:
    name = "DuckDB"
    if importlib.util.find_spec("duckdb") is None:
        return Other(name, None, "not installed: scripts/install bench")
    progress(f"W3: {name}")
    cpu, printed = _cpu_of([sys.executable, "-c", QUERY, str(file)])
    if sorted(map(tuple, json.loads(printed))) != rows:
        raise OutputsDiffer("W3: DuckDB has other rows than A1, so there are no figures")
    return Other(name, cpu / sum(row[2] for row in rows) * 1e6)


def _goaccess(file: Path, report: Path, lines: int) -> Other:
    name = "GoAccess"
    if shutil.which("goaccess") is None:
        return Other(name, None, "not installed: apt-get install goaccess")
    progress(f"W3: {name}")
    cpu, _ = _cpu_of(["goaccess", str(file), "--log-format=COMBINED", "--no-global-config", "-o", str(report)])
    accepted = json.loads(report.read_text())["general"]["valid_requests"]
    if accepted != lines:
        raise OutputsDiffer(f"W3: GoAccess accepted {accepted:,} of {lines:,} lines, so there are no figures")
    return Other(name, cpu / lines * 1e6)


def _cpu_of(command: list[str]) -> tuple[float, str]:
    """CPU seconds of a command, its start included, and what it printed."""
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{command[0]} failed with {process.returncode}: run it by hand to see why")
        printed.seek(0)
        return usage.ru_utime + usage.ru_stime, printed.read().decode()
