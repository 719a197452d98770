"""The same results by another engine: DuckDB reads all events at once, and compares its rows with what was written.

A window or session counts once the watermark has passed its end, and not before, so windows that are still open when
the events end must be missing. The watermark is the largest timestamp of what the query reads, less the lateness.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from ..measure import OutputsDiffer

COLUMNS = {
    "event_type": "INTEGER",
    "person": "STRUCT(id BIGINT, name VARCHAR, emailAddress VARCHAR, creditCard VARCHAR, city VARCHAR, "
    "state VARCHAR, dateTime TIMESTAMP, extra VARCHAR)",
    "auction": "STRUCT(id BIGINT, itemName VARCHAR, description VARCHAR, initialBid BIGINT, reserve BIGINT, "
    "dateTime TIMESTAMP, expires TIMESTAMP, seller BIGINT, category BIGINT, extra VARCHAR)",
    "bid": "STRUCT(auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, dateTime TIMESTAMP, "
    "extra VARCHAR)",
}
VIEWS = """
create table person as select unnest(person) from event where event_type = 0;
create table auction as select unnest(auction) from event where event_type = 1;
create table bid as select unnest(bid), batch from event where event_type = 2;
create view offer as
    select auction, bidder, price, bid.dateTime as bid_dateTime, bid.extra as bid_extra, item.*
    from bid join auction item on bid.auction = item.id
    where bid.dateTime between item.dateTime and item.expires;
create view winning as
    select * from offer
    qualify row_number() over (partition by id order by price desc, bid_dateTime, bidder desc) = 1;
create view ranked as
    select *, strftime(dateTime, '%Y-%m-%d') as day, strftime(dateTime, '%H:%M') as minute,
        case when price < 10000 then 1 when price < 1000000 then 2 else 3 end as rank
    from bid;
create macro euros(price) as (price::decimal(20, 0) * 0.908::decimal(3, 3))::decimal(23, 3);
"""

_REPORT = """
    count(*) as total_bids,
    count(*) filter (rank = 1), count(*) filter (rank = 2), count(*) filter (rank = 3),
    count(distinct bidder),
    count(distinct bidder) filter (rank = 1), count(distinct bidder) filter (rank = 2),
    count(distinct bidder) filter (rank = 3),
    count(distinct auction),
    count(distinct auction) filter (rank = 1), count(distinct auction) filter (rank = 2),
    count(distinct auction) filter (rank = 3)
