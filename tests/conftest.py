"""Rules for every test run: tests of whole systems are marked by their folder, and CI accepts no skipped tests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import pytest

from sparkstream_kit import lifecycle

TESTS = Path(__file__).parent
MARKERS = {"servers": "server", "faults": "fault", "cluster": "cluster", "kafka": "kafka"}


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.DoctestItem) and any("spark" in example.source for example in item.dtest.examples):
            item.add_marker("slow")
        for folder, marker in MARKERS.items():
            if item.path.is_relative_to(TESTS / folder):
                item.add_marker(marker)
    # the fast ones first
    items.sort(key=lambda item: any(item.get_closest_marker(marker) for marker in MARKERS.values()))
    first, parts = map(int, os.environ.get("TEST_SHARE", "0/1").split("/"))
    taken = items[first::parts]
    config.hook.pytest_deselected(items=[*{*items} - {*taken}])
    items[:] = taken


@pytest.fixture(autouse=True)
def _tests_survive_failed_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that fails would end the process of the tests, without a word on why."""

    def fail(message: str) -> NoReturn:
        pytest.fail(f"the process would have ended: {message}")

    monkeypatch.setattr(lifecycle, "_end_process", fail)


def skipped(config: pytest.Config) -> list[str]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") != "true" or reporter is None:
        return []
    return [report.nodeid for report in reporter.stats.get("skipped", [])]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus == pytest.ExitCode.OK and skipped(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for nodeid in skipped(terminalreporter.config):
        terminalreporter.write_line(f"skipped, which CI does not accept: {nodeid}", red=True)
    ended = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    for name, title in (("figures", "jobs that were killed"), ("rotation", "cases sampled in this run")):
        values = [str(value) for report in ended for found, value in report.user_properties if found == name]
        if values:
            terminalreporter.section(title)
            for line in values if name == "figures" else sorted(set(values)):
                terminalreporter.write_line(line)
