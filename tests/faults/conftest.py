"""Shows at the end what the supervised jobs went through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import supervisor


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if supervisor.REPORTS:
        terminalreporter.section("jobs that were killed")
        for figures in supervisor.REPORTS:
            terminalreporter.write_line(str(figures))


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
