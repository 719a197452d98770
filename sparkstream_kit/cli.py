"""The `sparkstream` command: what operators do from outside a job.

    sparkstream archive FILE.zip      write the package as one archive for spark-submit --py-files
    sparkstream peek DIRECTORY        look at logs before a job reads them: format, rotation, command
    sparkstream status HOME           show a job's health and progress: newest batches, lag, outputs, states
    sparkstream state HOME [NAME]     show what a state holds, as of a batch
    sparkstream stop HOME [--wait]    stop the job of a home gracefully
    sparkstream replay-rejected HOME DIRECTORY
                                      return rejected lines to a job that reads the directory
    sparkstream rebuild HOME --from URL
                                      recreate a lost home from the ledger in its SQL output
    sparkstream compact FOLDER        compact the small Parquet files of an output
    sparkstream skip HOME N           set aside the input of a batch that can never be finished
    sparkstream rewind HOME --to N    run batches again, with the code that the job has now
    sparkstream backfill HOME --from N
                                      run some of them again while the job runs new ones
    sparkstream reset-clock HOME      bring back times recorded while the clock was ahead
    sparkstream packages              print what spark-submit --packages needs for the source kafka

A home on a local disk is read without Spark. Any other file system, compact, peek, rebuild, replay-rejected and the
rows of a state start the JVM and take a few seconds longer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import __version__, _lazy, _spark, backfills, states
from .bridge import jvm, kafka
from .context import existing_home, live_session
from .engine import clocks, rewinds
from .errors import KitError, UsageError
from .outputs import _compaction, _rejected
from .peek import peek
from .recovery import lease, snapshots, storage
from .recovery.home import Home
from .recovery.offset_log import Entry, OffsetLog
from .redaction import printable, printable_lines
from .status import EXIT_CODES, describe, left, status

PEEK = """\
Look at a directory of logs before a job reads it: the logs there are and how they are rotated, the format that most
lines of each have, how many lines it would reject and why, and the command that reads them.

    sparkstream peek /var/log/apache2
    sparkstream peek hdfs:///logs --glob '**/access*'
    sparkstream peek /var/log/nginx --format '%h %l %u %t "%r" %>s %b %D'

It sees what the source files: would see with the same options, and parses as jobs do, but reads up to 1,000 lines of
each of 20 files only, and writes nothing. Exit code 2: the directory is missing or empty, or no file matches.
"""


STATUS = """\
Show a job's health in a word, with the reason, and its progress: the newest batches, what waits in its sources, its
outputs and states, and who runs it. Nothing is changed, whether or not the job runs.

    sparkstream status /data/access.home --watch
    sparkstream status hdfs:///apps/access --json | jq .reason

The exit code tells the health to monitors: {codes}. 2: it cannot be read. docs/operate.md explains each, and every
field of the JSON.
"""


STATE = """\
Show what a state holds as a table: what it was after its newest snapshot, one of which is written every 20 batches and
at a graceful stop, or after that of batch N. Nothing is changed, whether or not the job runs.

    sparkstream state /data/access.home                         the states there are, and their snapshots
    sparkstream state /data/access.home by-client_ip
    sparkstream state /data/access.home by-client_ip --at 60 --rows 1000000 --json | jq -c 'select(.hits > 100)'

For a batch without a snapshot the job computes the state from the input, which it reads again: add --state NAME@N to
the command that starts it, or --state NAME for the newest batch. That also changes nothing, and the job may run.
"""


CLEAR = "\x1b[H\x1b[2J"
"""Makes a terminal empty."""

EVERY = 2.0
"""Seconds between two looks of --watch."""


COMPACT = """\
Merge the batches of a Parquet output, all but the newest, into files of 128 MiB.

    --output requests=parquet:/data/logs    is compacted by    sparkstream compact /data/logs/requests

Run it hourly or daily, from cron: the job keeps running and needs no restart. Rows keep their columns and partitions;
their `batch` becomes that of the newest batch that was merged. A reader that runs during the exchange, about a second
at the end, misses rows or fails: let it retry, or write a Delta table. A compaction that was killed is finished by the
next one. Spark runs in this process, on every core: PYSPARK_SUBMIT_ARGS="--driver-memory 4g pyspark-shell" gives it
more memory, and --master in there a cluster.
"""


REPLAY = """\
Return the lines that the output rejected: has kept to a job: they are written into DIRECTORY, one new file for each
batch, and removed from the home. Batches that are not done yet are left to a later replay. What no file can return,
nulls and lines with a line break in them, stays in the home.

    --source files:/data/logs --home /data/access.home --output rejected=rejected:
    sparkstream replay-rejected /data/access.home /data/logs

