"""Shows at the end what the supervised jobs went through."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import supervisor


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Put what the jobs of a test went through into its report, which also reaches us from another process."""
    try:
        yield
    finally:
        item.user_properties += [("figures", str(figures)) for figures in supervisor.REPORTS]
        supervisor.REPORTS.clear()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ended = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    figures = [value for report in ended for name, value in report.user_properties if name == "figures"]
    if figures:
        terminalreporter.section("jobs that were killed")
        for line in figures:
            terminalreporter.write_line(str(line))


@pytest.fixture
def new_job(tmp_path: Path) -> Iterator[Callable[..., supervisor.Job]]:
    """Makes the job of a test; what is left of its runs is killed in the end."""
    jobs: list[supervisor.Job] = []

    def make(**options: Any) -> supervisor.Job:
        jobs.append(supervisor.Job(tmp_path, **options))
        return jobs[-1]

    yield make
    for job in jobs:
        job.close()
