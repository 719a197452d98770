"""The DStream operations of Spark's guide under run_batches, and what run_batches itself guarantees."""

from collections.abc import Callable
from datetime import datetime
from operator import add, sub
from pathlib import Path
from typing import Any

import pytest
from pyspark import RDD
from pyspark.errors import PythonException
from pyspark.sql import Row, SparkSession
from pyspark.streaming import StreamingContext

from sparkstream_kit.dstreams import running_sum
from sparkstream_kit.errors import BatchFailed, UsageError
from sparkstream_kit.testing import run_batches, run_job

pytestmark = pytest.mark.usefixtures("spark")

Case = tuple[Callable[..., Any], list[list[list[Any]]], list[Any]]


def newest(values: list[str], state: str | None) -> str | None:
    """An update function that drops a key when its value is "bye"."""
    state = values[-1] if values else state
    return None if state == "bye" else state


# operation -> (program, batches of each input, elements of each output batch in any order)
BASIC: dict[str, Case] = {
    "map": (lambda s: s.map(str), [[[1, 2], [], [3]]], [["1", "2"], [], ["3"]]),
    "flatMap": (lambda s: s.flatMap(str.split), [[["a b", ""], ["c"]]], [["a", "b"], ["c"]]),
    "filter": (lambda s: s.filter(lambda n: n % 2), [[[1, 2, 3], [4]]], [[1, 3], []]),
    "glom": (lambda s: s.repartition(1).glom(), [[[1], []]], [[[1]], [[]]]),
    "repartition": (lambda s: s.repartition(3).glom().count(), [[[1, 2], []]], [[3], [3]]),
    "mapPartitions": (lambda s: s.repartition(1).mapPartitions(lambda p: [sum(p)]), [[[1, 2], []]], [[3], [0]]),
    "mapPartitionsWithIndex": (
        lambda s: s.repartition(1).mapPartitionsWithIndex(lambda i, part: [(i, sorted(part))]),
        [[[1, 2]]],
        [[(0, [1, 2])]],
    ),
    "count": (lambda s: s.count(), [[["a", "b"], [], ["c"]]], [[2], [0], [1]]),
    "countByValue": (lambda s: s.countByValue(), [[["a", "b", "a"], ["b"]]], [[("a", 2), ("b", 1)], [("b", 1)]]),
    "reduce, which yields nothing for an empty batch": (
        lambda s: s.reduce(add),
        [[[1, 2, 3], [], [4]]],
        [[6], [], [4]],
    ),
    "union": (lambda s, t: s.union(t), [[[1], [2]], [[1], [3]]], [[1, 1], [2, 3]]),
    "transform": (lambda s: s.transform(lambda rdd: rdd.distinct()), [[[1, 1], [2]]], [[1], [2]]),
    "transform with the batch time": (
        lambda s: s.transform(lambda time, rdd: rdd.map(lambda n: (time.timestamp(), n))),
        [[["a"], ["b"]]],
        [[(1.0, "a")], [(2.0, "b")]],
    ),
    "transformWith": (
        lambda s, t: s.transformWith(lambda a, b: a.subtract(b), t),
        [[[1, 2], [1]], [[2], []]],
        [[1], [1]],
    ),
    "transformWith and the batch time": (
        lambda s, t: s.transformWith(lambda time, a, b: a.union(b).map(lambda n: (time.second, n)), t),
        [[["a"]], [["b"]]],
        [[(1, "a"), (1, "b")]],
    ),
}

PAIRS: dict[str, Case] = {
    "reduceByKey": (lambda s: s.reduceByKey(add), [[[("a", 1), ("b", 2), ("a", 3)], []]], [[("a", 4), ("b", 2)], []]),
    "groupByKey": (
        lambda s: s.groupByKey().mapValues(sorted),
        [[[("a", 2), ("b", 3), ("a", 1)], [("a", 4)]]],
        [[("a", [1, 2]), ("b", [3])], [("a", [4])]],
    ),
    "combineByKey": (
        lambda s: s.combineByKey(
            lambda n: (n, 1), lambda c, n: (c[0] + n, c[1] + 1), lambda c, d: (c[0] + d[0], c[1] + d[1])
        ),
        [[[("a", 1), ("a", 5), ("b", 2), ("a", 3)]]],
        [[("a", (9, 3)), ("b", (2, 1))]],
    ),
    "mapValues": (lambda s: s.mapValues(len), [[[("a", "xy")], [("b", "")]]], [[("a", 2)], [("b", 0)]]),
    "flatMapValues": (lambda s: s.flatMapValues(list), [[[("a", "xy"), ("b", "")]]], [[("a", "x"), ("a", "y")]]),
    "partitionBy": (lambda s: s.partitionBy(1).glom().map(sorted), [[[("b", 1), ("a", 2)]]], [[[("a", 2), ("b", 1)]]]),
}

