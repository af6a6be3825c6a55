"""A real HTTP server on the loopback interface that speaks chat completions, and misbehaves as told.

It keeps count of what it would bill: one generation per `Idempotency-Key`, however often the request is repeated.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = "Two mugs stand beside the jug; the red one with the blue handle is meant here."


class ChatServer(ThreadingHTTPServer):
    """Attributes: `script` gives the behaviour of the first requests, then everything is answered with `reply`."""

    daemon_threads = True

    def __init__(self, script: list[str], reply: Any, delay_s: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.reply, self.delay_s = list(script), reply, delay_s
        self.lock = threading.Lock()
        self.requests: list[dict[str, Any]] = []
        self.seen: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.in_flight = self.most_in_flight = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers["Idempotency-Key"]
        with self.server.lock:
            act = self.server.script.pop(0) if self.server.script else "answer"
            self.server.requests.append(body | {"path": self.path, "key": key, "auth": self.headers["Authorization"]})
            self.server.seen[key] += 1
            self.server.in_flight += 1
            self.server.most_in_flight = max(self.server.most_in_flight, self.server.in_flight)
        try:
            time.sleep(self.server.delay_s)
            getattr(self, f"_{act}")(body, key)
        finally:
            with self.server.lock:
                self.server.in_flight -= 1

    def _answer(self, body: dict[str, Any], key: str) -> None:
        reply = self.server.reply
        text = reply(body) if callable(reply) else reply
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 100, "completion_tokens": 20}
        self._send(200, {"model": "told", "choices": [{"message": message}], "usage": usage})
        with self.server.lock:
            self.server.answered[key] += 1

    def _error500(self, body: dict[str, Any], key: str) -> None:
        self._send(500, {"error": "boom"})

    def _error429(self, body: dict[str, Any], key: str) -> None:
        self._send(429, {"error": "slow down"}, {"Retry-After": "0.05"})

    def _error401(self, body: dict[str, Any], key: str) -> None:
        self._send(401, {"error": "who are you"})

    def _error400(self, body: dict[str, Any], key: str) -> None:
        self._send(400, {"error": "picture too large"})

    def _garbage(self, body: dict[str, Any], key: str) -> None:
        self._raw(b"<html>gateway</html>")

    def _empty(self, body: dict[str, Any], key: str) -> None:
        self._send(200, {"choices": []})

    def _stall(self, body: dict[str, Any], key: str) -> None:
        time.sleep(4.0)

    def _cut(self, body: dict[str, Any], key: str) -> None:
        self.close_connection = True
        self.connection.close()

    def _cut_in_answer(self, body: dict[str, Any], key: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "10000")
        self.end_headers()
        self.wfile.write(b'{"choices": [')
        self.wfile.flush()
        self.close_connection = True
        self.connection.close()

    def _send(self, status: int, values: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._raw(json.dumps(values).encode(), status, headers)

    def _raw(self, data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@contextmanager
def chat_server(script: tuple[str, ...] = (), reply: Any = GOOD, delay_s: float = 0.0) -> Iterator[ChatServer]:
    server = ChatServer(list(script), reply, delay_s)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
