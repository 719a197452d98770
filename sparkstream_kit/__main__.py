"""Where the `sparkstream` command and `python -m sparkstream_kit` start: `cli`, or one sentence if there is no Spark.

Importing `cli` imports PySpark, so what has to work without it is here.
"""

from __future__ import annotations

import os
import sys

from . import __version__, _lazy, _spark
from .errors import UsageError


def main() -> int:
    """The command line of this process; returns the exit code."""
    if sys.argv[1:] == ["--version"]:
        print(f"{__version__}, {_spark.describe()}")
        return 0
    try:
        cli = _lazy.load("sparkstream_kit", {"cli": "."}, "cli")
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    try:
        code: int = cli.main()
        sys.stdout.flush()
    except BrokenPipeError:  # `sparkstream status HOME | head`: whoever reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # what a shell makes of SIGPIPE
    return code


if __name__ == "__main__":
    sys.exit(main())
