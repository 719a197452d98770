"""Batches of a range that run again beside the job, while that runs new ones: `sparkstream backfill`.

The request is a file of the home. As long as it is there, the job keeps what these batches need. Whoever carries it out
reads the home, and changes nothing in it but that file, which says how far it is.
"""

from __future__ import annotations

import logging
import time as clock
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from shlex import quote

from .context import Build, existing_home, live_session, observer
from .durations import Duration
from .engine import rewinds
from .engine.graph import Graph
from .engine.progress import tasks_done, watched
from .engine.retries import RETRY_FOR, StillFailing, until_done
from .errors import BatchFailed, UsageError
from .recovery import lease
from .recovery.home import BACKFILL_LEASE, Backfill, Home
from .recovery.lease import Lease
from .recovery.offset_log import Again, Entry, OffsetLog

log = logging.getLogger(__name__)


def reach(home: Home, offsets: OffsetLog) -> str:
    """What a backfill has done, or else which batches one can run again, for people."""
    asked = home.backfill()
    if asked is not None:
        done = f"done up to batch {asked.done}" if asked.done > asked.after else "none of them done yet"
        who = lease.holder(_lease(home))
        return (
            f"{_words(asked)} run again, {done}{f', by {who}' if who else ': add --backfill to the command of the job'}"
        )
    first, last = rewinds.earliest(home, offsets), offsets.done_to
    if offsets.again is not None or first >= last:
        return rewinds.reach(home, offsets)
    once = [name for name, replaces in home.outputs().items() if not replaces]
    more = f"\nonly with --again: {', '.join(once)}" if once else ""
    return f"{rewinds.batches(offsets, first, last)} can run again beside the job: --from {first + 1} runs all{more}"


def request(home: Home, offsets: OffsetLog, first: str, last: str | None, again: Sequence[str]) -> str:
    """Ask for the batches from one to another, or to the newest; returns what that does, for people.

    Each is the number of a batch, or a time: those recorded after the first and up to the last. UsageError for batches
    that are not there, and while others run again.
    """
    if offsets.again is not None:
        raise UsageError(f"{offsets.again.batches} run again, after a rewind: wait until that is over")
    with _alone(home):
        asked = home.backfill()
        if asked is not None and asked.done > asked.after:
            raise UsageError(
                f"a backfill of {_words(asked)} has come to batch {asked.done}: let it go on, or give it up by --cancel"
            )
        after = rewinds.batch_at(offsets, "--from", first) - first.isdecimal()
        until = offsets.done_to if last is None else rewinds.batch_at(offsets, "--to", last)
        earliest = rewinds.earliest(home, offsets)
        if not earliest <= after < until <= offsets.done_to:
            possible = (
                f"from {earliest + 1} to {offsets.done_to}" if earliest < offsets.done_to else "and there are none"
            )
            got = f"--from {first}{f' --to {last}' if last else ''}"
            raise UsageError(f"got {got}, expected batches {possible}: {_command(home)} says what can run again")
        new = Backfill(uuid.uuid4().hex[:8], after, until, after, tuple(sorted(set(again))))
        home.note_backfill(new)
    return (
        f"{rewinds.batches(offsets, after, until)} run again once the command of the job is started with --backfill, "
        f"beside the job; until they are done, it keeps what they need ({_command(home)} --cancel gives them up)"
    )


def cancel(home: Home) -> str:
    """Give a backfill up; UsageError if there is none, or while it runs."""
    with _alone(home):
        asked = home.backfill()
        if asked is None:
            raise UsageError("no backfill is asked for: there is nothing to cancel")
        home.forget_backfill()
    done = f"; {Again(asked.after, asked.done).batches} had run again" if asked.done > asked.after else ""
    return f"the backfill of {_words(asked)} is given up{done}"


