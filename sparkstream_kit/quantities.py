"""Numbers as people read them."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "file"), counted(1204, "file")
    ('1 file', '1,204 files')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def of_bytes(size: int) -> str:
    """A number of bytes.

    >>> of_bytes(318), of_bytes(5_000_000)
    ('318 B', '4.8 MiB')
    """
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << power:
            return f"{size / (1 << power):.1f} {unit}"
    return f"{size} B"
