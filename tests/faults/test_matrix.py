"""Every pair of: kind of job, source, output, way to be killed, further fault; nothing is lost or duplicated.

A run takes a fifth of the rows by rotation; `scripts/faults` takes them all.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.support import rotation
from tests.support.matrix import FAULTS, KILLS, KINDS, OUTPUTS, ROWS, SOURCES, Row, go_through


def test_any_two_values_meet_in_a_row() -> None:
    for (i, some), (j, others) in itertools.combinations(enumerate((KINDS, SOURCES, OUTPUTS, KILLS, FAULTS)), 2):
        assert {(row[i], row[j]) for row in ROWS} == set(itertools.product(some, others))


@pytest.mark.parametrize("row", rotation.share(ROWS, rotation.current()), ids="-".join)
def test_what_comes_out_is_what_was_recorded(row: Row, tmp_path: Path) -> None:
    go_through(row, tmp_path, seed=1)
