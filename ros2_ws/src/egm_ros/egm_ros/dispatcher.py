"""The one thread that talks to the engine: requests of every camera in, answers out.

Knows nothing of ROS. Explicit requests (service, action) go first, in order of arrival, and interrupt the standing query
that is being grounded, which is taken up again afterwards. Standing queries of one camera that are due share a frame while
it is fresh, so that vision and the image's part of the prompt are computed once for all of them; then the camera that has
waited longest has its turn.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from egm_edge.errors import EgmError
from egm_edge.grounding import Grounding, Outcome
from egm_ros.engine import Engine, without_model
from egm_ros.mailbox import CameraFrame, Mailbox
from egm_ros.requests import Answer, BusyError, OnProgress, Progress, Request, Ticket
from egm_ros.settings import Settings
from egm_ros.standing_queries import StandingQueries, StandingQuery

CANCEL_POLL_S = 0.02
RETRY_S = 1.0  # pause of a standing command after a failure, so that a broken engine does not fill the log
RESERVED_S = 5.0  # a goal whose client has vanished between being accepted and its answer gives its place back
ENGINE_WAIT_S = 5.0  # how long a request waits for an engine that is being started again


class CameraQueue:
    """One camera, as the dispatcher sees it: its frames, what stands for it, and who hears its answers.

    Made by `Dispatcher.add_source`; safe from any thread.

    Args:
        mailbox: where its newest frame lies; shares the dispatcher's `wake`.
        on_answer: called with every Answer, in the dispatcher's thread, before its ticket is done; must not raise.
    """

    def __init__(self, dispatcher: Dispatcher, mailbox: Mailbox, on_answer: Callable[[Answer], None]) -> None:
        self._dispatcher, self._wake = dispatcher, mailbox.wake
        self.mailbox, self.on_answer = mailbox, on_answer
        self.queries = StandingQueries()
        self.last_frame: CameraFrame | None = None  # of those that its standing queries were asked on
        self.served_s = float("-inf")  # when it had a frame of its own last

    def say(self, query: StandingQuery) -> None:
        """A new sentence of the command topic; what is being grounded for the last one is cancelled, unless it queues.

        Saying the same again does not interrupt: publishers that repeat a command would starve a slow model.

        Raises:
            InputError: `command_policy` is queue and the queue is full.
        """
        settings = self._dispatcher.settings()
        limit = settings.max_queued_commands if settings.command_policy == "queue" else 0
        with self._wake:
            self.queries.say(query, queue_limit=limit, again=settings.reground != "period")
            self._dispatcher.drop_unwanted()

    def clear_command(self) -> None:
        with self._wake:
            self.queries.clear_topic()
            self._dispatcher.drop_unwanted()

    def set_queries(self, queries: Iterable[StandingQuery]) -> None:
        """Replace the standing queries."""
        with self._wake:
            self.queries.replace(queries)
            self._dispatcher.drop_unwanted()

    def want(self, request_ids: tuple[str, ...]) -> None:
        """Ground these standing queries again, the first one first; their tracks are lost or poor, those of all others good."""
        with self._wake:
            if self.queries.want(request_ids):
                self._wake.notify_all()

    def standing_ids(self) -> set[str]:
        with self._wake:
            return self.queries.ids()

    def shareable(self, request: Request, settings: Settings, now_s: float) -> CameraFrame | None:
        """The frame that its last query was asked on, if it is fresh enough for another one."""
        frame = self.last_frame
        if frame is None or self.queries.last_frame_of(request) >= frame.sequence:
            return None
        return frame if now_s - frame.arrived_s <= settings.share_frame_s else None


class Dispatcher:
    """Decides what the engine does next, on which frame, and reports what came of it.

    Args:
        engine: grounds one request at a time, in this object's thread.
        wake: of every source's mailbox; also guards this object's state.
        settings: called at every use, so that settings may change while running.
    """

    def __init__(self, engine: Engine, wake: threading.Condition, settings: Callable[[], Settings]) -> None:
        self._engine, self._wake, self.settings = engine, wake, settings
        self._sources: list[CameraQueue] = []
        self._pending: deque[Ticket] = deque()
        self._reserved: deque[float] = deque()  # when places were kept for requests that are accepted
        self._running: Ticket | None = None
        self._is_busy = False  # with a ticket, until its answer has been handed out
        self._open_key = 0  # of the frame that the engine has open
        self._release_frame = False
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="egm-dispatcher", daemon=True)
        self._thread.start()

    def add_source(self, mailbox: Mailbox, on_answer: Callable[[Answer], None]) -> CameraQueue:
        """Args: mailbox: must share `wake`; on_answer: see CameraQueue."""
        source = CameraQueue(self, mailbox, on_answer)
        with self._wake:
            self._sources.append(source)
        return source

    def reserve(self) -> None:
        """Keep a place for a request that is accepted now and submitted in a moment.

        Raises:
            BusyError: `max_pending_requests` are waiting or running, or the node is stopping.
        """
        now_s = time.monotonic()
        with self._wake:
            running = self._running is not None and not self._running.standing
            limit = self.settings().max_pending_requests
            while self._reserved and now_s - self._reserved[0] > RESERVED_S:
                self._reserved.popleft()
            if self._stopping or len(self._pending) + running + len(self._reserved) >= limit:
                found = "a stopping node" if self._stopping else f"{limit} already waiting"
                raise BusyError(f"at most {limit} requests at a time", found, "try again after an answer")
            self._reserved.append(now_s)

    def submit(self, source: CameraQueue, request: Request, on_progress: OnProgress | None = None) -> Ticket:
        """Queue an explicit request, in the place that `reserve` has kept for it."""
        ticket = Ticket(request, source, on_progress)
        with self._wake:
            if self._reserved:
                self._reserved.popleft()
            self._pending.append(ticket)
            if self._stopping:
                ticket.cancel()
            if self._running is not None and self._running.standing:
                self._running.cancel()
            self._wake.notify_all()
        return ticket

    def wait(self, ticket: Ticket, is_cancelled: Callable[[], bool] = lambda: False) -> Answer:
        """Block until a submitted request is answered; cancel it as soon as `is_cancelled()`.

        A request that is cancelled or overdue while it still waits its turn is answered at once.
        """
        while not ticket.done.wait(CANCEL_POLL_S):
            if is_cancelled():
                ticket.cancel()
            with self._wake:
                waits = ticket.should_stop() and ticket in self._pending
                if waits:
                    self._pending.remove(ticket)
            if waits:
                self._finish(ticket, self._stopped_answer(ticket, None))
        assert ticket.answer is not None
        return ticket.answer

    def drop_all(self) -> None:
        """Cancel everything and forget the standing queries and the open frame; the dispatcher stays usable."""
        with self._wake:
            for source in self._sources:
                source.queries.clear()
                source.last_frame = None
            self._cancel_all()

    def pause(self, timeout_s: float) -> None:
        """Cancel everything that waits or runs; standing queries stay and go on with the next frame.

        Returns when the last answer has been handed out, at the latest after `timeout_s`.
        """
        with self._wake:
            self._cancel_all()
            self._wake.wait_for(lambda: not (self._pending or self._is_busy), timeout_s)

    def _cancel_all(self) -> None:
        for ticket in [*self._pending, *([self._running] if self._running else [])]:
            ticket.cancel()
        self._release_frame = True
        self._wake.notify_all()

    def stop(self, timeout_s: float) -> bool:
        """Cancel everything and end the thread; False if it is still inside the engine after `timeout_s`."""
        with self._wake:
            self._stopping = True
        self.drop_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def drop_unwanted(self) -> None:
        """Cancel the standing query that is running if nobody wants it any more. Called with the lock held."""
        running = self._running
        if running is not None and running.standing and not running.source.queries.stands(running.request):
            running.cancel()
        self._wake.notify_all()

    def _loop(self) -> None:
        while True:
            with self._wake:
                while (job := self._next_job()) is None and not self._stopping:
                    if self._release_frame:
                        break
                    self._wake.wait(self._wait_s())
                release, self._release_frame = self._release_frame, False
                if job is not None:
                    self._running, self._is_busy = job[0], True
                elif self._stopping:
                    return
            if release:
                self._open_key = 0
                self._engine.release_frame()
            if job is not None:
                ticket, frame = job
                answer = self._answer(ticket, frame)
                self._after(ticket, answer)
                self._finish(ticket, answer)
                with self._wake:
                    self._is_busy = False
                    self._wake.notify_all()

    def _finish(self, ticket: Ticket, answer: Answer) -> None:
        ticket.source.on_answer(answer)
        ticket.finish(answer)

    def _after(self, ticket: Ticket, answer: Answer) -> None:
        with self._wake:
            self._running = None
            if not ticket.standing:
                return
            queries = ticket.source.queries
            if answer.grounding is None:
                queries.interrupted(ticket.request)
                queries.hold(ticket.request, time.monotonic() + RETRY_S)
            elif answer.grounding.outcome is Outcome.CANCELLED:
                queries.interrupted(ticket.request)
            else:
                policy = self.settings().reground
                nothing = answer.grounding.box is None
                again = policy == "period" or (policy == "on_loss" and nothing)
                queries.answered(ticket.request, again=again)

    def _next_job(self) -> tuple[Ticket, CameraFrame | None] | None:
        """The next ticket to run and its frame (None: answer it without the model). Called with the lock held."""
        settings = self.settings()
        patience_s = settings.max_frame_age_s if self._engine.ready else ENGINE_WAIT_S
        for ticket in list(self._pending):
            frame = self._frame_for(ticket, settings) if self._engine.ready else None
            if frame or ticket.should_stop() or self._stopping or ticket.waited_s >= patience_s:
                self._pending.remove(ticket)
                return ticket, frame
        if self._stopping or not self._engine.ready:
            return None
        # First whoever shares the frame that the engine has open, then the camera that has waited longest.
        for source in sorted(self._sources, key=lambda one: (not self._has_open(one), one.served_s)):
            job = self._next_query(source, settings)
            if job is not None:
                return job
        return None

    def _has_open(self, source: CameraQueue) -> bool:
        return source.last_frame is not None and source.last_frame.key == self._open_key

    def _next_query(self, source: CameraQueue, settings: Settings) -> tuple[Ticket, CameraFrame] | None:
        """The query of this camera whose turn it is. One that has the frame open gives way when it would need another."""
        now_s = time.monotonic()
        newest = source.mailbox.peek(settings.max_frame_age_s)
        query = source.queries.due(now_s, newest.sequence) if newest is not None else None
        if newest is None or query is None:
            return None
        shared = source.shareable(query.request, settings, now_s) if self._has_open(source) else None
        if shared is None and self._someone_waits_longer(source, settings, now_s):
            return None
        if shared is None:  # a poor track may jump its turn, unless others would lose the frame they share
            query = source.queries.due(now_s, newest.sequence, urgent=True) or query
        frame = shared or source.mailbox.take(newest)
        source.queries.started(query.request, frame.sequence, now_s, settings.reground_period_s)
        if shared is None:
            source.served_s, source.last_frame = now_s, frame
        return Ticket(query.starting(now_s), source, standing=True), frame

    def _someone_waits_longer(self, source: CameraQueue, settings: Settings, now_s: float) -> bool:
        for other in self._sources:
            if other.served_s < source.served_s:
                newest = other.mailbox.peek(settings.max_frame_age_s)
                if newest is not None and other.queries.due(now_s, newest.sequence) is not None:
                    return True
        return False

    def _frame_for(self, ticket: Ticket, settings: Settings) -> CameraFrame | None:
        if ticket.request.message is not None:
            return CameraFrame(ticket.request.message, 0, ticket.submitted_s, settings.max_image_pixels)
        return ticket.source.mailbox.newest(settings.max_frame_age_s)

    def _wait_s(self) -> float | None:
        """How long nothing can become due by itself."""
        due = []
        if self._pending:
            due.append(CANCEL_POLL_S)  # deadlines and cancels of requests that wait for a frame
        now_s = time.monotonic()
        for source in self._sources:
            next_due_s = source.queries.next_due_s()
            if next_due_s is not None and next_due_s > now_s:
                due.append(next_due_s - now_s)
        return min(due, default=None)

    def _answer(self, ticket: Ticket, frame: CameraFrame | None) -> Answer:
        blank = Answer(ticket.request, None, frame, "", ticket.waited_s * 1e3, ticket.standing)
        if frame is None or ticket.should_stop():
            return self._stopped_answer(ticket, frame)
        try:
            return replace(blank, grounding=self._ground(ticket, frame))
        except EgmError as error:
            return replace(blank, error=str(error), trace=getattr(error, "trace", ""))
        except Exception as error:
            why = f"the node failed: {type(error).__name__}: {error}"
            return replace(blank, error=why, trace=traceback.format_exc())

    def _stopped_answer(self, ticket: Ticket, frame: CameraFrame | None) -> Answer:
        """The answer of a request that ends before the model has looked."""
        answer = Answer(ticket.request, None, frame, "", ticket.waited_s * 1e3, ticket.standing)
        if ticket.cancelled.is_set() or self._stopping:
            return replace(answer, grounding=without_model(ticket.request, Outcome.CANCELLED))
        if ticket.overdue:
            return replace(answer, grounding=without_model(ticket.request, Outcome.TIMED_OUT))
        if not self._engine.ready:
            return replace(answer, error="expected a running model; found one that is being started again; ask again")
        age_s = self.settings().max_frame_age_s
        return replace(
            answer, error=f"expected a camera frame within {age_s:g} s; found none; is the camera publishing?"
        )

    def _ground(self, ticket: Ticket, frame: CameraFrame) -> Grounding:
        request, listener = ticket.request, ticket.on_progress

        def on_progress(progress: Progress) -> None:
            assert listener is not None
            listener(frame, progress)

        self._open_key = frame.key
        if frame.sequence:
            ticket.source.last_frame = frame
        grounding = self._engine.ground(
            frame,
            request,
            should_stop=ticket.cancelled.is_set,
            on_progress=on_progress if listener is not None else None,
        )
        if request.deadline_s is None or ticket.cancelled.is_set():
            return grounding
        met = not ticket.overdue and grounding.outcome is not Outcome.TIMED_OUT
        return replace(grounding, deadline_met=met)
