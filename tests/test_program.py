"""A function as a command: its words, its exit codes, and errors that fit in one sentence."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sparkstream_kit.errors import BatchFailed, UsageError
from sparkstream_kit.job import program


def copy(source: str, target: str = "out") -> int | None:
    if source == "nowhere":
        raise UsageError("got nowhere, expected a directory: name one")
    if source == "broken":
        raise BatchFailed("a batch failed, the next start runs it again")
    if source == "bug":
        raise ZeroDivisionError("division by zero")
    return 3 if target == "three" else None


def test_a_command_that_returns_nothing_succeeds() -> None:
    assert program(copy, ["here"]) == 0


def test_the_number_a_command_returns_is_its_exit_code() -> None:
    assert program(copy, ["here", "three"]) == 3


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_is_the_docstring_of_the_module(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program(copy, ["here", word]) == 0
    assert capsys.readouterr().out.strip() == __doc__


@pytest.mark.parametrize("words", [[], ["a", "b", "c"]])
def test_a_wrong_number_of_words_says_which_were_expected(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert program(copy, words) == 2
    expected = f"error: got {len(words)} arguments, expected: source [target] (see --help)\n"
    assert capsys.readouterr().err == expected


def test_a_usage_error_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert program(copy, ["nowhere"]) == 2
    assert capsys.readouterr().err == "error: got nowhere, expected a directory: name one\n"


def test_a_failed_batch_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert program(copy, ["broken"]) == 1
    assert capsys.readouterr().err == "error: a batch failed, the next start runs it again\n"


def test_an_error_of_the_job_itself_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        program(copy, ["bug"])


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        ("ss.UsageError('got 1, expected 2: add 1')", 2, "error: got 1, expected 2: add 1\n"),
        ("ss.StopRequested('it stays stopped')", 0, "it stays stopped\n"),
        ("ss.Fenced('another driver')", 1, "error: another driver\n"),
    ],
)
def test_a_script_that_catches_nothing_ends_with_the_sentence_and_its_exit_code(
    raised: str, code: int, said: str
) -> None:
    script = f"import sparkstream_kit as ss; raise {raised}"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (code, said)
