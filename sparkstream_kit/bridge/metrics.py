"""Metrics in Spark's metrics system, from where each sink that is configured takes them.

Classes are org.apache.spark.metrics.MetricsSystem and its source.Source, Spark 4.2.1, and those of Dropwizard 4.2 in
com.codahale.metrics.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .jvm import context, view


class _Source:
    """An org.apache.spark.metrics.source.Source in Python, called only when it is registered and removed.

    What sinks read are gauges and counters of the JVM (MetricsSystem.registerSource copies them into its registry).
    """

    def __init__(self, name: str, registry: Any):
        self._name, self._registry = name, registry

    def sourceName(self) -> str:
        return self._name

    def metricRegistry(self) -> Any:
        return self._registry

    def equals(self, other: object) -> bool:
        return other is self  # py4j gives the object itself; the system looks for it among its sources

    class Java:
        implements = ["org.apache.spark.metrics.source.Source"]  # noqa: RUF012 - py4j reads this list


class Metrics:
    """Gauges and counters, `<spark.metrics.namespace or application id>.driver.<source>.<name>`.

    A gauge is NaN until it is set: a null would make the text that Prometheus reads invalid (PrometheusServlet).
    Counters go on from their first total. `set` and `count` take one call for each value that has changed.
    """

    def __init__(self, source: str, *, gauges: Collection[str], counters: Collection[str]):
        """New gauges and counters (MetricRegistry.register)."""
        metrics = view().com.codahale.metrics
        registry = metrics.MetricRegistry()
        self._gauges = {name: registry.register(name, metrics.DefaultSettableGauge(float("nan"))) for name in gauges}
        self._counters = {name: registry.counter(name) for name in counters}
        self._values: dict[str, float] = {}
        self._source = _Source(source, registry)

    def register(self) -> None:
        """Let Spark's sinks see them (SparkEnv.metricsSystem)."""
        self._system().registerSource(self._source)

    def set(self, values: Mapping[str, float]) -> None:
        """The values of gauges."""
        for name, value in values.items():
            if self._values.get(name) != value:
                self._values[name] = value
                self._gauges[name].setValue(float(value))

    def count(self, totals: Mapping[str, int]) -> None:
        """The totals of counters, none of them less than before."""
        for name, total in totals.items():
            more = total - int(self._values.get(name, 0))
            if more:
                self._values[name] = total
                self._counters[name].inc(more)

    def remove(self) -> None:
        """Give all values to the sinks once more, and withdraw them (MetricsSystem.report, removeSource)."""
        self._system().report()
        self._system().removeSource(self._source)

    def _system(self) -> Any:
        """Spark's metrics system (SparkEnv.metricsSystem)."""
        context()
        return view().org.apache.spark.SparkEnv.get().metricsSystem()
