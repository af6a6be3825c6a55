"""Real server processes on loopback, and what a client sends them."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

FRAMES = Path(__file__).parents[2] / "examples" / "frames"
CHAT = "/v1/chat/completions"
STOP_S = 300


@dataclass
class Server:
    """A server process that accepts connections."""

    process: subprocess.Popen[str]
    url: str
    log: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.url, timeout=300)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def post(self, body: Any, **options: Any) -> httpx.Response:
        return self.client.post(CHAT, json=body, **options)

    def metric(self, name: str) -> float:
        """The sample of that full name, labels included."""
        text = self.client.get("/metrics").text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        assert found, f"no {name} in {text}"
        return float(found[1])

    def resident_mib(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]

    def stop(self, stop_signal: int = signal.SIGTERM) -> int:
        self.process.send_signal(stop_signal)
        return self.process.wait(STOP_S)


@pytest.fixture(scope="session")
def nano_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped checkpoint's CPU bundle."""
    pytest.importorskip("onnx", reason="builds the bundle; install the build extra")
    from build_engine.compilers.cpu import build_cpu
    from egm_edge.assets import shipped_checkpoint

    return build_cpu(shipped_checkpoint(), tmp_path_factory.mktemp("serve") / "egm-nano-cpu", gate=False).root


Start = Callable[..., Server]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """`start("-m", "egm_edge.cli", "serve", bundle, "--port", 0)` -> Server, stopped at the session's end."""
    servers: list[Server] = []

    def run(*arguments: object, env: dict[str, str] | None = None) -> Server:
        log = tmp_path_factory.mktemp("log") / "stderr.txt"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EGM_")} | (env or {})
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=environment,
            )
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " at http://" in line, log.read_text()
        servers.append(Server(process, line.rpartition(" ")[2].strip(), log))
        return servers[-1]

    yield run
    for server in servers:
        server.client.close()
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait(STOP_S)
        assert "Traceback" not in server.log.read_text()


@pytest.fixture(scope="session")
def nano(start: Start, nano_bundle: Path) -> Server:
    """`egm serve` over EGM-Nano with its defaults."""
    return start("-m", "egm_edge.cli", "serve", nano_bundle, "--port", 0, "--threads", 1)


@pytest.fixture(scope="session")
def strict(start: Start, nano_bundle: Path) -> Server:
    """`egm serve --strict`."""
    return start("-m", "egm_edge.cli", "serve", nano_bundle, "--port", 0, "--threads", 1, "--strict")


@pytest.fixture(scope="session")
def scripted(start: Start, nano_bundle: Path) -> Start:
    """`scripted(token_s=0.05, max_waiting=1)` -> a Server over a scripted engine."""

    def run(token_s: float = 0.0, **settings: Any) -> Server:
        options = json.dumps({"token_s": token_s, "settings": settings})
        return start("-m", "tests.serve.scripted_server", nano_bundle, options)

    return run


def data_url(picture: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def frame_url(name: str = "tabletop_1.png") -> str:
    return data_url((FRAMES / name).read_bytes())


def question(text: str = "the red bowl", url: str | None = None, **fields: Any) -> dict[str, Any]:
    """A request in this server's own form: a bare expression and a task."""
    content = [{"type": "image_url", "image_url": {"url": url or frame_url()}}, {"type": "text", "text": text}]
    return {"model": "any", "messages": [{"role": "user", "content": content}], "task": "modal"} | fields


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of a refusal, its form checked."""
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers["content-type"] == "application/json"
    return dict(error)
