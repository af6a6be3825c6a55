"""One streamed chat completion over plain HTTP: events in order, stoppable at any moment. Standard library only.

A thread reads the socket and the caller waits on a queue, so that a deadline or a cancel holds while the server is silent.
Everything a server sends is bounded and none of it is trusted. Knows nothing of grounding.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from egm_edge.errors import BackendError, InputError

MAX_LINE_BYTES = 1 << 20
MAX_REPLY_CHARS = 1 << 20
MAX_ERROR_BYTES = 64 << 10
MAX_WAIT_S = 3600.0
_END = None


@dataclass(frozen=True, slots=True)
class Server:
    """Where and how to ask.

    Attributes:
        url: base address, with or without the trailing /v1.
        api_key: sent as a bearer token where given; never part of a message.
        connect_timeout_s: for the connection. stall_timeout_s: of silence in the middle of an answer.
    """

    url: str
    api_key: str = ""
    connect_timeout_s: float = 10.0
    stall_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(
                "a server address http://HOST:PORT", repr(self.url), "pass one, for example http://127.0.0.1:8000"
            )

    @property
    def where(self) -> str:
        """Host and port, for messages."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    def path(self, name: str) -> str:
        base = urlsplit(self.url).path.rstrip("/")
        return f"{base if base.endswith('/v1') else base + '/v1'}/{name}"

    def connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        assert parts.hostname
        if parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=self.connect_timeout_s, context=context
            )
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=self.connect_timeout_s)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}


@dataclass(frozen=True, slots=True)
class Refused(Exception):  # noqa: N818 - it says what the server did
    """An answer that is no 200: status, the server's own words, and how long it asks to wait (None: it does not say)."""

    status: int
    words: str
    retry_after_s: float | None


class ChatStream:
    """A request under way. Made by `open_stream`; `close` may be called at any time, from any thread."""

    def __init__(self, server: Server, body: Mapping[str, Any]) -> None:
        self._server = server
        self._events: queue.SimpleQueue[dict[str, Any] | BaseException | None] = queue.SimpleQueue()
        self._connection = server.connect()
        self._socket: socket.socket | None = None  # http.client forgets its own once the answer has begun
        self._closed = False
        self._thread = threading.Thread(target=self._read, args=(json.dumps(body).encode(),), daemon=True)
        self._thread.start()

    def next(self, timeout_s: float) -> dict[str, Any] | None:
        """The next event, None at the end of the stream.

        Raises:
            TimeoutError: nothing came in time; the stream goes on.
            Refused: the server answered with an error status.
            BackendError: no connection, an answer that is no event stream, or one that ended too early.
        """
        try:
            event = self._events.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            raise TimeoutError from None
        if isinstance(event, BaseException):
            raise event
        return event

    def close(self) -> None:
        """Drop the connection, which is how a server is told to stop generating."""
        self._closed = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the reader, which closes what is left

    def _read(self, body: bytes) -> None:
        try:
            self._pump(body)
        except Refused as refusal:
            self._events.put(refusal)
        except BackendError as error:
            self._events.put(error)
        except (OSError, http.client.HTTPException, AttributeError, ValueError) as error:  # closed under the reader too
            if not self._closed:
                self._events.put(
                    BackendError(
                        f"an answer of {self._server.where}", _words(error), "check the server and its address"
                    )
                )
        finally:
            with contextlib.suppress(OSError):
                self._connection.close()

    def _pump(self, body: bytes) -> None:
        connection, server = self._connection, self._server
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream", **server.headers()}
        connection.connect()
        self._socket = connection.sock
        self._socket.settimeout(MAX_WAIT_S)  # from here on the caller's clock counts
        if self._closed:
            return
        connection.request("POST", server.path("chat/completions"), body, headers)
        response = connection.getresponse()
        if response.status != 200:
            text = response.read(MAX_ERROR_BYTES).decode("utf-8", "replace")
            raise Refused(response.status, _server_words(text), _retry_after(response.getheader("Retry-After")))
        kind = (response.getheader("Content-Type") or "").split(";")[0].strip().lower()
        if kind != "text/event-stream":
            raise BackendError(
                f"an event stream from {server.where}", f"content type {kind[:60] or 'unstated'!r}", "check the address"
            )
        finished = False
        while line := response.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                raise BackendError(f"events under {MAX_LINE_BYTES:,} bytes", "a longer line", "check the server")
            data = line.strip()
            if not data.startswith(b"data:"):
                continue  # comments, event names, blank lines
            data = data[len(b"data:") :].strip()
            if data == b"[DONE]":
                self._events.put(_END)
                return
            event = _event(data, server)
            finished = finished or _is_last(event)
            self._events.put(event)
        if finished:  # some servers leave [DONE] out
            self._events.put(_END)
        else:
            raise BackendError(
                f"a finished answer from {server.where}", "a connection that ended in the middle of it", "ask again"
            )


def model_names(server: Server, timeout_s: float) -> list[str]:
    """What GET /v1/models lists.

    Raises:
        BackendError: no connection, or no such list.
    """
    connection = server.connect()
    connection.timeout = timeout_s
    try:
        connection.request("GET", server.path("models"), headers=server.headers())
        response = connection.getresponse()
        text = response.read(MAX_LINE_BYTES).decode("utf-8", "replace")
        if response.status != 200:
            raise refusal_error(server, Refused(response.status, _server_words(text), None))
        listed = json.loads(text)["data"]
        names = [entry["id"] for entry in listed]
    except (OSError, http.client.HTTPException) as error:
        raise BackendError(
            f"a server at {server.where}", _words(error), "start it, or pass the right address"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise BackendError(f"a list of models from {server.where}", "something else", "pass the model's name") from None
    finally:
        connection.close()
    if not names or not all(isinstance(name, str) for name in names):
        raise BackendError(f"a model on {server.where}", "none listed", "load one")
    return names


def refusal_error(server: Server, refusal: Refused) -> BackendError:
    """The BackendError of a refusal that is not worth another try."""
    mends = {
        401: "pass the server's API key",
        403: "pass an API key that is allowed to",
        404: "check the model's name and the address",
        413: "use fewer pixels",
        429: "ask less often, or raise the deadline",
    }
    mend = mends.get(refusal.status, "see the server's log")
    return BackendError(
        f"{server.where} to answer", f"HTTP {refusal.status}{': ' if refusal.words else ''}{refusal.words}", mend
    )


def _event(data: bytes, server: Server) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        raise BackendError(f"JSON events from {server.where}", repr(data[:80]), "check the server") from None
    if not isinstance(event, dict):
        raise BackendError(f"JSON objects from {server.where}", type(event).__name__, "check the server")
    if "error" in event and not event.get("choices"):
        raise BackendError(f"{server.where} to answer", _server_words(json.dumps(event)), "see the server's log")
    return event


def _is_last(event: Mapping[str, Any]) -> bool:
    choices = event.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return isinstance(first, dict) and first.get("finish_reason") is not None


def _server_words(text: str) -> str:
    """What an error body says, one bounded line."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = text
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return " ".join(str(found).split())[:200]


def _retry_after(stated: str | None) -> float | None:
    try:
        return max(0.0, float(stated)) if stated is not None else None
    except ValueError:
        return None  # an HTTP date: treated as unstated


def _words(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:200]
