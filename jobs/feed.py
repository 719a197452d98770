"""Play real access-log lines as files that arrive over time, the way log shippers deliver them.

    python jobs/feed.py DIRECTORY [LINES_PER_FILE] [SECONDS_BETWEEN_FILES]

Ends after the 2,000 lines of jobs/data/access_2000.log. Each file is written under a hidden name and renamed when it
is whole, so nobody reads half of one.
"""

import itertools
import sys
import time
from pathlib import Path

import sparkstream_kit as ss

SAMPLE = Path(__file__).parent / "data" / "access_2000.log"


def main(directory: str, lines_per_file: str = "100", seconds: str = "1") -> None:
    """Write the sample into the directory, file after file."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    with SAMPLE.open() as sample:
        for number in itertools.count():
            lines = list(itertools.islice(sample, int(lines_per_file)))
            if not lines:
                return
            whole, hidden = folder / f"access-{number:04d}.log", folder / f".access-{number:04d}.log"
            hidden.write_text("".join(lines))
            hidden.rename(whole)
            time.sleep(float(seconds))


if __name__ == "__main__":
    sys.exit(ss.program(main))
