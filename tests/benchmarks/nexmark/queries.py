"""The queries of Nexmark on streams of persons, auctions and bids, each with its meaning in its docstring.

Their definition is the SQL of nexmark/nexmark. What depends on a state that only grows (`UPDATES`) is an update stream:
each batch has the whole result so far, and the last one is final. All others emit each row once.

The first group uses what a FrameStream and a DataFrame have in common, so Structured Streaming runs the same functions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

import sparkstream_kit as ss
from sparkstream_kit.aggregates import Aggregate, Part

from .events import SCHEMA

Table = TypeVar("Table", ss.FrameStream, DataFrame)

LATENESS = "4s"
"""More than the second by which events arrive out of order, as in nexmark/nexmark."""

SIDE_ROWS = 10_000
"""Rows of the side input of query 13."""


class Streams:
    """Persons, auctions and bids: FrameStreams, or DataFrames for what both have in common."""

    def __init__(self, events: Any):
        self.persons, self.auctions, self.bids = (
            events.filter(f"event_type = {n}").select(f"{kind}.*")
            for n, kind in enumerate(("person", "auction", "bid"))
        )

    @functools.cached_property
    def sold(self) -> ss.FrameStream:
        """Bids with their auction. Columns: bid and item, each a struct."""
        items = self.auctions.select(F.col("id").alias("auction"), F.struct("*").alias("item"))
        return matched(self.bids, items, "auction", "sold").select(F.col("left").alias("bid"), "right.item").cache()

    @functools.cached_property
    def offers(self) -> ss.FrameStream:
        """The same, while the auction was open."""
        return self.sold.filter("bid.dateTime between item.dateTime and item.expires")


def parsed(lines: Table) -> Table:
    return lines.transform(functools.partial(ss.transforms.json_lines.parse, schema=SCHEMA))


# --- row by row


def q0(s: Streams) -> Any:
    """Each bid, unchanged."""
    return s.bids.select("auction", "bidder", "price", "dateTime", "extra")


def q1(s: Streams) -> Any:
    """Each bid, its price in euros."""
    return s.bids.select("auction", "bidder", euros().alias("price"), "dateTime", "extra")


def q2(s: Streams) -> Any:
    """The prices that were bid for each 123rd auction."""
    return s.bids.filter("auction % 123 = 0").select("auction", "price")


def q10(s: Streams) -> Any:
    """Each bid, into folders by day and minute."""
    day, minute = day_of("dateTime").alias("dt"), F.date_format("dateTime", "HHmm").alias("hm")
    return s.bids.select("auction", "bidder", "price", "dateTime", "extra", day, minute)


def q14(s: Streams) -> Any:
    """Bids between one and fifty million: the price in euros, the time of day, and how often `c` is in the extra."""
    hour = F.hour("dateTime")
    kind = F.when(hour.between(8, 18), "dayTime").when((hour <= 6) | (hour >= 20), "nightTime").otherwise("otherTime")
    letters = F.length("extra") - F.length(F.replace("extra", F.lit("c"), F.lit("")))
    columns = (euros().alias("price"), kind.alias("bidTimeType"), "dateTime", "extra", letters.alias("c_counts"))
    return s.bids.select("auction", "bidder", *columns).filter("price > 1000000 and price < 50000000")


def q21(s: Streams) -> Any:
    """Bids with the number of their channel: known for four of them, else taken from the URL."""
    known = dict(apple="0", google="1", facebook="2", baidu="3")
    channel = F.lower("channel")
    number = F.nullif(F.regexp_extract("url", "(&|^)channel_id=([^&]*)", 2), F.lit(""))
    for name, value in known.items():
        number = F.when(channel == name, value).otherwise(number)
    columns = ("auction", "bidder", "price", "channel", number.alias("channel_id"))
    return s.bids.select(*columns).filter("channel_id is not null")


def q22(s: Streams) -> Any:
    """Bids with the first three folders of their URL."""
    folders = (F.split("url", "/")[n].alias(f"dir{n - 2}") for n in (3, 4, 5))
    return s.bids.select("auction", "bidder", "price", "channel", *folders)


def euros() -> Column:
    return (F.lit("0.908").cast("decimal(3,3)") * F.col("price")).cast("decimal(23,3)")


def day_of(column: str) -> Column:
    return F.date_format(column, "yyyy-MM-dd")


# --- joins with all that came before


def q3(s: Streams) -> ss.FrameStream:
    """Who sells in OR, ID or CA in category 10, and which auctions."""
    sellers = s.persons.select(F.col("id").alias("seller"), "name", "city", "state")
    pairs = matched(s.auctions.filter("category = 10").select("id", "seller"), sellers, "seller", "q3")
    local = pairs.filter("right.state in ('OR', 'ID', 'CA')")
    return local.select("right.name", "right.city", "right.state", "left.id")


def q4(s: Streams) -> ss.FrameStream:
    """The average of the winning bids of each category."""
    offers = s.offers.select("item.id", "item.category", "bid.price")
    winning = offers.update_state_by_key(["id", "category"], {"final": ss.aggregates.max("price")}, name="q4")
    return winning.sql("select category, sum(final) div count(*) as final from batch group by category")


def q6(s: Streams) -> ss.FrameStream:
    """The average of a seller's winning bids up to each of them and ten before it."""
    offers = s.offers.select("item.id", "item.seller", order("bid").alias("offer"))
    winning = offers.update_state_by_key(["id", "seller"], {"best": ss.aggregates.max("offer")}, name="q6")
    return winning.select("id", "seller", "best.bid.*").sql(
        "select seller, sum(price) over ten div count(*) over ten as avg_price from batch "
        "window ten as (partition by seller order by dateTime, id rows between 10 preceding and current row)"
    )


