"""What the live page shows. Events and outputs of the job change it, and each browser asks for what is new to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from ..engine import batches, clocks
from ..engine.graph import Graph
from ..engine.reports import HISTORY, TOTALS, brief
from ..events import BatchDone, Event, JobFailed, JobStarted, JobStopped, StepFailed
from ..health import Health, health, tried_again

LOOK_EVERY = 0.2
"""Seconds between two looks at the health."""


class Page:
    """The parts of a page, each with the version of the page in which it last changed.

    So no browser has a queue, whatever it misses, and a slow one gets the newest state of each part.
    """

    def __init__(self, graph: Graph, app: str):
        self._graph, self._app = graph, app
        self._lock = threading.RLock()
        self._looked = 0.0
        """When the health was looked at last, by a clock that does not go back."""
        self._version = 0
        self._parts: dict[str, tuple[int, Any]] = {}
        self._batches: dict[int, tuple[int, dict[str, Any]]] = {}
        self._panels: dict[str, tuple[int, dict[str, Any]]] = {}
        self._failing: dict[str, tuple[int, float, StepFailed]] = {}
        """How often each step has failed in this batch, and when it did last."""
        self._errors: dict[str, str] = {}
        """The last error of each output."""
        self._last: Health | None = Health("starting", "off", "the job has not started its batches yet")
        """The health that no figure changes: before the start, and after the end."""

    # --- what browsers ask for

    def since(self, version: int) -> tuple[int, dict[str, Any]]:
        """The newest version, and as JSON values what has changed since an earlier one; 0 for all there is."""
        if time.monotonic() - self._looked > LOOK_EVERY:  # and not once for each browser
            self._look()
        with self._lock:
            news = {name: value for name, (at, value) in self._parts.items() if at > version}
            for name, items in (("batches", self._batches), ("panels", self._panels)):
                changed = [value for at, value in items.values() if at > version]
                if changed:
                    news[name] = changed
            return self._version, news

    def _look(self) -> None:
        """Look at the health again: it changes with time."""
        with self._lock:  # or what was found before the end could come after it
            self._looked = time.monotonic()
            self._set("health", self.health()._asdict())

    def health(self) -> Health:
        """How the job is now."""
        engine = batches.live()
        if self._last is not None or engine is None or engine.graph is not self._graph:
            return self._last or Health("stopped", "off", "the job has ended")
        if engine.stopping.is_set():
            return Health("stopping", "off", "a stop was requested: the batch that runs is finished first")
        with self._lock:
            history = [batch for _, batch in self._batches.values()]
        failing = self._reason(engine.reports.progressed)
        idle = time.monotonic() - engine.reports.progressed
        interval, now = self._graph.interval / 1000, clocks.machine_clock() / 1000
        draining, again = engine.is_draining, self._graph.log.again
        return health(
            history,
            interval=interval,
            now=now,
            idle=idle,
            failing=failing,
            draining=draining,
            again=again.batches if again else "",
        )

    def _reason(self, since: float) -> str:
        """What has failed since the job went on last."""
        for step, (tries, at, event) in self._failing.items():
            if at >= since:
                return tried_again(step, event.n, tries, event.error)
        return ""

    # --- what changes

    def _set(self, name: str, value: Any) -> None:
        with self._lock:
            if name not in self._parts or self._parts[name][1] != value:
                self._version += 1
                self._parts[name] = (self._version, value)

    def add_panel(self, name: str, show: str) -> None:
        """Reserve the place of a result, so that panels keep theirs whichever has a batch first."""
        self.show({"name": name, "show": show, "n": None, "time": None})

    def show(self, panel: dict[str, Any]) -> None:
        """Show a result in its panel."""
        with self._lock:
            self._version += 1
            self._panels[panel["name"]] = (self._version, panel)
            self._set("panel_order", list(self._panels))

    def _add(self, history: list[dict[str, Any]]) -> None:
        with self._lock:
            self._version += 1
            self._batches |= {batch["n"]: (self._version, batch) for batch in history}
            for n in sorted(self._batches)[:-HISTORY]:
                del self._batches[n]

    def hear(self, event: Event) -> None:
        """Take up an event of the job; a listener."""
        if isinstance(event, JobStarted):
            self._begin(event)
        elif isinstance(event, BatchDone):
            self._done(event)
        elif isinstance(event, StepFailed):
            tries, _, _ = self._failing.get(event.step, (0, 0.0, event))
            # replaced and not changed, as another thread reads it
            self._failing = {**self._failing, event.step: (tries + 1, time.monotonic(), event)}
            self._errors[event.step] = event.error
            self._set_outputs({}, {})
        elif isinstance(event, JobFailed):
            self._last = Health("failed", "bad", f"the job has ended: {event.error}")
        elif isinstance(event, JobStopped):
            drained = "everything was processed" if event.drained else "stopped gracefully"
            self._last = Health("stopped", "off", f"the job has ended: {drained}")
        self._look()

    def _begin(self, event: JobStarted) -> None:
        engine = batches.live()
        assert engine is not None
        home, interval = self._graph.home, self._graph.interval / 1000
        self._set(
            "job", {"app": self._app, "home": home.root, "id": home.id, "run": event.starts, "interval": interval}
        )
        self._add(list(engine.reports.history))
        self._set("totals", {name: engine.reports.totals[name] for name in TOTALS})
        self._set_outputs({}, engine.reports.totals)
        self._last = None

    def _done(self, event: BatchDone) -> None:
        self._failing = {}
        self._add([brief(event)])
        self._set("totals", {name: event.totals.get(name, 0) for name in TOTALS})
        names = dict.fromkeys([*event.lags, *event.sizes])
        sources = [(name, event.sizes.get(name), event.lags.get(name)) for name in names]
        self._set(
            "sources",
            [
                {
                    "name": name,
                    "records": size.records if size else 0,
                    "bytes": size.bytes if size else 0,
                    "lag_records": lag.records if lag else None,
                    "lag_bytes": lag.bytes if lag else None,
                }
                for name, size, lag in sources
            ],
        )
        self._set("states", [{"name": n, "rows": s.records, "bytes": s.bytes} for n, s in event.states.items()])
        self._set_outputs(event.rows, event.totals)

    def _set_outputs(self, rows: Mapping[str, int], totals: Mapping[str, int]) -> None:
        """Show the outputs that write what lasts, and those that have failed; without new figures they keep theirs."""
        before = {output["name"]: output for output in self._parts.get("outputs", (0, []))[1]}
        shown = []
        for name, output in self._graph.outputs.items():
            step = f"output {name!r}"
            if not output.lasting and step not in self._errors:
                continue
            known = before.get(name, {"rows": None, "total_rows": None, "retries": 0})
            if totals:
                total = totals.get(f"output.{name}.rows", 0)
                known = {
                    "rows": rows.get(name),
                    "total_rows": total if total or name in rows else known["total_rows"],
                    "retries": totals.get(f"output.{name}.retries", 0),
                }
            shown.append({**known, "name": name, "error": self._errors.get(step, "")})
        self._set("outputs", shown)
