"""The command behind scripts/bench: measure, compare, report."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pyspark import SparkConf
from pyspark.sql import SparkSession

from sparkstream_kit import settings
from sparkstream_kit.context import live_session
from sparkstream_kit.testing import local_session

from . import growth, intervals, measure, others, report
from .arms import ARMS
from .inputs import Inputs
from .workloads import FULL, QUICK, USUAL, Plan

HEAP = "4g"


def session() -> SparkSession:
    """Spark as a job of the kit has it, with the JVM's own defaults for compilers and collectors."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    conf = SparkConf().setMaster(f"local[{cores}]").set("spark.driver.memory", HEAP).set("spark.ui.enabled", "false")
    conf.set("spark.sql.shuffle.partitions", str(cores))
    spark = live_session(conf, settings.FRAMES)
    spark.sparkContext.setLogLevel("OFF")
    return spark


def check(plan: Plan, inputs: Inputs) -> None:
    """Run every arm on a few small batches, and compare what came out."""
    for found in measure.cells(ARMS, plan.workloads, plan.sizes, plan.rounds, inputs):
        work = list(found)[-1][0]
        ran = [arm.name for arm in ARMS if any((w, name) == (work, arm.name) for w, _, name in found)]
        not_run = "".join(f"; {arm.name} not run: {arm.without[work.name]}" for arm in ARMS if work.name in arm.without)
        print(f"{work.name}: {' '.join(ran)} agree{not_run}", flush=True)


def measured(plan: Plan, spark: SparkSession, inputs: Inputs) -> Iterator[report.Run]:
    """All that is there so far, after each part: a failure after hours must not cost what was measured before it."""
    load = os.getloadavg()[2]
    run = report.Run(conditions=report.conditions(spark, HEAP, load))
    for cells in measure.cells(ARMS, plan.workloads, plan.sizes, plan.rounds, inputs):
        run = replace(run, cells=cells, states=growth.states(cells), conditions=report.conditions(spark, HEAP, load))
        yield run
    run = replace(run, others=others.others(inputs.batches(plan.file, 1)[0]))
    yield run
    run = replace(run, windows=growth.windows(plan.windows, inputs))
    yield run
    run = replace(run, known_files=growth.known_files(plan.known_files, inputs))
    yield run
    stable = {"1,000 a batch": _smallest([ms / 1000 for ms in intervals.MILLISECONDS], None, inputs)}
    stable |= {f"{rate:,} a second": _smallest(intervals.SECONDS, rate, inputs) for rate in plan.rates}
    yield replace(run, intervals=stable, conditions=report.conditions(spark, HEAP, load))


def complete(plan: Plan, spark: SparkSession, inputs: Inputs) -> bool:
    """Measure, and write the report; False if it lacks parts, after a failure or Ctrl-C, and is only printed."""
    run, failed = None, False
    try:
        for run in measured(plan, spark, inputs):  # noqa: B007 # the last one is the most complete
            pass
    except measure.OutputsDiffer:
        raise
    except (Exception, KeyboardInterrupt):
        if run is None:
            raise
        traceback.print_exc()
        failed = True
    assert run is not None
    text = report.markdown(run).rstrip()
    print(text)
    if failed:
        print("this part failed or was stopped, see above: the report ends before it, and is not kept", file=sys.stderr)
    else:
        report.plot(run, report.FOLDER)
        report.RESULTS.write_text(f"{text}\n")
    return not failed


def _smallest(seconds: list[float] | tuple[float, ...], rate: int | None, inputs: Inputs) -> dict[str, float | None]:
    return {name: intervals.smallest(name, seconds, rate, inputs) for name in intervals.NAMES}


def main(arguments: list[str]) -> int:
    """Run the benchmark; returns the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    (folder / "input").mkdir()
    try:
        if arguments == ["--quick"]:
            check(QUICK, Inputs(local_session(), folder / "input"))  # whose JVM starts quickly
            return 0
        spark = session()
        inputs = Inputs(spark, folder / "input")
        return 0 if complete(FULL if arguments == ["--full"] else USUAL, spark, inputs) else 1
    except measure.OutputsDiffer as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
