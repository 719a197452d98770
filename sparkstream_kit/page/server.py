"""The server of the live page: a thread of the driver that sends browsers what is new."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import os
import re
import secrets
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from importlib import resources

import uvicorn
from pyspark.streaming import StreamingContext
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..engine.graph import graph_of
from ..errors import UsageError
from ..events import Event, JobFailed, JobStarted, JobStopped
from ..recovery import storage
from ..recovery.home import Home
from .model import Page

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "::1", "localhost")

HERE = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.IGNORECASE)
"""The host that a browser of this machine asks for, also through `ssh -L`."""

PORTS = 16
"""Ports that are tried, from the one that was asked for, as Spark does for its web UI."""

EVERY = 0.3
"""Seconds between two looks at what is new for a browser."""

CONNECTIONS = 64
"""Open at once; further ones are closed, so that nobody can take the descriptors of the driver."""

SILENT = 10
"""Seconds after which a connection is closed that does not wait for news, or does not take them."""

SHORTEST = 20
"""Characters of a token."""

LAST_WORDS = 1.0
"""Seconds that a job which ends waits until open pages show that."""

FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def serve_page(ssc: StreamingContext, address: str | int = 8080) -> None:
    """Serve a live page of the job on this context. Call it in `build`, before outputs that show results on it.

        def build(ssc):
            ss.serve_page(ssc)                                                  # http://127.0.0.1:8080/
            lines = ss.sources.files(ssc, "/var/log/apache2")
            ss.outputs.page(lines.count(), name="lines", show="line")

    `address` is a port of this machine, or HOST:PORT. The log says where the page is: if the port is taken, it is at
    the first free one of the 15 that follow. At 127.0.0.1, the default, every user of this machine can read it, and
    nobody else; `ssh -L 8080:127.0.0.1:8080 DRIVER` brings it to yours. Any other host, such as 0.0.0.0, asks for a
    token: the home keeps it across restarts, and the log has the address with it. Nothing is encrypted: ssh or a proxy
    does that.

    The page is there when the batches begin. It shows the health with its reason, the newest 200 batches, sources with
    what is waiting, outputs, states, and the results of `ss.outputs.page`. Browsers get what is new by push, and again
    when a restarted job is there; figures of batches survive the restart in the home, results come with the next batch.

    Guarantee: at most once, and no job waits for its page or fails because of it, except for a second when it ends. A
    result that cannot be computed fails its batch, as with any output.

    Raises UsageError for another address, MissingLibrary without the extra page. Jobs of plain DStreams have no page:
    Spark's own web UI serves them.

    Cost: a thread, which looks for news three times a second for each open browser, up to 64.

    >>> import sparkstream_kit as ss
    >>> from sparkstream_kit.testing import run_batches
    >>> def build(lines):
    ...     ss.serve_page(lines.context(), "127.0.0.1:0")  # any free port
    ...     stream = ss.FrameStream.of(lines)
    ...     ss.outputs.page(stream, name="lines")
    ...     return stream
    >>> run_batches(build, [["a"]])
    [[Row(value='a')]]
    """
    host, port = parse_address(str(address))
    graph = graph_of(ssc)
    page = Page(graph, _app(ssc.sparkContext.appName or ""))
    graph.shared["page"] = page

    def hear(event: Event) -> None:
        page.hear(event)
        if isinstance(event, JobStarted):
            _start(page, graph.home, host, port)
        elif isinstance(event, JobFailed | JobStopped):
            _end(page)

    graph.listeners.append(hear)


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of an address; UsageError if it is none.

    >>> parse_address("8080"), parse_address("0.0.0.0:80"), parse_address("[::1]:80")
    (('127.0.0.1', 8080), ('0.0.0.0', 80), ('::1', 80))
    """
    match = re.fullmatch(r"(?:(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+)):)?([0-9]{1,5})", text)
    if not match or int(match[3]) > 65535:
        raise UsageError(f"got the address {text!r} for the page, expected a port or HOST:PORT, such as 0.0.0.0:8080")
    return match[1] or match[2] or LOOPBACK[0], int(match[3])


def _app(name: str) -> str:
    """The name of the application; of a job that python runs, that of the program, as spark-submit names it."""
    return os.path.basename(sys.argv[0]) if name == "pyspark-shell" and sys.argv[0] else name


# --- the server


class _Server(threading.Thread):
    """A server on an open socket, which runs until the process ends, or `stop`."""

    def __init__(self, page: Page, listener: socket.socket, token: str | None):
        super().__init__(name="page", daemon=True)
        self.page, self._listener = page, listener
        self.sent: dict[object, int] = {}
        """The version that each browser has."""
        config = uvicorn.Config(
            application(page, token, self.sent),
            http=_Protocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)

    def run(self) -> None:
        # what browsers send does not belong in the log of the job
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
        self._server.run(sockets=[self._listener])

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self.join(2)
        self._listener.close()


