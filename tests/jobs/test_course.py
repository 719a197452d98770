"""The course programs on real lines, against plain Python that shares no code with them."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.course import (
    p01_filter,
    p02_get_or_create,
    p03_bytes_served,
    p04_one_client,
    p05_lines_per_batch,
    p06_last_five_seconds,
    p07_running_count,
    p08_requests_per_client,
    p09_basic_operations,
    p10_windows,
    p11_text_files,
)
from sparkstream_kit.job import program
from sparkstream_kit.sources import _generator
from sparkstream_kit.testing import run_batches

pytestmark = pytest.mark.program

ROOT = Path(__file__).parents[2]
COURSE = ROOT / "jobs" / "course"
SAMPLE = (ROOT / "jobs" / "data" / "access_2000.log").read_text().splitlines()
NO_LOG_LINE = "Segmentation fault (core dumped)"
REASON = "timestamp is not in brackets"

LINE = re.compile(r'(?P<client>\S+) \S+ \S+ \[[^]]+\] "\S+ (?P<path>\S+) [^"]+" (?P<status>\d{3}) (?P<bytes>\d+|-) .*')


def fields(line: str) -> dict[str, str]:
    match = LINE.fullmatch(line)
    assert match, line
    return match.groupdict()


def of(lines: Sequence[str], field: str) -> list[str]:
    return [fields(line)[field] for line in lines]


def size(line: str) -> int:
    logged = fields(line)["bytes"]
    return 0 if logged == "-" else int(logged)


def batches(lines: Sequence[str], number: int) -> list[list[str]]:
    length = len(lines) // number
    return [list(lines[start : start + length]) for start in range(0, length * number, length)]


def counts(batch: list[tuple[Any, int]] | None) -> Counter[Any] | None:
    if batch is None:
        return None
    assert len(dict(batch)) == len(batch), "a key is there twice"
    return Counter(dict(batch))


# --- values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("course", [p01_filter, p02_get_or_create])
def test_1_and_2_keep_the_lines_that_contain_the_text(course: Any, spark: Any) -> None:
    given = batches(_generator.lines(7, 0, 300), 3)
    expected = [[line for line in batch if " 404 " in line] for batch in given]
    assert all(expected)
    assert expected != given
    assert run_batches(lambda lines: course.containing(lines, " 404 "), given) == expected


def test_3_adds_up_the_bytes_and_saves_malformed_lines_with_the_reason(spark: Any) -> None:
    given = batches(SAMPLE, 4)
    assert any("-" in of(batch, "bytes") for batch in given)
    given[2].insert(100, NO_LOG_LINE)
    total, rejected = run_batches(p03_bytes_served.served, [*given, []])
    assert total == [*([sum(map(size, batch))] for batch in batches(SAMPLE, 4)), []]
    assert rejected == [[], [], [f"{REASON}\t{NO_LOG_LINE}"], [], []]


def test_4_keeps_the_lines_of_one_client(spark: Any) -> None:
    address, given = "66.249.73.135", batches(SAMPLE, 4)
    elsewhere = SAMPLE[0].replace('"http://semicomplete.com', f'"http://{address}')
    assert address in elsewhere
    given[0].append(elsewhere)
    expected = [[line for line in batch if fields(line)["client"] == address] for batch in given]
    assert all(expected)
    assert run_batches(lambda lines: p04_one_client.requests_from(address, lines), given) == expected


def test_4_returns_empty_batches_for_a_client_that_sent_nothing(spark: Any) -> None:
    address = "188.45.108.168"
    assert not any(address in line for line in SAMPLE)
    assert run_batches(lambda lines: p04_one_client.requests_from(address, lines), [SAMPLE]) == [[]]


def test_5_counts_the_lines_of_each_batch(spark: Any) -> None:
    assert run_batches(p05_lines_per_batch.lines_per_batch, [SAMPLE, SAMPLE[:7]]) == [[2000], [7]]


def test_6_counts_the_lines_of_the_last_five_seconds_every_two(spark: Any) -> None:
    given = [SAMPLE[: 2**n] for n in range(8)]
    sizes = [len(batch) for batch in given]
    expected = [[sum(sizes[max(0, end - 5) : end])] if end % 2 == 0 else None for end in range(1, 9)]
    assert run_batches(lambda lines: p06_last_five_seconds.recent_lines(lines, "5s", "2s"), given) == expected


def test_7_counts_each_status_from_the_first_batch_on(spark: Any) -> None:
    given = batches(SAMPLE, 4)
    seen: Counter[str] = Counter()
    expected = [Counter(seen := seen + Counter(of(batch, "status"))) for batch in given]
    assert {"200", "304", "404"} <= set(expected[-1])
    given[3].append(NO_LOG_LINE)
    expected[3][REASON] = 1
    assert [counts(batch) for batch in run_batches(p07_running_count.count_by_status, given)] == expected


def test_8_counts_the_requests_of_each_client(spark: Any) -> None:
    given = batches(SAMPLE, 2)
    expected = [Counter(of(batch, "client")) for batch in given]
    assert max(expected[0].values()) > 1
    given[1].append(NO_LOG_LINE)
    expected[1][REASON] = 1
    assert [counts(batch) for batch in run_batches(p08_requests_per_client.requests_per_client, given)] == expected


def test_9_joins_the_requests_bytes_and_dead_links_of_clients_that_followed_some(spark: Any) -> None:
    given = batches(SAMPLE, 2)
    for batch, result in zip(given, run_batches(p09_basic_operations.dead_links, given), strict=True):
        dead = [line for line in batch if fields(line)["status"] in ("404", "301")]
        assert {"404", "301"} == set(of(dead, "status"))
        expected = {}
        for client in set(of(dead, "client")):
            own = [line for line in batch if fields(line)["client"] == client]
            paths = {fields(line)["path"] for line in dead if line in own}
            misses = sum(line in own for line in dead)
            expected[client] = (((len(own), misses), sum(map(size, own))), paths)
        assert len(result) == len(expected)
        assert dict(result) == expected


@pytest.mark.parametrize(("window", "slide"), [(5, 1), (4, 2)], ids=["with the inverse", "from scratch"])
def test_10_covers_the_window_at_every_slide(window: int, slide: int, spark: Any) -> None:
    given = batches(SAMPLE, 7)
    given[0].append(SAMPLE[0].replace(" 200 ", " 418 "))
    longest, number, characters, by_status, by_value = run_batches(
        lambda lines: p10_windows.windows(lines, f"{window}s", f"{slide}s"), given
    )
    seen = []
    for end in range(1, 8):
        if end % slide:
            assert {str(result[end - 1]) for result in (longest, number, characters, by_status, by_value)} == {"None"}
            continue
        lines = [line for batch in given[max(0, end - window) : end] for line in batch]
        statuses = Counter(map(int, of(lines, "status")))
        assert longest[end - 1] == [max(map(len, lines))]
        assert number[end - 1] == [len(lines)]
        assert characters[end - 1] == [sum(map(len, lines))]
        assert dict(by_status[end - 1]) == dict(by_value[end - 1]) == statuses
        seen.append(418 in statuses)
    assert seen[0] and not seen[-1], "the test must see a status leave the window"


def test_11_writes_the_same_counts_in_both_ways(spark: Any, tmp_path: Path) -> None:
    given = [*batches(SAMPLE, 2), [NO_LOG_LINE]]
    run_batches(lambda lines: p11_text_files.save_counts(lines, str(tmp_path)), given)
    expected = [*(Counter(map(int, of(batch, "status"))) for batch in given[:2]), Counter({REASON: 1})]
    assert all(expected)
    for name in ("spark-{}000.txt", "kit/batch-{}000.txt"):
        written = []
        for second in (1, 2, 3):
            parts = (tmp_path / name.format(second)).glob("part-*")
            written.append(counts([ast.literal_eval(line) for p in parts for line in p.read_text().splitlines()]))
        assert written == expected


# --- as programs -------------------------------------------------------------------------------------------


def test_there_are_eleven_programs_of_at_most_40_lines() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in COURSE.glob("*.py")}
    assert sorted(name[:4] for name in lengths) == [f"p{number:02}_" for number in range(1, 12)]
    assert {name: length for name, length in lengths.items() if length > 40} == {}


def test_each_program_says_how_to_run_it() -> None:
    for path in COURSE.glob("*.py"):
        assert f"\nRun: python jobs/course/{path.name}" in (ast.get_docstring(ast.parse(path.read_text())) or "")


@pytest.mark.parametrize(
    ("course", "words", "sentence"),
    [
        (p03_bytes_served, "{tmp}/missing {tmp}/rejected", "'{tmp}/missing' is not a directory: create it"),
        (p03_bytes_served, "{tmp} {tmp}/file/below", "cannot write into '{tmp}/file/below' ("),
        (p04_one_client, "{tmp} ::1 soon", "invalid duration 'soon': use for example 500ms"),
        (p04_one_client, "{tmp}", "got 1 arguments, expected: arriving address [batch_interval]"),
        (p05_lines_per_batch, "127.0.0.1 1", "nobody listens on 127.0.0.1:1 (Connection refused): start the sender"),
        (p05_lines_per_batch, "127.0.0.1 http", "got port 'http', expected a number from 1 to 65535"),
        (p05_lines_per_batch, "127.0.0.1 65536", "got port '65536', expected"),
        (
            p06_last_five_seconds,
            "{tmp} 5s 1500ms",
            "slide 1500ms is not a multiple of the batch interval 1s: use 1s or 2s",
        ),
        (p06_last_five_seconds, "{tmp} 5s 2s 2s", "window 5s is not a multiple of the batch interval 2s: use 4s or 6s"),
        (p07_running_count, "{tmp} {tmp}/file", "cannot write into '{tmp}/file/checkpoint' ("),
        (p10_windows, "{tmp} {tmp}/home 10s -2s", "invalid duration '-2s'"),
    ],
)
def test_wrong_usage_is_reported_in_one_sentence_with_exit_code_2(
    course: Any, words: str, sentence: str, spark: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert program(course.main, words.format(tmp=tmp_path).split()) == 2
    (reported,) = capfd.readouterr().err.splitlines()
    assert reported.startswith("error: " + sentence.format(tmp=tmp_path))


def start(course: str, *words: object, master: str = "local[2]") -> subprocess.Popen[str]:
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "PYSPARK_SUBMIT_ARGS": f"--master {master} pyspark-shell",
    }
    return subprocess.Popen(
        [sys.executable, str(COURSE / course), *map(str, words)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_invalid_duration_is_reported_before_spark_starts(tmp_path: Path) -> None:
    process = start("p06_last_five_seconds.py", tmp_path, "5s", "2s", "1 fortnight")
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    (reported,) = err.splitlines()
    assert reported.startswith("error: invalid duration '1 fortnight': use for example 500ms")


def test_a_receiver_without_a_core_for_the_batches_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sender:
        process = start("p05_lines_per_batch.py", "127.0.0.1", sender.getsockname()[1], master="local[1]")
        out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert "Traceback" not in err
    assert "at org.apache" not in err
    (reported,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert reported.startswith("error: 1 receivers") and reported.endswith(
        "at least 2 cores, for example --master local[2]"
    )


def test_1_prints_its_ten_batches_and_ends() -> None:
    process = start("p01_filter.py", " 404 ")
    out, err = process.communicate()
    assert process.returncode == 0, err
    expected = [line for line in _generator.lines(7, 0, 1000) if " 404 " in line]
    assert expected
    assert [line for line in out.splitlines() if line.startswith("198.18.")] == expected


def test_2_returns_the_running_context_again_and_stops_at_ctrl_c() -> None:
    process = start("p02_get_or_create.py")
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        # after four batches, one a second, the program is waiting and handles the signal
        if "the same context again: True\n" in printed and sum(line.startswith("Time:") for line in printed) >= 4:
            break
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 0


def test_5_counts_what_a_sender_sends() -> None:
    def send(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed at the end of the test
            while True:  # the first client is check_port, which hangs up
                client, _ = listening.accept()
                open_clients.append(client)
                with contextlib.suppress(OSError):
                    client.sendall("".join(f"{line}\n" for line in SAMPLE).encode())

    open_clients: list[socket.socket] = []
    counted = 0
    with socket.create_server(("127.0.0.1", 0)) as sender:
        threading.Thread(target=send, args=(sender,), daemon=True).start()
        process = start("p05_lines_per_batch.py", "127.0.0.1", sender.getsockname()[1])
        assert process.stdout is not None
        for line in process.stdout:
            counted += int(line) if line.strip().isdecimal() else 0
            if counted >= len(SAMPLE):
                break
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert (process.returncode, counted) == (0, len(SAMPLE))
