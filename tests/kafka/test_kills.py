"""kill -9 of a job that reads a topic: each record is in one batch, as the recorded offset range says."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable
from typing import Any

from pyspark.sql import SparkSession

from tests.support import kafka, rotation
from tests.support.kafka import Broker, Client
from tests.support.supervisor import POINTS, ROOT, VICTIMS, Job, finish, kill_at_point, kill_at_random

NewJob = Callable[..., Job]
SCRIPT = str(ROOT / "tests" / "kafka" / "jobs" / "records.py")
KILLS = [*POINTS, *VICTIMS, *VICTIMS[:2]]
ROTATION = rotation.current()


def test_twenty_kills_while_a_topic_of_duplicates_is_read(
    new_job: NewJob, spark: SparkSession, broker: Broker, client: Client, name: str
) -> None:
    count = 200_000
    client.create(name, 4)
    numbers = spark.range(0, count, 1, 4)
    client.write(numbers.selectExpr("cast(id % 700 as string) value", "cast(id % 4 as int) partition"), name)
    job = new_job(script=SCRIPT, save_every=3)
    arguments = ["--source", f"kafka:{broker.address}/{name}?max_per_partition=1000", "--batch-interval", "200ms"]
    arguments += ["--output", f"records=text:{job.out}", "--output", f"running=json:{job.out}", *kafka.confs()]
    kills = rotation.share(list(enumerate(KILLS)), ROTATION)
    for number, point in kills:
        if number % 2:
            shutil.rmtree(job.home / "checkpoint", ignore_errors=True)
        if isinstance(point, str):
            kill_at_random(job, arguments, point, random.Random(number), most=1500)
        else:
            kill_at_point(job, arguments, point, most=700)
    finish(job, arguments)
    assert job.kills == len(kills)

    options = {"kafka.bootstrap.servers": broker.address, "subscribe": name}
    sent = spark.read.format("kafka").options(**options).load()
    sent = sent.selectExpr("partition", "offset", "cast(value as string)")
    values = {(partition, offset): value for partition, offset, value in sent.collect()}
    each, running = job.rows("text", "records"), job.rows("json", "running")
    written = sum(each.values(), Counter[str]())
    expected = Counter(f"{partition} {offset} {value}" for (partition, offset), value in values.items())
    job.report("a topic with duplicates", count, (expected - written).total(), (written - expected).total())
    assert len(values) == count

    totals: Counter[str] = Counter()
    for entry in job.entries():
        places = [place for (start, end) in entry.ranges.values() for place in between(start, end, name)]
        assert each[entry.n] == Counter(f"{p} {o} {values[p, o]}" for p, o in places), f"batch {entry.n}"
        totals.update(values[place] for place in places)
        if places:
            assert running[entry.n] == Counter(totals.items()), f"batch {entry.n}"


def between(start: Any, end: Any, topic: str) -> list[tuple[int, int]]:
    """The partitions and offsets of a range."""
    since = start[topic]["next"] if start else end[topic]["first"]
    return [(p, o) for p, (a, b) in enumerate(zip(since, end[topic]["next"], strict=True)) for o in range(a, b)]
