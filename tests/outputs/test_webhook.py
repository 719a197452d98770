"""Webhooks against a real HTTP server: stable keys, retries, and no secrets in errors."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from sparkstream_kit.contracts import Batch
from sparkstream_kit.errors import BatchFailed, UsageError
from sparkstream_kit.outputs import _webhook

Write = Callable[[DataFrame, Batch], object]


class Receiver(ThreadingHTTPServer):
    """Responds with the given statuses, then with 204; 0 means no response at all, 1 one that drips without end."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[int] = []
        self.got: list[tuple[dict[str, str], str]] = []
        self.accepted: list[str] = []
        self.over = threading.Event()
        self.drips = threading.Semaphore(0)


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.got.append((dict(self.headers), body))
        answer = self.server.answers.pop(0) if self.server.answers else 204
        if answer == 0:
            self.server.over.wait(60)
            return
        if answer == 1:
            self.wfile.write(b"HTTP/1.1 204 No Content\r\n")
            with contextlib.suppress(OSError):
                while not self.server.over.wait(0.05):
                    self.wfile.write(b"X-Drip: 1\r\n")
                    self.server.drips.release()
            return
        if answer < 300:
            self.server.accepted.append(body)
        self.send_response(answer)
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def do_GET(self) -> None:
        raise AssertionError("a redirect was followed")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the output would have made."""
    made: list[float] = []
    monkeypatch.setattr(_webhook, "time", SimpleNamespace(sleep=made.append))
    return made


def batch(n: int) -> Batch:
    return Batch(n, datetime(2015, 5, 17, tzinfo=timezone.utc), "home-a")


def writer(receiver: Receiver, **options: Any) -> Write:
    taken: list[Write] = []
    stream = type("Stream", (), {"for_each_batch": lambda _, write, **__: taken.append(write)})()
    _webhook.webhook(stream, f"http://127.0.0.1:{receiver.server_port}/t0ken?key=s3cret", name="alerts", **options)
    return taken[0]


def alerts(spark: SparkSession, *rows: tuple[Any, ...]) -> DataFrame:
    return spark.createDataFrame(list(rows), "host string, n int")


def keys(receiver: Receiver) -> list[str]:
    return [headers["Idempotency-Key"] for headers, _ in receiver.got]


def test_each_row_is_a_json_object_with_a_key_of_its_own(spark: SparkSession, receiver: Receiver) -> None:
    writer(receiver)(alerts(spark, ("ü\n", 1), (None, None), (None, None)), batch(7))
    assert [json.loads(body) for _, body in receiver.got] == [
        {"host": "ü\n", "n": 1},
        {"host": None, "n": None},
        {"host": None, "n": None},
    ]
    headers = receiver.got[0][0]
    assert (headers["Content-Type"], headers["Batch"]) == ("application/json", "7")
    assert len(set(keys(receiver))) == 3, "equal rows, too"


def test_a_batch_that_another_driver_runs_again_has_the_same_keys(spark: SparkSession, receiver: Receiver) -> None:
    rows = [("a", 1), ("b", 2), ("b", 2)]
    writer(receiver)(alerts(spark, *rows), batch(1))
    writer(receiver)(alerts(spark, *rows[::-1]).repartition(2), batch(1))
    writer(receiver)(alerts(spark, *rows), batch(2))
    first, second, third = keys(receiver)[:3], keys(receiver)[3:6], keys(receiver)[6:]
    assert first == second
    assert not set(first) & set(third)


@pytest.mark.parametrize("answer", [408, 425, 429, 500, 503])
def test_a_temporary_failure_is_retried_after_a_random_pause(
    answer: int, spark: SparkSession, receiver: Receiver, pauses: list[float]
) -> None:
    receiver.answers = [answer] * 3
    writer(receiver)(alerts(spark, ("a", 1)), batch(1))
    assert len(receiver.accepted) == 1
    assert len(set(keys(receiver))) == 1
    assert all(0 <= pause <= limit for pause, limit in zip(pauses, (0.5, 1, 2), strict=True))
    assert len(set(pauses)) == 3


@pytest.mark.parametrize(
    ("answers", "said"),
    [([400], "400"), ([302], "302"), ([503] * 4, "503"), ([0] * 4, "timed out"), ([1] * 4, "timed out")],
)
def test_a_failure_names_the_host_but_no_secret_and_a_retry_continues_where_it_failed(
    answers: list[int], said: str, spark: SparkSession, receiver: Receiver
) -> None:
    receiver.answers = [204, *answers]
    write = writer(receiver, timeout=0.5)
    with pytest.raises(ConnectionError, match=rf"http://127.0.0.1:\d+: .*{said}") as failed:
        write(alerts(spark, ("a", 1), ("b", 2)), batch(1))
    assert "t0ken" not in str(failed.value) and "s3cret" not in str(failed.value)
    write(alerts(spark, ("a", 1), ("b", 2)), batch(1))
    assert [json.loads(body)["host"] for body in receiver.accepted] == ["a", "b"]


def test_the_timeout_bounds_the_whole_request_whatever_a_server_drips(
    spark: SparkSession, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_webhook, "TRIES", 1)
    receiver.answers = [1]
    with pytest.raises(ConnectionError, match="timed out: no answer within 0.5 s"):
        writer(receiver, timeout=0.5)(alerts(spark, ("a", 1)).coalesce(1), batch(1))
    dripped = sum(receiver.drips.acquire(blocking=False) for _ in range(100))
    assert 0 < dripped < 50, "the server would go on until there are 100 headers, ten times as long"


def test_another_batch_with_the_same_number_has_other_keys(spark: SparkSession, receiver: Receiver) -> None:
    for start in (0, 7):  # of a home that was restored from an older copy
        writer(receiver)(alerts(spark, ("a", 1)), Batch(1, batch(1).time, "home-a", {"lines": (start, 9)}))
    first, second = keys(receiver)
    assert first != second


def test_too_many_rows_for_requests_fail_the_batch(
    spark: SparkSession, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_webhook, "MOST_ROWS", 1)
    with pytest.raises(BatchFailed, match="batch 1 of the output 'alerts' has more than 1 rows: filter them first"):
        writer(receiver)(alerts(spark, ("a", 1), ("b", 2)), batch(1))
    assert receiver.got == []


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "ftp://host/s3cret", "host/s3cret", "http:///s3cret"),
        *("http://kit:s3cret@host/", "http://kit:s3cret/2@host/", "http://host/s3cret 2", "http://host/s3cret-ü"),
    ],
)
def test_only_http_urls_are_accepted_and_no_part_of_a_wrong_one_is_shown(url: str) -> None:
    with pytest.raises(UsageError, match="expected http://HOST/PATH") as refused:
        _webhook.webhook(None, url)  # type: ignore[arg-type]
    assert "s3cret" not in str(refused.value)
