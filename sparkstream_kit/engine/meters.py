"""The figures of a job as metrics of Spark: names that stay the same from one application to the next."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Iterator

from ..bridge import jvm
from ..bridge.metrics import Metrics
from ..contracts import Size
from .graph import Graph
from .reports import PHASES, TOTALS, Reports

log = logging.getLogger(__name__)

SOURCE = "sparkstream"

EVERY = 1.0
"""Seconds between two updates: sinks ask once a second at most."""

LAST = 2.0
"""Seconds that a job which ends waits for the sinks."""

OF_OUTPUTS = ("rows", "retries")
OF_STATES = ("rows", "bytes")
FIGURES = ("number", "time", "records", "seconds", "delay_seconds", "interval_seconds")
AGES = ("seconds_since_batch", "seconds_since_progress")


class Meters:
    """Gives the figures of `reports` to Spark's metrics system every second, whatever the batches do meanwhile."""

    def __init__(self, reports: Reports, graph: Graph, *, starts: int):
        self._reports, self._graph, self._starts = reports, graph, starts
        self._metrics: Metrics | None = None
        self._counters = {total: total for total in TOTALS}
        """The total that each counter counts."""
        self._over = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Register the metrics, and keep them up to date until `stop`."""
        for source in self._graph.sources:
            self._counters |= {f"source.{name(source)}.{unit}": f"source.{source}.{unit}" for unit in Size._fields}
        for output in self._graph.outputs:
            self._counters |= {f"output.{name(output)}.{unit}": f"output.{output}.{unit}" for unit in OF_OUTPUTS}
        gauges = ["starts", *AGES, *(f"batch.{figure}" for figure in FIGURES)]
        gauges += [f"batch.{phase}_seconds" for phase in PHASES]
        gauges += [f"source.{name(source)}.lag_{unit}" for source in self._graph.sources for unit in Size._fields]
        gauges += [f"state.{name(state)}.{unit}" for state in self._graph.states for unit in OF_STATES]
        try:
            self._metrics = Metrics(SOURCE, gauges={*gauges}, counters={*self._counters, "failures"})
            self.update()  # first: a total that was 0 in between would look like a counter that began again
            self._metrics.register()
        except Exception as error:  # a job runs without, too
            log.warning("the metrics of the job cannot be registered: %s", jvm.reason(error))
            return
        threading.Thread(target=self._keep, name="metrics", daemon=True).start()

    def stop(self) -> None:
        """Give the last figures to the sinks, and withdraw the metrics; a sink that hangs is not waited for."""
        if self._metrics is None or self._over.is_set():
            return
        self._over.set()
        last = threading.Thread(target=self._withdraw, name="metrics", daemon=True)
        last.start()
        last.join(LAST)

    def _withdraw(self) -> None:
        with contextlib.suppress(Exception):  # a JVM that is gone has no sinks
            self.update()
            assert self._metrics is not None
            self._metrics.remove()

    def _keep(self) -> None:
        while not self._over.is_set():
            try:
                self.update()
            except Exception as error:
                if jvm.is_gone(error):
                    return
                log.warning("the metrics of the job cannot be updated: %s", jvm.reason(error))
                return
            self._over.wait(EVERY)

    def update(self) -> None:
        """Set what has changed."""
        metrics, reports = self._metrics, self._reports
        assert metrics is not None
        with self._lock:
            counted = {counter: reports.totals[total] for counter, total in self._counters.items()}
            metrics.count(counted | {"failures": reports.failures})
            metrics.set(dict(self._gauges()))

    def _gauges(self) -> Iterator[tuple[str, float]]:
        now, last = time.monotonic(), self._reports.last
        yield "starts", self._starts
        yield "batch.interval_seconds", self._graph.interval / 1000
        yield "seconds_since_progress", round(now - self._reports.progressed, 1)
        if last is None:
            return
        yield "seconds_since_batch", round(now - self._reports.ended, 1)
        yield "batch.number", last.n
        yield "batch.time", last.ended
        yield "batch.records", _known(last.records)
        yield "batch.seconds", last.seconds
        yield "batch.delay_seconds", last.delay
        for phase, seconds in last.phases.items():
            yield f"batch.{phase}_seconds", seconds
        for source, lag in last.lags.items():
            for unit, amount in lag._asdict().items():
                yield f"source.{name(source)}.lag_{unit}", _known(amount)
        for state, size in last.states.items():
            for unit, amount in zip(OF_STATES, size, strict=True):
                yield f"state.{name(state)}.{unit}", _known(amount)


def name(text: str) -> str:
    """A name as part of that of a metric, where dots separate.

    >>> name("sql:top.paths")
    'sql_top_paths'
    """
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)


def _known(amount: int | None) -> float:
    return float("nan") if amount is None else amount