LEFT = [[("a", 1), ("a", 2), ("b", 3)], [("c", 4)]]
RIGHT = [[("a", "x"), ("d", "y")], []]

JOINS: dict[str, Case] = {
    "join": (lambda s, t: s.join(t), [LEFT, RIGHT], [[("a", (1, "x")), ("a", (2, "x"))], []]),
    "leftOuterJoin": (
        lambda s, t: s.leftOuterJoin(t),
        [LEFT, RIGHT],
        [[("a", (1, "x")), ("a", (2, "x")), ("b", (3, None))], [("c", (4, None))]],
    ),
    "rightOuterJoin": (
        lambda s, t: s.rightOuterJoin(t),
        [LEFT, RIGHT],
        [[("a", (1, "x")), ("a", (2, "x")), ("d", (None, "y"))], []],
    ),
    "fullOuterJoin": (
        lambda s, t: s.fullOuterJoin(t),
        [LEFT, RIGHT],
        [[("a", (1, "x")), ("a", (2, "x")), ("b", (3, None)), ("d", (None, "y"))], [("c", (4, None))]],
    ),
    "cogroup": (
        lambda s, t: s.cogroup(t).mapValues(lambda both: tuple(sorted(side) for side in both)),
        [LEFT, RIGHT],
        [[("a", ([1, 2], ["x"])), ("b", ([3], [])), ("d", ([], ["y"]))], [("c", ([4], []))]],
    ),
    "join of one window with another": (
        lambda s, t: s.window(2).join(t.window(2)),
        [[[("a", 1)], [], [("a", 2)]], [[], [("a", "x")], []]],
        [[], [("a", (1, "x"))], [("a", (2, "x"))]],
    ),
}

WINDOWS: dict[str, Case] = {
    "window": (lambda s: s.window(2), [[[1], [2], [3], []]], [[1], [1, 2], [2, 3], [3]]),
    "window with a slide": (
        lambda s: s.window(3, 2),
        [[[1], [2], [3], [4], [5]]],
        [None, [1, 2], None, [2, 3, 4], None],
    ),
    "a slide as long as the window": (lambda s: s.window(2, 2).count(), [[[1], [2], [3], []]], [None, [2], None, [1]]),
    "countByWindow, which yields nothing for an empty window": (
        lambda s: s.countByWindow(2, 1),
        [[["a"], ["b", "c"], [], []]],
        [[1], [3], [2], []],
    ),
    "reduceByWindow": (lambda s: s.reduceByWindow(max, None, 2, 1), [[[5], [1, 2], [], []]], [[5], [5], [2], []]),
    "reduceByWindow with an inverse": (
        lambda s: s.reduceByWindow(add, sub, 2, 1),
        [[[5], [1, 2], [4], []]],
        [[5], [8], [7], [4]],
    ),
    "reduceByKeyAndWindow": (
        lambda s: s.reduceByKeyAndWindow(add, None, 2, 1),
        [[[("a", 1)], [("a", 2), ("b", 3)], []]],
        [[("a", 1)], [("a", 3), ("b", 3)], [("a", 2), ("b", 3)]],
    ),
    "reduceByKeyAndWindow with a slide": (
        lambda s: s.reduceByKeyAndWindow(add, None, 3, 2),
        [[[("a", 1)], [("a", 2)], [("b", 3)], [("a", 4)]]],
        [None, [("a", 3)], None, [("a", 6), ("b", 3)]],
    ),
    # Spark uses the inverse only if a window has at least five slides
    "reduceByKeyAndWindow with an inverse keeps keys at zero": (
        lambda s: s.reduceByKeyAndWindow(add, sub, 5, 1),
        [[[("a", 1)], [], [], [], [], [("b", 2)]]],
        [[("a", 1)]] * 5 + [[("a", 0), ("b", 2)]],
    ),
    "reduceByKeyAndWindow with an inverse and a filter drops them": (
        lambda s: s.reduceByKeyAndWindow(add, sub, 5, 1, filterFunc=lambda pair: pair[1] > 0),
        [[[("a", 1)], [], [], [], [], [("b", 2)]]],
        [[("a", 1)]] * 5 + [[("b", 2)]],
    ),
    "reduceByKeyAndWindow with an inverse yields the same as without one": (
        lambda s: s.reduceByKeyAndWindow(add, sub, 5, 1),
        [[[("a", 2**n)] for n in range(7)]],
        [[("a", total)] for total in (1, 3, 7, 15, 31, 62, 124)],
    ),
    "countByValueAndWindow": (
        lambda s: s.countByValueAndWindow(2, 1),
        [[["a"], ["a", "b"], [], []]],
        [[("a", 1)], [("a", 2), ("b", 1)], [("a", 1), ("b", 1)], []],
    ),
    "groupByKeyAndWindow": (
        lambda s: s.groupByKeyAndWindow(2, 1).mapValues(sorted),
        [[[("a", 1)], [("a", 2)], [("b", 3)]]],
        [[("a", [1])], [("a", [1, 2])], [("a", [2]), ("b", [3])]],
    ),
}