The job that reads the directory takes them like any new line, with the parser it has now, into the results of the same
home, once. For a job with another source, drain the files into a home of its own. A replay that was killed is finished
by the next one.
"""


REBUILD = """\
Recreate a lost home from the ledger that the output sql: keeps in its database: the job continues with the first record
that is not in there, and none is doubled.

    sparkstream rebuild /data/access.home --from postgresql://kit@db/logs

The newest batch in the ledger runs again, for outputs that do not have it. Directories of files may hold one more, cut
at another offset: remove it. While the ledger still has every batch, up to 1,000 of each output, states and windows are
rebuilt from the sources; after that they start empty, so do not rebuild a job that writes running states with upsert.

The source files: continues as long as its directory still has the files that were read, of the same sizes and first in
the order of their times; where files with older times arrived later, as mv and rsync bring them, it refuses. What
receivers had brought is lost with the home, and a job that still needs it refuses to start. Pass a password by
PGPASSWORD or ~/.pgpass rather than in the URL.
"""


SKIP = """\
Set aside the input of an unfinished batch that fails each time, such as a row that a step cannot compute.

    sparkstream skip /data/access.home 47 --reason "two rows overflow the sum, see ticket 12"

The next start copies the rows of the batch, as its sources read them, to HOME/skipped/47/SOURCE, as Parquet, and runs
it without: states and windows never see them. Of a source that fails because of what it reads, nothing can be copied:
the log has its offsets. Outputs that had written the batch before it failed keep what they have.
The job must not be running. Mend the job first if you can: an unfinished batch runs again at each start, with the code
that the job has then.
"""


REWIND = """\
Let a job run batches again, with their input and the code that it has at the next start, as after a mistake in it.

    sparkstream stop /data/access.home --wait
    sparkstream rewind /data/access.home                              what can run again
    sparkstream rewind /data/access.home --to 4711                    all batches after 4711
    sparkstream rewind /data/access.home --to "2026-11-29 08:30"      all that are recorded after that time, in UTC

The next start runs them one after the other, with the offset ranges that they had, then goes on; killed, it goes on
where it was. States are computed again, with that code, from their newest snapshot up to batch N (sparkstream state
HOME lists them). Each output replaces what it has of a batch when that batch is done again: text, json, parquet, delta,
rejected, redis-ranking, and sql with batch_column=. Any other writes its batches once more (exactly once for sql
and Redis), which --again has to accept: appended rows are doubled, sums count twice, and keys that no longer come stay.

A job keeps what its windows and its newest two snapshots need, usually 20 to 40 batches, and after a graceful stop
only what windows need. --keep-batches N, given to the job, keeps as many batches, with snapshots among them. What the
sources read must still be there: files under their paths, records of Kafka within its retention. Tables of enrich have
the versions that they had, and batches that were skipped stay without their input.

A request that no start has begun to carry out is taken back by --cancel.
"""


BACKFILL = """\
Let some batches run again, with changed code or into a new output, while the job runs new ones.

    sparkstream backfill /data/access.home                                    what can run again, or how far it is
    sparkstream backfill /data/access.home --from 4711 --to 4800              these batches
    sparkstream backfill /data/access.home --from "2026-11-29 08:30"          those recorded after that time, in UTC
    python job.py --home /data/access.home --source ... --output ... --backfill     runs them

The last command is that of the job, with --backfill at its end, the code that is meant now, and the outputs that the
batches are for: each that it names, and no other, gets them. It is a process of its own, which ends when they are done
(exit code 0); killed or failed, the same command goes on where it was.

text, json, parquet, delta, rejected, and sql with batch_column= replace what they have of a batch. Any other output
writes it once more (exactly once for sql and Redis), which --again has to accept, unless neither the job nor a backfill
has written it before: rows are doubled, and older values take the place of newer ones. redis-ranking stays as it is.

States start from their newest snapshot before the first batch, and take the batches from there on with the new code.
The states of the job stay as they are: what a mistake has put into them is in every later batch, too, and only
sparkstream rewind mends that.

