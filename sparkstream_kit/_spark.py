"""Which Spark this Python uses. Imported with the package, before anything imports PySpark.

A PySpark that Python can import is the one: pip's, conda's, or the one that spark-submit puts on the path. Without one,
as on an edge node or a notebook server, a Spark distribution is looked for: the one SPARK_HOME names, else the first of
the directories findspark looks in. Its PySpark and its py4j then come first on `sys.path`, and SPARK_HOME says where
they are: PySpark starts that Spark's JVM, and the JVM gives Python workers that Spark's PySpark, so PYTHONPATH stays as
it is. Import the kit before PySpark: it is the import that makes PySpark importable.

    import sparkstream_kit as ss
    from pyspark.sql import functions as F

Importing the package never fails for want of Spark. The first use of a public name raises UsageError if there is no
Spark, if its version is not supported, or if SPARK_HOME holds a Spark of another version than the PySpark that is
installed, which would start its JVM. A script that does not catch it, or that imports PySpark itself, ends with that
sentence and exit code 2 instead of a traceback, as it does after any other error of the kit; a notebook or a shell gets
the exception.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import glob
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

from .errors import KitError, UsageError

SUPPORTED = ("4.0", "4.1", "4.2", "4.3")
INSTALL = "pip install 'pyspark>=4.0,<4.4'"
"""The dependency of pyproject.toml, as a command."""

PLACES = (
    "/usr/local/opt/apache-spark/libexec",  # Homebrew
    "/usr/lib/spark/",  # Amazon EMR
    "/usr/local/spark/",
    "/opt/spark/",
)
"""Where findspark looks, in its order. The first that exists is taken, whatever is in there."""

PATH = "on Python's path"


class Spark(NamedTuple):
    """A Spark whose PySpark can be imported."""

    version: str
    """As in PySpark's version.py, for example 4.2.1; empty if that cannot be read."""
    directory: str
    found: str
    """How it was found: SPARK_HOME, a usual place, or on Python's path."""

    def __str__(self) -> str:
        return f"Spark {self.version or 'of an unknown version'} in {self.directory} ({self.found})"


@functools.cache  # but not an error: a notebook can set SPARK_HOME and try again
def use() -> Spark:
    """The Spark of this process; its PySpark can be imported when this returns.

    Raises UsageError if there is none, if its version is not supported, or if SPARK_HOME is another version than the
    PySpark that is installed.
    """
    importable = _importable()
    if importable:
        _check_version(importable, f"{INSTALL}, or use the spark-submit of a supported Spark")
        _check_same_version(importable)
        return importable
    distribution = _distribution()
    _check_version(distribution, f"set SPARK_HOME to a supported Spark, or {INSTALL}")
    python = os.path.join(distribution.directory, "python")
    sys.path[:0] = [python, *_py4j(python)]
    os.environ["SPARK_HOME"] = distribution.directory
    return distribution


def describe() -> str:
    """The Spark of this process, or why there is none, as text."""
    try:
        return str(use())
    except UsageError as error:
        return str(error)


def prepare() -> None:
    """Find Spark, and make a script that does not catch an error of the kit end with its sentence, not a traceback."""
    with contextlib.suppress(UsageError):
        use()
    if not (hasattr(sys, "ps1") or sys.flags.interactive or hasattr(builtins, "__IPYTHON__")):
        sys.excepthook = functools.partial(_end_with_a_sentence, sys.excepthook)


def _importable() -> Spark | None:
    spec = importlib.util.find_spec("pyspark")
    if spec is None or spec.origin is None:  # no origin: a folder that happens to be called pyspark
        return None
    directory = os.path.dirname(spec.origin)
    read = getattr(spec.loader, "get_data", None)  # on YARN it is in a zip file
    try:
        version = _version(read(os.path.join(directory, "version.py")).decode()) if read else ""
    except OSError:
        version = ""
    return Spark(version, directory, PATH)


def home() -> tuple[str, str]:
    """The directory of a Spark distribution, and how it was found."""
    if named := os.environ.get("SPARK_HOME"):
        return os.path.abspath(named), "SPARK_HOME"
    for place in filter(os.path.exists, PLACES):
        return os.path.abspath(place), "a usual place"
    raise UsageError(f"no Spark found: {INSTALL}, or set SPARK_HOME to a Spark distribution")


def _distribution() -> Spark:
    directory, found = home()
    try:
        with open(os.path.join(directory, "python/pyspark/version.py")) as file:
            version = _version(file.read())
    except OSError as error:
        raise UsageError(
            f"no PySpark in {directory} ({found}), expected {error.filename}: "
            f"set SPARK_HOME to a whole Spark distribution, or {INSTALL}"
        ) from None
    return Spark(version, directory, found)


def _py4j(python: str) -> list[str]:
    archives = glob.glob(os.path.join(glob.escape(python), "lib", "py4j-*-src.zip"))
    if not archives:
        raise UsageError(
            f"no py4j in {python}/lib, expected py4j-*-src.zip: "
            f"set SPARK_HOME to a whole Spark distribution, or {INSTALL}"
        )
    return archives


def _version(text: str) -> str:
    match = re.search(r"""^__version__[^=]*=\s*["']([^"']+)""", text, re.MULTILINE)
    return match[1] if match else ""


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _check_version(spark: Spark, what_to_do: str) -> None:
    if spark.version and _minor(spark.version) not in SUPPORTED:
        raise UsageError(f"found {spark}, expected {SUPPORTED[0]} to {SUPPORTED[-1]}: {what_to_do}")


def _check_same_version(importable: Spark) -> None:
    """PySpark starts the JVM in SPARK_HOME, whatever its version, and assumes that it is its own."""
    named = os.environ.get("SPARK_HOME")
    # A driver under spark-submit has its JVM already, and a worker never starts one.
    if not named or "PYSPARK_GATEWAY_PORT" in os.environ or "pyspark.worker" in sys.modules:
        return
    if not os.path.exists(os.path.join(named, "bin", "spark-submit")):
        raise UsageError(
            f"found {importable}, but SPARK_HOME={named} has no bin/spark-submit: unset SPARK_HOME, or correct it"
        )
    for jar in glob.glob(os.path.join(glob.escape(named), "jars", "spark-core_*.jar")):
        version = os.path.basename(jar).removesuffix(".jar").partition("-core_")[2].partition("-")[2]
        if importable.version and _minor(version) != _minor(importable.version):
            raise UsageError(
                f"found {importable}, but SPARK_HOME={named} is Spark {version}: "
                f"unset SPARK_HOME, or uninstall that PySpark to use the one of SPARK_HOME"
            )


def _end_with_a_sentence(
    previous: Callable[..., object], kind: type[BaseException], error: BaseException, at: TracebackType | None
) -> None:
    """The `sys.excepthook` of a script."""
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in ("pyspark", "py4j"):
        try:
            use()
        except UsageError as why:
            error = why
    if not isinstance(error, KitError):
        previous(kind, error, at)
        return
    print(f"error: {error}" if error.exit_code else str(error), file=sys.stderr)
    sys.exit(error.exit_code)
