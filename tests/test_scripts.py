from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
BASH = shutil.which("bash") or "/bin/bash"
# All that the scripts find on PATH. Without apt-get, so that nothing is ever installed.
TOOLS = (
    "bash",
    "cat",
    "cksum",
    "cp",
    "echo",
    "flock",
    "grep",
    "mkdir",
    "mktemp",
    "rm",
    "sed",
    "sort",
    "tail",
    "tr",
    "xargs",
)

PYTHON = """#!/usr/bin/env bash
case "$1 $2" in
    "-c "*) echo 3.12.0 ;;
    "-m venv") echo "venv" >>"$LOG" && mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
    "-m pip") echo "pip ${!#}" >>"$LOG" && exit "${PIP_STATUS:-0}" ;;
    "-m pytest")
        echo "pytest ${*:5}" >>"$LOG"
        if [[ $3 == --junit-xml ]]; then echo '<testsuites><testsuite tests="17">' >"$4"; fi
        [[ $* != *$FAILS* ]]
        ;;
esac
"""


class Project:
    """A copy of scripts/ in a folder with a space in its name, and a PATH of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a project"
        self.bin = folder / "bin"
        self.log = folder / "log"
        shutil.copytree(SCRIPTS, self.root / "scripts")
        (self.root / "pyproject.toml").write_text(
            "[project.optional-dependencies]\nconsole = []\npage = []\nsql = []\ntest = []\n"
        )
        (self.root / "constraints.txt").touch()
        self.bin.mkdir()
        for tool in TOOLS:
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)

    def executable(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def java(self, home: str, version: str, *, on_path: bool = False, prefix: str = "") -> Path:
        """A fake Java that only prints its version, in this folder."""
        folder = self.root.parent / home
        said = f'{prefix}    java.home = {folder}\nopenjdk version "{version}" 2024-01-01\n'
        java = self.executable(folder / "bin" / "java", f"#!/usr/bin/env bash\ncat >&2 <<'END'\n{said}END\n")
        if on_path:
            (self.bin / "java").symlink_to(java)
        return folder

    def start(self, command: str, **variables: object) -> subprocess.Popen[str]:
        environment = {name: str(value) for name, value in variables.items()}
        return subprocess.Popen(
            [BASH, "-c", f'source "{self.root}/scripts/_common"; jvms="{self.root.parent}/jvm"; {command}'],
            cwd="/",
            env=environment | {"PATH": str(self.bin), "LOG": str(self.log)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: str, **variables: object) -> subprocess.CompletedProcess[str]:
        process = self.start(command, **variables)
        stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def steps(self) -> list[str]:
        """The commands that the fake Python got since the last call."""
        steps = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return steps


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture
def with_python(project: Project) -> Project:
    project.executable(project.bin / "python3.12", PYTHON)
    return project


# ---- Java ----


@pytest.mark.parametrize(
    ("version", "major"),
    [("17.0.15", "17"), ("21", "21"), ("25-ea", "25"), ("1.8.0_302", "8"), ("11.0.2", "11")],
)
def test_the_major_version_of_java_is_read(project: Project, version: str, major: str) -> None:
    project.java("some java", version, on_path=True)
    assert project.run('java_facts java; echo "$major"').stdout == f"{major}\n"


def test_what_java_prints_before_its_version_is_ignored(project: Project) -> None:
    home = project.java("java", "17.0.1", on_path=True, prefix="Picked up JAVA_TOOL_OPTIONS: -Dx=1\n")
    assert project.run('need_java; echo "$JAVA_HOME"').stdout == f"{home}\n"


def test_java_home_comes_before_path(project: Project) -> None:
    project.java("on path", "17", on_path=True)
    home = project.java("given", "21")
    run = project.run('need_java; echo "$JAVA_HOME"', JAVA_HOME=home)
    assert (run.stdout, run.stderr) == (f"{home}\n", "")


def test_a_java_that_is_not_on_path_is_found_among_the_installed_ones(project: Project) -> None:
    project.java("jvm/a-11", "11")
    home = project.java("jvm/b-17", "17")
    assert project.run('need_java; echo "$JAVA_HOME"').stdout == f"{home}\n"


def test_a_java_from_17_to_21_is_preferred_to_a_newer_java_home_with_a_message(project: Project) -> None:
    newer = project.java("newer", "25")
    home = project.java("jvm/17", "17")
    run = project.run('need_java; echo "$JAVA_HOME"', JAVA_HOME=newer)
    assert run.stdout == f"{home}\n"
    assert str(newer) in run.stderr


def test_a_newer_java_is_used_if_there_is_no_other(project: Project) -> None:
    project.java("older", "11", on_path=True)
    home = project.java("jvm/25", "25")
    assert project.run('need_java; echo "$JAVA_HOME"').stdout == f"{home}\n"


@pytest.mark.parametrize("version", [None, "11.0.2"])
def test_a_missing_java_ends_with_one_sentence_and_exit_2(project: Project, version: str | None) -> None:
    if version:
        project.java("older", version, on_path=True)
    run = project.run("need_java; echo not reached")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.count("\n") == 1
    assert "openjdk-17-jre-headless" in run.stderr


# ---- Python ----


def test_a_shim_without_a_python_behind_it_is_ignored(with_python: Project) -> None:
    with_python.executable(with_python.bin / "python3.13", "#!/usr/bin/env bash\nexit 127\n")
    assert with_python.run('need_python; echo "$python $version"').stdout == "python3.12 3.12.0\n"


def test_the_variable_python_comes_before_path(with_python: Project, tmp_path: Path) -> None:
    mine = with_python.executable(tmp_path / "my own" / "python", PYTHON)
    assert with_python.run('need_python; echo "$python"', PYTHON=mine).stdout == f"{mine}\n"


def test_an_unsuitable_python_ends_with_one_sentence_and_exit_2(with_python: Project) -> None:
    run = with_python.run("need_python", PYTHON="/no/python")
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "/no/python" in run.stderr


# ---- .venv ----


def test_a_second_run_installs_nothing(with_python: Project) -> None:
    assert with_python.run("need_venv test").returncode == 0
    assert with_python.steps() == ["venv", "pip .[test]"]
    run = with_python.run("need_venv test")
    assert (run.returncode, run.stderr, with_python.steps()) == (0, "", [])


def test_the_project_is_installed_without_extras_unless_some_are_requested(with_python: Project) -> None:
    with_python.run("need_venv")
    assert with_python.steps() == ["venv", "pip ."]


def test_extras_once_installed_stay_installed(with_python: Project) -> None:
    with_python.run("need_venv test")
    with_python.run("need_venv console")
    assert with_python.steps() == ["venv", "pip .[test]", "pip .[console,test]"]
    with_python.run("need_venv test; need_venv console; need_venv")
    assert with_python.steps() == []


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_changed_requirements_are_installed_into_the_environment(with_python: Project, file: str) -> None:
    with_python.run("need_venv test")
    with_python.steps()
    with (with_python.root / file).open("a") as opened:
        opened.write("# changed\n")
    with_python.run("need_venv")
    assert with_python.steps() == ["pip .[test]"]


def test_a_failed_installation_is_redone_from_scratch(with_python: Project) -> None:
    assert with_python.run("need_venv test", PIP_STATUS=1).returncode == 1
    with_python.steps()
    with_python.run("need_venv test")
    assert with_python.steps() == ["venv", "pip .[test]"]


def test_a_failed_update_is_redone_from_scratch(with_python: Project) -> None:
    with_python.run("need_venv test")
    assert with_python.run("need_venv console", PIP_STATUS=1).returncode == 1
    with_python.steps()
    with_python.run("need_venv test")
    assert with_python.steps() == ["venv", "pip .[test]"]


def test_an_environment_that_was_moved_is_recreated(with_python: Project) -> None:
    with_python.run("need_venv test")
    with_python.steps()
    with_python.root = with_python.root.rename(with_python.root.with_name("moved"))
    with_python.run("need_venv test")
    assert with_python.steps() == ["venv", "pip .[test]"]


def test_a_request_for_another_python_recreates_the_environment(with_python: Project, tmp_path: Path) -> None:
    with_python.run("need_venv test")
    with_python.steps()
    other = with_python.executable(tmp_path / "other", PYTHON.replace("3.12.0", "3.10.4"))
    with_python.run("need_venv test", PYTHON=other)
    assert with_python.steps() == ["venv", "pip .[test]"]
    with_python.run("need_venv test")
    assert with_python.steps() == []


def test_two_installations_at_once_install_once(with_python: Project) -> None:
    both = [with_python.start("need_venv test") for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert with_python.steps() == ["venv", "pip .[test]"]


def test_an_unknown_extra_is_refused_by_name(with_python: Project) -> None:
    run = with_python.run("need_venv tests")
    assert (run.returncode, with_python.steps()) == (2, [])
    assert "'tests'" in run.stderr


def test_another_spark_on_the_machine_does_not_interfere(with_python: Project) -> None:
    run = with_python.run('need_venv; echo "${SPARK_HOME-none} $PYSPARK_PYTHON"', SPARK_HOME="/opt/spark")
    assert run.stdout == f"none {with_python.root}/.venv/bin/python\n"


# ---- the scripts ----


@pytest.mark.parametrize("fails", ["nothing", "-m slow"])
def test_a_test_run_ends_with_the_seconds_and_tests_of_each_suite(with_python: Project, fails: str) -> None:
    with_python.java("java", "17", on_path=True)
    for program in (
        "mvn",
        "postgres",
        "sqlite3",
        "redis-server",
        "logrotate",
        "promtool",
        "carbon-cache",
        "graphite-manage",
        "chromium",
    ):
        with_python.executable(with_python.bin / program, "#!/usr/bin/env bash\n")
    with_python.executable(with_python.bin / "spark-submit", "#!/usr/bin/env bash\n")
    command = [BASH, str(with_python.root / "scripts" / "test")]
    environment = {"PATH": str(with_python.bin), "LOG": str(with_python.log), "FAILS": fails}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == (fails != "nothing"), run.stderr
    suites = [line.split() for line in run.stdout.splitlines()[-7:]]
    assert [line[0] for line in suites] == ["suite", "fast", "slow", "programs", "kafka", "faults", "total"]
    assert [line[2] for line in suites[1:-1]] == ["17"] * 5
    assert all(line[1].isdecimal() for line in suites[1:])
    assert sum(step.startswith("pytest ") for step in with_python.steps()) == 5, "a failed suite does not end the run"


@pytest.mark.parametrize("works", [True, False])
def test_an_archive_of_classes_is_only_used_if_the_job_that_fills_it_succeeds(
    with_python: Project, works: bool
) -> None:
    with_python.java("java", "17", on_path=True)
    archive = with_python.root / ".venv" / "classes.jsa"
    submit = '#!/usr/bin/env bash\ntouch "${SPARK_SUBMIT_OPTS##*=}"\n' + ("" if works else "echo why; exit 1\n")
    with_python.executable(with_python.bin / "spark-submit", submit)
    (with_python.bin / "touch").symlink_to(shutil.which("touch") or "/usr/bin/touch")
    command = [BASH, str(with_python.root / "scripts" / "test"), "--fast"]
    environment = {"PATH": str(with_python.bin), "LOG": str(with_python.log), "FAILS": "nothing"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert archive.exists() is works
    assert ("why\nThe job that loads the classes failed" in run.stderr) is not works


@pytest.mark.parametrize("script", ["bench", "check", "demo", "faults", "format", "install", "test"])
def test_help_says_what_the_script_does_and_does_nothing(project: Project, script: str) -> None:
    command = [BASH, str(project.root / "scripts" / script), "--help"]
    run = subprocess.run(command, env={"PATH": str(project.bin)}, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines()[0].endswith(".")
    assert not (project.root / ".venv").exists()
