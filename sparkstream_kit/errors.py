"""What can go wrong, as a tree; every error says what was got, what was expected and what to do.

KitError
├── UsageError          something the person who starts the job can mend (exit 2)
├── BatchFailed         a batch failed and the job stops, so that nothing runs past it (exit 1)
├── ReceiverFailed      a receiver can store nothing any more and the job stops, to connect anew (exit 1)
├── StayStopped         a stop was asked for while the job was down: it does not start (exit 0)
└── Fenced              another driver has taken over the home; this one must not write (exit 1)
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


class ReceiverFailed(KitError):
    """A receiver can store nothing any more; what it has stored is still owed, and the next start connects anew."""


class Fenced(KitError):
    """Another driver has taken over; whatever this one was about to write is the other one's to write."""


class StayStopped(KitError):
    """A stop was asked for while the job was down; it is carried out now, and the next start goes on."""

    exit_code = 0
