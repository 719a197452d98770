"""Spark properties as data, each with its reason.

A preset is a tuple of `Property`. `apply` puts presets into a SparkConf with setIfMissing, so what the
operator gave to spark-submit always wins. Properties that Spark reads before the driver's code runs
(everything of YARN in cluster mode) only work from spark-submit: the same presets stand as files under
`conf/`, for `--properties-file`.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

from pyspark import SparkConf, StorageLevel
from pyspark.sql import SparkSession


class Property(NamedTuple):
    """One Spark property: its name, the value and why it is set."""

    name: str
    value: str
    reason: str


Preset = tuple[Property, ...]

FRAMES: Preset = (
    Property(
        "spark.sql.adaptive.enabled",
        "false",
        "it runs shuffles in the calling thread and slows small batches",
    ),
    Property("spark.sql.session.timeZone", "UTC", "timestamps mean the same on every machine"),
)

LOCAL: Preset = (
    Property("spark.master", "local[2]", "one core for a receiver, one for the batches"),
    Property("spark.sql.shuffle.partitions", "2", "200 tasks a shuffle are for clusters"),
    Property("spark.driver.host", "localhost", "works on a laptop without a network"),
    Property("spark.driver.bindAddress", "127.0.0.1", "nothing listens to the outside"),
    Property("spark.ui.showConsoleProgress", "false", "progress bars would garble what the job prints"),
)

WRITE_AHEAD_LOG: Preset = (
    Property(
        "spark.streaming.receiver.writeAheadLog.enable",
        "true",
        "what a receiver has acknowledged outlives the driver; a crash drops it otherwise, with a warning",
    ),
    Property(
        "spark.streaming.receiver.writeAheadLog.closeFileAfterWrite",
        "true",
        "a record counts as written when its file is closed: also on file systems that cannot flush",
    ),
    Property(
        "spark.streaming.driver.writeAheadLog.closeFileAfterWrite",
        "true",
        "the same for the driver's list of blocks",
    ),
)

RECEIVER_STORAGE = StorageLevel(useDisk=True, useMemory=True, useOffHeap=False, deserialized=False, replication=1)
"""MEMORY_AND_DISK_SER for receivers beside a write-ahead log, which is the second copy of each block."""

YARN_HIGH_AVAILABILITY: Preset = (
    Property("spark.submit.deployMode", "cluster", "YARN restarts a driver only where it runs the driver itself"),
    Property("spark.yarn.maxAppAttempts", "2", "a failed driver is started again"),
    Property(
        "spark.yarn.am.attemptFailuresValidityInterval",
        "1h",
        "a failure counts for an hour: one crash a day never adds up to the maximum",
    ),
    Property("spark.executor.maxNumFailures", "64", "the default, twice the executors, is spent within weeks"),
    Property("spark.executor.failuresValidityInterval", "1h", "executor failures are forgiven after an hour"),
    Property("spark.task.maxFailures", "8", "a flaky disk or network costs a task, not the job"),
)

BACKPRESSURE: Preset = (
    Property("spark.streaming.backpressure.enabled", "true", "receivers slow down when batches take too long"),
    Property(
        "spark.streaming.backpressure.initialRate",
        "10000",
        "records per second and receiver until the first batch has been measured",
    ),
)

REDACTION: Preset = (
    Property(
        "spark.redaction.regex",
        r"(?i)secret|password|passwd|token|access[.]?key|://[^/\s:@]*:[^@/\s]+@",
        "what Spark's pages and event logs show of properties and command lines holds no password, in a URL neither",
    ),
)
"""In every session that the kit makes."""

ENCRYPTION: Preset = (
    Property(
        "spark.authenticate",
        "true",
        "only processes that know the application's secret are let in; YARN and a local master make one, elsewhere "
        "set spark.authenticate.secret",
    ),
    Property("spark.network.crypto.enabled", "true", "what these processes say to each other is encrypted"),
    Property(
        "spark.io.encryption.enabled",
        "true",
        "so are shuffles and spills on local disks; not the write-ahead log and the home, which outlive the key: put "
        "those into an encrypted zone of HDFS",
    ),
)

YARN_CLUSTER: Preset = (
    Property(
        "yarn.resourcemanager.am.max-attempts",
        "2",
        "the cluster's own limit (yarn-site.xml): spark.yarn.maxAppAttempts cannot go beyond it",
    ),
)
"""What the cluster's administrator must have set; Spark cannot set it for a job."""

PRESETS = {
    "frames": FRAMES,
    "local": LOCAL,
    "write_ahead_log": WRITE_AHEAD_LOG,
    "yarn_high_availability": YARN_HIGH_AVAILABILITY,
    "backpressure": BACKPRESSURE,
    "redaction": REDACTION,
    "encryption": ENCRYPTION,
}


def apply(conf: SparkConf, *presets: Preset) -> SparkConf:
    """Set every property that is not set yet; give the same SparkConf back.

    >>> conf = SparkConf(loadDefaults=False).set("spark.yarn.maxAppAttempts", "5")
    >>> apply(conf, YARN_HIGH_AVAILABILITY).get("spark.yarn.maxAppAttempts")
    '5'
    """
    for preset in presets:
        for name, value, _ in preset:
            conf.setIfMissing(name, value)
    if conf.get("spark.master", "").startswith("local"):
        use_this_python()
    return conf


def apply_live(session: SparkSession, preset: Preset) -> None:
    """Set a preset of SQL properties on a running session, but for those that its application was given."""
    given = session.sparkContext.getConf()
    for name, value, _ in preset:
        if not given.contains(name):
            session.conf.set(name, value)


def use_this_python() -> None:
    """Make local workers run the driver's own Python: another version on the PATH fails every batch."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)


def properties_file(*presets: Preset) -> str:
    """Presets in the form that `spark-submit --properties-file` reads, each property under its reason.

    >>> print(properties_file(BACKPRESSURE[:1]), end="")
    # receivers slow down when batches take too long
    spark.streaming.backpressure.enabled  true
    """
    return "\n".join(f"# {p.reason}\n{p.name}  {p.value}\n" for preset in presets for p in preset)
