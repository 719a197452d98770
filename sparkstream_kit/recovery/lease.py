"""One driver per home: a lease with epochs.

    lease/<epoch>        the holder: host, processes, application, time (ms since 1970); written once, never replaced
    lease/<epoch>.beat   heartbeat, rewritten every few seconds while the holder lives: their number, and for how many
                         seconds the job has made no progress
    lease/<epoch>.free   the holder ended gracefully

The highest epoch holds the lease. It is free once the holder has ended gracefully, once its processes are gone (as seen
from the same machine; the JVM keeps storing received data for a moment after its Python is killed), or once its
heartbeat has not changed for `TTL` seconds on the observer's own monotonic clock; clocks are never compared. Process
ids mean something in one PID namespace only, so another container counts as another machine. A holder that was paused
longer than that is killed by the next one if both are on the same machine, because its JVM would continue to write
Spark's checkpoint, which knows no lease, before its Python notices. On another machine it finds a higher epoch and is
fenced.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..bridge import jvm
from ..errors import Fenced, HomeInUse, UsageError
from . import storage

TTL = 30.0
"""Seconds without a heartbeat after which a lease is free."""

BEAT = 5.0
"""Seconds between two heartbeats."""


class Lease:
    """A held lease; `epoch` increases with every holder."""

    def __init__(self, root: str, epoch: int):
        self.epoch = epoch
        self._root = root
        self._beats = 0
        self._renewed = _clock()
        self._ended = threading.Event()
        self._idle: Callable[[], float] = lambda: 0.0

    def start_renewing(self, lost: Callable[[Fenced], None], idle: Callable[[], float] = lambda: 0.0) -> None:
        """Renew in a background thread until released; call `lost` if another driver has taken the lease.

        `idle` says for how many seconds the holder has made no progress.
        """
        self._idle = idle

        def beating() -> None:
            while not self._ended.wait(BEAT):
                try:
                    self.renew()
                except Fenced as error:
                    lost(error)
                    return
                except Exception:  # the file system may be away for a moment: `check` decides when it was too long
                    continue

        threading.Thread(target=beating, name="lease", daemon=True).start()

    def check(self) -> None:
        """Raise Fenced unless this driver still holds the lease: call before every externally visible effect."""
        if self._ended.is_set():
            raise Fenced("this driver has released the lease of its home: another one may hold it")
        if _clock() - self._renewed > TTL / 2:
            self.renew()

    def renew(self) -> None:
        """Write one heartbeat; raises Fenced if there is a higher epoch."""
        newest = _newest(self._root)
        if newest != self.epoch:
            raise Fenced(
                f"another driver took the lease: {_holder(self._root, newest)} (epoch {newest}, not {self.epoch})"
            )
        self._beats += 1
        storage.write(f"{self._root}/{self.epoch}.beat", f"{self._beats} {self._idle():.0f}")
        self._renewed = _clock()

    def release(self) -> None:
        """Give the lease up, so that the next driver need not wait."""
        self._ended.set()
        with suppress(Exception):
            storage.write(f"{self._root}/{self.epoch}.free", "")


def acquire(root: str, application: str = "") -> Lease:
    """Take the lease, or raise HomeInUse naming the holder.

    Waits at most `TTL` seconds, to tell a living holder from a dead one. The next attempt of the same YARN application
    waits until the previous one has lost the lease.
    """
    while True:
        newest = _newest(root)
        try:
            free = not newest or _is_free(root, newest, application)
        except FileNotFoundError:  # removed meanwhile: there is a newer one
            continue
        if not free:
            who = _holder(root, newest)
            raise HomeInUse(f"the home is in use by {who}: stop that job first, or give this one another home")
        processes = [pid for pid in (os.getpid(), jvm.jvm_process()) if pid is not None]
        me = {
            "host": _machine(),
            "name": socket.gethostname(),
            "processes": [(pid, _process_start(pid)) for pid in processes],
            "application": application,
            "time": round(1000 * time.time()),
        }
        try:
            storage.write_new(f"{root}/{newest + 1}", json.dumps(me))
        except FileExistsError:
            continue
        lease = Lease(root, newest + 1)
        lease.renew()
        _remove_before(root, newest)
        return lease


@contextmanager
def alone(root: str, what: str) -> Iterator[Lease]:
    """Hold a lease that is not a job's, for the block; UsageError, which begins with `what`, if another process does.

    Call `check` of the lease before each step: that notices if it was lost.
    """
    storage.make_directory(root)
    try:
        held = acquire(root)
    except HomeInUse:
        raise UsageError(f"{what} by {holder(root) or 'another process'}: wait until it has finished") from None
    held.start_renewing(lambda _: None)
    try:
        yield held
    finally:
        held.release()


def epoch(root: str) -> int:
    """The epoch of the newest lease; 0 before the first."""
    return _newest(root)


def since(root: str) -> int | None:
    """When the newest lease was taken, in ms since 1970 by its holder's clock; None if that is unknown."""
    with suppress(FileNotFoundError, KeyError, ValueError, TypeError):
        return int(_read(root, _newest(root))["time"])
    return None


