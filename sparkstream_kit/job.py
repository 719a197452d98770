"""The command line that jobs share: arguments, exit codes, and errors in one sentence.

`main(build)` runs a job with FrameStreams, `program(function)` a plain function.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import json
import logging
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from types import ModuleType
from typing import Protocol

from pyspark import SparkConf
from pyspark.streaming import StreamingContext

from . import _lazy, durations, outputs, settings, sources, uris
from .backfills import backfill
from .context import Build, get_or_create, live_session
from .engine import batches, progress
from .engine.batches import engine_of
from .errors import KitError, MissingLibrary, UsageError
from .frames import FrameStream
from .lifecycle import run
from .redaction import printable_lines
from .states import read_state, show
from .transforms import access_log

log = logging.getLogger(__name__)

INTERRUPTED = 130
"""Exit code after Ctrl-C, as of a shell."""

SHOWING = ("console", "page")
"""Outputs that a backfill does not start: they keep nothing."""

SHOWN = 20
"""Rows of a state."""


class JobSource(Protocol):
    """Gives a job its input."""

    @property
    def log_format(self) -> str:
        """The format of access logs that --format names, for `ss.transforms.access_log`."""

    def __call__(self, ssc: StreamingContext, name: str = ...) -> FrameStream:
        """The stream of the only --source, or of the one with that name."""


class JobOutput(Protocol):
    """Takes the results of a job."""

    def __call__(self, stream: FrameStream, name: str) -> None:
        """Send a stream to every --output for that name. The name identifies it there, also after a restart."""


JobBuild = Callable[[StreamingContext, JobSource, JobOutput], object]


def main(build: JobBuild, arguments: Sequence[str] | None = None) -> int:
    """Run a job with the arguments that all jobs share; returns the exit code for `sys.exit`.

        def build(ssc, source, output):
            output(source(ssc).count(), name="lines")

        if __name__ == "__main__":
            sys.exit(main(build))

    0   stopped gracefully: drained, --stop-after reached, marker deleted, SIGTERM or SIGINT
    1   a batch failed; it stays unfinished, and the next start finishes it
    2   something on the command line cannot work; one sentence says what
    130 a backfill was interrupted; the same command continues it
    """
    options = _parser(build).parse_args(arguments)
    try:
        return _run(build, options)
    except KitError as error:
        return _report(error)


def _run(build: JobBuild, options: argparse.Namespace) -> int:
    from_where = [uris.parse(text, sources) for text in options.source]
    to_where = [uris.parse(text, outputs, named=True) for text in options.output or _default_outputs(options)]
    if options.backfill:
        to_where = [spec for spec in to_where if spec.kind not in SHOWING]
        if not to_where:
            raise UsageError(
                "got --backfill without an --output that keeps its results: name those that get the batches"
            )
    access_log.check_format(options.format)
    enough = _stop_after(options.stop_after)
    _log_to_stderr(options.log, quiet=sys.stdout.isatty() and any(spec.kind == "console" for spec in to_where))
    conf = SparkConf()
    for setting in options.conf:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"got --conf {setting}, expected --conf NAME=VALUE")
        conf.set(name, value)

    page = _page(options.page)

    def build_all(ssc: StreamingContext) -> None:
        page(ssc)
        build_results(ssc)

    def build_results(ssc: StreamingContext) -> None:
        results: set[str] = set()
        build(ssc, _Source(from_where, options.format), _job_output(to_where, results))
        wanted, has = {spec.name for spec in to_where}, ", ".join(sorted(results)) or "none"
        unknown = sorted(wanted - results - {""})
        if unknown and not wanted & {*results, ""}:
            raise UsageError(f"got --output {unknown[0]}=..., but the job has no result of that name: it has {has}")
        for name in unknown:  # another version of the job may have it
            log.warning("the job has no result named %r, which an --output asks for: it has %s", name, has)

    if options.state is not None:
        live_session(conf, settings.FRAMES)
        _show_state(options, lambda ssc: build(ssc, _Source(from_where, options.format), lambda stream, name: None))
        return 0
    if options.backfill:
        return _backfill(options.home, build_results, conf)
    ssc = get_or_create(
        build_all,
        home=options.home,
        batch_interval=options.batch_interval,
        max_per_batch=options.max_per_batch,
        drain=options.drain,
        give_up_received=options.give_up_received,
        give_up_sources=options.give_up_source,
        give_up_outputs=options.give_up_output,
        give_up_files=options.give_up,
        keep_batches=options.keep_batches,
        conf=conf,
    )
    engine = engine_of(ssc)
    assert engine is not None, "a job of main() has FrameStreams"
    return run(ssc, lambda: engine.drained.is_set() or enough(engine.finished), poll="200ms" if options.drain else "1s")


def _backfill(home: str | None, build: Build, conf: SparkConf) -> int:
    if home is None:
        raise UsageError("got --backfill without a --home: name that of the job")
    live_session(conf, settings.FRAMES)
    logging.getLogger("py4j").setLevel(logging.CRITICAL)  # which would log an interrupt with its stack
    is_main = threading.current_thread() is threading.main_thread()
    # PySpark's handler would call the JVM in the middle of a call
    before = signal.signal(signal.SIGINT, signal.default_int_handler) if is_main else None
    try:
        number = backfill(home, build)
    except KeyboardInterrupt:
        print("stopped: the same command continues with the batch that is not done", file=sys.stderr)
        return INTERRUPTED
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
    log.info("backfill done, %s", "1 batch" if number == 1 else f"{number} batches")
    return 0


def _show_state(options: argparse.Namespace, build: Build) -> None:
    name, at, n = options.state.rpartition("@")
    name, batch = (name, int(n)) if at and n.isdecimal() else (options.state, None)
    if options.home is None:
        raise UsageError(f"got --state {options.state} without a --home: name that of the job")
    state = read_state(options.home, name, at=batch, build=build)
    print(show(state, name, SHOWN))


def _default_outputs(options: argparse.Namespace) -> list[str]:
    return ["console:", "page:"] if options.page else ["console:"]


def _page(address: str | None) -> Callable[[StreamingContext], object]:
    """What serves the page that the command line asks for."""
    if address is None:
        return lambda ssc: None
    server = _lazy.load(__package__, {"page.server": "."}, "page.server")
    server.parse_address(address)
    return lambda ssc: server.serve_page(ssc, address)


def _report(error: KitError) -> int:
    """Print the error, and return its exit code."""
    print(f"error: {error}" if error.exit_code else str(error), file=sys.stderr)
    return error.exit_code


@dataclass(frozen=True)
class _Source:
    """The JobSource of a command line."""

    specs: list[uris.Spec]
    log_format: str
    made: dict[str, FrameStream] = field(default_factory=dict)

    def __call__(self, ssc: StreamingContext, name: str = "") -> FrameStream:
        specs, made = self.specs, self.made
        if name not in made:
            named = [spec for spec in specs if spec.name == name]
            free = [spec for spec in specs if not spec.name or not name] if not made else []
            chosen = named or free  # a source without a name serves one, and a named one a job that asks for no name
            if len(chosen) != 1:
                wanted = f"--source {name}=KIND:..." if name else "one --source"
                raise UsageError(f"the job needs {wanted}, got {_names(specs)}")
            key = name or chosen[0].name
            made[name] = chosen[0](ssc, **({"name": key} if key else {}))
        return made[name]


def _job_output(specs: list[uris.Spec], results: set[str]) -> JobOutput:
    def output(stream: FrameStream, name: str) -> None:
        results.add(name)
        chosen = [spec for spec in specs if spec.name in ("", name)]
        several = [spec for spec in chosen if "name" in spec.arguments and not spec.name and len(results) > 1]
        if several:
            raise UsageError(
                f"got name={several[0].arguments['name']} for the results {', '.join(sorted(results))}: say which of "
                f"them it is for, as in {name}={several[0].kind}:..."
            )
        if not chosen:
            log.warning("no --output takes the result %r: it is not computed", name)
        for spec in chosen:
            spec(stream, name=name)

    return output


def _names(specs: list[uris.Spec]) -> str:
    return ", ".join(f"{spec.name}={spec.kind}" if spec.name else spec.kind for spec in specs) or "none"


def _stop_after(text: str | None) -> Callable[[int], bool]:
    """A predicate on the number of finished batches that says when to stop. The clock starts at its first call."""
    if text is None:
        return lambda finished: False
    if text.endswith("batches"):
        number = text.removesuffix("batches").strip()
        if not number.isdigit() or not int(number):
            raise UsageError(f"got --stop-after {text}, expected for example 20batches or 30s")
        return lambda finished: finished >= int(number)
    seconds = durations.milliseconds(text) / 1000
    started = functools.cache(time.monotonic)  # read when it is first called, which is when the job has started
    return lambda finished: time.monotonic() - started() >= seconds


class _Printable(logging.Formatter):
    """Log lines whose data cannot command the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


