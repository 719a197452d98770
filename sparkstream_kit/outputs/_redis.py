"""Results in Redis, for those who look one up: hashes, rankings and counters.

A batch is written in one transaction with its number, which is kept in `sparkstream:ledger:<home>:<kind>:<name>`, so
that a batch that is run again is skipped. Results go through the driver: at most `MOST_ROWS` a batch. One Redis server,
not a cluster, whose transactions do not reach over all keys.
"""

from __future__ import annotations

import functools
import json
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

log = logging.getLogger(__name__)

MOST_ROWS = 100_000
"""Rows of one transaction, during which Redis serves nobody else: about a second."""

KEPT_BATCHES = 1_000
"""Numbers of batches kept for each output; the newest alone would do, as at most one batch is ever undone."""

Values = list[list[Any]]
Kind = Literal["redis-hash", "redis-ranking", "redis-counter"]


def redis_hash(stream: FrameStream, url: str, *, expire: Duration | None = None, name: str = "redis-hash") -> None:
    """Keep each row as a Redis hash `<name>:<first column>`, whose fields are the other columns.

        redis_hash(totals, "redis://localhost", expire="1h", name="host")    # HGETALL host:10.0.0.7

    A hash that is there is replaced, and a null is a field that is missing. With `expire` a hash is gone when no batch
    has brought it for so long. Values are written as Spark casts them to strings, timestamps in the session's zone.

    Guarantee: exactly once, as far as Redis keeps what it has acknowledged (appendfsync always) and never evicts keys
    without a time to live.

    Raises UsageError at the start for a server that cannot be reached, columns that are no simple values, or a name
    that another home writes to; BatchFailed for more than `MOST_ROWS` rows, and for keys that hold something else.
    """
    _to(stream, Redis(url, "redis-hash", expire, name))


def redis_ranking(
    stream: FrameStream, url: str, *, keep: int = 100, expire: Duration | None = None, name: str = "redis-ranking"
) -> None:
    """Keep the rows of the newest batch as a Redis sorted set `<name>`: the first column by its score, the second.

        redis_ranking(hits, "redis://localhost", keep=10, name="top")    # ZRANGE top 0 9 REV WITHSCORES

    Only the `keep` highest scores stay. Scores are 64-bit floats; a row without one is left out. Guarantee and errors:
    those of `redis_hash`.
    """
    _to(stream, Redis(url, "redis-ranking", expire, name, keep))


def redis_counter(
    stream: FrameStream, url: str, *, expire: Duration | None = None, name: str = "redis-counter"
) -> None:
    """Add each row to a Redis hash `<name>:<first column>`: its other columns, integers, to the fields of their names.

        redis_counter(hits, "redis://localhost", name="hits")    # HGET hits:10.0.0.7 n

    Guarantee and errors: those of `redis_hash`; a counter beyond 64 bits fails its batch, of which nothing is added.
    """
    _to(stream, Redis(url, "redis-counter", expire, name))


def _to(stream: FrameStream, target: Redis) -> None:
    stream.for_each_batch(target.write, name=f"{target.kind}:{target.name}", check=target.check)


