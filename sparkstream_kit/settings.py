"""Spark properties as data, each with the reason for it.

A preset is a tuple of `Property`. `apply` adds presets to a SparkConf with setIfMissing, so that what the operator
gives to spark-submit always wins. Properties that Spark reads before the driver's code runs (in cluster mode,
everything about YARN) only work from spark-submit: for `--properties-file`, the same presets are files in `conf/`.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from pyspark import SparkConf, StorageLevel
from pyspark.sql import SparkSession


class Property(NamedTuple):
    """A Spark property: its name, its value and why it is set."""

    name: str
    value: str
    reason: str


Preset = tuple[Property, ...]

FRAMES: Preset = (
    Property(
        "spark.sql.adaptive.enabled",
        "false",
        "adaptive execution runs shuffles in the calling thread and slows down small batches",
    ),
    Property("spark.sql.session.timeZone", "UTC", "timestamps have the same meaning on every machine"),
)

LOCAL: Preset = (
    Property("spark.master", "local[2]", "one core for a receiver and one for the batches"),
    Property("spark.sql.shuffle.partitions", "2", "the default, 200 tasks per shuffle, is meant for clusters"),
    Property("spark.driver.host", "localhost", "also works on a laptop without a network"),
    Property("spark.driver.bindAddress", "127.0.0.1", "no port is open to other machines"),
    Property("spark.ui.showConsoleProgress", "false", "progress bars would garble the output of the job"),
)

WRITE_AHEAD_LOG: Preset = (
    Property(
        "spark.streaming.receiver.writeAheadLog.enable",
        "true",
        "what a receiver has acknowledged survives a crash of the driver; otherwise it is lost, with only a warning",
    ),
    Property(
        "spark.streaming.receiver.writeAheadLog.closeFileAfterWrite",
        "true",
        "a record counts as written once its file is closed, which also works on file systems that cannot flush",
    ),
    Property(
        "spark.streaming.driver.writeAheadLog.closeFileAfterWrite",
        "true",
        "the same for the driver's log of received blocks",
    ),
)

RECEIVER_STORAGE = StorageLevel(useDisk=True, useMemory=True, useOffHeap=False, deserialized=False, replication=1)
"""MEMORY_AND_DISK_SER, for receivers with a write-ahead log, which is the second copy of each block."""

YARN_HIGH_AVAILABILITY: Preset = (
    Property("spark.submit.deployMode", "cluster", "YARN only restarts a driver that it runs itself"),
    Property("spark.yarn.maxAppAttempts", "2", "a failed driver is restarted"),
    Property(
        "spark.yarn.am.attemptFailuresValidityInterval",
        "1h",
        "a failure counts for one hour, so that a crash a day never adds up to the maximum",
    ),
    Property(
        "spark.executor.maxNumFailures", "64", "the default, twice the number of executors, is used up within weeks"
    ),
    Property("spark.executor.failuresValidityInterval", "1h", "a failed executor counts for one hour"),
    Property("spark.task.maxFailures", "8", "a flaky disk or network costs a retry, not the job"),
)

YARN_START: Preset = (
    Property(
        "spark.scheduler.minRegisteredResourcesRatio",
        "0",
        "the job is built and checked while its executors start; the first batch waits for the first of them",
    ),
)

HDFS: Preset = (
    Property(
        "spark.hadoop.dfs.client.block.write.locateFollowingBlock.initial.delay.ms",
        "10",
        "closing a small file waits until the NameNode knows its block, 400 ms by default, which is long for a batch",
    ),
    Property(
        "spark.hadoop.dfs.client.block.write.locateFollowingBlock.retries",
        "12",
        "the delay doubles with each retry, so that a slow NameNode is waited for longer than by default",
    ),
)
"""Set in every session that the kit creates."""

BACKPRESSURE: Preset = (
    Property(
        "spark.streaming.backpressure.enabled", "true", "receivers slow down when batches take longer than the interval"
    ),
    Property(
        "spark.streaming.backpressure.initialRate",
        "10000",
        "records per second and receiver until the first batch is complete",
    ),
)

REDACTION: Preset = (
    Property(
        "spark.redaction.regex",
        r"(?i)secret|password|passwd|token|access[.]?key|://[^/\s:@]*:[^@/\s]+@",
        "Spark's web UI and event logs show properties and command lines without passwords, including those in URLs",
    ),
)
"""Set in every session that the kit creates."""

ENCRYPTION: Preset = (
    Property(
        "spark.authenticate",
        "true",
        "processes must know the application's secret to connect; YARN and local masters generate it, other masters "
        "need spark.authenticate.secret",
    ),
    Property("spark.network.crypto.enabled", "true", "traffic between these processes is encrypted"),
    Property(
        "spark.io.encryption.enabled",
        "true",
        "shuffles and spills on local disks are encrypted; the write-ahead log and the home outlive the key and are "
        "not: put them into an HDFS encryption zone",
    ),
)

YARN_CLUSTER: Preset = (
    Property(
        "yarn.resourcemanager.am.max-attempts",
        "2",
        "the limit of the cluster (yarn-site.xml), which spark.yarn.maxAppAttempts cannot exceed",
    ),
)
"""For the administrator of the cluster: a job cannot set it."""

PRESETS = {
    "frames": FRAMES,
    "local": LOCAL,
    "write_ahead_log": WRITE_AHEAD_LOG,
    "yarn_high_availability": YARN_HIGH_AVAILABILITY,
    "yarn_start": YARN_START,
    "hdfs": HDFS,
    "backpressure": BACKPRESSURE,
    "redaction": REDACTION,
    "encryption": ENCRYPTION,
}


def apply(conf: SparkConf, *presets: Preset) -> SparkConf:
    """Set every property that is not set yet, and return the same SparkConf.

    Of presets that name the same property, the first wins. With a local master, workers also get the driver's Python.

    Cost: grows with the number of properties.

    >>> import sparkstream_kit as ss
    >>> from pyspark import SparkConf
    >>> conf = SparkConf(loadDefaults=False).set("spark.yarn.maxAppAttempts", "5")
    >>> ss.settings.apply(conf, ss.settings.YARN_HIGH_AVAILABILITY).get("spark.yarn.maxAppAttempts")
    '5'
    """
    for preset in presets:
        for name, value, _ in preset:
            conf.setIfMissing(name, value)
    if conf.get("spark.master", "").startswith("local"):
        use_this_python()
    return conf


def apply_live(session: SparkSession, preset: Preset) -> None:
    """Set a preset of SQL properties on a running session, except for those that its application was given.

    Cost: grows with the number of properties.

    >>> import sparkstream_kit as ss
    >>> spark = ss.testing.local_session()
    >>> ss.settings.apply_live(spark, ss.settings.FRAMES)
    >>> spark.conf.get("spark.sql.adaptive.enabled")
    'false'
    """
    given = session.sparkContext.getConf()
    for name, value, _ in preset:
        if not given.contains(name):
            session.conf.set(name, value)


def use_this_python() -> None:
    """Make local workers run the driver's Python; another version on the PATH would fail every batch.

    Cost: grows with nothing: one environment variable, if it is not set.

    >>> import os
    >>> import sparkstream_kit as ss
    >>> ss.settings.use_this_python()
    >>> "PYSPARK_PYTHON" in os.environ
    True
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)


def properties_file(*presets: Preset) -> str:
    """Presets in the format of `spark-submit --properties-file`, each property below its reason.

    Cost: grows with the number of properties.

    >>> import sparkstream_kit as ss
    >>> print(ss.settings.properties_file(ss.settings.BACKPRESSURE[:1]), end="")
    # receivers slow down when batches take longer than the interval
    spark.streaming.backpressure.enabled  true
    """
    return "\n".join(f"# {p.reason}\n{p.name}  {p.value}\n" for preset in presets for p in preset)