def backfill(home: str, build: Build, *, batch_interval: Duration | None = None, retry_for: float = RETRY_FOR) -> int:
    """Run the batches again that `sparkstream backfill` asked for, with this code; returns how many it has run.

    `build` is what `get_or_create` gets, and `batch_interval` that of the job, which may run meanwhile. Each output
    that `build` defines gets these batches, in their order, with their times and offset ranges; leave out those that
    should not. States start from their snapshot before the first batch, and the states of the job stay as they are.
    Killed, or ended by an error, it goes on when it is called again: with the batch that was not done.

    Guarantee: that of each output after a rewind. One that replaces its batches has each of them once, also while the
    job writes others; the rest write them once more, if the request names them: exactly once for `sql` and Redis. A
    ranking in Redis stays that of the newest batch.

    Raises UsageError if no backfill is asked for or another process runs it, if a window or a state needs batches that
    are gone, and for outputs that cannot replace theirs and are not named; OutputRefused for batches that were merged;
    BatchFailed for a step that still fails after `retry_for` seconds.

    Cost: that of the batches, and of those that states and windows compute before them.

    >>> import tempfile
    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit import cli
    >>> from sparkstream_kit.testing import local_session
    >>> spark, home, out = local_session(), tempfile.mkdtemp(), []
    >>> def build(ssc, factor=1):
    ...     lines = ss.sources.generator(ssc, count=5)
    ...     count = lines.count().select((F.col("count") * factor).alias("n"))
    ...     count.for_each_batch(lambda frame, batch: out.append((batch.n, frame.first().n)), replaces=True)
    >>> from pyspark.sql import functions as F
    >>> ssc = ss.get_or_create(build, batch_interval="100ms", home=home, drain=True, keep_batches=100)
    >>> ss.run(ssc, lambda: out, poll="10ms")
    0
    >>> cli.main(["backfill", home, "--from", "1"])  # doctest: +ELLIPSIS
    batch 1 (recorded ... UTC) run again once the command of the job is started with --backfill, ...
    0
    >>> ss.backfill(home, lambda ssc: build(ssc, factor=10)), out
    (1, [(1, 5), (1, 50)])
    """
    live_session()
    here = existing_home(home)
    if here.backfill() is None:
        raise UsageError(f"no backfill is asked for: {_command(here)} --from N --to N asks for one")
    with _alone(here) as held:
        asked = here.backfill()
        if asked is None:
            raise UsageError("the backfill was given up meanwhile")
        graph = observer(here, OffsetLog(here / "offsets"), build, batch_interval)
        graph.backfill = asked
        _check(graph, asked)
        return _run(graph, asked, held, retry_for)


def _check(graph: Graph, asked: Backfill) -> None:
    """Refuse what cannot run again, and tell the outputs; nothing is written before."""
    home, offsets = graph.home, graph.log
    if offsets.again is not None:
        raise UsageError(f"{offsets.again.batches} run again, after a rewind: start the backfill when that is over")
    earliest = max(rewinds.earliest(home, offsets), graph.rewindable_from())
    if asked.after < earliest:
        raise UsageError(
            f"batch {asked.after + 1} cannot run again, as a window or a state needs batches that are gone: give this "
            f"backfill up by {_command(home)} --cancel, and ask for one from batch {earliest + 1} at the earliest"
        )
    if not graph.outputs:
        raise UsageError("the job defines no output: there is nothing to run again")
    unknown = [name for name in asked.outputs if name not in graph.outputs]
    if unknown:
        raise UsageError(f"the job has no output {unknown[0]!r}, only {', '.join(graph.outputs)}: correct --again")
    known = home.outputs()
    once = [
        name
        for name, output in graph.outputs.items()
        if output.lasting and not output.replaces and (name in known or not known) and name not in asked.outputs
    ]
    if once:
        options = " ".join(f"--again {quote(name)}" for name in [*asked.outputs, *once])
        raise UsageError(
            f"{_words(asked)} would be written once more by {', '.join(once)}, which cannot replace what is there: "
            f"rows then count twice, or older values take the place of newer ones. Leave that out of the command, or "
            f"accept it by {_command(home)} --from {asked.after + 1} --to {asked.until} {options}"
        )
    with watched("checking the job"):
        graph.check()
    for output in graph.outputs.values():
        if output.replaces and output.rewind is not None:
            output.rewind(graph.batch(offsets[asked.after] if asked.after else Entry(0, 0)), asked.until)


def _run(graph: Graph, asked: Backfill, held: Lease, retry_for: float) -> int:
    """Run the batches that are left; how many these were."""
    home, entries = graph.home, [entry for entry in graph.log.after(asked.done) if entry.n <= asked.until]
    for entry in entries:
        graph.fit_shuffles()
        started, outputs = clock.monotonic(), graph.outputs.items()
        steps = {f"output {name!r}": partial(graph.write, output, entry, held.check) for name, output in outputs}
        try:
            with watched(f"batch {entry.n}", partial(tasks_done, graph.session)):
                for some in (steps, {"states": graph.settle}):
                    until_done(graph, entry.n, some, errors={}, retry_for=retry_for)
        except StillFailing as error:
            raise BatchFailed(
                f"batch {entry.n}: {error}; the backfill stays where it is, and continues with this batch when it is "
                "started again"
            ) from error.cause
        graph.drop_contexts()
        held.check()
        home.note_backfill(asked._replace(done=entry.n))
        of = f"{entry.n - asked.after} of {asked.until - asked.after}"
        log.info("batch %d has run again in %.1f s, %s", entry.n, clock.monotonic() - started, of)
    home.forget_backfill()
    return len(entries)


def _alone(home: Home) -> AbstractContextManager[Lease]:
    return lease.alone(_lease(home), "a backfill of this home is being run")


def _lease(home: Home) -> str:
    return home / BACKFILL_LEASE


def _words(asked: Backfill) -> str:
    return Again(asked.after, asked.until).batches


def _command(home: Home) -> str:
    return f"sparkstream backfill {quote(home.root)}"
