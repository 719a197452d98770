"""Requests and bytes of each client address in each batch.

    spark-submit --py-files sparkstream_kit.zip jobs/count_by_client.py \
        --source "files:/var/log/apache2?glob=*.log" --output json:/data/clients --home /data/clients.home

Output `clients`, columns: client_ip: string, requests: bigint, bytes: bigint.
"""

import sys

from pyspark.streaming import StreamingContext

from sparkstream_kit import aggregates
from sparkstream_kit.job import OutputTo, SourceOf, main
from sparkstream_kit.transforms import access_log

USAGE = {"requests": aggregates.count(), "bytes": aggregates.sum("bytes")}


def build(ssc: StreamingContext, source: SourceOf, output: OutputTo) -> None:
    """One row for each client that was seen in the batch."""
    requests = source(ssc).transform(access_log.parse)
    output(requests.reduce_by_key("client_ip", USAGE), name="clients")


if __name__ == "__main__":
    sys.exit(main(build))
