"""One job for each kind of operation, selected by --conf spark.kind=..., all with the columns key and count."""

import sys
from collections.abc import Callable

from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss

COUNT = {"count": ss.aggregates.count()}


def stateless(requests: ss.FrameStream) -> ss.FrameStream:
    return requests.reduce_by_key("key", COUNT)


def windowed(requests: ss.FrameStream) -> ss.FrameStream:
    return requests.reduce_by_key_and_window("key", COUNT, "2s", "1s")


def stateful(requests: ss.FrameStream) -> ss.FrameStream:
    return requests.update_state_by_key("key", COUNT)


def visits(requests: ss.FrameStream) -> ss.FrameStream:
    closed = ss.transforms.sessions(requests, "client", "at", COUNT, gap="20s", lateness="30s")
    return closed.select(
        F.concat_ws(" ", "client", F.unix_seconds("start"), F.unix_seconds("end")).alias("key"), "count"
    )


KINDS: dict[str, Callable[[ss.FrameStream], ss.FrameStream]] = {
    "stateless": stateless,
    "windowed": windowed,
    "stateful": stateful,
    "sessions": visits,
}


def build(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    fields = F.split("value", " ")
    at = F.to_timestamp(F.substring(fields[3], 2, 20), "dd/MMM/yyyy:HH:mm:ss")
    requests = source(ssc).select(fields[0].alias("client"), at.alias("at"), fields[8].alias("key"))
    output(KINDS[ssc.sparkContext.getConf().get("spark.kind", "")](requests), name="counts")


if __name__ == "__main__":
    sys.exit(ss.main(build))
