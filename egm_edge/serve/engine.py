"""RequestQueue: one Grounder on one thread, a bounded line before it, and answers handed to the event loop as they come.

Knows ParsedRequests and Groundings, not HTTP. The line is first come, first served; whoever leaves it frees the place at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from egm_edge.decoding import TokenEvent
from egm_edge.errors import EgmError
from egm_edge.grounder import Frame, Grounder
from egm_edge.grounding import Grounding, Outcome
from egm_edge.serve.errors import ClientGoneError, RequestError
from egm_edge.serve.frame_cache import FrameCache
from egm_edge.serve.metrics import Metrics
from egm_edge.serve.request_parsing import ParsedRequest
from egm_edge.serve.settings import ServeSettings

log = logging.getLogger("egm_edge.serve")
LARGE_PIXELS = 4_000_000  # a few milliseconds of decoding are not worth a detour
MAX_LARGE_WAITING = 16
ROOM_POLL_S = 0.1
LOW_PRIORITY = 10
FIRST_GUESS_S = 1.0
SMOOTHING = 0.2


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """One request on its way through the engine; `events` ends with a Grounding or an error."""

    request: ParsedRequest
    arrived: float
    large: bool = False
    events: asyncio.Queue[TokenEvent | Grounding | Exception] = field(default_factory=asyncio.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)
    stage: Future[None] | None = None
    timer: asyncio.TimerHandle | None = None
    frame: tuple[Frame, bool] | None = None
    running: bool = False

    def cancel(self, reason: Exception | None = None) -> None:
        """Leave the line, or stop at the next token."""
        self.cancelled.set()
        if self.stage is not None:
            self.stage.cancel()
        self.events.put_nowait(reason or ClientGoneError())

    async def results(self) -> AsyncIterator[TokenEvent | Grounding]:
        """Tokens as they come, the Grounding last.

        Raises:
            RequestError: it could not be answered. ClientGoneError: `cancel` was called.
        """
        while True:
            event = await self.events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Grounding):
                return


class RequestQueue:
    """Call every method from the event loop's thread.

    Large pictures have a line of their own: each is decoded on a second thread at low priority and then joins the others, and
    the next one is decoded when it is answered, so that nobody waits for them and one at a time is in memory.
    """

    def __init__(self, grounder: Grounder, settings: ServeSettings, metrics: Metrics) -> None:
        self._grounder, self._settings, self._metrics = grounder, settings, metrics
        self._frames = FrameCache(grounder, settings.kept_frames, settings.kept_bytes)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="egm-engine")
        self._decoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="egm-decode", initializer=_yield_to_others)
        self._room = threading.Semaphore()  # for one large picture, decoded and not yet answered
        self._inside: set[QueuedRequest] = set()
        self._usual_s = FIRST_GUESS_S

    @property
    def idle(self) -> bool:
        return not self._inside

    def submit(self, request: ParsedRequest, arrived: float) -> QueuedRequest:
        """Join the line.

        Args:
            arrived: `time.monotonic()` of the request; its time limit and deadline count from there.

        Raises:
            RequestError: 429, the line is full.
        """
        large = request.picture.pixel_count > LARGE_PIXELS and request.picture not in self._frames
        line = sum(queued.large == large for queued in self._inside)
        if line > (min(MAX_LARGE_WAITING, self._settings.max_waiting) if large else self._settings.max_waiting):
            seconds = max(1, math.ceil(line * self._usual_s))
            message = f"{line - 1} requests are waiting, as many as may; try again in {seconds} s"
            raise RequestError(429, message, "queue_full", retry_after_s=seconds)
        queued = QueuedRequest(request, arrived, large)
        self._inside.add(queued)
        loop = asyncio.get_running_loop()
        queued.timer = loop.call_later(arrived + self._settings.request_s - time.monotonic(), self._give_up, queued)
        if large:
            queued.stage = self._decoder.submit(self._decode, queued)
            queued.stage.add_done_callback(lambda done: _on_loop(loop, self._decoded, queued, done, loop))
        else:
            self._join(queued, loop)
        self._count()
        return queued

    def _join(self, queued: QueuedRequest, loop: asyncio.AbstractEventLoop) -> None:
        queued.stage = self._thread.submit(self._answer, queued, loop)
        queued.stage.add_done_callback(lambda done: _on_loop(loop, self._left, queued))

    def _decode(self, queued: QueuedRequest) -> None:
        """On the decoder's thread: a large picture, as soon as there is room for it."""
        while not self._room.acquire(timeout=ROOM_POLL_S):
            if queued.cancelled.is_set():
                return
        try:
            queued.frame = self._frames.frame(queued.request.picture)
        except BaseException:
            self._room.release()
            raise

    def _decoded(self, queued: QueuedRequest, done: Future[None], loop: asyncio.AbstractEventLoop) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            queued.events.put_nowait(_told(error))
        if queued.frame is None or queued.cancelled.is_set():
            self._left(queued)
        else:
            self._join(queued, loop)

    def cancel_all(self) -> None:
        """Tell everyone that the server stops."""
        for queued in list(self._inside):
            queued.cancel(RequestError(503, "the server is stopping", "stopping", close=True))

    def close(self) -> None:
        """Stop the threads; a request that runs ends at its next token."""
        self.cancel_all()
        for threads in (self._decoder, self._thread):
            threads.shutdown(wait=True, cancel_futures=True)

    def _left(self, queued: QueuedRequest) -> None:
        self._inside.discard(queued)
        if queued.timer:
            queued.timer.cancel()
        if queued.frame is not None:
            queued.frame = None
            self._room.release()
        queued.running = False
        self._count()

    def _give_up(self, queued: QueuedRequest) -> None:
        """The time of a request that still waits is over; one that runs is ended by the engine's thread."""
        if queued in self._inside and not queued.running:
            limit = f"{self._settings.request_s:g} s"
            queued.cancel(RequestError(429, f"waited {limit} without a turn", "queue_full", retry_after_s=1))

    def _count(self) -> None:
        running = sum(queued.running for queued in self._inside)
        self._metrics.running.set(running)
        self._metrics.queue_depth.set(len(self._inside) - running)

    def _answer(self, queued: QueuedRequest, loop: asyncio.AbstractEventLoop) -> None:
        """On the engine's thread: one request, start to end."""

        def tell(event: TokenEvent | Grounding | Exception) -> None:
            _on_loop(loop, queued.events.put_nowait, event)

        queued.running = True
        _on_loop(loop, self._count)
        started = time.monotonic()
        self._metrics.queue_seconds.observe(started - queued.arrived)
        try:
            self._ground(queued, tell)
        except Exception as error:
            tell(_told(error))
        finally:
            self._usual_s += SMOOTHING * (time.monotonic() - started - self._usual_s)

    def _ground(self, queued: QueuedRequest, tell: Callable[[TokenEvent | Grounding], None]) -> None:
        request, due = queued.request, queued.arrived + self._settings.request_s
        frame, kept = queued.frame or self._frames.frame(request.picture)
        self._metrics.frames_kept.set(len(self._frames))
        options = request.options
        if options.deadline_ms is not None:
            options = replace(options, deadline_ms=None, deadline_at=options.due_at(queued.arrived))

        def must_stop() -> bool:
            return queued.cancelled.is_set() or time.monotonic() > due

        grounding = self._grounder.ground(
            frame,
            request.expression,
            task=request.task,
            prompt=request.prompt,
            should_stop=must_stop,
            on_token=tell,
            **asdict(options),
        )
        if grounding.outcome is Outcome.CANCELLED and not queued.cancelled.is_set():
            limit = f"{self._settings.request_s:g} s"
            raise RequestError(504, f"not answered within {limit}, waiting included; ask for less", "time_limit")
        tell(grounding if kept else frame.charged_to(grounding))


def _told(error: BaseException) -> RequestError:
    """What a client is told of a failure."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, EgmError):
        return RequestError.of(error)
    kind, trace = type(error).__name__, error if log.isEnabledFor(logging.DEBUG) else None
    log.error("unexpected %s in the engine: %s", kind, error, exc_info=trace)
    return RequestError(500, f"unexpected {kind} in the engine", "engine_failed")


def _yield_to_others() -> None:
    """Run the calling thread at low priority; on Linux a thread has one of its own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOW_PRIORITY)


def _on_loop(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *given: Any) -> None:
    """Run on the loop's thread; a loop that is gone has nobody to tell."""
    try:
        loop.call_soon_threadsafe(function, *given)
    except RuntimeError:
        if not loop.is_closed():
            raise
