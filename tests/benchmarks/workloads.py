"""What is computed, and in which sizes: data only.

Every arm computes the same rows from the same lines. How a family of arms does it is in `on_lines` (one Python
process), `on_dstreams` (Python lambdas), `on_frames` (Spark SQL) and `on_kit`; `arms` runs them.
"""

from __future__ import annotations

from typing import NamedTuple

CLIENT = "198.18.0.1"
"""The busiest client of the generator: a tenth of the lines."""

INTERVAL = 10
"""Seconds of the manual clock between two batches, and the slide of the window."""

WINDOW = 60
"""Seconds of the window."""


class Workload(NamedTuple):
    """What to compute. `keys`: how many clients the lines are from, if it is not the generator's thousand."""

    name: str
    what: str
    rows: str
    keys: int | None = None
    ordered: bool = False
    """Whether the order of the rows is part of the result; otherwise it is a bag."""
    batches: int = 0
    """Batches that must be seen at least, so that the check sees what it is there for."""
    window: int | None = None
    """Seconds of the window, where it is not the usual one."""


FILTER = Workload("W1", "lines of one client", "count")
SUM = Workload("W2", "bytes and lines", "lines, bytes")
GROUP = Workload("W3", "all fields parsed, grouped by status and path", "status, path, hits")
TOP = Workload("W4", "ten busiest paths of the last 60 s, every 10 s", "path, hits", ordered=True, batches=8)
STATE = Workload("W5", "running count per client, {:,} clients", "clients, hits, sum of squared hits", batches=3)
ENRICH = Workload("W6", "joined with a small table, written as Parquet", "rows, sum of their hashes")

STATES = {keys: STATE._replace(what=STATE.what.format(keys), keys=keys) for keys in (100, 10_000, 100_000, 1_000_000)}


class Size(NamedTuple):
    """Lines of a batch, with how many batches of each round warm up and how many are measured."""

    lines: int
    warm: int
    measured: int


class Plan(NamedTuple):
    """What a run of the benchmark measures."""

    sizes: tuple[Size, ...]
    workloads: tuple[Workload, ...]
    rounds: int
    rates: tuple[int, ...] = ()
    """Lines a second for the smallest stable interval, besides 1,000 lines a batch."""
    known_files: tuple[int, ...] = ()
    windows: tuple[int, ...] = ()
    """Slides of a window, for how its cost grows."""
    file: int = 1_000_000
    """Lines of the file for programs that are not Spark, whose start must not count."""


STATELESS = (FILTER, SUM, GROUP)
QUICK = Plan((Size(200, 0, 2),), (*STATELESS, TOP, STATES[100], ENRICH), rounds=1)
USUAL = Plan(
    (Size(1_000, 20, 10), Size(10_000, 10, 5), Size(100_000, 5, 3)),
    (*STATELESS, TOP, STATES[100], STATES[10_000], STATES[100_000], ENRICH),
    rounds=3,
    known_files=(100, 1_000, 5_000),
    windows=(6, 30),
)
FULL = Plan(
    (*USUAL.sizes, Size(1_000_000, 2, 2)),
    (*STATELESS, TOP, *STATES.values(), ENRICH),
    rounds=3,
    rates=(10_000, 100_000),
    known_files=(100, 1_000, 5_000, 20_000),
    windows=(6, 60, 360),
)
