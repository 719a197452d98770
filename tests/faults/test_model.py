"""Stories of a job that is fed, killed, stopped, drained, changed and restored; each is recounted at every step.

A run tells the stories of its rotation; `scripts/faults` tells more, and `scripts/faults --model MINUTES` as many as it
has time for.
"""

from __future__ import annotations

import math

import pytest
from pyspark.sql import SparkSession

from sparkstream_kit.recovery.offset_log import OffsetLog
from tests.support import model, rotation

STORIES = [f"{part} {n}" for n in range(3) for part in range(rotation.PARTS)]


@pytest.mark.parametrize("seed", rotation.share(STORIES, rotation.current()))
def test_every_line_comes_out_once_and_every_state_is_exact_whatever_happens(seed: str, spark: SparkSession) -> None:
    story = model.draw(seed)
    error = model.failure(story)
    assert error is None, f"{error}, in the story\n{model.as_text(story)}"


KNOWN: list[list[model.Step]] = [
    [("feed", 3, 1), ("tick", 1), ("feed", 2, 1), ("kill", "done", 1, "before"), ("tick", 1), ("compact",), ("stop",)],
    [
        *[("feed", 3, 1), ("tick", 1), ("copy",), ("feed", 2, 1), ("tick", 1), ("restore",), ("feed", 2, 1)],
        *[("tick", 1), ("feed", 1, 2), ("tick", 5)],
    ],
]


@pytest.mark.parametrize("story", KNOWN, ids=["killed", "restored"])
def test_a_story_that_was_worth_remembering_ends_well(story: list[model.Step], spark: SparkSession) -> None:
    model.tell(story)


def test_a_job_that_forgets_what_was_unfinished_is_found(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OffsetLog, "done_to", property(lambda log: log.last.n))
    story: list[model.Step] = [("feed", 3, 1), ("tick", 1), ("feed", 2, 1), ("kill", "append", 1, "after")]
    assert isinstance(model.failure(story), AssertionError)


def test_a_story_is_the_same_for_the_same_seed() -> None:
    assert model.draw("7") == model.draw("7") != model.draw("8")


def test_a_story_is_shrunk_to_the_steps_without_which_it_does_not_fail() -> None:
    story: list[model.Step] = [("tick", n) for n in range(20)]
    needed = {("tick", 3), ("tick", 17)}
    assert model.shrink(story, lambda steps: needed <= set(steps), math.inf) == [("tick", 3), ("tick", 17)]
    assert model.as_text([("tick", 3), ("stop",)]) == "    ('tick', 3),\n    ('stop',),"
