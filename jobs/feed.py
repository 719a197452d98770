"""Replay real access-log lines as files that arrive over time, the way log shippers deliver them.

    python jobs/feed.py DIRECTORY [LINES_PER_FILE] [SECONDS_BETWEEN_FILES] [SCANS_PER_FILE]

Ends after the 2,000 lines of jobs/data/access_2000.log. With SCANS_PER_FILE, a scanner adds that many requests for
pages that do not exist to each file of the middle fifth. Each file is written under a hidden name and renamed when it
is complete, so nobody reads half of one. The same arguments always produce the same files.
"""

import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import sparkstream_kit as ss

SAMPLE = Path(__file__).parent / "data" / "access_2000.log"
SCANNED = ["/.env", "/.git/config", "/admin/", "/backup.zip", "/phpmyadmin/", "/wp-login.php", "/xmlrpc.php"]


def main(directory: str, lines_per_file: str = "100", seconds: str = "1", scans_per_file: str = "0") -> None:
    """Write the sample into the directory, file after file."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    for number, lines in enumerate(files(int(lines_per_file), int(scans_per_file))):
        complete, hidden = folder / f"access-{number:04d}.log", folder / f".access-{number:04d}.log"
        hidden.write_text("".join(lines))
        hidden.rename(complete)
        time.sleep(float(seconds))


def files(lines_per_file: int, scans_per_file: int) -> Iterator[list[str]]:
    """The lines of each file."""
    lines = SAMPLE.read_text().splitlines(keepends=True)
    paths = itertools.cycle(SCANNED)
    for start in range(0, len(lines), lines_per_file):
        chunk = lines[start : start + lines_per_file]
        is_scanned = 2 * len(lines) <= 5 * start < 3 * len(lines)
        yield chunk + [scan(path, chunk[-1]) for path in itertools.islice(paths, scans_per_file if is_scanned else 0)]


def scan(path: str, after: str) -> str:
    """A request of the scanner, logged in the same second as the line before; its address is one for examples."""
    logged_at = after[after.index("[") : after.index("]") + 1]
    return f'203.0.113.9 - - {logged_at} "GET {path} HTTP/1.1" 404 297 "-" "scanner/1.0"\n'


if __name__ == "__main__":
    sys.exit(ss.program(main))
