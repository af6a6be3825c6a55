"""Read a request's body under limits: its type, its size, its time, and the memory that all bodies hold together."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from prometheus_client import Gauge
from starlette.requests import HTTPConnection, Request

from egm_edge.serve.errors import ClientGoneError, RequestError
from egm_edge.serve.settings import MIB, ServeSettings

Take = Callable[[int], None]


class ByteBudget:
    """How much of all bodies and pictures is in memory; more than the limit is told 429."""

    def __init__(self, limit: int, gauge: Gauge) -> None:
        self._limit, self._gauge, self._held, self._lock = limit, gauge, 0, threading.Lock()

    @contextmanager
    def holding(self) -> Iterator[Take]:
        """What counts bytes in, from any thread; all of them go back at the end of the `with` block.

        Raises:
            RequestError: 429, others hold too many; these were not counted.
        """
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            with self._lock:
                if count > 0 and self._held + count > self._limit:
                    message = f"other requests hold {self._held / MIB:.0f} MiB of {self._limit / MIB:.0f}; try again in 1 s"
                    raise RequestError(429, message, "memory_full", retry_after_s=1)
                taken += count
                self._held += count
                self._gauge.set(self._held)

        try:
            yield take
        finally:
            take(-taken)


@asynccontextmanager
async def read_body(
    request: Request, budget: ByteBudget, settings: ServeSettings, media_type: str = "application/json"
) -> AsyncIterator[list[bytes]]:
    """The whole body, as the one element of a list: popped from there it is free as soon as it was parsed. Its bytes go back to
    the budget at the end of the `with` block.

    Raises:
        RequestError: 408 too slow, 413 too large, 415 of another type, 429 no memory. ClientGoneError: it broke off.
    """
    _check_headers(request, settings, media_type)
    due, taken = time.monotonic() + settings.body_s, 0
    chunks: list[bytes] = []
    with budget.holding() as take:
        while True:
            try:
                message = await asyncio.wait_for(request.receive(), max(0.0, due - time.monotonic()))
            except asyncio.TimeoutError:
                slow = f"expected the whole body within {settings.body_s:g} s"
                raise RequestError(408, slow, "body_too_slow", close=True) from None
            if message["type"] != "http.request":
                raise ClientGoneError
            chunk = message.get("body", b"")
            if taken + len(chunk) > settings.max_body_bytes:
                raise _too_large(settings)
            take(len(chunk))
            taken += len(chunk)
            chunks.append(chunk)
            if not message.get("more_body", False):
                break
        chunks[:] = [b"".join(chunks)]
        yield chunks


def _check_headers(request: HTTPConnection, settings: ServeSettings, media_type: str) -> None:
    headers = request.headers
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != media_type:
        raise RequestError(415, f"expected Content-Type: {media_type}; found {kind[:60]!r}", "unsupported_media_type")
    if (coding := headers.get("content-encoding", "identity").lower()) != "identity":
        raise RequestError(415, f"expected no Content-Encoding; found {coding[:30]!r}", "unsupported_media_type")
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > settings.max_body_bytes:
        raise _too_large(settings)


def _too_large(settings: ServeSettings) -> RequestError:
    limit = settings.max_body_bytes / MIB
    return RequestError(413, f"expected a body of at most {limit:g} MiB; send a smaller picture", "body_too_large")
