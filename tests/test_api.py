"""What is public: `__all__` at the top and in sources, outputs and transforms. Semantic versioning speaks of this."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import sparkstream_kit as ss
from sparkstream_kit import _lazy, outputs, sources, transforms

PACKAGES = (ss, sources, outputs, transforms)
PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def test_the_top_level_is() -> None:
    assert sorted(ss.__all__) == [
        *("Batch", "BatchFailed", "CheckpointRefused", "Fenced", "FrameStream", "HomeDamaged", "HomeInUse"),
        *("InputLost", "JobOutput", "JobSource", "KitError", "MissingLibrary", "NewerFormat", "OutputRefused"),
        *("ReceiverFailed", "Size", "Source", "StateAt", "StateRefused", "StopRequested", "UsageError"),
        *(
            "aggregates",
            "backfill",
            "checks",
            "each_batch",
            "each_frame",
            "events",
            "get_or_create",
            "listen",
            "live_session",
            "main",
            "outputs",
            "program",
            "read_state",
            "run",
        ),
        *(
            "running_sum",
            "serve_page",
            "settings",
            "show",
            "sources",
            "spans",
            "start",
            "stop_on_marker",
            "stop_when",
            "testing",
            "text_files",
            "transforms",
        ),
        "window_and_slide",
    ]


def test_the_sources_outputs_and_transforms_are() -> None:
    assert sorted(sources.__all__) == ["event_hubs", "files", "generator", "iot_hub", "kafka", "socket"]
    assert sorted(outputs.__all__) == [
        *(
            "console",
            "delta",
            "json",
            "kafka",
            "page",
            "parquet",
            "redis_counter",
            "redis_hash",
            "redis_ranking",
            "rejected",
        ),
        *("sql", "sql_table", "text", "webhook"),
    ]
    assert sorted(transforms.__all__) == [
        *("access_log", "anomalies", "drop_duplicates", "enrich", "event_time_window", "join_within", "json_lines"),
        *("rate_of_change", "sessions", "threshold"),
    ]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_public_name_is_there_and_in_dir(package: ModuleType) -> None:
    for name in package.__all__:
        assert getattr(package, name).__doc__, name
        assert name in dir(package)
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        package.no_such_name  # noqa: B018 - the look-up is the test


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_type_checkers_see_what_is_imported_lazily(package: ModuleType) -> None:
    (checked,) = [
        node
        for node in ast.parse(Path(package.__file__ or "").read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    imports = [node for node in checked.body if isinstance(node, ast.ImportFrom)]
    assert {alias.asname: node.module or "." for node in imports for alias in node.names} == package.PUBLIC


def test_importing_the_package_imports_neither_spark_nor_an_extra() -> None:
    code = "import sparkstream_kit, sys; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pyspark", "py4j", *_lazy.EXTRAS} & set(run.stdout.split())


OF_EXTRAS = {
    "console": (outputs, "_console", "console"),
    "delta": (outputs, "_delta", "delta"),
    "notebook": (ss, "charts", "chart"),
    "otel": (ss, "tracing", "spans"),
    "page": (ss, "page.server", "serve_page"),
    "redis": (outputs, "_redis", "redis_hash"),
    "sql": (outputs, "_sql", "sql"),
}
"""What needs an extra: a package, the module that imports the library, and a function of it."""


@pytest.mark.parametrize(("library", "extra"), sorted(_lazy.EXTRAS.items()))
def test_a_missing_library_names_its_extra(library: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package, module, function = OF_EXTRAS[extra]
    monkeypatch.delitem(sys.modules, f"{package.__name__}.{module}", raising=False)
    for name in [m for m in sys.modules if m.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        ss.MissingLibrary,
        match=rf"{function} needs the library {library}: .* extra {extra}, in a clone with pip install '.\[{extra}\]'",
    ):
        _lazy.load(package.__name__, {function: module}, function)
    monkeypatch.undo()
    importlib.import_module(f"{package.__name__}.{module}")


def test_the_extras_are_those_of_the_project() -> None:
    text = PYPROJECT.read_text()
    for library, extra in _lazy.EXTRAS.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"{extra} = [")]
        assert library in line
