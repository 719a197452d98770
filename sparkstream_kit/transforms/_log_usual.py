"""What most lines of a format string look like, and where they have its columns. Plain Python.

A usual line has words and numbers between single blanks, and texts in quotes. So it is read by cutting it at its
quotes and blanks, in a third of the time or less of the regular expression that `_log_directives` makes for any line.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from ._log_directives import CLF, COUNTERS, LISTS, NUMBERS, Directive, given_columns, is_before_time, split
from ._log_fields import USUAL_LOCAL, USUAL_NUMBER, USUAL_OFFSET, USUAL_STATUS


class Piece(NamedTuple):
    """What stands between two quotes of a usual line: always the same, what a pattern matches, or else any text."""

    literal: str | None = None
    pattern: str | None = None


class Place(NamedTuple):
    """Where a usual line has a column: in a piece between quotes, and there in a word unless it is the whole piece."""

    piece: int
    word: int | None = None
    before: tuple[str, ...] = ()  # the texts in that word before the column, fields between them
    after: str = ""


class Usual(NamedTuple):
    """How to recognise usual lines, and to read them."""

    pieces: list[Piece]
    places: dict[str, Place]  # of each column; `time:local` and `time:offset` of a time in Apache's form


# While a format is cut up, characters for private use stand for its directives, one for each of their words.
_FIRST_MARK, _MARK = 0xE000, "[\ue000-\uf8ff]"
_NUMBERS = {"status": USUAL_STATUS, "bytes": USUAL_NUMBER, "integer": USUAL_NUMBER}


class _Word(NamedTuple):
    directive: Directive
    column: str | None
    pattern: str | None = None  # of a time


@functools.lru_cache(maxsize=16)
def usual(format: str) -> Usual | None:
    r"""How to read usual lines as `compiled` does any; None for a format that has none.

    >>> lines = usual('%h [%{sec}t] "%r"')
    >>> lines.pieces[0].pattern, lines.pieces[1], lines.pieces[2].literal
    ('\\A(?=[!-~])[^ ]++(?<!,)(?! : ) \\[[0-9]{1,11}\\] \\z', Piece(literal=None, pattern=None), '')
    >>> lines.places["request"].piece, lines.places["time:sec"]
    (1, Place(piece=0, word=1, before=('[',), after=']'))
    """
    if re.search(_MARK, format):
        return None
    beginning, directives = split(format)
    columns = given_columns(directives)
    template, words = beginning, dict[str, _Word]()
    for number, directive in enumerate(directives):
        column, time = columns.get(number), directive.field.time
        mark, second = chr(_FIRST_MARK + 2 * number), chr(_FIRST_MARK + 2 * number + 1)
        if time.strip("[]") == CLF and column in (None, "timestamp"):
            words[mark] = _Word(directive, column and "time:local", USUAL_LOCAL)
            words[second] = _Word(directive, column and "time:offset", USUAL_OFFSET)
            template += time.replace(CLF, f"{mark} {second}")
        else:
            words[mark] = _Word(directive, f"time:{time}" if column == "timestamp" else column, COUNTERS.get(time))
            template += mark
        template += directive.after
    pieces = template.split('"')
    found = [_piece(words, pieces, number) for number in range(len(pieces))]
    is_closed = len(pieces) % 2 == 1
    return Usual([piece for piece in found if piece], _places(words, pieces)) if is_closed and all(found) else None


def _is_text(words: dict[str, _Word], piece: str) -> bool:
    """Whether a piece in quotes is one field of any text."""
    return piece in words and words[piece].directive.field.kind not in ("time", *NUMBERS)


def _piece(words: dict[str, _Word], pieces: list[str], number: int) -> Piece | None:
    """How to recognise a piece, or None if a field in it may have more than one word."""
    piece, is_end = pieces[number], number == len(pieces) - 1
    if number % 2 and _is_text(words, piece):
        return Piece()
    if not re.search(_MARK, piece):
        return Piece(literal=piece)
    patterns = [_pattern(words, text, is_end=is_end) for text in piece.split(" ")]
    if None in patterns or "" in patterns[1:-1] or not _ends_users(words, piece):
        return None
    first = "" if number else "(?=[!-~])"  # no byte order mark
    last = "(?<!\\\\)" if patterns[-1] else ""  # nothing that escapes the quote
    return Piece(pattern=f"\\A{first}{' '.join(map(str, patterns))}{last}\\z")


def _pattern(words: dict[str, _Word], text: str, *, is_end: bool) -> str | None:
    """The pattern of what a format has between two blanks."""
    first, *tokens = re.split(f"({_MARK})", text)
    if "" in tokens[1:-1:2]:
        return None  # a number directly before another field
    pattern = re.escape(first)
    for mark, after in zip(tokens[::2], tokens[1::2], strict=True):
        field = _field(words[mark], after, is_end=is_end)
        if field is None:
            return None
        pattern += field + re.escape(after)
    return pattern


def _field(word: _Word, after: str, *, is_end: bool) -> str | None:
    kind = word.directive.field.kind
    if kind == "time":
        return word.pattern
    if kind in _NUMBERS:
        return None if after[:1].isdigit() else _NUMBERS[kind]
    if kind == "request":
        return None
    ends = "\r\n" if is_end and not after else re.escape(after[:1])
    return f"[^ {ends}]++" + ("(?<!,)(?! : )" if kind in LISTS else "")


def _ends_users(words: dict[str, _Word], piece: str) -> bool:
    """Whether a user before a time, which may have blanks, is followed by nothing else in its piece."""
    users = [mark for mark, word in words.items() if mark in piece and is_before_time(word.directive)]
    return all(re.fullmatch(f"{_MARK} +\\[{_MARK} {_MARK}\\] *", piece[piece.index(mark) :]) for mark in users)


def _places(words: dict[str, _Word], pieces: list[str]) -> dict[str, Place]:
    places: dict[str | None, Place] = {}
    for number, piece in enumerate(pieces):
        if number % 2 and _is_text(words, piece):
            places[words[piece].column] = Place(number)
            continue
        for position, text in enumerate(piece.split(" ")):
            tokens = re.split(f"({_MARK})", text)
            for at in range(1, len(tokens), 2):
                places[words[tokens[at]].column] = Place(number, position, tuple(tokens[:at:2]), tokens[at + 1])
    return {column: place for column, place in places.items() if column is not None}
