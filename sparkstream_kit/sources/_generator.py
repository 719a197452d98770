"""Generate synthetic access-log lines: as many as needed, and reproducible.

A line is a function of (seed, offset) alone, so any range can be generated again, anywhere, in any order. The function
exists twice, in Python and as a Spark expression, over the same tables and in integer arithmetic that both share.

Each line computes h = crc32("seed:offset"), and each field draws h * factor % (2**31 - 1) with its own factor. Hashing
the field's name along with the offset would not do: CRC is linear, so the numbers of two fields whose names have the
same length would differ in the same bits at every offset, and so be correlated.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.streaming import StreamingContext

from ..contracts import Offset, Source
from ..engine.graph import graph_of
from ..errors import UsageError
from ..frames import FrameStream
from ..recovery import storage

START = datetime(2015, 5, 17, 10, 5)  # UTC, of offset 0
LINES_PER_SECOND = 10


def _spread(weights: dict[str, int]) -> tuple[str, ...]:
    return tuple(value for value, weight in weights.items() for _ in range(weight))


# Each value is repeated by its weight, so that a draw is one look-up. Spark's plan carries every entry, which is why
# the sums of the weights are small.
METHODS = _spread({"GET": 95, "POST": 4, "HEAD": 1})
STATUSES = _spread({"200": 168, "304": 12, "404": 8, "302": 4, "301": 3, "206": 2, "403": 1, "500": 1, "503": 1})
PATHS = _spread(
    {
        "/": 17,
        "/favicon.ico": 9,
        "/style.css": 8,
        "/robots.txt": 6,
        "/images/logo.png": 6,
        "/js/app.js": 6,
        "/blog/": 5,
        "/products?page=1": 5,
        "/products?page=2": 4,
        "/login": 4,
        "/search?q=spark": 3,
        "/search?q=streaming": 3,
        "/cart": 3,
        "/api/v1/items": 3,
        "/api/v1/items/1042": 2,
        "/images/header.jpg": 2,
        "/blog/2015/exactly-once": 2,
        "/blog/2015/watermarks": 2,
        "/feed.xml": 2,
        "/docs/install.html": 2,
        "/docs/windows.html": 1,
        "/docs/state.html": 1,
        "/downloads/manual.pdf": 1,
        "/checkout": 1,
        "/about": 1,
        "/wp-login.php": 1,
    }
)
USERS = _spread({"-": 47, "frank": 1, "alice": 1, "bob": 1})
REFERRERS = _spread(
    {
        "-": 24,
        "http://shop.example/": 9,
        "http://shop.example/products?page=1": 6,
        "http://shop.example/blog/": 5,
        "https://www.google.com/": 5,
        "https://news.example/item?id=9542": 1,
    }
)
USER_AGENTS = _spread(
    {
        "Mozilla/5.0 (Windows NT 6.1; rv:38.0) Gecko/20100101 Firefox/38.0": 15,
        "Mozilla/5.0 (Windows NT 6.3; Trident/7.0; rv:11.0) like Gecko": 8,
        "Mozilla/5.0 (X11; Linux x86_64; rv:38.0) Gecko/20100101 Firefox/38.0": 8,
        "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)": 6,
        "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)": 4,
        "Opera/9.80 (Windows NT 6.1) Presto/2.12.388 Version/12.17": 3,
        "curl/7.42.1": 2,
        "python-requests/2.7.0": 2,
        "-": 2,
    }
)

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MODULUS = 2**31 - 1  # prime; crc32 < 2**32 times a factor < 2**31 stays within BIGINT, which Spark checks


def _factor(field: str) -> int:
    return zlib.crc32(field.encode()) >> 1


def generator(
    ssc: StreamingContext, *, rate: int = 100, seed: int = 0, count: int | None = None, name: str = "generator"
) -> FrameStream:
    """Generate synthetic access-log lines in the combined format, inside the JVM.

    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> run_batches(lambda ticks: ss.sources.generator(ticks.context(), rate=100, count=150).count(), [[], []])
    [[Row(count=100)], [Row(count=50)]]

    Columns: value: string. It generates `rate` lines per second since the first start of this home, up to `count`. A
    drain takes the rest of `count` at once, and requires it. 4 % of the lines have the status 404 and 1 % a 5xx; of
    1,000 clients the busiest sends a tenth.

    Guarantee: replayable, exactly once; the same lines for the same seed and offsets.

    Raises UsageError for a rate or count below 1.

    Cost: grows with the lines of the batch.

    URI: generator:?rate=...&seed=...&count=...
    """
    if rate < 1 or (count is not None and count < 1):
        raise UsageError(f"got rate={rate} and count={count} for the generator, expected at least 1")
    graph = graph_of(ssc)
    lines_of = functools.cache(lambda: line_column(seed, F.col("id")).alias("value"))  # built once, for all batches

    def latest_offset(now: int | None) -> Offset:
        made = count or 0 if now is None else rate * (now - first_start(now)) // 1000
        read = graph.log.last.end_offsets.get(name) or 0  # after a lower rate or count: wait, never go back
        return max(read, made if count is None else min(made, count)) or None

    def first_start(now: int) -> int:
        note = graph.home / f"sources/{name}"
        if not storage.exists(note):
            storage.write(note, str(now - graph.interval))
        return int(storage.read(note))

    def read(start: Offset, end: Offset) -> DataFrame:
        return graph.session.range(start or 0, end).select(lines_of())

    source = Source(latest_offset, read, "value string", bounded=count is not None)
    return FrameStream.from_source(ssc, name, source)


def line(seed: int, offset: int) -> str:
    """The line at an offset, counted from 0, without a line end.

    >>> line(seed=7, offset=0)[:75]
    '198.18.9.6 - - [17/May/2015:10:05:00 +0000] "GET /robots.txt HTTP/1.1" 304 '

    The format is Apache's combined one. Time starts at 17/May/2015:10:05:00 +0000 and advances by a second every 10
    lines. 1 % of the lines have a 5xx status and 4 % a 404; of 1,000 clients the busiest sends a tenth. A line has 159
    bytes on average (74 to 211 seen). After 2.5 * 10**12 offsets the year would need five digits: OverflowError.
    """
    hashed = zlib.crc32(f"{seed}:{offset}".encode())

    def draw(field: str, below: int) -> int:
        return hashed * _factor(field) % _MODULUS % below

    def pick(field: str, table: Sequence[str]) -> str:
        return table[draw(field, len(table))]

    client = draw("client", 2**16) ** 3 * 1000 >> 48
    method = pick("method", METHODS)
    status = pick("status", STATUSES)
    size = draw("bytes", 2**16)
    if status == "304" or method == "HEAD":
        sent = "-"
    elif status in ("200", "206"):
        sent = str(200 + (size**3 >> 31))
    else:
        sent = str(200 + size % 400)
    at = START + timedelta(seconds=offset // LINES_PER_SECOND)
    return (
        f"198.18.{client % 40}.{1 + client // 40} - {pick('user', USERS)} "
        f"[{at.day:02}/{_MONTHS[at.month - 1]}/{at.year}:{at:%H:%M:%S} +0000] "
        f'"{method} {pick("path", PATHS)} HTTP/1.1" {status} {sent} '
        f'"{pick("referrer", REFERRERS)}" "{pick("user_agent", USER_AGENTS)}"'
    )


def lines(seed: int, start: int, stop: int) -> list[str]:
    """The lines at the offsets from `start` up to, but not including, `stop`.

    >>> lines(7, 0, 4)[2:] == lines(7, 2, 4)
    True
    """
    return [line(seed, offset) for offset in range(start, stop)]


def line_column(seed: int, offset: Column) -> Column:
    """The expression of `line` over a column of offsets, which Spark computes without Python.

    >>> spark = getfixture("spark")
    >>> generated = spark.range(5, 7).select(line_column(7, F.col("id")).alias("value"))
    >>> [row.value for row in generated.collect()] == lines(7, 5, 7)
    True

    It does not depend on the session's time zone. Build it once and use it for every batch.
    """
    offset = offset.cast("bigint")
    hashed = F.crc32(F.concat(F.lit(f"{seed}:"), offset.cast("string")).cast("binary"))

    def draw(field: str, below: int) -> Column:
        return hashed * F.lit(_factor(field)) % F.lit(_MODULUS) % F.lit(below)

    def pick(field: str, table: Sequence[str]) -> Column:
        return _look_up(table, draw(field, len(table)))

    client = F.shiftright(_cube(draw("client", 2**16)) * 1000, 48)
    method = pick("method", METHODS)
    status = pick("status", STATUSES)
    size = draw("bytes", 2**16)
    sent = (
        F.when((status == "304") | (method == "HEAD"), "-")
        .when(status.isin("200", "206"), (200 + F.shiftright(_cube(size), 31)).cast("string"))
        .otherwise((200 + size % 400).cast("string"))
    )
    return F.concat(
        F.lit("198.18."),
        (client % 40).cast("string"),
        F.lit("."),
        (1 + _div(client, 40)).cast("string"),
        F.lit(" - "),
        pick("user", USERS),
        F.lit(" ["),
        _timestamp(offset),
        F.lit(' +0000] "'),
        method,
        F.lit(" "),
        pick("path", PATHS),
        F.lit(' HTTP/1.1" '),
        status,
        F.lit(" "),
        sent,
        F.lit(' "'),
        pick("referrer", REFERRERS),
        F.lit('" "'),
        pick("user_agent", USER_AGENTS),
        F.lit('"'),
    )


def _timestamp(offset: Column) -> Column:
    # Built from days and seconds: date_format would be slower, and would follow the session's time zone.
    midnight = START.replace(hour=0, minute=0)
    seconds = _div(offset, LINES_PER_SECOND) + int((START - midnight).total_seconds())
    date = F.date_add(F.lit(midnight.date()), _div(seconds, 86400).cast("int"))
    two_digits = [f"{number:02}" for number in range(60)]
    return F.concat(
        _look_up(two_digits, F.dayofmonth(date)),
        F.lit("/"),
        _look_up(_MONTHS, F.month(date) - 1),
        F.lit("/"),
        F.year(date).cast("string"),
        F.lit(":"),
        _look_up(two_digits, _div(seconds % 86400, 3600)),
        F.lit(":"),
        _look_up(two_digits, _div(seconds % 3600, 60)),
        F.lit(":"),
        _look_up(two_digits, seconds % 60),
    )


def _look_up(table: Sequence[str], index: Column) -> Column:
    # Catalyst folds the split of one literal; an array of literals would take a py4j call for each.
    return F.get(F.split(F.lit("\n".join(table)), "\n"), index)


def _div(column: Column, by: int) -> Column:
    return F.call_function("div", column, F.lit(by))


def _cube(column: Column) -> Column:
    return column * column * column