def q9(s: Streams) -> ss.FrameStream:
    """The winning bid of each auction: the highest while it was open, of equal ones the first."""
    offers = s.offers.select("item.id", "item", order("bid").alias("offer"))
    best = {"item": ss.aggregates.max("item"), "best": ss.aggregates.max("offer")}
    bid = (f"best.bid.{name}" for name in ("auction", "bidder", "price"))
    later = (F.col(f"best.bid.{name}").alias(f"bid_{name}") for name in ("dateTime", "extra"))
    return offers.update_state_by_key("id", best, name="q9").select("item.*", *bid, *later)


def q20(s: Streams) -> ss.FrameStream:
    """Bids with their auction, in category 10."""
    of_bid = ("auction", "bidder", "price", "channel", "url", "dateTime", "extra")
    of_item = ("itemName", "description", "initialBid", "reserve", "dateTime", "expires", "seller", "category", "extra")
    both = {"dateTime", "extra"}
    return s.sold.filter("item.category = 10").select(
        *(F.col(f"bid.{name}").alias(f"bid_{name}" if name in both else name) for name in of_bid),
        *(F.col(f"item.{name}").alias(f"auction_{name}" if name in both else name) for name in of_item),
    )


def matched(left: ss.FrameStream, right: ss.FrameStream, key: str, name: str) -> ss.FrameStream:
    """All pairs of rows with one key, whichever came first. Columns: left and right, each a struct.

    `right` has one row for each key. They are a state; so are rows of the left that came earlier than theirs.
    """
    rows = right.select(key, F.struct("*").alias("right")).cache()
    lefts = left.select(key, F.struct("*").alias("left")).cache()
    known = rows.update_state_by_key(key, {"right": ss.aggregates.max("right")}, name=f"{name}-known").cache()
    early = lefts.join(known, key, "anti")
    waiting = early.update_state_by_key(key, {"left": every("left")}, name=f"{name}-early")
    released = waiting.join(rows, key).select(F.explode("left").alias("left"), "right")
    return lefts.join(known, key).select("left", "right").union(released)


def order(bid: str) -> Column:
    """The greatest is the highest bid, of equal ones the first."""
    return F.struct(F.col(f"{bid}.price"), (-F.unix_millis(f"{bid}.dateTime")).alias("sooner"), F.col(bid).alias("bid"))


# --- windows


def q5(s: Streams) -> ss.FrameStream:
    """The auctions with the most bids in the last 10 seconds, every 2 seconds."""
    bids = {"num": ss.aggregates.count()}
    counts = ss.transforms.event_time_window(
        s.bids, "auction", "dateTime", bids, "10s", "2s", lateness=LATENESS, name="q5"
    )
    most = "select *, max(num) over (partition by start) as most from batch"
    return counts.sql(f"select auction, num, start, end from ({most}) where num = most")


def q7(s: Streams) -> ss.FrameStream:
    """The highest bids of each 10 seconds."""
    closed = ss.transforms.event_time_window(
        s.bids.select("dateTime", priced()),
        [],
        "dateTime",
        {"bid": highest("bid")},
        "10s",
        lateness=LATENESS,
        name="q7",
    )
    return closed.select(F.inline("bid"))


