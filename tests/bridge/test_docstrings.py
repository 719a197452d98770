"""A rule of the bridge as code: what calls the JVM or PySpark's private parts says what it relies on."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

BRIDGE = Path(__file__).parents[2] / "sparkstream_kit" / "bridge"
CLASS = re.compile(r"\b[A-Z][a-z0-9]+[A-Z]\w*|\b[A-Z]\w+\.\w+|\b(?:[a-z]+\.)+[A-Z]\w+|IOUtils")
"""A class of two words, a member of a class, or a class with its package."""


def undocumented(source: str) -> Iterator[str]:
    """The functions that touch a private name of PySpark or the JVM, and name no class in their docstring."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        attributes = [node for node in ast.walk(function) if isinstance(node, ast.Attribute)]
        private = [node for node in attributes if node.attr.startswith("_") and not node.attr.startswith("__")]
        touches = any(not (isinstance(node.value, ast.Name) and node.value.id == "self") for node in private)
        names = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
        if (touches or names & {"view", "file_system"}) and not CLASS.search(ast.get_docstring(function) or ""):
            yield function.name


@pytest.mark.parametrize("path", sorted(BRIDGE.glob("*.py")), ids=lambda path: path.stem)
def test_every_function_of_the_bridge_names_the_class_and_every_module_the_version_it_relies_on(path: Path) -> None:
    source = path.read_text()
    assert list(undocumented(source)) == []
    assert "4.2.1" in (ast.get_docstring(ast.parse(source)) or "")


@pytest.mark.parametrize(
    "body",
    ["    return ssc._jssc", '    """The context of Java."""\n    return ssc._jssc', "    return view().java"],
)
def test_a_function_that_does_not_is_found(body: str) -> None:
    assert list(undocumented(f"def java(ssc):\n{body}")) == ["java"]
