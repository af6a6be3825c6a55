"""Fixtures that start real nodes in their own processes, and a client that talks to them over DDS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ros_client import Client

HERE = Path(__file__).parent
STOP_S = 20.0


class NodeProcess:
    """A node's process; its output goes to a file that failing tests print.

    Args:
        command: program and arguments, without `--ros-args`.
        parameters: as with `-p`.
        log_path: file for stdout and stderr.
        extra: further ROS arguments, parameter files for example.
    """

    def __init__(self, command: list[str], parameters: dict[str, object], log_path: Path, extra: list[str]) -> None:
        self.log_path = log_path
        pairs = [
            f"{key}:={str(value).lower() if isinstance(value, bool) else value or repr(value)}"
            for key, value in parameters.items()
        ]
        arguments = ["--ros-args", *extra, *(part for pair in pairs for part in ("-p", pair))]  # the last one wins
        with log_path.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *arguments], stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"}
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stop(self, sign: signal.Signals = signal.SIGINT) -> int:
        """Ask the node to end; returns its exit code (SIGKILL only when it does not listen)."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGUSR1)
            time.sleep(1.0)
            self.process.kill()
            return self.process.wait(STOP_S)


MakeNode = Callable[..., NodeProcess]


@pytest.fixture(scope="module")
def make_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeNode]:
    """Starts nodes and stops them at the end of the module: make_node(command=None, extra=[], **parameters)."""
    nodes: list[NodeProcess] = []

    def make(command: list[str] | None = None, extra: list[str] | None = None, **parameters: object) -> NodeProcess:
        log_path = tmp_path_factory.mktemp("node") / f"node{len(nodes)}.log"
        nodes.append(
            NodeProcess(command or [sys.executable, str(HERE / "fake_node.py")], parameters, log_path, extra or [])
        )
        return nodes[-1]

    yield make
    for node in nodes:
        node.stop()
        print(f"--- {node.log_path}\n{node.log}")


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with Client() as made:
        yield made


@pytest.fixture(scope="module")
def fake_node(make_node: MakeNode, client: Client) -> NodeProcess:
    """The node with the fake grounder, active."""
    node = make_node(autostart=True)
    client.wait_for_state("active")
    return node
