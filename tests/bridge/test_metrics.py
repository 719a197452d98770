"""Metrics in Spark's metrics system, read from its own registry."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from sparkstream_kit.bridge import jvm
from sparkstream_kit.bridge.metrics import Metrics
from sparkstream_kit.context import end_previous
from sparkstream_kit.engine import meters
from sparkstream_kit.engine.batches import live
from tests.engine.test_reports import ROWS, Heard, counted
from tests.support.ticks import job, run_ticks


def system() -> Any:
    return jvm.view().org.apache.spark.SparkEnv.get().metricsSystem()


def published() -> dict[str, float]:
    """What sinks see of the kit (MetricsSystem.registry), without what precedes the name of the source."""
    field = system().getClass().getDeclaredField("registry")
    field.setAccessible(True)
    registry, found = field.get(system()), {}
    for metrics, value in ((registry.getGauges(), "getValue"), (registry.getCounters(), "getCount")):
        for name in metrics:
            ours = name.partition(".driver.sparkstream.")[2]
            if ours:
                found[ours] = getattr(metrics[name], value)()
    return found


@pytest.fixture(autouse=True)
def no_job_before(spark: SparkSession) -> None:
    """Jobs of other tests end like killed processes, and leave their metrics to the next job."""
    end_previous()
    assert published() == {}


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    made = Metrics("sparkstream", gauges=["lag"], counters=["records"])
    made.register()
    yield made
    made.remove()


def test_gauges_and_counters_are_published_and_withdrawn(metrics: Metrics) -> None:
    assert math.isnan(published()["lag"]), "unknown; a null would break what Prometheus reads"
    metrics.set({"lag": 2.5})
    metrics.count({"records": 3})
    metrics.count({"records": 10})
    assert published() == {"lag": 2.5, "records": 10}
    metrics.remove()
    assert published() == {}
    metrics.register()
    assert published() == {"lag": 2.5, "records": 10}


def test_what_prometheus_reads_is_valid(metrics: Metrics) -> None:
    """The text of org.apache.spark.metrics.sink.PrometheusServlet, by the grammar of the exposition format."""
    field = system().getClass().getDeclaredField("registry")
    field.setAccessible(True)
    properties = jvm.view().java.util.Properties()
    properties.setProperty("path", "/metrics/prometheus")
    servlet = jvm.view().org.apache.spark.metrics.sink.PrometheusServlet(properties, field.get(system()))
    text = servlet.getMetricsSnapshot(None)
    lines = [line for line in text.splitlines() if "_sparkstream_" in line]
    assert len(lines) == 3, "a gauge comes twice, as Number and as Value"
    for line in lines:
        name, _, value = line.rpartition(" ")
        assert name.endswith(('{type="gauges"}', '{type="counters"}')) and float(value) is not None


def test_a_job_publishes_its_figures(spark: SparkSession, tmp_path: Path) -> None:
    run_ticks(counted(Heard()), tmp_path, [1])
    with job(counted(Heard()), tmp_path) as engine:
        for second in (3, 4, 5):
            engine.tick(1000 * second)
        engine._meters.update()
        found = published()
        assert found["records"] == found["source.rows.records"] == sum(map(len, ROWS[:5])), "also of the run before"
        assert found["output.positive.rows"] == sum(v > 0 for batch in ROWS[:5] for v, _ in batch)
        assert (found["batch.number"], found["batch.records"], found["batches"]) == (4, 2, 4)
        assert (found["starts"], found["retries"], found["failures"]) == (2, 0, 0)
        assert (found["source.rows.lag_records"], found["batch.interval_seconds"]) == (0, 1.0)
        phases = sum(found[f"batch.{phase}_seconds"] for phase in ("outputs", "states", "snapshots"))
        assert 0 < phases <= found["batch.seconds"] <= found["batch.delay_seconds"] + 1e-9
        assert 0 <= found["seconds_since_progress"] <= found["seconds_since_batch"] + 0.1
        assert math.isnan(found["state.by-k.rows"]) or found["state.by-k.rows"] == 3
        engine.close()
    assert published() == {}


def test_a_restart_never_shows_a_counter_that_began_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_ticks(counted(Heard()), tmp_path, [1])
    seen = []
    register = Metrics.register
    monkeypatch.setattr(Metrics, "register", lambda self: (register(self), seen.append(published()["records"])))
    with job(counted(Heard()), tmp_path):
        assert seen == [3]


def test_operate_md_lists_all_metrics(spark: SparkSession, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/operate.md").read_text()
    rows = re.findall(r"^\| (`.*?) \| (counter|gauge) \|", page, re.MULTILINE)
    listed = [(name, kind) for names, kind in rows for name in re.findall(r"`(.+?)`", names)]
    with job(counted(Heard()), tmp_path):
        found = {re.sub(r"^(source|output|state)\.[^.]+\.", r"\1.NAME.", name) for name in published()}
    assert sorted(name for name, _ in listed) == sorted(found)


def test_the_next_job_of_a_process_replaces_the_metrics_of_one_that_was_left(tmp_path: Path) -> None:
    for home in ("a", "b"):
        run_ticks(counted(Heard()), tmp_path / home, [1, 3])  # ends without a stop
    engine = live()
    assert engine is not None
    engine._meters.update()
    assert published()["batches"] == 2


def test_names_that_differ_only_in_what_a_metric_cannot_have_are_one_metric(spark: SparkSession) -> None:
    assert meters.name("sql:a.b c/é") == "sql_a_b_c__"