STATE: dict[str, Case] = {
    "updateStateByKey": (
        lambda s: s.updateStateByKey(running_sum),
        [[[("a", 1)], [("a", 2), ("b", 3)], []]],
        [[("a", 1)], [("a", 3), ("b", 3)], [("a", 3), ("b", 3)]],
    ),
    "updateStateByKey drops a key whose state is None": (
        lambda s: s.updateStateByKey(newest),
        [[[("a", "hi"), ("b", "hi")], [("a", "bye")], [("a", "again")]]],
        [[("a", "hi"), ("b", "hi")], [("b", "hi")], [("a", "again"), ("b", "hi")]],
    ),
    "updateStateByKey from an initial state": (
        lambda s: s.updateStateByKey(running_sum, initialRDD=[("a", 10), ("z", 1)]),
        [[[("a", 1)], [("b", 2)]]],
        [[("a", 11), ("z", 1)], [("a", 11), ("b", 2), ("z", 1)]],
    ),
}

CASES = BASIC | PAIRS | JOINS | WINDOWS | STATE


def in_any_order(batches: list[list[Any] | None]) -> list[list[Any] | None]:
    return [batch if batch is None else sorted(batch, key=repr) for batch in batches]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_an_operation_yields_in_each_batch_what_sparks_guide_says(name: str) -> None:
    build, inputs, expected = CASES[name]
    assert in_any_order(run_batches(build, *inputs)) == in_any_order(expected)


# --- what run_batches guarantees


def test_a_tuple_of_streams_returns_a_tuple_in_the_same_order() -> None:
    sizes, words = run_batches(lambda s: (s.count(), s), [["a", "b"], []])
    assert sizes == [[2], [0]]
    assert words == [["a", "b"], []]


def test_one_stream_in_a_tuple_returns_a_tuple() -> None:
    assert run_batches(lambda s: (s,), [["a"]]) == ([["a"]],)


def test_a_program_that_returns_no_stream_runs_its_own_outputs() -> None:
    batches = []

    assert run_batches(lambda s: s.foreachRDD(lambda rdd: batches.append(rdd.collect())), [["a"], ["b"]]) == ()
    assert batches == [["a"], ["b"]]


def test_an_input_that_ends_early_continues_with_empty_batches() -> None:
    assert run_batches(lambda s, t: s.union(t), [[1]], [[2], [3], [4]]) == [[1, 2], [3], [4]]


def test_more_batches_than_the_inputs_have_can_be_requested() -> None:
    assert run_batches(lambda s: s.window(2), [["a"]], batches=4) == [["a"], ["a"], [], []]
    assert run_batches(lambda s: s.count(), [], batches=2) == [[0], [0]]


def test_the_batch_interval_sets_the_batch_times_and_how_many_batches_a_window_has() -> None:
    def build(s: Any) -> Any:
        return s.window(1).transform(lambda time, rdd: rdd.map(lambda x: (time.timestamp(), x)))

    assert run_batches(build, [["a"], ["b"], ["c"]], batch_interval="500ms") == [
        [(0.5, "a")],
        [(1.0, "a"), (1.0, "b")],
        [(1.5, "b"), (1.5, "c")],
    ]