def q8(s: Streams) -> ss.FrameStream:
    """Persons who opened an auction in the same 10 seconds in which they came."""
    closed = ss.transforms.event_time_window(comers(s), "id", "dateTime", COMER, "10s", lateness=LATENESS, name="q8")
    return closed.filter("name is not null and opened > 0").select("id", "name", F.col("start").alias("stime"))


def q11(s: Streams) -> ss.FrameStream:
    """How often a user bid in each session, which ends after 10 seconds without a bid."""
    bids = {"bid_count": ss.aggregates.count()}
    closed = ss.transforms.sessions(s.bids, "bidder", "dateTime", bids, gap="10s", lateness=LATENESS, name="q11")
    end = F.col("end") + F.expr("interval 10 seconds")
    return closed.select("bidder", "bid_count", F.col("start").alias("starttime"), end.alias("endtime"))


def q12(s: Streams) -> ss.FrameStream:
    """How often a user bid in each 10 seconds of processing time."""
    counts = s.bids.reduce_by_key_and_window("bidder", {"bid_count": ss.aggregates.count()}, "10s", "10s")

    def timed(time: Any, frame: DataFrame) -> DataFrame:
        start = F.lit(time) - F.expr("interval 10 seconds")
        return frame.select("bidder", "bid_count", start.alias("starttime"), F.lit(time).alias("endtime"))

    return counts.transform(timed)


COMER = {"name": ss.aggregates.max("name"), "opened": ss.aggregates.sum("opened")}


def comers(s: Streams) -> Any:
    """Persons with their names, and auctions as those of their sellers."""
    came = s.persons.select("id", "name", F.lit(0).alias("opened"), "dateTime")
    opened = F.lit(1).alias("opened")
    sold = s.auctions.select(F.col("seller").alias("id"), F.lit(None).cast("string").alias("name"), opened, "dateTime")
    return came.union(sold)


def priced() -> Column:
    """A bid as a struct that is ordered by its price."""
    return F.struct("price", "auction", "bidder", "dateTime", "extra").alias("bid")


# --- enrichment


def q13(s: Streams) -> ss.FrameStream:
    """Bids with the value of a table for their auction."""
    bids = s.bids.select("auction", "bidder", "price", "dateTime", (F.col("auction") % SIDE_ROWS).alias("key"))
    enriched = ss.transforms.enrich(bids, side_input, on="key", how="inner", name="q13")
    return enriched.select("auction", "bidder", "price", "dateTime", "value")


def side_input() -> DataFrame:
    rows = SparkSession.builder.getOrCreate().range(SIDE_ROWS)
    return rows.select(F.col("id").alias("key"), F.col("id").cast("string").alias("value"))


# --- reports of all that came so far


def q15(s: Streams) -> ss.FrameStream:
    """Bids, bidders and auctions of each day, by three levels of price."""
    return report(s.bids, ["day"], "q15")


def q16(s: Streams) -> ss.FrameStream:
    """The same for each channel, with the minute of its last bid."""
    return report(s.bids, ["channel", "day"], "q16", ", max(minute) as minute")


def q17(s: Streams) -> ss.FrameStream:
    """Bids of each auction and day, by three levels of price, and the least, highest, average price and their sum."""
    price = {f"{name}_price": getattr(ss.aggregates, name)("price") for name in ("min", "max", "sum")}
    totals = dated(s.bids).update_state_by_key(["auction", "day"], COUNTS | price, name="q17")
    average = F.expr("sum_price div total_bids").alias("avg_price")
    return totals.select("auction", "day", *COUNTS, "min_price", "max_price", average, "sum_price")


def q18(s: Streams) -> ss.FrameStream:
    """The last bid of each user for each auction."""
    last = F.struct("dateTime", "price", "channel", "url", "extra").alias("last")
    bids = s.bids.select("auction", "bidder", last)
    found = bids.update_state_by_key(["auction", "bidder"], {"last": ss.aggregates.max("last")}, name="q18")
    return found.select("auction", "bidder", "last.price", "last.channel", "last.url", "last.dateTime", "last.extra")


def q19(s: Streams) -> ss.FrameStream:
    """The ten highest bids of each auction, with their rank."""
    best = {"best": ss.aggregates.collect_set("bid", limit=10)}
    return ranks(s.bids.select("auction", falling()).update_state_by_key("auction", best, name="q19"))


RANKS = {"rank1": "price < 10000", "rank2": "price >= 10000 and price < 1000000", "rank3": "price >= 1000000"}


