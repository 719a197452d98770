"""The `sparkstream` command: what operators do from outside of a job.

    sparkstream archive FILE.zip      the package as one archive for spark-submit --py-files
    sparkstream status HOME           last batch, what is unfinished, who holds the lease
    sparkstream stop HOME [--wait]    let the job of that home drain and stop
    sparkstream replay-rejected HOME DIRECTORY
                                      give rejected lines back to a job that reads the directory
    sparkstream rebuild HOME --from URL
                                      make a lost home anew from the ledger in a SQL database
    sparkstream compact FOLDER        make few large files of a folder of Parquet batches

A home on a local disk is read without Spark. Any other file system, compact, rebuild and replay-rejected need the JVM
and take a few seconds more.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import __doc__ as about
from . import __version__, uris
from .context import live_session
from .errors import KitError, UsageError
from .outputs import _rejected
from .outputs._compaction import compact
from .recovery import lease, snapshots, storage
from .recovery.home import Home
from .recovery.offset_log import Entry, OffsetLog

COMPACT = """\
Merge the batches of a Parquet output, all but the newest, into files of 128 MiB.

    --output requests=parquet:/data/logs    is compacted by    sparkstream compact /data/logs/requests

Run it once an hour or a day, from cron: the job goes on meanwhile, and needs no restart. Rows keep their columns and
folders; their `batch` becomes that of the newest batch that was merged. Readers that meet the exchange, a second or so
at the end, miss rows or fail: let them try again, or write a Delta table. A compaction that was killed is finished by
the next one. Spark runs in this process, with every core: PYSPARK_SUBMIT_ARGS="--driver-memory 4g pyspark-shell" gives
it more, and --master in there a cluster.
"""


REPLAY = """\
Give the lines that the output rejected: of a job has kept back to it: they are written into DIRECTORY, as a new file
for each batch, and are then kept no more. Batches that are not done yet are left to a later replay.

    --source files:/data/logs --home /data/access.home --output rejected=rejected:
    sparkstream replay-rejected /data/access.home /data/logs

The job that reads the directory takes them as it takes any new line, with the parser it has now: into the results of
the same home, once. For a job with another source, drain the files into a home of its own. A replay that was killed is
finished by the next one.
"""


REBUILD = """\
Make a home that was lost anew from the ledger that the output sql: keeps in its database: the job goes on with the
first record that is not in there, and none is doubled.

    sparkstream rebuild /data/access.home --from postgresql://kit@db/logs

The newest batch in the ledger is run again, for outputs that do not have it. Directories of files may hold one more,
which was cut at another place: remove it. While the ledger still has every batch, up to 1,000 of each output, running
states and windows are made again from the sources; after that they start empty, so do not rebuild a job that writes
running states with upsert.

