"""A running and a windowed count; at some batches it prints what Spark and Python hold after a garbage collection."""

import gc
import json
import sys
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss

COUNT = {"count": ss.aggregates.count()}
MEASURED_AT = (60, 180)


def measure(frame: DataFrame, batch: ss.Batch) -> None:
    frame.collect()
    if batch.n not in MEASURED_AT:
        return
    gc.collect()  # Python's references keep objects of the JVM alive
    context: Any = frame.sparkSession.sparkContext
    context._jvm.System.gc()
    runtime = context._jvm.Runtime.getRuntime()
    held = {
        "batch": batch.n,
        "stored RDDs": context._jsc.getPersistentRDDs().size(),
        "heap": runtime.totalMemory() - runtime.freeMemory(),
        "python": sys.getallocatedblocks(),
    }
    print("held", json.dumps(held))


def build(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    status = source(ssc).select(F.split("value", " ")[8].alias("status"))
    status.update_state_by_key("status", COUNT).for_each_batch(measure, name="running")
    status.reduce_by_key_and_window("status", COUNT, "2s", "1s").for_each_batch(
        lambda frame, batch: frame.collect(), name="window"
    )


if __name__ == "__main__":
    sys.exit(ss.main(build))
