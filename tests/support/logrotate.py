"""A log that one process writes and the real logrotate rotates, and what is in its files: by no code of the kit."""

from __future__ import annotations

import bz2
import gzip
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import log_writer

PATIENCE = 300  # seconds, far more than any step takes

SIGNAL = """
    postrotate
        touch {notes}/reopen
        kill -USR1 "$(cat {notes}/pid)"
        while test -e {notes}/reopen; do sleep 0.02; done
    endscript
"""
"""Tells the writer to open its file again, and waits: what it wrote into a file while gzip reads that would be lost."""


@dataclass(frozen=True)
class Mode:
    """A configuration of logrotate, and the writer that fits it."""

    name: str
    directives: str
    how: str = "append"

    def __str__(self) -> str:
        return self.name.replace(" ", "-")

    @property
    def truncates(self) -> bool:
        """Whether logrotate itself loses what is written between its copy and its truncation."""
        return "copytruncate" in self.directives


DATED = "dateext\ndateformat -%Y%m%d-%s"
MODES = [
    Mode("create", "create"),
    Mode("dateext", f"create\n{DATED}", how="buffer"),
    Mode("compress", "create\ncompress"),
    Mode("delaycompress", "create\ncompress\ndelaycompress", how="buffer"),
    Mode("olddir", "create\nolddir {logs}/old\ncreateolddir 755"),
    Mode("copytruncate", "copytruncate"),
    Mode("copytruncate compress", "copytruncate\ncompress"),
    Mode("hole", "copytruncate", how="position"),
]


class Rotated:
    """A log in `work`/logs/<mode> that grows and is rotated until `stop`; a mode may wait until `may_rotate`."""

    def __init__(
        self, work: Path, mode: Mode, seed: int, rate: int = 500, may_rotate: Callable[[], bool] = lambda: True
    ):
        self.mode, self.seed, self.logs = mode, seed, work / "logs" / str(mode)
        self.rotations = 0
        self._notes, self._may_rotate = work / str(mode), may_rotate
        self._chance, self._over = random.Random(seed), threading.Event()
        self._failure: BaseException | None = None
        # logrotate refuses directories that others may write to, and a configuration that others may
        for folder in (self._notes, work / "logs", self.logs):
            folder.mkdir(mode=0o755, exist_ok=True)
        self._conf, self._state = self._notes / "logrotate.conf", self._notes / "logrotate.state"
        signals = "" if mode.truncates else SIGNAL
        directives = (mode.directives + signals).format(logs=self.logs, notes=self._notes)
        self._conf.write_text(f'"{self.logs}/access.log" {{\nmissingok\nrotate 1000\n{directives}\n}}\n')
        self._conf.chmod(0o600)
        command = [sys.executable, log_writer.__file__, str(self.logs / "access.log"), str(self._notes)]
        command += ["--how", mode.how, "--rate", str(rate), "--seed", str(seed)]
        self._writer = subprocess.Popen(command)
        self._rotator = threading.Thread(target=self._rotate_on, daemon=True)
        self._rotator.start()

    def _rotate_on(self) -> None:
        try:
            # names by date are names by second here
            while not self._over.wait(self._chance.uniform(1.01, 2)):
                if (self._notes / "pid").exists() and self._may_rotate():
                    self.rotate()
        except BaseException as failure:
            self._failure = failure

    def rotate(self) -> None:
        # Debian has it in /usr/sbin, which is not on everybody's PATH
        program = shutil.which("logrotate", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        assert program, "logrotate is missing: scripts/test installs it"
        command = [program, "--force", "--state", str(self._state), str(self._conf)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert (run.returncode, run.stderr) == (0, ""), f"logrotate: {run.returncode} {run.stderr}"
        self.rotations += 1

    def stop(self) -> None:
        """Stop the rotation, then the writer, after a whole line."""
        self._over.set()
        self._rotator.join(PATIENCE)
        assert self._failure is None, self._failure
        self._writer.send_signal(signal.SIGTERM)
        assert self._writer.wait(PATIENCE) == 0

    def close(self) -> None:
        """End both, whatever happened."""
        self._over.set()
        if self._writer.poll() is None:
            self._writer.kill()
        self._writer.wait()
        self._rotator.join(PATIENCE)

    def written(self) -> Counter[str]:
        """Every line that the writer has written, by its own count."""
        return log_writer.lines(self.seed, int((self._notes / "written").read_text()))

    def left(self) -> Counter[str]:
        """Every line in the files that are there now; the bytes of holes belong to no line."""
        files = [file for file in self.logs.rglob("*") if file.is_file()]
        return Counter(line for file in files for line in unpacked(file).replace(b"\0", b"").decode().splitlines())


def unpacked(file: Path) -> bytes:
    data = file.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        return gzip.decompress(data)
    return bz2.decompress(data) if data.startswith(b"BZh") else data
