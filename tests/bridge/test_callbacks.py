"""The patch of TransformFunction.call refuses a PySpark that it does not know; test_lifecycle shows what it does."""

from __future__ import annotations

from typing import Any

import pyspark
import pytest
from pyspark.streaming.util import TransformFunction

from sparkstream_kit.bridge.callbacks import callback_errors, check_callbacks
from sparkstream_kit.errors import UsageError


def call_with_other_parameters(self: TransformFunction, time: int, jrdds: Any) -> Any: ...


def init_with_other_parameters(self: TransformFunction, func: Any, *deserializers: Any) -> None: ...


def init_without_func(self: TransformFunction, ctx: Any, func: Any, *deserializers: Any) -> None:
    self.failure = None


def init_without_failure(self: TransformFunction, ctx: Any, func: Any, *deserializers: Any) -> None:
    self.func = func


def test_the_installed_pyspark_is_accepted() -> None:
    check_callbacks()


def test_the_method_is_patched_inside_and_restored_afterwards() -> None:
    before = TransformFunction.call
    with callback_errors(print):
        assert TransformFunction.call is not before
        with callback_errors(print):
            pass
    assert TransformFunction.call is before


@pytest.mark.parametrize(
    ("method", "other", "difference"),
    [
        ("call", call_with_other_parameters, r"\.call takes \(self, time, jrdds\), expected \(self, milliseconds, jr"),
        ("__init__", init_with_other_parameters, r"\.__init__ takes \(self, func, deserializers\), expected \(self, c"),
        ("__init__", init_without_func, " has no attribute 'func'"),
        ("__init__", init_without_failure, " has no attribute 'failure'"),
    ],
)
def test_another_pyspark_is_refused_and_not_patched(
    method: str, other: Any, difference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.__name__ = method
    monkeypatch.setattr(TransformFunction, method, other)
    before = TransformFunction.call
    sentence = (
        rf"^PySpark {pyspark.__version__} is not supported \(TransformFunction{difference}.*: use PySpark 4\.0 to"
    )
    with pytest.raises(UsageError, match=sentence) as refused, callback_errors(print):
        raise AssertionError("patched all the same")
    assert type(refused.value) is UsageError
    assert TransformFunction.call is before
