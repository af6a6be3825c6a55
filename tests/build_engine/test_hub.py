"""Hub ids as CHECKPOINT, against a real HTTP server on loopback that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from build_engine.hub import resolve_checkpoint
from egm_edge.assets import shipped_checkpoint
from egm_edge.errors import CheckpointError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "qwen3_vl"}',
    "model.safetensors": b"weights",
    "chat_template.jinja": b"template",
    "README.md": b"card",
    "pytorch_model.bin": b"pickle",
    "modeling_custom.py": b"code",
}


class _Hub(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = self.path.split("?")[0]
        self.asked.append(path)
        info = {"id": "acme/tiny", "sha": COMMIT, "private": False, "siblings": [{"rfilename": n} for n in FILES]}
        name = path.rpartition("/")[2]
        if path.startswith("/api/models/acme/tiny/tree/"):
            tree = [
                {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for n, c in FILES.items()
            ]
            self._send(json.dumps(tree).encode(), body)
        elif path.startswith("/api/models/acme/tiny"):
            self._send(json.dumps(info).encode(), body)
        elif path.startswith("/acme/tiny/resolve/") and name in FILES:
            self._send(
                FILES[name], body, {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(FILES[name]).hexdigest()}"'}
            )
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _send(self, content: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(200)
        for name, value in {
            "Content-Length": str(len(content)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    _Hub.asked.clear()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _resolve(name: str, endpoint: str, home: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client reads its endpoint when it is imported."""
    code = (
        "import sys\nfrom build_engine.hub import resolve_checkpoint\nfrom egm_edge.errors import EgmError\n"
        "try:\n    print(resolve_checkpoint(sys.argv[1]))\nexcept EgmError as error:\n    sys.exit(str(error))"
    )
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PATH": "/usr/bin:/bin", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", code, name]
    root = Path(__file__).parents[2]
    return subprocess.run(
        command, env=environment | {"PYTHONPATH": str(root)}, cwd=home, capture_output=True, text=True, timeout=120
    )


def test_a_hub_id_is_fetched_without_pickles_and_code(hub: str, tmp_path: Path) -> None:
    done = _resolve("acme/tiny", hub, tmp_path)
    assert done.returncode == 0, done.stderr
    fetched = {p.name: p.read_bytes() for p in Path(done.stdout.strip().splitlines()[-1]).iterdir()}
    assert fetched == {name: FILES[name] for name in FILES if not name.endswith((".bin", ".py"))}
    assert not [path for path in _Hub.asked if path.endswith((".bin", ".py"))]


def test_an_unknown_model_is_said_to_be_so(hub: str, tmp_path: Path) -> None:
    done = _resolve("acme/nothing", hub, tmp_path)
    assert done.returncode == 1
    assert "acme/nothing" in done.stderr and "404" in done.stderr and "Traceback" not in done.stderr


def test_without_a_connection_the_message_says_what_to_do(tmp_path: Path) -> None:
    done = _resolve("nvidia/EGM-4B", "http://127.0.0.1:9", tmp_path)
    assert done.returncode == 1
    assert "HF_ENDPOINT" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("given", ["/nowhere/at/all", "./missing", "missing"])
def test_a_path_is_never_asked_of_the_hub(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> Path:
        raise AssertionError("went to the hub")

    monkeypatch.setattr("build_engine.hub._download", refuse)
    with pytest.raises(CheckpointError, match="nothing there"):
        resolve_checkpoint(given)


def test_the_shipped_name_is_the_shipped_checkpoint() -> None:
    assert resolve_checkpoint("egm-nano") == shipped_checkpoint()


def test_a_hub_id_with_a_revision_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("build_engine.hub._download", lambda *args: asked.append(args) or Path("x"))
    resolve_checkpoint("nvidia/EGM-4B@v1.0")
    assert [call[:2] for call in asked] == [("nvidia/EGM-4B", "v1.0")]


def test_errors_are_checkpoint_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def offline(*args: object, **kwargs: object) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(CheckpointError, match="nothing in the cache"):
        resolve_checkpoint("nvidia/EGM-4B")
