"""How often each line was seen: a state with as many keys as there are lines."""

import sys

from pyspark.streaming import StreamingContext

import sparkstream_kit as ss


def build(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    output(source(ssc).update_state_by_key("value", {"n": ss.aggregates.count()}), "seen")


if __name__ == "__main__":
    sys.exit(ss.main(build))
