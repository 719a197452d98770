"""What a cell shows of a stream: compared with the elements and rows it has. Real kernels are in tests/jobs."""

from __future__ import annotations

import io
import pickle
import re
from collections import namedtuple
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image
from pyspark.sql import Row, SparkSession
from pyspark.streaming import DStream, StreamingContext

import sparkstream_kit as ss
from sparkstream_kit import charts, notebooks
from sparkstream_kit.testing import run_batches

Hits = namedtuple("Hits", "path hits")


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError


HOSTILE = "<script>alert(1)</script> $x_1$ \x1b[2J =1+1"


class Cell:
    """Stands for the output of a cell: the data of each display and of its updates, by what shows it first."""

    def __init__(self) -> None:
        self.displays: dict[str, list[dict[str, str]]] = {}

    def put(self, update: bool) -> Callable[..., None]:
        def put(data: dict[str, str], *, raw: bool, display_id: str) -> None:
            assert raw
            assert (display_id in self.displays) is update, "a display is there before it is updated"
            self.displays.setdefault(display_id, []).append(data)

        return put

    @property
    def texts(self) -> list[list[str]]:
        return [[data["text/plain"] for data in display] for display in self.displays.values()]

    @property
    def pages(self) -> list[str]:
        return [display[-1]["text/html"] for display in self.displays.values()]


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    cell = Cell()
    monkeypatch.setattr(notebooks, "_has_displays", lambda: True)
    monkeypatch.setattr("IPython.display.display", cell.put(update=False))
    monkeypatch.setattr("IPython.display.update_display", cell.put(update=True))
    return cell


