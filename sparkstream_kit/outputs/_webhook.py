"""Send rows as HTTP requests, for alerts."""

from __future__ import annotations

import hashlib
import http.client
import json
import random
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from ..columns import check_unique
from ..contracts import Batch
from ..errors import BatchFailed, UsageError
from ..frames import FrameStream
from ..redaction import redact_url
from ._committed import ranges_of

MOST_ROWS = 1_000
"""Rows per batch: each is a request of its own, one after the other."""

TRIES = 4
"""Attempts at one request before the output fails, and is retried like any other."""

_PASSING = {408, 425, 429}


def webhook(stream: FrameStream, url: str, *, timeout: float = 10.0, name: str = "webhook") -> None:
    """POST each row as a JSON object to an http or https URL.

        ss.outputs.webhook(alerts, "https://example.org/hooks/alerts", name="alerts")

    Columns: any; nulls are sent. Each request has two headers: `Idempotency-Key`, which is the same whenever the same
    row of the same batch is sent, and `Batch`, the batch number. A status from 200 to 299 within `timeout` seconds,
    which bound the whole request, is a success. Timeouts, lost connections and the statuses 408, 425, 429 and 5xx are
    retried after random pauses. Redirects are not followed.

    Guarantee: at least once. A row is sent again if the response was lost, or if the job was killed before its batch
    was done. A receiver that remembers the keys handles each row once.

    Raises UsageError for any other URL, and BatchFailed for more than 1,000 rows in a batch.

    Cost: grows with the rows of the batch: one request each, one after the other.

    URI: webhook:URL?timeout=...
    """
    _check(url)
    sent: set[str] = set()  # so that a retry of the batch continues where it failed

    def write(frame: DataFrame, batch: Batch) -> int:
        rows = _bodies(frame)
        if len(rows) > MOST_ROWS:
            raise BatchFailed(
                f"batch {batch.n} of the output {name!r} has more than {MOST_ROWS} rows: filter them first"
            )
        keys = dict(_keyed(rows, [batch.home_id, name, batch.n, ranges_of(batch)]))
        sent.intersection_update(keys)
        for key, body in keys.items():
            if key not in sent:
                headers = {"Content-Type": "application/json", "Idempotency-Key": key, "Batch": str(batch.n)}
                _post(urllib.request.Request(url, body.encode(), headers, method="POST"), timeout)
                sent.add(key)
        return len(rows)

    stream.for_each_batch(write, name=f"webhook:{name}", check=lambda frame, before: check_unique(frame.columns))


def _check(url: str) -> None:
    """Refuse now what urllib would refuse in a batch, quoting parts of the URL that may be secret."""
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.username is None and parts.port != 0
    except ValueError:
        fits = False
    if not fits or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(
            "got an invalid webhook URL, expected http://HOST/PATH or https://HOST/PATH in ASCII, without spaces, user "
            "or password"
        )


def _bodies(frame: DataFrame) -> list[str]:
    whole = F.to_json(F.struct("*"), {"ignoreNullFields": "false"})
    return [row[0] for row in frame.limit(MOST_ROWS + 1).select(whole).coalesce(1).collect()]


def _keyed(bodies: list[str], batch: list[Any]) -> Iterator[tuple[str, str]]:
    """Each row with its key, which does not depend on the order of rows; equal rows are numbered.

    >>> first, second = _keyed(['{"a":1}', '{"a":1}'], ["home", "alerts", 7])
    >>> first[0] != second[0]
    True
    """
    seen: Counter[str] = Counter()
    for body in sorted(bodies):
        seen[body] += 1
        yield hashlib.sha256(json.dumps([*batch, body, seen[body]]).encode()).hexdigest(), body


def _post(request: urllib.request.Request, timeout: float) -> None:
    for attempt in range(TRIES):
        try:
            _within(timeout, lambda: _opener.open(request, timeout=timeout).close())
            return
        except (OSError, http.client.HTTPException) as error:  # includes URLError and timeouts
            answer = error.code if isinstance(error, urllib.error.HTTPError) else None
            passing = answer is None or answer in _PASSING or answer >= 500
            if not passing or attempt == TRIES - 1:
                # only the host of the URL: the rest is often secret
                raise ConnectionError(f"{redact_url(request.full_url, path=False)}: {error}") from None
        time.sleep(random.uniform(0, 0.5 * 2**attempt))


def _within(seconds: float, send: Callable[[], None]) -> None:
    """Send in a thread, and wait for it this long: the timeout of urllib is one of each read, and a server may drip.

    A thread that is given up lives as long as its server sends a byte now and then; nothing waits for it.
    """
    errors: SimpleQueue[BaseException | None] = SimpleQueue()

    def run() -> None:
        try:
            send()
            errors.put(None)
        except BaseException as error:
            errors.put(error)

    Thread(target=run, daemon=True).start()
    try:
        error = errors.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"timed out: no answer within {seconds:g} s") from None
    if error is not None:
        raise error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would repeat a POST as a GET and report success."""

    def redirect_request(self, *_: Any) -> None:
        """Do not follow: the response is an error."""


_opener = urllib.request.build_opener(_NoRedirect)
