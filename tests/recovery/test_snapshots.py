from __future__ import annotations

from pathlib import Path

import pytest
from chispa import assert_df_equality
from py4j.protocol import Py4JNetworkError
from pyspark.sql import DataFrame, SparkSession

from sparkstream_kit.bridge import jvm
from sparkstream_kit.errors import HomeDamaged, StateRefused
from sparkstream_kit.recovery import snapshots, storage

COLUMNS = "status string, count bigint"


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return f"file:{tmp_path}/state/by-status"


def counts(spark: SparkSession, n: int) -> DataFrame:
    return spark.createDataFrame([("200", n), ("404", 1)], COLUMNS)


def saved(spark: SparkSession, directory: str, *batches: int) -> None:
    for n in batches:
        snapshots.save(counts(spark, n), directory, n)
        snapshots.prune(directory)


def part(directory: str, n: int) -> Path:
    folder = storage.local(f"{directory}/{n}")
    assert folder is not None
    return max(folder.glob("part-*"), key=lambda file: file.stat().st_size)


def test_the_newest_snapshot_is_loaded(spark: SparkSession, directory: str) -> None:
    saved(spark, directory, 20, 40)
    n, frame = snapshots.load(spark, directory, 45, counts(spark, 0))
    assert n == 40
    assert_df_equality(frame, counts(spark, 40), ignore_row_order=True)


def test_a_snapshot_of_a_later_batch_is_ignored(spark: SparkSession, directory: str) -> None:
    saved(spark, directory, 20, 40)
    assert snapshots.load(spark, directory, 39, counts(spark, 0))[0] == 20


def test_without_a_snapshot_the_state_is_empty_after_batch_0(spark: SparkSession, directory: str) -> None:
    n, frame = snapshots.load(spark, directory, 39, counts(spark, 0).limit(0))
    assert n == 0
    assert frame.isEmpty()


def test_only_the_two_newest_snapshots_are_kept(spark: SparkSession, directory: str) -> None:
    saved(spark, directory, 20, 40)
    storage.make_directory(f"{directory}/.40-left-by-a-driver-that-died")
    saved(spark, directory, 60)
    assert storage.names(directory) == ["40", "60"]


def test_after_a_final_save_nothing_before_it_is_needed_even_if_it_is_damaged(
    spark: SparkSession, directory: str
) -> None:
    saved(spark, directory, 20, 40)
    assert snapshots.oldest_needed(directory) == 20
    for _ in range(2):
        snapshots.save(counts(spark, 47), directory, 47, final=True)
        snapshots.prune(directory)
        assert storage.names(directory) == ["47", "47.copy"]
    assert (snapshots.numbers(directory), snapshots.oldest_needed(directory)) == ([47], 47)
    storage.delete(f"{directory}/47.copy/_manifest")
    n, frame = snapshots.load(spark, directory, 50, counts(spark, 0))
    assert n == 47
    assert_df_equality(frame, counts(spark, 47), ignore_row_order=True)
    saved(spark, directory, 60)
    assert (storage.names(directory)[:2], snapshots.oldest_needed(directory)) == (["47", "60"], 47)


def test_a_batch_is_saved_only_once(spark: SparkSession, directory: str) -> None:
    saved(spark, directory, 20)
    snapshots.save(counts(spark, 7), directory, 20)
    assert_df_equality(
        snapshots.load(spark, directory, 20, counts(spark, 0))[1], counts(spark, 20), ignore_row_order=True
    )


@pytest.mark.parametrize("how", ["cut short", "a byte in the middle", "empty", "one of its files gone", "all gone"])
def test_a_damaged_snapshot_is_set_aside_and_the_previous_one_is_used(
    spark: SparkSession, directory: str, how: str
) -> None:
    saved(spark, directory, 20, 40)
    file = part(directory, 40)
    content = bytearray(file.read_bytes())
    storage.delete(f"{directory}/40/.{file.name}.crc")  # as on file systems without checksums
    if how == "one of its files gone":
        file.unlink()
    elif how == "all gone":
        storage.delete(f"{directory}/40")
        storage.make_directory(f"{directory}/40")
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "cut short":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[10:30] = bytes(20)
        file.write_bytes(content)
    n, frame = snapshots.load(spark, directory, 45, counts(spark, 0))
    assert n == 20
    assert_df_equality(frame, counts(spark, 20), ignore_row_order=True)
    assert snapshots.numbers(directory) == [20]
    assert [name.rpartition("-")[0] for name in storage.names(directory)] == ["", "damaged-40"]


