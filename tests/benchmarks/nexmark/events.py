"""The events of Nexmark as JSON lines, in batches: persons, auctions and bids, the same in every run.

The definition is that of the generator of nexmark/nexmark (as of 2024), which is Apache Beam's with channels and URLs:

- of 50 events 1 is a person, 3 are auctions and 46 are bids; the ids of persons and auctions count from 1000;
- the timestamp of an event follows from its number and the rate; within a group of events the numbers are permuted, by
  the factor 953, so that ids and timestamps arrive out of order;
- three of four sellers are the first, and three of four bidders the second, of the last hundred persons; half of the
  bids are for the first of the last hundred auctions; all others are drawn from the newest thousand persons or hundred
  auctions and up to ten that are yet to come;
- prices are logarithmic, from 1 to 1,000,000 dollars, in cents; auctions last on average until a hundred others opened;
- half of the bids come through one of four channels, the others through one of 10,000, each with its URL, of which nine
  of ten have a channel_id.

What differs: an event is drawn by its number alone, so batches may be cut anywhere and nothing depends on how events
are generated; a group is a second of events, where the default is 1, in order; events begin half a minute before a
midnight, so that reports by day have two days; `bidder` gets its first id added once, as in Beam, not twice; texts are
cut out of one long text. An event has the member of its type only, where nexmark/nexmark writes the others as null.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

SCHEMA = (
    "event_type int, "
    "person struct<id: bigint, name: string, emailAddress: string, creditCard: string, city: string, state: string, "
    "dateTime: timestamp, extra: string>, "
    "auction struct<id: bigint, itemName: string, description: string, initialBid: bigint, reserve: bigint, "
    "dateTime: timestamp, expires: timestamp, seller: bigint, category: bigint, extra: string>, "
    "bid struct<auction: bigint, bidder: bigint, price: bigint, channel: string, url: string, dateTime: timestamp, "
    "extra: string>"
)
"""The columns of a line, in Spark's DDL."""

PERSONS, AUCTIONS, BIDS = 1, 3, 46
EPOCH = PERSONS + AUCTIONS + BIDS
BEGIN = datetime(2015, 7, 14, 23, 59, 30, tzinfo=timezone.utc)
FIRST_ID, FIRST_CATEGORY, CATEGORIES = 1_000, 10, 5
ACTIVE_PERSONS, OPEN_AUCTIONS, TO_COME = 1_000, 100, 10
HOT = 100
"""The hot seller, bidder and auction are among this many."""

STATES = ("AZ", "CA", "ID", "OR", "WA", "WY")
CITIES = (
    *("Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland"),
    *("Bend", "Redmond", "Seattle", "Kent", "Cheyenne"),
)
FIRST_NAMES = ("Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter")
LAST_NAMES = ("Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris")
HOT_CHANNELS = ("Google", "Facebook", "Baidu", "Apple")
CHANNELS = 10_000


class Size(NamedTuple):
    """This many events, in this many batches, with timestamps at this rate."""

    events: int
    batches: int
    rate: int
    """Events a second."""


