"""Spark's own checkpoint: written early, resumed if possible, set aside if it belongs to another Spark or graph."""

from __future__ import annotations

import json
import logging
import platform
import uuid
import warnings
from collections.abc import Callable

import pyspark
from pyspark.streaming import StreamingContext

from ..bridge import jvm, streaming, surgery
from ..errors import CheckpointRefused, KitError, UsageError
from ..recovery import storage
from ..recovery.home import Home
from .graph import Graph

log = logging.getLogger(__name__)


def stale_after(interval: int) -> int:
    """The age in ms from which a checkpoint of a running job is stale: Spark writes one in each interval."""
    return max(60_000, 10 * interval)


def recover_or(create: Callable[[], StreamingContext], checkpoint: str) -> StreamingContext:
    """The context in the checkpoint, or a new one if there is none; CheckpointRefused if it cannot be read."""
    made = False

    def setup() -> StreamingContext:
        nonlocal made
        made = True
        return create()

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            return StreamingContext.getOrCreate(checkpoint, setup)
    except KitError:
        raise
    except Exception as error:
        if made:
            raise
        raise CheckpointRefused(
            f"the checkpoint {checkpoint!r} cannot be read ({jvm.reason(error)}): run the code and the Spark that "
            "wrote it, or name a new checkpoint directory"
        ) from error


def write_first(ssc: StreamingContext) -> None:
    """Write a checkpoint of a new context before its start, if its receivers keep a write-ahead log.

    Spark writes its first one after the first batch, and a driver killed before then loses what was received. Raises
    CheckpointRefused if it cannot be written.
    """
    if streaming.is_recovered(ssc) or not streaming.keeps_received(ssc):
        return
    try:
        surgery.write_first_checkpoint(ssc)
    except UsageError as error:  # of an unsupported PySpark
        raise CheckpointRefused(str(error)) from error
    except Exception as error:
        raise CheckpointRefused(
            f"cannot write the first checkpoint to {streaming.checkpoint_directory(ssc)!r} ({jvm.reason(error)}): the "
            "directory must be writable, and functions must not refer to objects that cannot be pickled, such as "
            "locks, connections, contexts and broadcasts"
        ) from error


def recover(fresh: StreamingContext, graph: Graph, home: Home, *, give_up_received: bool = False) -> StreamingContext:
    """The context of the home's checkpoint, or the fresh one if there is no checkpoint or it had to be set aside.

    A checkpoint of another Spark, Python, batch interval or set of receivers cannot be resumed. It is renamed, never
    deleted, and the job continues from its offset log. One that may hold unprocessed received records is only set aside
    with `give_up_received`; without it CheckpointRefused names the number of blocks.
    """
    path, note = home / "checkpoint", home / "fingerprint.json"
    mine = {
        "spark": pyspark.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "batch interval": f"{graph.interval} ms",
        "received streams": ", ".join(_described(name, graph) for name in sorted(graph.received)),
    }
    if storage.exists(path) and storage.exists(note):
        theirs = json.loads(storage.read(note))
        changed = [
            f"{key}: was {theirs.get(key)}, is now {value}" for key, value in mine.items() if theirs.get(key) != value
        ]
        if changed:
            _set_aside(home, "; ".join(changed), give_up_received)
    storage.write(note, json.dumps(mine))
    try:
        ssc = recover_or(lambda: fresh, path)
    except CheckpointRefused as error:
        _set_aside(home, str(error), give_up_received)
        ssc = recover_or(lambda: fresh, path)
    _leave_out_downtime(ssc, home)
    return ssc


def _described(name: str, graph: Graph) -> str:
    return f"{name} ({graph.receivers[name]})" if name in graph.receivers else name


def retire(home: Home, *, give_up_received: bool = False) -> None:
    """Set aside the checkpoint of a job that no longer needs one, or refuse as `recover` does."""
    if storage.exists(home / "checkpoint"):
        _set_aside(home, "the job no longer has received streams or plain DStreams", give_up_received)


def set_aside_before_reset(home: Home) -> None:
    """Set the checkpoint aside before the clock is reset: Spark takes the one with the latest time for the newest.

    CheckpointRefused if it may hold unprocessed received records.
    """
    if storage.exists(home / "checkpoint"):
        _set_aside(home, "it may have been written while the clock was ahead", give_up_received=False)
        storage.delete(home / "downtime.json")


