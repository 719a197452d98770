"""Batches of a range that run again beside the job, while that runs new ones: `sparkstream backfill`.

The request is a file of the home. As long as it is there, the job keeps what these batches need. Whoever carries it out
reads the home, and changes only what is in `backfill/`; the output `rejected` replaces its rows there, too.
"""

from __future__ import annotations

import logging
import time as clock
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from shlex import quote

from .context import Build, existing_home, live_session, observer
from .durations import Duration
from .engine import rewinds
from .engine.graph import Graph
from .engine.progress import tasks_done, watched
from .engine.retries import RETRY_FOR, StillFailing, until_done
from .errors import BatchFailed, HomeDamaged, UsageError
from .recovery import lease, storage
from .recovery.home import BACKFILL_LEASE, Backfill, Home
from .recovery.lease import Lease
from .recovery.offset_log import Again, Entry, OffsetLog

log = logging.getLogger(__name__)

_HOW = "add --backfill to its command, with the outputs that get them"


def reach(home: Home, offsets: OffsetLog) -> str:
    """What a backfill has done, or else which batches one can run again, for people."""
    asked = home.backfill()
    if asked is not None:
        done = f"done up to batch {asked.done}" if asked.done > asked.after else "none done yet"
        who = lease.holder(_lease(home))
        return f"asked for: {_words(asked)}, {done}, {f'by {who}' if who else f'not running: {_HOW}'}"
    first, last = rewinds.earliest(home, offsets), offsets.done_to
    if offsets.again is not None or first >= last:
        return rewinds.reach(home, offsets)
    once = rewinds.not_replacing(home.outputs())
    more = f"\nonly with --again: {', '.join(once)}" if once else ""
    return f"{rewinds.batches(offsets, first, last)} can run again beside the job: --from {first + 1} runs all{more}"


def request(home: Home, first: str, last: str | None, again: Sequence[str]) -> str:
    """Ask for the batches from one to another, or to the newest; returns what that does, for people.

    Each is the number of a batch, or a time: those recorded after the first and up to the last. UsageError for batches
    that are not there, and while others run again.
    """
    with _alone(home):
        offsets, asked = OffsetLog(home / "offsets"), home.backfill()
        if offsets.again is not None:
            raise UsageError(f"{offsets.again.batches} run again, after a rewind: wait until that is over")
        if asked is not None and asked.into:
            raise UsageError(
                f"a backfill of {_words(asked)} has begun: start it again to finish it, or give it up by --cancel"
            )
        after = rewinds.batch_at(offsets, "--from", first) - first.isdecimal()
        until = offsets.done_to if last is None else rewinds.batch_at(offsets, "--to", last)
        if last is not None and not last.isdecimal():
            until = min(until, offsets.done_to)
        # states start there; a young job may have some, and none saved
        states = storage.names(home / "state")
        kept_from = rewinds.saved_to(home, states, after, default=after if offsets.compacted_to.n else 0)
        new = Backfill(uuid.uuid4().hex[:8], after, until, after, kept_from, tuple(sorted(set(again))))
        home.note_backfill(new)  # before the look: soon the job keeps what is needed, and the start looks again
        earliest, newest = rewinds.earliest(home, OffsetLog(home / "offsets")), offsets.done_to
        if not earliest <= after < until <= newest:
            if asked is None:
                home.forget_backfill()
            else:
                home.note_backfill(asked)
            possible = (
                f"expected batches from {earliest + 1} to {newest}" if earliest < newest else "and none can run again"
            )
            got = f"--from {first}{f' --to {last}' if last else ''}"
            raise UsageError(f"got {got}, {possible}: {_command(home)} says more")
    return (
        f"asked for: {rewinds.batches(offsets, after, until)}. To run them beside the job, {_HOW}; until that is done, "
        f"the job keeps what it needs ({_command(home)} --cancel gives it up)"
    )


def cancel(home: Home) -> str:
    """Give a backfill up; UsageError if there is none, or while it runs."""
    with _alone(home):
        try:
            asked = home.backfill()
            if asked is None:
                raise UsageError("no backfill is asked for: there is nothing to cancel")
        except HomeDamaged:
            asked = None
        home.forget_backfill()
    if asked is None:
        return "given up: a backfill whose request was damaged"
    done = [f"{Again(asked.after, asked.done).batches} had run again"] if asked.done > asked.after else []
    begun = [f"batch {asked.done + 1} may have, in some outputs"] if asked.into and asked.done < asked.until else []
    return "; ".join([f"given up: {_words(asked)}", *done, *begun])


