"""Send rows to a Kafka topic, each with headers by which consumers drop what was sent again."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Mapping

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from ..bridge import kafka as bridge
from ..bridge.jvm import reason
from ..columns import Columns, check_unique, quoted
from ..contracts import Batch
from ..errors import KitError, OutputRefused, UsageError
from ..frames import FrameStream
from ._committed import ranges_of

log = logging.getLogger(__name__)

HEADERS = "array<struct<key:string,value:binary>>"
RECORD = {"key": "binary", "value": "binary", "headers": HEADERS, "partition": "int"}
"""The columns of a record."""

AS_JSON = {
    "ignoreNullFields": "false",
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
    "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
}
"""Nulls are sent, and timestamps keep their microseconds."""

FITTING = {"key": ("string", "binary"), "value": ("string", "binary"), "headers": (HEADERS,), "partition": ("int",)}
"""What a frame may have for them, if it has a `value`."""


def kafka(
    stream: FrameStream,
    brokers: Columns,
    topic: str,
    *,
    key: str | None = None,
    config: str | Mapping[str, str] | None = None,
    name: str = "kafka",
) -> None:
    """Send each row as a record to a topic.

        ss.outputs.kafka(alerts, "broker1:9092,broker2:9092", "alerts", key="client_ip")

    Columns: `value` and perhaps `key`, each string or binary, `headers`: array<struct<key: string, value: binary>>, and
    `partition`: int, all others are refused; or, without a `value`, any, which are sent as one JSON object with its
    nulls. The column that `key` names is the key of the record, as text; in JSON, it is in the object, too.

    Each record gets four headers. `sparkstream-home`, `sparkstream-output` and `sparkstream-batch` say where it comes
    from. `sparkstream-id` is the same whenever the same row of the same batch is sent, and differs between rows, also
    between equal ones.

    Headers of these names that a row has already, from a job before, are replaced.

    Guarantee: at least once. Records are sent again if the job was killed before their batch was done, or if a part of
    the batch could not be sent. A consumer that drops ids that it has seen reads each row once (docs/kafka.md has it).
    Rows of a key keep their order, unless `config` turns enable.idempotence off; it may be sent twice: 1, 2, 1, 2, 3.
    Kafka's transactions would not change that: the offsets of a job are not theirs, and what a lost coordinator does to
    a transaction is not safe (KIP-890).

    `config` is that of the source `kafka`, for producers; `acks=all` is always set. Raises MissingLibrary without
    Spark's connector for Kafka. Raises UsageError at the start for settings that Kafka's client refuses, and for a
    topic that does not exist; OutputRefused for columns that do not fit. A batch fails for a partition that the topic
    does not have, a header whose key is null, and a record larger than max.request.size of `config` or
    max.message.bytes of the topic.

    Cost: grows with the rows of the batch, which are exchanged by key. Each batch asks the brokers twice.

    URI: kafka:BROKERS/TOPIC?key=...&config=...
    """
    bridge.check_connector()
    settings = bridge.client_settings(brokers, config)
    cluster = bridge.Cluster(settings, f"sparkstream-{name}")
    params = functools.cache(lambda: bridge.producer_settings(settings))

    def check(frame: DataFrame, before: Batch) -> None:
        as_records(frame, key)
        try:
            params()
            there = topic in cluster.topics([topic])
        except KitError:
            raise
        except Exception as error:
            if not before.n:
                at = settings["bootstrap.servers"]
                raise UsageError(f"the output {name!r} cannot use the brokers {at} ({reason(error)})") from error
            log.warning("the output %r is waiting for its brokers (%s)", name, reason(error))
            return
        if not there:
            raise UsageError(f"the topic {topic!r} of the output {name!r} does not exist: create it, or correct it")

    def write(frame: DataFrame, batch: Batch) -> None:
        there = cluster.topics([topic]).get(topic)
        if there is None:  # a producer would create it, with whatever the brokers have as defaults
            raise ConnectionError(f"the topic {topic!r} does not exist any more: create it")
        origin = {"home": batch.home_id, "output": name, "batch": str(batch.n)}
        checked = sendable(as_records(frame, key), len(there.next))
        records = identified(checked, [batch.home_id, name, batch.n, ranges_of(batch)])
        own = F.array(*(_header(kind, F.lit(value)) for kind, value in origin.items()), _header("id", F.col("__id")))
        names = [f"sparkstream-{kind}" for kind in (*origin, "id")]
        others = F.filter("headers", lambda header: ~header.key.isin(names))  # not those of a job before this one
        headers = F.concat(F.coalesce(others, F.array().cast(HEADERS)), own)
        bridge.send(records.withColumn("headers", headers).drop("__id"), topic, params())

    stream.for_each_batch(write, name=f"kafka:{name}", check=check)


def as_records(frame: DataFrame, key: str | None) -> DataFrame:
    """Rows as records. Columns: key, value: binary, headers, partition: int; OutputRefused if they do not fit."""
    check_unique(frame.columns)
    if key is not None and key not in frame.columns:
        raise OutputRefused(f"got key={key}, expected one of the columns {', '.join(frame.columns)}")
    columns = {}
    if "value" in frame.columns:
        for column, kind in frame.dtypes:
            if kind not in FITTING.get(column, (kind,) if column == key else ()):
                raise OutputRefused(
                    f"got the column {column}: {kind}, expected value and perhaps key, string or binary, headers: "
                    f"{HEADERS}, and partition: int. Drop it, cast it, or rename value: rows without are sent as JSON"
                )
            columns[column] = F.col(quoted(column))
    else:
        columns["value"] = F.to_json(F.struct("*"), AS_JSON)
    if key is not None:
        columns["key"] = F.col(quoted(key)).cast("binary" if (key, "binary") in frame.dtypes else "string")
    missing = F.lit(None)
    return frame.select(*(columns.get(each, missing).cast(kind).alias(each) for each, kind in RECORD.items()))


def sendable(records: DataFrame, partitions: int) -> DataFrame:
    """The records; a batch with one that Kafka's producer cannot send fails, as often as it is tried."""
    partition, unnamed = F.col("partition"), F.exists("headers", lambda header: header.key.isNull())
    outside = F.format_string(f"got the partition %d, and the topic has {partitions}, from 0 on", partition)
    # a row without a partition, and headers that are null, are null here, too: no condition holds
    return records.withColumns(
        {
            "partition": F.when((partition < 0) | (partition >= partitions), F.raise_error(outside)).otherwise(
                partition
            ),
            "headers": F.when(unnamed, F.raise_error("got a header whose key is null")).otherwise(F.col("headers")),
        }
    )


def identified(records: DataFrame, batch: list[object]) -> DataFrame:
    """Records with an `__id`, made of their batch, their content, and how many equal ones are before them.

    Records of a key come into one partition, in the order in which they were.
    """
    content = F.sha2(F.to_json(F.struct(*RECORD)).cast("binary"), 256)
    placed = records.withColumns({"__content": content, "__at": F.monotonically_increasing_id()})
    placed = placed.withColumn("__place", F.coalesce(F.hex("key"), "__content"))
    nth = F.row_number().over(Window.partitionBy("__place", "__content").orderBy("__at"))
    parts = F.concat_ws(" ", F.lit(json.dumps(batch)), "__content", nth)
    numbered = placed.repartition("__place").withColumn("__id", F.sha2(parts.cast("binary"), 256))
    return numbered.sortWithinPartitions("__at").drop("__content", "__at", "__place")


def _header(kind: str, value: Column) -> Column:
    return F.struct(F.lit(f"sparkstream-{kind}").alias("key"), value.cast("binary").alias("value"))
