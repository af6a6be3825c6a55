"""TimeoutProtocol: uvicorn's HTTP/1.1 protocol with the clocks and limits it lacks, so that slow or silent clients cost nothing.

uvicorn times an idle connection but not a half-sent header ("slow loris"), nor a client that stops reading its answer; it
counts requests, not connections; and it takes a client that has said all it wanted to say for one that has left.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from egm_edge.serve.settings import ServeSettings

HALF_CLOSED_PROBE_S = 2.0


class TimeoutProtocol(H11Protocol):
    """Closes a connection whose next request's headers are not complete in `header_s`, or whose answer is not read for
    `write_s`, and above the limits the one that has been waited for longest. `make` binds the settings."""

    settings: ServeSettings

    @classmethod
    def make(cls, settings: ServeSettings) -> type[TimeoutProtocol]:
        """The protocol class for uvicorn's `http` option."""
        return type("TimeoutProtocol", (cls,), {"settings": settings})

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._clocks: dict[str, asyncio.TimerHandle] = {}
        self._half_closed = False
        self._waits_since = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start("header", self.settings.header_s, transport.abort)
        address = self.client and self.client[0]
        everyone = [each for each in self.connections if isinstance(each, TimeoutProtocol)]
        neighbours = [each for each in everyone if each.client and each.client[0] == address]
        if len(neighbours) > self.settings.max_connections_per_address:
            _close_the_longest_waiting(neighbours, self)
        elif len(everyone) > self.settings.max_connections:
            _close_the_longest_waiting(everyone, self)

    def handle_events(self) -> None:
        super().handle_events()
        if self.is_answering:
            self._stop("header")

    @property
    def is_answering(self) -> bool:
        """A request's headers are here, and its answer is not complete."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def waits(self) -> tuple[bool, float] | None:
        """What is waited for, the next request's headers (False) or the rest of its body (True), and since when; None while
        the client has said all it must."""
        if self.is_answering and not self.cycle.more_body:
            return None
        return self.is_answering, self._waits_since

    def on_response_complete(self) -> None:
        self._stop("probe")
        if self._half_closed:
            self.transport.close()
            return
        self._waits_since = self.loop.time()
        self._start("header", self.settings.header_s, self.transport.abort)  # first: below the next request may begin
        super().on_response_complete()

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that has sent all of its request may still wait for the answer, or have left: both look the same until
        something is written. Streams write anyway; for the others `_probe` does."""
        self._half_closed = self.is_answering and not self.cycle.more_body
        if self._half_closed:
            self._start("probe", HALF_CLOSED_PROBE_S, self._probe)
        return self._half_closed

    def _probe(self) -> None:
        """An interim answer, which every HTTP/1.1 client passes over (RFC 9110, 15.2), and which a closed one resets."""
        if self.conn.our_state is h11.SEND_RESPONSE and self.scope["http_version"] == "1.1":
            self.transport.write(
                self.conn.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
            )
            self._start("probe", HALF_CLOSED_PROBE_S, self._probe)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._start("write", self.settings.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop("write")

    def connection_lost(self, exc: Exception | None) -> None:
        for clock in [*self._clocks]:
            self._stop(clock)
        super().connection_lost(exc)

    def _start(self, clock: str, seconds: float, then: Any) -> None:
        self._stop(clock)
        self._clocks[clock] = self.loop.call_later(seconds, then)

    def _stop(self, clock: str) -> None:
        if running := self._clocks.pop(clock, None):
            running.cancel()


def _close_the_longest_waiting(connections: list[TimeoutProtocol], newcomer: TimeoutProtocol) -> None:
    """Half-open and idle ones first, then half-sent bodies; where every client has said all it must, the newcomer."""
    waiting = [(waits, at) for at, each in enumerate(connections) if each is not newcomer and (waits := each.waits)]
    chosen = connections[min(waiting)[1]] if waiting else newcomer
    chosen.connections.discard(chosen)  # counted out at once: the transport tells of its end only later
    chosen.transport.abort()
