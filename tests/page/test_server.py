"""The server of the page, asked over real sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from pyspark.streaming import StreamingContext

import sparkstream_kit as ss
from sparkstream_kit.engine.graph import Graph
from sparkstream_kit.errors import UsageError
from sparkstream_kit.events import JobStopped
from sparkstream_kit.frames import FrameStream
from sparkstream_kit.page import server
from sparkstream_kit.page.model import Page
from tests.support.supervisor import wait_until
from tests.support.ticks import Build, given, job, run_ticks

TOKEN = "t0ken-of-the-home"


def serving(token: str | None) -> server._Server:
    page = Page(cast(Graph, None), "app")
    found = server._Server(page, server._listen("127.0.0.1", 0), token)
    found.start()
    return found


@pytest.fixture
def open_server() -> Iterator[server._Server]:
    found = serving(None)
    yield found
    found.stop()


@pytest.fixture
def guarded_server() -> Iterator[server._Server]:
    found = serving(TOKEN)
    yield found
    found.stop()


def port(of: server._Server) -> int:
    return int(of._listener.getsockname()[1])


def asked(of: server._Server, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port(of), timeout=20)
    connection.request(method, path, headers=headers)
    return connection.getresponse()


def first_news(answer: http.client.HTTPResponse) -> dict[str, Any]:
    line = answer.readline()
    assert line.startswith(b"data: ")
    return dict(json.loads(line[6:]))


# --- what it answers


@pytest.mark.parametrize(
    ("path", "kind"), [("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")]
)
def test_the_page_comes_from_the_package_and_nothing_else_may_run_on_it(
    open_server: server._Server, path: str, kind: str
) -> None:
    answer = asked(open_server, path)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith(kind)
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.read()


def test_browsers_get_what_is_new(open_server: server._Server) -> None:
    answer = asked(open_server, "/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert first_news(answer)["health"]["state"] == "starting"
    answer.readline()
    open_server.page.show({"name": "hits", "show": "table", "n": 1})
    news = first_news(answer)
    assert news["panels"] == [{"name": "hits", "show": "table", "n": 1}]
    assert "health" not in news


@pytest.mark.parametrize("path", ["/page.py", "/../model.py", "//etc/passwd", "/page.js/..", "/%2e%2e/server.py"])
def test_nothing_else_is_served(open_server: server._Server, path: str) -> None:
    assert asked(open_server, path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_nothing_can_be_changed(open_server: server._Server, method: str) -> None:
    assert asked(open_server, "/events", method).status == 405


@pytest.mark.parametrize("path", ["/", "/events", "/nowhere"])
@pytest.mark.parametrize("header", ["Content-Length: 1000000000000", "Transfer-Encoding: chunked"])
def test_a_body_ends_its_connection(open_server: server._Server, path: str, header: str) -> None:
    with socket.create_connection(("127.0.0.1", port(open_server)), timeout=20) as hostile:
        hostile.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n".encode())
        with pytest.raises(OSError):
            for _ in range(10_000):
                hostile.sendall(b"1\r\nx\r\n" * 10_000)


# --- who may read it


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8080", "LOCALHOST", "[::1]:9"])
def test_a_browser_of_this_machine_may_read_it(open_server: server._Server, host: str) -> None:
    assert asked(open_server, "/", Host=host).status == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8080", "", "[::1", "a b"])
def test_a_page_elsewhere_whose_name_leads_here_may_not(open_server: server._Server, host: str) -> None:
    for path in ("/", "/events", "/page.js"):
        assert asked(open_server, path, Host=host).status == 400


@pytest.mark.parametrize("path", ["/", "/events", "/page.js", "/?token=", "/?token=wrong", "/?token=%00%ff"])
def test_without_the_token_nothing_is_shown(guarded_server: server._Server, path: str) -> None:
    for cookie in ("", "sparkstream-00000000=x", "=", "sparkstream-00000000=\xff"):
        answer = asked(guarded_server, path, Cookie=cookie)
        assert answer.status == 401
        assert answer.read() == b"open the address with ?token=, which is in the log of the job\n"


def test_the_token_becomes_a_cookie_and_leaves_the_address(guarded_server: server._Server) -> None:
    answer = asked(guarded_server, f"/?token={TOKEN}")
    assert (answer.status, answer.headers["location"]) == (303, "./")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower(), "so that a link in a log viewer leads here"
    assert asked(guarded_server, "/", Cookie=cookie.partition(";")[0]).status == 200
    assert asked(guarded_server, "/events", Cookie=cookie.partition(";")[0]).status == 200


def test_other_sites_cannot_ask_for_what_the_page_asks_for(open_server: server._Server) -> None:
    site = {"Sec-Fetch-Site": "cross-site"}
    assert asked(open_server, "/", **site).status == 200, "a link may lead here"
    assert [asked(open_server, path, **site).status for path in ("/events", "/page.js")] == [403, 403]
    assert asked(open_server, "/events", **{"Sec-Fetch-Site": "same-origin"}).status == 200


# --- what it withstands


def test_connections_are_bounded(open_server: server._Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS", 3)
    held = [asked(open_server, "/events") for _ in range(3)]
    assert all(first_news(answer) for answer in held)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        asked(open_server, "/")


def test_a_connection_that_asks_nothing_is_closed(open_server: server._Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SILENT", 0.1)
    for half in (b"", b"GET / HTTP/1.1\r\nHost: loc"):
        with socket.create_connection(("127.0.0.1", port(open_server)), timeout=20) as silent:
            silent.sendall(half)
            with contextlib.suppress(ConnectionResetError):
                assert silent.recv(1) == b""


def test_connections_that_do_not_wait_for_news_are_closed(
    guarded_server: server._Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SILENT", 0.1)
    with socket.create_connection(("127.0.0.1", port(guarded_server)), timeout=20) as hostile:
        hostile.sendall(b"GET /events HTTP/1.1\r\nHost: a\r\n\r\nG")
        with contextlib.suppress(ConnectionResetError):
            while hostile.recv(1000):
                pass


def test_a_browser_that_takes_nothing_is_given_up(open_server: server._Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SILENT", 0.1)
    open_server.page.show({"name": "large", "show": "table", "n": 1, "rows": [["x" * 1000] * 20_000]})
    with socket.create_connection(("127.0.0.1", port(open_server)), timeout=20) as hostile:
        hostile.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert hostile.recv(10)
        wait_until(lambda: not open_server._server.server_state.connections, "nobody is connected")


def test_a_browser_that_waits_for_news_keeps_its_connection(
    open_server: server._Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SILENT", 0.1)
    answer = asked(open_server, "/events")
    for n in range(1, 4):
        assert first_news(answer)
        answer.readline()
        open_server.page.show({"name": "hits", "show": "table", "n": n})
    assert first_news(answer)["panels"][0]["n"] == 3


def test_what_json_cannot_hold_is_logged(open_server: server._Server, caplog: pytest.LogCaptureFixture) -> None:
    answer = asked(open_server, "/events")
    assert first_news(answer)
    open_server.page.show({"name": "hits", "n": float("nan")})
    with contextlib.suppress(http.client.HTTPException, ConnectionError):
        answer.read()
    assert "a browser gets no more of the page: ValueError: Out of range float values" in caplog.text


@pytest.mark.parametrize(
    "sent", [b"\0\xff\n\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n"]
)
def test_a_malformed_request_ends_its_connection_alone(
    open_server: server._Server, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection(("127.0.0.1", port(open_server)), timeout=20) as hostile:
        hostile.sendall(sent)
        hostile.settimeout(20)
        with contextlib.suppress(ConnectionResetError):
            while hostile.recv(1000):
                pass
    assert asked(open_server, "/").status == 200
    assert caplog.records == []


# --- on a job


def on_page(address: str) -> Build:
    def build(ssc: StreamingContext) -> dict[str, FrameStream]:
        ss.serve_page(ssc, address)
        return {"rows": given(ssc, [[(1,)]], "v int")}

    return build


def said(caplog: pytest.LogCaptureFixture) -> str:
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("page: ")]
    return line


def test_a_job_serves_its_page_and_tells_where(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with job(on_page("0"), tmp_path) as engine:
        (found,) = server._servers()
        assert said(caplog) == f"page: http://127.0.0.1:{port(found)}/"
        answer = asked(found, "/events")
        assert first_news(answer)["health"]["state"] == "running"
        engine.close()
        answer.readline()
        assert first_news(answer)["health"]["state"] == "stopped", "the job waits until the browser has its last words"


def test_other_hosts_ask_for_a_token_that_outlives_the_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tokens = set()
    for tick in (1, 2):
        caplog.clear()
        run_ticks(on_page("0.0.0.0:0"), tmp_path, [tick])
        tokens.add(said(caplog).partition("?token=")[2])
    (token,) = tokens
    assert len(token) == 32
    assert (tmp_path / "page/token").read_text() == token
    assert stat.S_IMODE((tmp_path / "page").stat().st_mode) == 0o700
    (found,) = server._servers()
    assert asked(found, "/").status == 401
    assert asked(found, f"/?token={token}").status == 303


def test_a_port_that_is_taken_leads_to_the_next(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        first = taken.getsockname()[1]
        run_ticks(on_page(str(first)), tmp_path, [1])
        (found,) = server._servers()
        assert first < port(found) < first + server.PORTS


def test_a_job_that_begins_again_in_this_process_has_its_port_again(tmp_path: Path) -> None:
    run_ticks(on_page("0"), tmp_path, [1])
    first = port(server._servers()[0])
    run_ticks(on_page(str(first)), tmp_path, [2])
    assert [port(found) for found in server._servers()] == [first]


@pytest.mark.parametrize(
    ("address", "why"),
    [("198.51.100.1:8080", "Cannot assign requested address"), ("a..b:8080", "Name or service not known")],
)
def test_a_job_runs_without_a_page_where_none_can_be(
    address: str, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run_ticks(on_page(address), tmp_path, [1]) == {"rows": {1: [(1,)]}}
    assert f"the job has no page, as {address} cannot be used: {why}" in caplog.text


@pytest.mark.parametrize("token", ["", "short"])
def test_a_damaged_token_opens_nothing(token: str, tmp_path: Path) -> None:
    run_ticks(on_page("0.0.0.0:0"), tmp_path, [1])
    (tmp_path / "page/token").write_text(token)
    run_ticks(on_page("0.0.0.0:0"), tmp_path, [2])
    (found,) = server._servers()
    assert asked(found, "/").status == 401
    assert len((tmp_path / "page/token").read_text()) == 32


@pytest.mark.parametrize("address", ["", "http://localhost:80", "80a", "host:", "99999", "a b:1", "-1", "127.0.0.1"])
def test_another_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="expected a port or HOST:PORT, such as"):
        server.parse_address(address)


def test_a_browser_that_hangs_holds_no_job_that_ends(
    open_server: server._Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LAST_WORDS", 0.2)
    open_server.sent[object()] = 0
    began = time.monotonic()
    open_server.page.hear(JobStopped(1, False))
    server._end(open_server.page)
    assert time.monotonic() - began >= 0.2


def test_a_browser_that_has_gone_is_forgotten(open_server: server._Server) -> None:
    answer = asked(open_server, "/events")
    assert first_news(answer)
    wait_until(lambda: open_server.sent, "somebody is there")
    answer.close()
    wait_until(lambda: not open_server.sent, "nobody is there")
