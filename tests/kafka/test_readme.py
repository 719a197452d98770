"""The three commands of the README, on a port of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.kafka import free_ports
from tests.support.supervisor import ROOT


def test_the_commands_of_the_readme_start_a_broker_send_lines_and_show_them(tmp_path: Path) -> None:
    (block,) = re.findall(r"```sh\n(scripts/kafka start.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    port = str(free_ports())
    commands = block.replace("127.0.0.1:9092", f"127.0.0.1:{port}").replace("/tmp/kit", str(tmp_path))
    env = {**os.environ, "KAFKA_PORT": port, "KAFKA_DATA": str(tmp_path / "data")}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    try:
        run = subprocess.run(
            ["bash", "-ec", commands], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    finally:
        subprocess.run(["scripts/kafka", "stop"], cwd=ROOT, env=env, check=True, stdin=subprocess.DEVNULL)
    assert run.returncode == 0, run.stderr
    assert re.search(r"2,?000 \W+ 440,?646,?553", run.stdout), run.stdout
    assert "1 batch, drained" in run.stderr
