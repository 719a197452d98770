from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPPED = """
import pytest

@pytest.mark.skip(reason="not today")
def test_skipped():
    pass
"""
PASSED = """
def test_passes():
    pass
"""
MARKERS = "[pytest]\nmarkers =\n  slow:\n  program:\n  server:\n  fault:\n  cluster:\n"


def run_pytest(tests: Path, *arguments: str, ci: str, share: str = "0/1") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "--strict-markers", *arguments, "."]
    environment = os.environ | {"CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    environment["TEST_SHARE"] = share
    return subprocess.run(command, cwd=tests, env=environment, capture_output=True, text=True)


@pytest.fixture
def tests(tmp_path: Path) -> Path:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "pytest.ini").write_text(MARKERS)
    return tmp_path


def test_a_skipped_test_fails_the_run_in_ci_and_is_reported_by_name(tests: Path) -> None:
    (tests / "test_some.py").write_text(PASSED + SKIPPED)
    run = run_pytest(tests, ci="true")
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    assert "skipped, which CI does not accept: test_some.py" in run.stdout


def test_a_module_that_skips_itself_fails_the_run_in_ci(tests: Path) -> None:
    (tests / "test_passes.py").write_text(PASSED)
    (tests / "test_absent.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    run = run_pytest(tests, ci="true")
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    assert "skipped, which CI does not accept: test_absent.py" in run.stdout


def test_a_skipped_test_is_accepted_outside_ci(tests: Path) -> None:
    (tests / "test_some.py").write_text(PASSED + SKIPPED)
    assert run_pytest(tests, ci="").returncode == pytest.ExitCode.OK


def test_a_run_without_skipped_tests_passes_in_ci(tests: Path) -> None:
    (tests / "test_some.py").write_text(PASSED)
    assert run_pytest(tests, ci="true").returncode == pytest.ExitCode.OK


@pytest.mark.parametrize(
    "folder, marker",
    [("servers", "server"), ("faults", "fault"), ("cluster", "cluster")],
)
def test_a_test_gets_the_marker_of_its_folder(tests: Path, folder: str, marker: str) -> None:
    (tests / folder).mkdir()
    (tests / folder / "test_inside.py").write_text(PASSED)
    (tests / "test_outside.py").write_text(PASSED)
    run = run_pytest(tests, "--collect-only", "-m", f"not {marker}", ci="")
    assert "test_outside.py" in run.stdout
    assert "test_inside.py" not in run.stdout


def test_the_shares_of_a_slow_machine_are_together_all_tests(tests: Path) -> None:
    names = [f"test_{letter}" for letter in "abcde"]
    (tests / "test_some.py").write_text("\n".join(f"def {name}():\n    pass\n" for name in names))
    taken = []
    for share in ("0/2", "1/2"):
        run = run_pytest(tests, "-vv", ci="true", share=share)
        taken.append([name for name in names if f"::{name} PASSED" in run.stdout])
        assert f"{len(taken[-1])} passed, {5 - len(taken[-1])} deselected" in run.stdout
    assert taken == [["test_a", "test_c", "test_e"], ["test_b", "test_d"]]
