"""Enrichment: a stream joined with a slowly changing table, such as customers or networks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from pyspark.sql import DataFrame

from ..bridge import hadoop, jvm
from ..columns import Columns, column_names
from ..engine.graph import BatchContext, Graph, add_named
from ..errors import UsageError
from ..frames import FrameStream
from ..recovery import snapshots, storage

log = logging.getLogger(__name__)

JoinType = Literal["inner", "left", "right", "full", "semi", "anti"]


def enrich(
    stream: FrameStream,
    read: Callable[[], DataFrame],
    on: Columns,
    how: JoinType = "left",
    *,
    refresh_every: int = 100,
    files: str | None = None,
    name: str = "enrichment",
) -> FrameStream:
    """Join each batch with a frame that is read at the start, every `refresh_every` batches and when its files change.

        customers = "hdfs:///customers"
        ss.transforms.enrich(requests, lambda: spark.read.jdbc(url, "customers"), on="client_ip", refresh_every=60)
        ss.transforms.enrich(requests, lambda: spark.read.parquet(customers), on="client_ip", files=customers)

    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> names = getfixture("spark").createDataFrame([(200, "OK")], "status int, reason string")
    >>> def build(statuses):
    ...     return ss.transforms.enrich(ss.FrameStream.of(statuses, "status int"), lambda: names, on="status")
    >>> run_batches(build, [[(200,)], [(600,)]])
    [[Row(status=200, reason='OK')], [Row(status=600, reason=None)]]

    Columns: those of the stream, then the others of the frame.

    `files` is a file, a directory or, if nothing has that very name, a glob on any Hadoop file system. Each batch
    compares the path, size and modification time of every file there with those at the last read.

    What `read` returns is saved under the home before it is used, in the directory `name`, so a batch that is retried,
    even after a restart, is joined with the version it had. If `read` fails, or returns other columns than at the
    start, the last good version stays in use, with a warning, until the next refresh; if there is none, the start
    fails. Only batches in the offset log count for `refresh_every`. A small frame is broadcast
    (spark.sql.autoBroadcastJoinThreshold), a large one is shuffled with the batch.

    Raises UsageError for `refresh_every` below 1, and if no file matches `files` at the first start.

    Cost: grows with the rows of the batch, the size of the frame and the number of files that `files` matches.
    """
    if refresh_every < 1:
        raise UsageError(f"got refresh_every={refresh_every}, expected at least 1")
    if files is not None:
        stream.graph.first_start_checks.append(lambda: _check_files(files))
    versions = _Versions(stream.graph, read, refresh_every, files, name)
    add_named("enrichments", stream.graph.enrichments, name, versions)

    def compute(ctx: BatchContext) -> DataFrame | None:
        frame = ctx.frame(stream.compute)
        return None if frame is None else frame.join(versions.at(ctx), column_names(on), how)

    return FrameStream(stream.graph, compute, stream)


def _check_files(files: str) -> None:
    if not hadoop.changes(files):
        raise UsageError(
            f"no file matches files={files!r}: give the file, directory or glob that the frame is read from"
        )


class _Versions:
    """The versions that were read: the directory `<n>` is used from batch n on.

    Only a batch that this driver planned may read a new version, and only once. A retried batch uses the newest version
    up to it: its own if it read one, otherwise the one it had.
    """

    def __init__(self, graph: Graph, read: Callable[[], DataFrame], every: int, files: str | None, name: str):
        self._graph, self._read, self._every, self._files, self._name = graph, read, every, files, name
        self._columns = ""
        self._decided = 0  # the newest batch whose version is settled
        self._last_read: int | None = None  # the newest batch that tried to read one
        self._listed: dict[str, tuple[int, int]] = {}
        self._loaded: dict[int, DataFrame] = {}

    @property
    def _directory(self) -> str:
        return self._graph.home / f"enrichment/{self._name}"

    def at(self, ctx: BatchContext) -> DataFrame:
        """The version of a batch; once decided, it never changes."""
        if ctx.is_dry_run:
            return self._empty()
        n, log = ctx.entry.n, self._graph.log
        good = self._good(n)
        is_new = n == log.last.n and n > self._decided and ctx.entry.epoch == log.epoch
        if not good and self._graph.is_observer:
            raise UsageError(
                f"the home has no version of the enrichment {self._name!r} for batch {n}, as the job did not have it "
                "then: sparkstream rewind reads one"
            )
        if is_new or not good:
            self._refresh(n, good)
            self._decided = n
        return self._load(self._good(n)[-1])

    def _good(self, n: int | None = None) -> list[int]:
        """The batches up to n that read a version."""
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
        """Read a new version, if it is time to."""
        try:
            listed = {} if self._files is None else hadoop.changes(self._files)
            is_recent = self._last_read is not None and n - self._last_read < self._every
            if good and is_recent and listed == self._listed:
                return
            self._last_read, self._listed = n, listed
            frame = self._read()
            if frame.schema.simpleString() != self._columns:
                got = frame.schema.simpleString()
                raise UsageError(f"got {got}, expected {self._columns} as at the start: restart to use the new columns")
            snapshots.write(frame, f"{self._directory}/{n}", self._graph.log.epoch)
            log.info("enrichment %r: new version from batch %d on", self._name, n)
        except Exception as error:
            if not good:
                raise
            log.warning(
                "enrichment %r cannot be read (%s): batch %d uses the version of batch %d",
                self._name,
                jvm.reason(error),
                n,
                good[-1],
            )
            return
        self._remove_old()

    def _remove_old(self) -> None:
        """Remove all versions except those of batches that can still be retried."""
        for n in self._good(self._graph.log.compacted_to.n + 1)[:-1]:
            storage.delete(f"{self._directory}/{n}")
        for unfinished in storage.abandoned(self._directory, self._graph.log.epoch):
            storage.delete(f"{self._directory}/{unfinished}")

    def _load(self, n: int) -> DataFrame:
        if n not in self._loaded:
            for old in self._loaded.values():
                old.unpersist()
            self._loaded = {n: snapshots.read(self._graph.session, f"{self._directory}/{n}").cache()}
        return self._loaded[n]
