"""Read a request's body under limits: its type, its size, its time, and the memory that all bodies hold together."""

from __future__ import annotations

import asyncio
import time

from prometheus_client import Gauge
from starlette.datastructures import Headers
from starlette.types import Receive

from egm_edge.serve.errors import ClientGoneError, RequestError
from egm_edge.serve.settings import MIB, ServeSettings


class ByteBudget:
    """How much of all bodies and pictures is in memory; more than the limit is told 429."""

    def __init__(self, limit: int, gauge: Gauge) -> None:
        self._limit, self._gauge, self._held = limit, gauge, 0

    def take(self, count: int) -> None:
        """Count bytes in.

        Raises:
            RequestError: 429, others hold too many; nothing was counted.
        """
        if self._held + count > self._limit:
            message = f"other requests hold {self._held / MIB:.0f} MiB of {self._limit / MIB:.0f}; try again in 1 s"
            raise RequestError(429, message, "memory_full", retry_after_s=1)
        self._change(count)

    def give_back(self, count: int) -> None:
        """Count bytes out."""
        self._change(-count)

    def _change(self, count: int) -> None:
        self._held += count
        self._gauge.set(self._held)


class Body:
    """One request's body; `async with` gives its bytes back to the budget at the end of the request."""

    def __init__(self, held: ByteBudget, settings: ServeSettings) -> None:
        self._held, self._settings, self._taken = held, settings, 0

    async def __aenter__(self) -> Body:
        return self

    async def __aexit__(self, *error: object) -> None:
        self._held.give_back(self._taken)

    async def read(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body.

        Raises:
            RequestError: 408 too slow, 413 too large, 415 no JSON, 429 no memory. ClientGoneError: it broke off.
        """
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RequestError(
                415, f"expected Content-Type: application/json; found {kind[:60]!r}", "unsupported_media_type"
            )
        if (coding := headers.get("content-encoding", "identity").lower()) != "identity":
            raise RequestError(415, f"expected no Content-Encoding; found {coding[:30]!r}", "unsupported_media_type")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._settings.max_body_bytes:
            raise self._too_large()
        due = time.monotonic() + self._settings.body_s
        chunks: list[bytes] = []
        while True:
            try:
                message = await asyncio.wait_for(receive(), max(0.0, due - time.monotonic()))
            except asyncio.TimeoutError:
                slow = f"expected the whole body within {self._settings.body_s:g} s"
                raise RequestError(408, slow, "body_too_slow", close=True) from None
            if message["type"] != "http.request":
                raise ClientGoneError
            chunk = message.get("body", b"")
            if self._taken + len(chunk) > self._settings.max_body_bytes:
                raise self._too_large()
            self._held.take(len(chunk))
            self._taken += len(chunk)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    def _too_large(self) -> RequestError:
        limit = self._settings.max_body_bytes / MIB
        return RequestError(413, f"expected a body of at most {limit:g} MiB; send a smaller picture", "body_too_large")
