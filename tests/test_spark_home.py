"""A Spark that is there already: a Python without PySpark finds it, says which one it took, and refuses others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

import pyspark
import pytest

from sparkstream_kit import _spark

ROOT = Path(__file__).parents[1]
PYSPARK = Path(pyspark.__file__).parent
VERSION = pyspark.__version__
JOB = str(ROOT / "jobs/bytes_served.py")
# What pytest is made of; never PySpark.
LIBRARIES = (
    "pytest _pytest py.py pluggy pluggy-* iniconfig packaging pygments exceptiongroup tomli typing_extensions.py"
)
NO_SPARK = f"no Spark found: {_spark.INSTALL}, or set SPARK_HOME to a Spark distribution"
HIDE_USUAL_PLACES = f"""
import os
exists = os.path.exists
os.path.exists = lambda path: path not in {_spark.PLACES!r} and exists(path)
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str


class Bare(NamedTuple):
    """A Python with the kit and pytest, and without PySpark."""

    folder: Path

    def run(self, *command: str, **environment: str) -> Ran:
        """Run a command of this Python, with Spark's variables only as given."""
        spark = ("SPARK_HOME", "SPARK_CONF_DIR", "PYSPARK_", "PYTHON", "VIRTUAL_ENV", "PYTEST_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(spark)}
        done = subprocess.run(
            command,
            env={**kept, "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}", **environment},
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Bare:
    folder = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    installed = Path(pytest.__file__).parents[1]
    for name in [*LIBRARIES.split(), "findspark.py", "sparkstream_kit-*.dist-info"]:
        for part in installed.glob(name):
            (packages / part.name).symlink_to(part)
    (packages / "sparkstream_kit").symlink_to(ROOT / "sparkstream_kit")
    (packages / "hide_usual_places.py").write_text(HIDE_USUAL_PLACES)  # which this machine may have
    (packages / "hide_usual_places.pth").write_text("import hide_usual_places\n")
    script = Path(sys.executable).with_name("sparkstream").read_text()
    (folder / "bin/sparkstream").write_text(re.sub("^#!.*", f"#!{folder}/bin/python", script))
    (folder / "bin/sparkstream").chmod(0o755)
    return Bare(folder)


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Spark as it is downloaded, from the parts in pip's PySpark."""
    home = tmp_path_factory.mktemp("opt") / "spark"
    (home / "python").mkdir(parents=True)
    for part in ("bin", "jars", "python/lib"):
        (home / part).symlink_to(PYSPARK / part)
    (home / "python/pyspark").symlink_to(PYSPARK)
    return home


def a_spark(home: Path, version: str) -> str:
    """A distribution with only the files that tell its version."""
    (home / "python/pyspark").mkdir(parents=True)
    (home / "python/lib").mkdir()
    (home / "jars").mkdir()
    (home / "bin").mkdir()
    (home / "bin/spark-submit").touch()
    (home / "python/pyspark/__init__.py").touch()
    (home / "python/pyspark/version.py").write_text(f'"""Made by the build."""\n\n__version__: str = "{version}"\n')
    (home / "python/lib/py4j-0.10.9.9-src.zip").touch()
    (home / f"jars/spark-core_2.13-{version}.jar").touch()
    return str(home)


def first_use(bare: Bare, before: str = "", **environment: str) -> str:
    """What the first use of a public name says: which Spark there is, or why none."""
    code = (
        f"{before}\n"
        "import sparkstream_kit as ss\n"
        "from sparkstream_kit import _spark\n"
        "try:\n"
        "    ss.sources, print(_spark.use())\n"
        "except ss.UsageError as error:\n"
        "    print(error)"
    )
    ran = bare.run("python", "-c", code, **environment)
    assert ran.code == 0, ran.err
    return ran.out.strip()


def test_the_bare_python_has_no_pyspark(bare: Bare) -> None:
    assert "No module named 'pyspark'" in bare.run("python", "-c", "import pyspark").err


def test_the_supported_versions_are_those_of_the_project() -> None:
    (requirement,) = re.findall(r'^dependencies = \["(pyspark.*)"\]$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert f"pip install '{requirement}'" == _spark.INSTALL
    first, beyond = re.fullmatch(r"pyspark>=4\.(\d+),<4\.(\d+)", requirement).groups()  # type: ignore[union-attr]
    assert tuple(f"4.{minor}" for minor in range(int(first), int(beyond))) == _spark.SUPPORTED


def test_without_spark_the_package_is_imported_and_its_first_use_says_what_to_do(bare: Bare) -> None:
    assert first_use(bare) == NO_SPARK
    assert first_use(bare, SPARK_HOME="") == NO_SPARK


def test_spark_home_is_found(bare: Bare, distribution: Path) -> None:
    assert first_use(bare, SPARK_HOME=str(distribution)) == f"Spark {VERSION} in {distribution} (SPARK_HOME)"
    relative = os.path.relpath(distribution, bare.folder)
    assert first_use(bare, SPARK_HOME=relative) == f"Spark {VERSION} in {distribution} (SPARK_HOME)"


@pytest.mark.parametrize("version", ["4.0.0", "4.1.0.dev0", "4.2.1", "4.3.0", "4.0.2-amzn-1"])
def test_a_supported_version_is_taken(bare: Bare, tmp_path: Path, version: str) -> None:
    home = a_spark(tmp_path, version)
    assert first_use(bare, SPARK_HOME=home) == f"Spark {version} in {home} (SPARK_HOME)"


@pytest.mark.parametrize("version", ["3.5.1", "4.9.0", "4.10.0", "5.0.0", "3.5.1.7.1.9.0-387"])
def test_another_version_is_refused_in_a_sentence(bare: Bare, tmp_path: Path, version: str) -> None:
    home = a_spark(tmp_path, version)
    assert first_use(bare, SPARK_HOME=home) == (
        f"found Spark {version} in {home} (SPARK_HOME), expected 4.0 to 4.3: "
        f"set SPARK_HOME to a supported Spark, or {_spark.INSTALL}"
    )


def test_a_directory_that_is_not_a_spark_distribution_is_refused(bare: Bare, tmp_path: Path) -> None:
    assert first_use(bare, SPARK_HOME=str(tmp_path)) == (
        f"no PySpark in {tmp_path} (SPARK_HOME), expected {tmp_path}/python/pyspark/version.py: "
        f"set SPARK_HOME to a whole Spark distribution, or {_spark.INSTALL}"
    )


def test_a_distribution_without_py4j_is_refused(bare: Bare, tmp_path: Path) -> None:
    home = a_spark(tmp_path, "4.2.1")
    (tmp_path / "python/lib/py4j-0.10.9.9-src.zip").unlink()
    assert f"no py4j in {home}/python/lib, expected py4j-*-src.zip" in first_use(bare, SPARK_HOME=home)


def test_a_folder_called_pyspark_is_not_taken_for_it(bare: Bare, distribution: Path, tmp_path: Path) -> None:
    (tmp_path / "pyspark").mkdir()
    assert first_use(bare, PYTHONPATH=str(tmp_path)) == NO_SPARK
    found = first_use(bare, PYTHONPATH=str(tmp_path), SPARK_HOME=str(distribution))
    assert found == f"Spark {VERSION} in {distribution} (SPARK_HOME)"


def test_the_usual_places_are_those_of_findspark_in_its_order(bare: Bare) -> None:
    code = (
        "import os, findspark\n"
        "from sparkstream_kit import _spark\n"
        "def asked(find):\n"
        "    paths = []\n"
        "    os.path.exists = paths.append\n"
        "    try:\n"
        "        find()\n"
        "    except (ValueError, _spark.UsageError):\n"
        "        return paths\n"
        "print(asked(_spark.use) == asked(findspark.find) == list(_spark.PLACES))\n"
    )
    assert bare.run("python", "-c", code) == (0, "True\n", "")


def test_the_first_usual_place_that_exists_is_taken_as_findspark_does(bare: Bare) -> None:
    code = (
        "import os, findspark\n"
        "from sparkstream_kit import _spark\n"
        "for start in range(len(_spark.PLACES)):\n"
        "    os.path.exists = lambda path: path in _spark.PLACES[start:]\n"
        "    assert _spark.home()[0] == os.path.abspath(findspark.find()), start\n"
    )
    assert bare.run("python", "-c", code) == (0, "", "")


def test_a_spark_in_a_usual_place_is_found_and_later_than_the_import(bare: Bare, distribution: Path) -> None:
    code = (
        "import os, sys, sparkstream_kit as ss\n"
        "from sparkstream_kit import _spark\n"
        "_spark.PLACES = ('/nowhere', sys.argv[1])\n"
        "ss.FrameStream\n"
        "print(_spark.describe(), os.environ['SPARK_HOME'])\n"
        "import pyspark, py4j\n"
        "print(pyspark.__file__, py4j.__file__, sep='\\n')\n"
    )
    ran = bare.run("python", "-c", code, f"{distribution}/")
    assert ran.code == 0, ran.err
    said, spark, py4j = ran.out.splitlines()
    assert said == f"Spark {VERSION} in {distribution} (a usual place) {distribution}"
    assert spark == f"{distribution}/python/pyspark/__init__.py"
    assert re.fullmatch(rf"{distribution}/python/lib/py4j-[\d.]+-src\.zip/py4j/__init__\.py", py4j)


def installed(folder: Path, version: str) -> str:
    """A PySpark that Python can import, as pip installs it."""
    (folder / "pyspark").mkdir(parents=True)
    (folder / "pyspark/__init__.py").touch()
    (folder / "pyspark/worker.py").touch()
    (folder / "pyspark/version.py").write_text(f"__version__ = '{version}'\n")
    return str(folder)


def test_an_installed_pyspark_is_taken_as_it_is(bare: Bare, tmp_path: Path) -> None:
    packages = installed(tmp_path, "4.1.0")
    assert first_use(bare, PYTHONPATH=packages) == f"Spark 4.1.0 in {packages}/pyspark (on Python's path)"


def test_the_pyspark_of_a_zip_file_is_taken_as_on_yarn(bare: Bare) -> None:
    archive = PYSPARK / "python/lib/pyspark.zip"
    assert first_use(bare, PYTHONPATH=str(archive)) == f"Spark {VERSION} in {archive}/pyspark (on Python's path)"


def test_an_installed_pyspark_of_another_version_is_refused_in_a_sentence(bare: Bare, tmp_path: Path) -> None:
    packages = installed(tmp_path, "3.5.1")
    assert first_use(bare, PYTHONPATH=packages) == (
        f"found Spark 3.5.1 in {packages}/pyspark (on Python's path), expected 4.0 to 4.3: "
        f"{_spark.INSTALL}, or use the spark-submit of a supported Spark"
    )


def test_a_spark_home_without_a_spark_is_refused_although_pyspark_is_installed(bare: Bare, tmp_path: Path) -> None:
    packages, home = installed(tmp_path / "packages", "4.2.1"), tmp_path / "empty"
    assert first_use(bare, PYTHONPATH=packages, SPARK_HOME=str(home)) == (
        f"found Spark 4.2.1 in {packages}/pyspark (on Python's path), but SPARK_HOME={home} has no bin/spark-submit: "
        "unset SPARK_HOME, or correct it"
    )


def test_an_installed_pyspark_does_not_start_the_jvm_of_another_version(bare: Bare, tmp_path: Path) -> None:
    packages, home = installed(tmp_path / "packages", "4.2.1"), a_spark(tmp_path / "spark", "4.0.1")
    taken = f"Spark 4.2.1 in {packages}/pyspark (on Python's path)"
    assert first_use(bare, PYTHONPATH=packages, SPARK_HOME=home) == (
        f"found {taken}, but SPARK_HOME={home} is Spark 4.0.1: "
        "unset SPARK_HOME, or uninstall that PySpark to use the one of SPARK_HOME"
    )
    started = first_use(bare, PYTHONPATH=packages, SPARK_HOME=home, PYSPARK_GATEWAY_PORT="1")
    assert started == taken, "spark-submit has started the JVM"
    worker = first_use(bare, "import pyspark.worker", PYTHONPATH=packages, SPARK_HOME=home)
    assert worker == taken, "its JVM has started it"
    same = a_spark(tmp_path / "same", "4.2.0")
    assert first_use(bare, PYTHONPATH=packages, SPARK_HOME=same) == taken, "they speak the same protocol"


def test_a_job_without_spark_ends_with_one_sentence_and_exit_code_2(bare: Bare, tmp_path: Path) -> None:
    assert bare.run("python", JOB) == (2, "", f"error: {NO_SPARK}\n")
    course = str(ROOT / "jobs/course/p03_bytes_served.py")  # its first import that fails is one below the package
    assert bare.run("python", course) == (2, "", f"error: {NO_SPARK}\n")
    packages = installed(tmp_path, "3.5.1")
    ran = bare.run("python", "-c", "import sparkstream_kit as ss; ss.main", PYTHONPATH=packages)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: found Spark 3.5.1 in ") and ran.err.count("\n") == 1


def test_other_errors_of_a_script_without_spark_keep_their_traceback(bare: Bare) -> None:
    for code, last in [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import nothing_like_it", "nothing_like_it'"),
    ]:
        ran = bare.run("python", "-c", f"import sparkstream_kit\n{code}")
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.startswith("Traceback") and ran.err.endswith(f"{last}\n")


def test_an_interactive_python_without_spark_shows_the_exception(bare: Bare) -> None:
    ran = bare.run("python", "-i", "-c", "import sparkstream_kit as ss; ss.main")
    assert "Traceback" in ran.err and f"UsageError: {NO_SPARK}\n" in ran.err


def test_the_command_without_spark_says_its_version_and_ends_with_one_sentence(bare: Bare) -> None:
    assert bare.run("sparkstream", "--version") == (0, f"0.1.0, {NO_SPARK}\n", "")
    assert bare.run("sparkstream", "status", "anything") == (2, "", f"error: {NO_SPARK}\n")
    assert bare.run("python", "-m", "sparkstream_kit", "--help") == (2, "", f"error: {NO_SPARK}\n")


def test_the_version_of_the_command_names_the_spark(bare: Bare, distribution: Path) -> None:
    said = f"0.1.0, Spark {VERSION} in {distribution} (SPARK_HOME)\n"
    assert bare.run("sparkstream", "--version", SPARK_HOME=str(distribution)) == (0, said, "")


A_TEST = """
def test_python_workers_have_the_spark_of_the_driver(spark):
    def in_worker(n):
        from sparkstream_kit import _spark

        return n, *_spark.use()

    ((n, version, directory, found),) = spark.sparkContext.parallelize([1], 1).map(in_worker).collect()
    assert (n, version, found) == (1, spark.version, "on Python's path")
    assert directory.startswith({home!r})


def test_without_spark():
    pass
"""


def test_pytest_without_spark_fails_only_what_needs_it_with_the_sentence(bare: Bare, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(A_TEST.format(home=""))
    ran = bare.run("python", "-m", "pytest", str(tmp_path))
    assert f"sparkstream_kit: {NO_SPARK}\n" in ran.out
    assert f"\n{NO_SPARK}\n" in ran.out and "Traceback" not in ran.out
    assert "1 passed, 1 error" in ran.out
    assert ran.code == pytest.ExitCode.TESTS_FAILED


@pytest.mark.program
def test_pytest_and_python_workers_use_the_spark_of_spark_home(bare: Bare, distribution: Path, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(A_TEST.format(home=str(distribution)))
    ran = bare.run("python", "-m", "pytest", str(tmp_path), SPARK_HOME=str(distribution))
    assert ran.code == 0, ran.out
    assert f"sparkstream_kit: using Spark {VERSION} in {distribution} (SPARK_HOME)\n" in ran.out
    assert "2 passed" in ran.out


@pytest.mark.program
def test_a_job_runs_on_the_spark_that_is_there_and_says_so(bare: Bare, distribution: Path, tmp_path: Path) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    ran = bare.run(
        *("python", JOB, "--source", "generator:?rate=1000&count=1000", "--drain"),
        *("--output", f"json:{out}", "--home", str(home)),
        SPARK_HOME=str(distribution),
    )
    assert ran.code == 0, ran.err
    assert re.findall(r"using (Spark .*)", ran.err) == [f"Spark {VERSION} in {distribution} (SPARK_HOME)"]
    rows = [json.loads(line) for file in out.rglob("*.json") for line in file.read_text().splitlines()]
    assert sum(row["lines"] for row in rows) == 1000
    status = bare.run("sparkstream", "status", str(home), SPARK_HOME=str(distribution))
    assert (status.code, "health" in status.out, status.err) == (0, True, "")


@pytest.mark.program
def test_under_spark_submit_its_own_pyspark_is_taken_as_it_is(bare: Bare, distribution: Path, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("import sparkstream_kit as ss\nss.sources, print(ss._spark.use())")
    ran = bare.run(str(distribution / "bin/spark-submit"), str(tmp_path / "job.py"), SPARK_HOME=str(distribution))
    assert ran.code == 0, ran.err
    assert ran.out == f"Spark {VERSION} in {distribution}/python/lib/pyspark.zip/pyspark (on Python's path)\n"
