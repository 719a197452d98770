"""Access logs as JSON objects, by the servers whose manuals define them, as Spark expressions.

- Caddy 2: `log` writes JSON unless it writes to a terminal (https://caddyserver.com/docs/caddyfile/directives/log; for
  `request`, modules/caddyhttp/marshalers.go). `client_ip` is there since 2.7, `remote_ip` since 2.5.
- Traefik 2 and 3: `accessLog.format: json`; the fields are those of "Available fields"
  (https://doc.traefik.io/traefik/observability/access-logs/), and of pkg/middlewares/accesslog/logdata.go. Headers are
  only there if `accessLog.fields.headers` keeps them.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from pyspark.sql import Column
from pyspark.sql import functions as F

from ..columns import schema_of
from . import _json_objects
from ._log_fields import FIELDS, PARTS, Reader, first_failing, known, trimmed


class Server(NamedTuple):
    """The JSON of a server."""

    schema: str
    members: dict[str, tuple[str, ...]]
    """For each column the paths of the members that may hold it, the best first."""


SERVERS = {
    "caddy": Server(
        "ts string, user_id string, size bigint, status int, request struct<client_ip: string, remote_ip: string, "
        "method: string, uri: string, proto: string, headers: struct<Referer: array<string>, `User-Agent`: "
        "array<string>>>",
        {
            "client_ip": ("request.client_ip", "request.remote_ip"),
            "user": ("user_id",),
            "timestamp": ("ts",),
            "method": ("request.method",),
            "path": ("request.uri",),
            "protocol": ("request.proto",),
            "status": ("status",),
            "bytes": ("size",),
            "referrer": ("request.headers.Referer.0",),
            "user_agent": ("request.headers.User-Agent.0",),
        },
    ),
    "traefik": Server(
        "ClientHost string, ClientUsername string, StartUTC string, StartLocal string, RequestMethod string, "
        "RequestPath string, RequestProtocol string, DownstreamStatus int, DownstreamContentSize bigint, "
        "request_Referer string, `request_User-Agent` string",
        {
            "client_ip": ("ClientHost",),
            "user": ("ClientUsername",),
            "timestamp": ("StartUTC", "StartLocal"),
            "method": ("RequestMethod",),
            "path": ("RequestPath",),
            "protocol": ("RequestProtocol",),
            "status": ("DownstreamStatus",),
            "bytes": ("DownstreamContentSize",),
            "referrer": ("request_Referer",),
            "user_agent": ("request_User-Agent",),
        },
    ),
}
"""By the names of their formats."""

_RFC_3339 = (
    "\\A[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\\.[0-9]{1,9})?"
    "(?:Z|[+-](?:0[0-9]|1[0-7]):?[0-5][0-9])\\z"
)
_YEAR_10000 = 253402300800
_NUMBER = "\\A[0-9]{1,11}(?:\\.[0-9]*+)?(?:[eE]\\+?[0-9]{1,2})?\\z"


def reader(format: str) -> Reader:
    """The expressions for the JSON of a server."""
    server = SERVERS[format]
    line = trimmed(F.col("value"), "\r\n")
    read = _json_objects.read(line, schema_of(server.schema))

    def member(column: str) -> Column:
        return F.coalesce(*(_json_objects.member(F.col(PARTS), *path.split(".")) for path in server.members[column]))

    time, status, size = (" or ".join(server.members[column]) for column in ("timestamp", "status", "bytes"))
    is_object = _json_objects.is_object(F.col(PARTS))
    is_status = (member("status") == 0) | member("status").between(100, 999)
    checks = [
        (member("timestamp").isNotNull(), f"{time} is missing"),
        (_instant(member("timestamp")).isNotNull(), f"{time} is neither seconds since 1970 nor an RFC 3339 timestamp"),
        (member("status").isNotNull(), f"{status} is missing"),
        (F.coalesce(is_status, F.lit(False)), f"{status} is not a number from 100 to 999"),
    ]
    is_size = F.coalesce(member("bytes") >= 0, F.lit(True))
    valid = functools.reduce(Column.__and__, [is_object, *(check for check, _ in checks), is_size])
    texts = {f"_log_{column}": member(column) for column in server.members}
    columns = {column: _typed(column, server) for column in FIELDS}
    reason = F.when(~is_object, _json_objects.reason(line, "format"))
    reason = reason.otherwise(first_failing(checks, f"{size} is negative"))
    return Reader([{PARTS: read}], valid, [texts, columns], [{"reason": reason}])


def _typed(column: str, server: Server) -> Column:
    if column not in server.members:
        return F.lit(None).cast("string")
    text = F.col(f"_log_{column}")
    if column == "timestamp":
        return _instant(text)
    return text if column in ("status", "bytes") else known(text)


def _instant(text: Column) -> Column:
    """The instant of a number of seconds, or of an RFC 3339 timestamp; null for anything else."""
    seconds = F.when(text.rlike(_NUMBER), text.try_cast("decimal(20, 6)"))
    since_1970 = F.timestamp_micros((F.when(seconds < _YEAR_10000, seconds) * 1_000_000).cast("bigint"))
    return F.coalesce(since_1970, F.when(text.rlike(_RFC_3339), text.try_cast("timestamp")))
