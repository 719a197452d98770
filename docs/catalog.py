"""The table of all transformations, docs/catalog.md: run `python docs/catalog.py` after a change.

What a function does and what its cost grows with come from its docstring: the first paragraph, and the sentence that
starts with "Cost: grows with". Only the equivalents in DStream and Structured Streaming are listed here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import sparkstream_kit as ss
from sparkstream_kit import aggregates, transforms
from sparkstream_kit.frames import FrameStream, StateStream
from sparkstream_kit.transforms import access_log, json_lines
from sparkstream_kit.transforms._interval_join import JoinedStreams
from sparkstream_kit.transforms._watermarks import ClosedWindows

PAGE = Path(__file__).with_suffix(".md")

HEAD = """\
# Catalog

Every transformation, with the nearest equivalent in Spark's two streaming APIs; a dash means that there is none. The
docstrings list columns, errors and guarantees, each with an example that runs as a test. This page is generated from
them by `python docs/catalog.py`.

DStream's own operations are methods of `FrameStream`. Everything else takes the stream first:
`ss.transforms.sessions(requests, ...)` or, from left to right, `requests.pipe(ss.transforms.sessions, ...)`.

If no source has new data, no batch is recorded and a FrameStream yields nothing, where a DStream yields an empty RDD.
Windows keep sliding, and keys keep expiring, until they are empty. Apart from that, the operations of the first three
tables return what DStream's return for the same batches; `tests/test_frames.py` compares them.
"""


class Row(NamedTuple):
    """A function and its equivalents."""

    function: Callable[..., Any]
    dstream: str
    structured: str


TABLES: dict[str, list[Row]] = {
    "Batches: methods of FrameStream": [
        Row(FrameStream.select, "map", "select"),
        Row(FrameStream.filter, "filter", "filter"),
        Row(FrameStream.flat_map, "flatMap", "explode"),
        Row(FrameStream.map_python, "map", "udf"),
        Row(FrameStream.transform, "transform", "any function of DataFrames"),
        Row(FrameStream.pipe, "-", "DataFrame.transform"),
        Row(FrameStream.sql, "-", "spark.sql on a view"),
        Row(FrameStream.repartition, "repartition", "repartition"),
        Row(FrameStream.count, "count", "groupBy().count() in foreachBatch"),
        Row(FrameStream.count_by_value, "countByValue", "the same in foreachBatch"),
        Row(FrameStream.reduce_by_key, "reduceByKey, combineByKey", "groupBy.agg in foreachBatch"),
        Row(FrameStream.group_by_key, "groupByKey", "collect_list in foreachBatch"),
        Row(FrameStream.union, "union", "unionByName"),
        Row(FrameStream.join, "join, leftOuterJoin, ...", "join, with a watermark"),
        Row(FrameStream.cogroup, "cogroup", "cogroup in foreachBatch"),
        Row(FrameStream.cache, "cache", "persist in foreachBatch"),
    ],
    "Windows of batches: methods of FrameStream": [
        Row(FrameStream.window, "window", "-"),
        Row(FrameStream.count_by_window, "countByWindow", "-"),
        Row(FrameStream.reduce_by_window, "reduceByWindow, without a row for an empty window", "-"),
        Row(FrameStream.reduce_by_key_and_window, "reduceByKeyAndWindow", "-"),
        Row(FrameStream.count_by_value_and_window, "countByValueAndWindow, which keeps zero counts forever", "-"),
    ],
    "State: methods of FrameStream": [
        Row(FrameStream.update_state_by_key, "updateStateByKey", "groupBy.agg, output mode complete"),
        Row(StateStream.expired, "mapWithState's timeout, not in Python", "transformWithState with timers"),
        Row(FrameStream.update_state_by_key_python, "updateStateByKey", "applyInPandasWithState"),
        Row(ss.running_sum, "a function for updateStateByKey", "-"),
    ],
    "Your own outputs: methods of FrameStream": [
        Row(FrameStream.for_each_batch, "foreachRDD", "foreachBatch"),
        Row(FrameStream.for_each_rdd, "foreachRDD", "foreachBatch"),
    ],
    "Aggregates, for batches, windows, states and sessions: ss.aggregates": [
        Row(aggregates.count, "count, countByValue", "count"),
        Row(aggregates.sum, "reduceByKey(add)", "sum"),
        Row(aggregates.min, "reduceByKey(min)", "min"),
        Row(aggregates.max, "reduceByKey(max)", "max"),
        Row(aggregates.min_by, "reduceByKey", "min_by"),
        Row(aggregates.max_by, "reduceByKey", "max_by"),
        Row(aggregates.mean, "combineByKey", "avg"),
        Row(aggregates.variance, "combineByKey", "var_samp"),
        Row(aggregates.approx_count_distinct, "-", "approx_count_distinct"),
        Row(aggregates.approx_percentile, "-", "percentile_approx"),
        Row(aggregates.collect_set, "combineByKey", "collect_set"),
        Row(aggregates.top_k, "-", "approx_top_k"),
        Row(aggregates.aggregate, "combineByKey", "groupBy.agg"),
    ],
    "Event time: ss.transforms": [
        Row(transforms.event_time_window, "-", "withWatermark, window, output mode append"),
        Row(transforms.sessions, "-", "session_window, without a maximum length"),
        Row(transforms.drop_duplicates, "-", "dropDuplicatesWithinWatermark, without late rows"),
        Row(transforms.join_within, "-", "join with a watermark on both sides and a condition on their times"),
        Row(JoinedStreams.other_late, "-", "-"),
        Row(JoinedStreams.unmatched, "-", "the rows of a left outer join without a partner"),
        Row(JoinedStreams.other_unmatched, "-", "the rows of a right outer join without a partner"),
        Row(ClosedWindows.late, "-", "only their number, in the progress report"),
    ],
    "Enrichment and alerts: ss.transforms": [
        Row(transforms.enrich, "transform and a broadcast", "stream-static join"),
        Row(transforms.threshold, "updateStateByKey", "transformWithState"),
        Row(transforms.rate_of_change, "updateStateByKey", "transformWithState"),
        Row(transforms.anomalies, "updateStateByKey", "transformWithState"),
    ],
    "Access logs: ss.transforms.access_log": [
        Row(access_log.parse, "map of parse_line", "the same function"),
        Row(access_log.rejected, "map of parse_line", "the same function"),
        Row(access_log.split, "map of parse_line", "the same function"),
        Row(access_log.split_query, "map", "the same function"),
        Row(access_log.unescaped, "map of unescape", "the same function"),
        Row(access_log.formats, "-", "-"),
        Row(access_log.check_format, "-", "-"),
        Row(access_log.parse_line, "map(parse_line)", "udf"),
        Row(access_log.unescape, "map(unescape)", "udf"),
    ],
    "JSON lines: ss.transforms.json_lines": [
        Row(json_lines.parse, "map(json.loads)", "from_json"),
        Row(json_lines.rejected, "map(json.loads)", "the same function"),
        Row(json_lines.split, "map(json.loads)", "the same function"),
    ],
}

STREAMS = (FrameStream, StateStream, ClosedWindows, JoinedStreams)
NOT_LISTED = {
    # where streams come from, and a question about them
    *("FrameStream.of", "FrameStream.from_source", "FrameStream.columns"),
    # what transformations are built with
    *(f"ss.aggregates.{name}" for name in ("partial", "merge", "result", "named_parts", "metadata", "saved")),
}

Tables = Mapping[str, Sequence[Row]]


def missing(tables: Tables = TABLES) -> list[str]:
    """Public methods of streams, aggregates and transforms that are in no table."""
    listed = {name_of(row.function) for rows in tables.values() for row in rows} | NOT_LISTED
    methods = [f"{kind.__name__}.{name}" for kind in STREAMS for name in vars(kind) if not name.startswith("_")]
    public = [getattr(transforms, name) for name in transforms.__all__]
    modules = [aggregates, *filter(inspect.ismodule, public)]
    functions = [
        *filter(inspect.isfunction, public),
        *(f for m in modules for f in vars(m).values() if inspect.isfunction(f) and f.__module__ == m.__name__),
    ]
    names = methods + [name_of(function) for function in functions if not function.__name__.startswith("_")]
    return [name for name in names if name not in listed]


def without_example(tables: Tables = TABLES) -> list[str]:
    """Functions of the tables whose docstring has no example; the examples run as tests."""
    return [name_of(f) for f in _functions(tables) if ">>> " not in (inspect.getdoc(f) or "")]


def without_cost(tables: Tables = TABLES) -> list[str]:
    """Functions of the tables whose docstring does not say what their cost grows with."""
    return [name_of(f) for f in _functions(tables) if not grows_with(f)]


def name_of(function: Any) -> str:
    """The name as users write it after `import sparkstream_kit as ss`; methods with their class."""
    name: str = function.__qualname__
    if "." in name:
        return name
    package, _, module = function.__module__.removeprefix("sparkstream_kit.").rpartition(".")
    public = ".".join(part for part in (package, module) if part and not part.startswith("_"))
    return f"ss.{name}" if name in ss.__all__ else f"ss.{public}.{name}"


def does(function: Any) -> str:
    """The first paragraph of the docstring."""
    return _cell((inspect.getdoc(function) or "").partition("\n\n")[0])


def grows_with(function: Any) -> str:
    """What the sentence of the docstring about cost names; empty if there is none."""
    for paragraph in (inspect.getdoc(function) or "").split("\n\n"):
        found = re.search(r"(?:Cost: grows with|Grows with:) (.+?)\.?(?=\.\s|$)", _cell(paragraph))
        if found:
            return found[1]
    return ""


def page() -> str:
    """The whole page."""
    tables = (f"\n## {title}\n\n{_table(rows)}" for title, rows in TABLES.items())
    return HEAD + "".join(tables)


def _functions(tables: Tables) -> list[Callable[..., Any]]:
    return [row.function for rows in tables.values() for row in rows]


def _table(rows: list[Row]) -> str:
    lines = ["| function | what it does | cost grows with | DStream | Structured Streaming |", "|---|---|---|---|---|"]
    for row in rows:
        f = row.function
        lines.append(f"| {' | '.join([f'`{name_of(f)}`', does(f), grows_with(f), row.dstream, row.structured])} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
