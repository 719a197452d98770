"""Data in messages cannot command a terminal."""

from __future__ import annotations

import logging

import pytest

from sparkstream_kit import job
from sparkstream_kit.bridge import jvm
from sparkstream_kit.errors import BatchFailed, InputLost
from sparkstream_kit.redaction import printable, printable_lines

EVIL = "\x1b]0;owned\x07\x9b2J\u202eGET\x7f"
SHOWN = r"\x1b]0;owned\x07\x9b2J\u202eGET\x7f"


def test_control_characters_are_shown_as_repr_writes_them_and_all_others_as_they_are() -> None:
    assert printable(EVIL) == SHOWN
    assert printable(SHOWN) == SHOWN
    assert printable("Zürich 東京 \U0001f600 'a' \\") == "Zürich 東京 \U0001f600 'a' \\"
    assert printable("a\nb\tc") == r"a\nb\tc"
    assert printable_lines(f"a\n\tb{EVIL}\n") == f"a\n\tb{SHOWN}\n"


def test_errors_of_the_kit_and_reasons_of_others_are_printable() -> None:
    assert str(InputLost(f"got {EVIL}")) == f"got {SHOWN}"
    assert jvm.reason(ValueError(f"got {EVIL}")) == f"ValueError: got {SHOWN}"
    assert jvm.reason(BatchFailed(f"got {EVIL}")) == f"got {SHOWN}"


def test_what_a_job_logs_is_printable_its_tracebacks_included(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    job._log_to_stderr("text", quiet=False)
    try:
        raise ValueError(EVIL)
    except ValueError:
        logging.getLogger("sparkstream_kit").warning("batch 1 failed: %s", EVIL, exc_info=True)
    said = capfd.readouterr().err
    assert f"batch 1 failed: {SHOWN}\n" in said
    assert f"\nValueError: {SHOWN}\n" in said
    assert "\x1b" not in said


def test_a_java_exception_that_quotes_a_line_is_printable(spark) -> None:
    frame = spark.createDataFrame([(EVIL,)], "value string").selectExpr("cast(value as int) n")
    with pytest.raises(Exception, match="CAST_INVALID_INPUT") as failed:
        frame.collect()
    assert "\x1b" not in jvm.reason(failed.value)
    assert r"\x1b]0;owned" in jvm.reason(failed.value)
