"""Prometheus and Graphite get the metrics of a job, and every query in conf/ finds what it asks for.

The job is jobs/access_log.py, with one more source, in local mode, where the driver is also the only executor.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from tests.servers.conftest import Graphite, Postgres, Prometheus, free_port, installed
from tests.support.supervisor import wait_until

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
LINES = ROOT / "jobs" / "data" / "access_2000.log"
APP = "access_log"
JOB = "tests/servers/jobs/two_sources.py"

# The job is over before compiling pays.
QUICK = {
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}


class Running(NamedTuple):
    """What sees the running job."""

    prometheus: Prometheus
    graphite: Graphite
    database: str


def targets(name: str, field: str) -> list[Any]:
    """Each query of a dashboard, named by its panel."""
    board = json.loads((CONF / "grafana" / f"{name}.json").read_text())
    return [
        pytest.param(target[field], id=f"{panel['title']} {target['refId']}")
        for panel in board["panels"]
        for target in panel["targets"]
    ]


def eventually(found: Callable[[], Any], what: str) -> Any:
    """What is found at last; a server that does not answer yet has found nothing."""
    last: Any = None

    def holds() -> Any:
        nonlocal last
        try:
            last = found()
        except (urllib.error.URLError, ConnectionError, psycopg.errors.UndefinedTable):
            last = None
        return last

    wait_until(holds, f"there is {what}")
    return last


def job_command(folder: Path, graphite: Graphite, database: str, ui: int) -> list[str]:
    (folder / "logs").mkdir()
    (folder / "logs" / "access.log").write_text(LINES.read_text() + "Segmentation fault (core dumped)\n")
    properties = {
        **QUICK,
        "spark.ui.port": str(ui),
        "spark.metrics.conf": str(CONF / "metrics.properties"),
        "spark.metrics.namespace": APP,
        "spark.metrics.conf.*.sink.graphite.class": "org.apache.spark.metrics.sink.GraphiteSink",
        "spark.metrics.conf.*.sink.graphite.host": "127.0.0.1",
        "spark.metrics.conf.*.sink.graphite.port": str(graphite.port),
        "spark.metrics.conf.*.sink.graphite.period": "1",
    }
    outputs = (
        f"statuses=sql:{database}&mode=upsert&key=status",
        f"alerts=sql:{database}",
        *(f"{name}=json:{folder}/out" for name in ("totals", "paths", "clients", "rejected", "others")),
    )
    return [
        *(sys.executable, JOB, "--home", f"{folder}/home", "--batch-interval", "1s"),
        *("--source", "generator:?rate=1000"),
        *(word for output in outputs for word in ("--output", output)),
        *(word for item in properties.items() for word in ("--conf", "=".join(item))),
    ]


def quick_scrape(folder: Path, ui: int) -> Path:
    """conf/prometheus with this driver, asked once a second."""
    shutil.copy(CONF / "prometheus" / "alerts.yml", folder)
    text = (CONF / "prometheus" / "prometheus.yml").read_text()
    assert (text.count("localhost:4040"), text.count("_interval: 10s")) == (1, 2)
    config = folder / "prometheus.yml"
    config.write_text(text.replace("localhost:4040", f"localhost:{ui}").replace("_interval: 10s", "_interval: 1s"))
    return config


@pytest.fixture(scope="module")
def running(graphite: Graphite, postgres: Postgres) -> Iterator[Running]:
    folder = Path(tempfile.mkdtemp(prefix="metrics-"))
    ui, database = free_port(), postgres.create_database()
    log = folder / "log"
    with log.open("w") as into:
        command = job_command(folder, graphite, database, ui)
        env = {**os.environ, "LOGS": f"{folder}/logs", "PYTHONPATH": str(ROOT)}
        streams: dict[str, Any] = {"stdout": into, "stderr": subprocess.STDOUT}
        job = subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True, **streams)
    prometheus = None
    try:
        prometheus = Prometheus(folder / "prometheus", quick_scrape(folder, ui))
        eventually(lambda: job.poll() is not None or prometheus.query("sparkstream_batch_number > 1"), "a second batch")
        assert job.poll() is None, log.read_text()
        yield Running(prometheus, graphite, database)
    finally:
        if prometheus:
            prometheus.kill()
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()
        shutil.rmtree(folder)


def of_prometheus(expression: str) -> str:
    """What Grafana sends for a query."""
    sent = expression.replace("$app", APP).replace("$instance", ".*").replace("$__rate_interval", "10s")
    assert "$" not in sent, sent
    return sent


def numbers(values: list[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


@pytest.mark.parametrize("expression", targets("prometheus", "expr"))
def test_prometheus_answers_the_query_of_a_panel(expression: str, running: Running) -> None:
    sent = of_prometheus(expression)
    eventually(lambda: numbers([value for _, value in running.prometheus.query(sent)]), sent)


@pytest.mark.parametrize("target", targets("graphite", "target"))
def test_graphite_answers_the_query_of_a_panel(target: str, running: Running) -> None:
    sent = target.replace("$app", APP)
    assert "$" not in sent
    eventually(lambda: [values for values in running.graphite.render(sent).values() if values], sent)


@pytest.mark.parametrize("sql", targets("sql", "rawSql"))
def test_postgresql_answers_the_query_of_a_panel(sql: str, running: Running) -> None:
    sent = re.sub(r"\$__timeFilter\((\w+)\)", r"\1 between now() - interval '1 hour' and now()", sql)
    assert "$" not in sent

    def rows() -> list[Any]:
        with psycopg.connect(running.database) as connection:
            return [row for row in connection.execute(sent).fetchall() if row[-1]]  # type: ignore[arg-type]

    eventually(rows, sent)


RULES = re.findall(
    r"- alert: (\w+)\n +expr: (?:>-)?((?:.|\n)+?)\n +(?:for|labels):", (CONF / "prometheus/alerts.yml").read_text()
)


@pytest.mark.parametrize(("name", "expression"), RULES, ids=[name for name, _ in RULES])
def test_the_metrics_of_an_alert_rule_exist(name: str, expression: str, running: Running) -> None:
    """With bool a comparison filters nothing: it has data if both of its sides have."""
    compared = re.sub(r" (>|==) ", r" \1 bool ", " ".join(expression.split()))
    assert compared != " ".join(expression.split())
    eventually(lambda: running.prometheus.query(compared), compared)


def test_every_rule_is_among_these() -> None:
    assert len(RULES) == (CONF / "prometheus/alerts.yml").read_text().count("- alert:") > 5


def test_a_job_that_is_well_raises_no_alert(running: Running) -> None:
    rules = eventually(running.prometheus.rules, "rules")
    assert {rule["health"] for rule in rules} == {"ok"}
    assert [rule["name"] for rule in rules if rule["state"] == "firing"] == []


def test_metrics_have_labels_for_what_their_names_held(running: Running) -> None:
    def labels(metric: str, label: str) -> set[str]:
        return {found[label] for found, _ in running.prometheus.query(metric) if found["app"] == APP}

    assert labels("sparkstream_source_records_total", "source") == {"generator", "files"}
    assert labels("sparkstream_state_rows", "state") >= {"threshold"}
    assert {"json_totals", "sql_statuses"} <= labels("sparkstream_output_rows_total", "output")
    assert labels("sparkstream_batch_phase_seconds", "phase") == {"plan", "prepare", "outputs", "states", "snapshots"}
    names = {found["__name__"] for found, _ in running.prometheus.query('{app="access_log", __name__!~"ALERTS.*"}')}
    assert {name.split("_")[0] for name in names} == {"sparkstream", "spark"}
    assert not [name for name in names if name.endswith(("_Number", "_Value"))]


def test_both_count_the_same_records(running: Running) -> None:
    def counted() -> bool:
        before = running.graphite.render(f"{APP}.driver.sparkstream.records.count")
        ((_, now),) = running.prometheus.query("sparkstream_records_total")
        return bool(before) and now in next(iter(before.values()))

    eventually(counted, "a value that both have")


@pytest.mark.parametrize(
    "words", ["check config prometheus.yml", "check rules alerts.yml", "test rules alerts_test.yml"]
)
def test_promtool_finds_no_fault(words: str) -> None:
    command = [installed("promtool"), *words.split()]
    run = subprocess.run(command, cwd=CONF / "prometheus", capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
