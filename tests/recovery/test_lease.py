from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sparkstream_kit.errors import Fenced, HomeInUse
from sparkstream_kit.recovery import lease, storage

ROOT = Path(__file__).parents[2]
SPAWN = multiprocessing.get_context("spawn")  # a forked child would share the JVM of other tests
HOLDER = """
import sys, threading
from sparkstream_kit.errors import KitError
from sparkstream_kit.recovery import lease

lease.TTL, lease.BEAT = float(sys.argv[2]), 0.1
held = lease.acquire(sys.argv[1], "app-1")
held.start_renewing(lambda error: None)
print("held", flush=True)
for line in sys.stdin:
    try:
        held.release() if line == "release\\n" else held.check()
        print("fine", flush=True)
    except KitError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
"""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "TTL", 1.0)
    monkeypatch.setattr(lease, "BEAT", 0.1)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return f"file:{tmp_path}"


class Holder:
    """Another process that holds the lease."""

    def __init__(self, root: str, ttl: float = 1.0, inside: Sequence[str] = ()):
        self.process = subprocess.Popen(
            [*inside, sys.executable, "-c", HOLDER, root, str(ttl)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._heard() == "held"

    def _heard(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, word: str) -> str:
        assert self.process.stdin is not None
        print(word, file=self.process.stdin, flush=True)
        return self._heard()


@pytest.fixture
def holder(root: str) -> Iterator[Holder]:
    started = Holder(root)
    yield started
    started.process.kill()
    started.process.communicate()


def claim(root: str, ready: Any, results: Any, over: Any) -> None:
    lease.BEAT = 0.1
    ready.wait()
    try:
        held = lease.acquire(root)
        held.start_renewing(lambda error: None)
        results.put((os.getpid(), "holds"))
    except HomeInUse as error:
        results.put((os.getpid(), str(error)))
    over.wait()


def test_of_ten_processes_at_once_one_gets_the_lease_and_the_others_are_refused_naming_it(root: str) -> None:
    ready, results, over = SPAWN.Barrier(10), SPAWN.Queue(), SPAWN.Event()
    processes = [SPAWN.Process(target=claim, args=(root, ready, results, over)) for _ in range(10)]
    for process in processes:
        process.start()
    answers = dict(results.get(timeout=120) for _ in processes)
    over.set()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    (holder,) = [pid for pid, answer in answers.items() if answer == "holds"]
    del answers[holder]
    assert all(f"the home is in use by process {holder} on " in answer for answer in answers.values())
    assert len(answers) == 9


def test_the_refusal_names_the_holder_and_what_to_do(root: str, holder: Holder) -> None:
    expected = f"in use by process {holder.process.pid} on .*, application app-1: stop that job first, or give this one"
    with pytest.raises(HomeInUse, match=expected):
        lease.acquire(root, "app-2")
    assert f"process {holder.process.pid} on " in lease.holder(root)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for a holder to fall silent would never end."""
    monkeypatch.setattr(lease, "TTL", float("inf"))


@pytest.mark.usefixtures("patient")
def test_the_lease_of_a_dead_process_is_free_at_once(root: str, holder: Holder) -> None:
    holder.process.kill()
    holder.process.wait()
    assert lease.holder(root) == ""
    assert lease.acquire(root).epoch == 2


@pytest.mark.usefixtures("patient")
def test_the_lease_of_a_zombie_process_is_free_at_once(root: str, holder: Holder) -> None:
    holder.process.kill()
    os.waitid(os.P_PID, holder.process.pid, os.WEXITED | os.WNOWAIT)  # it stays as a zombie
    assert lease.acquire(root).epoch == 2


@pytest.mark.usefixtures("patient")
def test_a_released_lease_is_free_at_once(root: str, holder: Holder) -> None:
    assert holder.ask("release") == "fine"
    assert lease.holder(root) == ""
    assert lease.acquire(root).epoch == 2


@pytest.mark.usefixtures("patient")
def test_a_process_id_reused_by_another_process_is_not_the_holder(root: str, holder: Holder) -> None:
    note = json.loads(storage.read(f"{root}/1"))
    storage.write(f"{root}/1", json.dumps({**note, "processes": [(holder.process.pid, "1")]}))
    assert lease.acquire(root).epoch == 2


@pytest.mark.usefixtures("patient")
def test_the_next_driver_waits_for_a_jvm_that_outlives_its_python(root: str, holder: Holder) -> None:
    jvm = subprocess.Popen(["sleep", "infinity"])
    note = json.loads(storage.read(f"{root}/1"))
    processes = [*note["processes"], (jvm.pid, lease._process_start(jvm.pid))]
    storage.write(f"{root}/1", json.dumps({**note, "processes": processes}))
    holder.process.kill()
    held: list[lease.Lease] = []
    waiting = threading.Thread(target=lambda: held.append(lease.acquire(root)), daemon=True)
    waiting.start()
    waiting.join(0.5)
    assert not held
    jvm.kill()
    waiting.join(60)
    assert held[0].epoch == 2
    jvm.wait()


@pytest.fixture
def foreign(root: str, holder: Holder) -> Holder:
    """A holder of which only the heartbeat can be seen, like one on another machine."""
    note = json.loads(storage.read(f"{root}/1"))
    storage.write(f"{root}/1", json.dumps({**note, "host": "elsewhere"}))
    return holder


def test_a_lease_held_on_another_machine_is_refused_while_it_is_renewed_and_free_once_it_is_not(
    root: str, foreign: Holder
) -> None:
    with pytest.raises(HomeInUse, match="in use"):
        lease.acquire(root)
    foreign.process.kill()
    assert lease.acquire(root).epoch == 2


def test_the_next_attempt_of_the_same_application_waits_for_the_previous_one(root: str, foreign: Holder) -> None:
    beats = f"{root}/1.beat"
    held: list[lease.Lease] = []
    waiting = threading.Thread(target=lambda: held.append(lease.acquire(root, "app-1")))
    seen = storage.read(beats)
    waiting.start()
    while int(storage.read(beats).split()[0]) < int(seen.split()[0]) + 15:  # longer than the TTL
        assert waiting.is_alive()
    foreign.process.kill()
    waiting.join(60)
    assert held[0].epoch == 2


def test_a_holder_paused_longer_than_the_lease_is_killed_by_the_next_one_on_the_same_machine(
    root: str, holder: Holder
) -> None:
    holder.process.send_signal(signal.SIGSTOP)
    assert lease.acquire(root).epoch == 2
    assert holder.process.wait(60) == -signal.SIGKILL


def test_a_holder_paused_longer_than_the_lease_on_another_machine_is_fenced_when_it_resumes(
    root: str, foreign: Holder
) -> None:
    assert foreign.ask("check") == "fine"
    foreign.process.send_signal(signal.SIGSTOP)
    held = lease.acquire(root)
    assert held.epoch == 2
    foreign.process.send_signal(signal.SIGCONT)
    answer = foreign.ask("check")
    assert answer.startswith(f"Fenced: another driver took the lease: process {os.getpid()} on ")
    held.check()


def test_a_holder_that_was_paused_but_not_replaced_continues(root: str, holder: Holder) -> None:
    holder.process.send_signal(signal.SIGSTOP)
    holder.process.send_signal(signal.SIGCONT)
    assert holder.ask("check") == "fine"


def test_setting_the_clock_back_changes_nothing(root: str, holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 0.0)
    for file in storage.names(root):
        os.utime(storage.local(f"{root}/{file}") or "", (0, 0))
    with pytest.raises(HomeInUse, match="in use"):
        lease.acquire(root)
    assert holder.ask("check") == "fine"


def test_a_late_claim_of_a_removed_epoch_is_fenced(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for epoch in (1, 2, 3):
        taken = lease.acquire(root)
        assert taken.epoch == epoch
        taken.release()
    assert "1" not in storage.names(root)
    newest = iter((0, 3))  # what it saw before it was paused, and what there is now
    monkeypatch.setattr(lease, "_newest", lambda root: next(newest, 3))
    with pytest.raises(Fenced, match="another driver took the lease"):
        lease.acquire(root)


def test_a_released_lease_allows_no_more_writes(root: str) -> None:
    held = lease.acquire(root)
    held.release()
    with pytest.raises(Fenced, match="this driver has released the lease of its home"):
        held.check()


@pytest.mark.usefixtures("patient")
def test_a_process_does_not_wait_for_itself(root: str) -> None:
    held = lease.acquire(root, "app-1")
    held.start_renewing(lambda error: None)
    with pytest.raises(HomeInUse, match=f"in use by process {os.getpid()} on "):
        lease.acquire(root, "app-1")
    held.release()


def test_a_living_holder_in_another_pid_namespace_is_refused(root: str) -> None:
    if subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True).returncode:
        root_of_names = {"host": f"{lease._machine()}x"}  # not allowed here: a note as such a holder writes it
        holder = Holder(root)
        storage.write(f"{root}/1", json.dumps({**json.loads(storage.read(f"{root}/1")), **root_of_names}))
    else:
        holder = Holder(root, inside=["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])
    try:
        with pytest.raises(HomeInUse, match="in use by process "):
            lease.acquire(root)
        assert holder.ask("check") == "fine"
    finally:
        holder.process.kill()
        holder.process.communicate()


def test_a_holder_whose_machine_slept_looks_whether_another_took_the_lease(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, now = lease.acquire(root), time.clock_gettime(time.CLOCK_BOOTTIME)
    storage.write_new(f"{root}/2", storage.read(f"{root}/1"))
    held.check()  # a moment after it was renewed
    # while it sleeps CLOCK_BOOTTIME goes on, and time.monotonic() stands still
    monkeypatch.setattr(time, "clock_gettime", lambda clock: now + 3600 if clock == time.CLOCK_BOOTTIME else 0.0)
    with pytest.raises(Fenced, match="another driver took the lease"):
        held.check()


def test_a_replaced_holder_is_notified_in_the_background(root: str) -> None:
    held, errors = lease.acquire(root), threading.Event()
    held.start_renewing(lambda error: errors.set())
    storage.write_new(f"{root}/2", storage.read(f"{root}/1"))
    assert errors.wait(60)
    held.release()
