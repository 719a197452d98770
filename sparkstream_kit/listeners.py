"""Functions that hear what happens to a job."""

from __future__ import annotations

from pyspark.streaming import StreamingContext

from .engine.graph import graph_of
from .events import Listener


def listen(ssc: StreamingContext, listener: Listener) -> None:
    """Call a function with each event of the job on this context, such as `ss.events.BatchDone`. Call it in `build`.

    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> def note(event):
    ...     if isinstance(event, ss.events.BatchDone):
    ...         print(event.n, event.records, event.totals["records"])
    >>> def build(lines):
    ...     ss.listen(lines.context(), note)
    ...     return ss.FrameStream.of(lines).count()
    >>> _ = run_batches(build, [["a", "b"], ["c"]])
    1 2 2
    2 1 3

    The events are the classes of `ss.events`; more may come with later versions. They come in order, one at a time, in
    the thread that runs the batches, so the next batch waits for a function that is slow: give whatever takes long to a
    thread of your own.

    Guarantee: at most once. What a function raises is logged, and nothing else comes of it; a killed job has no last
    event, and the next start tells of a batch only if that one runs again. Jobs of plain DStreams have no such events:
    Spark's own StreamingListener serves them.

    Cost: that of the function, once for each batch.
    """
    graph_of(ssc).listeners.append(listener)
