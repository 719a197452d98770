"""The live page in a real browser, while its job is killed, started again and stopped.

PICTURES=docs/pictures keeps the screenshots that the docs show.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from jobs import feed
from sparkstream_kit.engine.graph import Graph
from sparkstream_kit.page import model, server
from tests.servers.conftest import free_port, installed
from tests.support.supervisor import wait_until

ROOT = Path(__file__).parents[2]
PATIENCE = 300_000  # ms, far more than any step takes
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}

TITLE = "\x1b]0;owned\x07"
SCRIPT = "<img src=x onerror=alert(1)><script>alert(2)</script>"
FORMULA = "=cmd|' /C calc'!A0"
HOSTILE = [f"{FORMULA} {TITLE} {SCRIPT} \u202egpj.exe {'x' * 3000}", f"{SCRIPT}{TITLE}"]
"""Lines that are rejected."""
SCRIPTED = f'203.0.113.66 - - [29/Nov/2026:10:00:00 +0000] "GET /{SCRIPT.replace(" ", "")} HTTP/1.1" 404 9 "-" "x"'

OUTPUTS = {
    "totals": ["page:?show=line&value=lines"],
    "statuses": ["page:?show=line&by=status", "page:?show=bar&name=counts"],
    "alerts": ["page:?show=latest"],
    "paths": ["page:?show=bar&name=top paths"],
    "clients": ["page:"],
    "rejected": ["page:", "console:"],
}
# The job is over before compiling pays.
QUICK = ["spark.driver.extraJavaOptions=-XX:TieredStopAtLevel=1", "spark.ui.enabled=false"]


class Job:
    """jobs/access_log.py on a directory of logs."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.logs, self.home = folder / "logs", folder / "access.home"
        self.logs.mkdir()
        self.lines: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        outputs = [f"{name}={uri}" for name, uris in OUTPUTS.items() for uri in uris]
        outputs.append(f"statuses=sql:sqlite:///{self.folder}/access.db?mode=upsert&key=status")
        command = [sys.executable, ROOT / "jobs/access_log.py", "--source", f"files:{self.logs}", "--home", self.home]
        command += [
            "--batch-interval",
            "2s",
            "--page",
            str(self.port),
            *(word for output in outputs for word in ("--output", output)),
        ]
        command += [word for setting in QUICK for word in ("--conf", setting)]
        with (self.folder / "out").open("ab") as out, (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=out, stderr=log, start_new_session=True)

    def write(self, lines: list[str]) -> None:
        """Let a file with these lines arrive."""
        self.lines += lines
        hidden = self.logs / ".new"
        hidden.write_text("".join(f"{line}\n" for line in lines))
        hidden.rename(self.logs / f"access-{len(self.lines):05d}.log")

    def kill(self) -> None:
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def stop(self) -> int:
        assert self._process
        (self.home / "RUNNING").unlink()
        return self._process.wait()


def screenshot(page: Page, name: str) -> None:
    if "PICTURES" in os.environ:
        page.screenshot(path=Path(os.environ["PICTURES"], f"{name}.png"), full_page=True)


def wait_for_state(page: Page, state: str) -> None:
    page.wait_for_selector(f"#health[data-state={state}]", timeout=PATIENCE)


def wait_for_records(page: Page, job: Job) -> None:
    script = "n => document.querySelector('[data-tile=records]')?.textContent === n"
    page.wait_for_function(script, arg=f"{len(job.lines):,}", timeout=PATIENCE)


def told(page: Page, what: str) -> str:
    return page.locator(what).inner_text()


def cells(page: Page, panel: str) -> list[list[str]]:
    rows = page.locator(f".panel[data-name='{panel}'] tbody tr")
    return [row.locator("td").all_inner_texts() for row in rows.all()]