def idle(root: str) -> tuple[float, float]:
    """For how many seconds the holder has made no progress, and how long ago it said so; 0 if it never did.

    The second compares the clock of the file system with this machine's.
    """
    path = f"{root}/{_newest(root)}.beat"
    with suppress(FileNotFoundError, ValueError):
        _, _, said = storage.read(path).partition(" ")
        return float(said or 0), max(0.0, time.time() - storage.changed(path) / 1000)
    return 0.0, 0.0


def holder(root: str) -> str:
    """The holder of the lease, without waiting; empty if it is free. A dead driver elsewhere counts as alive."""
    while newest := _newest(root):
        try:
            free = storage.exists(f"{root}/{newest}.free") or _is_gone(_read(root, newest))
        except FileNotFoundError:  # removed since: there is a newer one
            continue
        return "" if free else _holder(root, newest)
    return ""


def _newest(root: str) -> int:
    return max((int(name) for name in storage.names(root) if name.isdigit()), default=0)


def _remove_before(root: str, epoch: int) -> None:
    for name in storage.names(root):
        number = name.partition(".")[0]
        if number.isdigit() and int(number) < epoch:
            storage.delete(f"{root}/{name}")


def _read(root: str, epoch: int) -> dict[str, Any]:
    content = json.loads(storage.read(f"{root}/{epoch}"))
    assert isinstance(content, dict)
    return content


def _holder(root: str, epoch: int) -> str:
    with suppress(Exception):
        who = _read(root, epoch)
        application = f", application {who['application']}" if who["application"] else ""
        return f"process {who['processes'][0][0]} on {who['name']}{application}"
    return f"the driver of epoch {epoch}"


def _is_free(root: str, epoch: int, application: str) -> bool:
    if storage.exists(f"{root}/{epoch}.free"):
        return True
    who = _read(root, epoch)
    if _is_gone(who):
        return True
    if _is_mine(who):  # a heartbeat of this process never falls silent
        return False
    same_application = bool(application) and who["application"] == application
    seen, since = _beat(root, epoch), time.monotonic()
    while time.monotonic() - since < TTL:
        time.sleep(0.2)
        if storage.exists(f"{root}/{epoch}.free") or _is_gone(who):
            return True
        now = _beat(root, epoch)
        if now != seen:
            if not same_application:
                return False
            seen, since = now, time.monotonic()
    _kill(who)
    return True


def _kill(who: dict[str, Any]) -> None:
    """kill -9 a silent holder on this machine, so that it cannot write when it wakes up."""
    if who["host"] != _machine():
        return
    for pid, start in who["processes"]:
        mine = pid in (os.getpid(), jvm.jvm_process())
        if not mine and start not in ("", "?") and _process_start(pid) == start:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _is_mine(who: dict[str, Any]) -> bool:
    pid, start = who["processes"][0]
    return bool(who["host"] == _machine() and pid == os.getpid() and start == _process_start(pid))


def _is_gone(who: dict[str, Any]) -> bool:
    """Whether the holder's processes are known to be gone: they ran on this machine and no longer do."""
    return who["host"] == _machine() and all(_process_start(pid) != start for pid, start in who["processes"])


def _beat(root: str, epoch: int) -> str:
    try:
        return storage.read(f"{root}/{epoch}.beat")
    except FileNotFoundError:
        return ""


def _machine() -> str:
    """The host, its boot id and the PID namespace, since process ids of another boot or namespace mean nothing."""
    boot = namespace = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {boot} {namespace}"


def _clock() -> float:
    """Seconds since some moment. CLOCK_MONOTONIC stands still while a machine is suspended, and others do not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _process_start(pid: int) -> str:
    """Start time of a process in kernel ticks, since process ids are reused; empty if it is gone, ? if unknown."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if status[0] in "ZX" else status[19]
    except OSError:
        return "" if not _is_alive(pid) else "?"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
