"""The rules of the package as code: each reads syntax trees, and must itself refuse a bad snippet."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "sparkstream_kit"

# From the bottom up. Imports point downwards only; a folder's modules may import each other.
LAYERS: tuple[set[str], ...] = (
    {"redaction"},
    {"errors", "contracts"},
    {"events"},
    {"columns"},
    {"health", "quantities"},
    {"_spark"},
    {"_lazy"},
    {"durations"},
    {"settings"},
    {"bridge"},
    {"checks", "dstreams"},
    {"recovery"},
    {"aggregates", "workers"},
    {"engine"},
    {"page"},
    {"frames"},
    {"sources", "transforms", "outputs"},
    {"lifecycle", "charts"},
    {"context", "listeners", "tracing", "notebooks"},
    {"testing", "uris", "status", "states", "backfills", "peek"},
    {"pytest_plugin"},
    {"job"},
    {"__init__"},
    {"cli"},
    {"__main__"},
)
HEIGHTS = {name: height for height, layer in enumerate(LAYERS) for name in layer}

# What a module may import besides PySpark: the libraries of one extra of pyproject.toml.
EXTRAS = {
    "sparkstream_kit.charts": "matplotlib",
    "sparkstream_kit.notebooks": "IPython",
    "sparkstream_kit.outputs._console": "rich",
    "sparkstream_kit.outputs._delta": "deltalake",
    "sparkstream_kit.outputs._redis": "redis",
    "sparkstream_kit.outputs._sql": "sqlalchemy psycopg",
    "sparkstream_kit.outputs._sql_database": "sqlalchemy",
    "sparkstream_kit.outputs._sql_ledger": "sqlalchemy",
    "sparkstream_kit.outputs._sql_staging": "sqlalchemy psycopg",
    "sparkstream_kit.outputs._sql_types": "sqlalchemy",
    "sparkstream_kit.pytest_plugin": "pytest",
    "sparkstream_kit.page.server": "starlette uvicorn",
    "sparkstream_kit.tracing": "opentelemetry",
    "sparkstream_kit.workers": "pyarrow",
}

# PySpark's handles of JVM objects: only the bridge may touch them.
HANDLES = {
    "_gateway",
    "_jc",
    "_jconf",
    "_jdf",
    "_jdstream",
    "_jrdd",
    "_jreader",
    "_jsc",
    "_jsparkSession",
    "_jssc",
    "_jvm",
    "_jwrite",
}


# What saved data is found by, and how a dict or list of it could be changed past `add_named`.
NAMED = {"sources", "received", "states", "enrichments", "outputs"}
MUTATORS = {"setdefault", "update", "pop", "clear", "append"}

# What may hold something for the whole process: callbacks that Spark pickles find it by its name alone.
MODULE_STATE = {f"{PACKAGE}.engine.batches", f"{PACKAGE}.testing"}
STATEFUL = {
    "dict",
    "list",
    "set",
    "defaultdict",
    "Counter",
    "deque",
    "count",
    "WeakKeyDictionary",
    "WeakValueDictionary",
}

FAMILIES = {"sources", "outputs", "transforms"}
FORMATS = {"access_log", "json_lines"}  # modules of functions that belong together, public as such

PATCHED = {"TransformFunction", "StreamingContext", "SparkContext", "DStream", "SparkSession"}


class Module(NamedTuple):
    name: str  # dotted; a package ends in .__init__
    tree: ast.Module

    @property
    def component(self) -> str:
        """What LAYERS speaks of: the first name below the package."""
        return self.name.split(".")[1]


def parse(name: str, source: str) -> Module:
    return Module(name, ast.parse(source))


def modules() -> list[Module]:
    files = sorted(file for folder in (PACKAGE, "jobs") for file in (ROOT / folder).rglob("*.py"))
    return [parse(".".join(file.relative_to(ROOT).with_suffix("").parts), file.read_text()) for file in files]


def imported(module: Module) -> Iterator[str]:
    """Dotted names of what is imported anywhere in the module; `from a import b` gives a.b."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.name.split(".")[: -node.level] if node.level else []
            start = ".".join([*package, *filter(None, [node.module])])
            yield from (f"{start}.{alias.name}" for alias in node.names)


def imports_point_downwards(module: Module) -> Iterator[str]:
    if not module.name.startswith(f"{PACKAGE}."):
        return
    if module.component not in HEIGHTS:
        yield "is in no layer: add it to LAYERS"
        return
    for name in imported(module):
        if name.split(".")[0] != PACKAGE:
            continue
        # A name that is not a module, as in `from . import __version__`, comes from the package itself.
        below = next((part for part in name.split(".")[1:2] if part in HEIGHTS), "__init__")
        if below != module.component and HEIGHTS[below] >= HEIGHTS[module.component]:
            yield f"imports {name}, which is not in a layer below"


