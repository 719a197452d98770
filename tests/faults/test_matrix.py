"""Every two of: a kind of job, a source, an output, a way to be killed, a trouble; nothing is lost or doubled.

A run takes a fifth of the rows by rotation; `scripts/faults` takes them all.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.support import rotation
from tests.support.matrix import KILLS, KINDS, OUTPUTS, ROWS, SOURCES, TROUBLES, Row, go_through


def test_any_two_values_meet_in_a_row() -> None:
    for (i, some), (j, others) in itertools.combinations(enumerate((KINDS, SOURCES, OUTPUTS, KILLS, TROUBLES)), 2):
        assert {(row[i], row[j]) for row in ROWS} == set(itertools.product(some, others))


@pytest.mark.parametrize("row", rotation.share(ROWS, rotation.current()), ids="-".join)
def test_what_comes_out_is_what_was_recorded(row: Row, tmp_path: Path) -> None:
    go_through(row, tmp_path, seed=1)