"""

SQL = {
    "q0": "select auction, bidder, price, dateTime, extra from bid",
    "q1": "select auction, bidder, euros(price), dateTime, extra from bid",
    "q2": "select auction, price from bid where auction % 123 = 0",
    "q3": """
        select p.name, p.city, p.state, a.id from auction a join person p on a.seller = p.id
        where a.category = 10 and p.state in ('OR', 'ID', 'CA')""",
    "q4": """
        select category, sum(final) // count(*)
        from (select id, category, max(price) as final from offer group by all) group by category""",
    "q5": """
        with hops as (
            select auction, time_bucket(interval 2 second, dateTime) - hop * interval 2 second as start
            from bid cross join range(5) hops(hop)),
        counts as (select auction, count(*) as num, start from hops group by auction, start)
        select auction, num, start, start + interval 10 second
        from counts where start + interval 10 second <= (select max(dateTime) - interval 4 second from bid)
        qualify num = max(num) over (partition by start)""",
    "q6": """
        select seller, sum(price) over ten // count(*) over ten from winning
        window ten as (partition by seller order by bid_dateTime, id rows between 10 preceding and current row)""",
    "q7": """
        select price, auction, bidder, dateTime, extra from bid
        where time_bucket(interval 10 second, dateTime) + interval 10 second
            <= (select max(dateTime) - interval 4 second from bid)
        qualify price = max(price) over (partition by time_bucket(interval 10 second, dateTime))""",
    "q8": """
        with p as (select id, name, time_bucket(interval 10 second, dateTime) as start from person),
        a as (select distinct seller, time_bucket(interval 10 second, dateTime) as start from auction),
        seen as (select dateTime from person union all select dateTime from auction)
        select distinct id, name, start from p join a using (start)
        where id = seller and start + interval 10 second <= (select max(dateTime) - interval 4 second from seen)""",
    "q9": """
        select id, itemName, description, initialBid, reserve, dateTime, expires, seller, category, extra,
            auction, bidder, price, bid_dateTime, bid_extra from winning""",
    "q10": """
        select auction, bidder, price, dateTime, extra,
            strftime(dateTime, '%Y-%m-%d'), strftime(dateTime, '%H%M') from bid""",
    "q11": """
        with pauses as (
            select bidder, dateTime, dateTime - lag(dateTime) over (partition by bidder order by dateTime) as pause
            from bid),
        numbered as (
            select bidder, dateTime, count(*) filter (pause is null or pause > interval 10 second)
                over (partition by bidder order by dateTime rows unbounded preceding) as session
            from pauses)
        select bidder, count(*), min(dateTime), max(dateTime) + interval 10 second
        from numbered group by bidder, session
        having max(dateTime) + interval 10 second < (select max(dateTime) - interval 4 second from bid)""",
    "q12": """
        with timed as (select bidder, ceil((start + every * batch) / 10) * 10 as till from bid, ticks)
        select bidder, count(*), make_timestamp((till - 10)::bigint * 1000000), make_timestamp(till::bigint * 1000000)
        from timed, ticks where till <= start + every * (select max(batch) from bid) group by bidder, till""",
    "q13": "select auction, bidder, price, dateTime, (auction % 10000)::varchar from bid where auction % 10000 < 10000",
    "q14": """
        select auction, bidder, euros(price),
            case when hour(dateTime) between 8 and 18 then 'dayTime'
                when hour(dateTime) <= 6 or hour(dateTime) >= 20 then 'nightTime' else 'otherTime' end,
            dateTime, extra, length(regexp_replace(extra, '[^c]', '', 'g'))
        from bid where euros(price) > 1000000 and euros(price) < 50000000""",
    "q15": f"select day, {_REPORT} from ranked group by day",
    "q16": f"select channel, day, max(minute), {_REPORT} from ranked group by channel, day",
    "q17": """
        select auction, day, count(*), count(*) filter (rank = 1), count(*) filter (rank = 2),
            count(*) filter (rank = 3), min(price), max(price), sum(price) // count(*), sum(price)
        from ranked group by auction, day""",
    "q18": """
        select auction, bidder, price, channel, url, dateTime, extra from bid
        qualify row_number() over (partition by bidder, auction order by dateTime desc, price desc, extra desc) = 1""",
    "q19": """
        select auction, bidder, price, channel, url, dateTime, extra,
            row_number() over (partition by auction order by price desc, dateTime, bidder, extra) as rank_number
        from bid qualify rank_number <= 10""",
    "q20": """
        select auction, bidder, price, channel, url, b.dateTime, b.extra,
            itemName, description, initialBid, reserve, a.dateTime, expires, seller, category, a.extra
        from bid b join auction a on b.auction = a.id where category = 10""",
    "q21": """
        select auction, bidder, price, channel,
            case lower(channel) when 'apple' then '0' when 'google' then '1' when 'facebook' then '2'
                when 'baidu' then '3' else nullif(regexp_extract(url, '(&|^)channel_id=([^&]*)', 2), '') end as number
        from bid where number is not null""",
    "q22": """
        select auction, bidder, price, channel,
            split_part(url, '/', 4), split_part(url, '/', 5), split_part(url, '/', 6) from bid""",
}


class Expected:
    """The expected rows of all queries. The n-th batch was planned at `start + every * n`, in seconds since 1970."""

    def __init__(self, folder: Path, start: int, every: int):
        self._duck = duckdb.connect()
        self._duck.execute("set timezone = 'UTC'")
        columns = "{" + ", ".join(f"{name}: '{kind}'" for name, kind in COLUMNS.items()) + "}"
        self._duck.execute(
            "create table event as select * exclude filename, "
            "regexp_extract(filename, 'batch-([0-9]+)/', 1)::int as batch from read_json("
            f"'{folder}/batch-*/*.json', format='newline_delimited', filename=true, columns={columns})"
        )
        self._duck.execute(VIEWS)
        self._duck.execute(f"create table ticks as select {start} as start, {every} as every")
        for name, query in SQL.items():
            self._duck.execute(f"create table {name} as {query}")

    def compare(self, name: str, arm: str, files: str) -> int:
        """The number of rows, if these Parquet files have the expected ones, each as often; else OutputsDiffer."""
        self._duck.execute(
            "create or replace temp view found as select columns(lambda name: name <> 'batch') "
            f"from read_parquet('{files}', hive_partitioning=true, hive_types_autocast=false)"
        )
        missing, excess = (
            self._duck.execute(f"select * from (from {one} except all from {other}) order by all").fetchall()
            for one, other in ((name, "found"), ("found", name))
        )
        rows = self.count(name)
        if missing or excess or not rows:
            raise OutputsDiffer(
                f"{name}, {arm}: of {rows:,} rows {len(missing):,} are missing, and {len(excess):,} are in excess\n"
                f"  missing: {missing[:3]}\n  in excess: {excess[:3]}"
            )
        return rows

    def count(self, name: str) -> int:
        ((rows,),) = self._duck.execute(f"select count(*) from {name}").fetchall()
        return int(rows)
