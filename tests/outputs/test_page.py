"""What outputs show on the live page: compared with what a batch has."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit.errors import UsageError
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.outputs._panels import LABELS, Lines
from sparkstream_kit.page import server
from sparkstream_kit.page.model import Page
from sparkstream_kit.testing import run_batches
from tests.support.ticks import Build, given, job, run_ticks

HOSTILE = [
    "<script>alert(1)</script>",
    "\x1b[2J",
    "=cmd|' /C calc'!A0",
    "\u202egpj.exe",
    "a\x00b",
    "__proto__",
    "x" * 9999,
]


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_start", lambda *_: None)


def shown(batches: Sequence[Sequence[Any] | None], schema: str, home: Path, **options: Any) -> dict[str, Any]:
    """The panel after these batches."""
    pages: list[Page] = []
    run_ticks(showing(pages, batches, schema, **options), home, range(1, len(batches) + 1))
    return panel(pages[-1])


def showing(pages: list[Page], batches: Sequence[Sequence[Any] | None], schema: str, **options: Any) -> Build:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        ss.serve_page(ssc)
        stream = given(ssc, batches, schema)
        pages.append(stream.graph.shared["page"])
        ss.outputs.page(stream, name="hits", **options)
        return {"rows": stream}

    return build


def panel(page: Page) -> dict[str, Any]:
    (found,) = page.since(0)[1]["panels"]
    return dict(found)


def test_a_table_has_the_newest_batch(tmp_path: Path) -> None:
    found = shown([[("/a", 1)], [("/b", 2), ("/c", None)]], "path string, hits bigint", tmp_path)
    assert found == {
        "name": "hits",
        "show": "table",
        "n": 2,
        "time": 2.0,
        "cut": False,
        "columns": [{"name": "path", "kind": "text"}, {"name": "hits", "kind": "number"}],
        "rows": [["/b", 2], ["/c", None]],
    }


def test_a_result_has_its_place_before_its_first_batch(tmp_path: Path) -> None:
    pages: list[Page] = []
    with job(showing(pages, [[(1,)]], "v int", show="line"), tmp_path):
        assert panel(pages[0]) == {"name": "hits", "show": "line", "n": None, "time": None}
        assert pages[0].since(0)[1]["panel_order"] == ["hits"]


def test_rows_beyond_the_limit_are_cut(tmp_path: Path) -> None:
    found = shown([[(n,) for n in range(9)]], "v int", tmp_path, rows=3)
    assert (found["rows"], found["cut"]) == ([[0], [1], [2]], True)


def test_the_latest_rows_stay_until_newer_ones_come(tmp_path: Path) -> None:
    batches = [[(1,), (2,)], [], [(3,)], None, [(4,), (5,)], []]
    found = shown(batches, "v int", tmp_path, show="latest", rows=4)
    assert found["rows"] == [[5], [4], [3], [2]]


def test_a_restarted_job_without_new_rows_takes_no_latest_ones_away(tmp_path: Path) -> None:
    found = shown([[], []], "v int", tmp_path, show="latest")
    assert found == {"name": "hits", "show": "latest", "n": None, "time": None}


def test_a_batch_that_runs_again_is_shown_once(tmp_path: Path) -> None:
    pages: list[Page] = []
    for show in ("latest", "line"):
        failing = [True, False]

        def build(ssc: StreamingContext, show: Any = show, failing: list[bool] = failing) -> dict[str, FrameStream]:
            streams = showing(pages, [[("a", 1)]], "k string, v int", show=show)(ssc)

            def write(*_: object) -> None:
                if failing.pop(0):
                    raise OSError("away")

            streams["rows"].for_each_batch(write, name="flaky")
            return streams

        with job(build, tmp_path / show) as engine:
            engine._retry_for = 60
            engine.tick(1000)
    assert panel(pages[0])["rows"] == [["a", 1]]
    assert panel(pages[1])["lines"] == [{"label": "a", "values": [1]}]


@pytest.mark.parametrize(
    ("schema", "options", "bars"),
    [
        ("status int, count bigint", {}, [("200", 7), ("404", 3)]),
        ("count bigint, status int", {"by": "status"}, [("7", 200), ("3", 404)]),
        ("a int, b int, c int", {"value": "c"}, [("200", 1), ("404", 2)]),
    ],
)
def test_bars_are_named_by_one_column_and_measured_by_another(
    schema: str, options: dict[str, str], bars: list[tuple[str, int]], tmp_path: Path
) -> None:
    rows = {2: [(200, 7), (404, 3)], 3: [(200, 7, 1), (404, 3, 2)]}[schema.count(",") + 1]
    if options.get("by"):
        bars = [("200", 7), ("404", 3)]
        rows = [(7, 200), (3, 404)]
    found = shown([rows], schema, tmp_path, show="bar", **options)
    assert [(bar["label"], bar["value"]) for bar in found["bars"]] == bars


def test_a_line_has_the_values_of_a_key_over_time(tmp_path: Path) -> None:
    batches = [[(200, 7)], [(200, 8), (404, 1)], None, [(404, 2)]]
    found = shown(batches, "status int, count bigint", tmp_path, show="line", by="status")
    assert found["x"] == [1, 2, 4]
    assert found["lines"] == [{"label": "200", "values": [7, 8, None]}, {"label": "404", "values": [None, 1, 2]}]


def test_a_line_without_a_key_has_every_column_with_numbers(tmp_path: Path) -> None:
    found = shown([[(5, 1.5)], [(6, None)]], "lines bigint, share double", tmp_path, show="line")
    assert found["lines"] == [{"label": "lines", "values": [5, 6]}, {"label": "share", "values": [1.5, None]}]


def test_a_line_by_event_time_has_its_points_in_order_each_with_its_newest_value(tmp_path: Path) -> None:
    batches = [
        [("2026-01-31T12:01:00Z", "a", 1), ("2026-01-31T12:00:00Z", "a", 2)],
        [("2026-01-31T12:01:00Z", "a", 3), ("2026-01-31T12:01:00Z", "b", 4)],
    ]
    found = shown(batches, "minute timestamp, k string, v int", tmp_path, show="line", x="minute")
    noon = 1769860800
    assert found["x"] == [noon, noon + 60]
    assert found["lines"] == [{"label": "a", "values": [2, 3]}, {"label": "b", "values": [None, 4]}]


def test_only_the_largest_lines_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparkstream_kit.outputs._panels.LINES", 2)
    batches = [[("a", 1), ("b", 9)], [("c", 5), ("a", 1)]]
    found = shown(batches, "k string, v int", tmp_path, show="line")
    assert ([line["label"] for line in found["lines"]], found["cut"]) == (["b", "c"], True)


def test_the_largest_lines_are_those_of_all_rows(tmp_path: Path) -> None:
    batches = [[(f"k{n:03d}", n) for n in range(60)] for _ in range(2)]
    found = shown(batches, "k string, v int", tmp_path, show="line")
    assert [line["label"] for line in found["lines"]] == [f"k{n:03d}" for n in range(52, 60)]
    assert [line["values"] for line in found["lines"]] == [[n, n] for n in range(52, 60)]
    assert found["cut"]


def test_labels_without_end_are_forgotten() -> None:
    lines = Lines()
    for n in range(50):
        lines.add((1.0, f"{n}-{k}", float(k)) for k in range(100))
    assert len(lines._points[1.0]) == LABELS
    assert {line["values"][0] for line in lines.largest(False)["lines"]} == {99.0}
    assert lines.largest(False)["cut"]


def test_numbers_that_cannot_be_added_are_not_drawn(tmp_path: Path) -> None:
    found = shown([[(1e308,)], [(-1e308,)], [(1.0,)], [(float("nan"),)]], "v double", tmp_path, show="line")
    assert found["lines"] == [{"label": "v", "values": [None, None, 1.0, None]}]


def test_a_line_by_times_that_python_does_not_have(tmp_path: Path) -> None:
    def build(lines: Any) -> FrameStream:
        ss.serve_page(lines.context())
        stream = FrameStream.of(lines).transform(
            lambda frame: frame.selectExpr("timestamp_seconds(cast(value as bigint)) AS t", "1 AS v")
        )
        pages.append(stream.graph.shared["page"])
        ss.outputs.page(stream, name="hits", show="line", x="t")
        return stream.transform(lambda frame: frame.selectExpr("1 AS one"))

    pages: list[Page] = []
    run_batches(build, [["253402300800", "-99999999999"]])
    assert panel(pages[0])["x"] == [-99999999999, 253402300800]


def test_a_table_is_bounded_in_columns_and_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparkstream_kit.outputs._panels.COLUMNS", 2)
    monkeypatch.setattr("sparkstream_kit.outputs._panels.CHARACTERS", 5)
    found = shown([[("a", "bc", "d"), ("e", "f", "g"), ("h", "i", "j")]], "a string, b string, c string", tmp_path)
    assert [column["name"] for column in found["columns"]] == ["a", "b"]
    assert (found["rows"], found["cut"]) == ([["a", "bc"], ["e", "f"]], True)


def test_the_points_of_a_line_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparkstream_kit.outputs._panels.POINTS", 3)
    found = shown([[(n,)] for n in range(5)], "v int", tmp_path, show="line")
    assert (found["x"], found["lines"]) == ([3, 4, 5], [{"label": "v", "values": [2, 3, 4]}])


def test_text_stays_text_and_short(tmp_path: Path) -> None:
    found = shown([[(text,) for text in HOSTILE]], "`<b>` string", tmp_path)
    assert [name for (name,) in found["rows"]] == [
        "<script>alert(1)</script>",
        r"\x1b[2J",
        "=cmd|' /C calc'!A0",
        r"\u202egpj.exe",
        r"a\x00b",
        "__proto__",
        "x" * 500 + "…",
    ]
    assert found["columns"] == [{"name": "<b>", "kind": "text"}]


def test_each_type_is_shown_as_what_it_is(spark: SparkSession) -> None:
    pages: list[Page] = []
    columns = {
        "9007199254740993L": "9007199254740993",
        "42": 42,
        "cast('NaN' as double)": "nan",
        "1e308D": 1e308,
        "1.5D": 1.5,
        "12.50": "12.50",
        "true": True,
        "null": None,
        "timestamp'2026-01-31 12:00:00+01:00'": "2026-01-31 11:00:00",
        "timestamp_ntz'2026-01-31 12:00:00'": "2026-01-31 12:00:00",
        "date'2026-01-31'": "2026-01-31",
        "timestamp_seconds(-62135596800)": "0001-01-01 00:00:00",
        "timestamp_seconds(-62167219200)": "-62167219200 s since 1970",
        "timestamp_seconds(253402300800)": "253402300800 s since 1970",
        "timestamp'9999-12-31 23:59:59Z'": "9999-12-31 23:59:59",
        "date_add(date'9999-12-31', 1)": "253402300800 s since 1970",
        "cast(timestamp_seconds(253402300800) as timestamp_ntz) - interval 9000 year": "1000-01-01 00:00:00",
        "array(1, null)": "[1, null]",
        "named_struct('a', '<b>')": "{<b>}",
        "map('k', 1)": "{k -> 1}",
        "cast('raw' as binary)": "raw",
        "interval '1' day": "INTERVAL '1' DAY",
    }

    def build(lines: Any) -> FrameStream:
        ss.serve_page(lines.context())
        stream = FrameStream.of(lines).transform(
            lambda frame: frame.selectExpr(*(f"{column} AS `a.{i}`" for i, column in enumerate(columns)))
        )
        pages.append(stream.graph.shared["page"])
        ss.outputs.page(stream, name="types")
        return stream.transform(lambda frame: frame.selectExpr("1 AS one"))

    run_batches(build, [["x"]])
    found = panel(pages[0])
    assert found["rows"] == [list(columns.values())]
    kinds = [column["kind"] for column in found["columns"]]
    assert kinds == ["number"] * 6 + ["text"] * 2 + ["time"] * 9 + ["text"] * 5
    assert Decimal(found["rows"][0][5]) == Decimal("12.50")


def test_rejected_lines_are_counted_and_the_latest_stay(tmp_path: Path) -> None:
    pages: list[Page] = []

    def build(lines: Any) -> FrameStream:
        ss.serve_page(lines.context())
        requests, rejected = ss.transforms.access_log.split(FrameStream.of(lines))
        pages.append(rejected.graph.shared["page"])
        ss.outputs.page(rejected, name="rejected", rows=2)
        return requests.count()

    run_batches(build, [["one", "two", "three"], ["four"], []])
    found = panel(pages[0])
    assert (found["show"], [line for line, _ in found["rows"]]) == ("latest", ["four", "two"])
    assert pages[0].since(0)[1]["totals"]["rejected"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "got rows=0 for the page, expected 1 to 1000"),
        ({"rows": 1001}, "got rows=1001 for the page, expected 1 to 1000"),
        ({"show": "bar", "by": "paht"}, "got by=paht for page:hits, whose columns are path, hits"),
        ({"show": "line", "value": "path"}, "got value=path for page:hits, expected a column with numbers"),
        ({"show": "line", "x": "hits"}, "got x=hits for page:hits, expected a column with times"),
        (
            {"show": "bar", "by": "hits"},
            "page:hits has no column with numbers to draw beside hits, which names what is drawn: it has path, hits",
        ),
    ],
)
def test_a_chart_that_cannot_be_is_refused_at_the_start(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        shown([[("/a", 1)]], "path string, hits int", tmp_path, **options)
    assert str(error.value) == message


def test_without_a_page_the_output_says_what_to_do(tmp_path: Path) -> None:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        ss.outputs.page(given(ssc, [[(1,)]], "v int"))
        return {}

    with pytest.raises(UsageError, match="start the job with --page 8080, or call ss.serve_page in build"):
        run_ticks(build, tmp_path, [1])


def test_a_page_may_come_and_go_between_two_starts(tmp_path: Path) -> None:
    run_ticks(showing([], [[(1,)], [(2,)]], "v int"), tmp_path, [1])
    seen = run_ticks(lambda ssc: {"rows": given(ssc, [[(1,)], [(2,)]], "v int")}, tmp_path, [2])
    assert seen == {"rows": {2: [(2,)]}}
