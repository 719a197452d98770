"""A home that was restored from an older copy, beside outputs that went ahead: nothing is lost or doubled."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from deltalake import DeltaTable
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

from sparkstream_kit.engine import batches
from sparkstream_kit.errors import OutputRefused
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.outputs import _compaction, _delta, _files, _sql
from tests.outputs.test_sql import rows_of
from tests.support.ticks import given, job

LINES = [[f"{n}.{i}" for i in range(5)] for n in range(1, 8)]


def through_files(write: Callable[..., None]) -> tuple[Callable[..., None], Callable[[SparkSession, Path], list[str]]]:
    def rows(spark: SparkSession, out: Path) -> list[str]:
        return [row.value for row in spark.read.format(write.__name__).load(f"{out}/hits").select("value").collect()]

    return (lambda stream, out: write(stream, str(out), name="hits")), rows


OUTPUTS: dict[str, tuple[Callable[..., None], Callable[[SparkSession, Path], list[str]]]] = {
    **{write.__name__: through_files(write) for write in (_files.text, _files.json, _files.parquet)},
    "delta": (
        lambda stream, out: _delta.delta(stream, str(out), name="hits"),
        lambda _, out: DeltaTable(out / "hits").to_pyarrow_dataset().to_table().column("value").to_pylist(),
    ),
    "sql": (
        lambda stream, out: _sql.sql(stream, f"sqlite:///{out}/hits.db", name="hits"),
        lambda _, out: [row[0] for row in rows_of(f"sqlite:///{out}/hits.db", "hits", "value")],
    ),
}


@pytest.fixture(autouse=True)
def each_start_is_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_sql, "_prepare_table", _sql._prepare_table.__wrapped__)
    yield
    _sql.engine_of.cache_clear()


def run(work: Path, home: str, output: str, ticks: list[int]) -> None:
    """Batches of five lines a second; of ticks that were skipped the next one brings the lines, too."""

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        OUTPUTS[output][0](given(ssc, [[(line,) for line in batch] for batch in LINES], "value string"), work)
        return {}

    with job(build, work / home) as engine:
        for second in ticks:
            engine.tick(1000 * second)


def copy(home: Path, target: Path) -> None:
    shutil.copytree(home, target)
    shutil.rmtree(target / "lease")


@pytest.mark.slow
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_home_that_was_restored_from_an_older_copy_is_refused(
    output: str, spark: SparkSession, tmp_path: Path
) -> None:
    run(tmp_path, "home", output, [1, 2])
    copy(tmp_path / "home", tmp_path / "copy")
    run(tmp_path, "home", output, [3, 4, 5])
    for ticks in ([7], [3, 7]):  # it would plan batch 3 with other lines, or once more with the same
        with pytest.raises(OutputRefused, match="holds batch 5 .*, but the home has only come to batch 2"):
            run(tmp_path, "copy", output, ticks)
    assert sorted(OUTPUTS[output][1](spark, tmp_path)) == [line for batch in LINES[:5] for line in batch]
    run(tmp_path, "home", output, [6, 7])
    assert sorted(OUTPUTS[output][1](spark, tmp_path)) == [line for batch in LINES for line in batch]


@pytest.mark.slow
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_copy_that_was_started_before_the_original_went_on_is_refused_in_its_first_batch(
    output: str, spark: SparkSession, tmp_path: Path
) -> None:
    run(tmp_path, "home", output, [1, 2])
    copy(tmp_path / "home", tmp_path / "copy")

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        OUTPUTS[output][0](given(ssc, [[(line,) for line in batch] for batch in LINES], "value string"), tmp_path)
        return {}

    with job(build, tmp_path / "copy") as engine:
        run_beside(tmp_path, output)
        with pytest.raises(
            OutputRefused, match="holds batch 3 .* with the offset ranges .*the home is an outdated copy"
        ):
            engine.tick(7000)
    assert sorted(OUTPUTS[output][1](spark, tmp_path)) == [line for batch in LINES[:3] for line in batch]


def run_beside(work: Path, output: str) -> None:
    """The original writes batch 3, as another process would."""
    mine = batches._live
    run(work, "home", output, [3])
    batches._live = mine


@pytest.mark.slow
def test_a_home_that_was_restored_from_an_older_copy_is_refused_after_a_compaction(
    spark: SparkSession, tmp_path: Path
) -> None:
    run(tmp_path, "home", "parquet", [1, 2])
    copy(tmp_path / "home", tmp_path / "copy")
    run(tmp_path, "home", "parquet", [3, 4, 5])
    assert _compaction.compact(str(tmp_path / "hits")) == 4
    with pytest.raises(OutputRefused, match="holds batch 5 .*, but the home has only come to batch 2"):
        run(tmp_path, "copy", "parquet", [7])
    run(tmp_path, "home", "parquet", [6, 7])
    found = OUTPUTS["parquet"][1](spark, tmp_path)
    assert sorted(found) == [line for batch in LINES for line in batch]


@pytest.mark.slow
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_copy_of_the_newest_state_continues(output: str, spark: SparkSession, tmp_path: Path) -> None:
    run(tmp_path, "home", output, [1, 2, 3])
    copy(tmp_path / "home", tmp_path / "copy")
    (tmp_path / "copy/offsets/3.done").unlink()  # the batch runs again
    run(tmp_path, "copy", output, [5])
    assert sorted(OUTPUTS[output][1](spark, tmp_path)) == [line for batch in LINES[:5] for line in batch]
