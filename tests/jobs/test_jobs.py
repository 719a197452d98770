"""The jobs on real lines, against plain Python that shares no code with them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from jobs import access_log, bytes_served, count_by_client, feed, lines_in_window, running_status_counts
from sparkstream_kit.testing import run_job

pytestmark = pytest.mark.slow

LINES = (Path(__file__).parents[2] / "jobs" / "data" / "access_2000.log").read_text().splitlines()
BATCHES = [LINES[:120], [], [*LINES[120:200], "no log line"], LINES[200:210]]
REQUEST = re.compile(r'(\S+) .*?\[.*?\] "\S+ (\S+) [^"]*" (\d+) (\d+|-)')  # reads the sample in a way of its own


def read(lines: list[str]) -> list[tuple[str, str, int, int]]:
    """Client, path, status and bytes of the lines that are requests."""
    found = (REQUEST.match(line) for line in lines)
    return [(m[1], m[2], int(m[3]), 0 if m[4] == "-" else int(m[4])) for m in found if m]


def test_the_sample_is_what_the_tests_expect() -> None:
    assert len(read(LINES)) == len(LINES) == 2000
    assert len({status for _, _, status, _ in read(LINES[:210])}) > 3


def test_bytes_served_in_each_batch(spark: object) -> None:
    (first, idle, third, fourth) = run_job(bytes_served.build, BATCHES)["served"]
    assert idle is None
    for batch, lines in ((first, BATCHES[0]), (third, BATCHES[2]), (fourth, BATCHES[3])):
        assert [tuple(row) for row in batch] == [(len(read(lines)), sum(size for *_, size in read(lines)))]


def test_every_job_reads_the_format_that_is_asked_for(spark: object) -> None:
    lines = [f"0.01|{line}" for line in LINES[:5]]
    format = (
        '$request_time|$remote_addr - $remote_user [$time_local] "$request" $status $bytes_sent "$http_referer" '
        '"$http_user_agent"'
    )
    for build, name in (
        *(
            (bytes_served.build, "served"),
            (running_status_counts.build, "statuses"),
            (count_by_client.build, "clients"),
        ),
        (access_log.build, "statuses"),
    ):
        assert run_job(build, [lines], log_format=format)[name] == run_job(build, [LINES[:5]])[name]


def test_running_counts_of_each_status(spark: object) -> None:
    batches = run_job(running_status_counts.build, BATCHES)["statuses"]
    before: Counter[int] = Counter()
    for rows, lines in zip(batches, BATCHES, strict=True):
        before.update(status for _, _, status, _ in read(lines))
        assert rows is None if not lines else {row.status: row["count"] for row in rows} == before


def test_requests_and_bytes_of_each_client(spark: object) -> None:
    rows = run_job(count_by_client.build, BATCHES[:1])["clients"][0]
    requests = Counter(client for client, *_ in read(BATCHES[0]))
    assert {row.client_ip: row.requests for row in rows} == requests
    assert sum(row.bytes for row in rows) == sum(size for *_, size in read(BATCHES[0]))


def test_lines_of_the_last_5_seconds_every_2_seconds(spark: object) -> None:
    batches = [["a"], ["b", "c"], [], ["d"], [], [], [], [], []]
    seen = run_job(lines_in_window.build, batches)["lines"]
    expected = [sum(len(b) for b in batches[max(0, t - 5) : t]) for t in range(1, len(batches) + 1)]
    assert [seen[t - 1][0].lines for t in (2, 4, 6, 8)] == [expected[t - 1] for t in (2, 4, 6, 8)]
    assert all(seen[t - 1] is None for t in (1, 3, 5, 7, 9))


def test_the_main_job_outputs_totals_statuses_top_paths_top_clients_and_rejected_lines(spark: object) -> None:
    seen = run_job(access_log.build, [LINES[:120], [*LINES[120:200], "no log line"]], batch_interval="5s")
    (first,), (second,) = seen["totals"]
    assert tuple(first) == (120, sum(size for *_, size in read(LINES[:120])), 0)
    assert tuple(second) == (81, sum(size for *_, size in read(LINES[120:200])), 1)
    assert [(row.status, row["count"]) for row in seen["statuses"][1]] == sorted(
        Counter(status for _, _, status, _ in read(LINES[:200])).items()
    )
    paths = Counter(path for _, path, _, _ in read(LINES[:200]))
    top = sorted(paths.items(), key=lambda item: (-item[1], item[0]))[:10]
    assert seen["paths"][0] is None, "the slide of 10 s is not over yet"
    assert [tuple(row) for row in seen["paths"][1]] == top
    clients = Counter(client for client, *_ in read(LINES[:200]))
    assert [(row.client_ip, row.hits) for row in seen["clients"][1]] == sorted(
        clients.items(), key=lambda item: (-item[1], item[0])
    )[:10]
    assert [row.line for row in seen["rejected"][1]] == ["no log line"]
    assert seen["rejected"][1][0].reason


def test_the_feed_writes_every_line_once_and_never_shows_half_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[set[str]] = []
    monkeypatch.setattr(feed.time, "sleep", lambda _: shown.append({f.name for f in tmp_path.iterdir()}))
    feed.main(str(tmp_path), "300", "1")
    files = sorted(tmp_path.iterdir())
    assert "".join(file.read_text() for file in files).splitlines() == LINES
    assert len(files) == 7
    assert not any(name.startswith(".") for names in shown for name in names)


def test_a_scanner_is_in_the_files_of_the_middle_fifth_beside_the_lines_of_the_sample() -> None:
    files = list(feed.files(100, 30))
    scans = [sum("203.0.113.9 " in line for line in lines) for lines in files]
    assert scans == [0] * 8 + [30] * 4 + [0] * 8
    assert [line for lines in files for line in lines if "203.0.113.9 " not in line] == [f"{line}\n" for line in LINES]
    assert files == list(feed.files(100, 30))
    assert all(read([line])[0][2] == 404 for line in files[8][100:])


def test_the_main_job_raises_an_alert_for_a_scanner_and_for_nothing_before_and_after_it(spark: object) -> None:
    files = list(feed.files(100, 30))
    alerts = run_job(access_log.build, [[line.rstrip("\n") for line in files[n]] for n in (7, 8, 12)])["alerts"]
    assert [len(rows) for rows in alerts] == [0, 1, 0]
    missing = sum(status == 404 for _, _, status, _ in read(files[8]))
    assert [value for value in alerts[1][0] if isinstance(value, float)] == [25.0, float(missing)]
