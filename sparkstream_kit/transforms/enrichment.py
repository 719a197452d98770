"""Enrichment: a stream joined with what changes slowly, such as a table of customers or of networks."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from .. import bridge
from ..errors import UsageError
from ..frames import FrameStream
from ..graph import Graph, Moment
from ..recovery import storage

log = logging.getLogger(__name__)


def enrich(
    stream: FrameStream,
    read: Callable[[], DataFrame],
    on: str | list[str],
    how: str = "left",
    *,
    refresh_every: int = 100,
    name: str = "enrichment",
) -> FrameStream:
    """Join each batch with a frame that is read at the start, and anew every so many batches.

    Columns: those of the stream, then the others of the frame.

        enrich(requests, lambda: spark.read.jdbc(url, "customers"), on="client_ip", refresh_every=60)

    >>> from sparkstream_kit.testing import run_batches
    >>> names = getfixture("spark").createDataFrame([(200, "OK")], "status int, reason string")
    >>> run_batches(lambda s: enrich(FrameStream.of(s, "status int"), lambda: names, on="status"), [[(200,)], [(600,)]])
    [[Row(status=200, reason='OK')], [Row(status=600, reason=None)]]

    What `read` gives is kept under the home before it is used, so a batch that runs again, also after a restart, finds
    the version it had. Where `read` fails, the last good version serves for as many batches again, with a warning;
    where there is none, the start fails. The frame goes to every executor in each batch (a broadcast join), so it must
    fit into the driver's memory. Batches are entries of the offset log. The name is that of the versions' directory.

    Grows with: the rows of the batch, and the size of the frame.
    """
    if refresh_every < 1:
        raise UsageError(f"got refresh_every={refresh_every}, expected at least 1")
    versions = _Versions(stream.graph, read, refresh_every, name)

    def compute(moment: Moment) -> DataFrame | None:
        frame = moment.frame(stream.compute)
        return None if frame is None else frame.join(F.broadcast(versions.at(moment)), on, how)

    return FrameStream(stream.graph, compute, carried=stream.carried)


class _Versions:
    """What was read: the directory `<n>` serves from batch n on; `<n>.kept` says that nothing new could be read."""

    def __init__(self, graph: Graph, read: Callable[[], DataFrame], every: int, name: str):
        self._graph, self._read, self._every, self._name = graph, read, every, name
        self._has_asked = False
        self._loaded: dict[int, DataFrame] = {}

    @property
    def _directory(self) -> str:
        return self._graph.home / f"enrichment/{self._name}"

    def at(self, moment: Moment) -> DataFrame:
        """The version of a batch; what was decided for it once stays so."""
        n = moment.entry.n
        if moment.is_check:
            return self._columns()
        good, asked = self._known(n)
        if not good or (n == self._graph.log.last.n and n not in asked and self._is_due(n - max(asked))):
            self._refresh(n, good)
            good, _ = self._known(n)
        return self._load(good[-1])

    def _is_due(self, batches: int) -> bool:
        return not self._has_asked or batches >= self._every

    def _known(self, n: int | None = None) -> tuple[list[int], list[int]]:
        """The batches up to n that brought a version, and those that asked for one."""
        names = storage.names(self._directory)
        asked = {int(number): kept for number, _, kept in (x.partition(".") for x in names) if number}
        upto = sorted(k for k in asked if n is None or k <= n)
        return [k for k in upto if not asked[k]], upto

    def _columns(self) -> DataFrame:
        try:
            return self._read().limit(0)
        except Exception:
            good, _ = self._known()
            if not good:
                raise
            return self._load(good[-1]).limit(0)

    def _refresh(self, n: int, good: list[int]) -> None:
        self._has_asked = True
        temporary = f"{self._directory}/.{uuid.uuid4().hex}"
        try:
            self._read().write.parquet(temporary)
        except Exception as error:
            if not good:
                raise
            log.warning(
                "%r cannot be read (%s): batch %d goes on with what batch %d had",
                self._name,
                bridge.reason(error),
                n,
                good[-1],
            )
            storage.write(f"{self._directory}/{n}.kept", "")
            return
        storage.publish(temporary, f"{self._directory}/{n}")
        self._remove_old()

    def _remove_old(self) -> None:
        """What was decided for batches that can still run again stays."""
        good, asked = self._known(self._graph.log.floor.n + 1)
        for n in asked:
            if good and n < good[-1]:
                storage.delete(f"{self._directory}/{n}{'' if n in good else '.kept'}")
        for unfinished in storage.hidden(self._directory):
            storage.delete(f"{self._directory}/{unfinished}")

    def _load(self, n: int) -> DataFrame:
        if n not in self._loaded:
            for old in self._loaded.values():
                old.unpersist()
            self._loaded = {n: self._graph.session.read.parquet(f"{self._directory}/{n}").cache()}
        return self._loaded[n]
