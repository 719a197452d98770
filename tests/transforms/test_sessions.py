"""Sessions and event-time windows, against one computation in plain Python over the whole log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

from sparkstream_kit import aggregates as agg
from sparkstream_kit.aggregates import count, max_by, min_by
from sparkstream_kit.engine import batches
from sparkstream_kit.errors import UsageError
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.transforms import event_time_window, sessions
from tests.support.ticks import Build, Given, few, planned, run_ticks, run_with_kills
from tests.support.ticks import given as given_rows

pytestmark = pytest.mark.usefixtures("spark")

SCHEMA = "k string, second int, path string"
GAP, LONGEST, LATENESS = 3, 7, 8
VISIT = {
    "hits": count(),
    "seconds": agg.sum("second"),
    "first": min_by("path", by="timestamp"),
    "last": max_by("path", by="timestamp"),
}

Line = tuple[str, int, str]


@pytest.fixture(autouse=True)
def frequent_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "SNAPSHOT_EVERY", 2)


def program(rows: Given) -> Build:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        lines = given_rows(ssc, rows, SCHEMA).transform(
            lambda frame: frame.withColumn("timestamp", F.timestamp_seconds("second"))
        )
        visits = sessions(lines, "k", "timestamp", VISIT, gap=f"{GAP}s", longest=f"{LONGEST}s", lateness=f"{LATENESS}s")
        wait = {"lateness": f"{LATENESS}s"}
        tumbling = event_time_window(lines, "k", "timestamp", {"hits": count()}, "5s", **wait, name="tumbling")
        sliding = event_time_window(lines, [], "timestamp", {"hits": count()}, "5s", "2s", **wait, name="sliding")
        return {
            "visits": visits,
            "late": visits.late().select("k", "second", "path"),
            "tumbling": tumbling,
            "sliding": sliding,
        }

    return build


def on_time(rows: Given) -> tuple[list[Line], list[Line], int | None]:
    """Rows on time, late rows, and the last watermark."""
    good: list[Line] = []
    late: list[Line] = []
    watermark = None
    for batch in rows:
        fresh = [line for line in batch or () if watermark is None or line[1] >= watermark]
        late += [line for line in batch or () if line not in fresh]
        good += fresh
        watermark = max((line[1] for line in good), default=LATENESS) - LATENESS if good else None
    return good, late, watermark


def at(second: int) -> datetime:
    """A timestamp as `collect` returns it: local, without a zone."""
    return (datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=second)).astimezone().replace(tzinfo=None)


def in_pieces(lines: Sequence[Line]) -> list[tuple[int, int, list[Line]]]:
    """The rows of one key in pieces of sessions: last second of the session, end of the piece, rows of the piece."""
    found: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: line[1]):
        if not found or line[1] - found[-1][-1][1] > GAP:
            found.append([])
        found[-1].append(line)
    pieces = []
    for session in found:
        begin = session[0][1]
        numbers = sorted({(line[1] - begin) // LONGEST for line in session})
        for number in numbers:
            inside = [line for line in session if (line[1] - begin) // LONGEST == number]
            pieces.append((session[-1][1], begin + (number + 1) * LONGEST, inside))
    return pieces


def visits_of(good: Sequence[Line], watermark: int) -> list[tuple[object, ...]]:
    closed = []
    for k in {line[0] for line in good}:
        for last, end, rows in in_pieces([line for line in good if line[0] == k]):
            if last + GAP < watermark or end <= watermark:
                first, final = rows[0][1], rows[-1][1]
                closed.append(
                    (
                        k,
                        at(first),
                        at(final),
                        len(rows),
                        sum(line[1] for line in rows),
                        min(line[2] for line in rows if line[1] == first),
                        max(line[2] for line in rows if line[1] == final),
                    )
                )
    return closed


def windows_of(good: Sequence[Line], watermark: int, length: int, slide: int, keyed: bool) -> list[tuple[object, ...]]:
    hits: dict[tuple[str, int], int] = {}
    for k, second, _ in good:
        for start in range(-100 * slide, second + 1, slide):
            if start <= second < start + length <= watermark:
                hits[k if keyed else "", start] = hits.get((k if keyed else "", start), 0) + 1
    return [(*([k] if keyed else []), at(start), at(start + length), n) for (k, start), n in hits.items()]


LINES = st.lists(
    st.none() | st.lists(st.tuples(st.sampled_from("ab"), st.integers(-14, 3), st.sampled_from("/xy")), max_size=6),
    min_size=3,
    max_size=9,
).map(
    lambda rows: [
        None if batch is None else [(k, 20 + 4 * n + jitter, path) for k, jitter, path in batch]
        for n, batch in enumerate(rows)
    ]
)


@pytest.mark.slow
@few(4)
@given(rows=LINES, kills=st.sets(st.integers(1, 9), max_size=2))
def test_closed_rows_equal_one_computation_over_the_whole_log_in_any_order_and_through_kills(
    rows: list[list[Line] | None], kills: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    seen = run_with_kills(program(rows), tmp_path_factory.mktemp("home"), range(1, len(rows) + 1), kills)
    good, late, watermark = on_time(list(planned(rows, sorted(seen.get("late", {}))).values()))
    emitted = {
        name: sorted((row for batch in seen.get(name, {}).values() for row in batch), key=repr)
        for name in ("visits", "late", "tumbling", "sliding")
    }
    end = -1_000 if watermark is None else watermark
    assert emitted["visits"] == sorted(visits_of(good, end), key=repr)
    assert emitted["late"] == sorted(late, key=repr)
    assert emitted["tumbling"] == sorted(windows_of(good, end, 5, 5, keyed=True), key=repr)
    assert emitted["sliding"] == sorted(windows_of(good, end, 5, 2, keyed=False), key=repr)


@pytest.mark.slow
def test_a_long_session_is_cut_at_multiples_from_its_start_even_if_its_rows_come_much_later(tmp_path: Path) -> None:
    seconds = [
        ("a", [10, 12]),
        ("b", [18]),
        ("a", [14, 16, 18]),
        ("a", [20, 23]),
        ("a", [25]),
        ("b", [40]),
        ("b", [60]),
    ]
    rows = [[(k, second, "/") for second in batch] for k, batch in seconds]  # b's clock closes a's pieces
    seen = run_ticks(program(rows), tmp_path, range(1, 8))
    visits = [row[:4] for second in range(1, 8) for row in seen["visits"][second] if row[0] == "a"]
    assert visits == [("a", at(10), at(16), 4), ("a", at(18), at(23), 3), ("a", at(25), at(25), 1)]


@pytest.mark.slow
def test_sessions_without_keys_are_those_of_all_rows_together_also_after_a_kill(tmp_path: Path) -> None:
    rows = [[("a", 10, "/"), ("b", 12, "/")], [("a", 15, "/x")], [("b", 30, "/")], [("a", 60, "/")]]

    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        lines = given_rows(ssc, rows, SCHEMA).select("path", F.timestamp_seconds("second").alias("timestamp"))
        visit = {"hits": count(), "last": max_by("path", by="timestamp")}
        return {"visits": sessions(lines, [], "timestamp", visit, gap=f"{GAP}s", lateness=f"{LATENESS}s")}

    visits = run_with_kills(build, tmp_path, range(1, 5), {2})["visits"]
    assert [row for second in sorted(visits) for row in visits[second]] == [
        (at(10), at(15), 3, "/x"),
        (at(30), at(30), 1, "/"),
    ]


@pytest.mark.slow
def test_a_row_without_a_timestamp_is_late(tmp_path: Path) -> None:
    seen = run_ticks(program([[("a", None, "/"), ("a", 5, "/")]]), tmp_path, [1])
    assert seen["late"] == {1: [("a", None, "/")]}


def test_a_column_that_is_not_a_timestamp_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="path"):
        run_ticks(
            lambda ssc: {"out": sessions(given_rows(ssc, [], SCHEMA), "k", "path", {"hits": count()})}, tmp_path, []
        )