def only_the_bridge_touches_the_jvm(module: Module) -> Iterator[str]:
    if module.component == "bridge":
        return
    for name in imported(module):
        if name.split(".")[0] == "py4j" or name.startswith("pyspark.java_gateway"):
            yield f"imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and node.value in HANDLES:  # getattr(frame, "_jdf")
            yield f"names {node.value} in line {node.lineno}"
        if not isinstance(node, ast.Attribute):
            continue
        if node.attr in HANDLES:
            yield f"touches {node.attr} in line {node.lineno}"
        # In PySpark sparkContext is a property; what is called is the method of a JVM handle.
        if node.attr.startswith("_") and isinstance(node.value, ast.Call):
            called = node.value.func
            if isinstance(called, ast.Attribute) and called.attr == "sparkContext":
                yield f"touches sparkContext().{node.attr} in line {node.lineno}"


def the_core_imports_pyspark_alone(module: Module) -> Iterator[str]:
    allowed = sys.stdlib_module_names | {"pyspark", PACKAGE, *EXTRAS.get(module.name, "").split()}
    # py4j is PySpark's own dependency; where it may be imported is another rule's question.
    if module.component == "bridge":
        allowed |= {"py4j"}
    for name in imported(module):
        if name.split(".")[0] not in allowed:
            yield f"imports {name}, which is neither the standard library nor pyspark"


