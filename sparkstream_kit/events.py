"""What happens to a job, as typed events for functions that want to know (`ss.listen`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from .contracts import OffsetRange, Size


@dataclass(frozen=True)
class JobStarted:
    """The job is built and checked; its batches come next."""

    home: str
    """Path of the home, with its file system."""
    after: int
    """Number of the last batch of earlier runs; 0 if there was none."""
    starts: int
    """How often a driver has taken the home, this one included."""


@dataclass(frozen=True)
class BatchDone:
    """All outputs of a batch are written, its states have advanced, and it will not run again."""

    n: int
    time: datetime
    """Recorded time, in UTC."""
    seconds: float
    """From the first step to the done mark, with the pauses before retries."""
    delay: float
    """Seconds from the recorded time to the end, by Spark's clock: what Spark calls the total delay."""
    ended: float
    """When that was, by the machine's clock, in seconds since 1970."""
    phases: Mapping[str, float]
    """Seconds of each phase: plan (asking the sources), prepare (keeping and recording the input), outputs, states
    and snapshots. What an output needs of a state is computed by the output."""
    ranges: Mapping[str, OffsetRange]
    """The offset range of each source that had data."""
    sizes: Mapping[str, Size]
    """How much each source had in that range."""
    lags: Mapping[str, Size]
    """How much each source has beyond the batch, as known when that was planned."""
    rows: Mapping[str, int]
    """The rows of each output that counts them: sql, redis, webhook, rejected, and files of rejected lines."""
    rejected: int | None
    """Rows of the streams of rejected lines that an output took; None if no output takes them."""
    retries: Mapping[str, int]
    """How often each step was tried again, such as "output 'sql:hits'"."""
    errors: Mapping[str, str]
    """The last error of each of these."""
    states: Mapping[str, Size]
    """Rows and bytes of each state, as known since it was last saved, which is every 20 batches."""
    totals: Mapping[str, int] = field(default_factory=dict)
    """Sums since the home was made, this batch included: records, bytes, rejected, batches, retries, and those of each
    source and output, such as source.files.records and output.sql:hits.rows. A batch counts once, whatever ends the
    job."""

    @property
    def began(self) -> float:
        """When its planning began, by the machine's clock, in seconds since 1970."""
        return self.ended - self.seconds - self.phases.get("plan", 0) - self.phases.get("prepare", 0)

    @property
    def records(self) -> int | None:
        """Records of all sources; None if one of them does not know."""
        return _sum([size.records for size in self.sizes.values()])

    @property
    def bytes(self) -> int | None:
        """Bytes of all sources; None if one of them does not know."""
        return _sum([size.bytes for size in self.sizes.values()])


@dataclass(frozen=True)
class StepFailed:
    """A step of a batch, or of planning one, failed and will be tried again."""

    n: int | None
    """Number of the batch; None while the next one is planned."""
    step: str
    """Such as "output 'sql:hits'"."""
    error: str
    pause: float
    """Seconds until the next try."""


@dataclass(frozen=True)
class JobFailed:
    """The job ends now, as nothing runs past a failed batch; the next start continues."""

    error: str


@dataclass(frozen=True)
class JobStopped:
    """The job stopped gracefully."""

    batches: int
    """Batches of this run."""
    drained: bool
    """Whether a drain has reached its end."""


Event = JobStarted | BatchDone | StepFailed | JobFailed | JobStopped

Listener = Callable[[Event], object]


def _sum(parts: list[int | None]) -> int | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