It reaches as far back as a rewind, which --keep-batches of the job decides: see sparkstream rewind --help. From the
request on, until its batches are done, the job keeps what they need, however much that becomes; --cancel gives it up.
"""


RESET = """\
Bring back the times of a home that were recorded while the machine's clock was ahead, once the clock is right again.
`sparkstream status` says whether there are any.

    sparkstream stop HOME --wait
    sparkstream reset-clock HOME

What was recorded ahead of the clock then counts as recorded now: windows slide and keys expire from here on, as if
these batches had just come. Watermarks go back, too, so rows dated from now on are not late; an event-time window or
session that was closed while the clock was ahead gives a second result if such rows belong to it. No row is read again,
and none is left out. The job must have stopped gracefully. A generator waits until the clock has caught up.
"""


PACKAGES = """\
Print the Maven coordinates of the libraries that the installed Spark needs beside the kit: its connector for Kafka.

    spark-submit --packages "$(sparkstream packages)" ...
    python job.py --conf spark.jars.packages="$(sparkstream packages)" ...

docs/kafka.md has the versions, and what to do on a machine without access to a Maven repository.
"""


PARTS = {".py", ".properties", ".html", ".css", ".js"}
"""Kinds of the files that the package consists of."""


def archive(target: Path) -> None:
    """Write the package into a zip file, with the same bytes for the same sources."""
    package = Path(__file__).parent
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
        for file in sorted(file for file in package.rglob("*") if file.suffix in PARTS):
            entry = zipfile.ZipInfo(str(Path(package.name) / file.relative_to(package)), (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(entry, file.read_bytes())


def stop(home: Home, *, wait: bool) -> None:
    """Delete the marker; with `wait`, return when no driver runs the job any more."""
    storage.delete(home / "RUNNING")
    announced = ""
    while wait and (holder := lease.holder(home / "lease")):
        if holder != announced:
            print(f"waiting for {holder}", file=sys.stderr, flush=True)
            announced = holder
        time.sleep(0.5)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    return _reported(lambda: options.run(options))


def _reported(run: Callable[[], int | None]) -> int:
    """Run; an error is one sentence on standard error, and its exit code."""
    try:
        return run() or 0
    except KitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        raise
    except (OSError, ValueError, jvm.JavaError) as error:  # what is there cannot be read or written
        print(f"error: {jvm.reason(error)}", file=sys.stderr)
        return UsageError.exit_code


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("sparkstream", description=__doc__, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"{__version__}, {_spark.describe()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, does: str, run: Callable[[argparse.Namespace], int | None], more: str = "") -> Any:
        added = commands.add_parser(name, help=does, description=more or does, formatter_class=raw)
        added.set_defaults(run=run)
        return added.add_argument

    add = command("archive", "write the package as one archive for spark-submit --py-files", _archive)
    add("file", type=Path)
    add = command("peek", "look at logs before a job reads them: format, rotation, command", _peek, PEEK)
    add("directory")
    add("--glob", default="*", help="the files, as in files:DIRECTORY?glob=... (default: *)")
    add("--encoding", default="utf-8", help="of the files (default: utf-8)")
    add("--format", action="append", default=[], help="a format string to try beside the formats that have a name")
    codes = ", ".join(f"{health} {code}" for health, code in EXIT_CODES.items())
    does = "show a job's health and progress: newest batches, lag, outputs, states, who runs it"
    add = command("status", does, _status, STATUS.format(codes=codes))
    add("home")
    add("--json", action="store_true", help="as one JSON object; docs/operate.md has the schema")
    add("--watch", action="store_true", help="show it again every two seconds, until Ctrl-C; with --json a line each")
    add = command("state", "show what a state holds, as of a batch", _state, STATE)
    add("home")
    add("name", nargs="?", help="of the state; without it, list the states of the home")
    add("--at", type=int, metavar="N", help="after batch N (default: the newest snapshot)")
    add("--rows", type=int, default=20, metavar="N", help="at most this many (default: 20)")
    add("--json", action="store_true", help="a JSON object for each row")
    add = command("stop", "stop the job of a home gracefully", _stop)
    add("home")
    add("--wait", action="store_true", help="return when it has stopped; exit code 1 if it was not drained")
    add = command("replay-rejected", "return rejected lines to a job that reads a directory", _replay, REPLAY)
    add("home")
    add("directory")
    add("--name", default="rejected", help="of the output that kept them (default: rejected)")
    add = command("rebuild", "recreate a lost home from the ledger in its SQL output", _rebuild, REBUILD)
    add("home")
    add("--from", dest="url", required=True, metavar="URL", help="sqlite:///FILE or postgresql://USER@HOST/DATABASE")
    add("--id", help="of the home, if the database knows several")
    add = command("compact", "compact the small Parquet files of an output", _compact, COMPACT)
    add("folder", help="DIRECTORY/NAME of an output parquet:DIRECTORY, on any file system Spark knows")
    add = command("skip", "set aside the input of a batch that can never be finished", _skip, SKIP)
    add("home")
    add("batch", type=int, metavar="N", help="its number, which the error of the job names")
    add("--reason", default="", help="kept with the batch and logged")
    add = command("rewind", "run batches again, with the code that the job has now", _rewind, REWIND)
    add("home")
    either = commands.choices["rewind"].add_mutually_exclusive_group().add_argument
    either("--to", metavar="N|TIME", help="run all batches after batch N, or recorded after a time in UTC, again")
    add("--again", action="append", default=[], metavar="OUTPUT", help="accept that an output writes them once more")
    either("--cancel", action="store_true", help="take the request back")
    add = command("backfill", "run some batches again, while the job goes on", _backfill, BACKFILL)
    add("home")
    either = commands.choices["backfill"].add_mutually_exclusive_group().add_argument
    either("--from", dest="first", metavar="N|TIME", help="the first batch, or those recorded after a time in UTC")
    add("--to", metavar="N|TIME", help="the last batch, or those recorded up to a time (default: the newest)")
    add("--again", action="append", default=[], metavar="OUTPUT", help="accept that an output writes them once more")
    either("--cancel", action="store_true", help="give the batches up that are not done")
    add = command("reset-clock", "bring back times recorded while the clock was ahead", _reset_clock, RESET)
    add("home")
    command("packages", "print what spark-submit --packages needs for the source kafka", _packages, PACKAGES)
    return parser


def _archive(options: argparse.Namespace) -> None:
    archive(options.file)


def _packages(_: argparse.Namespace) -> None:
    print(kafka.PACKAGE)


def _peek(options: argparse.Namespace) -> None:
    session = live_session()
    said = peek(session, options.directory, options.glob, encoding=options.encoding, formats=options.format)
    _print(said)


def _status(options: argparse.Namespace) -> int:
    is_screen = sys.stdout.isatty()

    def show() -> int:
        facts = status(existing_home(options.home))
        if options.json:
            text = json.dumps(facts, indent=None if options.watch else 2)
        else:
            text = describe(facts, coloured=is_screen and not os.environ.get("NO_COLOR"))
        if options.watch and not options.json:
            text = f"{CLEAR}{_fitting(text)}" if is_screen else f"{text}\n"
        _print(text)
        return EXIT_CODES[facts["health"]]

    return _again(show) if options.watch else show()


def _fitting(text: str) -> str:
    """As many lines as a terminal has, so that the first one stays in sight, and none longer than it is wide."""
    width, height = shutil.get_terminal_size()
    first, *others = text.splitlines()
    return "\n".join([first, *(line[:width] for line in others[: height - 3])])


def _again(step: Callable[[], int]) -> int:
    """Run a step again and again, until Ctrl-C; returns its last exit code. Errors are printed, and do not end it."""
    code = 0
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            code = _reported(step)
            sys.stdout.flush()
            time.sleep(EVERY)
    return code


def _print(text: str) -> None:
    """Print, with what the encoding of the output lacks as an escape."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def _state(options: argparse.Namespace) -> None:
    if options.rows < 0:
        raise UsageError(f"got --rows {options.rows}, expected 0 or more")
    home = existing_home(options.home)
    if options.name is None:
        for name in storage.names(home / "state"):
            _print(printable(f"{name}: snapshots after batch {_numbers(snapshots.numbers(home / f'state/{name}'))}"))
        return
    state = states.state_of(home, options.name, at=options.at)
    if options.json:
        for line in states.as_json(state, options.rows):
            _print(line)
    else:
        _print(states.show(state, options.name, options.rows))