class _Protocol(H11Protocol):
    """uvicorn's, for a bounded number of connections that ask something."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
        else:
            self.loop.call_later(SILENT, self._look, transport, 0)

    def _look(self, transport: asyncio.Transport, before: int) -> None:
        """Close the connection if it does not wait for news, or has not taken a byte of them since the last look."""
        waits = self.cycle is not None and not self.cycle.response_complete and self.scope["path"] == "/events"
        unsent = transport.get_write_buffer_size()
        if not waits or (unsent and unsent == before):
            transport.abort()
        elif self in self.connections:
            self.loop.call_later(SILENT, self._look, transport, unsent)


def _start(page: Page, home: Home, host: str, port: int) -> None:
    """Start the server of a job, in place of that of an earlier job of this process."""
    for server in _servers():
        server.stop()
    try:
        listener = _listen(host, port)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        log.warning("the job has no page, as %s:%d cannot be used: %s", host, port, why)
        return
    token = None if host in LOOPBACK else _token(home)
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
    netloc = f"{f'[{shown}]' if ':' in shown else shown}:{listener.getsockname()[1]}"
    _Server(page, listener, token).start()
    log.info("page: http://%s/%s", netloc, f"?token={token}" if token else "")


def _servers() -> list[_Server]:
    return [thread for thread in threading.enumerate() if isinstance(thread, _Server)]


def _end(page: Page) -> None:
    """Wait until the browsers have the last words of the job, but not for one that hangs."""
    until = time.monotonic() + LAST_WORDS
    version, _ = page.since(0)
    for server in _servers():
        while any(sent < version for sent in list(server.sent.values())) and time.monotonic() < until:
            time.sleep(EVERY / 10)


def _listen(host: str, port: int) -> socket.socket:
    """A socket on the port, or the next one that is free."""
    last = OSError("no port is free")
    for candidate in range(port, min(port + PORTS, 65536)) if port else [0]:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, candidate), family=family)
        except OSError as error:
            last = error
    raise last


def _token(home: Home) -> str:
    """The token of a home, made at its first use."""
    storage.make_directory(home / "page")
    with contextlib.suppress(FileExistsError):
        storage.write_new(home / "page/token", secrets.token_urlsafe(24))
    token = storage.read(home / "page/token").strip()
    if len(token) < SHORTEST:  # an empty one would open the page to everybody
        token = secrets.token_urlsafe(24)
        storage.write(home / "page/token", token)
    return token


# --- what it answers


def application(page: Page, token: str | None, sent: dict[object, int]) -> ASGIApp:
    """The pages of the server; without a token, for browsers of this machine only.

    `sent` gets the version of the page that each open browser has.
    """
    cookie = f"sparkstream-{sha256((token or '').encode()).hexdigest()[:8]}"  # those of other ports are sent, too

    def answer(request: Request) -> Response:
        here, path = HERE.fullmatch(request.headers.get("host", "")), request.url.path
        if request.method != "GET" or {"content-length", "transfer-encoding"} & {*request.headers}:
            return _refused(405, "only GET, without a body")
        if token is None and not here:  # a page elsewhere whose name leads here is not of this machine (DNS rebinding)
            return _refused(400, "only as 127.0.0.1 or localhost")
        if token is not None and _same(request.query_params.get("token", ""), token):
            response = RedirectResponse(path.rpartition("/")[2] or "./", 303)
            # strict would not let a link in a log viewer lead here
            response.set_cookie(cookie, token, httponly=True, samesite="lax")
            return response
        if path != "/" and request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return _refused(403, "only for the page itself")  # other sites could take all connections
        if token is not None and not _same(request.cookies.get(cookie, ""), token):
            return _refused(401, "open the address with ?token=, which is in the log of the job")
        if path == "/events":
            return StreamingResponse(_news(page, sent), media_type="text/event-stream")
        if path not in FILES:
            return _refused(404, "nothing is here")
        name, kind = FILES[path]
        text = resources.files(__package__).joinpath(name).read_bytes()
        return Response(text, media_type=kind, headers={"Connection": "close"})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        response = answer(Request(scope))
        response.headers.update(HEADERS)
        await response(scope, receive, send)

    return app


def _refused(status: int, why: str) -> Response:
    """An answer that ends its connection, so that nothing more is read of what somebody sends."""
    return PlainTextResponse(f"{why}\n", status, headers={"Connection": "close"})


async def _news(page: Page, sent: dict[object, int]) -> AsyncIterator[bytes]:
    """Server-sent events: what is new, whenever something is; else the time, so that a dead connection is noticed."""
    version, beat, me = 0, 0.0, object()
    try:
        while True:
            version, parts = page.since(version)
            if parts or time.monotonic() - beat >= 5:
                beat = time.monotonic()
                text = json.dumps({"now": round(time.time(), 3), **parts}, ensure_ascii=False, allow_nan=False)
                yield f"data: {text}\n\n".encode(errors="replace")
            sent[me] = version
            await asyncio.sleep(EVERY)
    except Exception as error:
        log.warning("a browser gets no more of the page: %s: %s", type(error).__name__, error)
        raise
    finally:
        sent.pop(me, None)


def _same(got: str, expected: str) -> bool:
    return hmac.compare_digest(got.encode(errors="replace"), expected.encode())