@dataclass(frozen=True)
class Redis:
    """One of the three as an output: `write(frame, batch)` commits a batch once, also for `each_batch`."""

    url: str = field(repr=False)
    kind: Kind
    expire: Duration | None
    name: str
    keep: int = 100

    def check(self, frame: DataFrame, before: Batch) -> None:
        """Refuse columns that do not fit; a server that is away at a later start is left to the batches."""
        self._check_columns(frame.schema)
        try:
            self._claim(before.home_id)
        except redis.RedisError as error:
            if not before.n:
                raise UsageError(
                    f"the output {self.name!r} cannot use {redact_url(self.url)} ({error}): correct the address"
                ) from None
            log.warning("the output %r waits for %s (%s)", self.name, redact_url(self.url), error)

    def write(self, frame: DataFrame, batch: Batch) -> int:
        """Commit the rows of a batch, unless they are there; the number of rows written."""
        self._check_columns(frame.schema)
        self._claim(batch.home_id)
        if self._is_there(batch):
            return 0
        rows = [list(row) for row in _strings(frame).limit(MOST_ROWS + 1).coalesce(1).collect()]
        if len(rows) > MOST_ROWS:
            raise BatchFailed(
                f"batch {batch.n} of the output {self.name!r} has more than {MOST_ROWS} rows: aggregate it"
            )
        put = {"redis-hash": self._hash, "redis-ranking": self._ranking, "redis-counter": self._counter}[self.kind]
        put(frame.columns[1:], rows, batch)
        return len(rows)

    def _hash(self, fields: list[str], rows: Values, batch: Batch) -> None:
        hashes = {
            f"{self.name}:{key}": {f: value for f, value in zip(fields, values, strict=True) if value is not None}
            for key, *values in rows
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
        scores = {member: float(score) for member, score in rows if score not in (None, "NaN")}

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
            (f"{self.name}:{key}", f, value)
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
            if type(error) is not redis.ResponseError:  # out of memory, read-only: may pass
                raise
            raise BatchFailed(f"Redis refuses batch {batch.n} of the output {self.name!r}: {error}") from None

    def _in_transaction(self, batch: Batch, keys: list[str], kind: str, put: Callable[[Any], None]) -> None:
        """Queue and execute; what EXEC cannot undo, a command on a key of another type, is looked for before.

        All keys are watched from before that look, so nothing can come in between.
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
                        f"the key {key!r} holds a {found}, and the output {self.name!r} writes a {kind}: "
                        "remove it, or give the output another name="
                    )
            pipe.multi()
            put(pipe)
            pipe.zadd(ledger, {_member(batch): batch.n})
            pipe.zremrangebyrank(ledger, 0, -KEPT_BATCHES - 1)
            pipe.execute()

    def _is_there(self, batch: Batch) -> bool:
        known = _client(self.url).zrangebyscore(self._ledger(batch), batch.n, batch.n)
        if known and known != [_member(batch)]:
            raise OutputRefused(
                f"Redis holds batch {batch.n} of the output {self.name!r} made of {known[0]}, and this is "
                f"{_member(batch)}: the home is an older copy of itself; use a new home and another name="
            )
        return bool(known)

    def _ledger(self, batch: Batch) -> str:
        return f"sparkstream:ledger:{batch.home_id}:{self.kind}:{self.name}"

    def _claim(self, home_id: str) -> None:
        """Make the name this home's, or refuse what would be mixed with another's."""
        owner = _client(self.url).set(f"sparkstream:owner:{self.name}", home_id, nx=True, get=True)
        if owner is not None and owner != home_id:
            raise OutputRefused(
                f"the name {self.name!r} holds results of the home {owner}, and this is the home {home_id}: "
                "go on with that home, or give the output another name="
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
                f"{self.kind} cannot hold: cast it, or leave it out"
            )


# A failing command of a script stays alone: what was added before it is taken back.
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


def _member(batch: Batch) -> str:
    return f"{batch.n} {json.dumps(batch.ranges, sort_keys=True)}"


def _strings(frame: DataFrame) -> DataFrame:
    """All values as Spark casts them to strings, which are all that Redis has; a key that is null is the word null."""
    columns = [F.col(quoted(name)).cast("string") for name in frame.columns]
    return frame.select(F.coalesce(columns[0], F.lit("null")), *columns[1:])


@functools.cache
def _client(url: str) -> Any:  # redis-py's own types leave open what an answer is
    try:
        client = redis.Redis.from_url(url, socket_timeout=30, socket_connect_timeout=10, decode_responses=True)
        client.connection_pool.make_connection()  # which does not connect, but reads the options
        redact_url(url)
    except (ValueError, TypeError):  # it quotes what may be a part of a password
        raise UsageError(
            "the address of Redis is no URL: redis://HOST:PORT/DATABASE, with %2F and %40 for / and @ in a password"
        ) from None
    return client