def lines(size: Size, batch: int) -> Iterator[str]:
    """The events of one batch, as JSON; batches count from 1."""
    first, end = (size.events * n // size.batches for n in (batch - 1, batch))
    for number in range(first, end):
        yield json.dumps(event(number, size.rate), separators=(",", ":"))


def event(number: int, rate: int) -> dict[str, Any]:
    """The event that arrives as the n-th."""
    n = number // rate * rate + number * 953 % rate
    draw, at = _Draw(n), _millis(n, rate)
    epoch, offset = divmod(n, EPOCH)
    person = epoch * PERSONS + min(offset, PERSONS - 1)  # the last one so far, counted from 0
    if offset < PERSONS:
        return {"event_type": 0, "person": _person(draw, person, at)}
    auction = epoch * AUCTIONS + min(offset - PERSONS, AUCTIONS - 1)
    if offset < PERSONS + AUCTIONS:
        until = _millis(n + OPEN_AUCTIONS * EPOCH // AUCTIONS, rate)
        return {"event_type": 1, "auction": _auction(draw, auction, person, at, until)}
    return {"event_type": 2, "bid": _bid(draw, auction, person, at)}


def _person(draw: _Draw, person: int, at: int) -> dict[str, Any]:
    made = {
        "id": FIRST_ID + person,
        "name": f"{draw.one(FIRST_NAMES)} {draw.one(LAST_NAMES)}",
        "emailAddress": f"{draw.word(7)}@{draw.word(5)}.com",
        "creditCard": " ".join(f"{draw.below(10_000):04}" for _ in range(4)),
        "city": draw.one(CITIES),
        "state": draw.one(STATES),
        "dateTime": _time(at),
    }
    return made | {"extra": draw.text(120)}


def _auction(draw: _Draw, auction: int, person: int, at: int, until: int) -> dict[str, Any]:
    seller = person // HOT * HOT if draw.below(4) else draw.person(person)
    first_bid = draw.price()
    return {
        "id": FIRST_ID + auction,
        "itemName": draw.word(20),
        "description": draw.word(100),
        "initialBid": first_bid,
        "reserve": first_bid + draw.price(),
        "dateTime": _time(at),
        "expires": _time(at + 1 + draw.below(max(2 * (until - at), 1))),
        "seller": FIRST_ID + seller,
        "category": FIRST_CATEGORY + draw.below(CATEGORIES),
        "extra": draw.text(390),
    }


def _bid(draw: _Draw, auction: int, person: int, at: int) -> dict[str, Any]:
    oldest = max(auction - OPEN_AUCTIONS, 0)
    on = auction // HOT * HOT if draw.below(2) else oldest + draw.below(auction - oldest + 1 + TO_COME)
    bidder = person // HOT * HOT + 1 if draw.below(4) else draw.person(person)
    price = draw.price()
    channel = draw.one(HOT_CHANNELS) if draw.below(2) else f"channel-{draw.below(CHANNELS)}"
    return {
        "auction": FIRST_ID + on,
        "bidder": FIRST_ID + bidder,
        "price": price,
        "channel": channel,
        "url": _url(channel),
        "dateTime": _time(at),
        "extra": draw.text(68),
    }


@functools.cache
def _url(channel: str) -> str:
    draw = _Draw(channel)
    folders = "/".join(draw.word(5, blank="_") for _ in range(3))
    has_id = channel not in HOT_CHANNELS and draw.below(10)
    return f"https://www.nexmark.com/{folders}/item.htm?query=1" + (f"&channel_id={channel[8:]}" if has_id else "")


def _millis(n: int, rate: int) -> int:
    return 1000 * n // rate


def _time(millis: int) -> str:
    return (BEGIN + timedelta(milliseconds=millis)).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class _Draw:
    """What is drawn for one event. Python promises the same sequence in every version for `random()` alone."""

    def __init__(self, seed: int | str):
        self._random = Random(seed).random

    def below(self, limit: int) -> int:
        return int(self._random() * limit)

    def one(self, values: tuple[str, ...]) -> str:
        return values[self.below(len(values))]

    def price(self) -> int:
        return round(100 * 10 ** (6 * self._random()))

    def person(self, last: int) -> int:
        active = min(last + 1, ACTIVE_PERSONS)
        return last + 1 - active + self.below(active + TO_COME)

    def word(self, limit: int, blank: str = " ") -> str:
        """3 letters or more, but fewer than the limit; about one of 13 is blank, but not the first or the last."""
        letters = self._cut(3 + self.below(limit - 3))
        return letters[0] + letters[1:-1].replace("q", blank).replace("x", blank) + letters[-1]

    def text(self, size: int) -> str:
        """Letters: about this many, a fifth more or less."""
        return self._cut(size - size // 5 + self.below(size // 5 * 2))

    def _cut(self, size: int) -> str:
        start = self.below(len(_LETTERS) - size)
        return _LETTERS[start : start + size]


def _letters(count: int) -> str:
    random = Random(0).random
    return "".join(chr(ord("a") + int(random() * 26)) for _ in range(count))


_LETTERS = _letters(1 << 16)


def write(size: Size, folder: Path, files: int) -> list[Path]:
    """The batches as directories of this many files each, changed in the order of the batches."""
    made = []
    for batch in range(1, size.batches + 1):
        made.append(folder / f"batch-{batch}")
        made[-1].mkdir(parents=True)
        outs = [(made[-1] / f"{number}.json").open("w") for number in range(files)]
        for number, line in enumerate(lines(size, batch)):
            outs[number % files].write(f"{line}\n")
        for out in outs:
            out.close()
            os.utime(out.name, (1_000_000 + batch, 1_000_000 + batch))
    return made
