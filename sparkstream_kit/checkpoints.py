"""Spark's own checkpoint: read if it can be, and set aside if it belongs to another Spark, Python or graph."""

from __future__ import annotations

import json
import logging
import platform
import uuid
import warnings
from collections.abc import Callable

import pyspark
from pyspark.streaming import StreamingContext

from . import bridge
from .errors import UsageError
from .graph import Graph
from .recovery import storage
from .recovery.home import Home

log = logging.getLogger(__name__)


def recover_or(create: Callable[[], StreamingContext], checkpoint: str) -> StreamingContext:
    """The context in the checkpoint, or a new one where there is none; UsageError if it cannot be read."""
    made = False

    def setup() -> StreamingContext:
        nonlocal made
        made = True
        return create()

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            return StreamingContext.getOrCreate(checkpoint, setup)
    except Exception as error:
        if made:
            raise
        raise UsageError(
            f"the checkpoint {checkpoint!r} cannot be read ({bridge.reason(error)}): run the code and the "
            "Spark that wrote it, or name a new checkpoint directory"
        ) from error


def recover(fresh: StreamingContext, graph: Graph, home: Home) -> StreamingContext:
    """The context of the home's checkpoint; the fresh one if there is none or if it had to be set aside.

    A checkpoint of another Spark, Python, batch interval or set of received streams cannot be gone on with. It is
    renamed, never deleted, and the job goes on from its offset log. One that may hold received records that were not
    processed is not set aside without being told to: UsageError.
    """
    path, note = home / "checkpoint", home / "fingerprint.json"
    mine = {
        "spark": pyspark.__version__,
        "python": ".".join(platform.python_version_tuple()[:2]),
        "batch interval": f"{graph.interval} ms",
        "received streams": ", ".join(sorted(graph.received)),
    }
    if storage.exists(path) and storage.exists(note):
        theirs = json.loads(storage.read(note))
        changed = [
            f"{key}: {theirs.get(key)} then, {value} now" for key, value in mine.items() if theirs.get(key) != value
        ]
        if changed:
            _set_aside(home, "; ".join(changed), bool(theirs.get("received streams")))
    storage.write(note, json.dumps(mine))
    try:
        return recover_or(lambda: fresh, path)
    except UsageError as error:
        _set_aside(home, str(error), bool(graph.received))
        return recover_or(lambda: fresh, path)


def _set_aside(home: Home, why: str, received: bool) -> None:
    path = home / "checkpoint"
    aside = f"{path}-aside-{uuid.uuid4().hex[:8]}"
    if received:
        raise UsageError(
            f"the checkpoint {path} cannot be gone on with ({why}) and may hold received records that were not "
            f"processed: go back to what wrote it and stop in order, or rename it yourself to give those up"
        )
    storage.publish(path, aside)
    log.warning("the checkpoint was set aside as %s (%s): the job goes on from its offset log", aside, why)
