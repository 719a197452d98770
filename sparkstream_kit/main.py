"""What turns a function into a command: arguments, exit codes and errors that fit in one sentence."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence

from .errors import KitError, UsageError


def program(main: Callable[..., int | None], arguments: Sequence[str] | None = None) -> int:
    """Call `main` with the words of the command line and give the exit code for `sys.exit`.

    Every parameter of `main` is a positional word, those with defaults may be left out. `--help` prints the
    module's docstring. A UsageError, or a number of words that does not fit, is told in one sentence: exit 2.

        if __name__ == "__main__":
            sys.exit(program(main))
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in words or "-h" in words:
        print(inspect.getdoc(inspect.getmodule(main)))
        return 0
    try:
        parameters = inspect.signature(main).parameters.values()
        needed = [p.name for p in parameters if p.default is p.empty]
        if not len(needed) <= len(words) <= len(parameters):
            usage = " ".join(p.name if p.default is p.empty else f"[{p.name}]" for p in parameters)
            raise UsageError(f"got {len(words)} arguments, expected: {usage or 'none'} (see --help)")
        return main(*words) or 0
    except KitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
