"""Several homes that claim one thing at the same moment."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sparkstream_kit.errors import OutputRefused

HOMES = 4


def refused_at_once(claim: Callable[[str], object]) -> list[str]:
    """The homes that are refused, of `HOMES` that call `claim` with their name at once."""
    together, refused = threading.Barrier(HOMES), []

    def start(home: str) -> None:
        together.wait(60)
        try:
            claim(home)
        except OutputRefused:
            refused.append(home)

    homes = [threading.Thread(target=start, args=(f"home-{n}",)) for n in range(HOMES)]
    for home in homes:
        home.start()
    for home in homes:
        home.join(60)
    return refused
