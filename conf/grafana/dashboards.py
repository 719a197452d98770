"""The dashboards prometheus.json, graphite.json and sql.json: run `python conf/grafana/dashboards.py` after a change.

The first two have the same panels, which is why they are made from one table. A panel states what differs from
Grafana's defaults. `$app` is the job's spark.metrics.namespace.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent

OURS, SPARK = "$app.driver.sparkstream", "$app.*"
PHASES = "{plan,prepare,outputs,states,snapshots}"


class Query(NamedTuple):
    """A query of Prometheus, and of Graphite with the function that names its series; either may be missing."""

    legend: str
    prometheus: str = ""
    graphite: str = ""


class Panel(NamedTuple):
    """A panel of the first two dashboards."""

    title: str
    unit: str
    queries: list[Query]
    description: str = ""
    kind: str = "timeseries"
    stacked: bool = False


class Table(NamedTuple):
    """A panel of the SQL dashboard."""

    title: str
    kind: str
    sql: str
    unit: str = "short"
    description: str = ""


def gauge(legend: str, name: str) -> Query:
    """A gauge of the job."""
    metric = name.replace(".", "_")
    return Query(legend, f'sparkstream_{metric}{{app="$app"}}', f"alias({OURS}.{name}, '{legend}')")


def each(kind: str, name: str) -> Query:
    """A gauge that there is one of for each source, output or state; NaN, which is unknown, has no line."""
    metric = f'sparkstream_{kind}_{name}{{app="$app"}} >= 0'
    return Query(f"{{{{{kind}}}}}", metric, f"aliasByNode({OURS}.{kind}.*.{name}, 4)")


def rate(legend: str, name: str, per: int = 1) -> Query:
    """What a counter of the job grows by in `per` seconds."""
    prometheus = f'rate(sparkstream_{name}_total{{app="$app"}}[$__rate_interval])'
    graphite = f"perSecond({OURS}.{name}.count)"
    return Query(legend, *_times(per, prometheus, graphite, f"alias({{}}, '{legend}')"))


def rate_of_each(kind: str, name: str, per: int = 1) -> Query:
    """What a counter grows by in `per` seconds that there is one of for each source or output."""
    prometheus = f'rate(sparkstream_{kind}_{name}_total{{app="$app"}}[$__rate_interval])'
    graphite = f"perSecond({OURS}.{kind}.*.{name}.count)"
    return Query(f"{{{{{kind}}}}}", *_times(per, prometheus, graphite, "aliasByNode({}, 4)"))


def _times(per: int, prometheus: str, graphite: str, named: str) -> tuple[str, str]:
    if per == 1:
        return prometheus, named.format(graphite)
    return f"{per} * {prometheus}", named.format(f"scale({graphite}, {per})")


def executors(metric: str, by: str = "sum") -> str:
    """A metric of all executors of the job."""
    return f'{by}(metrics_executor_{metric}{{instance=~"$instance"}})'


INTERVAL = gauge("batch interval", "batch.interval_seconds")

PANELS = [
    Panel(
        "Since the last progress",
        "s",
        [gauge("seconds", "seconds_since_progress")],
        "A batch, or nothing to do",
        "stat",
    ),
    Panel("Last batch", "none", [gauge("batch", "batch.number")], kind="stat"),
    Panel("Starts of this home", "none", [gauge("starts", "starts")], kind="stat"),
    Panel(
        "Executors",
        "none",
        [
            Query(
                "executors",
                'count(metrics_executor_totalCores{instance=~"$instance"} > 0)',
                f"alias(countSeries({SPARK}.executor.threadpool.activeTasks), 'executors')",
            )
        ],
        "In local mode the driver is the only one",
        "stat",
    ),
    Panel("Records per second", "short", [rate("all", "records"), rate_of_each("source", "records")]),
    Panel(
        "Rejected share",
        "percentunit",
        [
            Query(
                "rejected",
                'rate(sparkstream_rejected_total{app="$app"}[$__rate_interval])'
                ' / rate(sparkstream_records_total{app="$app"}[$__rate_interval])',
                f"alias(divideSeries(perSecond({OURS}.rejected.count), perSecond({OURS}.records.count)), 'rejected')",
            )
        ],
    ),
    Panel(
        "Batch by phase",
        "s",
        [
            Query(
                "{{phase}}",
                'sparkstream_batch_phase_seconds{app="$app"}',
                f"aliasSub(aliasByNode({OURS}.batch.{PHASES}_seconds, 4), '_seconds', '')",
            ),
            INTERVAL,
        ],
        "A job keeps up while its batches take less than the interval",
        stacked=True,
    ),
    Panel(
        "Total delay",
        "s",
        [gauge("from the tick until done", "batch.delay_seconds"), INTERVAL],
        "It grows if more arrives than the job processes",
    ),
    Panel("Lag in records", "short", [each("source", "lag_records")], "What the last batch left in the source"),
    Panel("Lag in bytes", "bytes", [each("source", "lag_bytes")], "What the last batch left in the source"),
    Panel("Rows per second of each output", "short", [rate_of_each("output", "rows")]),
    Panel(
        "Retries per minute",
        "short",
        [rate("failed tries", "failures", 60), rate("all", "retries", 60), rate_of_each("output", "retries", 60)],
    ),
    Panel("Rows of each state", "short", [each("state", "rows")], "As of its last snapshot"),
    Panel("Size of each state", "bytes", [each("state", "bytes")], "As of its last snapshot, in the executors"),
    Panel(
        "Memory of the driver",
        "bytes",
        [
            Query("heap", 'spark_driver_jvm_heap_used{app="$app"}', "alias($app.driver.jvm.heap.used, 'heap')"),
            Query(
                "largest heap",
                'spark_driver_jvm_heap_max{app="$app"}',
                "alias($app.driver.jvm.heap.max, 'largest heap')",
            ),
            Query(
                "other", 'spark_driver_jvm_non_heap_used{app="$app"}', "alias($app.driver.jvm.non-heap.used, 'other')"
            ),
        ],
    ),
    Panel(
        "Heap of each executor",
        "bytes",
        [
            Query(
                "{{executor_id}}",
                'metrics_executor_JVMHeapMemory_bytes{instance=~"$instance"}',
                f"aliasByNode({SPARK}.jvm.heap.used, 1)",
            )
        ],
        "Prometheus gets the peak of each, Graphite what is used now",
    ),
    Panel(
        "Share of time in garbage collections",
        "percentunit",
        [
            Query(
                "{{executor_id}}",
                'rate(metrics_executor_MinorGCTime_seconds_total{instance=~"$instance"}[$__rate_interval])'
                ' + rate(metrics_executor_MajorGCTime_seconds_total{instance=~"$instance"}[$__rate_interval])',
                f"groupByNode(scale(perSecond({SPARK}.jvm.*.time), 0.001), 1, 'sum')",
            ),
        ],
    ),
    Panel(
        "Tasks",
        "short",
        [
            Query(
                "active",
                executors("activeTasks"),
                f"alias(sumSeries({SPARK}.executor.threadpool.activeTasks), 'active')",
            ),
            Query("cores", executors("totalCores")),
            Query(
                "done per second",
                'sum(rate(metrics_executor_completedTasks_total{instance=~"$instance"}[$__rate_interval]))',
                f"alias(sumSeries(perSecond({SPARK}.executor.threadpool.completeTasks)), 'done per second')",
            ),
        ],
    ),
    Panel(
        "Storage memory of the cluster",
        "bytes",
        [
            Query(
                "used",
                executors("memoryUsed_bytes"),
                "alias(scale($app.driver.BlockManager.memory.memUsed_MB, 1048576), 'used')",
            ),
            Query(
                "available",
                executors("maxMemory_bytes"),
                "alias(scale($app.driver.BlockManager.memory.maxMem_MB, 1048576), 'available')",
            ),
        ],
        "Cached frames and states",
    ),
    Panel("Starts", "none", [gauge("starts", "starts")], "A step up is a start"),
]

TABLES = [
    Table("Requests since the first start", "stat", "select sum(count) as requests from statuses"),
    Table(
        "Share of 5xx since the first start",
        "stat",
        "select coalesce(sum(count) filter (where status >= 500), 0) / sum(count) as share from statuses",
        "percentunit",
    ),
    Table(
        "Batches with too many 404",
        "stat",
        "select count(*) as batches from alerts where $__timeFilter(time)",
    ),
    Table("Responses by status", "barchart", "select status::text, count from statuses order by status"),
    Table(
        "Responses 404 of a batch that were too many",
        "timeseries",
        'select time, actual as "responses 404", expected as "limit" from alerts'
        " where $__timeFilter(time) order by time",
    ),
    Table(
        "Alerts",
        "table",
        "select time, since, expected, actual from alerts where $__timeFilter(time) order by time desc limit 100",
    ),
    Table(
        "Rows written by each batch",
        "timeseries",
        "select committed_at as time, output as metric, rows as value from sparkstream_ledger"
        " where $__timeFilter(committed_at) order by time",
        description="From the ledger, which keeps 1,000 batches of each output",
    ),
]


def source(plugin: str) -> dict[str, str]:
    """The data source that is chosen at the top of the dashboard."""
    return {"type": plugin, "uid": "${datasource}"}


def panels(made: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Number the panels and place them: figures in a row of four, all others in rows of two."""
    x = y = height = 0
    for number, panel in enumerate(made, 1):
        width, tall = (6, 4) if panel["type"] == "stat" else (12, 8)
        if x + width > 24 or (height and tall != height):
            x, y = 0, y + height
        panel |= {"id": number, "gridPos": {"x": x, "y": y, "w": width, "h": tall}}
        x, height = x + width, tall
    return list(made)