def _leave_out_downtime(ssc: StreamingContext, home: Home) -> None:
    """Skip the batches in which nothing can have been received, now and after the next crash."""
    note, files = home / "downtime.json", storage.names(home / "checkpoint/receivedBlockMetadata")
    until = _received_until(files)
    if not streaming.is_recovered(ssc) or until is None:
        return
    before = json.loads(storage.read(note)) if storage.exists(note) else []
    try:
        gaps = surgery.leave_out_downtime(ssc, until, before, silent=1)  # the stream that only ticks
    except (jvm.JavaError, UsageError) as error:  # a Java without access to final fields, an unsupported PySpark
        why = str(error) if isinstance(error, UsageError) else jvm.reason(error)
        log.warning("all batches of the downtime run first, which may take a while: %s", why)
        return
    if gaps != before:
        storage.write(note, json.dumps(gaps))
    for begin, end in gaps:
        log.info("skipped %d s of downtime, in which nothing can have been received", (end - begin) // 1000)


def _received_until(names: list[str]) -> int | None:
    """The time in ms until which Spark may have assigned received blocks to batches, from the names of its log files.

    None without such files, for example with another write-ahead log class.
    """
    return max((int(name.rpartition("-")[2]) for name in names if name.startswith("log-")), default=None)


def _set_aside(home: Home, why: str, give_up_received: bool) -> None:
    path = home / "checkpoint"
    blocks = 0 if home.was_drained() else _received_blocks(path)
    if blocks and not give_up_received:
        raise CheckpointRefused(
            f"cannot resume from checkpoint {path} ({why}): it holds {blocks} received blocks, some possibly "
            "unprocessed. Restart with the code and Spark that wrote it and stop gracefully, or discard them with "
            "--give-up-received"
        )
    aside = f"{path}-aside-{uuid.uuid4().hex[:8]}"
    storage.publish(path, aside)
    log.warning(
        "the checkpoint was set aside as %s with %d received blocks (%s): the job continues from its offset log",
        aside,
        blocks,
        why,
    )


def _received_blocks(checkpoint: str) -> int:
    """Number of blocks in the receivers' write-ahead logs: unprocessed ones and recently processed ones."""
    logs = f"{checkpoint}/receivedData"
    files = (f"{logs}/{stream}/{name}" for stream in storage.names(logs) for name in storage.names(f"{logs}/{stream}"))
    return sum(surgery.count_log_records(file) for file in files if file.rpartition("/")[2].startswith("log-"))


class Checkpoints:
    """Looks at the times of Spark's checkpoints: which ticks may run again, and whether they get stale."""

    def __init__(self, directory: str, interval: int):
        self._directory, self._interval = directory, interval
        self._looked = self._settled = 0
        self._next: tuple[int, int] | None = None
        self._stale = False

    def look(self, tick: int, newest_waiting: Callable[[], int]) -> int:
        """The time before which no tick runs again, with a warning if Spark writes no checkpoints; call in each tick.

        Spark recovers from the newest checkpoint that it can read. One that is written after this tick began holds no
        earlier tick, as they run one after another; so once all are newer than the newest tick of now, all before this
        one are settled. Cost: one listing in 20 ticks or a minute.
        """
        if tick - self._looked < min(20 * self._interval, 60_000):
            return self._settled
        self._looked = tick
        times = storage.checkpoint_times(self._directory)
        if times and self._next and min(times) > self._next[1]:
            self._settled, self._next = self._next[0], None
        if self._next is None:
            self._next = tick, max(tick, newest_waiting(), *times)
        self._warn(tick, max(times, default=tick))
        return self._settled

    def _warn(self, tick: int, newest: int) -> None:
        stale = tick - newest > stale_after(self._interval)
        if stale and not self._stale:
            log.warning(
                "Spark's checkpoint in %s is %d s old, and Spark writes no newer one (its warnings say why). Nothing "
                "is lost or doubled after a crash, but what receivers bring stays on disk until one is written",
                self._directory,
                (tick - newest) // 1000,
            )
        elif self._stale and not stale:
            log.info("Spark writes its checkpoint again")
        self._stale = stale
