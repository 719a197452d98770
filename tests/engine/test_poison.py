"""Batches that fail on their data: they are distinguished from outages, and an operator can set them aside."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

from sparkstream_kit import aggregates as agg
from sparkstream_kit import cli
from sparkstream_kit.contracts import Batch, Source
from sparkstream_kit.engine import batches, retries
from sparkstream_kit.errors import BatchFailed
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.recovery import snapshots
from sparkstream_kit.testing import local_session
from tests.support.ticks import Seen, given, job, run_ticks

ROWS = [[("a", 1)], [("a", 0), ("b", 2)], [("b", 3)]]


def dividing(ssc: StreamingContext) -> dict[str, FrameStream]:
    """A job that fails on a row with v = 0."""
    rows = given(ssc, ROWS, "k string, v bigint")
    counts = {"n": agg.count()}
    return {
        "shares": rows.select("k", F.expr("cast(6 / v as bigint)").alias("share")),
        "counts": rows.update_state_by_key("k", counts, name="counts"),
        "window": rows.reduce_by_key_and_window("k", counts, "3s"),
    }


def without_pauses(engine: batches.Engine, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let an engine retry as in production, but without waiting; returns the pauses it would have made."""
    pauses: list[float] = []
    engine._retry_for = retries.RETRY_FOR
    monkeypatch.setattr(engine.stopping, "wait", pauses.append)
    return pauses


