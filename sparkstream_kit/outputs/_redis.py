"""Write results into Redis, for applications that look them up: hashes, rankings and counters.

Each batch is one transaction with a ledger entry in the sorted set `sparkstream:ledger:<home>:<kind>:<name>`, so that a
batch that runs again is skipped. The driver collects the rows, at most `MOST_ROWS` per batch. Use a single Redis
server: transactions of a cluster do not span all keys.

Ledger and owner keys carry no version. A release that changes them raises the format of the home, too, and that is what
makes an older kit refuse the job.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import redis
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from ..columns import quoted
from ..contracts import Batch
from ..durations import Duration, milliseconds
from ..errors import BatchFailed, OutputRefused, UsageError
from ..frames import FrameStream
from ..redaction import redact_url
from ._committed import KEPT_BATCHES, check_newest, check_same, ranges_of

log = logging.getLogger(__name__)

MOST_ROWS = 100_000
"""Rows per transaction, which blocks Redis for about a second."""

Values = list[list[Any]]
Kind = Literal["redis-hash", "redis-ranking", "redis-counter"]


def redis_hash(stream: FrameStream, url: str, *, expire: Duration | None = None, name: str = "redis-hash") -> None:
    """Write each row as a Redis hash `<name>:<first column>`, whose fields are the other columns.

        ss.outputs.redis_hash(totals, "redis://localhost", expire="1h", name="host")
        # HGETALL host:10.0.0.7

    Columns: the key, and one or more fields; arrays, maps and structs are refused. A row replaces the whole hash, and a
    null is a missing field. The row of a null key is the hash `<name>:null`, unless a key is that word. Values are cast
    to strings by Spark, timestamps in the time zone of its session. A hash expires when no batch has written it for
    `expire`.

    Guarantee: exactly once, provided that Redis keeps what it has acknowledged (appendfsync always) and does not evict
    keys without a time to live. A batch that runs again, after `sparkstream rewind` or `backfill`, is written once
    more, exactly once, if --again says so; hashes of keys that no longer come stay.

    Raises OutputRefused at the start for columns that do not fit, for a name that another output or home writes to, and
    for a home that is an outdated copy; UsageError for a server that cannot be reached. Raises BatchFailed for two rows
    with one key in a batch, for more than 100,000 rows, and for existing keys of another type.

    Cost: grows with the rows of the batch, which the driver collects.

    URI: redis-hash:URL?expire=...
    """
    _to(stream, Redis(url, "redis-hash", expire, name))


def redis_ranking(
    stream: FrameStream, url: str, *, keep: int = 100, expire: Duration | None = None, name: str = "redis-ranking"
) -> None:
    """Write the newest batch as a Redis sorted set `<name>`: the first column, ranked by the second.

        ss.outputs.redis_ranking(hits, "redis://localhost", keep=10, name="top")
        # ZRANGE top 0 9 REV WITHSCORES

    Columns: the member, and its score, a number. Each batch replaces the set, which holds the `keep` highest scores and
    expires when no batch has written it for `expire`. Scores are 64-bit floats; rows with null or NaN are dropped. Of
    two rows for one member the higher score counts.

    Guarantee: exactly once, as for `redis_hash`; a batch that runs again replaces the set, as any batch does.

    Raises the errors of `redis_hash`, except for two rows with one key.

    Cost: grows with the rows of the batch, which the driver collects.

    URI: redis-ranking:URL?keep=...&expire=...
    """
    _to(stream, Redis(url, "redis-ranking", expire, name, keep))


def redis_counter(
    stream: FrameStream, url: str, *, expire: Duration | None = None, name: str = "redis-counter"
) -> None:
    """Add each row to a Redis hash `<name>:<first column>`: every other column to the field of its name.

        ss.outputs.redis_counter(hits, "redis://localhost", name="hits")
        # HGET hits:10.0.0.7 n

    Columns: the key, and one or more integers; a null adds nothing. A hash expires when no batch has written it for
    `expire`.

    Guarantee: exactly once, as for `redis_hash`; what a batch adds that runs again is added twice.

    Raises the errors of `redis_hash`, except for two rows with one key, which are both added, and BatchFailed for a
    counter that would exceed 64 bits: nothing of that batch is added.

    Cost: grows with the rows of the batch, which the driver collects.

    URI: redis-counter:URL?expire=...
    """
    _to(stream, Redis(url, "redis-counter", expire, name))


def _to(stream: FrameStream, target: Redis) -> None:
    replaces = target.kind == "redis-ranking"  # each batch replaces the one before it
    name = f"{target.kind}:{target.name}"
    stream.for_each_batch(target.write, name=name, check=target.check, replaces=replaces, rewind=target.forget)


@dataclass(frozen=True)
class Redis:
    """One of the three outputs: `write(frame, batch)` commits a batch once, also under `each_batch`."""

    url: str = field(repr=False)
    kind: Kind
    expire: Duration | None
    name: str
    keep: int = 100

    def check(self, frame: DataFrame, before: Batch) -> None:
        """Refuse columns that do not fit. If the server is down at a later start, the batches retry."""
        self._check_columns(frame.schema)
        try:
            self._claim(before.home_id)
            newest = _client(self.url).zrange(self._ledger(before), -1, -1, withscores=True)
            check_newest("Redis", self.name, int(newest[0][1]) if newest else 0, before.n, _INSTEAD)
            self._is_there(before)
        except redis.RedisError as error:
            if not before.n:
                raise UsageError(
                    f"the output {self.name!r} cannot use {redact_url(self.url)} ({error}): correct the URL"
                ) from None
            log.warning("the output %r is waiting for %s (%s)", self.name, redact_url(self.url), error)

    def write(self, frame: DataFrame, batch: Batch) -> int:
        """Commit a batch, unless it was committed before; returns the number of rows written."""
        self._check_columns(frame.schema)
        self._claim(batch.home_id)
        if self._is_there(batch) or (batch.backfill and self.kind == "redis-ranking"):  # that of the newest batch stays
            return 0
        rows = [list(row) for row in _strings(frame).limit(MOST_ROWS + 1).coalesce(1).collect()]
        if len(rows) > MOST_ROWS:
            raise BatchFailed(
                f"batch {batch.n} of the output {self.name!r} has more than {MOST_ROWS} rows: aggregate them first"
            )
        put = {"redis-hash": self._hash, "redis-ranking": self._ranking, "redis-counter": self._counter}[self.kind]
        put(frame.columns[1:], rows, batch)
        return len(rows)

    def forget(self, before: Batch, until: int) -> None:
        """Remove the batches after one from the ledger, so that each is written once more."""
        if before.backfill:  # which has a ledger of its own
            return
        try:
            _client(self.url).zremrangebyscore(self._ledger(before), f"({before.n}", "+inf")
        except redis.RedisError as error:
            raise UsageError(
                f"the output {self.name!r} cannot rewind in {redact_url(self.url)} ({error}): start the job when the "
                "server can be reached"
            ) from None

    def _hash(self, fields: list[str], rows: Values, batch: Batch) -> None:
        keys = [row[0] for row in rows]
        if len(set(keys)) < len(keys):
            raise BatchFailed(
                f"batch {batch.n} of the output {self.name!r} has duplicate keys; {self.kind} needs one row per key: "
                "aggregate by key first"
            )
        nulls_first = sorted(rows, key=lambda row: row[0] is not None)  # a key may be the word that null becomes
        hashes = {
            f"{self.name}:{_word(key)}": {f: v for f, v in zip(fields, values, strict=True) if v is not None}
            for key, *values in nulls_first
        }

        def put(pipe: Any) -> None:
            for key, values in hashes.items():
                pipe.delete(key)
                if values:
                    pipe.hset(key, mapping=values)
                    if self.expire is not None:
                        pipe.pexpire(key, milliseconds(self.expire))

        self._in_transaction(batch, list(hashes), "hash", put)

    def _ranking(self, _: list[str], rows: Values, batch: Batch) -> None:
        found = [(_word(member), float(score)) for member, score in rows if score not in (None, "NaN")]
        scores = dict(sorted(found, key=lambda one: one[1]))  # of two for one member the higher one counts

        def put(pipe: Any) -> None:
            pipe.delete(self.name)
            if scores:
                pipe.zadd(self.name, scores)
                pipe.zremrangebyrank(self.name, 0, -self.keep - 1)
                if self.expire is not None:
                    pipe.pexpire(self.name, milliseconds(self.expire))

        self._in_transaction(batch, [self.name], "zset", put)

    def _counter(self, fields: list[str], rows: Values, batch: Batch) -> None:
        added = [
            (f"{self.name}:{_word(key)}", f, value)
            for key, *values in rows
            for f, value in zip(fields, values, strict=True)
            if value is not None
        ]
        expire = 0 if self.expire is None else milliseconds(self.expire)
        arguments = [part for one in added for part in one]
        try:
            _client(self.url).eval(
                _ADD, 1, self._ledger(batch), batch.n, _member(batch), KEPT_BATCHES, expire, *arguments
            )
        except redis.ResponseError as error:
            if type(error) is not redis.ResponseError:  # out of memory, read-only: may be temporary
                raise
            raise BatchFailed(f"Redis rejects batch {batch.n} of the output {self.name!r}: {error}") from None

    def _in_transaction(self, batch: Batch, keys: list[str], kind: str, put: Callable[[Any], None]) -> None:
        """Queue and execute. EXEC cannot undo a command on a key of the wrong type, so types are checked first.

        All keys are watched from before that check, so no other client can interfere.
        """
        client, ledger = _client(self.url), self._ledger(batch)
        with client.pipeline() as pipe:
            pipe.watch(ledger, *keys)
            if self._is_there(batch):
                return
            types = client.pipeline(transaction=False)
            for key in keys:
                types.type(key)
            for key, found in zip(keys, types.execute(), strict=True):
                if found not in (kind, "none"):
                    raise BatchFailed(
                        f"the key {key!r} holds a {found}, but the output {self.name!r} writes a {kind}: "
                        "delete the key, or give the output another name="
                    )
            pipe.multi()
            put(pipe)
            pipe.zadd(ledger, {_member(batch): batch.n})
            pipe.zremrangebyrank(ledger, 0, -KEPT_BATCHES - 1)
            pipe.execute()

    def _is_there(self, batch: Batch) -> bool:
        """Whether the batch is committed; OutputRefused if another batch with its number is, or may have been."""
        client, ledger = _client(self.url), self._ledger(batch)
        known = client.zrangebyscore(ledger, batch.n, batch.n)
        if known:
            check_same("Redis", self.name, batch, known[0].partition(" ")[2], _INSTEAD)
            return True
        if batch.again:  # it had no frame, or is older than the ledger
            return False
        # of a bare DStream, which has no offsets, Spark may run a batch again that failed: any that the ledger reaches
        skip = 0 if batch.end_offsets else KEPT_BATCHES - 1
        later = client.zrange(ledger, -1 - skip, -1 - skip, withscores=True)
        check_newest("Redis", self.name, int(later[0][1]) if later else 0, batch.n, _INSTEAD)
        return False

    def _ledger(self, batch: Batch) -> str:
        once_more = f":backfill:{batch.backfill}" if batch.backfill else ""
        return f"sparkstream:ledger:{batch.home_id}:{self.kind}:{self.name}{once_more}"

    def _claim(self, home_id: str) -> None:
        """Claim the name for a home, and its keys for a kind; OutputRefused if another home or kind writes there."""
        owner = _client(self.url).set(f"sparkstream:owner:{self.name}", home_id, nx=True, get=True)
        if owner is not None and owner != home_id:
            raise OutputRefused(
                f"the name {self.name!r} holds results of the home {owner}, and this is the home {home_id}: "
                "use that home, or give the output another name="
            )
        keys = self.name if self.kind == "redis-ranking" else f"{self.name}:*"
        kind = _client(self.url).set(f"sparkstream:kind:{keys}", self.kind, nx=True, get=True)
        if kind is not None and kind != self.kind:
            raise OutputRefused(
                f"the keys {keys} belong to the output {self.name!r} of the kind {kind}, and this one has the kind "
                f"{self.kind}: give the output another name="
            )

    def _check_columns(self, schema: T.StructType) -> None:
        allowed: tuple[type[T.DataType], ...] = (T.AtomicType,)
        if self.kind == "redis-counter":
            allowed = (T.IntegralType,)
        if self.kind == "redis-ranking":
            allowed = (T.NumericType,)
        wrong = [f for f in schema.fields[1:] if not isinstance(f.dataType, allowed)]
        if len(schema) < 2 or (self.kind == "redis-ranking" and len(schema) > 2):
            two = "two columns" if self.kind == "redis-ranking" else "two columns or more"
            raise OutputRefused(
                f"the output {self.name!r} needs {two}, the first one a key: got {', '.join(schema.names)}"
            )
        if wrong or not isinstance(schema[0].dataType, T.AtomicType):
            column = wrong[0] if wrong else schema[0]
            raise OutputRefused(
                f"the column {column.name!r} for the output {self.name!r} is {column.dataType.simpleString()}, which "
                f"{self.kind} cannot hold: cast or drop it"
            )


# Redis does not roll back a script whose command fails, so it subtracts again what it has added.
_ADD = """
local ledger, n, member, kept, expire = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if #redis.call('ZRANGEBYSCORE', ledger, n, n) > 0 then return 0 end
for i = 5, #ARGV, 3 do
  local answer = redis.pcall('HINCRBY', ARGV[i], ARGV[i + 1], ARGV[i + 2])
  if type(answer) == 'table' and answer.err then
    for j = 5, i - 3, 3 do
      local back = string.sub(ARGV[j + 2], 1, 1) == '-' and string.sub(ARGV[j + 2], 2) or '-' .. ARGV[j + 2]
      redis.call('HINCRBY', ARGV[j], ARGV[j + 1], back)
    end
    return answer
  end
end
if expire > 0 then
  for i = 5, #ARGV, 3 do redis.call('PEXPIRE', ARGV[i], expire) end
end
redis.call('ZADD', ledger, n, member)
redis.call('ZREMRANGEBYRANK', ledger, 0, -kept - 1)
return 1
"""


_INSTEAD = "another name="


def _member(batch: Batch) -> str:
    return f"{batch.n} {ranges_of(batch)}"


def _word(key: str | None) -> str:
    return "null" if key is None else key


def _strings(frame: DataFrame) -> DataFrame:
    """All values as Spark casts them to strings, the only type of Redis."""
    return frame.select(*(F.col(quoted(name)).cast("string") for name in frame.columns))


@functools.cache
def _client(url: str) -> Any:  # redis-py leaves the types of replies open
    try:
        client = redis.Redis.from_url(url, socket_timeout=30, socket_connect_timeout=10, decode_responses=True)
        client.connection_pool.make_connection()  # reads the options without connecting
        redact_url(url)
    except (ValueError, TypeError):  # its message may quote part of a password
        raise UsageError(
            "got an invalid Redis URL, expected redis://HOST:PORT/DATABASE: write %2F and %40 for / and @ in a password"
        ) from None
    return client
