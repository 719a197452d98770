"""A job that has run for long holds no more than one that has just warmed up."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from tests.support.supervisor import Job

NewJob = Callable[..., Job]

# Spark's own memory of past jobs grows up to a limit, which is reached before the first look.
FORGETFUL = [
    *("--conf", "spark.ui.retainedJobs=50", "--conf", "spark.ui.retainedStages=50"),
    *("--conf", "spark.ui.retainedTasks=50", "--conf", "spark.sql.ui.retainedExecutions=50"),
    *("--conf", "spark.streaming.ui.retainedBatches=50"),
]


def test_the_120_batches_after_the_first_60_leave_the_memory_flat(new_job: NewJob) -> None:
    job = new_job(script="memory.py")
    source = ["--source", "generator:?rate=100000&count=1000000", "--batch-interval", "100ms", "--max-per-batch", "10"]
    run = job.start(*source, *FORGETFUL, "--stop-after", "180batches", "--output", "console:")
    assert run.end(patience=1200) == 0, run.said()
    early, late = (json.loads(line) for line in re.findall("^held (.*)", run.said(), re.MULTILINE))
    assert late["stored RDDs"] <= early["stored RDDs"] + 2, "one state and what the window needs"
    assert late["heap"] < early["heap"] + 20 * 2**20, (early, late)
    assert late["python"] < early["python"] + 5000, (early, late)
    assert len(list((job.home / "offsets").iterdir())) < 200
    assert len(list((job.home / "state" / "by-status").iterdir())) == 2
