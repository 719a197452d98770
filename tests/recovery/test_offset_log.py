from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkstream_kit.errors import Fenced, HomeDamaged
from sparkstream_kit.recovery import storage
from sparkstream_kit.recovery.offset_log import Entry, OffsetLog, rebuild


@pytest.fixture
def root(tmp_path: Path) -> str:
    return f"file:{tmp_path}"


def batches(log: OffsetLog, number: int) -> None:
    """Append and finish batches of ten records and one second each."""
    for _ in range(number):
        start = log.last.end_offsets.get("lines")
        entry = log.append(log.last.time + 1000, {"lines": (start, (start or 0) + 10)}, data=True)
        log.mark_done(entry.n)


def same(one: OffsetLog, other: OffsetLog) -> bool:
    return (one.compacted_to, one.after(0), one.is_done(one.last.n)) == (
        other.compacted_to,
        other.after(0),
        other.is_done(one.last.n),
    )


def test_a_new_log_starts_with_entry_0_which_is_done(root: str) -> None:
    log = OffsetLog(root)
    assert log.last == log.compacted_to == Entry(0, 0, data=False)
    assert log.is_done(0)
    assert log.after(0) == log.since(0) == []


def test_an_entry_has_the_ranges_of_its_batch_and_the_end_offsets_of_all_sources(root: str) -> None:
    log = OffsetLog(root, epoch=3)
    log.append(1000, {"a": (None, 5), "b": (None, {"0": 7})}, data=True)
    log.mark_done(1)
    second = log.append(2000, {"a": (5, 9)}, data=True)
    assert second == Entry(2, 2000, {"a": (5, 9)}, {"a": 9, "b": {"0": 7}}, True, 2000, 3)
    assert log.is_done(1)
    assert not log.is_done(2)


def test_an_entry_without_data_keeps_the_time_of_the_last_data(root: str) -> None:
    log = OffsetLog(root)
    batches(log, 1)
    assert log.append(5000, {}, data=False).last_data == 1000


def test_entries_are_found_by_number_and_by_recorded_time(root: str) -> None:
    log = OffsetLog(root)
    batches(log, 5)
    assert [e.n for e in log.after(3)] == [4, 5]
    assert [e.n for e in log.since(3000)] == [4, 5]
    log.compact(3)
    assert [e.n for e in log.after(0)] == [4, 5], "not the one it is compacted to"
    assert [e.n for e in log.since(0)] == [4, 5]


