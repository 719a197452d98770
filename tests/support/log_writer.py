"""Writes a log as a server does: python log_writer.py FILE --how append|buffer|position [--rate N] [--seed S]

Line n is `line(seed, n)`, so what must come out of a job follows from how many were written; that number stands in
FILE's directory's parent, in `written`, and is updated after every write. `pid` beside it holds the process, as servers
keep it. SIGUSR1 and SIGHUP open the file again and then remove `reopen`, if somebody created that to wait for it;
SIGTERM ends the process after a whole line.

    append      an unbuffered write for each line, with O_APPEND, as Apache does
    buffer      full buffers of 4 KiB, which cut lines in the middle, as `buffer=` and stdio do
    position    a write for each line without O_APPEND, as a shell's `>` does: a truncation leaves a hole
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

HOW = ("append", "buffer", "position")
BUFFER = 4096
PAUSE = 0.01  # seconds between bursts of lines

AGENTS = ("curl/8.5.0", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "-")


def line(seed: int, n: int) -> str:
    """Line n of a log in the combined format. Its path has the number, and a tail that makes lines differ in length."""
    chance = random.Random(f"{seed} {n}")
    tail = "".join(chance.choices("abcdefghij", k=chance.randint(0, 60)))
    at = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(1_795_000_000 + n // 500))
    request = f"{chance.choice(('GET', 'HEAD', 'POST'))} /r/{n:06d}?q={tail} HTTP/1.1"
    status = chance.choice((200, 200, 200, 304, 404, 500))
    client = f"198.51.100.{chance.randint(1, 254)}"
    return f'{client} - - [{at}] "{request}" {status} {chance.randint(0, 99999)} "-" "{chance.choice(AGENTS)}"'


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
    parser.add_argument("--how", choices=HOW, default="append")
    parser.add_argument("--rate", type=int, default=500, help="lines per second")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    beside = options.file.parent.parent

    asked: set[int] = set()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, lambda number, frame: asked.add(number))
    writer = Writer(options.file, options.how)
    progress = os.open(beside / "written", os.O_WRONLY | os.O_CREAT)
    (beside / "pid").write_text(str(os.getpid()))
    started, n = time.monotonic(), 0
    while signal.SIGTERM not in asked:
        if asked:
            asked.clear()
            writer.reopen()
            with contextlib.suppress(FileNotFoundError):
                (beside / "reopen").unlink()
        while n < (time.monotonic() - started) * options.rate and not asked:
            writer.write(line(options.seed, n))
            os.pwrite(progress, f"{writer.written:012d}".encode(), 0)
            n += 1
        time.sleep(PAUSE)
    writer.flush()
    os.pwrite(progress, f"{writer.written:012d}".encode(), 0)


if __name__ == "__main__":
    sys.exit(main())
