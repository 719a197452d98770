"""Adds to a test's report what its supervised jobs went through, and the rotation; tests/conftest.py prints both."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import rotation, supervisor
from tests.support.sockets import Server

ROTATION = rotation.describe(rotation.current())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Put what the jobs of a test went through into its report, which also arrives from another process."""
    try:
        yield
    finally:
        item.user_properties += [("figures", str(figures)) for figures in supervisor.REPORTS]
        item.user_properties.append(("rotation", ROTATION))
        supervisor.REPORTS.clear()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that sends lines to the receiver of a job."""
    started = Server()
    yield started
    started.close()


@pytest.fixture
def new_job(tmp_path: Path) -> Iterator[Callable[..., supervisor.Job]]:
    """A function that makes the job of a test; what is left of its runs is killed at the end."""
    jobs: list[supervisor.Job] = []

    def make(**options: Any) -> supervisor.Job:
        jobs.append(supervisor.Job(tmp_path, **options))
        return jobs[-1]

    yield make
    for job in jobs:
        job.close()
