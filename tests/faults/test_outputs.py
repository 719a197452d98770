"""kill -9 of the driver between any two steps of an output: the result is that of a run without kills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from tests.support.supervisor import HERE, ROOT


class Receiver(HTTPServer):
    """The requests to each path, by idempotency key, and how many there were."""

    def __init__(self) -> None:
        self.bodies: dict[str, dict[str, str]] = defaultdict(dict)
        self.requests: dict[str, int] = defaultdict(int)
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.bodies[self.path][self.headers["Idempotency-Key"]] = body
        self.server.requests[self.path] += 1
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """No log."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_killed_between_any_two_steps_of_an_output(spark: SparkSession, tmp_path: Path, receiver: Receiver) -> None:
    gateway: Any = spark.sparkContext._gateway
    jvm = {
        "PYSPARK_GATEWAY_PORT": str(gateway.gateway_parameters.port),
        "PYSPARK_GATEWAY_SECRET": gateway.gateway_parameters.auth_token,
    }
    run = subprocess.run(
        [sys.executable, HERE / "killed_outputs.py", tmp_path, f"http://127.0.0.1:{receiver.server_port}"],
        env={**os.environ, **jvm, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, list[Any]] = defaultdict(list)
    for line in run.stdout.splitlines():
        place, there = json.loads(line)
        output = place.partition("-")[0]
        found[output].append(receiver.bodies[f"/{place}"] if output == "webhook" else there)
    for output, times in found.items():
        assert times == times[:1] * len(times), f"{output} after a kill at each step"
    assert {output: len(times) - 2 for output, times in found.items()} == {
        "parquet": 14,  # before and after: the note of the home; for each of two batches the files, ranges, their name
        "delta": 12,  # the table, the note; for each batch the files, the commit
        "webhook": 8,  # each of four rows
        # lease, beat, merged files, ranges of it and of each, note, two batches, new name, the note again, end of lease
        "compaction": 22,
    }
    rows, names, files = found["parquet"][0]
    assert (rows, names) == (["1.0", "1.1", "2.0", "2.1"], [".attempts", "_home", "batch=1", "batch=2"])
    rows, names, files = found["delta"][0]
    assert (rows, files) == (["1.0", "1.1", "2.0", "2.1"], {"batch-1": 1, "batch-2": 1}), "nothing of killed attempts"
    rows, names, _ = found["compaction"][0]
    assert rows == ["1.0", "1.1", "2.0", "2.1", "3.0", "3.1"]
    assert names == [".attempts", "_compacted", "_compaction", "_home", "batch=2", "batch=3"]
    assert sorted(found["webhook"][0].values()) == [
        '{"id":0,"n":1}',
        '{"id":0,"n":2}',
        '{"id":1,"n":1}',
        '{"id":1,"n":2}',
    ]
    assert max(receiver.requests.values()) > 4, "it is sent again, with the same key"
