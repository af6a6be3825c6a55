"""`egm serve` at the command line: one line and an exit code for everything that cannot work, warnings where they belong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import Server, Start


def egm_serve(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EGM_")} | env
    command = [sys.executable, "-m", "egm_edge.cli", "serve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)


def assert_one_line(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("egm: "), done.stderr
    for word in words:
        assert word in done.stderr


def test_a_port_in_use(nano_bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_one_line(egm_serve(nano_bundle, "--port", port), 6, f"port {port} in use", "--port")


def test_a_missing_bundle(tmp_path: Path) -> None:
    assert_one_line(egm_serve(tmp_path / "none", "--port", 0), 4, "bundle")


def test_a_damaged_bundle(nano_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text("{")
    assert_one_line(egm_serve(tmp_path, "--port", 0), 4, "bundle")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--port", "99999"], "--port"),
        (["--port", "web"], "--port"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (["--host", "192.0.2.1"], "192.0.2.1"),
        (["--queue", "-1"], "--queue"),
        (["--timeout-s", "0"], "--timeout-s"),
        (["--api-key", "two words"], "API key"),
        (["--bogus"], "--bogus"),
        (["--max-body", "3"], "--max-body"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments(nano_bundle: Path, arguments: list[str], word: str) -> None:
    port = [] if "--port" in arguments else ["--port", "0"]
    assert_one_line(egm_serve(nano_bundle, *port, *arguments), 2, word)


def test_help_names_the_routes() -> None:
    done = egm_serve("--help")
    assert done.returncode == 0
    for word in ("/v1/chat/completions", "/metrics", "EGM_API_KEY", "default: 30000"):
        assert word in done.stdout


@pytest.mark.parametrize(("key", "warned"), [("", True), ("k", False)])
def test_an_open_address_without_a_key_is_warned_about(start: Start, nano_bundle: Path, key: str, warned: bool) -> None:
    server = start(
        "-m", "egm_edge.cli", "serve", nano_bundle, "--port", 0, "--host", "0.0.0.0", env={"EGM_API_KEY": key}
    )
    assert server.client.get("/health", headers={"host": "robot.local"}).status_code == 200
    assert server.stop() == 0
    assert ("no API key is set" in server.log.read_text()) == warned


def test_names_hosts_and_origins_by_option(start: Start, nano_bundle: Path) -> None:
    options: list[Any] = [
        "--model-name",
        "nvidia/EGM-4B",
        "--allow-host",
        "robot.local",
        "--cors-origin",
        "https://lab.example",
    ]
    server = start("-m", "egm_edge.cli", "serve", nano_bundle, "--port", 0, *options)
    assert server.client.get("/v1/models/nvidia/EGM-4B", headers={"host": "robot.local"}).status_code == 200
    wrong = server.post({"model": "other", "messages": [{"role": "user", "content": "x"}]})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (404, "model_not_found")
    asking = {"origin": "https://lab.example", "access-control-request-method": "POST"}
    asking |= {"access-control-request-headers": "authorization,content-type,x-stainless-lang"}
    allowed = server.client.options("/v1/chat/completions", headers=asking)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://lab.example")
    refused = server.client.options("/v1/chat/completions", headers=asking | {"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in refused.headers
    assert server.stop() == 0


def test_defaults_serve_the_bundles_name(nano: Server) -> None:
    assert nano.url.startswith("http://127.0.0.1:")
    assert nano.client.get("/v1/models").json()["data"][0]["id"] == "egm-nano-cpu"
