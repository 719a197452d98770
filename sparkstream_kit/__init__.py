"""DStreams you can put in production from Python: batches are DataFrames, and no crash loses or doubles a record.

    import sparkstream_kit as ss

Two layers: helpers for the StreamingContext and DStreams you have, each usable alone, and `FrameStream`, a DStream
whose batches are DataFrames. What is listed in `__all__` here and in `sources`, `outputs` and `transforms` is public;
names are imported when they are first used.
"""

from typing import TYPE_CHECKING

from . import _spark
from ._lazy import lazy

if TYPE_CHECKING:
    from . import aggregates as aggregates
    from . import checks as checks
    from . import events as events
    from . import outputs as outputs
    from . import settings as settings
    from . import sources as sources
    from . import testing as testing
    from . import transforms as transforms
    from .backfills import backfill as backfill
    from .context import get_or_create as get_or_create
    from .context import live_session as live_session
    from .contracts import Batch as Batch
    from .contracts import Size as Size
    from .contracts import Source as Source
    from .dstreams import each_batch as each_batch
    from .dstreams import each_frame as each_frame
    from .dstreams import running_sum as running_sum
    from .dstreams import text_files as text_files
    from .dstreams import window_and_slide as window_and_slide
    from .errors import BatchFailed as BatchFailed
    from .errors import CheckpointRefused as CheckpointRefused
    from .errors import Fenced as Fenced
    from .errors import HomeDamaged as HomeDamaged
    from .errors import HomeInUse as HomeInUse
    from .errors import InputLost as InputLost
    from .errors import KitError as KitError
    from .errors import MissingLibrary as MissingLibrary
    from .errors import NewerFormat as NewerFormat
    from .errors import OutputRefused as OutputRefused
    from .errors import ReceiverFailed as ReceiverFailed
    from .errors import StateRefused as StateRefused
    from .errors import StopRequested as StopRequested
    from .errors import UsageError as UsageError
    from .frames import FrameStream as FrameStream
    from .job import JobOutput as JobOutput
    from .job import JobSource as JobSource
    from .job import main as main
    from .job import program as program
    from .lifecycle import run as run
    from .lifecycle import start as start
    from .lifecycle import stop_on_marker as stop_on_marker
    from .lifecycle import stop_when as stop_when
    from .listeners import listen as listen
    from .notebooks import show as show
    from .page.server import serve_page as serve_page
    from .states import StateAt as StateAt
    from .states import read_state as read_state
    from .tracing import spans as spans

__version__ = "0.1.0"

PUBLIC = {
    "aggregates": ".",
    "checks": ".",
    "events": ".",
    "outputs": ".",
    "settings": ".",
    "sources": ".",
    "testing": ".",
    "transforms": ".",
    "backfill": "backfills",
    "get_or_create": "context",
    "live_session": "context",
    "Batch": "contracts",
    "Size": "contracts",
    "Source": "contracts",
    "each_batch": "dstreams",
    "each_frame": "dstreams",
    "running_sum": "dstreams",
    "text_files": "dstreams",
    "window_and_slide": "dstreams",
    "BatchFailed": "errors",
    "CheckpointRefused": "errors",
    "Fenced": "errors",
    "HomeDamaged": "errors",
    "HomeInUse": "errors",
    "InputLost": "errors",
    "KitError": "errors",
    "MissingLibrary": "errors",
    "NewerFormat": "errors",
    "OutputRefused": "errors",
    "ReceiverFailed": "errors",
    "StateRefused": "errors",
    "StopRequested": "errors",
    "UsageError": "errors",
    "FrameStream": "frames",
    "JobOutput": "job",
    "JobSource": "job",
    "main": "job",
    "program": "job",
    "run": "lifecycle",
    "start": "lifecycle",
    "stop_on_marker": "lifecycle",
    "stop_when": "lifecycle",
    "listen": "listeners",
    "show": "notebooks",
    "serve_page": "page.server",
    "StateAt": "states",
    "read_state": "states",
    "spans": "tracing",
}

_spark.prepare()

__all__ = list(PUBLIC)
__getattr__ = lazy(__name__, PUBLIC)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
