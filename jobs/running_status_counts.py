"""Requests per HTTP status since the job was first started.

    spark-submit --py-files sparkstream_kit.zip jobs/running_status_counts.py \
        --source "files:/var/log/apache2?glob=access*" --output json:/data/statuses --home /data/statuses.home

Without a log to read, try it on generated lines; with the same --home a second run continues the counts:

    python jobs/running_status_counts.py --source generator: --home /tmp/statuses.home --stop-after 5batches

Output `statuses`, one row per status seen so far, in each batch: status: int, count: bigint.
"""

import sys

import sparkstream_kit as ss

from pyspark.streaming import StreamingContext

COUNT = {"count": ss.aggregates.count()}


def build(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    """Parse the log lines, dropping malformed ones, and keep a running count per status."""
    requests, _ = ss.transforms.access_log.split(source(ssc), source.log_format)
    statuses = requests.update_state_by_key("status", COUNT)
    output(statuses, name="statuses")


if __name__ == "__main__":
    sys.exit(ss.main(build))