def names_are_given_and_not_made_up(module: Module) -> Iterator[str]:
    """`add_named` refuses a name that is taken; nothing that is found by its name gets in another way."""
    for node in ast.walk(module.tree):
        changed: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            changed = [target.value for target in node.targets if isinstance(target, ast.Subscript)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
            changed = [node.func.value]
        for what in changed:
            if isinstance(what, ast.Attribute) and what.attr in NAMED:
                yield f"changes {what.attr} in line {node.lineno}: use add_named"


def modules_hold_no_state(module: Module) -> Iterator[str]:
    if module.name in MODULE_STATE:
        return
    for node in module.tree.body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        is_empty = isinstance(value, ast.Dict | ast.List) and not ast.unparse(value).strip("{}[]")
        is_made = isinstance(value, ast.Call) and not value.args and ast.unparse(value.func).split(".")[-1] in STATEFUL
        if is_empty or is_made:
            yield f"holds state in line {node.lineno}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Global):
            yield f"changes {', '.join(node.names)} of the module in line {node.lineno}"


def families_have_private_modules(module: Module) -> Iterator[str]:
    """A source, output or transform is a public function of a private module; the package's table names it."""
    _, family, *rest = module.name.split(".")
    if family in FAMILIES and rest and not rest[0].startswith("_") and rest[0] not in FORMATS:
        yield f"is public: call it _{rest[0]}"


def only_few_modules_patch_pyspark(module: Module) -> Iterator[str]:
    if module.name in (f"{PACKAGE}.bridge.{name}" for name in ("callbacks", "rows", "surgery")):
        return
    for node in ast.walk(module.tree):
        for target in node.targets if isinstance(node, ast.Assign) else []:
            if isinstance(target, ast.Attribute) and ast.unparse(target.value) in PATCHED:
                yield f"patches {ast.unparse(target)} in line {node.lineno}"
        if isinstance(node, ast.Attribute) and node.attr in ("getDeclaredField", "setAccessible"):
            yield f"reaches into Spark's fields in line {node.lineno}"


def jobs_use_the_public_api(module: Module) -> Iterator[str]:
    if not module.name.startswith("jobs"):
        return
    public = {PACKAGE, f"{PACKAGE}.testing", *(f"{PACKAGE}.transforms.{name}" for name in FORMATS)}
    for node in ast.walk(module.tree):
        found: list[str] = []
        if isinstance(node, ast.ImportFrom):
            found = [node.module or ""]
        elif isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("ss.") and node.attr.startswith("_"):
            yield f"uses {ast.unparse(node)}"
        yield from (f"imports {name}" for name in found if name.split(".")[0] == PACKAGE and name not in public)


def every_module_has_a_docstring(module: Module) -> Iterator[str]:
    if not ast.get_docstring(module.tree):
        yield "has no docstring"


RULES = (
    imports_point_downwards,
    only_the_bridge_touches_the_jvm,
    the_core_imports_pyspark_alone,
    every_module_has_a_docstring,
    names_are_given_and_not_made_up,
    modules_hold_no_state,
    families_have_private_modules,
    only_few_modules_patch_pyspark,
    jobs_use_the_public_api,
)
Rule = Callable[[Module], Iterator[str]]


@pytest.mark.parametrize("rule", RULES)
def test_the_package_and_the_jobs_keep(rule: Rule) -> None:
    seen = modules()
    assert seen
    assert [f"{module.name} {complaint}" for module in seen for complaint in rule(module)] == []


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [
        (imports_point_downwards, "settings", "from . import frames"),
        (imports_point_downwards, "settings", "from .frames import FrameStream"),
        (imports_point_downwards, "settings", "from sparkstream_kit import frames"),
        (imports_point_downwards, "settings", "import sparkstream_kit.frames"),
        (imports_point_downwards, "settings", "import sparkstream_kit"),
        (imports_point_downwards, "settings", "from . import __version__"),
        (imports_point_downwards, "settings", "def late():\n    from .lifecycle import run"),
        (imports_point_downwards, "sources._files", "from ..outputs import sql"),
        (imports_point_downwards, "sources._files", "from ..outputs._console import console"),
        (imports_point_downwards, "sources.__init__", "from ..lifecycle import run"),
        (imports_point_downwards, "unheard_of", ""),
        (only_the_bridge_touches_the_jvm, "frames", "frame._jdf"),
        (only_the_bridge_touches_the_jvm, "frames", "getattr(frame, '_jdf')"),
        (only_the_bridge_touches_the_jvm, "frames", "import py4j.protocol"),
        (only_the_bridge_touches_the_jvm, "frames", "from py4j.java_gateway import JavaObject"),
        (only_the_bridge_touches_the_jvm, "frames", "from pyspark.java_gateway import launch_gateway"),
        (only_the_bridge_touches_the_jvm, "frames", "handle.sparkContext()._conf"),
        (the_core_imports_pyspark_alone, "frames", "import pandas"),
        (the_core_imports_pyspark_alone, "outputs._sql", "import redis"),
        (the_core_imports_pyspark_alone, "frames", "from jobs import access_log"),
        (every_module_has_a_docstring, "frames", "import os"),
        (names_are_given_and_not_made_up, "frames", "graph.states[name] = node"),
        (names_are_given_and_not_made_up, "frames", "self.graph.outputs.setdefault(name, output)"),
        (modules_hold_no_state, "frames", "_seen = {}"),
        (modules_hold_no_state, "frames", "_seen: dict[int, str] = {}"),
        (modules_hold_no_state, "frames", "_graphs = weakref.WeakKeyDictionary()"),
        (modules_hold_no_state, "frames", "def f():\n    global _live"),
        (families_have_private_modules, "outputs.kafka", ""),
        (only_few_modules_patch_pyspark, "lifecycle", "TransformFunction.call = call"),
        (only_few_modules_patch_pyspark, "bridge.streaming", "c.getClass().getDeclaredField('x')"),
    ],
)
def test_a_module_that_breaks_a_rule_is_refused(rule: Rule, name: str, source: str) -> None:
    assert list(rule(parse(f"{PACKAGE}.{name}", source)))


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [
        (imports_point_downwards, "frames", "from . import bridge\nfrom .errors import UsageError"),
        (imports_point_downwards, "sources._files", "from .ranges import Range\nfrom .. import settings"),
        (imports_point_downwards, "sources.__init__", "from .files import files"),
        (only_the_bridge_touches_the_jvm, "bridge.jvm", "import py4j\nframe._jdf"),
        (only_the_bridge_touches_the_jvm, "frames", "ssc.sparkContext._conf\nself._join()"),
        (the_core_imports_pyspark_alone, "outputs._sql", "import json, sqlalchemy\nfrom pyspark import RDD"),
    ],
)
def test_a_module_that_keeps_a_rule_is_accepted(rule: Rule, name: str, source: str) -> None:
    assert list(rule(parse(f"{PACKAGE}.{name}", source))) == []


@pytest.mark.parametrize("rule", [only_the_bridge_touches_the_jvm, the_core_imports_pyspark_alone])
def test_a_job_keeps_the_rules_of_the_package(rule: Rule) -> None:
    assert list(rule(parse("jobs.access_log", "import py4j")))


@pytest.mark.parametrize(
    "source",
    [
        "from sparkstream_kit.frames import FrameStream",
        "import sparkstream_kit.frames",
        "import sparkstream_kit as ss\nss.sources._files",
    ],
)
def test_a_job_that_reaches_below_the_public_api_is_refused(source: str) -> None:
    assert list(jobs_use_the_public_api(parse("jobs.access_log", source)))
