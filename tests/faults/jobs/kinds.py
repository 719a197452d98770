"""One job of each kind of operation, chosen by --conf spark.kind=..., all with the columns key and count."""

import sys
from collections.abc import Callable

from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

from sparkstream_kit import aggregates
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.job import OutputTo, SourceOf, main
from sparkstream_kit.transforms._sessions import sessions

COUNT = {"count": aggregates.count()}


def stateless(requests: FrameStream) -> FrameStream:
    return requests.reduce_by_key("key", COUNT)


def windowed(requests: FrameStream) -> FrameStream:
    return requests.reduce_by_key_and_window("key", COUNT, "2s", "1s")


def stateful(requests: FrameStream) -> FrameStream:
    return requests.update_state_by_key("key", COUNT)


def visits(requests: FrameStream) -> FrameStream:
    closed = sessions(requests, "client", "at", COUNT, gap="20s", lateness="30s")
    return closed.select(
        F.concat_ws(" ", "client", F.unix_seconds("start"), F.unix_seconds("end")).alias("key"), "count"
    )


KINDS: dict[str, Callable[[FrameStream], FrameStream]] = {
    "stateless": stateless,
    "windowed": windowed,
    "stateful": stateful,
    "sessions": visits,
}


def build(ssc: StreamingContext, source: SourceOf, output: OutputTo) -> None:
    fields = F.split("value", " ")
    at = F.to_timestamp(F.substring(fields[3], 2, 20), "dd/MMM/yyyy:HH:mm:ss")
    requests = source(ssc).select(fields[0].alias("client"), at.alias("at"), fields[8].alias("key"))
    output(KINDS[ssc.sparkContext.getConf().get("spark.kind", "")](requests), name="counts")


if __name__ == "__main__":
    sys.exit(main(build))
