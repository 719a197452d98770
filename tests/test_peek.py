"""`sparkstream peek`: what it says of directories as servers and logrotate make them, and the command it prints."""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from sparkstream_kit import cli, job, sources, uris
from sparkstream_kit.bridge import jvm
from sparkstream_kit.sources import _disks, _globs

ROOT = Path(__file__).parents[1]
REAL = (ROOT / "jobs/data/access_2000.log").read_text().splitlines(keepends=True)

pytestmark = pytest.mark.usefixtures("spark")


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


def put(file: Path, lines: list[str], age: int = 0) -> None:
    """A file that was last changed `age` days before a fixed day."""
    file.parent.mkdir(exist_ok=True)
    data = "".join(lines).encode()
    file.write_bytes(gzip.compress(data) if file.name.endswith(".gz") else data)
    os.utime(file, (1_700_000_000 - 86400 * age,) * 2)


class Peek:
    """Runs the command, and keeps what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]):
        self._capsys = capsys
        self.code, self.err = 0, ""

    def __call__(self, *arguments: str | Path) -> str:
        self.code = cli.main(["peek", *map(str, arguments)])
        out, self.err = self._capsys.readouterr()
        return out


@pytest.fixture
def peek(capsys: pytest.CaptureFixture[str]) -> Peek:
    return Peek(capsys)


def sources_of(printed: str) -> Iterator[uris.Spec]:
    """The sources of the printed commands, as a shell and then the job read them."""
    for command in re.findall(r"^  spark-submit (?:.*\\\n)*.*", printed, re.MULTILINE):
        words = shlex.split(command.replace("\\\n", " "))
        yield uris.parse(words[words.index("--source") + 1], sources)


def read_by(spec: uris.Spec) -> list[str]:
    disk, root = _disks.disk_of(spec.arguments["path"])
    return sorted(found.path for found in disk.walk(root, _globs.parse(spec.arguments["glob"])))


def test_logs_that_logrotate_numbers_and_compresses(logs: Path, peek: Peek) -> None:
    put(logs / "access.log", [*REAL[:500], "not a log line\n"])
    put(logs / "access.log.1", REAL[500:1000], 1)
    for n in (2, 3):
        put(logs / f"access.log.{n}.gz", REAL[1000:1100], n)
    put(logs / "error.log", ["[Wed Oct 11 14:32:52 2000] [error] denied\n"] * 3)
    said = peek(logs)
    assert peek.code == 0
    assert "access.log is live; 3 numbered; 2 compressed, all but the newest (delaycompress)" in " ".join(said.split())
    assert "combined, 1,200 of 1,201 lines in the sample" in said
    assert "1  timestamp is not in brackets\n               'not a log line'" in said
    assert "No known format fits most lines of error.log." in said
    assert "none that is known" in said
    (spec,) = sources_of(said)
    assert spec.arguments["glob"] == "access.log*"
    assert len(read_by(spec)) == 4


@pytest.mark.parametrize("name", ["access.log-20231114.gz", "access-20231114.log", "old/access.log-20231114.gz"])
def test_dated_and_moved_logs_are_in_the_glob_of_the_command(name: str, logs: Path, peek: Peek) -> None:
    put(logs / "access.log", REAL[:10])
    put(logs / name, REAL[10:20], 1)
    put(logs / "error.log", ["trouble\n"])
    said = peek(logs)
    assert "1 with a date (dateext)" in said
    assert ("moved to old (olddir)" in " ".join(said.split())) == name.startswith("old/")
    (spec,) = sources_of(said)
    assert read_by(spec) == sorted(map(str, (logs / "access.log", logs / name)))


@pytest.mark.parametrize(
    ("name", "said"),
    [("access.log.{}.gz", "none is live"), ("access-2023111{}.log", "the newest may be live")],
)
def test_where_all_names_have_a_number_or_date_only_a_plain_file_may_be_live(
    name: str, said: str, logs: Path, peek: Peek
) -> None:
    for n in (2, 3):
        put(logs / name.format(n), REAL[:10], n)
    assert said in " ".join(peek(logs).split())


def test_the_command_is_one_that_jobs_take(logs: Path, peek: Peek) -> None:
    put(logs / "access.log", REAL[:10])
    words = shlex.split(peek(logs).partition("jobs/access_log.py")[2].replace("\\\n", " "))
    options = job._parser(lambda *_: None).parse_args(words)
    assert (options.output, options.home) == (["console:"], "access.home")


def test_spark_does_not_warn_of_what_the_parser_does_on_purpose(logs: Path, peek: Peek) -> None:
    put(logs / "access.log", REAL[:10])
    log4j = jvm.view().org.apache.logging.log4j
    name = "org.apache.spark.sql.catalyst.analysis.FunctionResolution"
    log4j.core.config.Configurator.setLevel(name, log4j.Level.WARN)
    peek(logs)
    assert not log4j.LogManager.getLogger(name).isWarnEnabled()


@pytest.mark.parametrize("name", ["a b'$(id)", "q?x=1&y#z", "esc\x1b[2Jnew\nline", "a[1]{b,c}*"])
def test_a_hostile_directory_is_quoted_for_shell_and_uri(name: str, tmp_path: Path, peek: Peek) -> None:
    put(tmp_path / name / "access.log", REAL[:10])
    said = peek(tmp_path / name)
    assert peek.code == 0, peek.err
    assert said.replace("\n", "").isprintable()
    (spec,) = sources_of(said)
    assert read_by(spec) == [str(tmp_path / name / "access.log")]


def test_hostile_lines_and_names_cannot_command_the_terminal(logs: Path, peek: Peek) -> None:
    put(logs / "access.log", [*REAL[:10], "\x1b[2J\u202e" + "x" * 5000 + "\n"])
    put(logs / "\x1b]0;owned\x07.log", ["\x07\n"])
    said = peek(logs)
    assert said.replace("\n", "").isprintable()
    assert r"'\x1b[2J\u202exxx" in said
    assert "x" * 100 not in said


def test_virtual_hosts_are_a_format_of_their_own(logs: Path, peek: Peek) -> None:
    put(logs / "other_vhosts_access.log", [f"www.example.org:443 {line}" for line in REAL[:20]])
    said = peek(logs)
    assert "vhost_combined, 20 of 20 lines" in said
    assert "--format vhost_combined" in said


def test_a_format_string_is_tried_too(logs: Path, peek: Peek) -> None:
    put(logs / "access.log", [line.rstrip() + " 417\n" for line in REAL[:20]])
    format = '%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i" %D'
    assert "No known format fits most lines" in peek(logs)
    said = peek(logs, "--format", format)
    assert "20 of 20 lines" in said
    words = shlex.split(said.replace("\\\n", " "), comments=False)
    assert words[words.index("--format") + 1] == format


def test_json_objects_are_named_with_their_members(logs: Path, peek: Peek) -> None:
    put(logs / "app.log", ['{"status": 200, "path": "/"}\n'] * 5)
    said = peek(logs)
    assert "ss.transforms.json_lines" in said
    assert "Their members: status, path" in said
    assert "No known format" not in said and "timestamp is not" not in said
    assert not list(sources_of(said))


def test_a_glob_that_misses_rotated_files_is_widened(logs: Path, peek: Peek) -> None:
    put(logs / "access.log", REAL[:5])
    put(logs / "access.log.1", REAL[5:10], 1)
    said = peek(logs, "--glob", "*.log")
    assert "the glob does not match 1 rotated file" in said
    (spec,) = sources_of(said)
    assert read_by(spec) == [str(logs / "access.log"), str(logs / "access.log.1")]


def test_utf_16_is_named_with_a_way_out(logs: Path, peek: Peek) -> None:
    (logs / "access.log").write_bytes("".join(REAL[:5]).encode("utf-16"))
    said = peek(logs)
    assert "access.log is in UTF-16, which cannot be read: convert it with iconv" in said
    assert "within a line" not in said


def test_a_line_without_its_end_is_reported_and_not_judged(logs: Path, peek: Peek) -> None:
    put(logs / "access.log", [*REAL[:5], REAL[5][:40]])
    said = peek(logs)
    assert "access.log ends within a line" in said
    assert "5 of 5 lines" in said


def test_what_is_not_read_is_listed_with_the_reason(logs: Path, peek: Peek) -> None:
    put(logs / "access.log", REAL[:5])
    for name in (".hidden.log", "upload.log.part"):
        put(logs / name, REAL[:5])
    (logs / "dead.log").symlink_to("nowhere")
    (logs / "current").symlink_to("access.log")
    said = peek(logs)
    assert "since the names look unfinished: upload.log.part" in said
    assert "since the names are hidden: .hidden.log" in said
    assert "since it is a link to nothing: dead.log" in said
    assert "current -> access.log" in said


def test_a_file_that_may_not_be_read_is_named_with_a_way_out(
    logs: Path, peek: Peek, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(logs / "access.log", REAL[:5])

    @contextlib.contextmanager
    def refuse(path: str) -> Iterator[_disks.Opened]:
        raise PermissionError(13, "Permission denied", path)
        yield

    monkeypatch.setattr(_disks.LOCAL, "open", refuse)
    said = " ".join(peek(logs).split())
    assert "access.log cannot be read (Permission denied): run the job as a user in the group" in said


def test_files_that_are_compressed_and_cut_off_or_of_another_encoding(logs: Path, peek: Peek) -> None:
    put(logs / "access.log.1.gz", REAL[:500])
    packed = (logs / "access.log.1.gz").read_bytes()
    (logs / "access.log.1.gz").write_bytes(packed[: len(packed) // 2])
    (logs / "latin.log").write_bytes(REAL[0].replace("GET /", "GET /caf\xe9").encode("latin-1"))
    said = peek(logs)
    assert "is a gzip file that is cut off" in said
    assert "1 line of latin.log with bytes that are not utf-8" in said
    said = peek(logs, "--glob", "latin*", "--encoding", "latin-1")
    assert "not utf-8" not in said and "not latin-1" not in said
    (spec,) = sources_of(said)
    assert spec.arguments["encoding"] == "latin-1"


def test_the_sample_is_bounded_and_said(logs: Path, peek: Peek) -> None:
    for n in range(30):
        put(logs / f"access.log.{n + 1}", REAL, n)
    said = " ".join(peek(logs).split())
    assert "of each of 20 files" in said and "30 files of 1 log" in said
    assert "of 20,000 lines in the sample" in said


def test_nothing_to_read_is_one_sentence(logs: Path, peek: Peek, spark: SparkSession) -> None:
    for arguments, reason in (
        ([logs / "missing"], "is not a directory"),
        ([logs], "is empty"),
        ([logs, "--encoding", "utf-16"], "expected one that contains ASCII"),
    ):
        assert peek(*arguments) == ""
        assert peek.code == 2
        assert reason in peek.err and peek.err.count("\n") == 1
    put(logs / "error.log", ["x\n"])
    peek(logs, "--glob", "access*")
    assert peek.code == 2 and "matches the glob 'access*': there is error.log" in peek.err


def test_a_log_that_is_a_device_is_named(logs: Path, peek: Peek) -> None:
    (logs / "access.log").symlink_to("/dev/null")
    peek(logs)
    assert peek.code == 2 and "access.log is not a regular file" in peek.err
