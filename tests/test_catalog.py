"""The catalog in docs is what its generator makes of today's docstrings, and leaves nothing out."""

from __future__ import annotations

import sparkstream_kit as ss
from docs import catalog
from sparkstream_kit.frames import StateStream
from sparkstream_kit.transforms._interval_join import JoinedStreams
from sparkstream_kit.transforms._watermarks import ClosedWindows

ROWS = [row for rows in catalog.TABLES.values() for row in rows]


def test_the_catalog_is_up_to_date() -> None:
    assert catalog.PAGE.read_text() == catalog.page(), "run: python docs/catalog.py"


def test_the_catalog_lists_every_transformation() -> None:
    assert catalog.missing() == []


def test_a_module_or_an_aggregate_that_is_not_listed_is_found() -> None:
    names = {"ss.transforms.json_lines.parse", "ss.transforms.enrich", "ss.aggregates.top_k", "StateStream.expired"}
    assert names <= set(catalog.missing({}))


def test_every_name_is_what_a_user_writes() -> None:
    kinds = (ss.FrameStream, StateStream, ClosedWindows, JoinedStreams)
    given = {"ss": ss, **{kind.__name__: kind for kind in kinds}}
    assert [eval(catalog.name_of(row.function), given) for row in ROWS] == [row.function for row in ROWS]


def test_every_transformation_has_an_example_that_runs_as_a_test() -> None:
    assert catalog.without_example() == []


def test_every_transformation_says_what_it_does() -> None:
    assert [row.function for row in ROWS if not catalog.does(row.function)] == []


def test_every_transformation_says_what_its_cost_grows_with() -> None:
    assert catalog.without_cost() == []


def test_what_a_cost_grows_with_is_one_sentence_of_the_docstring() -> None:
    def function() -> None:
        """Do it.

        Columns: a. Cost: grows with the rows of the batch, times
        window / slide. Raises UsageError.

        Cost: grows with nothing.
        """

    assert catalog.grows_with(function) == "the rows of the batch, times window / slide"


def test_a_docstring_that_says_nothing_of_its_cost_is_found() -> None:
    def function() -> None:
        """Cost nothing."""

    assert catalog.without_cost({"": [catalog.Row(function, "-", "-")]})