def dated(bids: Any) -> Any:
    """Bids with their day and minute."""
    times = (day_of("dateTime").alias("day"), F.date_format("dateTime", "HH:mm").alias("minute"))
    return bids.select("auction", "bidder", "price", "channel", *times)


def report(bids: ss.FrameStream, keys: list[str], name: str, more: str = "") -> ss.FrameStream:
    """Bids, distinct bidders and distinct auctions: a row of one state is a bidder, one of the other an auction."""
    rows, by = dated(bids).cache(), ", ".join(keys)
    counts = COUNTS | {"minute": ss.aggregates.max("minute")}
    bidders = rows.update_state_by_key([*keys, "bidder"], counts, name=f"{name}-bidders")
    auctions = rows.update_state_by_key([*keys, "auction"], COUNTS, name=f"{name}-auctions")
    sums = ", ".join(f"sum({column}) as {column}" for column in COUNTS)
    return bidders.sql(
        f"select * from (select {by}{more}, {sums}, {_distinct('bidders')} from batch group by {by}) "
        f"join (select {by}, {_distinct('auctions')} from auctions group by {by}) using ({by})",
        auctions=auctions,
    )


def _distinct(what: str) -> str:
    levels = ", ".join(f"count_if({rank}_bids > 0) as {rank}_{what}" for rank in RANKS)
    return f"count(*) as total_{what}, {levels}"


def falling() -> Column:
    """A bid as a struct of which the least has the highest price, and of equal ones is the first."""
    return F.struct((-F.col("price")).alias("minus"), "dateTime", "bidder", "channel", "url", "extra").alias("bid")


def ranks(best: Any) -> Any:
    """Sorted arrays of `falling` bids as rows with their rank."""
    rows = best.select("auction", F.posexplode("best").alias("before", "bid"))
    price, rank = (-F.col("bid.minus")).alias("price"), (F.col("before") + 1).cast("bigint").alias("rank_number")
    return rows.select("auction", "bid.bidder", price, "bid.channel", "bid.url", "bid.dateTime", "bid.extra", rank)


# --- aggregates that the catalog does not have


def every(column: str) -> Aggregate:
    """All values, in any order: array of the column's type."""
    part = Part(lambda _: F.collect_list(column), lambda values: F.flatten(F.collect_list(values)), f"every({column})")
    return Aggregate((part,), lambda values: values)


def highest(column: str) -> Aggregate:
    """The structs whose price is the highest, however many they are: array of the column's type."""
    part = Part(
        lambda _: of_highest(F.collect_list(column)),
        lambda values: of_highest(F.flatten(F.collect_list(values))),
        f"highest({column})",
    )
    return Aggregate((part,), lambda values: values)


def of_highest(values: Column) -> Column:
    # the highest price is an element of an array, or it would be looked for once for each value
    prices = F.array(F.array_max(values)["price"])
    return F.flatten(F.transform(prices, lambda price: F.filter(values, lambda value: value["price"] == price)))


def count_if(condition: str) -> Aggregate:
    """Number of rows for which a condition holds: bigint."""
    part = Part(lambda _: F.count_if(F.expr(condition)), F.sum, f"count_if({condition})", additive=True)
    return Aggregate((part,), lambda n: n)


COUNTS = {"total_bids": ss.aggregates.count()} | {f"{rank}_bids": count_if(test) for rank, test in RANKS.items()}

Query = Callable[[Streams], Any]

QUERIES: dict[str, Query] = {
    query.__name__: query
    for query in (
        *(q0, q1, q2, q3, q4, q5, q6, q7, q8, q9, q10, q11, q12),
        *(q13, q14, q15, q16, q17, q18, q19, q20, q21, q22),
    )
}
UPDATES = frozenset({"q4", "q6", "q9", "q15", "q16", "q17", "q18", "q19"})
PARTITIONS = {"q10": ["dt", "hm"]}


def write(names: list[str], lines: ss.FrameStream, folder: str) -> None:
    """Write the results of these queries below a folder; a batch is parsed once, whatever they read of it."""
    events = parsed(lines)
    found = Streams(events.cache() if len(names) > 1 or names[0] in BOTH else events)
    for name in names:
        ss.outputs.parquet(QUERIES[name](found), folder, partition_by=PARTITIONS.get(name, ()), name=name)


BOTH = frozenset({"q3", "q4", "q6", "q8", "q9", "q20"})
"""Queries that read more than one kind of events."""