def test_a_missing_or_changed_file_is_refused_as_damage(spark: SparkSession, directory: str) -> None:
    saved(spark, directory, 20, 40)
    storage.delete(f"{directory}/20/_manifest")
    with pytest.raises(HomeDamaged, match=f"{directory}/20 has no manifest .*: restore the home from a backup"):
        snapshots.read(spark, f"{directory}/20")
    part(directory, 40).unlink()
    with pytest.raises(HomeDamaged, match=f"{directory}/40 is damaged: part-.* has no bytes and was written with"):
        snapshots.read(spark, f"{directory}/40")


def test_an_added_column_is_null_in_an_older_snapshot(spark: SparkSession, directory: str) -> None:
    saved(spark, directory, 20)
    like = spark.createDataFrame([], "status string, bytes bigint, count bigint")
    _, frame = snapshots.load(spark, directory, 20, like)
    expected = spark.createDataFrame([("200", None, 20), ("404", None, 1)], like.schema)
    assert_df_equality(frame, expected, ignore_row_order=True)


def test_an_added_field_of_a_struct_is_null_in_an_older_snapshot(spark: SparkSession, directory: str) -> None:
    rows = [(1, ("a", (2, 3))), (2, None), (3, ("b", None))]
    before = spark.createDataFrame(rows, "k int, row struct<x: string, in: struct<p: int, q: int>>")
    snapshots.save(before, directory, 20)
    like = spark.createDataFrame(
        [], "k int, row struct<new: array<int>, in: struct<q: int, p: int, r: int>, x: string>"
    )
    _, frame = snapshots.load(spark, directory, 20, like)
    after = [(1, (None, (3, 2, None), "a")), (2, None), (3, (None, None, "b"))]
    assert_df_equality(frame, spark.createDataFrame(after, like.schema), ignore_row_order=True)
    with pytest.raises(StateRefused, match="row was struct<.*> and is now struct<x:int>"):
        snapshots.load(spark, directory, 20, spark.createDataFrame([], "k int, row struct<x: int>"))


@pytest.mark.parametrize(
    "columns, complaint",
    [
        ("status string", "count is gone"),
        ("status int, count bigint", "status was string and is now int"),
        ("status string, count double, hits bigint", "count was bigint and is now double"),
    ],
)
def test_a_removed_or_retyped_column_is_refused_and_the_snapshot_stays(
    spark: SparkSession, directory: str, columns: str, complaint: str
) -> None:
    saved(spark, directory, 20)
    with pytest.raises(StateRefused, match=rf"no longer fits the job \({complaint}\): give the changed state"):
        snapshots.load(spark, directory, 20, spark.createDataFrame([], columns))
    assert snapshots.numbers(directory) == [20], "it is undamaged and stays"


@pytest.mark.parametrize("error", [ConnectionRefusedError(111, "Connection refused"), Py4JNetworkError("is empty")])
def test_a_snapshot_stays_when_the_jvm_that_reads_it_is_killed(
    spark: SparkSession, directory: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(spark, directory, 20, 40)

    def killed(*_: object) -> DataFrame:
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(jvm, "answers", lambda: False)
        patch.setattr(snapshots, "read", killed)
        snapshots.load(spark, directory, 45, counts(spark, 0))
    assert storage.names(directory) == ["20", "40"]


@pytest.mark.parametrize("replayable", [False, True])
def test_snapshots_of_which_none_can_be_read_are_set_aside_only_if_all_batches_can_be_replayed(
    spark: SparkSession, directory: str, replayable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(spark, directory, 20, 40)

    def stopped(*_: object) -> DataFrame:
        raise RuntimeError("Job 7 cancelled because SparkContext was shut down")

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "read", stopped)
        n, frame = snapshots.load(spark, directory, 45, counts(spark, 0).limit(0), replayable=replayable)
    assert (n, frame.isEmpty(), snapshots.numbers(directory)) == (0, True, [] if replayable else [20, 40])
