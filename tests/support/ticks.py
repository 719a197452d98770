"""Jobs on frames without Spark's clock: a test runs the ticks itself, several runs on one home if need be.

A tick is a second. The engine, the offset log and the snapshots are real; only Spark's JobGenerator is missing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, StructType
from pyspark.streaming import StreamingContext

from sparkstream_kit.context import at_home, new_context
from sparkstream_kit.contracts import Batch, Offset, Size, Source
from sparkstream_kit.engine.batches import Engine, live
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.testing import local_session

Given = Sequence[Sequence[Any] | None]
Build = Callable[[StreamingContext], dict[str, FrameStream]]
Seen = dict[str, dict[int, list[Any]]]
"""For each stream the rows of each batch, by its recorded second, without the batches that the stream skips."""


def given(ssc: StreamingContext, batches: Given, schema: str, name: str = "rows") -> FrameStream:
    """A replayable source: the n-th list arrives at second n, or nothing if it is None."""
    session, kind = local_session(), StructType.fromDDL(schema)

    def latest_offset(now: int | None) -> Offset:
        until = len(batches) if now is None else min(now // 1000, len(batches))
        return max((i for i in range(1, until + 1) if batches[i - 1] is not None), default=None)

    def read(start: Offset, end: Offset) -> DataFrame:
        # as JSON, which Spark reads without a Python worker
        rows = [dict(zip(kind.names, row, strict=True)) for batch in batches[start or 0 : end] for row in batch or ()]
        row = F.element_at(F.from_json(F.lit(json.dumps(rows)), ArrayType(kind)), F.col("id").cast("int") + 1)
        return session.range(0, len(rows), 1, 2).select(row.alias("row")).select("row.*")

    def size(start: Offset, end: Offset) -> Size:
        return Size(sum(len(batch or ()) for batch in batches[start or 0 : end]))

    return FrameStream.from_source(ssc, name, Source(latest_offset, read, schema, size=size))


@contextlib.contextmanager
def job(build: Build, home: Path | str, seen: Seen | None = None, **options: Any) -> Iterator[Engine]:
    """The engine of a job on its home, until the block ends like a killed process.

    The rows of its streams are added to `seen`; a batch that runs again must have the same rows.
    """
    ssc = new_context(local_session(), 1000)
    # as Spark's job thread has it: a job checkpoints all marked RDDs that it reads (JobScheduler.JobHandler)
    ssc.sparkContext.setLocalProperty("spark.checkpoint.checkpointAllMarkedAncestors", "true")
    try:
        for name, stream in build(ssc).items():

            def keep(frame: DataFrame, batch: Batch, name: str = name) -> None:
                rows = sorted(map(tuple, frame.collect()), key=repr)
                if seen is not None:
                    assert seen.setdefault(name, {}).setdefault(round(batch.time.timestamp()), rows) == rows

            stream.for_each_batch(keep, name=name)
        at_home(ssc, str(home), retry_for=0, **options)
        engine = live()
        assert engine is not None
        try:
            yield engine
        finally:
            engine._lease.release()
    finally:
        ssc.stop(stopSparkContext=False)


def run_ticks(build: Build, home: Path | str, ticks: Sequence[int], seen: Seen | None = None, **options: Any) -> Seen:
    """Run the ticks at these seconds; returns the rows of each stream."""
    seen = {} if seen is None else seen
    with job(build, home, seen, **options) as engine:
        for second in ticks:
            engine.tick(1000 * second)
    return seen


def killed(*_: object) -> None:
    raise SystemExit(9)


def run_with_kills(build: Build, home: Path, ticks: Sequence[int], kills: set[int]) -> Seen:
    """Run the ticks; at those of `kills` the process ends after the outputs and snapshots, before the done mark."""
    seen: Seen = {}
    waiting = [*ticks, ticks[-1]]  # the last one twice, so that it is finished if killed
    while waiting:
        with job(build, home, seen) as engine, contextlib.suppress(SystemExit):
            while waiting:
                now = waiting.pop(0)
                if now in kills:
                    kills = kills - {now}
                    engine.graph.log.mark_done = killed  # type: ignore[method-assign]
                engine.tick(1000 * now)
    return seen


def planned(batches: Given, recorded: Sequence[int]) -> dict[int, list[Any]]:
    """The rows of each batch by its recorded second: after a kill a batch may cover several seconds."""
    return {
        until: [row for batch in batches[after:until] for row in batch or ()]
        for after, until in zip([0, *recorded], recorded, strict=False)
    }


def few(examples: int) -> settings:
    """This many examples, the same each time: each is a job of several batches, so failing ones are not shrunk."""
    phases = [Phase.explicit, Phase.generate]
    return settings(
        max_examples=examples, deadline=None, derandomize=True, phases=phases, suppress_health_check=list(HealthCheck)
    )