class _Json(logging.Formatter):
    """Log lines as JSON objects in ASCII, one a line: time, level, logger, message, and the event of a batch."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        facts = {"time": time, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            facts["exception"] = self.formatException(record.exc_info)
        return json.dumps(facts | {name: fact for name, fact in vars(record).items() if name == "event"}, default=str)


def _log_to_stderr(kind: str, *, quiet: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if kind == "json" else _Printable("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("py4j").setLevel(logging.ERROR)
    if quiet:  # a line for each batch would run through the tables of the terminal
        for module in (batches, progress):
            logging.getLogger(module.__name__).setLevel(logging.WARNING)


def _parser(build: JobBuild) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=inspect.getdoc(inspect.getmodule(build)),
        epilog=f"sources:\n{_help(sources)}\n\noutputs:\n{_help(outputs)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--source", action="append", default=[], metavar="[NAME=]KIND:...", help="where records come from, see below")
    add(
        "--output",
        action="append",
        default=[],
        metavar="[NAME=]KIND:...",
        help="where results go; with a NAME only the result of that name; two outputs of one kind for one result need "
        "an option name= of their own, as in lines=json:/copy?name=copy (default: console:, with --page also page:)",
    )
    add(
        "--format",
        default="combined",
        metavar="NAME|STRING",
        help=f"how access logs are written: {', '.join(access_log.formats())}, a LogFormat of Apache or a log_format "
        "of nginx, as in the configuration of the server (default: combined)",
    )
    add("--home", metavar="DIR", help="where the job keeps its progress and state, on HDFS or a local disk")
    add("--batch-interval", default="1s", metavar="DURATION", help="500ms, 2s, 1min (default: 1s)")
    add("--drain", action="store_true", help="process everything that is there now, then stop")
    add("--stop-after", metavar="30s|20batches", help="stop gracefully after this long or this many batches")
    add(
        "--max-per-batch",
        type=int,
        metavar="N",
        help="maximum records (of files: bytes) per source and batch; default: as many as take about one batch "
        "interval; with --drain, no limit",
    )
    add(
        "--give-up-received",
        action="store_true",
        help="start even if the checkpoint cannot be resumed, losing received records that were not processed",
    )
    add(
        "--give-up-source",
        action="append",
        default=[],
        metavar="NAME",
        help="start although the job no longer has a source that the home has read, losing what it may still have",
    )
    add(
        "--give-up-output",
        action="append",
        default=[],
        metavar="NAME",
        help="start although the job no longer has an output that the home has written, which gets no more batches",
    )
    add(
        "--give-up",
        action="append",
        default=[],
        metavar="FILE",
        help="go on although bytes of this input file, or records of this Kafka topic, are gone that a batch needs; "
        "the home notes which",
    )
    add(
        "--keep-batches",
        type=int,
        default=0,
        metavar="N",
        help="keep the newest N batches replayable, with about ten snapshots of each state among them and with what "
        "receivers brought, so that sparkstream rewind can have them run again (default: what states and windows need)",
    )
    add(
        "--state",
        metavar="NAME[@N]",
        help="instead of running the job, show what a state of its home holds after batch N, or the newest one; that "
        "changes nothing, and the job may run meanwhile",
    )
    add(
        "--backfill",
        action="store_true",
        help="instead of running the job, run the batches again that sparkstream backfill has asked for, into the "
        "outputs of this command; the job may run meanwhile",
    )
    add(
        "--page",
        metavar="[HOST:]PORT",
        help="serve a live page of the job, with 8080 at http://127.0.0.1:8080/; --output page: shows results on it",
    )
    add(
        "--log",
        choices=["text", "json"],
        default="text",
        help="how the log is written to standard error; as JSON, a line for each object, a batch has all of its "
        "figures (default: text)",
    )
    add("--conf", action="append", default=[], metavar="NAME=VALUE", help="a Spark property; spark-submit's own wins")
    return parser


def _help(package: ModuleType) -> str:
    lines = []
    for kind in uris.kinds(package):
        try:
            function = uris.function(package, kind)
        except MissingLibrary as error:
            lines.append(f"  {kind}:  not available: {error}")
            continue
        required, optional = uris.parameters(function)
        options = "&".join(f"{o}={'|'.join(uris.choices(function, o)) or '...'}" for o in optional)
        first = (inspect.getdoc(function) or "").partition("\n\n")[0].replace("\n", " ")
        lines += [
            f"  {kind}:{':'.join(map(str.upper, required))}{'?' if options else ''}{options}",
            textwrap.fill(first, 100, initial_indent="      ", subsequent_indent="      "),
        ]
    return "\n".join(lines)


def program(main: Callable[..., int | None], arguments: Sequence[str] | None = None) -> int:
    """Call `main` with the arguments of the command line; returns the exit code for `sys.exit`.

    Every parameter of `main` is a positional argument; those with defaults may be left out. `--help` prints the
    module's docstring. A UsageError, or a wrong number of arguments, is reported in one sentence: exit 2.

        if __name__ == "__main__":
            sys.exit(program(main))
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in words or "-h" in words:
        print(inspect.getdoc(inspect.getmodule(main)))
        return 0
    try:
        parameters = inspect.signature(main).parameters.values()
        needed = [p.name for p in parameters if p.default is p.empty]
        if not len(needed) <= len(words) <= len(parameters):
            usage = " ".join(p.name if p.default is p.empty else f"[{p.name}]" for p in parameters)
            raise UsageError(f"got {len(words)} arguments, expected: {usage or 'none'} (see --help)")
        return main(*words) or 0
    except KitError as error:
        return _report(error)
