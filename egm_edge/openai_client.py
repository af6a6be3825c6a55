"""One chat completion from an OpenAI-compatible server, retried with back-off. Knows nothing of grounding.

Standard library only, so that a robot needs no HTTP package; safe to call from several threads at once. What passes
(overload, server errors, stalls, cut connections, answers that are no JSON) is tried again; what will not (a bad key, an
unknown model) is told apart from a request that the server refuses by itself.
"""

from __future__ import annotations

import json
import random
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from egm_edge.errors import BackendError, InputError

PASSING_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
FATAL_STATUS = frozenset({401, 402, 403, 404, 405})
MAX_ANSWER_BYTES = 16 << 20
READ_BYTES = 1 << 16
SHOWN_CHARS = 160


class RequestRefusedError(BackendError):
    """The server refuses this one request; the same request again would fare no better."""


class NoAnswerError(BackendError):
    """Every try of one request failed on its way."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how patiently to try.

    Attributes:
        tries: requests at most, the first one included.
        first_wait_s, longest_wait_s: back-off doubles from one to the other, with jitter; `Retry-After` wins.
        timeout_s: for one try as a whole, and for every silence in it.
    """

    tries: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 60.0
    timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back.

    Attributes:
        text: the message. reasoning: the thought, where the server keeps it apart, else "".
        finish_reason: "stop", "length"..., "" where the server does not say.
        model: as the server names it. prompt_tokens, completion_tokens: as it counts them, 0 where it does not.
        seconds: of the try that succeeded.
    """

    text: str
    reasoning: str = ""
    finish_reason: str = ""
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class OpenAIClient:
    """A server's chat completions.

    Args:
        base_url: up to and including `/v1`; a trailing `/chat/completions` is taken off.
        key: bearer token, None to send none.
        retry: how patiently to try.
        sleep: waits between tries; for tests.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key: str | None = None,
        retry: Retry | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.base_url = base_url.rstrip("/").removesuffix("/chat/completions")
        self.retry = retry or Retry()
        self._parts = urlsplit(self.base_url)
        try:
            port = self._parts.port
        except ValueError:
            port = -1
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname or port == -1:
            raise InputError("an address such as http://localhost:8000/v1", repr(base_url)[:80], "mend the address")
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._sleep = sleep

    def models(self) -> list[str]:
        """Names of the models that are served.

        Raises:
            BackendError: the server does not say.
        """
        values = self._tried(lambda: json.loads(self._whole("GET", "/models", None)))
        entries = values.get("data") if isinstance(values, dict) else None
        names = [e["id"] for e in entries or [] if isinstance(e, dict) and isinstance(e.get("id"), str)]
        if not names:
            raise BackendError(f"models under {self.base_url}/models", "none", "name one with --model")
        return names

    def complete(self, body: dict[str, Any], on_text: Callable[[str], None] | None = None) -> Completion:
        """Ask once, or as often as it takes.

        Args:
            body: of the request: model, messages, max_tokens...
            on_text: told each piece of the answer as it comes, thought included; the answer is then streamed. Told again
                from the start when a try fails half-way.

        Raises:
            RequestRefusedError, NoAnswerError: this request failed for good.
            BackendError: the server refuses us altogether.
        """
        if on_text is None:
            return self._tried(lambda: self._asked(body))
        streamed = body | {"stream": True, "stream_options": {"include_usage": True}}
        return self._tried(lambda: self._streamed(streamed, on_text))

    def _asked(self, body: dict[str, Any]) -> Completion:
        started = time.monotonic()
        values = json.loads(self._whole("POST", "/chat/completions", body))
        choice = values["choices"][0]
        message, usage = choice["message"], values.get("usage") or {}
        return _completion(message, choice.get("finish_reason"), values.get("model"), usage, time.monotonic() - started)

    def _streamed(self, body: dict[str, Any], on_text: Callable[[str], None]) -> Completion:
        started = time.monotonic()
        pieces: dict[str, list[str]] = {"content": [], "reasoning_content": []}
        usage: dict[str, Any] = {}
        model = reason = None
        for values in self._events("POST", "/chat/completions", body):
            model, usage = values.get("model") or model, values.get("usage") or usage
            for choice in values.get("choices") or []:
                reason = choice.get("finish_reason") or reason
                delta = choice.get("delta") or {}
                for key, part in (("reasoning_content", _thought(delta)), ("content", delta.get("content") or "")):
                    if part:
                        pieces[key].append(part)
                        on_text(part)
        if reason is None:
            raise ValueError("the stream ended before the answer did")
        message = {key: "".join(parts) for key, parts in pieces.items()}
        return _completion(message, reason, model, usage, time.monotonic() - started)

    def _tried(self, once: Callable[[], Any]) -> Any:
        retry, failure = self.retry, ""
        for attempt in range(retry.tries):
            wait_s = min(retry.longest_wait_s, retry.first_wait_s * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                return once()
            except _StatusError as error:
                failure = f"HTTP {error.status}: {error.words}".rstrip(": ")
                if error.status in FATAL_STATUS:
                    mend = "check the address, the model and the key"
                    raise BackendError(f"an answer from {self.base_url}", failure, mend) from None
                if error.status not in PASSING_STATUS:
                    mend = "see what the server says of it"
                    raise RequestRefusedError(f"an answer from {self.base_url}", failure, mend) from None
                wait_s = _retry_after(error.retry_after, wait_s, retry.longest_wait_s)
            except TimeoutError:
                failure = f"no answer within {retry.timeout_s:g} s"
            except (OSError, HTTPException, ssl.SSLError, ValueError, LookupError, TypeError, AttributeError) as error:
                failure = f"{type(error).__name__}: {str(error)[:SHOWN_CHARS]}"
            if attempt + 1 < retry.tries:
                self._sleep(wait_s)
        raise NoAnswerError(
            f"an answer from {self.base_url}", f"{failure} ({retry.tries} tries)", "see that the server runs"
        )

    def _whole(self, method: str, path: str, body: dict[str, Any] | None) -> bytes:
        return b"".join(self._pieces(method, path, body))

    def _events(self, method: str, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Server-sent events, decoded."""
        held = b""
        for piece in self._pieces(method, path, body):
            *lines, held = (held + piece).split(b"\n")
            for line in lines:
                data = line.strip().removeprefix(b"data:").strip()
                if not line.startswith(b"data:") or data == b"[DONE]":
                    continue
                values = json.loads(data)
                if isinstance(values, dict) and values.get("error"):
                    raise ValueError(f"the server broke off: {str(values['error'])[:SHOWN_CHARS]}")
                yield values

    def _pieces(self, method: str, path: str, body: dict[str, Any] | None) -> Iterator[bytes]:
        """The body of a good answer as it comes, bounded in time and size."""
        ends, size = time.monotonic() + self.retry.timeout_s, 0
        kind = HTTPSConnection if self._parts.scheme == "https" else HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=self.retry.timeout_s)
        try:
            data = None if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
            connection.request(method, self._parts.path + path, data, self._headers)
            response = connection.getresponse()
            if response.status != 200:
                raise _StatusError(response)
            while piece := response.read1(READ_BYTES):
                size += len(piece)
                if size > MAX_ANSWER_BYTES:
                    raise ValueError(f"an answer of more than {MAX_ANSWER_BYTES >> 20} MiB")
                if time.monotonic() > ends:
                    raise TimeoutError
                yield piece
            if response.length:  # read1 does not tell a cut connection from the end
                raise ValueError(f"the connection was cut {response.length:,} bytes before the end")
        finally:
            connection.close()


class _StatusError(Exception):
    """Another status than 200."""

    def __init__(self, response: HTTPResponse) -> None:
        self.status = response.status
        self.retry_after = response.headers.get("Retry-After")
        self.words = " ".join(response.read(READ_BYTES).decode("utf-8", "replace").split())[:SHOWN_CHARS]


def _completion(message: dict[str, Any], reason: Any, model: Any, usage: dict[str, Any], seconds: float) -> Completion:
    text = message.get("content")
    thought = _thought(message)
    if not isinstance(text, str) and not thought:
        raise TypeError(f"content is a {type(text).__name__}")
    asked, made = (int(usage.get(key) or 0) for key in ("prompt_tokens", "completion_tokens"))
    return Completion(text or "", thought, str(reason or ""), str(model or ""), asked, made, seconds)


def _thought(message: dict[str, Any]) -> str:
    """The thought where a server's reasoning parser keeps it apart; servers name the field in two ways."""
    found = message.get("reasoning_content") or message.get("reasoning") or ""
    return found if isinstance(found, str) else ""


def _retry_after(header: str | None, wait_s: float, longest_s: float) -> float:
    try:
        return min(longest_s, max(0.0, float(header))) if header is not None else wait_s
    except ValueError:  # an HTTP date: our own back-off will do
        return wait_s