def backfill(home: str, build: Build, *, batch_interval: Duration | None = None, retry_for: float = RETRY_FOR) -> int:
    """Run the batches again that `sparkstream backfill` asked for, with this code; returns how many it has run.

    `build` is what `get_or_create` gets, and `batch_interval` that of the job, which may run meanwhile. Each output
    that `build` defines and that keeps its results gets these batches, in their order, with their times and offset
    ranges; leave out those that should not. States start from their snapshot before the first batch, and those of the
    job stay as they are. Killed, or ended by an error, it continues with the batch that was not done when it is called
    again.

    Guarantee: that of each output when batches run again. One that replaces its batches has each of them once, also
    while the job writes others; the rest write them once more, if the request names them: exactly once for `sql` and
    Redis. A ranking in Redis stays that of the newest batch.

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
    asked for: batch 1 (recorded ... UTC). To run them beside the job, add --backfill to its command, ...
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
        try:
            return _run(graph, _checked(graph, asked), held, retry_for)
        finally:
            with suppress(Exception):  # a JVM that is gone took all of it along
                graph.drop_everything()


def _checked(graph: Graph, asked: Backfill) -> Backfill:
    """Refuse what cannot run again, then note the outputs; no batch is written before."""
    home, offsets = graph.home, graph.log
    give_up = f"give this backfill up by {_command(home)} --cancel"
    if offsets.again is not None:
        raise UsageError(f"{offsets.again.batches} run again, after a rewind: start the backfill when that is over")
    if asked.after < offsets.reset_after:
        raise UsageError(f"batches up to {offsets.reset_after} cannot run again since the clock was reset: {give_up}")
    earliest = max(rewinds.earliest(home, offsets), graph.rewindable_from())
    if asked.after < earliest:
        instead = f", and ask for one from batch {earliest + 1} at the earliest" if earliest < offsets.done_to else ""
        raise UsageError(
            f"batch {asked.after + 1} cannot run again, as a window or a state needs batches that are gone: {give_up}"
            f"{instead}"
        )
    graph.check_states()
    _check_sources(graph, asked)
    begun = asked._replace(into=_checked_outputs(graph, asked, give_up))
    with watched("checking the job"):
        graph.check()
    for output in (graph.outputs[name] for name in begun.into):
        if output.replaces and output.rewind is not None:
            output.rewind(graph.batch(offsets[asked.after] if asked.after else Entry(0, 0)), asked.until)
    home.note_backfill(begun)
    return begun


def _checked_outputs(graph: Graph, asked: Backfill, give_up: str) -> tuple[str, ...]:
    """The outputs that get the batches; UsageError if others did, or if one would write them once more."""
    home = graph.home
    into = tuple(sorted(name for name, output in graph.outputs.items() if output.lasting))
    if not into:
        raise UsageError("the job has no output that keeps its results: there is nothing to run again")
    if asked.into and into != asked.into:
        raise UsageError(
            f"the backfill has begun with the outputs {', '.join(asked.into)}, and the job has {', '.join(into)} now: "
            f"start it with these, or {give_up}"
        )
    unknown = [name for name in asked.outputs if name not in into]
    if unknown:
        raise UsageError(f"the job has no output {unknown[0]!r}, only {', '.join(into)}: correct --again")
    known = {*home.outputs(), *home.backfilled()}
    once = [name for name in into if not graph.outputs[name].replaces and name not in asked.outputs]
    once = [name for name in once if name in known or not home.outputs()]
    if once and not asked.into:
        options = " ".join(f"--again {quote(name)}" for name in [*asked.outputs, *once])
        raise UsageError(
            f"{_words(asked)} would be written once more by {', '.join(once)}, which cannot replace what is there: "
            f"rows then count twice, or older values take the place of newer ones. Leave that out of the command, or "
            f"accept it by {_command(home)} --from {asked.after + 1} --to {asked.until} {options}"
        )
    return into


def _check_sources(graph: Graph, asked: Backfill) -> None:
    """UsageError for a source that these batches, or those that states and windows read before them, have read."""
    loaded = rewinds.saved_to(graph.home, graph.states, asked.after, default=asked.after)
    first = max(loaded, graph.log.compacted_to.n) + 1
    since = graph.log[first].time - graph.look_back()
    for entry in graph.log.after(0):
        is_read = entry.n >= first or entry.time > since
        gone = [name for name in entry.ranges if name not in graph.sources]
        if is_read and gone and entry.n <= asked.until:
            raise UsageError(
                f"batch {entry.n} has input from the source {gone[0]!r}, which the job no longer has: start the "
                "backfill with that source once more"
            )


def _run(graph: Graph, asked: Backfill, held: Lease, retry_for: float) -> int:
    """Run the batches that are left; how many these were."""
    home, entries = graph.home, [entry for entry in graph.log.after(asked.done) if entry.n <= asked.until]
    for entry in entries:
        graph.fit_shuffles()
        started = clock.monotonic()
        steps = {
            f"output {name!r}": partial(graph.write, graph.outputs[name], entry, held.check) for name in asked.into
        }
        try:
            with watched(f"batch {entry.n}", partial(tasks_done, graph.session)):
                for some in (steps, {"computation of states": graph.settle}):
                    until_done(graph, entry.n, some, errors={}, retry_for=retry_for)
        except StillFailing as error:
            what = f"batch {entry.n}: {error}; "
            if error.in_vain:
                what += f"each try fails in the same way: mend the job, or give it up by {_command(home)} --cancel"
            else:
                what += "the backfill continues with this batch when it is started again"
            raise BatchFailed(what) from error.cause
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
