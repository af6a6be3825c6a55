"""A real HTTP server on loopback that streams chat completions, and misbehaves as told.

Scripts are lists of acts, one a request (the last one repeats): see `Handler.acts`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

THOUGHT = "The mug stands to the left of the kettle."
ANSWER = '[{"bbox_2d": [100, 200, 500, 600], "label": "mug"}]'
REPLY = f"{THOUGHT}</think>{ANSWER}"


class ChatServer(ThreadingHTTPServer):
    """Attributes: `requests` are the bodies that came; `dropped` is set when a client left in the middle of a reply."""

    daemon_threads = True

    def __init__(self, script: list[str], reply: str, token_s: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.reply, self.token_s = list(script), reply, token_s
        self.requests: list[dict[str, Any]] = []
        self.headers_seen: list[dict[str, str]] = []
        self.dropped = threading.Event()
        self.released = threading.Event()
        self.models = ["egm"]
        self.prompt_tokens = 77

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_GET(self) -> None:
        body = json.dumps({"data": [{"id": name} for name in self.server.models]}).encode()
        self._plain(200, body)

    def do_POST(self) -> None:
        server = self.server
        server.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        server.headers_seen.append(dict(self.headers))
        act = server.script.pop(0) if len(server.script) > 1 else server.script[0]
        try:
            getattr(self, f"act_{act}")()
        except OSError:
            server.dropped.set()
        self.close_connection = True

    def act_stream(self) -> None:
        self._tokens(self.server.reply)
        self._finish()

    def act_no_done_mark(self) -> None:
        self._tokens(self.server.reply)
        self._event({"choices": [{"delta": {}, "finish_reason": "stop"}]})

    def act_apart(self) -> None:
        """As a server with a reasoning parser: thought and answer in fields of their own."""
        self._begin()
        for word in THOUGHT.split(" "):
            self._event({"choices": [{"delta": {"reasoning_content": word + " "}}]})
        self._tokens(ANSWER, begin=False)
        self._finish()

    def act_truncated(self) -> None:
        self._tokens(self.server.reply[:20])
        self._finish("length")

    def act_stall(self) -> None:
        self._tokens(self.server.reply[:12])
        self._wait()

    def act_silent(self) -> None:
        self._begin()
        self._wait()

    def act_mute(self) -> None:
        """Not even headers."""
        self._wait()

    def act_stall_after_box(self) -> None:
        self._tokens(self.server.reply[: self.server.reply.index("]") + 1])
        self._wait()

    def act_cut_off(self) -> None:
        self._tokens(self.server.reply[:20])

    def act_malformed(self) -> None:
        self._begin()
        self.wfile.write(b'data: {"choices": [{"delta"\n\n')

    def act_other_json(self) -> None:
        self._begin()
        self.wfile.write(b'data: {"choices": ["text"]}\n\n')

    def act_list_json(self) -> None:
        self._begin()
        self.wfile.write(b"data: [1, 2]\n\n")

    def act_error_event(self) -> None:
        self._begin()
        self._event({"error": {"message": "CUDA out of memory"}})

    def act_endless_line(self) -> None:
        self._begin()
        self.wfile.write(b"data: " + b"x" * (3 << 20))

    def act_not_a_stream(self) -> None:
        self._plain(200, b'{"hello": 1}')

    def act_busy(self) -> None:
        self._plain(429, b'{"error": {"message": "queue full"}}', {"Retry-After": "0.05"})

    def act_busy_for_long(self) -> None:
        self._plain(429, b'{"error": {"message": "queue full"}}', {"Retry-After": "30"})

    def act_broken(self) -> None:
        self._plain(500, b"<html>Internal Server Error</html>")

    def act_no_key(self) -> None:
        self._plain(401, b'{"error": "invalid api key"}')

    def act_hang_up(self) -> None:
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()

    def _event(self, values: dict[str, Any]) -> None:
        self.wfile.write(b": ping\n\ndata: " + json.dumps(values).encode() + b"\n\n")
        self.wfile.flush()

    def _tokens(self, text: str, *, begin: bool = True) -> None:
        if begin:
            self._begin()
        for start in range(0, len(text), 4):
            self._event({"choices": [{"index": 0, "delta": {"content": text[start : start + 4]}}]})
            time.sleep(self.server.token_s)

    def _finish(self, reason: str = "stop") -> None:
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        usage = {"prompt_tokens": self.server.prompt_tokens, "completion_tokens": 23}
        self._event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _plain(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _wait(self) -> None:
        """Silence until the client leaves or the test ends; notes a client that left."""
        self.connection.settimeout(0.02)
        while not self.server.released.is_set():
            try:
                if self.connection.recv(1) == b"":
                    self.server.dropped.set()
                    return
            except TimeoutError:
                continue
            except OSError:
                self.server.dropped.set()
                return


@contextmanager
def serving(*script: str, reply: str = REPLY, token_s: float = 0.0) -> Iterator[ChatServer]:
    """A server that goes through `script`."""
    server = ChatServer(list(script) or ["stream"], reply, token_s)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
