"""jobs/running_status_counts.py after a code change: functions renamed, an output and a bare DStream added.

Because of the DStream the job needs Spark's checkpoint, which the one before did not.
"""

import sys
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss

SEEN = {"count": ss.aggregates.count()}


def understood(text: DataFrame) -> DataFrame:
    return ss.transforms.access_log.parse(text)


def define(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    hits = source(ssc).transform(understood)
    output(hits.reduce_by_key("method", SEEN), name="methods")
    output(hits.update_state_by_key("status", SEEN), name="statuses")
    ssc.textFileStream(str(Path(__file__).parent)).foreachRDD(lambda rdd: None)


if __name__ == "__main__":
    sys.exit(ss.main(define))
