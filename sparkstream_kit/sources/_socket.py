"""Lines from a TCP server, by Spark's own receivers."""

from __future__ import annotations

from pyspark.streaming import StreamingContext

from ..checks import check_port
from ..engine.graph import graph_of
from ..errors import UsageError
from ..frames import FrameStream
from ..settings import RECEIVER_STORAGE


def socket(ssc: StreamingContext, host: str, port: int, receivers: int = 1, *, name: str = "socket") -> FrameStream:
    """Lines that a server sends to every client that connects. Column: value: string.

    Each receiver connects on its own, takes one core, and connects again when the server went away. What the server
    sends while nobody is connected is lost to it, as TCP has it.

    Guarantee: what a receiver has stored in the write-ahead log comes out once; what it had not stored when it was
    killed is gone. Raises UsageError where nobody listens at the first start, or for fewer than one receiver.
    """
    if receivers < 1:
        raise UsageError(f"got {receivers} receivers, expected at least 1")
    graph = graph_of(ssc)
    graph.first_start_checks.append(lambda: check_port(host, port))
    streams = [ssc.socketTextStream(host, port, RECEIVER_STORAGE) for _ in range(receivers)]
    stream = FrameStream.of(streams[0] if receivers == 1 else ssc.union(*streams), name=name)
    graph.receivers[name] = f"{receivers} of {host}:{port}"
    return stream
