"""A job is killed under one version of PySpark, continues under another, and then under the first one again."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable

import pyspark
import pytest

from tests.support.supervisor import ROOT, VICTIMS, Job, counts, finish, kill_at_random, recount

OTHER = "4.3.0"


@pytest.fixture(scope="session")
def other_python() -> str:
    """A Python with the other PySpark, installed once beside .venv."""
    assert pyspark.__version__ != OTHER
    folder = ROOT / f".venv-pyspark-{OTHER}"
    python, made = folder / "bin" / "python", folder / "made"
    if not made.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", f"pyspark=={OTHER}"], check=True)
        made.touch()
    return str(python)


def test_a_job_continues_under_another_spark_and_back(new_job: Callable[..., Job], other_python: str) -> None:
    job, chance, count = new_job(save_every=3), random.Random(12), 9000
    arguments = counts(job, count=count, seed=12)
    for victim, python in zip(VICTIMS, (sys.executable, other_python, sys.executable), strict=True):
        kill_at_random(job, arguments, victim, chance, python=python)
    finish(job, arguments, python=other_python)
    recount(job, "from one PySpark to another and back", count=count, seed=12)
