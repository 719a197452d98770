"""Enrichment: a stream joined with what changes slowly, such as a table of customers or of networks."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pyspark.sql import DataFrame

from ..bridge import hadoop, jvm
from ..engine.graph import BatchContext, Graph, add_named
from ..errors import UsageError
from ..frames import FrameStream
from ..recovery import snapshots, storage

log = logging.getLogger(__name__)


def enrich(
    stream: FrameStream,
    read: Callable[[], DataFrame],
    on: str | list[str],
    how: str = "left",
    *,
    refresh_every: int = 100,
    files: str | None = None,
    name: str = "enrichment",
) -> FrameStream:
    """Join each batch with a frame that is read at the start, every so many batches, and when its files change.

    Columns: those of the stream, then the others of the frame.

        enrich(requests, lambda: spark.read.jdbc(url, "customers"), on="client_ip", refresh_every=60)
        enrich(requests, lambda: spark.read.parquet("hdfs:///customers"), on="client_ip", files="hdfs:///customers")

    >>> from sparkstream_kit.testing import run_batches
    >>> names = getfixture("spark").createDataFrame([(200, "OK")], "status int, reason string")
    >>> run_batches(lambda s: enrich(FrameStream.of(s, "status int"), lambda: names, on="status"), [[(200,)], [(600,)]])
    [[Row(status=200, reason='OK')], [Row(status=600, reason=None)]]

    `files` is a file, a directory or a glob of any Hadoop file system. In each batch the path, size and time of change
    of every file there are compared with those of when the frame was read. UsageError if the first start finds none.

    What `read` gives is kept under the home before it is used. A batch that runs again, also after a restart, finds the
    version it had. Where `read` fails, or gives other columns than at the start, the last good version serves on, with
    a warning, until it is time to read again; where there is none, the start fails. A small frame goes to every
    executor (spark.sql.autoBroadcastJoinThreshold), a large one is shuffled with the batch. Batches are entries of the
    offset log. The name is that of the versions' directory.

    Grows with: the rows of the batch, the size of the frame, and the number of `files`.
    """
    if refresh_every < 1:
        raise UsageError(f"got refresh_every={refresh_every}, expected at least 1")
    if files is not None:
        stream.graph.first_start_checks.append(lambda: _check_files(files))
    versions = _Versions(stream.graph, read, refresh_every, files, name)
    add_named("enrichments", stream.graph.enrichments, name, versions)

    def compute(ctx: BatchContext) -> DataFrame | None:
        frame = ctx.frame(stream.compute)
        return None if frame is None else frame.join(versions.at(ctx), on, how)

    return FrameStream(stream.graph, compute, stateful=stream.stateful)


def _check_files(files: str) -> None:
    if not hadoop.changes(files):
        raise UsageError(f"no file is at files={files!r}: name the file, directory or glob that the frame is read from")


class _Versions:
    """What was read: the directory `<n>` serves from batch n on.

    Only a batch that this driver claimed asks for a new version, and only once. One that runs again has the newest
    version up to it: its own if it brought one, or else the one it had.
    """

    def __init__(self, graph: Graph, read: Callable[[], DataFrame], every: int, files: str | None, name: str):
        self._graph, self._read, self._every, self._files, self._name = graph, read, every, files, name
        self._columns = ""
        self._decided = 0  # the newest batch that has its version
        self._asked: int | None = None  # the newest batch that asked for one
        self._listed: dict[str, tuple[int, int]] = {}
        self._loaded: dict[int, DataFrame] = {}

    @property
    def _directory(self) -> str:
        return self._graph.home / f"enrichment/{self._name}"

    def at(self, ctx: BatchContext) -> DataFrame:
        """The version of a batch; what was decided for it once stays so."""
        if ctx.is_dry_run:
            return self._empty()
        n, log = ctx.entry.n, self._graph.log
        good = self._good(n)
        is_new = n == log.last.n and n > self._decided and ctx.entry.epoch == log.epoch
        if is_new or not good:
            self._refresh(n, good)
            self._decided = n
        return self._load(self._good(n)[-1])

    def _good(self, n: int | None = None) -> list[int]:
        """The batches up to n that brought a version."""
        numbers = (int(name) for name in storage.names(self._directory) if name.isdigit())
        return sorted(k for k in numbers if n is None or k <= n)

    def _empty(self) -> DataFrame:
        try:
            frame = self._read().limit(0)
        except Exception:
            good = self._good()
            if not good:
                raise
            frame = self._load(good[-1]).limit(0)
        self._columns = frame.schema.simpleString()
        return frame

    def _refresh(self, n: int, good: list[int]) -> None:
        """Read anew, if it is time to."""
        try:
            listed = {} if self._files is None else hadoop.changes(self._files)
            if good and self._asked is not None and n - self._asked < self._every and listed == self._listed:
                return
            self._asked, self._listed = n, listed
            frame = self._read()
            if frame.schema.simpleString() != self._columns:
                raise UsageError(f"it is {frame.schema.simpleString()}, expected {self._columns} as at the start")
            snapshots.write(frame, f"{self._directory}/{n}")
            log.info("%r: a new version serves from batch %d on", self._name, n)
        except Exception as error:
            if not good:
                raise
            log.warning(
                "%r cannot be read (%s): batch %d goes on with what batch %d had",
                self._name,
                jvm.reason(error),
                n,
                good[-1],
            )
            return
        self._remove_old()

    def _remove_old(self) -> None:
        """Versions of batches that can still run again stay."""
        for n in self._good(self._graph.log.compacted_to.n + 1)[:-1]:
            storage.delete(f"{self._directory}/{n}")
        for unfinished in storage.hidden(self._directory):
            storage.delete(f"{self._directory}/{unfinished}")

    def _load(self, n: int) -> DataFrame:
        if n not in self._loaded:
            for old in self._loaded.values():
                old.unpersist()
            self._loaded = {n: snapshots.read(self._graph.session, f"{self._directory}/{n}").cache()}
        return self._loaded[n]
