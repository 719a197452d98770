"""Real servers, started once per test run on free ports; their data is deleted afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgres_program(name: str) -> str:
    """Debian keeps them out of PATH, in a folder per version."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[4]))
    found = str(installed[-1]) if installed else shutil.which(name)
    assert found, f"{name} is not installed: scripts/test says how"
    return found


class Server:
    """A server in its own process group; it has started once it prints `ready`."""

    def __init__(self, *command: str, ready: str, **options: Any):
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, **options
        )
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if ready in line:
                threading.Thread(target=self.process.stdout.read, daemon=True).start()  # or the pipe would fill up
                return
        raise AssertionError(f"{command[0]} did not start: {''.join(said)}")

    def kill(self) -> None:
        """kill -9 the server and all of its processes, as if its machine were switched off."""
        ends = []
        for pid in (self.process.pid, *_descendants(self.process.pid)):
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                ends.append(os.pidfd_open(pid))
                signal.pidfd_send_signal(ends[-1], signal.SIGKILL)
        for end in ends:  # the next start finds the shared memory of a process that is still ending
            select.select([end], [], [])
            os.close(end)
        self.process.wait()


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:  # it has ended
        return []
    return [*map(int, children), *(d for child in children for d in _descendants(int(child)))]


class Postgres:
    """A PostgreSQL server for the tests. PostgreSQL refuses to run as root."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self._options: dict[str, Any] = {"cwd": "/"}
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
            self._options |= {"user": "postgres", "group": "postgres", "extra_groups": []}
        initdb = (postgres_program("initdb"), "-D", f"{folder}/data", "-A", "trust", "-U", "kit", "--no-sync")
        subprocess.run(
            [*initdb, "--encoding=UTF8", "--wal-segsize=1"], check=True, capture_output=True, **self._options
        )
        self.start()

    def start(self, largest_file: str = "unlimited") -> None:
        """Start it. `largest_file`, in blocks of 512 bytes, limits every file: to PostgreSQL that is a full disk."""
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(self.folder), "fsync": "off"}
        options = [f"--{name}={value}" for name, value in {"port": self.port, **settings}.items()]
        limited = ("sh", "-c", f'ulimit -f {largest_file}; exec "$@"', "sh")
        command = (*limited, postgres_program("postgres"), "-D", f"{self.folder}/data", *options)
        self._server = Server(*command, ready="ready to accept connections", **self._options)

    def kill(self) -> None:
        self._server.kill()

    def create_database(self) -> str:
        name = f"test_{uuid.uuid4().hex}"
        with psycopg.connect(f"postgresql://kit@127.0.0.1:{self.port}/postgres", autocommit=True) as connection:
            connection.execute(f"create database {name}")  # type: ignore[arg-type]
        return f"postgresql://kit:s3cret@127.0.0.1:{self.port}/{name}?application_name=hidden"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    server = Postgres(folder)
    yield server
    server.kill()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[int]:
    """The port of a Redis server."""
    program, port = shutil.which("redis-server"), free_port()
    assert program, "redis-server is not installed: scripts/test says how"
    folder = tempfile.mkdtemp(prefix="redis-")
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder)
    server = Server(program, *options, ready="Ready to accept connections")
    yield port
    server.kill()
    shutil.rmtree(folder)


def installed(name: str) -> str:
    program = shutil.which(name)
    assert program, f"{name} is not installed: scripts/test says how"
    return program


def asked(url: str, **parameters: str | list[str]) -> Any:
    """What a server answers, as JSON."""
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(parameters, doseq=True)}", timeout=30) as answer:
        return json.load(answer)


CARBON = """
[cache]
STORAGE_DIR = {folder}
CONF_DIR = {folder}
LOCAL_DATA_DIR = {folder}/whisper
LOG_DIR = {folder}
PID_DIR = {folder}
LINE_RECEIVER_INTERFACE = 127.0.0.1
LINE_RECEIVER_PORT = {port}
ENABLE_UDP_LISTENER = False
PICKLE_RECEIVER_INTERFACE = 127.0.0.1
PICKLE_RECEIVER_PORT = {pickle}
CACHE_QUERY_INTERFACE = 127.0.0.1
CACHE_QUERY_PORT = {query}
MAX_CREATES_PER_MINUTE = inf
MAX_UPDATES_PER_SECOND = 1000
USE_FLOW_CONTROL = True
"""

GRAPHITE_WEB = """
import os
from wsgiref.simple_server import WSGIRequestHandler, make_server

SECRET_KEY = "of a test"
CONF_DIR = STORAGE_DIR = LOG_DIR = os.getcwd()
WHISPER_DIR = CONF_DIR + "/whisper"
STANDARD_DIRS = [WHISPER_DIR]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CARBONLINK_HOSTS = []
TIME_ZONE = "UTC"

if __name__ == "__main__":
    from graphite.wsgi import application

    WSGIRequestHandler.log_message = lambda *words: None
    with make_server("127.0.0.1", PORT, application, handler_class=WSGIRequestHandler) as server:
        print("ready", flush=True)
        server.serve_forever()
"""


class Graphite:
    """A carbon-cache that receives metrics, one value a second, and the render API of graphite-web on its files."""

    def __init__(self, folder: Path):
        self.port, web = free_port(), free_port()
        self.url = f"http://127.0.0.1:{web}"
        config = {"folder": folder, "port": self.port, "pickle": free_port(), "query": free_port()}
        (folder / "carbon.conf").write_text(CARBON.format_map(config))
        (folder / "storage-schemas.conf").write_text("[all]\npattern = .*\nretentions = 1s:1h\n")
        (folder / "local_settings.py").write_text(GRAPHITE_WEB.replace("PORT", str(web)))
        # its Python is the system's, which knows nothing of the environment of the tests
        system = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        carbon = (installed("carbon-cache"), f"--config={folder}/carbon.conf", "--nodaemon", "--debug", "start")
        ready = f"CarbonReceiverFactory starting on {self.port}"
        self._servers = [Server(*carbon, ready=ready, cwd=folder, env={**system, "PYTHONUNBUFFERED": "1"})]
        options = {"cwd": folder, "env": {**system, "GRAPHITE_SETTINGS_MODULE": "local_settings"}}
        self._servers.append(Server("/usr/bin/python3", "local_settings.py", ready="ready", **options))

    def render(self, target: str) -> dict[str, list[float]]:
        """The values of each series of a target in the last minutes."""
        series = asked(f"{self.url}/render", target=target, format="json", **{"from": "-5min"})
        return {one["target"]: [value for value, _ in one["datapoints"] if value is not None] for one in series}

    def kill(self) -> None:
        for server in self._servers:
            server.kill()


@pytest.fixture(scope="session")
def graphite() -> Iterator[Graphite]:
    folder = Path(tempfile.mkdtemp(prefix="graphite-"))
    server = Graphite(folder)
    yield server
    server.kill()
    shutil.rmtree(folder)


class Prometheus:
    """A Prometheus that scrapes what a configuration says."""

    def __init__(self, folder: Path, config: Path):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/api/v1"
        options = (f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder}", f"--config.file={config}")
        self._server = Server(installed("prometheus"), *options, ready="Server is ready")

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The labels and the value now of each series of an expression."""
        result = asked(f"{self.url}/query", query=expression)["data"]["result"]
        return [(one["metric"], float(one["value"][1])) for one in result]

    def rules(self) -> list[dict[str, Any]]:
        """Each rule after its first evaluation."""
        groups = asked(f"{self.url}/rules")["data"]["groups"]
        return [rule for group in groups for rule in group["rules"] if rule["health"] != "unknown"]

    def kill(self) -> None:
        self._server.kill()
