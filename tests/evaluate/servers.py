"""A real HTTP server on loopback that answers chat completions as a test tells it to: well, late, wrongly, or not at all."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

BOX = '[{"bbox_2d": [0, 0, 500, 500], "label": "mug"}]'


@dataclass(frozen=True)
class Reply:
    """How one request is answered.

    Attributes:
        status: of the answer. text: of the message. finish: its finish_reason. raw: sent instead of JSON.
        pause_s: silence before it. cut: bytes to leave out at the end of the body. retry_after: header.
        pieces: how many a streamed text comes in.
    """

    text: str = BOX
    status: int = 200
    finish: str = "stop"
    pause_s: float = 0.0
    cut: int = 0
    raw: bytes | None = None
    retry_after: str | None = None
    message: dict[str, Any] = field(default_factory=dict)
    pieces: int = 2


@dataclass
class Served:
    """A running server.

    Attributes:
        url: ends in /v1. bodies: every request received, in order. most_at_once: largest number of open requests.
    """

    url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    open_now: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def expressions(self) -> list[str]:
        """The text part of every request."""
        return [b["messages"][0]["content"][1]["text"] for b in self.bodies]


@contextmanager
def serving(reply_to: Callable[[dict[str, Any], int], Reply]) -> Iterator[Served]:
    """Serve; `reply_to` is given a request's body and how often its text was asked before."""
    served = Served("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._send(Reply(raw=json.dumps({"data": [{"id": "egm-test"}]}).encode()))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with served.lock:
                text = body["messages"][0]["content"][1]["text"]
                before = served.expressions().count(text)
                served.bodies.append(body)
                served.headers.append(dict(self.headers))
                served.open_now += 1
                served.most_at_once = max(served.most_at_once, served.open_now)
            try:
                reply = reply_to(body, before)
                time.sleep(reply.pause_s)
            finally:
                with served.lock:  # before the reply: a client may ask again as soon as it has it
                    served.open_now -= 1
            self._stream(reply) if body.get("stream") else self._send(reply)

        def _stream(self, reply: Reply) -> None:
            self.send_response(reply.status)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            ends = [len(reply.text) * i // reply.pieces for i in range(reply.pieces + 1)]
            events: list[dict[str, Any]] = [
                {"choices": [{"delta": {"content": reply.text[a:b]}}]} for a, b in pairwise(ends)
            ]
            events.append({"choices": [{"delta": {}, "finish_reason": reply.finish}]})
            events.append({"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 12}})
            for event in events[: len(events) - reply.cut]:
                self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
                self.wfile.flush()
            self.close_connection = True

        def _send(self, reply: Reply) -> None:
            message = {"role": "assistant", "content": reply.text} | reply.message
            choice = {"message": message, "finish_reason": reply.finish}
            usage = {"prompt_tokens": 40, "completion_tokens": 12}
            values = {"model": "egm-test", "choices": [choice], "usage": usage}
            data = json.dumps(values).encode() if reply.raw is None else reply.raw
            self.send_response(reply.status)
            self.send_header("Content-Length", str(len(data)))
            if reply.retry_after is not None:
                self.send_header("Retry-After", reply.retry_after)
            self.end_headers()
            self.wfile.write(data[: len(data) - reply.cut])
            if reply.cut:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    served.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
