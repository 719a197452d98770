"""What was measured, as Markdown and plots."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from .arms import ARMS, KIT
from .growth import LINES, Growth
from .measure import Cells, Measured, fitted, median
from .others import Other
from .workloads import GROUP, Workload

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.md"
WHAT = {arm.name: f"{arm.name} {arm.what}" for arm in ARMS}


@dataclass(frozen=True)
class Run:
    """All that one run has found so far."""

    conditions: str
    cells: Cells = field(default_factory=dict)
    others: Sequence[Other] = ()
    windows: Growth = field(default_factory=dict)
    known_files: Growth = field(default_factory=dict)
    states: Growth = field(default_factory=dict)
    intervals: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    """For each rate, the smallest stable interval of each arm."""


def conditions(spark: SparkSession, heap: str, load_before: float) -> str:
    """Where and with what the figures were measured, up to now."""
    jvm: Any = spark._jvm
    cores, load = spark.sparkContext.defaultParallelism, os.getloadavg()[2]
    libraries = ", ".join(f"{name} {_version(name)}" for name in ("pyspark", "duckdb", "pyarrow"))
    return (
        f"`scripts/bench` on {datetime.now(timezone.utc):%Y-%m-%d}, {cores} cores (load over 15 minutes: "
        f"{load_before:.1f} at the start, {load:.1f} at the end), JVM heap of {heap}; Python "
        f"{platform.python_version()}, Java {jvm.System.getProperty('java.version')}, {libraries}, "
        f"{_goaccess_version()}."
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _goaccess_version() -> str:
    try:
        said = subprocess.run(["goaccess", "--version"], capture_output=True, text=True).stdout
    except FileNotFoundError:
        return "GoAccess not installed"
    return said.splitlines()[0].removesuffix(".").replace(" - ", " ")


# --- Markdown


ABOUT = """\
Milliseconds of a batch: median (minimum to maximum) of the warm batches of all rounds, in which the arms take turns.
`kit /` is the kit's median divided by that of the arm, below 1 where the kit is faster. T(n) = a + b n is fitted to the
medians by their relative errors. CPU is that of the JVM and of all Python processes together, per million lines of the
largest batches. In every batch all arms computed the same rows. Only ratios mean something elsewhere.
`scripts/bench --help` explains workloads and arms, `arms.py` what the times are.

![Time of a batch against its lines](lines.png)
"""

ABOUT_CPU = """\
## CPU beside other programs

CPU seconds per million lines for W3. GoAccess makes its usual report, which has more in it.

![CPU seconds per million lines](cpu.png)
"""

ABOUT_GROWTH = f"""\
## Growth

Milliseconds of a batch of {LINES:,} lines, for more keys of a state (W5), longer windows (W4) and more files that are
known already (W2).

![Growth with keys, slides and files](growth.png)
"""

ABOUT_INTERVALS = """\
## Smallest stable interval

