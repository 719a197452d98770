"""A job that has run for a long time holds no more memory than one that has just warmed up."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable

from tests.support.supervisor import SLIDE, WINDOW, Entry, Job

NewJob = Callable[..., Job]

# Spark keeps past jobs up to a limit, which is reached before the first measurement.
SHORT_HISTORY = [
    *("--conf", "spark.ui.retainedJobs=50", "--conf", "spark.ui.retainedStages=50"),
    *("--conf", "spark.ui.retainedTasks=50", "--conf", "spark.sql.ui.retainedExecutions=50"),
    *("--conf", "spark.streaming.ui.retainedBatches=50"),
]


def test_the_120_batches_after_the_first_60_leave_the_memory_flat(new_job: NewJob) -> None:
    job = new_job(script="memory.py")
    source = ["--source", "generator:?rate=100000&count=1000000", "--batch-interval", "100ms", "--max-per-batch", "10"]
    run = job.start(*source, *SHORT_HISTORY, "--stop-after", "180batches", "--output", "console:")
    assert run.end(patience=1200) == 0, run.said()
    early, late = (json.loads(line) for line in re.findall("^held (.*)", run.said(), re.MULTILINE))
    for held in early, late:
        assert held["stored RDDs"] == stored_rdds(job.entries()[: held["batch"] - 1]), "state and window, nothing else"
    assert late["heap"] < early["heap"] + 20 * 2**20, (early, late)
    assert late["python"] < early["python"] + 5000, (early, late)
    assert len(list((job.home / "offsets").iterdir())) < 200
    assert len(list((job.home / "state" / "by-status").iterdir())) == 2


def stored_rdds(batches: list[Entry]) -> int:
    """Frames that a job holds after these batches: the state, the merged window, and partial aggregates of batches.

    While the next batch runs, the state before it is there beside the one after it. The batches are those inside the
    window, and those inside it at its last slide, which the next slide subtracts. How many they are depends on how fast
    batches follow each other.
    """
    *earlier, last = batches
    slides = [b for a, b in itertools.pairwise(earlier) if b.time // SLIDE > a.time // SLIDE]
    ends = (last.time, slides[-1].time)
    return 3 + len({b.n for end in ends for b in batches if end - WINDOW < b.time <= end})
