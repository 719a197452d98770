"""A real HDFS for these tests: one NameNode and one DataNode on free ports of the loopback address."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
JARS = HERE.parents[1] / ".hadoop"  # fetched once, by Maven
DAEMONS = {
    "namenode": "org.apache.hadoop.hdfs.server.namenode.NameNode",
    "datanode": "org.apache.hadoop.hdfs.server.datanode.DataNode",
}
PATIENCE = 300  # seconds, far more than any step takes


def fetch_jars() -> None:
    whole = JARS / "whole"
    with (HERE / "pom.xml").open() as pom:
        fcntl.flock(pom, fcntl.LOCK_EX)  # two processes of the tests may be here at once
        if not whole.exists():
            shutil.rmtree(JARS, ignore_errors=True)
            command = ["mvn", "-B", "-q", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies"]
            subprocess.run([*command, f"-DoutputDirectory={JARS}"], check=True, stdin=subprocess.DEVNULL)
            whole.touch()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def write_site(folder: Path, name: str, values: dict[str, object]) -> None:
    properties = "".join(f"<property><name>{k}</name><value>{v}</value></property>" for k, v in values.items())
    (folder / name).write_text(f"<configuration>{properties}</configuration>")


def java(folder: Path, daemon: str, *arguments: str) -> list[str]:
    home = os.environ.get("JAVA_HOME")
    class_path = f"{folder}:{JARS}/*"
    program = f"{home}/bin/java" if home else "java"
    return [program, "-Xmx256m", f"-Dhadoop.log.dir={folder}", "-cp", class_path, DAEMONS[daemon], *arguments]


def is_up(web: int) -> bool:
    url = f"http://127.0.0.1:{web}/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState"
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # localhost is not behind a proxy
        state = json.load(direct.open(url, timeout=5))["beans"][0]
    except (OSError, ValueError, IndexError):
        return False
    return state["FSState"] == "Operational" and state["NumLiveDataNodes"] >= 1


@pytest.fixture(scope="session")
def hdfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a running HDFS, such as hdfs://localhost:9000."""
    fetch_jars()
    folder = tmp_path_factory.mktemp("hdfs")
    for part in ("hdfs", "datanode"):  # Maven's jar has no web pages
        (folder / "webapps" / part).mkdir(parents=True)
    rpc, web, *data = free_ports(5)
    write_site(folder, "core-site.xml", {"fs.defaultFS": f"hdfs://localhost:{rpc}", "hadoop.tmp.dir": folder / "tmp"})
    addresses = ("dfs.datanode.address", "dfs.datanode.http.address", "dfs.datanode.ipc.address")
    write_site(
        folder,
        "hdfs-site.xml",
        {
            "dfs.replication": 1,
            "dfs.permissions.enabled": "false",
            "dfs.namenode.name.dir": f"file://{folder}/names",
            "dfs.datanode.data.dir": f"file://{folder}/blocks",
            "dfs.namenode.http-address": f"127.0.0.1:{web}",
            "dfs.namenode.safemode.extension": 0,
            **{name: f"127.0.0.1:{port}" for name, port in zip(addresses, data, strict=True)},
        },
    )
    with (folder / "log").open("wb") as log:
        format_it = java(folder, "namenode", "-format", "-force", "-nonInteractive")
        subprocess.run(format_it, check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        daemons = [subprocess.Popen(java(folder, d), stdin=subprocess.DEVNULL, stdout=log, stderr=log) for d in DAEMONS]
        try:
            deadline = time.monotonic() + PATIENCE
            while not is_up(web):
                assert time.monotonic() < deadline, (folder / "log").read_text(errors="replace")[-5000:]
                time.sleep(0.1)
            yield f"hdfs://localhost:{rpc}"
        finally:
            for daemon in daemons:
                daemon.kill()
                daemon.wait()
