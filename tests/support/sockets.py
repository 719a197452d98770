"""A server that sends numbered lines, and which of them are safe in Spark's write-ahead log."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from tests.support.supervisor import PATIENCE


def numbered(n: int) -> str:
    """The line of a number; the semicolon shows that it is complete."""
    return f"line {n:06d};"


def numbers(data: bytes) -> set[int]:
    """The numbers of all complete lines in any serialized form."""
    return {int(number) for number in re.findall(rb"line (\d{6});", data)}


class Server:
    """Sends lines to the connected client, each number once."""

    def __init__(self, line: Callable[[int], str] = numbered) -> None:
        self.sent = 0
        self.line = line
        self._client: socket.socket | None = None
        self._checks = 0
        self._connected = threading.Condition()
        self._listen(0)
        self.port = self._listener.getsockname()[1]

    def _listen(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with self._connected:
                if self._checks:
                    self._checks -= 1
                    client.close()
                else:
                    self._client = client
                    self._connected.notify_all()

    def expect_a_new_driver(self, *, looks: bool) -> None:
        """A receiver will connect; `looks`: and before it the driver, to check that somebody listens."""
        with self._connected:
            self._client, self._checks = None, int(looks)

    def expect_a_new_receiver(self) -> None:
        """Send nothing more to the receiver that was connected."""
        with self._connected:
            self._client = None

    def send(self, number: int) -> None:
        """Send this many new lines, once a client is connected."""
        text = "".join(f"{self.line(n)}\n" for n in range(self.sent, self.sent + number))
        with self._connected:
            assert self._connected.wait_for(lambda: self._client is not None, PATIENCE), "no client has connected"
            assert self._client is not None
            self._client.sendall(text.encode())
        self.sent += number

    def die(self) -> None:
        """Close the connection, and accept no new one."""
        self.close()
        with self._connected:
            if self._client is not None:
                self._client.close()
            self._client = None

    def come_back(self) -> None:
        """Listen again, on the same port."""
        self._listen(self.port)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # close alone leaves a thread in accept, which accepts once more
        self._listener.close()


def logged(checkpoint: Path) -> set[int]:
    """The lines in those files of the write-ahead log that the driver's own log of blocks names."""
    blocks = b"".join(contents(checkpoint / "receivedBlockMetadata"))
    files = (file for file in (checkpoint / "receivedData").glob("*/log-*") if file.name.encode() in blocks)
    return {number for file in files for number in numbers(b"".join(contents(file)))}


def contents(path: Path) -> list[bytes]:
    """The bytes of a file, or of all files in a directory; files deleted meanwhile are skipped."""
    found = []
    for file in path.glob("log-*") if path.is_dir() else [path]:
        try:
            found.append(file.read_bytes())
        except (FileNotFoundError, IsADirectoryError):  # the latter of a directory that was not there yet
            continue
    return found
