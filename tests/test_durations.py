"""Durations: which spellings are accepted, and that no millisecond is lost on the way to Spark."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkstream_kit import durations
from sparkstream_kit.errors import UsageError

TEN_YEARS = 10 * 366 * 86_400_000


@pytest.mark.parametrize(
    ("written", "milliseconds"),
    [
        ("500ms", 500),
        ("2s", 2000),
        ("2", 2000),
        (2, 2000),
        (0.1 + 0.2, 300),
        ("1.5 h", 5_400_000),
        (" 3m ", 180_000),
    ],
)
def test_a_duration_is_parsed_with_or_without_a_unit(written: durations.Duration, milliseconds: int) -> None:
    assert durations.milliseconds(written) == milliseconds


@pytest.mark.parametrize(
    "written",
    ["", "s", "-1s", "0", 0, "0.5ms", "1.0005s", "1e3", "2 weeks", "1h30m", float("nan"), float("inf"), True],
)
def test_anything_else_is_refused_and_quoted(written: durations.Duration) -> None:
    with pytest.raises(UsageError) as refused:
        durations.milliseconds(written)
    assert repr(written) in str(refused.value)


@given(st.integers(1, TEN_YEARS))
def test_the_seconds_survive_being_truncated_by_pyspark(ms: int) -> None:
    assert int(durations.seconds(f"{ms}ms") * 1000) == ms


@given(st.integers(1, TEN_YEARS))
def test_the_text_of_a_duration_parses_to_the_same_duration(ms: int) -> None:
    assert durations.milliseconds(durations.text(ms)) == ms


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_only_multiples_of_the_interval_are_accepted_as_multiples(ms: int, interval: int) -> None:
    if ms % interval == 0:
        assert durations.multiple("window", f"{ms}ms", interval) == ms
    else:
        with pytest.raises(UsageError, match=r"^window .* is not a multiple of the batch interval .*: use "):
            durations.multiple("window", f"{ms}ms", interval)
