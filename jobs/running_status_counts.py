"""How often each HTTP status was answered since the job was first started.

    spark-submit --py-files sparkstream_kit.zip jobs/running_status_counts.py \
        --source "files:/var/log/apache2?glob=*.log" --output json:/data/statuses --home /data/statuses.home

Output `statuses`, columns: status: int, count: bigint.
"""

import sys

import sparkstream_kit as ss

from pyspark.streaming import StreamingContext


def build(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    """All statuses seen so far, in each batch."""
    requests = source(ssc).transform(ss.transforms.access_log.parse)
    output(requests.update_state_by_key("status", {"count": ss.aggregates.count()}), name="statuses")


if __name__ == "__main__":
    sys.exit(ss.main(build))
