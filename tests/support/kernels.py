"""A real kernel of Jupyter, and what each of its cells shows."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

from .supervisor import PATIENCE, ROOT

ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    # the streams are over before compiling pays
    "SPARK_SUBMIT_OPTS": os.environ.get("SPARK_SUBMIT_OPTS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"),
}


class Cell:
    """What a cell shows: its displays as they are now, texts, its result and its error."""

    def __init__(self) -> None:
        self.displays: dict[str, dict[str, str]] = {}
        self.updates = 0
        """How often a display of the cell has changed."""
        self.text = ""
        self.result: str | None = None
        self.error: str | None = None
        """Name and sentence of the exception."""

    def hear(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "stream":
            self.text += content["text"]
        elif kind == "execute_result":
            self.result = content["data"]["text/plain"]
        elif kind == "error":
            self.error = f"{content['ename']}: {content['evalue']}"
        elif kind == "display_data":
            name = content["transient"].get("display_id", str(len(self.displays)))  # some are never updated
            self.displays[name] = content["data"]

    def texts(self) -> list[str]:
        """Its displays as text."""
        return [data["text/plain"] for data in self.displays.values()]


class Kernel:
    """Runs cells, and gives the messages of the kernel to the cells that they belong to."""

    def __init__(self, folder: Path):
        self._manager = KernelManager(kernel_name="python3")
        self._manager.start_kernel(cwd=str(folder), env={**os.environ, **ENVIRONMENT, "TMPDIR": str(folder)})
        self._client = self._manager.blocking_client()
        self._client.start_channels()
        self._cells: dict[str, Cell] = {}
        try:
            self._client.wait_for_ready(timeout=PATIENCE)
        except BaseException:
            self.close()
            raise

    def run(self, code: str, *, interrupt: Callable[[Cell], bool] = lambda cell: False) -> Cell:
        """Run a cell to its end, and interrupt the kernel once something is so."""
        message = self._client.execute(code)
        cell = self._cells[message] = Cell()
        is_interrupted, deadline = False, time.monotonic() + PATIENCE
        while not self._hear(message, deadline):
            if not is_interrupted and interrupt(cell):
                self._manager.interrupt_kernel()
                is_interrupted = True
        return cell

    def wait(self, cell: Cell, until: Callable[[Cell], bool]) -> None:
        """Wait until a cell that has ended shows something."""
        deadline = time.monotonic() + PATIENCE
        while not until(cell):
            self._hear("", deadline)

    def _hear(self, message: str, deadline: float) -> bool:
        """Take up what the kernel says; whether a cell has ended by it."""
        while True:
            assert time.monotonic() < deadline, f"nothing came of it within {PATIENCE} s"
            try:
                said = self._client.get_iopub_msg(timeout=1)
                break
            except queue.Empty:
                assert self._manager.is_alive(), "the kernel has died"
        kind, content, parent = said["msg_type"], said["content"], said["parent_header"].get("msg_id")
        if kind == "update_display_data":
            for cell in self._cells.values():
                if content["transient"]["display_id"] in cell.displays:
                    cell.displays[content["transient"]["display_id"]] = content["data"]
                    cell.updates += 1
        elif parent in self._cells:
            self._cells[parent].hear(kind, content)
        return bool(kind == "status" and parent == message and content["execution_state"] == "idle")

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


@contextmanager
def kernel(folder: Path) -> Iterator[Kernel]:
    """A kernel that works in a folder."""
    running = Kernel(folder)
    try:
        yield running
    finally:
        running.close()