def _numbers(found: Sequence[int]) -> str:
    return ", ".join(map(str, found)) or "none"


def _stop(options: argparse.Namespace) -> int:
    home = existing_home(options.home)
    stop(home, wait=options.wait)
    if not options.wait:
        print("stop requested")
        return 0
    rest = left(home)
    if not rest:
        print(f"stopped after batch {OffsetLog(home / 'offsets').last.n}")
        return 0
    then = (
        "the next start carries out the stop and exits with 0, and the one after it processes what is left"
        if home.stop_pending()
        else "the next start processes what is left"
    )
    print(f"error: no driver runs the job, but it was not drained ({'; '.join(rest)}): {then}", file=sys.stderr)
    return 1


def _replay(options: argparse.Namespace) -> None:
    home = existing_home(options.home)
    live_session()
    lines, files = _rejected.replay(home, options.directory, options.name)
    print(f"{lines} lines written to {files} files in {options.directory}" if files else "no rejected lines to replay")


def _rebuild(options: argparse.Namespace) -> None:
    ledger: Callable[[str], dict[str, dict[int, Entry]]] = _lazy.load("sparkstream_kit.outputs", LEDGER, "ledger")
    homes = ledger(options.url)
    chosen = [options.id] if options.id else sorted(homes)
    if len(chosen) != 1 or chosen[0] not in homes:
        raise UsageError(f"the database has the homes {', '.join(sorted(homes)) or '(none)'}: choose one with --id")
    live_session()
    home, compacted = Home.rebuilt(options.home, chosen[0], homes[chosen[0]])
    states = (
        f"batches up to {compacted.n} cannot be replayed: states start empty"
        if compacted.n
        else "states are rebuilt from the first batch"
    )
    last = max(homes[chosen[0]])
    print(f"{home.root} continues with batch {last}; {states}")
    print(
        f"if another output of the job writes files, remove its folders batch=<n> with n above {last} before the start"
    )


