"""Writes a log as a server does: python log_writer.py FILE NOTES --how append|buffer|position [--rate N] [--seed S]

Line n is `line(seed, n)`, so what must come out of a job follows from how many were written: `written` in the directory
NOTES, brought up to date after every write. `pid` there is the process, as servers note it. SIGUSR1 and SIGHUP open the
file again, and then remove `reopen`, which somebody may have created to wait for that. SIGTERM ends the process after
a whole line.

    append      an unbuffered write for each line, with O_APPEND, as Apache does
    buffer      full buffers of 4 KiB, which cut lines in the middle, as `buffer=` and stdio do
    position    a write for each line without O_APPEND, as a shell's `>` does: a truncation leaves a hole
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

HOW = ("append", "buffer", "position")
BUFFER = 4096
PAUSE = 0.01  # seconds between bursts of lines

METHODS = ("GET", "HEAD", "POST")
STATUSES = (200, 206, 304, 404, 500)
AGENTS = ("curl/8.5.0", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "-")


def line(seed: int, n: int) -> str:
    """Line n of a log in the combined format. Its path has the number, and a tail that makes lines differ in length."""
    digest = hashlib.blake2b(f"{seed} {n}".encode()).hexdigest()  # ten times as fast as a random.Random for each
    client, a, b, c, length, size = digest[0:2], *(int(digit, 16) for digit in digest[2:6]), digest[6:10]
    at = f"26/Nov/2026:{n // 3600 % 24:02d}:{n // 60 % 60:02d}:{n % 60:02d} +0000"
    request = f"{METHODS[a % 3]} /r/{n:06d}?q={digest[10 : 10 + 4 * length]} HTTP/1.1"
    return (
        f'198.51.100.{int(client, 16)} - - [{at}] "{request}" {STATUSES[b % 5]} {int(size, 16)} "-" "{AGENTS[c % 3]}"'
    )


def lines(seed: int, count: int) -> Counter[str]:
    """The first lines, each once."""
    return Counter(line(seed, n) for n in range(count))


class Writer:
    """An open log."""

    def __init__(self, path: Path, how: str):
        self._path, self._how = path, how
        self._buffer = bytearray()
        self._ends: list[int] = []
        """For each line that is not in the file yet: how many bytes of the buffer are left before its end."""
        self.written = 0
        """Lines that are in the file as a whole."""
        self._open()

    def _open(self) -> None:
        appends = 0 if self._how == "position" else os.O_APPEND
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | appends, 0o644)
        os.lseek(self._file, 0, os.SEEK_END)

    def reopen(self) -> None:
        self.flush()
        os.close(self._file)
        self._open()

    def write(self, line: str) -> None:
        self._buffer += f"{line}\n".encode()
        self._ends.append(len(self._buffer))
        if self._how != "buffer":
            self.flush()
        while len(self._buffer) >= BUFFER:
            self._put(BUFFER)

    def flush(self) -> None:
        if self._buffer:
            self._put(len(self._buffer))

    def _put(self, size: int) -> None:
        done = os.write(self._file, self._buffer[:size])
        del self._buffer[:done]
        self._ends = [end - done for end in self._ends]
        self.written += sum(end <= 0 for end in self._ends)
        self._ends = [end for end in self._ends if end > 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("notes", type=Path)
    parser.add_argument("--how", choices=HOW, default="append")
    parser.add_argument("--rate", type=int, default=500, help="lines per second")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    asked: set[int] = set()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, lambda number, frame: asked.add(number))
    writer = Writer(options.file, options.how)
    progress = os.open(options.notes / "written", os.O_WRONLY | os.O_CREAT)
    (options.notes / "pid").write_text(str(os.getpid()))
    started, n = time.monotonic(), 0
    while signal.SIGTERM not in asked:
        if asked:
            asked.clear()
            writer.reopen()
            with contextlib.suppress(FileNotFoundError):
                (options.notes / "reopen").unlink()
        while n < (time.monotonic() - started) * options.rate and not asked:
            writer.write(line(options.seed, n))
            os.pwrite(progress, f"{writer.written:012d}".encode(), 0)
            n += 1
        time.sleep(PAUSE)
    writer.flush()
    os.pwrite(progress, f"{writer.written:012d}".encode(), 0)


if __name__ == "__main__":
    sys.exit(main())