class Seen(dict[str, Any]):
    """What the browsers showed at each step."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=installed("chromium"), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def seen(browser: Browser) -> Iterator[Seen]:
    """A job of two runs, the first of which is killed, and browsers that watch it."""
    folder, seen = Path(tempfile.mkdtemp(prefix="page-")), Seen(requests=[], dialogs=[], console=[])
    job = Job(folder)

    def opened(size: Any) -> Page:
        page = browser.new_page(viewport=size)
        page.on("request", lambda request: seen["requests"].append(request.url))
        page.on("dialog", lambda dialog: (seen["dialogs"].append(dialog.message), dialog.dismiss()))
        page.on("pageerror", lambda error: seen["console"].append(str(error)))
        page.goto(f"http://127.0.0.1:{job.port}/")
        return page

    chunks = [[line.rstrip("\n") for line in chunk] for chunk in feed.files(200, 60)]
    try:
        job.start()
        wait_until(lambda: "page: http" in (folder / "log").read_text(), "the page is there")
        desktop, phone = opened(DESKTOP), opened(PHONE)
        for page in (desktop, phone):
            page.evaluate("window.opened = true")
        wait_for_state(desktop, "running")
        seen["first"] = told(desktop, "#reason")
        for chunk in chunks[:6]:
            job.write(chunk)
            wait_for_records(desktop, job)
        seen["batches before"] = desktop.locator("#seconds .batch").count()
        job.kill()
        for page, name in ((desktop, "desktop"), (phone, "phone")):
            wait_for_state(page, "no-connection")
            seen[f"{name} while it is down"] = (
                told(page, "#health"),
                told(page, "#reason"),
                len(cells(page, "clients")),
            )
            screenshot(page, f"page-{name}-down")
        job.write([*chunks[6], *HOSTILE, SCRIPTED])
        job.start()
        wait_for_records(desktop, job)
        for chunk in chunks[7:]:
            job.write(chunk)
            wait_for_records(desktop, job)
        wait_for_records(phone, job)
        screenshot(desktop, "page-desktop")
        screenshot(phone, "page-phone")
        seen["same page"] = [page.evaluate("window.opened") for page in (desktop, phone)]
        late = opened(DESKTOP)
        wait_for_records(late, job)
        for name, page in (("desktop", desktop), ("late", late)):
            slots = page.locator("#seconds .batch")
            seen[f"batches on {name}"] = [int(slot.get_attribute("data-n") or 0) for slot in slots.all()]
        seen["counts"] = {
            row.locator("th").inner_text(): row.locator("td.number").inner_text()
            for row in desktop.locator(".panel[data-name=counts] tbody tr").all()
        }
        seen["rejected"] = cells(desktop, "rejected")
        seen["alerts"] = cells(desktop, "alerts")
        seen["clients"], seen["outputs"] = cells(desktop, "clients"), told(desktop, "#outputs")
        lines = desktop.locator(".panel[data-name=statuses] .key > span").all_inner_texts()
        seen["lines"] = [line.split() for line in lines]
        seen["tiles"] = {
            name: told(desktop, f"[data-tile={name}]") for name in ("records", "rejected", "batches", "retries")
        }
        seen["elements"] = desktop.locator("main script, main img").count()
        seen["widths"] = {}
        for width in (320, 360, 390, 768, 1280):
            phone.set_viewport_size({"width": width, "height": 800})
            phone.wait_for_timeout(50)
            seen["widths"][width] = phone.evaluate("document.documentElement.scrollWidth")
        seen["health"] = told(desktop, "#health")
        seen["code"] = job.stop()
        wait_for_state(desktop, "stopped")
        seen["stopped"] = told(desktop, "#reason")
        seen["job"], seen["log"], seen["out"] = job, (folder / "log").read_text(), (folder / "out").read_text()
        yield seen
    finally:
        job.kill()
        shutil.rmtree(folder)


def test_the_page_is_there_with_the_first_batch(seen: Seen) -> None:
    assert seen["first"] == "waiting for the first batch"


@pytest.mark.parametrize("name", ["desktop", "phone"])
def test_while_the_job_is_down_the_page_says_so_and_keeps_what_it_has(name: str, seen: Seen) -> None:
    health, reason, clients = seen[f"{name} while it is down"]
    assert health == "○ no connection"
    assert re.fullmatch(r"the job is down, or starting again; last heard of \d+ s ago", reason)
    assert clients == 10


def test_pages_that_are_open_go_on_when_the_job_is_there_again(seen: Seen) -> None:
    assert seen["same page"] == [True, True]
    assert seen["health"].split()[1] in ("running", "slow")


def test_batches_before_the_restart_are_there_in_old_pages_and_new_ones(seen: Seen) -> None:
    for name in ("desktop", "late"):
        batches = seen[f"batches on {name}"]
        assert batches == list(range(1, len(batches) + 1))
        assert len(batches) > seen["batches before"]


def test_every_line_is_counted_once(seen: Seen) -> None:
    lines = seen["job"].lines
    assert seen["tiles"]["records"] == f"{len(lines):,}"
    assert seen["tiles"]["rejected"].split()[0] == "2"
    statuses = Counter(found[1] for line in lines if (found := re.search(r'" (\d{3}) (?:\d+|-)', line)))
    assert seen["counts"] == {status: f"{count:,}" for status, count in sorted(statuses.items())}
    assert seen["lines"] == [[status, f"{count:,}"] for status, count in sorted(statuses.items())]


def test_alerts_from_before_the_restart_are_still_there(seen: Seen) -> None:
    assert seen["alerts"]


def test_outputs_have_their_rows(seen: Seen) -> None:
    assert re.search(r"sql:statuses\s+\d", seen["outputs"])
    assert "page:" not in seen["outputs"], "what shows the rows does not keep them"


def test_a_hostile_line_is_text_on_the_page(seen: Seen) -> None:
    newest = f"{SCRIPT}{TITLE}".replace("\x1b", r"\x1b").replace("\x07", r"\x07")
    (first, _), (second, reason) = seen["rejected"]
    assert first == newest
    assert second.startswith(rf"{FORMULA} \x1b]0;owned\x07 {SCRIPT} \u202egpj.exe xxx")
    assert len(second) < 600
    assert reason
    assert (seen["elements"], seen["dialogs"], seen["console"]) == (0, [], [])
    assert "203.0.113.66" not in str(seen["clients"]), "it has one hit"


@pytest.mark.parametrize("where", ["log", "out"])
def test_a_hostile_line_commands_no_terminal(where: str, seen: Seen) -> None:
    assert [c for c in seen[where] if not c.isprintable() and c not in "\n\t"] == []
    if where == "out":
        assert FORMULA[:4] in seen[where]


def test_the_page_asks_nobody_else(seen: Seen) -> None:
    assert {url.partition("//")[2].partition("/")[0] for url in seen["requests"]} == {f"127.0.0.1:{seen['job'].port}"}


def test_the_page_is_as_wide_as_the_screen(seen: Seen) -> None:
    assert seen["widths"] == {width: width for width in (320, 360, 390, 768, 1280)}


def test_a_job_that_stops_says_so_on_its_page(seen: Seen) -> None:
    assert seen["code"] == 0
    assert seen["stopped"] == "the job has ended: stopped gracefully"


def test_a_token_opens_the_page_and_leaves_the_address(browser: Browser) -> None:
    page = model.Page(cast(Graph, None), "guarded.py")
    guarded = server._Server(page, server._listen("127.0.0.1", 0), "s3cret")
    guarded.start()
    address = f"http://127.0.0.1:{guarded._listener.getsockname()[1]}/"
    try:
        tab = browser.new_context().new_page()
        assert "which is in the log of the job" in (tab.goto(address) or pytest.fail("no answer")).text()
        tab.goto(f"{address}?token=s3cret")
        wait_for_state(tab, "starting")
        assert tab.url == address
        other = browser.new_context().new_page()
        assert "which is in the log of the job" in (other.goto(address) or pytest.fail("no answer")).text()
    finally:
        guarded.stop()
