"""Where records come from. A source is a function of a StreamingContext; on a command line it is a URI.

Write your own with `FrameStream.from_source`; the contract is in `sparkstream_kit.contracts`.
"""

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from ._event_hubs import event_hubs as event_hubs
    from ._event_hubs import iot_hub as iot_hub
    from ._files import files as files
    from ._generator import generator as generator
    from ._kafka import kafka as kafka
    from ._socket import socket as socket

URIS = {
    "event_hubs": "_event_hubs",
    "files": "_files",
    "generator": "_generator",
    "iot_hub": "_event_hubs",
    "kafka": "_kafka",
    "socket": "_socket",
}
"""Sources that the command line knows, and the modules that define them."""

PUBLIC = URIS

__all__ = list(PUBLIC)
__getattr__ = lazy(__name__, PUBLIC)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
