"""What can go wrong, as a tree. Every message says what was found, what was expected and what to do.

KitError
├── UsageError              something that whoever starts the job can fix (exit 2)
│   ├── HomeInUse           another driver runs the job of this home
│   ├── HomeDamaged         a file of the home is missing, damaged or out of place
│   ├── NewerFormat         the home or ledger was written by a newer version of the kit
│   ├── CheckpointRefused   Spark's checkpoint cannot be resumed, written or read
│   ├── StateRefused        a saved state does not fit the job
│   ├── InputLost           input that an unfinished batch needs is gone or has changed
│   ├── OutputRefused       an output cannot take these columns, or belongs to another home
│   └── MissingLibrary      a source or output needs a library that is not installed
├── BatchFailed             a batch failed and the job stops, so that nothing runs past it (exit 1)
├── ReceiverFailed          a receiver stopped storing data and the job stops, to reconnect at the next start (exit 1)
├── StopRequested           a stop was requested while the job was down: it does not start (exit 0)
└── Fenced                  another driver has taken over the home; this one must not write (exit 1)
"""

from __future__ import annotations

from .redaction import printable


class KitError(Exception):
    """Base class of all errors of the kit; `exit_code` is what a job exits with."""

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__())  # it may quote data


class UsageError(KitError):
    """The job cannot work as requested. Nothing is lost; the message says what to change."""

    exit_code = 2


class HomeInUse(UsageError):
    """Another driver holds the lease of the home."""


class HomeDamaged(UsageError):
    """A file of the home is missing or unreadable; only the kit may change what is in there."""


class NewerFormat(UsageError):
    """A newer version of the kit wrote the home or the ledger; this one does not know what it means."""


class CheckpointRefused(UsageError):
    """Spark's checkpoint cannot be resumed, written or read, and may hold received records."""


class StateRefused(UsageError):
    """A saved state does not fit the job that should continue with it."""


class InputLost(UsageError):
    """Input that belongs to an unfinished batch, state or window is gone or has changed."""


class OutputRefused(UsageError):
    """An output cannot take the columns of the stream, or what it writes to belongs to another home."""


class MissingLibrary(UsageError):
    """A source or output needs a library that is not installed; the message names the extra to install."""


class BatchFailed(KitError):
    """A batch failed. It stays unfinished, and the next start runs it again."""


class ReceiverFailed(KitError):
    """A receiver stopped storing data. What it stored is kept, and the next start reconnects."""


class Fenced(KitError):
    """Another driver has taken over, and writes what this one was about to write."""


class StopRequested(KitError):
    """A stop was requested while the job was down. It is carried out now, and the next start continues."""

    exit_code = 0
