"""ChatStream: one chat completion under way, streamed or whole, read piece by piece and stoppable at any moment.

A thread reads the socket and the caller waits on a queue, so that a deadline or a cancel holds while the server is silent.
Everything a server sends is bounded and none of it is trusted.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
from collections.abc import Iterator, Mapping
from http.client import HTTPResponse
from typing import Any

from egm_edge.errors import BackendError
from egm_edge.openai.errors import NoAnswerError, StatusError, server_words
from egm_edge.openai.reply import TextChunk
from egm_edge.openai.server import Server

MAX_LINE_BYTES = 1 << 20
MAX_ANSWER_BYTES = 16 << 20
EVENT_STREAM = "text/event-stream"


class ChatStream:
    """A request under way; `close` may be called at any time, from any thread."""

    def __init__(self, server: Server, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        self._server, self._headers = server, dict(headers or {})
        self._chunks: queue.SimpleQueue[TextChunk | Exception | None] = queue.SimpleQueue()
        self._socket: socket.socket | None = None
        self._closed = False
        data = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        threading.Thread(target=self._read, args=(data,), daemon=True).start()

    def next(self, timeout_s: float) -> TextChunk | None:
        """The next piece, None at the end.

        Raises:
            TimeoutError: nothing came in time; the stream goes on.
            StatusError: the server answered with an error status.
            NoAnswerError: no connection, no chat completion, or one that ended too early.
        """
        try:
            chunk = self._chunks.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            raise TimeoutError from None
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    def close(self) -> None:
        """Drop the connection, which is how a server is told to stop generating."""
        self._closed = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes the reader, which closes what is left

    def _hold(self, connected: socket.socket) -> None:
        self._socket = connected
        if self._closed:
            raise ConnectionAbortedError

    def _read(self, body: bytes) -> None:
        headers = {"Accept": f"{EVENT_STREAM}, application/json"} | self._headers
        try:
            with self._server.exchange("POST", "chat/completions", body, headers, on_connected=self._hold) as response:
                for event in _events(response, self._server.where):
                    self._chunks.put(_chunk(event, self._server.where))
            self._chunks.put(None)
        except (StatusError, BackendError) as error:
            self._chunks.put(error)


def read_json(response: HTTPResponse, where: str) -> Any:
    """A whole JSON body, bounded."""
    data = response.read(MAX_ANSWER_BYTES + 1)
    if len(data) > MAX_ANSWER_BYTES:
        raise _nonsense(f"an answer from {where}", f"one of more than {MAX_ANSWER_BYTES >> 20} MiB")
    if response.length:  # read does not tell a cut connection from the end
        raise _nonsense(f"an answer from {where}", f"a connection cut {response.length:,} bytes before its end")
    return _json(data, f"a chat completion or its event stream from {where}")


def _events(response: HTTPResponse, where: str) -> Iterator[Mapping[str, Any]]:
    """The events of a stream; of a whole answer its one event."""
    kind = (response.getheader("Content-Type") or "").split(";")[0].strip().lower()
    if kind != EVENT_STREAM:
        event = _checked(read_json(response, where), where)
        if not event.get("choices"):
            raise _nonsense(f"a chat completion or its event stream from {where}", f"{kind or 'JSON'} without choices")
        yield event
        return
    finished, size = False, 0
    while line := response.readline(MAX_LINE_BYTES + 1):
        size += len(line)
        if len(line) > MAX_LINE_BYTES or size > MAX_ANSWER_BYTES:
            raise _nonsense(f"events under {MAX_LINE_BYTES:,} bytes from {where}", "a longer line or a longer stream")
        data = line.strip()
        if not data.startswith(b"data:"):
            continue  # comments, event names, blank lines
        data = data.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        event = _checked(_json(data, f"JSON events from {where}"), where)
        finished = finished or bool(_first_choice(event).get("finish_reason"))
        yield event
    if not finished:  # some servers leave [DONE] out
        raise _nonsense(f"a finished answer from {where}", "a connection that ended in the middle of it")


def _json(data: bytes, expected: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise _nonsense(expected, repr(data[:80])) from None


def _checked(event: Any, where: str) -> dict[str, Any]:
    if not isinstance(event, dict):
        raise _nonsense(f"JSON objects from {where}", type(event).__name__)
    if event.get("error") and not event.get("choices"):
        raise NoAnswerError(f"{where} to answer", server_words(json.dumps(event)), "see the server's log")
    return event


def _first_choice(event: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = event.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    return first if isinstance(first, dict) else {}


def _chunk(event: Mapping[str, Any], where: str) -> TextChunk:
    """One event: a stream's `delta`, or a whole answer's `message`."""
    choice = _first_choice(event)
    whole = choice.get("message")
    said = whole if isinstance(whole, dict) else choice.get("delta", {} if not event.get("choices") else None)
    if not isinstance(said, dict):
        raise _nonsense(f"chat events from {where}", f"{event.get('choices')!r:.80}")
    thought = _text(said.get("reasoning_content")) or _text(said.get("reasoning"))  # servers name it in two ways
    if isinstance(whole, dict) and not thought and not isinstance(said.get("content"), str):
        raise _nonsense(f"a message from {where}", f"content of type {type(said.get('content')).__name__}")
    stated = event.get("usage")
    usage = stated if isinstance(stated, dict) else {}
    return TextChunk(
        text=_text(said.get("content")),
        thought=thought,
        finish_reason=_text(choice.get("finish_reason")),
        model=_text(event.get("model")),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
    )


def _text(stated: Any) -> str:
    return stated if isinstance(stated, str) else ""


def _count(stated: Any) -> int | None:
    return stated if type(stated) is int and 0 <= stated < 2**31 else None


def _nonsense(expected: str, found: str) -> NoAnswerError:
    return NoAnswerError(expected, found, "check the server's version and address")
