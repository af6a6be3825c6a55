"""TimeoutProtocol: uvicorn's HTTP/1.1 protocol with the clocks it lacks, so that slow or silent clients cost nothing.

uvicorn times an idle connection but not a half-sent header ("slow loris"), nor a client that stops reading its answer.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from egm_edge.serve.settings import ServeSettings


class TimeoutProtocol(H11Protocol):
    """Closes a connection whose next request's headers are not complete in `header_s`, or whose answer is not read for
    `write_s`; closes at once what comes above `max_connections`. `make` binds the settings."""

    settings: ServeSettings

    @classmethod
    def make(cls, settings: ServeSettings) -> type[TimeoutProtocol]:
        """The protocol class for uvicorn's `http` option."""
        return type("TimeoutProtocol", (cls,), {"settings": settings})

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._clocks: dict[str, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.settings.max_connections:
            transport.abort()
            return
        self._start("header", self.settings.header_s)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop("header")

    def on_response_complete(self) -> None:
        self._start("header", self.settings.header_s)  # first: the line below may already begin the next request
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start("write", self.settings.write_s)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop("write")

    def connection_lost(self, exc: Exception | None) -> None:
        for clock in ("header", "write"):
            self._stop(clock)
        super().connection_lost(exc)

    def _start(self, clock: str, seconds: float) -> None:
        self._stop(clock)
        self._clocks[clock] = self.loop.call_later(seconds, self.transport.abort)

    def _stop(self, clock: str) -> None:
        if running := self._clocks.pop(clock, None):
            running.cancel()
