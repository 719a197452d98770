"""What somebody sees who runs scripts/demo in a terminal of 80 columns and 24 lines."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.cells import cell_len

pytestmark = pytest.mark.program

ROOT = Path(__file__).parents[2]
BYTES_PER_BATCH = 80_000  # about ten files
BYTES = (ROOT / "jobs" / "data" / "access_2000.log").stat().st_size
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Seen(NamedTuple):
    code: int
    screen: str
    """What was printed, without the terminal's commands: each picture of the tables below the one before."""
    stderr: str

    def batches(self, output: str) -> list[int]:
        """The batches that a table was shown for, in the order of their pictures."""
        return [int(n) for n in re.findall(rf"\b{output} - batch (\d+) at \d\d:\d\d:\d\d", self.screen)]

    def answer(self, query: str) -> list[list[str]]:
        """The rows printed below a query, without the names of their columns."""
        _, _, below = self.screen.partition(f"$ {query}\n")
        table, _, _ = below.partition("\n\n")
        return [re.split(r"  +", line.strip()) for line in table.strip().split("\n")[1:]]


def printed(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            some = os.read(terminal, 65536)
        except OSError:  # Linux says so when nobody has the other end any more
            return
        if not some:
            return
        yield some


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """The demo, with files that arrive as quickly as they can be counted."""
    errors = tmp_path_factory.mktemp("demo") / "stderr"
    terminal, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [ROOT / "scripts" / "demo", "--batch-interval", "1s", "--max-per-batch", str(BYTES_PER_BATCH)]
    unwanted = {"COLUMNS", "LINES", "TMPDIR", "NO_COLOR", "LOG4J_CONFIGURATION_FILE"}
    env = {name: value for name, value in os.environ.items() if name not in unwanted}
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            command,
            stdout=its,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            env={**env, "TERM": "xterm", "DEMO_PAUSE": "0.05"},
            start_new_session=True,
        )
    os.close(its)
    try:
        screen = b"".join(printed(terminal)).decode()
        code = process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        os.close(terminal)
    return Seen(code, ESCAPE.sub("", screen).replace("\r", ""), errors.read_text())


def test_it_succeeds_and_nothing_warns(demo: Seen) -> None:
    said = [line.split(" ", 2)[2] for line in demo.stderr.splitlines()]
    assert (demo.code, said[0], said[-1]) == (0, "INFO starting Spark", "INFO stopping gracefully")
    assert [line for line in said if not line.startswith("INFO ")] == []
    assert [line for line in said if "done in" in line] == [], "the tables show the batches"


def test_no_line_is_wider_than_the_terminal(demo: Seen) -> None:
    assert [line for line in demo.screen.split("\n") if cell_len(line) > 80] == []


def test_lines_arrive_in_many_batches_and_each_is_shown(demo: Seen) -> None:
    batches = demo.batches("totals")
    assert sorted(set(batches)) == list(range(1, batches[-1] + 1))
    assert batches == sorted(batches)
    assert batches[-1] >= BYTES / BYTES_PER_BATCH
    assert set(demo.batches("statuses")) == set(batches)


def test_the_scanner_raises_an_alert_that_is_shown_and_kept(demo: Seen) -> None:
    assert re.search(r"\n(\d\d:\d\d:\d\d) +\d\d:\d\d:\d\d +25\.0 +\d+\.0 ", demo.screen)
    alerts = demo.answer("select * from alerts order by time")
    assert alerts
    assert {since for _, since, *_ in alerts} == {alerts[0][0]}, "it is one run of batches, and calm before and after"
    assert all(float(found) > float(expected) == 25 for _, _, expected, found in alerts)


def test_every_line_is_counted_in_the_end(demo: Seen) -> None:
    counted = demo.answer("select status, count from statuses order by count desc")
    assert counted == [["200", "1845"], ["404", "395"], ["301", "62"], ["304", "37"], ["206", "21"]]


def test_the_job_was_stopped_gracefully(demo: Seen) -> None:
    newest = demo.batches("totals")[-1]
    assert re.search(rf"\nhealth +\S stopped: it stopped gracefully after batch {newest}\n", demo.screen)


def test_it_opens_with_the_address_of_its_page_and_the_job_is_there(demo: Seen) -> None:
    (address,) = re.findall(r"^The job has a page: open (http://127\.0\.0\.1:\d+/) when it runs\.\n", demo.screen)
    assert f"INFO page: {address}\n" in demo.stderr
