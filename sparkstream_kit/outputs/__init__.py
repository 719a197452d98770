"""Where results go. An output is a function that takes the stream first; on a command line it is a URI.

Write your own with `FrameStream.for_each_batch`; the contract is in `sparkstream_kit.contracts`.
"""

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from ._console import console as console
    from ._delta import delta as delta
    from ._files import json as json
    from ._files import parquet as parquet
    from ._files import text as text
    from ._kafka import kafka as kafka
    from ._page import page as page
    from ._redis import redis_counter as redis_counter
    from ._redis import redis_hash as redis_hash
    from ._redis import redis_ranking as redis_ranking
    from ._rejected import rejected as rejected
    from ._sql import sql as sql
    from ._sql import sql_table as sql_table
    from ._webhook import webhook as webhook

URIS = {
    "console": "_console",
    "delta": "_delta",
    "json": "_files",
    "kafka": "_kafka",
    "page": "_page",
    "parquet": "_files",
    "redis_counter": "_redis",
    "redis_hash": "_redis",
    "redis_ranking": "_redis",
    "rejected": "_rejected",
    "sql": "_sql",
    "text": "_files",
    "webhook": "_webhook",
}
"""Outputs that the command line knows, and the modules that define them."""

PUBLIC = {**URIS, "sql_table": "_sql"}

__all__ = list(PUBLIC)
__getattr__ = lazy(__name__, PUBLIC)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
