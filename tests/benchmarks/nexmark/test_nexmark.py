"""Nexmark: the events follow their definition, and every query computes what DuckDB does, also if its job is killed."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.benchmarks.measure import OutputsDiffer
from tests.benchmarks.nexmark import events, expected, queries
from tests.benchmarks.nexmark.events import Size
from tests.benchmarks.nexmark.run import QUICK

ROOT = Path(__file__).parents[3]
SIZE = Size(10_000, 4, 500)


def all_of(size: Size) -> list[dict[str, Any]]:
    return [json.loads(line) for n in range(1, size.batches + 1) for line in events.lines(size, n)]


@pytest.mark.program
def test_all_queries_equal_a_batch_computation_and_some_do_after_a_kill() -> None:
    before = sorted(ROOT.rglob("tests/benchmarks/*"))
    ended = subprocess.run([ROOT / "scripts" / "bench", "nexmark", "--quick"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    *compared, killed = ended.stdout.splitlines()
    assert [line.split(":")[0] for line in compared] == list(queries.QUERIES)
    assert all(line.endswith(" rows equal") for line in compared)
    assert killed.startswith("q1, q7, q18: equal after a kill ")
    assert sorted(ROOT.rglob("tests/benchmarks/*")) == before


def test_there_is_an_expectation_for_each_query() -> None:
    assert list(expected.SQL) == list(queries.QUERIES) == [f"q{n}" for n in range(23)]


def test_of_fifty_events_one_is_a_person_and_three_are_auctions() -> None:
    kinds = Counter(event["event_type"] for event in all_of(SIZE))
    assert kinds == {0: 200, 1: 600, 2: 9_200}


def test_the_events_do_not_depend_on_how_they_are_cut() -> None:
    assert all_of(SIZE._replace(batches=7)) == all_of(SIZE)


def test_ids_count_from_a_thousand_and_each_comes_once() -> None:
    found = all_of(SIZE)
    for kind, count in (("person", 200), ("auction", 600)):
        assert sorted(event[kind]["id"] for event in found if kind in event) == list(range(1_000, 1_000 + count))


def test_events_are_out_of_order_by_less_than_a_second() -> None:
    times = [next(v for v in event.values() if isinstance(v, dict))["dateTime"] for event in all_of(SIZE)]
    assert times != sorted(times)
    seconds = [time[:19] for time in times]
    assert seconds == sorted(seconds)
    assert (seconds[0], seconds[-1]) == ("2015-07-14T23:59:30", "2015-07-14T23:59:49")


def test_some_bids_come_a_batch_before_their_auction() -> None:
    """So that joins have to keep them."""
    arrived = {
        kind: [
            (n, event[kind])
            for n in range(1, QUICK.batches + 1)
            for event in map(json.loads, events.lines(QUICK, n))
            if kind in event
        ]
        for kind in ("auction", "bid")
    }
    opened = {auction["id"]: n for n, auction in arrived["auction"]}
    assert any(n < opened.get(bid["auction"], 0) for n, bid in arrived["bid"])


def test_half_of_the_bids_are_for_hot_auctions_and_three_of_four_by_hot_bidders() -> None:
    bids = [event["bid"] for event in all_of(SIZE) if "bid" in event]
    assert sum(bid["auction"] % 100 == 0 for bid in bids) / len(bids) == pytest.approx(0.5, abs=0.02)
    assert sum(bid["bidder"] % 100 == 1 for bid in bids) / len(bids) == pytest.approx(0.75, abs=0.02)


def test_a_row_that_is_missing_or_doubled_or_another_is_a_difference(tmp_path: Path) -> None:
    events.write(Size(1_000, 2, 100), tmp_path / "input", files=2)
    found = expected.Expected(tmp_path / "input", 0, 5)
    file = str(tmp_path / "bids.parquet")
    rows = found.count("q22")
    columns = (
        "auction, bidder, price, channel, split_part(url, '/', 4), split_part(url, '/', 5), split_part(url, '/', 6)"
    )

    def compare(query: str) -> int:
        with duckdb.connect() as duck:
            duck.execute(
                f"create table bid as select unnest(bid) from '{tmp_path}/input/*/*.json' where event_type = 2"
            )
            duck.execute(f"copy ({query}) to '{file}'")
        return found.compare("q22", "kit", file)

    assert compare(f"select {columns} from bid") == rows
    for message, query in (
        ("1 are missing, and 0 are in excess", f"select {columns} from bid limit {rows - 1}"),
        ("0 are missing, and 1 are in excess", f"from (select {columns} from bid) union all (from {{0}} limit 1)"),
        (f"{rows} are missing, and {rows} are in excess", f"select {columns.replace('bidder', 'bidder + 1')} from bid"),
    ):
        with pytest.raises(OutputsDiffer, match=f"q22, kit: of {rows} rows {message}"):
            compare(query.format(f"(select {columns} from bid)"))
