"""The commands of docs/old-logs.md, as they are printed, on a log that a server writes and rotates meanwhile.

The run of the old logs is killed, PostgreSQL is killed, and what both databases have in the end is compared with the
lines of the log files.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support import log_writer
from tests.support.supervisor import ROOT, Run, wait_until
from tests.test_docs import blocks

PASSWORD = "of a test"
LINES_A_DAY = 8_000  # more than the 1,000,000 bytes of --max-per-batch, so that each day is a batch
REQUEST = re.compile(r'(\S+) \S+ \S+ \[[^]]+\] "[^"]*" \d{3} (\d+) ')
# The runs are over before compiling pays.
QUICK = {
    "spark.ui.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}

Sums = Counter[tuple[str, str]]
"""By client and "requests" or "bytes"."""


class Page:
    """The commands of the page, block by block, in the working directory."""

    def __init__(self, port: int, place: Path):
        text = (ROOT / "docs/old-logs.md").read_text()
        self._blocks = [block.text for block in blocks(text) if block.language == "sh"]
        (line,) = re.findall(r"`(db:.*:PASSWORD)`", text)
        (place / "pgpass").write_text(line.replace("PASSWORD", PASSWORD))
        (place / "pgpass").chmod(0o600)
        self._env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self._env["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._env |= {"PGHOSTADDR": "127.0.0.1", "PGPORT": str(port)}  # where the host `db` of the page is
        (place / "conf").mkdir()
        (place / "conf/spark-defaults.conf").write_text("".join(f"{name} {value}\n" for name, value in QUICK.items()))
        self._env["SPARK_CONF_DIR"] = str(place / "conf")
        self._env.setdefault("SPARK_SUBMIT_OPTS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
        self._place, self._runs = place, list[Run]()

    def next(self, *words: str) -> str:
        """The next block, which has these words."""
        block = self._blocks.pop(0)
        assert [word for word in words if word not in block] == [], block
        for name, value in re.findall(r'^export (\w+)="(.*)"$', block, re.MULTILINE):
            self._env[name] = value.replace("$PWD", str(self._place))  # for the blocks below, too
        return block

    def start(self, block: str) -> Run:
        """Start a block, which runs until it is stopped or ended."""
        run = Run(["bash", "-ec", block], self._place / f"run-{len(self._runs)}.log", self._env)
        self._runs.append(run)
        return run

    def run(self, block: str, code: int = 0) -> str:
        """What a block prints, which ends with this code."""
        run = self.start(block)
        assert run.end() == code, run.said()
        return run.said()

    def close(self) -> None:
        for run in self._runs:
            run.sweep()

    def is_done(self) -> bool:
        """Whether each block was run."""
        return not self._blocks


@pytest.fixture
def logs(postgres: Any) -> Iterator[str]:
    """The database `logs` of the page, for which the user `kit` needs a password; yields its URL for this test."""
    server = f"postgresql://kit@127.0.0.1:{postgres.port}"
    access = postgres.folder / "data/pg_hba.conf"
    before = access.read_text()
    access.write_text(f"host logs all 127.0.0.1/32 scram-sha-256\n{before}")

    def execute(*statements: str) -> None:
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    execute(f"alter role kit password '{PASSWORD}'", "create database logs", "select pg_reload_conf()")
    yield f"{server}/logs?password={PASSWORD.replace(' ', '%20')}"
    access.write_text(before)
    execute("drop database logs with (force)", "select pg_reload_conf()")


def archive(folder: Path) -> None:
    """Seven days, rotated and compressed, with lines that are not in the format."""
    folder.mkdir()
    for day in range(2, 9):
        lines = [log_writer.line(day, n) for n in range(LINES_A_DAY)]
        lines[day * 100 : day * 100] = ["", "not a log line", lines[0][:40]]
        file = folder / f"access.log.{day}.gz"
        file.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), 1))
        os.utime(file, (1_790_000_000 - day * 86_400,) * 2)


def count(folder: Path) -> Sums:
    """What the table should have of a directory of logs."""
    found = Sums()
    for file in folder.iterdir():
        text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        for line in filter(None, map(REQUEST.match, text.decode().split("\n"))):
            client, size = line.groups()
            found.update({(client, "requests"): 1, (client, "bytes"): int(size)})
    return found


def sums(rows: list[tuple[Any, ...]]) -> Sums:
    found = Sums()
    for client, requests, size in rows:
        assert (client, "requests") not in found, "each client has one row"
        found.update({(client, "requests"): int(requests), (client, "bytes"): int(size or 0)})
    return found


def in_sqlite(query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect("counts.db", timeout=60)) as database:
        return database.execute(query).fetchall()


def in_postgres(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query).fetchall()


def has(query: Callable[[], list[tuple[Any, ...]]], least: int) -> bool:
    """Whether a query for a number has reached it; there may be no table yet."""
    with contextlib.suppress(sqlite3.OperationalError, psycopg.errors.UndefinedTable):
        return (query()[0][0] or 0) >= least
    return False


REQUESTS = "select sum(requests) from clients"


def test_the_commands_of_the_page_count_each_line_once_in_both_databases(
    tmp_path: Path,
    postgres: Any,
    logs: str,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("jobs").symlink_to(ROOT / "jobs")
    Path("live").mkdir()
    archive(Path("archive"))
    old = count(Path("archive"))
    page = Page(postgres.port, tmp_path)
    command = [sys.executable, log_writer.__file__, "live/access.log", ".", "--rate", "200", "--seed", "1"]
    writer = subprocess.Popen(command)
    try:
        # the running job
        job = page.start(page.next("--home clients.home"))
        job.wait_until(lambda: has(lambda: in_sqlite(REQUESTS), 1), "it counts requests")

        # a week of old logs, killed in the middle
        drain = page.next("--home archive.home", "--drain")
        run = page.start(drain)
        run.wait_until(lambda: [*Path("archive.home").glob("offsets/*.done")], "a batch is done")
        assert run.kill() == -signal.SIGKILL
        status = page.next("sparkstream status archive.home")
        said = page.run(status, 3)
        assert "down: " in said and re.search(r"^source files .* [\d.]+ MiB waiting,", said, re.MULTILINE), said
        assert len(in_sqlite("select * from clients_archive")) > 0
        assert sums(in_sqlite("select * from clients_archive")) != old, "it was killed too late"
        said = page.run(drain)
        assert " drained" in said, said
        said = page.run(status)
        assert "stopped: " in said and "nothing waiting" in said and re.search("^in all +7 batches", said, re.M), said

        # meanwhile the live log is rotated
        Path("live/access.log").rename("live/access.log.1")
        Path("reopen").touch()
        writer.send_signal(signal.SIGHUP)
        wait_until(lambda: not Path("reopen").exists(), "the writer has opened its log again")

        # both tables, then only what is needed
        busiest = page.run(page.next("CREATE VIEW all_clients"))
        assert len(busiest.splitlines()) == 5, busiest
        page.run(page.next("rm -r archive archive.home"))

        # another database, and its past
        page.run(page.next("sparkstream stop clients.home --wait", "sparkstream backfill"))
        assert job.end() == 0, job.said()
        before = in_sqlite(REQUESTS)[0][0]
        job = page.start(page.next("--home clients.home", "name=postgres"))
        job.wait_until(lambda: has(lambda: in_postgres(logs, REQUESTS), 1), "it writes into PostgreSQL")
        assert " WARN " not in page.run(page.next("--backfill"))
        assert has(lambda: in_postgres(logs, REQUESTS), before + 1), "the past, and what came since"
        assert job.process.poll() is None

        # an outage
        tries = job.said().count("retrying")  # the job and the backfill may have met in a row
        postgres.kill()
        try:
            job.wait_until(lambda: job.said().count("retrying") > tries, "it retries")
            said = page.run("sparkstream status clients.home", 1)
            assert re.search("retrying: .*sql:postgres", said), said
            batch = json.loads(page.run("sparkstream status clients.home --json", 1))["last_batch"]
            assert not batch["done"]
            ledger = f"select count(*) from sparkstream_ledger where output = 'clients' and batch >= {batch['n']}"
            assert in_sqlite(ledger) == [(1,)], "the other database has the batch, and no batch follows"
        finally:  # or other tests miss it
            postgres.start()

        # everything is there
        writer.terminate()
        assert writer.wait() == 0
        written = int(Path("written").read_text())
        job.wait_until(lambda: has(lambda: in_sqlite(REQUESTS), written), "it has counted all lines")
        *_, one, other = page.run(page.next("sparkstream stop clients.home --wait", "psql")).splitlines()
        assert job.end() == 0, job.said()
        assert one == other and one.split("|")[1] == str(written), (one, other)
    finally:
        writer.kill()
        writer.wait()
        page.close()

    assert page.is_done()
    live = count(Path("live"))
    found = {
        "SQLite": (live, sums(in_sqlite("select * from clients"))),
        "SQLite, old logs": (old, sums(in_sqlite("select * from clients_archive"))),
        "SQLite, both": (live + old, sums(in_sqlite("select * from all_clients"))),
        "PostgreSQL": (live, sums(in_postgres(logs, "select * from clients"))),
    }
    for where, (expected, there) in found.items():
        lines = sum(n for (_, what), n in expected.items() if what == "requests")
        missing, doubled = expected - there, there - expected
        record_property("figures", f"{where}: {lines} lines, {missing.total()} missing, {doubled.total()} doubled")
        assert (missing, doubled) == (Sums(), Sums()), where
