"""Homes of this version and of those before always load; `python -m tests.recovery.test_format` writes the newest one.

tests/data/homes/<format> is the home of `program` after BEFORE seconds, as a crash left it: a batch without its done
mark, snapshots of states behind it, a compacted log, an enrichment.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit.engine import batches
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.recovery.home import FORMAT, Home
from tests.support.ticks import Seen, given, job, killed, run_ticks

HOMES = Path(__file__).parents[1] / "data" / "homes"
ROWS = [[(key, second) for key in ("a", "b", "c")[: 1 + second % 3]] for second in range(1, 15)]
BEFORE, AFTER = 11, 14
COUNT = {"n": ss.aggregates.count(), "sum": ss.aggregates.sum("value")}


def names() -> Any:
    return ss.live_session().createDataFrame([("a", "Ann"), ("b", "Bob")], "key string, name string")


def program(ssc: StreamingContext) -> dict[str, FrameStream]:
    rows = given(ssc, ROWS, "key string, value bigint")
    return {
        "state": rows.update_state_by_key("key", COUNT),
        "window": rows.reduce_by_key_and_window("key", COUNT, "3s"),
        "known": ss.transforms.enrich(rows, names, on="key"),
    }


def write(home: Path) -> None:
    """The home after a crash: everything of the last batch is out, but its done mark."""
    batches.SNAPSHOT_EVERY = 2
    run_ticks(program, home, range(1, BEFORE))
    with job(program, home) as engine:
        engine.graph.log.mark_done = killed  # type: ignore[method-assign]
        with pytest.raises(SystemExit):
            engine.tick(1000 * BEFORE)
    shutil.rmtree(home / "lease")  # which names the machine it was made on


@pytest.fixture(params=sorted(HOMES.iterdir()) if HOMES.is_dir() else [], ids=lambda home: f"format {home.name}")
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a committed home; git keeps no empty directories and no modes."""
    copy = tmp_path / "home"
    shutil.copytree(request.param, copy)
    for part in ("", "lease", "ticks", "received", "sources"):
        (copy / part).mkdir(mode=0o700, exist_ok=True)
        (copy / part).chmod(0o700)
    return copy


def test_there_is_a_committed_home_of_this_version() -> None:
    assert (HOMES / str(FORMAT) / "format").read_text() == f"{FORMAT}\n"


@pytest.mark.slow
def test_a_home_of_this_version_or_one_before_continues_where_it_was(
    home: Path, spark: SparkSession, tmp_path: Path
) -> None:
    straight = run_ticks(program, tmp_path / "straight", range(1, AFTER + 1))
    seen: Seen = run_ticks(program, home, range(BEFORE, AFTER + 1))
    assert list(seen["state"]) == list(range(BEFORE, AFTER + 1)), "the unfinished batch first"
    assert seen == {name: {n: rows for n, rows in of.items() if n >= BEFORE} for name, of in straight.items()}


def test_a_home_of_a_newer_version_is_refused_by_its_name(tmp_path: Path, spark: SparkSession) -> None:
    home = Home.open(str(tmp_path / "home"))
    (tmp_path / "home" / "format").write_text(f"{FORMAT + 1}\n")
    with pytest.raises(ss.NewerFormat, match=rf"{home.root} has the format {FORMAT + 1}, .* reads up to {FORMAT}: use"):
        Home.open(str(tmp_path / "home"))


def test_a_home_of_before_the_first_version_is_refused(tmp_path: Path, spark: SparkSession) -> None:
    Home.open(str(tmp_path / "home"))
    (tmp_path / "home" / "format").unlink()
    with pytest.raises(ss.HomeDamaged, match="has no valid file `format`: restore the home from a backup"):
        Home.open(str(tmp_path / "home"))


@pytest.mark.parametrize("content", ["", "one", "²", "1 2"])
def test_a_format_that_is_not_a_number_is_damage_and_not_a_newer_version(
    content: str, tmp_path: Path, spark: SparkSession
) -> None:
    Home.open(str(tmp_path / "home"))
    (tmp_path / "home" / "format").write_text(content)
    with pytest.raises(ss.HomeDamaged, match="has no valid file `format`"):
        Home.open(str(tmp_path / "home"))


@pytest.mark.parametrize("lost", ["id", "offsets"])
def test_a_home_that_lost_a_part_is_refused_and_not_begun_again(lost: str, tmp_path: Path, spark: SparkSession) -> None:
    home = tmp_path / "home"
    run_ticks(program, home, [1])
    if lost == "id":
        (home / "id").unlink()
    else:
        shutil.rmtree(home / "offsets")
    with pytest.raises(ss.HomeDamaged, match=rf"{home} has .*`{lost}`: restore the home from a backup"):
        run_ticks(program, home, [2])


def test_a_directory_that_holds_something_is_not_rebuilt_into(tmp_path: Path, spark: SparkSession) -> None:
    (tmp_path / "offsets").mkdir()
    (tmp_path / "offsets" / "precious").touch()
    with pytest.raises(ss.UsageError, match="is not empty: name a new directory"):
        Home.rebuilt(str(tmp_path), "id", {})
    assert (tmp_path / "offsets" / "precious").exists()


if __name__ == "__main__":
    shutil.rmtree(HOMES / str(FORMAT), ignore_errors=True)
    write(HOMES / str(FORMAT))