def panel_of(panel: Panel, plugin: str) -> dict[str, Any]:
    """A panel with its queries of one data source."""
    targets: list[dict[str, Any]] = []
    for query in panel.queries:
        expression = getattr(query, plugin)
        if expression:
            asked = (
                {"target": expression} if plugin == "graphite" else {"expr": expression, "legendFormat": query.legend}
            )
            targets.append({"refId": chr(ord("A") + len(targets)), **asked})
    fields: dict[str, Any] = {"defaults": {"unit": panel.unit, "min": 0}}
    if panel.stacked:
        fields["defaults"]["custom"] = {"stacking": {"mode": "normal"}, "fillOpacity": 40}
        line = [{"id": "custom.stacking", "value": {"mode": "none"}}, {"id": "custom.fillOpacity", "value": 0}]
        fields["overrides"] = [{"matcher": {"id": "byName", "options": INTERVAL.legend}, "properties": line}]
    said = {"description": panel.description} if panel.description else {}
    return {
        "title": panel.title,
        "type": panel.kind,
        **said,
        "datasource": source(plugin),
        "fieldConfig": fields,
        "targets": targets,
    }


def table_of(table: Table) -> dict[str, Any]:
    """A panel of the SQL dashboard."""
    form = "time_series" if table.kind == "timeseries" else "table"
    said = {"description": table.description} if table.description else {}
    return {
        "title": table.title,
        "type": table.kind,
        **said,
        "datasource": source("grafana-postgresql-datasource"),
        "fieldConfig": {"defaults": {"unit": table.unit, "min": 0}},
        "targets": [{"refId": "A", "format": form, "rawQuery": True, "editorMode": "code", "rawSql": table.sql}],
    }


