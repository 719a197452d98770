"""Lines in the format of a format string, as Spark expressions.

One regular expression cuts up any line. Usual lines, of single words and quoted texts, are cut at their quotes and
blanks instead, which takes a third of the time or less.
"""

from __future__ import annotations

import functools

from pyspark.sql import Column
from pyspark.sql import functions as F

from ._log_directives import compiled
from ._log_fields import (
    FIELDS,
    MARK,
    MONTHS,
    PARTS,
    PIECES,
    STAMP,
    Reader,
    Step,
    first_failing,
    is_in_range,
    known,
    known_user,
    local_and_offset,
    once,
    replace,
    request_line,
    timestamp,
    trimmed,
    unmasked,
    without_escapes,
)
from ._log_usual import Place, Usual, usual

_BORDER = f"{MARK},"  # in no line, since a mark is followed by a digit
_USUAL, _LINE, _PLAIN = "_log_usual", "_log_line", "_log_plain"


def reader(format: str) -> Reader:
    """The expressions for a format string."""
    names, kinds, directives = compiled(format)
    shape, is_usual = usual(format), F.col(_USUAL)
    groups = "".join(f"{_BORDER}${i}" for i in range(1, len(names) + 1))
    pattern = "\\A" + "".join(piece for _, piece in directives) + " *+\\z"
    # The pattern runs once per line: a line that does not match stays as it is, without a border.
    cut = F.split(F.regexp_replace(_LINE, pattern, groups), _BORDER)
    steps: list[Step] = [
        {PIECES: F.split("value", '"')},
        {_USUAL: F.lit(False) if shape is None else _is_usual(shape)},
        {_LINE: F.when(~is_usual, without_escapes(trimmed(F.col("value"), "\r\n")))},
        {PARTS: once(F.when(~is_usual, cut))},
    ]
    parts = {name: F.get(PARTS, F.lit(number)) for number, name in enumerate(names, start=1)}
    times = {name.removeprefix("time:"): part for name, part in parts.items() if name.startswith("time:")}
    plain = {name: unmasked(part) for name, part in parts.items() if ":" not in name}
    valid = F.size(PARTS) == len(names) + 1
    checks = [
        (
            F.col(_LINE).rlike("\\A" + "".join(piece for _, piece in directives[: i + 1])),
            f"line does not match the format at {name}",
        )
        for i, (name, _) in enumerate(directives)
    ]
    reason = first_failing(checks, "line goes on after the end of the format")
    instant: Column = F.lit(None).cast("timestamp")
    counter = next((name for name in times if name in _MICROSECONDS), None)
    if counter is not None:
        plain[f"time:{counter}"] = times[counter]
        number = F.col(_text(f"time:{counter}")).try_cast("decimal(20, 3)")
        instant = F.timestamp_micros((number * _MICROSECONDS[counter]).cast("bigint"))
    elif times:
        stamp = times["stamp"] if "stamp" in times else _stamp(times)
        plain["time:local"], plain["time:offset"] = local_and_offset(stamp)
        instant = timestamp(F.col(_text("time:local")), F.col(_text("time:offset")))
        exists = is_in_range(stamp) if "stamp" in times else stamp.rlike(f"\\A{STAMP}\\z") & is_in_range(stamp)
        reason = F.when(~valid, reason).otherwise("timestamp is not a date that exists")
        valid &= exists
    kept = {_USUAL: is_usual, PIECES: F.col(PIECES)}
    fields = [
        {**kept, _PLAIN: F.when(~is_usual, F.array(*plain.values()))},
        {**kept, _PLAIN: once(F.col(_PLAIN))},
        {**kept, _PLAIN: F.col(_PLAIN), **_words(shape)},
        {_text(name): _logged(shape, name, number) for number, name in enumerate(plain)},
        _columns(names, kinds, instant),
    ]
    return Reader(steps, is_usual | valid, fields, [{"reason": reason}])


def _text(name: str) -> str:
    return f"_log_{name.replace(':', '_')}"


def _is_usual(shape: Usual) -> Column:
    """Whether a line is usual; then it is valid. No quote inside of a text is escaped."""
    checks = [F.size(PIECES) == len(shape.pieces)]
    for number, (literal, pattern) in enumerate(shape.pieces):
        piece = F.get(PIECES, F.lit(number))
        if literal is not None:
            checks.append(piece == literal)
        else:
            checks.append(~piece.endswith("\\") if pattern is None else piece.rlike(pattern))
    return functools.reduce(Column.__and__, checks)


def _words(shape: Usual | None) -> Step:
    """The words of those pieces whose words are fields."""
    numbers = {place.piece for place in shape.places.values() if place.word is not None} if shape else set()
    return {f"_log_words_{number}": F.split(F.get(PIECES, F.lit(number)), " ") for number in sorted(numbers)}


def _logged(shape: Usual | None, name: str, number: int) -> Column:
    """A field as logged."""
    plain = F.get(_PLAIN, F.lit(number))
    return plain if shape is None else F.when(F.col(_USUAL), _at(shape.places[name])).otherwise(plain)


def _at(place: Place) -> Column:
    if place.word is None:
        return F.get(PIECES, F.lit(place.piece))
    text = F.get(f"_log_words_{place.piece}", F.lit(place.word))
    first, *more = place.before
    if first:
        text = F.substr(text, F.lit(len(first) + 1))
    for before in more:
        text = F.substr(text, F.char_length(F.substring_index(text, before, 1)) + len(before) + 1)
    return F.substring_index(text, place.after, 1) if place.after else text


_MICROSECONDS = {"sec": 1_000_000, "msec": 1000, "usec": 1, "seconds": 1_000_000}


def _stamp(times: dict[str, Column]) -> Column:
    """The parts of a time as dd/Mon/yyyy:hh:mm:ss +hhmm."""
    month = times.get("month_name")
    if month is None:
        names = F.array(*(F.lit(name) for name in MONTHS))
        month = F.coalesce(F.get(names, times["month"].try_cast("int") - 1), times["month"])
    parts = (times["day"], "/", month, "/", times["year"], ":", times["hour"], ":", times["minute"], ":")
    texts = [F.lit(part) if isinstance(part, str) else part for part in parts]
    return F.concat(*texts, times["second"], F.lit(" "), replace(times["offset"], ":", ""))


def _columns(names: list[str], kinds: dict[str, str], instant: Column) -> dict[str, Column]:
    def text(name: str) -> Column:
        return F.col(_text(name)) if name in names else F.lit(None).cast("string")

    special = {
        "user": known_user(text("user")),
        "timestamp": instant,
        "status": text("status").try_cast("int"),
        "bytes": text("bytes").try_cast("bigint"),
    }
    if "request" in names:
        special |= request_line(text("request"))
    others = [name for name in kinds if name not in (*FIELDS, "request", "virtual_host")]
    is_number = {name: kinds[name] in ("bytes", "integer") for name in others}
    return {
        **({"virtual_host": known(text("virtual_host"))} if "virtual_host" in names else {}),
        **{name: special.get(name, known(text(name))) for name in FIELDS},
        **{name: text(name).try_cast("bigint") if is_number[name] else known(text(name)) for name in others},
    }
