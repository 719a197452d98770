"""Requests and bytes of each client address in each batch.

    spark-submit --py-files sparkstream_kit.zip jobs/count_by_client.py \
        --source "files:/var/log/apache2?glob=*.log" --output json:/data/clients --home /data/clients.home

Output `clients`, columns: client_ip: string, requests: bigint, bytes: bigint.
"""

import sys

import sparkstream_kit as ss

from pyspark.streaming import StreamingContext

USAGE = {"requests": ss.aggregates.count(), "bytes": ss.aggregates.sum("bytes")}


def build(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    """One row for each client that was seen in the batch."""
    requests = source(ssc).transform(ss.transforms.access_log.parse)
    output(requests.reduce_by_key("client_ip", USAGE), name="clients")


if __name__ == "__main__":
    sys.exit(ss.main(build))
