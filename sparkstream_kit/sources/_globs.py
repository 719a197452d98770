"""Globs as data: a regular expression for the names at each level below a directory."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

from ..errors import UsageError

Glob = tuple["re.Pattern[str] | None", ...]
"""What the name at each level has to match; None stands for `**`, any number of levels."""

_UNFINISHED = (
    r".*(?:~|\.(?:tmp|temp|part|partial|filepart|crdownload|download|inprogress|in-progress|incomplete|pending|"
    r"uploading|writing|swp|_COPYING_))"
)
"""Names that programs give to files they have not finished."""


def parse(glob: str) -> list[Glob]:
    r"""The alternatives of a glob: `*`, `?`, `[a-z]`, `[!a]`, `{a,b}` and `\x` as in Hadoop, and `**` for any depth.

    >>> globs = parse("{nginx,apache2}/**/access*.log")
    >>> inside = reached(below(globs, "nginx"))
    >>> bool(files_in(inside).match("access-1.log")), below(globs, "tomcat")
    (True, [])

    A name that starts with `.` or `_` matches only where the glob has that character, and one that ends like an
    unfinished file, such as `.tmp` or `.part`, only where the glob ends like that.
    """
    found: list[Glob] = []
    for one in _alternatives(glob):
        if not one.strip("/"):
            raise UsageError(f"got the glob {glob!r}, expected names such as *.log or **/access*.log")
        *folders, name = [part for part in one.split("/") if part]
        if name == "**":
            folders, name = [*folders, name], "*"
        unfinished = "" if re.fullmatch(_UNFINISHED, name, re.DOTALL) else f"(?!{_UNFINISHED}\\Z)"
        segments = [None if folder == "**" else _compiled(folder, glob) for folder in folders]
        found.append((*segments, _compiled(name, glob, unfinished)))
    return found


def files_in(globs: Iterable[Glob]) -> re.Pattern[str] | None:
    """What a file at this level has to match; None if only files further below are read."""
    patterns = [glob[0].pattern for glob in globs if len(glob) == 1 and glob[0] is not None]
    return re.compile("|".join(patterns), re.DOTALL) if patterns else None


def below(globs: Iterable[Glob], name: str) -> list[Glob]:
    """The globs for a directory of this name; none if nothing below it is read."""
    found = []
    for glob in globs:
        if glob[0] is None:
            if not name.startswith((".", "_")):
                found.append(glob)
        elif len(glob) > 1 and glob[0].fullmatch(name):
            found.append(glob[1:])
    return found


def matches(globs: Iterable[Glob], path: str) -> bool:
    """Whether a file at this path below the directory is read.

    >>> matches(parse("**/access*"), "nginx/access.log"), matches(parse("*"), "nginx/access.log")
    (True, False)
    """
    *folders, name = path.split("/")
    inside = list(globs)
    for folder in folders:
        inside = below(reached(inside), folder)
    wanted = files_in(reached(inside))
    return wanted is not None and wanted.match(name) is not None


def literal(text: str) -> str:
    """The glob that matches this text alone."""
    return re.sub(r"([*?\[\]{},!\\])", r"\\\1", text)


def is_unfinished(name: str) -> bool:
    """Whether programs give such a name to files that they have not finished."""
    return re.fullmatch(_UNFINISHED, name, re.DOTALL) is not None


def reached(globs: Iterable[Glob]) -> list[Glob]:
    """The globs, and what comes after a leading `**`: pass this to the functions above."""
    found = list(globs)
    for glob in found:  # grows while it is read
        if glob[0] is None:
            found.append(glob[1:])
    return found


def _alternatives(glob: str) -> list[str]:
    """The globs without braces that one with braces stands for."""
    depth, parts, start = 0, [""], 0
    at = 0
    while at < len(glob):
        if glob[at] == "\\":
            at += 2
            continue
        if glob[at] == "{":
            depth += 1
            if depth == 1:
                opened, parts, start = at, [], at + 1
        elif glob[at] in ",}" and depth == 1:
            parts.append(glob[start:at])
            start = at + 1
        if glob[at] == "}" and depth:
            depth -= 1
            if not depth:
                rest = _alternatives(glob[at + 1 :])
                middle = itertools.chain.from_iterable(map(_alternatives, parts))
                return [glob[:opened] + m + r for m in middle for r in rest]
        at += 1
    if depth:
        raise UsageError(f"got the glob {glob!r}, expected a closing }} for each {{: write \\{{ for a plain one")
    return [glob]


def _compiled(segment: str, glob: str, condition: str = "") -> re.Pattern[str]:
    """The regular expression of one level."""
    text, at = "", 0
    while at < len(segment):
        char = segment[at]
        if char == "\\" and at + 1 < len(segment):
            at += 1
            text += re.escape(segment[at])
        elif char == "*":
            text += ".*"
        elif char == "?":
            text += "."
        elif char == "[":
            end = segment.find("]", at + 2)
            if end < 0:
                raise UsageError(f"got the glob {glob!r}, expected a closing ] for each [: write \\[ for a plain one")
            inside = segment[at + 1 : end].replace("\\", "\\\\")
            text += f"[^{inside[1:]}]" if inside[0] in "!^" else f"[{inside}]"
            at = end
        else:
            text += re.escape(char)
        at += 1
    hidden = "" if segment.startswith((".", "_", "\\.", "\\_")) else "(?![._])"
    try:
        return re.compile(f"{hidden}{condition}(?:{text})\\Z", re.DOTALL)
    except re.error as error:
        raise UsageError(f"got the glob {glob!r}, expected a range of characters such as [a-z]: {error}") from None