def test_the_same_program_has_the_same_result_every_time() -> None:
    def build(s: Any) -> Any:
        return s.map(lambda word: (word, 1)).updateStateByKey(running_sum)

    batches = [["a", "b"], ["a"], []]
    assert run_batches(build, batches) == run_batches(build, batches)


def test_an_error_in_transform_is_raised_as_it_is() -> None:
    class Mine(ValueError): ...

    def fail(rdd: RDD[Any]) -> RDD[Any]:
        raise Mine("in transform")

    with pytest.raises(Mine, match="^in transform$"):
        run_batches(lambda s: s.transform(fail), [["a"]])


def test_an_error_in_foreach_rdd_is_raised_as_it_is() -> None:
    def fail(rdd: RDD[Any]) -> None:
        raise ValueError("in foreachRDD")

    with pytest.raises(ValueError, match="^in foreachRDD$"):
        run_batches(lambda s: s.foreachRDD(fail), [["a"]])


def test_an_error_in_a_later_batch_is_raised_too() -> None:
    def fail_at_2(time: datetime, rdd: RDD[Any]) -> RDD[Any]:
        if time.timestamp() == 2:
            raise ValueError("in batch 2")
        return rdd

    with pytest.raises(ValueError, match="^in batch 2$"):
        run_batches(lambda s: s.transform(fail_at_2), [["a"], ["b"], ["c"]])


def test_an_error_of_one_output_is_not_hidden_by_a_later_output_that_succeeds() -> None:
    def fail(rdd: RDD[Any]) -> None:
        raise ValueError("the first output")

    def build(s: Any) -> Any:
        s.foreachRDD(fail)
        return s

    with pytest.raises(ValueError, match="^the first output$"):
        run_batches(build, [["a"]])


def test_an_error_on_a_worker_is_raised_with_the_workers_traceback() -> None:
    with pytest.raises(PythonException, match=r"ZeroDivisionError: (integer )?division"):
        run_batches(lambda s: s.map(lambda n: 1 // n), [[1], [0]])


def test_an_error_in_build_is_raised_as_it_is() -> None:
    with pytest.raises(ValueError, match="multiple"):
        run_batches(lambda s: s.window(1.5), [["a"]])


def test_an_error_of_spark_in_foreach_rdd_is_raised_as_a_failed_batch(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()

    def save(rdd: RDD[Any]) -> None:
        rdd.saveAsTextFile(f"{file}/below")

    with pytest.raises(BatchFailed, match="^batch 1 failed: "):
        run_batches(lambda s: s.foreachRDD(save), [["a"]])


@pytest.mark.parametrize("failing", [lambda n: 1 // n, lambda n: n.missing], ids=["worker", "attribute"])
def test_a_failed_run_leaves_nothing_behind_for_the_next(failing: Callable[[Any], Any]) -> None:
    def build(s: Any) -> Any:
        return s.map(lambda n: ("n", n)).updateStateByKey(running_sum)

    with pytest.raises(PythonException):
        run_batches(lambda s: (build(s), s.map(failing)), [[5], [0]])
    assert StreamingContext.getActive() is None
    assert run_batches(build, [[1], [2]]) == [[("n", 1)], [("n", 3)]]


def test_the_manual_clock_does_not_remain_in_the_settings(spark: SparkSession) -> None:
    run_batches(lambda s: s.count(), [[1]])
    assert not spark.sparkContext.getConf().contains("spark.streaming.clock")


def test_a_batch_that_every_output_skips_counts_as_a_batch() -> None:
    assert run_batches(lambda s: s.window(2, 2), [["a"]], batches=3) == [None, ["a"], None]


def test_no_batches_at_all_are_refused() -> None:
    with pytest.raises(UsageError, match="no batches"):
        run_batches(lambda s: s.count(), [])


def test_a_result_that_the_job_does_not_have_is_refused_with_those_that_it_has() -> None:
    def build(ssc: StreamingContext, source: Any, output: Any) -> None:
        output(source(ssc), name="rows")
        output(source(ssc).count(), name="count")

    results = run_job(build, [["a"]])
    assert results == {"rows": [[Row(value="a")]], "count": [[Row(count=1)]]}
    with pytest.raises(UsageError, match=r"^the job has no result named 'counts': it has count, rows$"):
        results["counts"]
    assert results.get("counts") is None
    with pytest.raises(UsageError, match=r"it has none$"):
        run_job(lambda ssc, source, output: source(ssc).for_each_batch(lambda *_: None, name="f"), [["a"]])["x"]