def _reset_clock(options: argparse.Namespace) -> None:
    ahead = clocks.reset(existing_home(options.home))
    print(f"times were up to {clocks.about(ahead)} ahead, and are brought back to now" if ahead else "no time is ahead")


def _rewind(options: argparse.Namespace) -> None:
    home = existing_home(options.home)
    if options.again and options.to is None:
        raise UsageError("got --again without --to: name the batch to rewind to")
    if options.to is None and not options.cancel:
        _print(rewinds.reach(home, OffsetLog(home / "offsets")))
        return
    held = lease.acquire(home / "lease", "sparkstream rewind")
    try:
        log = OffsetLog(home / "offsets", held.epoch)
        said = rewinds.cancel(log) if options.cancel else rewinds.request(home, log, options.to, options.again)
    finally:
        held.release()
    _print(printable_lines(said))


def _backfill(options: argparse.Namespace) -> None:
    home = existing_home(options.home)
    if options.first is None and (options.again or options.to):
        raise UsageError("got --to or --again without --from, which they belong to")
    if options.cancel:
        said = backfills.cancel(home)
    elif options.first is None:
        said = backfills.reach(home, OffsetLog(home / "offsets"))
    else:
        said = backfills.request(home, options.first, options.to, options.again)
    _print(printable_lines(said))


LEDGER = {"ledger": "_sql_ledger"}
"""Not public, and loaded only where it is needed: it needs the extra sql."""


def _compact(options: argparse.Namespace) -> None:
    live_session()
    print(f"{_compaction.compact(options.folder)} batches merged")


def _skip(options: argparse.Namespace) -> None:
    home = existing_home(options.home)
    held = lease.acquire(home / "lease")
    try:
        log = OffsetLog(home / "offsets", held.epoch)
        if log.again is not None and not log.again.begun:
            raise UsageError(
                "batches run again from the next start on, and none has failed yet: start the job, and skip a batch if "
                "it fails"
            )
        first = log.done_to + 1
        if first > log.last.n or options.batch != first:
            unfinished = "no batch is unfinished" if first > log.last.n else f"the unfinished batch is {first}"
            raise UsageError(f"got batch {options.batch}, and {unfinished}: only an unfinished one can be skipped")
        log.skip(first, options.reason or log.skipped.get(first, "no reason given"))
    finally:
        held.release()
    print(f"the next start sets the input of batch {first} aside, in {home / f'skipped/{first}'}, and runs it without")


if __name__ == "__main__":
    sys.exit(main())