The source files: goes on as long as its directory still has the files that were read, of the same sizes and first in
the order of their times; where files with older times came later, as mv and rsync bring them, it refuses. What
receivers had brought is lost with the home, and a job that still needs it refuses to start. A password is better given
by PGPASSWORD or ~/.pgpass than in the URL.
"""


def archive(target: Path) -> None:
    """Write the package into a zip file, with the same bytes for the same sources."""
    package = Path(__file__).parent
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
        for file in sorted(package.rglob("*.py")):
            entry = zipfile.ZipInfo(str(Path(package.name) / file.relative_to(package)), (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(entry, file.read_bytes())


def status(home: Home) -> str:
    """What a home knows of its job, one fact a line."""
    log = OffsetLog(home / "progress")
    last = log.last
    unfinished = "" if log.is_done(last.n) else " (not finished)"
    holder = lease.holder(home / "lease")
    states = {name: snapshots.saves(home / f"state/{name}") for name in storage.names(home / "state")}
    facts = {
        "home": f"{home.root} (id {home.id})",
        "running": holder or "nobody holds the lease",
        "stop": "asked for" if home.must_stay_stopped() else "not asked for",
        "last batch": f"{last.n} at {_when(last.time)}{unfinished}" if last.n else "none yet",
        **{f"range {name}": f"{json.dumps(a)} to {json.dumps(b)}" for name, (a, b) in sorted(last.ranges.items())},
        **{f"source {name}": _read_up_to(last, name) for name in sorted(last.positions)},
        "replayable": f"batches {log.floor.n + 1} to {last.n}" if last.n > log.floor.n else "no batches",
        **{f"state {name}": f"saved after batch {', '.join(map(str, n)) or 'none'}" for name, n in states.items()},
        "checkpoint": _fingerprint(home),
    }
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {fact}" for name, fact in facts.items())


def _when(ms: int) -> str:
    """A time and how long ago that is."""
    time_ = datetime.fromtimestamp(ms / 1000, timezone.utc)
    ago = datetime.now(timezone.utc) - time_
    return f"{time_.isoformat(sep=' ', timespec='milliseconds')}, {ago.total_seconds():.0f} s ago"


def _read_up_to(last: Entry, source: str) -> str:
    lag = f", where there was {json.dumps(last.left[source])}" if source in last.left else ", all there was"
    return f"read up to {json.dumps(last.positions[source])}{lag}"


def stop(home: Home, *, wait: bool) -> None:
    """Delete the marker; with `wait`, come back when the job has stopped."""
    storage.delete(home / "RUNNING")
    told = ""
    while wait and (holder := lease.holder(home / "lease")):
        if holder != told:
            print(f"waiting for {holder}", file=sys.stderr, flush=True)
            told = holder
        time.sleep(0.5)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser(
        "sparkstream", description=f"{about}\n\n{__doc__}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, does: str, run: Callable[[argparse.Namespace], None], more: str = "") -> Any:
        raw = argparse.RawDescriptionHelpFormatter
        added = commands.add_parser(name, help=does, description=more or does, formatter_class=raw)
        added.set_defaults(run=run)
        return added.add_argument

    add = command("archive", "write the package into one archive for spark-submit --py-files", _archive)
    add("file", type=Path)
    add = command("status", "tell what a home knows of its job", _status)
    add("home")
    add = command("stop", "let the job of a home drain and stop", _stop)
    add("home")
    add("--wait", action="store_true", help="come back when it has stopped")
    add = command("replay-rejected", "give rejected lines back to a job that reads a directory", _replay, REPLAY)
    add("home")
    add("directory")
    add("--name", default="rejected", help="of the output that kept them (default: rejected)")
    add = command("rebuild", "make a lost home anew from the ledger in a SQL database", _rebuild, REBUILD)
    add("home")
    add("--from", dest="url", required=True, metavar="URL", help="sqlite:///FILE or postgresql://USER@HOST/DATABASE")
    add("--id", help="of the home, where the database knows of several")
    add = command("compact", "make few large files of a folder of Parquet batches", _compact, COMPACT)
    add("folder", help="DIRECTORY/NAME of an output parquet:DIRECTORY, on any file system Spark knows")
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except KitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _archive(options: argparse.Namespace) -> None:
    archive(options.file)


def _status(options: argparse.Namespace) -> None:
    print(status(_existing(options.home)))


def _stop(options: argparse.Namespace) -> None:
    home = _existing(options.home)
    stop(home, wait=options.wait)
    print(f"stopped after batch {OffsetLog(home / 'progress').last.n}" if options.wait else "asked to stop")


def _replay(options: argparse.Namespace) -> None:
    home = _existing(options.home)
    live_session()
    lines, files = _rejected.replay(home, options.directory, options.name)
    print(f"{lines} lines written to {files} files in {options.directory}" if files else "no rejected lines are kept")


def _rebuild(options: argparse.Namespace) -> None:
    ledger: Callable[[str], dict[str, dict[int, Entry]]] = uris.load("outputs._sql:ledger")
    homes = ledger(options.url)
    chosen = [options.id] if options.id else sorted(homes)
    if len(chosen) != 1 or chosen[0] not in homes:
        raise UsageError(
            f"the database knows of the homes {', '.join(sorted(homes)) or '(none)'}: choose one with --id"
        )
    live_session()
    home, floor = Home.rebuilt(options.home, chosen[0], homes[chosen[0]])
    states = (
        f"what came up to batch {floor.n} is not replayed: states start empty" if floor.n else "states are replayed"
    )
    last = max(homes[chosen[0]])
    print(f"{home.root} goes on with batch {last}; {states}")
    print(
        f"if another output of the job writes files, remove its folders batch=<n> with n above {last} before the start"
    )


def _compact(options: argparse.Namespace) -> None:
    live_session()
    print(f"{compact(options.folder)} batches merged")


def _existing(path: str) -> Home:
    here = Path(path.removeprefix("file:")).absolute()
    root = f"file:{here}" if (here / "id").exists() else None
    if root is None:
        live_session()
        root = storage.qualify(path)
    if not storage.exists(f"{root}/id"):
        raise UsageError(f"{path!r} is no home of a job: name the directory that was given as --home")
    return Home(root, storage.read(f"{root}/id"))


def _fingerprint(home: Home) -> str:
    try:
        made_with = json.loads(storage.read(home / "fingerprint.json"))
    except FileNotFoundError:
        return "none: the offset log is all this job needs"
    names = (name.removesuffix(".bk").partition("-") for name in storage.names(home / "checkpoint"))
    newest = max((int(ms) for kind, _, ms in names if kind == "checkpoint" and ms.isdigit()), default=None)
    age = f"of {_when(newest)}" if newest else "not written yet"
    return ", ".join([age, *(f"{key}: {value}" for key, value in made_with.items())])


if __name__ == "__main__":
    sys.exit(main())
