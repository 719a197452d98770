"""Python functions in workers: with Arrow and without, they get the same values and make the same rows."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from py4j.protocol import Py4JJavaError
from pyspark import cloudpickle
from pyspark.errors import PythonException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import IntegerType, StringType, StructField, StructType, TimestampType

import sparkstream_kit as ss
from sparkstream_kit import workers
from sparkstream_kit.testing import run_batches

SETTING = "spark.sql.execution.pythonUDF.arrow.enabled"
UTC = datetime.timezone.utc


@contextmanager
def arrow(spark: SparkSession, on: bool) -> Iterator[None]:
    before = spark.conf.get(SETTING)
    assert before is not None
    spark.conf.set(SETTING, str(on).lower())
    try:
        yield
    finally:
        spark.conf.set(SETTING, before)


def both(spark: SparkSession, run: Callable[[], Any]) -> tuple[Any, Any]:
    """What `run` returns, or the last line of what it raises, with Arrow and without."""

    def outcome(on: bool) -> Any:
        with arrow(spark, on):
            try:
                return run()
            except (PythonException, Py4JJavaError) as error:  # the second from RDDs with Spark 4.0
                return [line for line in str(error).splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)][-1]

    return outcome(True), outcome(False)


def of_all_types(spark: SparkSession) -> DataFrame:
    numbers = ", ".join(f"({n})" for n in ("null", *range(-4, 5)))
    return spark.sql(f"""
        select 'ü' || n as text, n > 0 as flag, n * 31Y as tiny, n * 8191S as small, n * 536870911 as medium,
            n * 2305843009213693951L as large, n / 3f as narrow, n / 3d as wide, date'1970-01-01' + n * 365 as day,
            timestamp'1970-01-01 00:00:00.000001' + make_interval(0, 0, 0, 0, n) as time,
            timestamp_ntz'2026-03-29 02:30:00.999999' + make_interval(0, 0, 0, n) as local
        from values {numbers} as numbers(n)
        """).coalesce(1)


def plan(frame: DataFrame) -> str:
    return str(frame._jdf.queryExecution().executedPlan())  # type: ignore[operator]


def test_arrow_is_used_where_it_is_on_and_known_to_be_the_same(spark: SparkSession) -> None:
    def uses(frame: DataFrame, schema: StructType | str) -> bool:
        return "MapInArrow" in plan(workers.map_rows(frame, lambda row: row, schema))

    frame = of_all_types(spark)
    with arrow(spark, False):
        assert not uses(frame, frame.schema)
    with arrow(spark, True):
        assert uses(frame, frame.schema)
        assert not uses(frame, "a binary")
        assert not uses(frame, "a int not null")
        assert not uses(frame, "a int, a int")
        assert not uses(frame.selectExpr("cast(large as decimal(38, 0))"), "a int")


@pytest.mark.parametrize("on", [True, False])
def test_a_state_uses_arrow_where_it_is_on(spark: SparkSession, on: bool) -> None:
    row, state = (StructType([StructField(name, IntegerType())]) for name in "an")
    frame = spark.sql("select array(struct(1 as a)) as rows, cast(null as struct<n: int>) as state")
    with arrow(spark, on):
        update = workers.state_update(spark, lambda rows, state: (len(rows),), row, state)
        assert ("ArrowEvalPython" in plan(frame.select(update("rows", "state")))) == (on and hasattr(F, "arrow_udf"))


def test_functions_get_the_same_values(spark: SparkSession) -> None:
    frame = of_all_types(spark)
    seen = both(
        spark, lambda: workers.map_rows(frame, lambda row: (repr(row), row.text), "seen string, t string").collect()
    )
    assert seen[0] == seen[1]
    assert len({row.seen for row in seen[0]}) == 10


def test_other_types_are_pickled(spark: SparkSession) -> None:
    frame = spark.sql("select cast('x' as binary) as a, 1.5 as b, array(1) as c, struct(2 as d) as e, map(3, 4) as f")
    seen = both(spark, lambda: workers.map_rows(frame, lambda row: (repr(row),), "seen string").collect())
    assert seen[0] == seen[1]


def test_what_functions_return_is_written_the_same(spark: SparkSession) -> None:
    frame = of_all_types(spark)
    written = both(spark, lambda: workers.map_rows(frame, lambda row: row, frame.schema).collect())
    assert repr(written[0]) == repr(written[1]) == repr(frame.collect())


def test_bytes_that_are_not_text_become_the_same_text(spark: SparkSession) -> None:
    some = b"a\x00\x80\x90\xa0\xbf\xc0\xc2\xe0\xed\xef\xf0\xf4\xff"
    lines = [bytes(line) for length in range(4) for line in itertools.product(some, repeat=length)]
    lines += [bytes(line) for line in itertools.product(b"\xed\xf0\xf4", b"\x80\x90\xa0", b"\x80\xed", b"\x80\xb0a")]
    frame = spark.createDataFrame([(line,) for line in lines], "value binary").selectExpr("cast(value as string)")
    texts = both(spark, lambda: workers.map_rows(frame, lambda row: row, "value string").collect())
    assert texts[0] == texts[1]
    assert len(texts[0]) == len(lines)


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Pair:
    a: Any
    b: Any = None


class Text(str):
    pass


@pytest.mark.parametrize(
    ("schema", "result"),
    [
        *(("a string", (value,)) for value in (None, "x", 5, True, -7, "")),
        *(("a int", (value,)) for value in (None, 2**31 - 1, 2**31, 1.0, True, "1", Level.LOW, np.int64(3))),
        *(("a bigint", (value,)) for value in (-(2**63), 2**63, Decimal(1))),
        *(("a tinyint", (value,)) for value in (127, 128, -129)),
        *(("a double", (value,)) for value in (1, True, float("nan"), -0.0, float("inf"), np.float64(3), Decimal(1))),
        *(("a float", (value,)) for value in (0.1, 1e300, 1)),
        *(("a boolean", (value,)) for value in (False, 0, "true", np.bool_(True))),
        *(("a binary", (value,)) for value in (b"\xff", "x")),
        *(("a date", (value,)) for value in (datetime.date(1, 1, 1), datetime.datetime(2026, 1, 2, 3), "2026-01-02")),
        *(
            (f"a {kind}", (value,))
            for kind in ("timestamp", "timestamp_ntz")
            for value in (datetime.datetime(2026, 3, 29, 2, 30), datetime.datetime(2026, 1, 1, tzinfo=UTC), 5, "2026")
        ),
        *(("a int, b string", result) for result in ({"a": 1}, {"b": "x", "a": 1, "c": 0}, {}, Row(b=1, a="x"))),
        *(("a int, b string", result) for result in ([1, "x"], (1,), (1, "x", 2), (), 5, "ab")),
        *(("a int, b string", result) for result in (Pair(1, "x"), Pair("x"))),
        *((schema, (result,)) for schema in ("a array<int>", "a decimal(5, 2)") for result in ([1], Decimal("1.005"))),
    ],
    ids=repr,
)  # fmt: skip
def test_a_result_is_written_or_refused_alike(spark: SparkSession, schema: str, result: object) -> None:
    one = spark.range(1)
    with_arrow, without = both(spark, lambda: workers.map_rows(one, lambda _: result, schema).collect())
    assert repr(with_arrow) == repr(without)


def test_a_column_that_must_not_be_null_is_not(spark: SparkSession) -> None:
    schema = StructType([StructField("a", IntegerType(), nullable=False), StructField("b", StringType())])
    fine = both(spark, lambda: workers.map_rows(spark.range(1), lambda _: (1, None), schema).collect())
    assert fine == ([Row(a=1, b=None)], [Row(a=1, b=None)])
    null = both(spark, lambda: workers.map_rows(spark.range(1), lambda _: (None, "x"), schema).collect())
    assert "not nullable, but got None" in null[0]
    assert null[0] == null[1]


def test_one_odd_result_does_not_change_the_others(spark: SparkSession) -> None:
    found = both(
        spark,
        lambda: workers.map_rows(
            spark.range(3), lambda row: {"a": row.id} if row.id == 1 else (row.id, row.id), "a bigint, b string"
        ).collect(),
    )
    assert found[0] == found[1] == [Row(a=0, b="0"), Row(a=1, b=None), Row(a=2, b="2")]


@pytest.mark.parametrize(
    "value", [1.5, b"x", bytearray(b"x"), [1], Text("x"), Level.LOW, np.str_("x"), Decimal(1)], ids=repr
)
def test_what_is_not_text_is_refused_by_name(spark: SparkSession, value: object) -> None:
    refused = pytest.raises(
        PythonException, match=f"returned {re.escape(repr(value))} for a column of strings, expected str"
    )
    with arrow(spark, True), refused:
        workers.map_rows(spark.range(1), lambda _: (value,), "a string").collect()
    with arrow(spark, True), refused:
        workers.map_rows(spark.range(2), lambda row: ("\ud800" if row.id else value,), "a string").coalesce(1).collect()


@pytest.mark.parametrize("schema", ["a int, a int", "a int, A int", "`a.b` int, `x y` int"])
def test_results_may_have_any_names(spark: SparkSession, schema: str) -> None:
    found = both(spark, lambda: workers.map_rows(spark.range(1), lambda _: (1, 2), schema).collect())
    assert [tuple(row) for row in found[0]] == [(1, 2)]
    assert repr(found[0]) == repr(found[1])


def test_an_hour_that_a_clock_shows_twice_is_written_the_same() -> None:
    """Spark converts it after the time that was converted before it, so the order of conversions is part of it."""
    schema = StructType([StructField("t", TimestampType()), StructField("u", TimestampType())])
    twice, summer, winter = (datetime.datetime(2026, *at) for at in ((10, 25, 2, 30), (7, 25), (12, 25)))
    program = (
        "import pickle, sys, time\n"
        "schema, writer, rows = pickle.loads(sys.stdin.buffer.read())\n"
        "def micros(column): return column.cast('int64').to_pylist()\n"
        "time.mktime((2026, 12, 1, 0, 0, 0, 0, 0, -1))\n"
        "expected = [schema.toInternal(row) for row in rows]\n"
        "time.mktime((2026, 12, 1, 0, 0, 0, 0, 0, -1))\n"
        "found = list(zip(*map(micros, writer(schema)(rows))))\n"
        "assert found == expected and len({t for t, _ in found}) == 2, (found, expected)\n"
    )
    rows = [(twice, summer), (twice, winter), (twice, summer), (twice, winter)]
    functions = cloudpickle.dumps((schema, workers.writer, rows))  # type: ignore[no-untyped-call]
    berlin = {**os.environ, "TZ": "Europe/Berlin"}
    subprocess.run([sys.executable, "-c", program], input=functions, env=berlin, check=True)


def test_many_rows_are_all_there_in_their_order(spark: SparkSession) -> None:
    count = 3 * workers.AT_ONCE + 1
    found = both(
        spark, lambda: workers.map_rows(spark.range(0, count, 1, 1), lambda row: (row.id,), "n bigint").collect()
    )
    assert [row.n for row in found[0]] == list(range(count))
    assert found[0] == found[1]


def test_half_a_character_is_replaced(spark: SparkSession) -> None:
    found = both(spark, lambda: workers.map_rows(spark.range(1), lambda _: ("a\ud800b",), "a string").collect())
    assert found == ([Row(a="a\ufffdb")], [Row(a="a\ufffdb")])


@pytest.mark.parametrize("used_again", [[None], {}])
def test_a_function_may_return_one_object_again_and_again(spark: SparkSession, used_again: Any) -> None:
    def same(row: Row) -> Any:
        used_again[0 if isinstance(used_again, list) else "a"] = row.id
        return used_again

    found = both(spark, lambda: workers.map_rows(spark.range(0, 3, 1, 1), same, "a bigint").collect())
    assert found == ([Row(a=0), Row(a=1), Row(a=2)],) * 2


def stop(*_: object) -> Any:
    return next(iter(()))


def test_a_function_that_runs_out_of_something_ends_no_rows(spark: SparkSession) -> None:
    found = both(spark, lambda: workers.map_rows(spark.range(3), stop, "a string").collect())
    assert "StopIteration" in found[0]
    assert found[0] == found[1]


@pytest.mark.parametrize("on", [True, False])
def test_a_function_of_a_state_that_runs_out_of_something_ends_no_rows(spark: SparkSession, on: bool) -> None:
    def build(values: Any) -> ss.FrameStream:
        return ss.FrameStream.of(values, "k int, v int").update_state_by_key_python("k", stop, "n int")

    with arrow(spark, on), pytest.raises(PythonException, match="StopIteration"):
        run_batches(build, [[(1, 2)]])


def test_no_result_is_refused(spark: SparkSession) -> None:
    with (
        arrow(spark, True),
        pytest.raises(PythonException, match="returned None, expected a row"),
    ):
        workers.map_rows(spark.range(1), lambda _: None, "a string").collect()


def test_rows_are_rows(spark: SparkSession) -> None:
    """Attributes, names that tuples use, names that are not identifiers, and names that appear twice."""
    frame = spark.sql("select 1 as a, 2 as count, 3 as `x.``y`, 4 as b, 5 as __seen")

    def check(row: Row) -> tuple[str, bool, Any]:
        import pickle

        copy = pickle.loads(pickle.dumps(row))
        same = copy == row == Row(*"abcde")(*row) and isinstance(row, Row) and hash(copy) == hash(row)
        return (
            f"{row.a} {row['count']} {getattr(row, 'x.`y')} {row[3]} {row.asDict()} {'x.`y' in row} {copy}",
            same,
            row.count(2),
        )

    found = both(spark, lambda: workers.map_rows(frame, check, "seen string, same boolean, count bigint").collect())
    assert found[0] == found[1]
    assert found[0][0].same


def growing(rows: list[Row], state: Row | None) -> dict[str, Any] | None:
    """The words of a key, in order; forgotten once there are more than three."""
    words = sorted([*(state.words.split() if state else []), *(row.word for row in rows if row.word)])
    return None if len(words) > 3 else {"words": " ".join(words), "calls": (state.calls if state else 0) + 1}


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("kind", ["words string, calls int", "words string not null, calls int"])
def test_a_state_in_python_is_the_same(spark: SparkSession, on: bool, kind: str) -> None:
    batches = [
        [(k, None if k == n else f"{n}{k % 3}") for k in range(n, 40, n + 1)] + [(None, f"none{n}")] for n in range(6)
    ]

    def build(pairs: Any) -> ss.FrameStream:
        return ss.FrameStream.of(pairs, "k int, word string").update_state_by_key_python("k", growing, kind)

    with arrow(spark, on):
        found = run_batches(build, batches)
    states: dict[Any, Row] = {}
    for batch, rows in zip(batches, found, strict=True):
        new = {key: [Row(word=word) for k, word in batch if k == key] for key in {*states, *(k for k, _ in batch)}}
        updated = {key: growing(several, states.get(key)) for key, several in new.items()}
        states = {key: Row(**state) for key, state in updated.items() if state is not None}
        assert sorted(rows or [], key=repr) == sorted((Row(k=k, **s.asDict()) for k, s in states.items()), key=repr)


@pytest.mark.parametrize("on", [True, False])
@pytest.mark.parametrize("state", ["n double", "n double, more array<int>"])
def test_a_state_of_another_type_is_refused(spark: SparkSession, on: bool, state: str) -> None:
    def build(values: Any) -> ss.FrameStream:
        lines = ss.FrameStream.of(values, "k int")
        return lines.update_state_by_key_python("k", lambda rows, state: {"n": len(rows)}, state)

    with arrow(spark, on), pytest.raises(PythonException, match=r"DoubleType\(\) can not accept object 1"):
        run_batches(build, [[(1,)]])


def test_executors_need_not_have_the_kit() -> None:
    schema = StructType([StructField("a", StringType())])
    program = (
        "import pickle, sys\n"
        "sys.modules['sparkstream_kit'] = None  # cannot be imported\n"
        "schema, reader, writer = pickle.loads(sys.stdin.buffer.read())\n"
        "(row,) = reader(schema)(writer(schema)([('x',)]))\n"
        "assert row.a == 'x', row\n"
    )
    functions = cloudpickle.dumps((schema, workers.reader, workers.writer))  # type: ignore[no-untyped-call]
    subprocess.run([sys.executable, "-c", program], input=functions, check=True)
