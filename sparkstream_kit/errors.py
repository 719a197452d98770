"""What can go wrong, as a tree; every error says what was got, what was expected and what to do.

    KitError
    ├── UsageError          something the person who starts the job can mend (exit 2)
    └── BatchFailed         a batch failed and the job stops, so that nothing runs past it (exit 1)
"""

from __future__ import annotations


class KitError(Exception):
    """Base of all errors of the kit."""

    exit_code = 1


class UsageError(KitError):
    """The job was asked for something that cannot work; nothing has been processed."""

    exit_code = 2


class BatchFailed(KitError):
    """A batch failed; it is still owed and the next start runs it again."""