def dashboard(
    name: str, title: str, plugin: str, variables: Sequence[dict[str, Any]], made: Sequence[dict[str, Any]]
) -> str:
    """A dashboard as Grafana imports it."""
    choice = {"name": "datasource", "label": "Data source", "type": "datasource", "query": plugin}
    content = {
        "title": title,
        "uid": f"sparkstream-{name}",
        "tags": ["sparkstream"],
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [choice, *variables]},
        "panels": panels(made),
    }
    return written(content) + "\n"


def written(value: Any, indent: int = 0) -> str:
    """JSON with one line for what fits into 120 characters."""
    line = json.dumps(value)
    if indent + len(line) < 115 or not isinstance(value, (dict, list)):
        return line
    pairs = value.items() if isinstance(value, dict) else (("", item) for item in value)
    inside = " " * (indent + 2)
    items = [f"{inside}{json.dumps(key) + ': ' if key else ''}{written(item, indent + 2)}" for key, item in pairs]
    first, last = "{}" if isinstance(value, dict) else "[]"
    return first + "\n" + ",\n".join(items) + "\n" + " " * indent + last


def variable(name: str, plugin: str, query: str, **options: Any) -> dict[str, Any]:
    """A variable that is asked for again when the time range changes."""
    return {"name": name, "type": "query", "datasource": source(plugin), "query": query, "refresh": 2, **options}


def files() -> dict[Path, str]:
    """Each dashboard and its text."""
    by_label = 'label_values(sparkstream_starts{app="$app"}, instance)'
    prometheus = [
        variable("app", "prometheus", "label_values(sparkstream_starts, app)", label="Job"),
        variable("instance", "prometheus", by_label, hide=2, multi=True, includeAll=True),
    ]
    graphite = [variable("app", "graphite", "*", label="Job", regex="/^(?!carbon$).*$/")]
    return {
        FOLDER / f"{name}.json": dashboard(name, f"Sparkstream job ({title})", plugin, variables, made)
        for name, title, plugin, variables, made in (
            ("prometheus", "Prometheus", "prometheus", prometheus, [panel_of(p, "prometheus") for p in PANELS]),
            ("graphite", "Graphite", "graphite", graphite, [panel_of(p, "graphite") for p in PANELS]),
            ("sql", "results in SQL", "grafana-postgresql-datasource", [], [table_of(t) for t in TABLES]),
        )
    }


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
