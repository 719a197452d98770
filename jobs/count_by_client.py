"""Requests and bytes per client address in each batch.

    spark-submit --py-files sparkstream_kit.zip jobs/count_by_client.py \
        --source "files:/var/log/apache2?glob=access*" --output json:/data/clients --home /data/clients.home

Without a log to read, try it on generated lines:

    python jobs/count_by_client.py --source generator: --stop-after 5batches

Output `clients`, one row per client in the batch: client_ip: string, requests: bigint, bytes: bigint.
"""

import sys

import sparkstream_kit as ss

from pyspark.streaming import StreamingContext

USAGE = {"requests": ss.aggregates.count(), "bytes": ss.aggregates.sum("bytes")}


def build(ssc: StreamingContext, source: ss.JobSource, output: ss.JobOutput) -> None:
    """Parse the log lines, dropping malformed ones, and aggregate each batch by client."""
    requests, _ = ss.transforms.access_log.split(source(ssc), source.log_format)
    clients = requests.reduce_by_key("client_ip", USAGE)
    output(clients, name="clients")


if __name__ == "__main__":
    sys.exit(ss.main(build))