def fail_on_batch_2(home: Path, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> str:
    with job(dividing, home, seen) as engine:
        pauses = without_pauses(engine, monkeypatch)
        engine.tick(1000)
        with pytest.raises(BatchFailed) as failed:
            engine.tick(2000)
    assert len(pauses) == retries.SAME_FAILURES - 1
    return str(failed.value)


def test_a_batch_that_fails_on_its_data_is_given_up_soon_and_can_be_skipped(
    spark: SparkSession,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: Any,
) -> None:
    seen = Seen()
    said = fail_on_batch_2(tmp_path, seen, monkeypatch)
    retries = [message for message in caplog.messages if "retrying" in message]
    assert [message.rpartition("); ")[2] for message in retries] == [
        f"retrying in {pause:.1f} s, as try {n} of 5" for n, pause in enumerate((0.5, 1, 2, 4), 2)
    ]
    assert "the output 'shares' still fails (ArithmeticException: [DIVIDE_BY_ZERO]" in said
    what_to_do = f"mend the job, or set the batch aside, with its input, by sparkstream skip file:{tmp_path} 2"
    assert said.endswith(f"each try fails in the same way: {what_to_do}")
    assert seen["counts"][2] == [("a", 2), ("b", 1)], "the other outputs of the batch were written"

    assert cli.main(["skip", str(tmp_path), "2", "--reason", "v is 0"]) == 0
    assert capsys.readouterr().out == (
        f"the next start sets the input of batch 2 aside, in file:{tmp_path}/skipped/2, and runs it without\n"
    )
    after = run_ticks(dividing, tmp_path, [2, 3], {"shares": seen["shares"]})
    assert after["shares"] == {1: [("a", 6)], 2: [], 3: [("b", 2)]}
    assert after["counts"] == {2: [("a", 1)], 3: [("a", 1), ("b", 1)]}, "no state sees the rows of the batch"
    assert after["window"] == {2: [("a", 1)], 3: [("a", 1), ("b", 1)]}
    assert "batch 2 is skipped (v is 0): rows 1 to 2 is in" in caplog.text
    kept = spark.read.parquet(f"{tmp_path}/skipped/2/rows")
    assert sorted(kept.collect()) == [Row(k="a", v=0), Row(k="b", v=2)]
    assert cli.main(["status", str(tmp_path), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["skipped"] == [2]
    again = run_ticks(dividing, tmp_path, [4])
    assert again["window"] == {4: [("b", 1)]}, "a window that is computed again is without them, too"


def reading(ssc: StreamingContext) -> dict[str, FrameStream]:
    """A job whose source cannot read its second row, beside one that can."""
    session, texts = local_session(), ["1", "x", "3"]

    def read(start: Any, end: Any) -> DataFrame:
        rows = session.createDataFrame([(text,) for text in texts[start or 0 : end]], "v string")
        return rows.selectExpr("cast(v as bigint) as v")

    numbers = FrameStream.from_source(
        ssc, "numbers", Source(lambda now: min((now or 3000) // 1000, 3), read, "v bigint")
    )
    rows = given(ssc, ROWS, "k string, v bigint")
    return {"all": rows.select("v").union(numbers).update_state_by_key([], {"sum": agg.sum("v")}, name="all")}


def test_a_batch_whose_source_cannot_read_it_can_be_skipped(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with job(reading, tmp_path) as engine:
        without_pauses(engine, monkeypatch)
        engine.tick(1000)
        with pytest.raises(BatchFailed, match=r"CAST_INVALID_INPUT.* sparkstream skip file:.* 2$"):
            engine.tick(2000)
    assert cli.main(["skip", str(tmp_path), "2", "--reason", "x in row 2"]) == 0
    assert run_ticks(reading, tmp_path, [2, 3])["all"] == {2: [(2,)], 3: [(8,)]}
    assert "batch 2 is skipped (x in row 2): numbers 1 to 2 cannot be kept (" in caplog.text
    assert sorted(spark.read.parquet(f"{tmp_path}/skipped/2/rows").collect()) == [Row(k="a", v=0), Row(k="b", v=2)]
    assert os.listdir(tmp_path / "skipped/2") == ["rows"], "nothing is left of what was tried"
    assert run_ticks(reading, tmp_path, [4]) == {}


@pytest.mark.parametrize(
    ("function", "why"),
    [(lambda text: (int(text),), "ValueError: invalid literal"), (lambda text: (text,), r".*can ?not accept")],
    ids=["function", "schema"],
)
def test_what_cannot_be_landed_is_reported_with_the_way_out(
    spark: SparkSession, tmp_path: Path, function: Any, why: str
) -> None:
    with job(dividing, tmp_path) as engine:
        engine.graph.received["numbers"] = (None, "n int")  # type: ignore[assignment]
        parallelize = spark.sparkContext.parallelize
        with pytest.raises(BatchFailed, match=rf"'numbers' received cannot be stored \({why}.* --give-up-received"):
            engine.land("numbers", 1000, parallelize(["1", "x"], 1).map(function))
        engine.land("numbers", 2000, parallelize(["1"], 1).map(lambda text: (int(text),)))
    assert [name.partition("-")[2] for name in os.listdir(tmp_path / "received/numbers") if name[0] != "."] == ["2000"]


def test_a_batch_does_not_run_without_its_input_before_that_is_kept(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_on_batch_2(tmp_path, {}, monkeypatch)
    for words in (["--reason", "v is 0"], []):  # asked for twice, it keeps its reason
        assert cli.main(["skip", str(tmp_path), "2", *words]) == 0
    assert (tmp_path / "offsets/2.skipped").read_text() == "v is 0"

    def full(*_: Any, **options: Any) -> bool:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(snapshots, "write", full)
        run_ticks(dividing, tmp_path, [2])
    assert run_ticks(dividing, tmp_path, [2, 3])["shares"] == {2: [], 3: [("b", 2)]}
    assert sorted(spark.read.parquet(f"{tmp_path}/skipped/2/rows").collect()) == [Row(k="a", v=0), Row(k="b", v=2)]


def test_only_an_unfinished_batch_can_be_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with job(dividing, tmp_path) as engine:
        engine.tick(1000)
        assert cli.main(["skip", str(tmp_path), "1"]) == 2
        assert "the home is in use by" in capsys.readouterr().err
    assert cli.main(["skip", str(tmp_path), "1"]) == 2
    assert capsys.readouterr().err == (
        "error: got batch 1, and no batch is unfinished: only an unfinished one can be skipped\n"
    )
    fail_on_batch_2(tmp_path, {}, monkeypatch)
    assert cli.main(["skip", str(tmp_path), "1"]) == 2
    assert "got batch 1, and the unfinished batch is 2" in capsys.readouterr().err


def test_an_outage_is_waited_for_even_if_its_error_is_always_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def write(frame: DataFrame, batch: Batch) -> None:
        calls.append(batch.n)
        if len(calls) < 3 * retries.SAME_FAILURES:
            raise ConnectionError("refused")

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        given(ssc, ROWS, "k string, v bigint").for_each_batch(write, name="database")
        return {}

    with job(build, tmp_path) as engine:
        pauses = without_pauses(engine, monkeypatch)
        engine.tick(1000)
        assert engine.graph.log.is_done(1)
    assert pauses[:8] == [0.5, 1, 2, 4, 8, 16, 30, 30]


def test_a_state_that_fails_for_a_while_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[Any] = []

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        rows = given(ssc, ROWS, "k string, v bigint")
        counts = rows.update_state_by_key("k", {"n": agg.count()}, name="counts")
        return {"rows": rows, "counts": counts} if tries else {"rows": rows}

    with job(build, tmp_path) as engine:
        without_pauses(engine, monkeypatch)
        state = engine.graph.states["counts"]
        at = state.at

        def failing(ctx: Any) -> DataFrame:
            tries.append(ctx)
            if len(tries) == 1:
                raise ConnectionError("an executor is gone")
            return at(ctx)

        monkeypatch.setattr(state, "at", failing)
        engine.tick(1000)
        assert engine.graph.log.is_done(1)
    assert len(tries) == 2
    assert run_ticks(build, tmp_path, [2])["counts"] == {2: [("a", 2), ("b", 1)]}


def test_outputs_of_a_cached_stream_see_the_same_rows_when_one_of_them_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[list[Row]]] = {"first": [], "second": []}

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        drawn = given(ssc, ROWS, "k string, v bigint").select("k", F.expr("uuid()").alias("id")).cache()
        drawn.for_each_batch(lambda frame, batch: seen["first"].append(frame.collect()), name="first")

        def second(frame: DataFrame, batch: Batch) -> None:
            seen["second"].append(frame.collect())
            if len(seen["second"]) == 1:
                raise ConnectionError("refused")

        drawn.for_each_batch(second, name="second")
        return {}

    with job(build, tmp_path) as engine:
        without_pauses(engine, monkeypatch)
        engine.tick(1000)
        engine.tick(2000)
    assert [len(rows) for rows in seen["first"]] == [1, 2]
    assert seen["second"] == [seen["first"][0], *seen["first"]]
