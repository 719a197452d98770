"""Where records come from. A source is a function of a StreamingContext; on a command line it is a URI.

Write your own with `FrameStream.from_source`; the contract is in `sparkstream_kit.contracts`.
"""

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from ._files import files as files
    from ._generator import generator as generator
    from ._kafka import kafka as kafka
    from ._socket import socket as socket

URIS = {"files": "_files", "generator": "_generator", "kafka": "_kafka", "socket": "_socket"}
"""Sources that the command line knows, and the modules that define them."""

PUBLIC = URIS

__all__ = list(PUBLIC)
__getattr__ = lazy(__name__, PUBLIC)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
