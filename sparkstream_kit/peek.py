"""Look at a directory of logs before a job reads it: what rotation there is, which format the lines have, and the
command that reads them.

It lists, unpacks and decodes as the source `files` does, and parses as `access_log` does, so what it says of the sample
is what a job would make of it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import os
import re
import shlex
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from .bridge import dataframes
from .checks import check_directory
from .errors import UsageError
from .quantities import counted, of_bytes
from .redaction import printable
from .sources import _disks, _globs, _identity, _lines
from .sources._disks import Disk, Found
from .transforms import access_log

FILES, LINES, BYTES = 20, 1000, 1 << 20
"""The sample: this many files, and of each at most this many lines from its first bytes."""

SHOWN = 10
"""Logs, reasons, members and names that are listed at most."""

_WIDTH = 80
_EXAMPLE = 100
_ANY = re.compile(".*", re.DOTALL)
_DEFAULT = "combined"  # what jobs parse unless they are given another format


@dataclass
class Log:
    """One log: the file that a server writes to, and those that rotation made of it."""

    folder: str  # below the directory; empty for itself
    family: str
    files: list[Found] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)  # the sample
    notes: list[str] = field(default_factory=list)
    verdict: Verdict | None = None  # None without sample lines
    missed: int = 0  # number of files that the glob does not match


class Verdict(NamedTuple):
    """What the best format makes of the sample of a log."""

    format: str
    lines: int
    rejected: list[tuple[str, int, str]]  # reason, number of lines, the first of them; the most frequent first

    @property
    def accepted(self) -> int:
        """Number of lines in this format."""
        return self.lines - sum(n for _, n, _ in self.rejected)

    @property
    def fits(self) -> bool:
        """Whether most lines are in this format."""
        return 2 * self.accepted > self.lines


def peek(
    session: SparkSession, directory: str, glob: str = "*", *, encoding: str = "utf-8", formats: Sequence[str] = ()
) -> str:
    """Say what a job would find in a directory, for people. `formats` are tried beside those that have a name.

    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> line = '::1 - frank [10/Oct/2000:13:55:36 -0700] "GET /a?b=1 HTTP/1.0" 200 2326'
    >>> _ = pathlib.Path(folder.name, "access.log").write_text(f"{line}\\nnot a log line\\n{line}\\n")
    >>> print(peek(getfixture("spark"), folder.name).partition("\\n\\n")[2].partition("\\n\\n")[0])
    access.log
      files     1 file, 159 B: access.log
      rotation  none seen
      format    combined, 2 of 3 lines in the sample
      rejected  1 of 3 lines
                1  timestamp is not in brackets
                   'not a log line'

    Raises UsageError for a missing or empty directory, if no file matches, and for a wrong glob, encoding or format.

    Cost: grows with the names in the directory and in those below it; of the files it reads a bounded sample.
    """
    dataframes.silence_expected_warnings()
    parsed = _globs.parse(glob)
    _lines.check_encoding(encoding)
    for format in formats:
        access_log.check_format(format)
    disk, root = _disks.disk_of(check_directory(directory))
    try:
        found = list(disk.walk(root, parsed))
        others = _others(disk, root, found)
    except PermissionError:
        raise UsageError(f"{printable(root)} cannot be listed: run this as a user who may read it") from None
    if not found:
        if not others and not disk.names(root):
            raise UsageError(f"{printable(root)} is empty: name the directory that servers write their logs to")
        raise UsageError(f"no file in {printable(root)} matches the glob {glob!r}{_instead(disk, root, others)}")
    logs = _logs(root, found, others)
    sample = _newest(logs)
    for log, file in sample:
        _sample(disk, log, file, encoding)
    for number, verdict in _verdicts(session, logs, [*access_log.formats(), *formats]).items():
        logs[number].verdict = verdict
    return "\n".join(_report(disk, root, glob, encoding, logs, others, len(found), len(sample)))


# --- what is there


def _relative(root: str, path: str) -> str:
    return path[len(root.rstrip("/")) + 1 :]


def _others(disk: Disk, root: str, found: list[Found]) -> list[Found]:
    """The files in the directory, and in those below it, that the glob does not match."""
    known = {file.path for file in found}
    return [file for file in disk.walk(root, [(_ANY,), (_ANY, _ANY)]) if file.path not in known]


def _is_skipped(name: str) -> bool:
    return name.startswith((".", "_")) or _globs.is_unfinished(name)


def _instead(disk: Disk, root: str, others: list[Found]) -> str:
    """What there is, where no file matches."""
    names = sorted({_relative(root, file.path) for file in others})
    if names:
        return f": there is {_list(names)}"
    if special := [name for name, _ in disk.names(root) if _special(disk, f"{root}/{name}")]:
        return f": {_list(sorted(special))} is not a regular file, so configure the server to write to one"
    return ": there are only directories, so try '**/*'"


def _special(disk: Disk, path: str) -> str:
    """What a name on a local disk stands for that is neither a file nor a directory; empty for those."""
    if disk is not _disks.LOCAL:
        return ""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link to nothing" if os.path.islink(path) else ""
    except OSError:
        return ""
    return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else "not a regular file"


def _logs(root: str, found: list[Found], others: list[Found]) -> list[Log]:
    """The files by the log they belong to, also rotated ones in a directory below (olddir)."""
    logs: dict[tuple[str, str], Log] = {}

    def key(file: Found) -> tuple[str, str]:
        folder, _, name = _relative(root, file.path).rpartition("/")
        return folder, _identity.family(_identity.bare(name))

    for file in found:
        logs.setdefault(key(file), Log(*key(file))).files.append(file)
    for file in others:
        folder, family = key(file)
        above = logs.get((folder, family)) or (logs.get((folder.rpartition("/")[0], family)) if folder else None)
        if above and _is_rotated(file.path, family) and not _is_skipped(file.path.rpartition("/")[2]):
            above.files.append(file)
            above.missed += 1
    for (folder, family), log in sorted(logs.items(), reverse=True):
        above = logs.get((folder.rpartition("/")[0], family)) if folder else None
        if above and all(_is_rotated(file.path, family) for file in log.files):
            above.files += logs.pop((folder, family)).files
    return [logs[each] for each in sorted(logs)]


def _is_rotated(path: str, family: str) -> bool:
    return path.rpartition("/")[2] != family


def _newest(logs: list[Log]) -> list[tuple[Log, Found]]:
    """The files to sample: the newest of each log, then the second of each, and so on."""
    ranked = []
    for log in logs:
        files = sorted((file for file in log.files if file.size), key=lambda file: -file.changed)
        ranked += [(rank, -file.changed, file.path, log, file) for rank, file in enumerate(files)]
    return [(log, file) for *_, log, file in sorted(ranked, key=lambda each: each[:3])[:FILES]]


# --- the sample


def _sample(disk: Disk, log: Log, file: Found, encoding: str) -> None:
    """Add the first lines of a file to its log, and what is to be noted of it."""
    name = printable(file.path.rpartition("/")[2])
    try:
        with disk.open(file.path) as opened:
            data, size = opened.read(0, BYTES), opened.found.size
            end = opened.read(size - 1, 1)
    except FileNotFoundError:
        return  # renamed or removed meanwhile
    except OSError as error:
        log.notes.append(f"{name} cannot be read ({error.strerror or error}){_way_out(disk, file.path)}")
        return
    kind = _lines.packing(data)
    whole = size <= len(data)
    if kind is not None:
        blocks, is_cut = [], False
        try:
            for block in _lines.unpack(kind, io.BytesIO(data)):
                blocks.append(block)
                if is_cut := sum(map(len, blocks)) > BYTES:
                    break
        except EOFError as error:
            is_cut = True
            if whole:
                log.notes.append(f"{name} {error}: if it stays so, the lines before that are read")
        except ValueError as error:
            is_cut = True
            log.notes.append(f"{name} {error}")
        data, whole = b"".join(blocks)[:BYTES], not is_cut
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        log.notes.append(f"{name} is in UTF-16, which cannot be read: convert it with iconv")
        return
    if kind is None and end != b"\n":
        whole = False
        log.notes.append(f"{name} ends within a line, which is read when the file has not changed for a minute")
    if not whole:
        data = data[: data.rfind(b"\n") + 1]
    text = b"".join(_lines.clean([data], encoding)).decode() if data else ""
    lines = text.split("\n")[:-1][:LINES]
    if wrong := sum("\N{REPLACEMENT CHARACTER}" in line for line in lines):
        log.notes.append(f"{counted(wrong, 'line')} of {name} with bytes that are not {encoding}: give its --encoding")
    log.lines += lines


def _way_out(disk: Disk, path: str) -> str:
    if disk is not _disks.LOCAL:
        return ": let the job's user read it"
    with contextlib.suppress(OSError, ImportError, KeyError):
        import grp

        group = grp.getgrgid(os.stat(path).st_gid).gr_name
        return f": run the job as a user in the group {printable(group)!r}, or allow its user with setfacl -m u:USER:r"
    return ": let the job's user read it and the directories above"


def _verdicts(session: SparkSession, logs: list[Log], formats: list[str]) -> dict[int, Verdict]:
    """The best format for each log with sample lines, by the number of the log."""
    rows = [(log, n, line) for log, each in enumerate(logs) for n, line in enumerate(each.lines)]
    if not rows:
        return {}
    lines = session.createDataFrame(rows, "log int, n int, value string").cache()
    try:
        counts = functools.reduce(DataFrame.unionAll, [_rejections(lines, format) for format in formats]).collect()
    finally:
        lines.unpersist()
    rejected: dict[tuple[int, str], list[tuple[str, int, str]]] = defaultdict(list)
    for log, format, reason, number, first in counts:
        rejected[log, format].append((reason, number, first))
    best = {}
    for log, each in enumerate(logs):
        tried = [
            Verdict(f, len(each.lines), sorted(rejected[log, f], key=lambda reason: (-reason[1], reason)))
            for f in formats
        ]
        if each.lines:
            best[log] = max(tried, key=lambda verdict: verdict.accepted)  # the first of equal ones
    return best


def _rejections(lines: DataFrame, format: str) -> DataFrame:
    grouped = access_log.rejected(lines, format).groupBy("log", F.lit(format).alias("format"), "reason")
    return grouped.agg(F.count("*").alias("lines"), F.min_by("line", "n").alias("first"))


# --- what is said of it


def _report(
    disk: Disk, root: str, glob: str, encoding: str, logs: list[Log], others: list[Found], files: int, sampled: int
) -> Iterator[str]:
    yield from _wrapped(
        f"{printable(root)}: {counted(files, 'file')} of {counted(len(logs), 'log')} matching {printable(glob)!r}. "
        f"Nothing was read but up to {LINES:,} lines, from the first MiB, of each of {counted(sampled, 'file')}, "
        "the newest of each log first."
    )
    for log in logs[:SHOWN]:
        yield ""
        yield printable(f"{log.folder}/{log.family}" if log.folder else log.family)
        for title, facts in _facts(disk, root, log).items():
            for n, fact in enumerate(facts):
                rows = fact.split("\n") if title in ("rejected", "format") else _wrapped(fact, _WIDTH - 12)
                for m, row in enumerate(rows):
                    yield f"  {title if not n and not m else '':<8}  {row}"
    if len(logs) > SHOWN:
        yield ""
        yield f"and {counted(len(logs) - SHOWN, 'other log')}: narrow the --glob to see them"
    for note in _skipped(disk, root, others):
        yield ""
        yield from _wrapped(note)
    for format, same in _by_format(logs).items():
        yield ""
        names = [printable(log.family) for log in same]
        yield from _wrapped(f"To read {_list(names)}:" if len(logs) > 1 else "To read it:")
        yield ""
        yield from _command(root, _covering(root, glob, same, logs), encoding, format)
    if unknown := [printable(log.family) for log in logs if _is_unknown(log)]:
        yield ""
        yield from _wrapped(
            f"No known format fits most lines of {_list(unknown)}. If it is an access log, look up its LogFormat "
            "(Apache) or log_format (nginx) in the server's configuration and try it: sparkstream peek DIRECTORY "
            "--format 'STRING'."
        )


def _is_unknown(log: Log) -> bool:
    return log.verdict is not None and not log.verdict.fits and not _json_members(log.lines)


def _facts(disk: Disk, root: str, log: Log) -> dict[str, list[str]]:
    size = sum(file.size for file in log.files)
    names = sorted(printable(_relative(root, file.path)) for file in log.files)
    facts = {
        "files": [f"{counted(len(names), 'file')}, {of_bytes(size)}: {_list(names, 3)}"],
        "rotation": [_rotation(disk, log)],
    }
    verdict = log.verdict
    if verdict is None:
        facts["format"] = ["unknown: no whole line in the sample"]
    elif verdict.fits:
        facts["format"] = [
            f"{printable(verdict.format)}, {verdict.accepted:,} of {verdict.lines:,} lines in the sample"
        ]
    else:
        best = f"{printable(verdict.format)} fits best, {verdict.accepted:,} of {counted(verdict.lines, 'line')}"
        facts["format"] = [f"none that is known; {best} in the sample", *_json_members(log.lines)]
    if verdict and verdict.rejected and (verdict.fits or _is_unknown(log)):
        n = verdict.lines - verdict.accepted
        facts["rejected"] = [f"{n:,} of {counted(verdict.lines, 'line')}"]
        for reason, number, first in verdict.rejected[:SHOWN]:
            facts["rejected"] += [f"{number:,}  {reason}", *_example(first, len(f"{number:,}") + 2)]
        if len(verdict.rejected) > SHOWN:
            facts["rejected"].append(f"and {counted(len(verdict.rejected) - SHOWN, 'other reason')}")
    if log.missed:
        many = counted(log.missed, "rotated file")
        log.notes.insert(0, f"the glob does not match {many}: what is rotated while no job runs would be missed")
    if log.notes:
        facts["note"] = log.notes[:SHOWN]
    return facts


def _example(line: str, indent: int) -> list[str]:
    text = repr(line)
    text = text if len(text) <= _EXAMPLE else f"{text[: _EXAMPLE - 1]}…"
    width = _WIDTH - 12 - indent
    return [" " * indent + text[at : at + width] for at in range(0, len(text), width)]


def _rotation(disk: Disk, log: Log) -> str:
    """How the files of a log are rotated, as far as their names and places tell."""
    live = [file for file in log.files if not _is_rotated(file.path, log.family)]
    rotated = [file for file in log.files if _is_rotated(file.path, log.family)]
    bare = {file.path: _identity.bare(file.path) for file in rotated}
    packed = [file for file in rotated if bare[file.path] != file.path.rpartition("/")[2]]
    said = [f"{printable(log.family)} is live"] if live and rotated else []
    numbered = [file for file in rotated if re.search(r"[._-][0-9]{1,3}(?=\.[a-z]+\Z|\Z)", bare[file.path])]
    dated = [file for file in rotated if re.search(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}", bare[file.path])]
    numbered = [file for file in numbered if file not in dated]
    if numbered:
        said.append(f"{len(numbered)} numbered")
    if dated:
        said.append(f"{len(dated)} with a date (dateext)")
    if rest := len(rotated) - len(numbered) - len(dated):
        said.append(f"{rest} with another ending")
    if packed:
        plain = [file for file in rotated if file not in packed]
        newest = max(rotated, key=lambda file: file.changed)
        late = len(plain) == 1 and plain[0] == newest
        all_but = ", all but the newest (delaycompress)" if late else f", {len(plain)} not" if plain else ""
        said.append(f"{len(packed)} compressed{all_but}")
    folders = {file.path.rpartition("/")[0] for file in log.files}
    if len(folders) > 1:
        top = min(folders, key=len)
        below = sorted(printable(folder[len(top) + 1 :]) for folder in folders - {top})
        said.append(f"moved to {_list(below)} (olddir)")
    if not live and len(packed) == len(rotated):
        said.append("none is live")
    elif not live:
        said.append("no file without a number or date: the newest may be live")
    if disk is _disks.LOCAL and (links := [file for file in log.files if os.path.islink(file.path)]):
        targets = [f"{printable(f.path.rpartition('/')[2])} -> {printable(os.readlink(f.path))}" for f in links]
        said.append(f"links: {_list(sorted(targets))}; what they stand for is read once")
    elif len({file.key for file in log.files if file.key}) < len([file for file in log.files if file.key]):
        said.append("several names of one file, which is read once")
    return "; ".join(said) or "none seen"


def _skipped(disk: Disk, root: str, others: list[Found]) -> Iterator[str]:
    """What in the directory is not read, and why."""
    names = [_relative(root, file.path) for file in others]
    here = sorted(name for name in names if "/" not in name)
    unfinished = [printable(name) for name in here if _globs.is_unfinished(name)]
    hidden = [printable(name) for name in here if name.startswith((".", "_")) and not _globs.is_unfinished(name)]
    if unfinished:
        yield f"Not read, since the names look unfinished: {_list(unfinished)}"
    if hidden:
        yield f"Not read, since the names are hidden: {_list(hidden)}"
    special = defaultdict(list)
    for name, _ in sorted(disk.names(root)):
        if what := _special(disk, f"{root}/{name}"):
            special[what].append(printable(name))
    for what, each in special.items():
        yield f"Not read, since it is {what}: {_list(each)}"


def _json_members(lines: list[str]) -> list[str]:
    """What to do with lines of which most are JSON objects."""
    members: Counter[str] = Counter()
    objects = 0
    for line in lines[:LINES]:
        with contextlib.suppress(ValueError, RecursionError):
            if isinstance(value := json.loads(line), dict):
                members.update(list(value))
                objects += 1
    if 2 * objects <= len(lines[:LINES]):
        return []
    names = [printable(name) for name, _ in members.most_common()]
    return [
        "Most lines are JSON objects: parse them with ss.transforms.json_lines.",
        *_wrapped(f"Their members: {_list(names)}", _WIDTH - 12),
    ]


# --- the command


def _by_format(logs: list[Log]) -> dict[str, list[Log]]:
    by_format = defaultdict(list)
    for log in logs:
        if log.verdict and log.verdict.fits:
            by_format[log.verdict.format].append(log)
    return by_format


def _covering(root: str, glob: str, logs: list[Log], all_logs: list[Log]) -> str:
    """A glob for these logs, and for what rotation will make of them; the one given if that is the simplest."""
    patterns = list(dict.fromkeys(itertools.chain.from_iterable(_patterns(root, log, all_logs) for log in logs)))
    built = patterns[0] if len(patterns) == 1 else "{" + ",".join(patterns) + "}"
    paths = [_relative(root, file.path) for log in logs for file in log.files]
    if len(logs) > SHOWN or not _matches_all(built, paths):
        return glob
    return built


def _patterns(root: str, log: Log, all_logs: list[Log]) -> Iterator[str]:
    """The globs for one log."""
    foreign = [_relative(root, file.path) for each in all_logs if each is not log for file in each.files]
    by_folder: dict[str, set[str]] = defaultdict(set)
    for file in log.files:
        folder, _, name = _relative(root, file.path).rpartition("/")
        by_folder[folder].add(name)
    for folder, names in sorted(by_folder.items()):
        above = f"{_globs.literal(folder)}/" if folder else ""
        base = _globs.literal(log.family)
        wide = [f"{above}{base}*"]
        if any(_globs.matches(_globs.parse(wide[0]), path) for path in foreign):
            wide = [f"{above}{base}", f"{above}{base}[._-]*"]
        found = []
        for name in sorted(names):
            path = f"{folder}/{name}" if folder else name
            used = [one for one in wide if _globs.matches(_globs.parse(one), path)]
            found += used or [f"{above}{_generalised(_identity.bare(name))}*"]
        yield from dict.fromkeys([*(wide if log.family in names else ()), *found])


def _generalised(name: str) -> str:
    """The glob for a rotated name and those that will follow it: any number or date in place of its own."""
    stem = _identity.family(name)
    start = next((n for n, (a, b) in enumerate(zip(name, stem, strict=False)) if a != b), len(stem))
    middle = len(name) - len(stem)
    rotated, end = name[start : start + middle], name[start + middle :]
    number = re.search(r"[0-9]", rotated)
    if not number:
        return _globs.literal(name)
    return f"{_globs.literal(name[:start] + rotated[: number.start()])}[0-9]*{_globs.literal(end)}"


def _matches_all(glob: str, paths: Iterable[str]) -> bool:
    globs = _globs.parse(glob)
    return all(_globs.matches(globs, path) for path in paths)


def _command(root: str, glob: str, encoding: str, format: str) -> Iterator[str]:
    source = _uri(root, glob) + (f"&encoding={quote(encoding)}" if encoding != "utf-8" else "")
    options = ["--format", shlex.quote(format), "--output"] if format != _DEFAULT else ["--output"]
    yield "  sparkstream archive sparkstream_kit.zip"
    yield "  spark-submit --py-files sparkstream_kit.zip jobs/access_log.py \\"
    yield f"      --source {shlex.quote(source)} \\"
    yield f"      {' '.join(options)} console: --home access.home"


def _uri(root: str, glob: str) -> str:
    """The source as a URI. Before its `?` nothing can be quoted, so what cannot stand there goes into the glob."""
    parts = root.split("/")
    at = next((n for n, part in enumerate(parts) if "?" in part or not part.isprintable()), len(parts))
    above = "/".join(parts[:at]) or "/"
    globs = "/".join([*map(_globs.literal, parts[at:]), glob])
    return f"files:{above}?glob={quote(globs, safe='*?{}[]!,/-._~', errors='surrogateescape')}"


# --- words


def _list(names: Sequence[str], most: int = SHOWN) -> str:
    """Names in a sentence: the first ones, and how many more there are."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most:,} more"


def _wrapped(text: str, width: int = _WIDTH) -> list[str]:
    """A sentence in lines of a width, broken at spaces only, so that names stay whole."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] += f" {word}" if lines[-1] else word
    return lines