class Elements(HTMLParser):
    """The tags of a page, and its texts."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def shown(build: Callable[[DStream[Any]], object], batches: list[list[Any]]) -> None:
    """Run a job that only shows something."""

    def with_output(stream: DStream[Any]) -> DStream[Any]:
        build(stream)
        return stream

    run_batches(with_output, batches)


# --- elements of DStreams


def test_each_batch_takes_the_place_of_the_one_before(spark: SparkSession, cell: Cell) -> None:
    shown(lambda stream: ss.show(stream, name="pairs"), [[("a", 1), ("b", 2)], [("c", 30)], []])
    assert cell.texts == [
        [
            "pairs - no batch yet",
            "pairs - batch at 00:00:01 UTC\n_1  _2\na   1\nb   2",
            "pairs - batch at 00:00:02 UTC\n_1  _2\nc   30",
            "pairs - batch at 00:00:03 UTC\n_1  _2",
        ]
    ]


@pytest.mark.parametrize(
    ("elements", "lines"),
    [
        ([1, 2.5], ["value", "1", "2.5"]),
        (["a", None], ["value", "a", "null"]),
        ([True, False], ["value", "True", "False"]),
        ([Hits("/", 3)], ["path  hits", "/     3"]),
        ([Row(path="/", hits=3)], ["path  hits", "/     3"]),
        ([("a", (1, 2))], ["_1  _2", "a   (1, 2)"]),
        ([("a", 1), ("b",)], ["value", "('a', 1)", "('b',)"]),
        ([("a", 1), None], ["value", "('a', 1)", "null"]),
        ([{"a": 1}], ["value", "{'a': 1}"]),
        ([()], ["value", "()"]),
        ([Decimal("1.50"), 2], ["value", "1.50", "2"]),
        ([(1, "a"), ("b", 2)], ["_1  _2", "1   a", "b   2"]),
        ([datetime(2026, 1, 31, 12, tzinfo=timezone.utc)], ["value", "2026-01-31 12:00:00"]),
        ([date(2026, 1, 31), None], ["value", "2026-01-31", "null"]),
        ([2**60], ["value", str(2**60)]),
        ([10**5000, -(10**5000)], ["value", "inf", "-inf"]),
        ([Decimal("sNaN"), Decimal("Infinity")], ["value", "nan", "nan"]),
        ([numpy.int64(3), numpy.float64(0.5)], ["value", "3", "0.5"]),
        ([numpy.array([1, 2])], ["value", "[1 2]"]),
        ([datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=10)))], ["value", "0001-01-01 00:00:00+10:00"]),
        ([date(1, 1, 1), date(9999, 12, 31)], ["value", "0001-01-01", "9999-12-31"]),
        ([datetime(1, 1, 1, tzinfo=timezone.utc)], ["value", "0001-01-01 00:00:00"]),
        ([b"\x1b[2J"], ["value", "b'\\x1b[2J'"]),
        ([Unprintable()], ["value", "<Unprintable: RuntimeError>"]),
        ([(None, None)], ["_1    _2", "null  null"]),
        ([float("nan")], ["value", "nan"]),
    ],
)
def test_elements_have_the_columns_that_they_show(elements: list[Any], lines: list[str]) -> None:
    schema, rows = notebooks.table_of(elements)
    panel = notebooks.Panel("show", "", "table", 20, "", "", "")
    batch = ss.Batch(1, datetime(1970, 1, 1, tzinfo=timezone.utc), "")
    columns, cells = notebooks._cells(panel.with_rows(schema, rows, batch))
    assert notebooks._lines(columns, cells) == lines


def test_only_the_first_rows_are_shown(spark: SparkSession, cell: Cell) -> None:
    shown(lambda stream: ss.show(stream, rows=2), [[1, 2, 3]])
    assert cell.texts == [["stream - no batch yet", "batch at 00:00:01 UTC, not all is shown\nvalue\n1\n2"]]


def test_a_stream_without_elements_waits(spark: SparkSession, cell: Cell) -> None:
    shown(lambda stream: ss.show(stream, "bar", name="hits"), [[], [("/", 1)], []])
    assert cell.texts == [
        [
            "hits - no batch yet",
            "hits - batch at 00:00:02 UTC\n   _2\n/  1",
            "hits - batch at 00:00:03 UTC\n  _2",
        ]
    ]


def test_a_batch_without_numbers_leaves_a_gap(spark: SparkSession, cell: Cell) -> None:
    shown(lambda stream: ss.show(stream, "line", name="hits"), [[("/", 1)], [("/", None)], [("/", 3)]])
    assert [text.splitlines()[-1] for text in cell.texts[0][1:]] == ["/  1", "/  null", "/  3"]


def test_the_latest_rows_are_those_of_the_same_columns(spark: SparkSession, cell: Cell) -> None:
    shown(lambda stream: ss.show(stream, "latest"), [[("a", 1)], [("b", 2)], [("c", 3, 4)], [("d", 5, 6)]])
    assert [text.splitlines()[1:] for text in cell.texts[0][1:]] == [
        ["_1  _2", "a   1"],
        ["_1  _2", "b   2", "a   1"],
        ["_1  _2  _3", "c   3   4"],
        ["_1  _2  _3", "d   5   6", "c   3   4"],
    ]


def test_elements_without_numbers_cannot_be_drawn(spark: SparkSession, cell: Cell) -> None:
    with pytest.raises(
        ss.UsageError,
        match="^show has no column with numbers to draw beside value, which names what is drawn: it has value$",
    ):
        shown(lambda stream: ss.show(stream, "line"), [["a"]])


def test_a_bare_context_shows_on_stdout_outside_of_notebooks(
    spark: SparkSession, capsys: pytest.CaptureFixture[str]
) -> None:
    ssc, seen = StreamingContext(spark.sparkContext, 0.1), []  # type: ignore[arg-type,var-annotated]
    stream = ssc.queueStream([[("a", HOSTILE)]])
    ss.show(stream)
    stream.foreachRDD(lambda rdd: seen.append(rdd))
    ssc.start()
    assert ss.stop_when(ssc, lambda: bool(seen), poll="10ms") == 0
    first = capsys.readouterr().out.splitlines()[:3]
    assert re.fullmatch(r"batch at \d\d:\d\d:\d\d UTC", first[0])
    assert first[1:] == ["_1  _2", "a   <script>alert(1)</script> $x_1$ \\x1b[2J =1+1"]


def test_a_job_with_a_checkpoint_shows_its_streams(spark: SparkSession, cell: Cell, tmp_path: Path) -> None:
    ran, incoming = tmp_path / "ran", tmp_path / "in"
    incoming.mkdir()

    def build(ssc: StreamingContext) -> None:
        lines = ssc.textFileStream(str(incoming))
        ss.show(lines, name="lines")
        lines.foreachRDD(lambda rdd: None if rdd.isEmpty() else ran.touch())

    for text in ("one", "two"):
        ssc = ss.get_or_create(build, checkpoint=str(tmp_path / "checkpoint"), batch_interval="100ms")
        (tmp_path / text).write_text(text)
        (tmp_path / text).rename(incoming / text)
        assert ss.run(ssc, ran.exists, poll="10ms") == 0
        ran.unlink()
    built, recovered = cell.texts
    assert built[0] == "lines - no batch yet"
    assert any(text.endswith("value\none") for text in built)
    assert any(text.endswith("value\ntwo") for text in recovered)


# --- frames


def counted(stream: DStream[Any]) -> ss.FrameStream:
    return ss.FrameStream.of(stream, "path string, hits int")


def test_the_rows_of_frames_are_shown_with_their_batch(spark: SparkSession, cell: Cell) -> None:
    shown(lambda stream: ss.show(counted(stream), name="hits"), [[("/", 3), ("/faq", 10)], [("/", 5)]])
    assert cell.texts == [
        [
            "hits - no batch yet",
            "hits - batch 1 at 00:00:01 UTC\npath  hits\n/     3\n/faq  10",
            "hits - batch 2 at 00:00:02 UTC\npath  hits\n/     5",
        ]
    ]


def test_streams_without_names_have_displays_of_their_own(spark: SparkSession, cell: Cell) -> None:
    def build(stream: DStream[Any]) -> None:
        hits = counted(stream)
        ss.show(hits.count(), name="show 2")
        ss.show(hits)
        ss.show(hits.select("hits"))

    shown(build, [[("/", 3)]])
    assert [texts[-1].splitlines()[-1] for texts in cell.texts] == ["1", "/     3", "3"]


def test_a_display_without_a_batch_is_text_too(spark: SparkSession, cell: Cell) -> None:
    shown(lambda stream: ss.show(stream, name=HOSTILE), [[]])
    (page,) = cell.pages
    found = Elements(page)
    assert (found.tags, found.attributes) == (["div"], [{"class": "tex2jax_ignore mathjax_ignore"}])
    assert found.texts == [HOSTILE.replace("\x1b", "\\x1b") + " - no batch yet"]


def test_what_it_shows_is_text_and_numbers_stand_right(spark: SparkSession, cell: Cell) -> None:
    shown(lambda stream: ss.show(counted(stream), name="<b>$x$\x1b"), [[(HOSTILE, 3)]])
    text = HOSTILE.replace("\x1b", "\\x1b")
    (page,) = cell.pages
    found = Elements(page)
    assert found.tags == ["div", "div", "table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert found.texts == ["<b>$x$\\x1b - batch 1 at 00:00:01 UTC", "path", "hits", text, "3"]
    assert [a["style"] for a in found.attributes[-2:]] == ["text-align: left", "text-align: right"]
    assert found.attributes[0] == {"class": "tex2jax_ignore mathjax_ignore"}, "no formulas"
    everything = [text for display in cell.displays.values() for data in display for text in data.values()]
    assert not any("\x1b" in text for text in everything)


@pytest.mark.parametrize("kind", ["bar", "line"])
def test_charts_are_pictures_whose_text_says_the_same(kind: Any, spark: SparkSession, cell: Cell) -> None:
    shown(lambda stream: ss.show(counted(stream), kind, name="hits"), [[("/", 3), (HOSTILE, 10)]])
    found = Elements(cell.pages[0])
    assert found.tags == ["img"]
    assert (found.attributes[0]["src"] or "").startswith("data:image/png;base64,")
    text = HOSTILE.replace("\x1b", "\\x1b")
    header = "hits" if kind == "bar" else "newest"
    assert found.attributes[0]["alt"] == cell.texts[0][-1]
    lines = cell.texts[0][-1].splitlines()
    assert lines[0] == "hits - batch 1 at 00:00:01 UTC"
    assert sorted(line.split() for line in lines[1:]) == sorted([[header], ["/", "3"], [*text.split(), "10"]])


def test_what_cannot_be_shown_is_refused_at_the_start(spark: SparkSession, cell: Cell) -> None:
    for options, sentence in [
        ({"rows": 0}, "^got rows=0 for show, expected 1 to 1000$"),
        ({"kind": "bar", "by": "paht"}, "^got by=paht for show:show 1, whose columns are path, hits$"),
        ({"kind": "line", "value": "path"}, "^got value=path for show:show 1, expected a column with numbers$"),
        ({"kind": "pie"}, "^got the kind 'pie', expected table, latest, line or bar$"),
    ]:
        with pytest.raises(ss.UsageError, match=sentence):
            shown(lambda stream, options=options: ss.show(counted(stream), **options), [[("/", 3)]])


def test_a_chart_without_its_library_names_the_extra(
    spark: SparkSession, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebooks, "load", lambda *_: (_ for _ in ()).throw(ss.MissingLibrary("needs matplotlib")))
    with pytest.raises(ss.MissingLibrary, match="needs matplotlib"):
        shown(lambda stream: ss.show(counted(stream), "bar"), [[("/", 3)]])


# --- pictures


NOW = 1_780_000_000.0


def size(picture: bytes) -> tuple[int, int]:
    image = Image.open(io.BytesIO(picture))
    image.load()
    return image.size


@pytest.mark.parametrize(
    "label", ["$\\frac{", "_hidden", "", "\u6f22\u5b57 \U0001f600", "x" * 500, "%s {} \\", "<b>&amp;"]
)
@pytest.mark.filterwarnings("error", "ignore:Glyph .* missing from")
def test_labels_are_data(label: str) -> None:
    line = {"show": "line", "x": [NOW, NOW + 1], "lines": [{"label": label, "values": [1, 2]}]}
    bar = {"show": "bar", "value": label, "bars": [{"label": label, "value": 1}]}
    for panel in (line, bar):
        assert size(charts.chart(panel, label))[0] == 750


@pytest.mark.parametrize("values", [[], [None], [1], [1, None, 3], [-1e299, 1e299], [0, 0]])
def test_any_numbers_are_drawn(values: list[float | None]) -> None:
    times = [NOW + i for i in range(len(values))]
    lines = [{"label": str(i), "values": values} for i in range(8)]
    assert size(charts.chart({"show": "line", "x": times, "lines": lines}, "")) == (750, 280)
    bars = [{"label": str(i), "value": value} for i, value in enumerate(values)]
    assert size(charts.chart({"show": "bar", "value": "n", "bars": bars}, "")) == (750, 280)


def test_times_that_no_calendar_has_are_left_out() -> None:
    panel = {"show": "line", "x": [-1e12, NOW, 1e12], "lines": [{"label": "a", "values": [1, 2, 3]}]}
    within = {"show": "line", "x": [NOW], "lines": [{"label": "a", "values": [2]}]}
    assert charts.chart(panel, "") == charts.chart(within, "")


def test_only_the_first_bars_are_drawn(spark: SparkSession, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebooks, "MOST_BARS", 2)
    shown(lambda stream: ss.show(stream, "bar", rows=1000), [[("a", 3), ("b", 2), ("c", 1)]])
    assert cell.texts[0][-1] == "batch at 00:00:01 UTC, not all is shown\n   _2\na  3\nb  2"


def test_a_long_table_has_a_short_text(spark: SparkSession, cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebooks, "MOST_LINES", 2)
    shown(lambda stream: ss.show(stream), [[1, 2, 3]])
    assert cell.texts[0][-1] == "batch at 00:00:01 UTC\nvalue\n1\n2"
    assert Elements(cell.pages[0]).texts[-3:] == ["1", "2", "3"]


def test_a_checkpoint_has_no_rows() -> None:
    panel = notebooks.Panel("show", "", "latest", 20, "", "", "")
    schema, rows = notebooks.table_of(["a secret"])
    panel.with_rows(schema, rows, ss.Batch(1, datetime(1970, 1, 1, tzinfo=timezone.utc), ""))
    assert b"a secret" not in pickle.dumps(panel)
    assert pickle.loads(pickle.dumps(panel)).rows == 20
