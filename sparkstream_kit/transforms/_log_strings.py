"""Lines in the format of a format string, as Spark expressions: one regular expression cuts them up."""

from __future__ import annotations

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
    first_failing,
    is_in_range,
    known,
    known_user,
    once,
    replace,
    request_line,
    timestamp,
    trimmed,
    unmasked,
    without_escapes,
)

_BORDER = f"{MARK},"  # in no line, since a mark is followed by a digit
_STAMP = "_log_stamp"


def reader(format: str) -> Reader:
    """The expressions for a format string."""
    names, kinds, directives = compiled(format)
    whole = trimmed(F.col("value"), "\r\n")
    pieces = without_escapes(whole).alias(PIECES)
    line = F.col(PIECES)
    groups = "".join(f"{_BORDER}${i}" for i in range(1, len(names) + 1))
    pattern = "\\A" + "".join(piece for _, piece in directives) + " *+\\z"
    # The pattern runs once per line: a line that does not match stays as it is, without a border.
    cut = F.split(F.regexp_replace(line, pattern, groups), _BORDER)

    def part(name: str) -> Column:
        return F.get(PARTS, F.lit(names.index(name) + 1))

    texts = {f"_log_{name}": unmasked(part(name), part(name).contains(MARK)) for name in names if ":" not in name}
    valid = F.size(PARTS) == len(names) + 1
    checks = [
        (
            line.rlike("\\A" + "".join(piece for _, piece in directives[: i + 1])),
            f"line does not match the format at {name}",
        )
        for i, (name, _) in enumerate(directives)
    ]
    reason = first_failing(checks, "line goes on after the end of the format")
    times = {name.removeprefix("time:"): part(name) for name in names if name.startswith("time:")}
    instant: Column = F.lit(None).cast("timestamp")
    counter = next((name for name in times if name in _MICROSECONDS), None)
    if counter is not None:
        texts[_STAMP] = times[counter]
        instant = F.timestamp_micros((F.col(_STAMP).try_cast("decimal(20, 3)") * _MICROSECONDS[counter]).cast("bigint"))
    elif times:
        stamp = times["stamp"] if "stamp" in times else _stamp(times)
        texts[_STAMP] = stamp
        instant = timestamp(F.col(_STAMP))
        exists = is_in_range(stamp) if "stamp" in times else stamp.rlike(f"\\A{STAMP}\\z") & is_in_range(stamp)
        valid &= exists
        reason = F.when(F.size(PARTS) != len(names) + 1, reason).otherwise("timestamp is not a date that exists")
    return Reader(pieces, once(cut).alias(PARTS), valid, texts, _columns(names, kinds, instant), reason)


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
        return F.col(f"_log_{name}") if name in names else F.lit(None).cast("string")

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