STEPS = st.lists(st.sampled_from(("append", "done", "compact", "reload")), max_size=30)


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_a_reloaded_log_equals_the_log_that_was_written(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    root = f"file:{tmp_path_factory.mktemp('log')}"
    log, written = OffsetLog(root), 0
    for step in steps:
        if step == "append" and log.is_done(log.last.n):
            log.append(log.last.time + 1000, {"lines": (written or None, written + 10)}, data=True)
            written += 10
        elif step == "done":
            log.mark_done(log.last.n)
        elif step == "compact":
            log.compact(max(0, log.last.n - 2))
        elif step == "reload":
            again = OffsetLog(root)
            assert same(log, again)
            log = again
    assert same(log, OffsetLog(root))
    assert log.last.end_offsets.get("lines", 0) == written


def test_a_second_writer_of_a_batch_is_fenced(root: str) -> None:
    paused = OffsetLog(root)
    batches(OffsetLog(root), 1)
    with pytest.raises(Fenced, match="another driver has written batch 1"):
        batches(paused, 1)


def test_a_writer_below_the_compaction_is_fenced_and_leaves_nothing(root: str) -> None:
    paused, other = OffsetLog(root), OffsetLog(root)
    batches(other, 5)
    other.compact(5)
    with pytest.raises(Fenced, match="another driver has compacted the log beyond batch 1"):
        batches(paused, 1)
    assert same(other, OffsetLog(root))
    assert not storage.exists(f"{root}/1")


def test_a_writer_paused_during_a_compaction_does_not_undo_a_later_one(root: str) -> None:
    paused = OffsetLog(root)
    batches(paused, 4)
    other = OffsetLog(root)
    batches(other, 6)
    other.compact(8)
    paused.compact(4)
    assert same(other, OffsetLog(root))


def test_compaction_keeps_the_end_offsets_and_the_time_and_removes_the_files(root: str) -> None:
    log = OffsetLog(root)
    batches(log, 40)
    for n in (10, 38):
        log.compact(n)
        assert same(log, OffsetLog(root))
    assert storage.names(root) == ["38.compacted", "39", "39.done", "40", "40.done"]
    assert log.compacted_to.end_offsets == {"lines": 380}
    assert log.compacted_to.time == 38_000
    log.compact(40)
    assert log.last.end_offsets == {"lines": 400}
    batches(log, 1)
    assert log.last.n == 41
    assert log.last.ranges == {"lines": (400, 410)}


def test_a_batch_that_is_not_done_is_not_compacted(root: str) -> None:
    log = OffsetLog(root)
    log.append(1000, {"lines": (None, 10)}, data=True)
    log.compact(1)
    assert storage.names(root) == ["1"]


def compact_until_killed(root: str, writes: int) -> None:
    """Compact, and be killed after this many files were removed."""
    delete = storage.delete

    def counted(path: str) -> None:
        nonlocal writes
        if not writes:
            os.kill(os.getpid(), signal.SIGKILL)
        writes -= 1
        delete(path)

    with mock.patch.object(storage, "delete", counted):
        OffsetLog(root).compact(8)


@pytest.mark.parametrize("writes", [0, 1, 9])
def test_an_interrupted_compaction_changes_nothing_and_the_next_one_removes_the_rest(
    tmp_path: Path, writes: int
) -> None:
    root = f"file:{tmp_path}"
    log = OffsetLog(root)
    batches(log, 10)
    killed = multiprocessing.get_context("fork").Process(target=compact_until_killed, args=(root, writes))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    (tmp_path / ".7.left-by-a-writer-that-died").touch()
    again = OffsetLog(root)
    assert again.after(8) == log.after(8)
    batches(again, 1)
    again.compact(9)
    assert storage.names(root) == ["10", "10.done", "11", "11.done", "9.compacted"]


@pytest.mark.parametrize("text", ["", "{", '{"n": 2}', "[]", '{"n": 2, "ranges": {}}'])
def test_a_damaged_entry_is_refused_by_its_path(root: str, text: str) -> None:
    batches(OffsetLog(root), 3)
    storage.write(f"{root}/2", text)
    with pytest.raises(HomeDamaged, match=r"file:.*/2 of the offset log is damaged .*restore the home"):
        OffsetLog(root)


def test_a_source_that_is_left_out_is_given_up_until_it_comes_back(root: str) -> None:
    log = OffsetLog(root)
    log.append(1000, {"a": (None, 5), "b": (None, 7)}, data=True)
    log.keep_sources(["a"])
    assert OffsetLog(root).last.end_offsets == {"a": 5, "b": 7}, "not before the next entry"
    for time in (2000, 3000):
        log.append(time, {"a": (5, 6)}, data=True)
    log = OffsetLog(root)
    assert (log.last.end_offsets, log.last.given_up) == ({"a": 6}, {"b": 7})
    log.keep_sources(["a", "b", "c"])
    log.append(4000, {"b": (7, 8)}, data=True)
    assert (log.last.end_offsets, log.last.given_up) == ({"a": 6, "b": 8}, {})


def test_a_rebuilt_log_knows_where_a_source_was_given_up(root: str) -> None:
    ends = {1: {"a": 1, "b": 1}, 2: {"a": 2, "b": 2}, 3: {"a": 3}}
    rebuild(root, {n: Entry(n, 1000 * n, {"a": (n - 1 or None, n)}, end) for n, end in ends.items()})
    assert (OffsetLog(root).last.end_offsets, OffsetLog(root).last.given_up) == ({"a": 3}, {"b": 2})


def test_fields_that_a_newer_version_added_are_ignored(root: str) -> None:
    batches(OffsetLog(root), 1)
    entry = json.loads(storage.read(f"{root}/1"))
    storage.write(f"{root}/1", json.dumps({**entry, "added_later": [1, 2]}))
    assert OffsetLog(root).last == Entry(**{**entry, "ranges": {"lines": (None, 10)}})


def test_a_missing_entry_is_refused_by_its_path(root: str) -> None:
    batches(OffsetLog(root), 3)
    storage.delete(f"{root}/2")
    with pytest.raises(HomeDamaged, match=r"/2 of the offset log is damaged"):
        OffsetLog(root)


def test_the_end_offsets_of_a_drain_stay_fixed_until_they_are_reached(root: str) -> None:
    assert OffsetLog(root).begin_drain({"lines": 100}) == {"lines": 100}
    again = OffsetLog(root)
    assert again.begin_drain({"lines": 200}) == {"lines": 100}
    again.end_drain()
    assert OffsetLog(root).begin_drain({"lines": 200}) == {"lines": 200}


def test_a_source_that_is_added_while_a_drain_is_interrupted_is_fixed_then(root: str) -> None:
    OffsetLog(root).begin_drain({"lines": 100, "nothing yet": None})
    fixed = {"lines": 100, "nothing yet": None, "more": 5}
    assert OffsetLog(root).begin_drain({"lines": 200, "nothing yet": 1, "more": 5}) == fixed
    assert OffsetLog(root).begin_drain({"lines": 300, "nothing yet": 2, "more": 6}) == fixed
    assert OffsetLog(root).begin_drain({"more": 7}) == fixed, "also of those that the job lacks for a while"


def test_the_clock_of_an_entry_is_the_latest_one_so_far_or_its_time_in_entries_of_before(root: str) -> None:
    log = OffsetLog(root)
    log.append(1000, {"lines": (None, 1)}, data=True)
    assert log.last.clock == 1000
    clocks = []
    for n, now in enumerate((500, 7000, 6000, 8000), 2):
        log.mark_done(log.last.n)
        clocks.append(log.append(1000 + n, {"lines": (n - 1, n)}, data=True, now=now).clock)
    assert clocks == [1000, 7000, 7000, 8000]
    assert [entry.clock for entry in OffsetLog(root).after(1)] == clocks


def test_after_resets_entries_have_no_time_after_theirs_and_keep_their_order(root: str) -> None:
    """The first is compacted to with a time that was ahead, and needed as long as it is there."""
    log = OffsetLog(root)

    def add(*times: int) -> None:
        for time in times:
            end = log.last.end_offsets.get("lines", 0)
            log.append(time, {"lines": (end or None, end + 1)}, data=True, now=time)
            log.mark_done(log.last.n)

    def times(log: OffsetLog) -> list[tuple[int, int, int]]:
        return [(entry.time, entry.clock, entry.last_data) for entry in (log.compacted_to, *log.after(0))]

    add(1000, 90_000, 91_000)
    log.compact(2)
    log.reset_clock(2000)
    assert times(log) == times(OffsetLog(root)) == [(2000, 2000, 2000)] * 2
    add(3000, 4000, 80_000)
    log.reset_clock(5000)
    expected = [(time, time, time) for time in (2000, 2000, 3000, 4000, 5000)]
    assert times(log) == times(OffsetLog(root)) == expected
    log.compact(5)
    add(6000)
    log.reset_clock(7000)
    assert times(log) == times(OffsetLog(root)) == [(time, time, time) for time in (4000, 5000, 6000)]
    assert json.loads(storage.read(f"{root}/resets")) == [[6, 5000], [7, 7000]]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Files in memory instead of on disk, by path."""
    files: dict[str, str] = {}
    monkeypatch.setattr(storage, "write", files.__setitem__)
    monkeypatch.setattr(storage, "write_new", files.__setitem__)
    monkeypatch.setattr(storage, "read", files.__getitem__)
    monkeypatch.setattr(storage, "delete", lambda path: files.pop(path, None))
    monkeypatch.setattr(storage, "names", lambda root: [path.rpartition("/")[2] for path in files])
    return files


@pytest.mark.slow
def test_the_files_that_a_start_reads_are_few_after_100_000_batches(memory: dict[str, str]) -> None:
    log = OffsetLog("root")
    for _ in range(5000):
        batches(log, 20)
        log.compact(log.last.n - 20)
    assert len(memory) == 1 + 2 * 20
    assert same(log, OffsetLog("root"))
    assert log.last.n == 100_000
    assert log.last.end_offsets == {"lines": 1_000_000}
