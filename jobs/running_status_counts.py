"""How often each HTTP status was answered since the job was first started.

    spark-submit --py-files sparkstream_kit.zip jobs/running_status_counts.py \
        --source "files:/var/log/apache2?glob=*.log" --output json:/data/statuses --home /data/statuses.home

Output `statuses`, columns: status: int, count: bigint.
"""

import sys

from pyspark.streaming import StreamingContext

from sparkstream_kit import aggregates
from sparkstream_kit.job import OutputTo, SourceOf, main
from sparkstream_kit.transforms import access_log


def build(ssc: StreamingContext, source: SourceOf, output: OutputTo) -> None:
    """All statuses seen so far, in each batch."""
    requests = source(ssc).transform(access_log.parse)
    output(requests.update_state_by_key("status", {"count": aggregates.count()}), name="statuses")


if __name__ == "__main__":
    sys.exit(main(build))
