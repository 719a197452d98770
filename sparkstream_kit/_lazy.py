"""Names that a package imports when they are first used, so that importing it is quick and extras stay extras."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from . import _spark
from .errors import MissingLibrary

EXTRAS = {
    "deltalake": "delta",
    "matplotlib": "notebook",
    "opentelemetry": "otel",
    "psycopg": "sql",
    "redis": "redis",
    "rich": "console",
    "sqlalchemy": "sql",
    "starlette": "page",
    "uvicorn": "page",
}
"""The extra of pyproject.toml that installs a library."""

Table = Mapping[str, str]
"""For each public name the module below the package that defines it; a dot where the name is a module itself."""


def load(package: str, table: Table, name: str) -> Any:
    """What a public name stands for.

    MissingLibrary if its module needs an extra that is not installed, UsageError if there is no Spark it can use.
    """
    module = name if table[name] == "." else table[name]
    if module != "errors":
        _spark.use()
    try:
        loaded = importlib.import_module(f"{package}.{module}")
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRAS:
            raise
        raise MissingLibrary(
            f"{package}.{name} needs the library {library}: install the kit with the extra {EXTRAS[library]}, "
            f"in a clone with pip install '.[{EXTRAS[library]}]'"
        ) from None
    return loaded if table[name] == "." else getattr(loaded, name)


def lazy(package: str, table: Table) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose public names are those of a table (PEP 562)."""

    def getattr_(name: str) -> Any:
        if name in table:
            return load(package, table, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return getattr_
