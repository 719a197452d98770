from hypothesis import given
from hypothesis import strategies as st

from sparkstream_kit.dstreams import running_sum


def test_a_key_without_state_starts_at_the_sum_of_its_first_batch() -> None:
    assert running_sum([1, 2, 3], None) == 6


def test_a_total_of_zero_is_a_total() -> None:
    assert running_sum([], 0) == 0


@given(st.lists(st.lists(st.integers())))
def test_the_total_after_all_batches_is_the_sum_of_all_values(batches: list[list[int]]) -> None:
    total = None
    for batch in batches:
        total = running_sum(batch, total)
    assert (total or 0) == sum(sum(batch) for batch in batches)