For W3, under the real clock: the smallest interval, of those tried, in which 60 batches each have a result and its
delay does not grow.
"""

NOT_MEASURED = """\
Not measured: recovery after a kill, memory (the arms share one JVM), Scala DStreams, executors on other machines,
Kafka.
"""


def markdown(run: Run) -> str:
    """The whole of results.md."""
    works = list(dict.fromkeys(work for work, _, _ in run.cells))
    parts = ["# Results\n", f"{run.conditions}\n", ABOUT, *(line for work in works for line in _table(work, run.cells))]
    cpu = _cpu(run)
    if cpu:
        parts += [ABOUT_CPU, *_rows(["", "CPU s"], ([name, _or(used, ".1f", why)] for name, used, why in cpu))]
    parts += [ABOUT_GROWTH]
    for of, growth in (("keys", run.states), ("slides", run.windows), ("files", run.known_files)):
        parts += _growth(of, growth) if growth else []
    if run.intervals:
        parts += [ABOUT_INTERVALS, *_intervals(run.intervals)]
    return "\n".join([*parts, NOT_MEASURED])


def _table(work: Workload, cells: Cells) -> Iterable[str]:
    of = {name: {n: found for (w, n, a), found in cells.items() if (w, a) == (work, name)} for name in WHAT}
    sizes = sorted({n for found in of.values() for n in found})
    yield f"## {work.name}: {work.what}\n"
    head = ["arm", *(title for n in sizes for title in (f"{n:,} lines, ms", "kit /")), "a, ms", "b, us/line", "CPU s/M"]
    rows = []
    for name, found in of.items():
        if not found:
            continue
        row = [WHAT[name]]
        for n in sizes:
            row += [spread(found[n]), f"{median(of[KIT][n]) / median(found[n]):.2f}" if n in of[KIT] else ""]
        fit = fitted([(n, median(found[n])) for n in sizes]) if len(sizes) > 1 else None
        row += ["", ""] if fit is None else [f"{1e3 * fit[0]:.0f}", f"{1e6 * fit[1]:.2f}"]
        rows.append([*row, _or(cpu_per_million(found[sizes[-1]], sizes[-1]), ".1f", "unknown")])
    yield from _rows(head, rows)
    for arm in ARMS:
        if work.name in arm.without:
            yield f"{arm.name} not run: {arm.without[work.name]}.\n"


def spread(measured: Sequence[Measured]) -> str:
    """The median with minimum and maximum, in ms."""
    ms = [1000 * one.seconds for one in measured]
    return f"{statistics.median(ms):.0f} ({min(ms):.0f} to {max(ms):.0f})"


def cpu_per_million(measured: Sequence[Measured], lines: int) -> float | None:
    """CPU seconds per million lines; None where the system does not tell."""
    known = [one.cpu for one in measured if one.cpu is not None]
    return sum(known) / len(known) / lines * 1e6 if known else None


def _cpu(run: Run) -> list[tuple[str, float | None, str]]:
    groups = {(n, arm): measured for (work, n, arm), measured in run.cells.items() if work == GROUP}
    largest = max((n for n, _ in groups), default=0)
    arms = [(WHAT[arm], cpu_per_million(found, n), "unknown") for (n, arm), found in groups.items() if n == largest]
    return arms + [(other.name, other.cpu, f"not run: {other.why_not}") for other in run.others]


def _growth(of: str, growth: Growth) -> Iterable[str]:
    names = [name for name in WHAT if any(name in arms for arms in growth.values())]
    head = [of, *(WHAT[name] for name in names)]
    yield from _rows(
        head, ([f"{n:,}", *(spread(growth[n][a]) if a in growth[n] else "" for a in names)] for n in sorted(growth))
    )


def _intervals(intervals: Mapping[str, Mapping[str, float | None]]) -> Iterable[str]:
    names = [name for name in WHAT if any(name in arms for arms in intervals.values())]
    yield from _rows(
        ["lines", *(WHAT[name] for name in names)],
        ([rate, *(_or(arms[a], "g", "none of those tried", " s") for a in names)] for rate, arms in intervals.items()),
    )


def _or(value: float | None, form: str, otherwise: str, unit: str = "") -> str:
    return otherwise if value is None else f"{value:{form}}{unit}"


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    marks = ["---", *("---:" for _ in head[1:])]
    return [*(f"| {' | '.join(row)} |" for row in (head, marks, *rows)), ""]


# --- plots


def plot(run: Run, folder: Path) -> None:
    """Write lines.png, cpu.png and growth.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    colours = {name: f"C{n}" for n, name in enumerate(WHAT)}
    style: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 4}

    works = list(dict.fromkeys(work for work, _, _ in run.cells))
    rows = -(-len(works) // 3)
    figure, axes = pyplot.subplots(rows, 3, figsize=(14, 4 * rows), squeeze=False)
    for axis, work in zip(axes.flat, works, strict=False):
        axis.set(title=f"{work.name}: {work.what}", xscale="log", yscale="log", xlabel="lines", ylabel="ms")
        for name in WHAT:
            points = sorted((n, median(m)) for (w, n, a), m in run.cells.items() if (w, a) == (work, name))
            if points:
                sizes = [n for n, _ in points]
                width = 3 if name == KIT else 1
                axis.plot(sizes, [1000 * t for _, t in points], color=colours[name], **style)
                if len(points) > 1:
                    a, b = fitted(points)
                    between = [sizes[0] * (sizes[-1] / sizes[0]) ** (k / 50) for k in range(51)]
                    line = [1000 * (a + b * n) for n in between]
                    axis.plot(between, line, color=colours[name], linewidth=width, label=WHAT[name])
        axis.title.set_fontsize(9)
    for axis in list(axes.flat)[len(works) :]:
        axis.axis("off")
    _save(figure, axes.flat, folder / "lines.png")

    figure, axis = pyplot.subplots(figsize=(8, 4))
    known = [(name, cpu) for name, cpu, _ in reversed(_cpu(run)) if cpu is not None]
    bars = axis.barh([name for name, _ in known], [cpu for _, cpu in known], color="C7")
    axis.bar_label(bars, fmt="%.1f", padding=3)
    axis.set(xlabel="CPU seconds per million lines, W3", xmargin=0.1)
    figure.tight_layout()
    figure.savefig(folder / "cpu.png", dpi=100)

    figure, axes = pyplot.subplots(1, 3, figsize=(14, 4))
    grown = (
        ("keys of a state, W5", run.states),
        ("slides of a window, W4", run.windows),
        ("known files, W2", run.known_files),
    )
    for axis, (of, growth) in zip(axes, grown, strict=True):
        axis.set(xlabel=of, ylabel=f"ms for {LINES:,} lines", xscale="log", yscale="log")
        for name in WHAT:
            points = sorted((n, 1000 * median(arms[name])) for n, arms in growth.items() if name in arms)
            if points:
                axis.plot(*zip(*points, strict=True), color=colours[name], marker="o", label=WHAT[name])
        axis.set_xticks(list(growth), [f"{n:,}" for n in growth])
        axis.minorticks_off()
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    _save(figure, axes, folder / "growth.png")


def _save(figure: Any, axes: Iterable[Any], file: Path) -> None:
    """With one legend for all its plots, below them."""
    labelled = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    lines = {label: labelled[label] for label in WHAT.values() if label in labelled}
    figure.legend(lines.values(), lines.keys(), loc="lower center", ncol=4, fontsize=8)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.savefig(file, dpi=100)
