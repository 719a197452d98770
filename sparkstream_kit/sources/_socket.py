"""Read lines from a TCP server, with Spark's own receivers."""

from __future__ import annotations

from pyspark.streaming import StreamingContext

from ..checks import check_port
from ..engine.graph import graph_of
from ..errors import UsageError
from ..frames import FrameStream
from ..settings import RECEIVER_STORAGE


def socket(ssc: StreamingContext, host: str, port: int, receivers: int = 1, *, name: str = "socket") -> FrameStream:
    """Read the lines that a TCP server sends to each client that connects.

        lines = ss.sources.socket(ssc, "localhost", 9999)

    Columns: value: string. Each receiver opens a connection of its own, occupies one core, and reconnects when the
    server goes away. Data sent while no receiver is connected is lost.

    Guarantee: exactly once from the write-ahead log on; data not yet logged when the receiver dies is lost.

    Raises UsageError if nobody listens at the first start, or for fewer than one receiver.

    Cost: grows with the lines received.

    URI: socket:HOST:PORT?receivers=...
    """
    if receivers < 1:
        raise UsageError(f"got {receivers} receivers, expected at least 1")
    graph = graph_of(ssc)
    graph.first_start_checks.append(lambda: check_port(host, port))
    streams = [ssc.socketTextStream(host, port, RECEIVER_STORAGE) for _ in range(receivers)]
    stream = FrameStream.of(streams[0] if receivers == 1 else ssc.union(*streams), name=name)
    graph.receivers[name] = f"{receivers} of {host}:{port}"
    return stream
