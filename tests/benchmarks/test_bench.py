"""The benchmark refuses to print figures unless all arms computed the same rows; its times are not tested."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import Any

import pytest

from sparkstream_kit.testing import log_lines
from tests.benchmarks import on_frames, report, run
from tests.benchmarks.arms import ARMS
from tests.benchmarks.extract import CHECKED, QUICK
from tests.benchmarks.inputs import Inputs
from tests.benchmarks.intervals import ends, keeps_up
from tests.benchmarks.measure import Measured, OutputsDiffer, cells, compare, digest, fitted
from tests.benchmarks.workloads import GROUP, SUM, TOP, Size

ROOT = Path(__file__).parents[2]
WITHOUT_STREAMS = [arm for arm in ARMS if arm.name in ("A1", "A6")]


def measured(work: Any, *rows: tuple[Any, ...]) -> list[Measured]:
    return [Measured(1.0, None, digest(work, list(rows)), list(rows))]


@pytest.mark.program
def test_all_arms_compute_the_same_rows_and_nothing_is_written() -> None:
    before = sorted(ROOT.rglob("tests/benchmarks/*"))
    ended = subprocess.run([ROOT / "scripts" / "bench", "--quick"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert [line.split("; ")[0] for line in ended.stdout.splitlines()] == [
        "W1: A1 A2 A3 A4 A5 A6 agree",
        "W2: A1 A2 A2s A3 A4 A5 A6 A8 agree",
        "W3: A1 A2 A2s A3 A4 A5 A6 A8 agree",
        "W4: A1 A2 A2s A3 A4 A8 agree",
        "W5: A1 A2 A2s A3 A4 A5 A8 agree",
        "W6: A1 A2 A2s A3 A4 A5 A6 A8 agree",
    ]
    assert sorted(ROOT.rglob("tests/benchmarks/*")) == before


def test_an_arm_that_misses_a_line_is_refused_before_any_figure(
    spark: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "ARMS", WITHOUT_STREAMS)
    right = on_frames.sums
    monkeypatch.setattr(on_frames, "sums", lambda requests: right(requests.filter("status != 404")))
    assert run.main(["--quick"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "W1: A1 A6 agree\n", "which is not a figure"
    assert "W2, 200 lines, batch 1: the arms differ, so there are no figures\n  A1: [(200," in printed.err


def test_arms_that_agree_are_measured_in_every_round(spark: Any, tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    *_, found = cells(WITHOUT_STREAMS, [SUM, GROUP], [Size(50, 1, 2)], 3, Inputs(spark, tmp_path / "input"))
    assert {key: len(batches) for key, batches in found.items()} == {
        (work, 50, arm): 6 for work in (SUM, GROUP) for arm in ("A1", "A6")
    }
    assert all(one.seconds > 0 for batches in found.values() for one in batches)


def test_a_row_that_is_doubled_or_missing_is_a_difference() -> None:
    one, two = (200, "/", 1), (404, "/", 1)
    compare(GROUP, "10 lines", {"A1": measured(GROUP, one, two), "A2": measured(GROUP, one, two)})
    for wrong in ([one, two, two], [one], [one, (404, "/", 2)]):
        with pytest.raises(OutputsDiffer, match="W3, 10 lines, batch 1: the arms differ"):
            compare(GROUP, "10 lines", {"A1": measured(GROUP, one, two), "A2": measured(GROUP, *wrong)})


def test_the_order_of_a_ranking_counts() -> None:
    first, second = ("/", 2), ("/a", 1)
    with pytest.raises(OutputsDiffer, match="W4"):
        compare(TOP, "10 lines", {"A1": measured(TOP, first, second), "A2": measured(TOP, second, first)})


def test_arms_that_all_deliver_nothing_are_refused() -> None:
    with pytest.raises(OutputsDiffer, match="no rows from A1, A2"):
        compare(GROUP, "10 lines", {"A1": measured(GROUP), "A2": measured(GROUP)})


def test_both_parsers_of_the_lambdas_agree_on_every_field() -> None:
    lines = log_lines(0, 0, 2000)
    for name in QUICK._fields:
        found = [[getattr(extract, name)(line) for line in lines] for extract in (QUICK, CHECKED)]
        assert found[0] == found[1], name
        assert None not in found[0], name


def test_the_fit_finds_a_fixed_cost_and_one_per_line() -> None:
    points = [(n, 0.05 + 2e-6 * n) for n in (1_000, 10_000, 100_000)]
    assert fitted(points) == pytest.approx((0.05, 2e-6))


def test_the_report_has_medians_and_ratios_to_the_kit() -> None:
    def took(*seconds: float) -> list[Measured]:
        return [Measured(one, 0.5, "", []) for one in seconds]

    cells = {
        (SUM, 1_000, "A2"): took(0.2, 0.4, 0.3),
        (SUM, 1_000, "A3"): took(0.15, 0.1, 0.2),
        (SUM, 10_000, "A2"): took(1.2),
        (SUM, 10_000, "A3"): took(0.6),
    }
    lines = report.markdown(report.Run("here and now", cells=cells)).splitlines()
    assert [line for line in lines if line.startswith("| A")] == [
        "| A2 DStream, Python lambdas | 300 (200 to 400) | 0.50 | 1200 (1200 to 1200) | 0.50 | 200 | 100.00 | 50.0 |",
        "| A3 this kit | 150 (100 to 200) | 1.00 | 600 (600 to 600) | 1.00 | 100 | 50.00 | 50.0 |",
    ]
    assert "here and now" in lines


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("a program is missing")])
def test_a_run_that_ends_early_prints_its_report_and_keeps_the_one_before(
    error: type[BaseException] | BaseException,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def measured_until(*_: object) -> Iterator[report.Run]:
        yield report.Run("here and now")
        raise error

    before = tmp_path / "results.md"
    before.write_text("a whole report\n")
    monkeypatch.setattr(run, "measured", measured_until)
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    monkeypatch.setattr(report, "RESULTS", before)
    nothing: Any = None
    assert not run.complete(nothing, nothing, nothing)
    printed = capsys.readouterr()
    assert "here and now" in printed.out.splitlines()
    assert "the report ends before it, and is not kept" in printed.err
    assert list(tmp_path.iterdir()) == [before]
    assert before.read_text() == "a whole report\n"


def test_the_result_of_a_batch_is_the_one_that_has_its_last_line() -> None:
    assert ends(4, [(0.5, 10), (2.5, 15), (3.5, 5)], lines=10) == [0.5, 2.5, 3.5, inf]


def test_an_interval_is_stable_if_each_batch_has_a_result_and_delays_do_not_grow() -> None:
    arrived = [0.2 * n for n in range(60)]

    def is_stable(delay: Callable[[int], float]) -> bool:
        return keeps_up(arrived, [at + delay(n) for n, at in enumerate(arrived)], seconds=0.2)

    assert is_stable(lambda n: 0.9 if n < 20 else 0.3)
    assert not is_stable(lambda n: 0.3 + 0.02 * n), "a queue grows"
    assert not is_stable(lambda n: 0.3 if n < 40 else inf), "results are missing"
    merged = [arrived[n // 2 * 2] + 0.5 for n in range(60)]
    assert not keeps_up(arrived, merged, seconds=0.2), "each result is of two batches"
