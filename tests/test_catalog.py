"""The catalog in docs is what its generator makes of today's docstrings, and leaves nothing out."""

from docs import catalog


def test_the_catalog_is_up_to_date() -> None:
    assert catalog.PAGE.read_text() == catalog.page(), "run: python docs/catalog.py"


def test_the_catalog_lists_every_transformation() -> None:
    assert catalog.missing() == []


def test_a_module_or_an_aggregate_that_is_not_listed_is_found() -> None:
    assert {"json_lines.parse", "enrich", "aggregates.top_k", "StateStream.expired"} <= set(catalog.missing({}))


def test_every_transformation_has_an_example_that_runs_as_a_test() -> None:
    assert catalog.without_example() == []


def test_every_transformation_says_what_it_does() -> None:
    assert [row.function for rows in catalog.TABLES.values() for row in rows if not catalog.does(row.function)] == []
