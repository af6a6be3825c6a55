"""The one thread that talks to the engine: requests in, answers out.

Knows nothing of ROS. Explicit requests (service, action) go first, in order of arrival, and interrupt the standing command
that is being grounded, which is taken up again afterwards. Standing commands that are due share a frame while it is fresh,
so that vision and the image's part of the prompt are computed once for all of them.
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
from egm_ros.commands import StandingCommand, StandingCommands
from egm_ros.engine import Engine, without_model
from egm_ros.mailbox import CameraFrame, Mailbox
from egm_ros.requests import Answer, BusyError, OnProgress, Progress, Request, Ticket
from egm_ros.settings import Settings

CANCEL_POLL_S = 0.02
RETRY_S = 1.0  # pause of a standing command after a failure, so that a broken engine does not fill the log
ENGINE_WAIT_S = 5.0  # how long a request waits for an engine that is being started again


class Dispatcher:
    """Decides what the engine does next, on which frame, and reports what came of it.

    Args:
        engine: grounds one request at a time, in this object's thread.
        mailbox: where the newest frame lies; its `wake` also guards this object's state.
        settings: called at every use, so that settings may change while running.
        on_answer: called with every Answer, in this object's thread, before its ticket is done; must not raise.
    """

    def __init__(
        self, engine: Engine, mailbox: Mailbox, settings: Callable[[], Settings], on_answer: Callable[[Answer], None]
    ) -> None:
        self._engine, self._mailbox, self._settings, self._on_answer = engine, mailbox, settings, on_answer
        self._wake = mailbox.wake
        self._pending: deque[Ticket] = deque()
        self._running: Ticket | None = None
        self._commands = StandingCommands()
        self._last_frame: CameraFrame | None = None  # the one that the engine has open
        self._forget_frame = False
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="egm-dispatcher", daemon=True)
        self._thread.start()

    def submit(self, request: Request, on_progress: OnProgress | None = None) -> Ticket:
        """Queue an explicit request.

        Raises:
            BusyError: `max_pending_requests` are waiting or running, or the node is stopping.
        """
        ticket = Ticket(request, on_progress)
        with self._wake:
            running = self._running is not None and not self._running.standing
            limit = self._settings().max_pending_requests
            if self._stopping or len(self._pending) + running >= limit:
                found = "a stopping node" if self._stopping else f"{limit} already waiting"
                raise BusyError(f"at most {limit} requests at a time", found, "try again after an answer")
            self._pending.append(ticket)
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

    def say(self, command: StandingCommand) -> None:
        """A new command of the command topic; what is being grounded for the last one is cancelled, unless it queues.

        Saying the same again does not interrupt: publishers that repeat a command would starve a slow model.

        Raises:
            InputError: `command_policy` is queue and the queue is full.
        """
        settings = self._settings()
        limit = settings.max_queued_commands if settings.command_policy == "queue" else 0
        with self._wake:
            self._commands.say(command, queue_limit=limit, again=settings.reground != "period")
            self._drop_unwanted()

    def clear_command(self) -> None:
        with self._wake:
            self._commands.clear_topic()
            self._drop_unwanted()

    def set_commands(self, commands: Iterable[StandingCommand]) -> None:
        """Replace the standing queries."""
        with self._wake:
            self._commands.replace(commands)
            self._drop_unwanted()

    def want(self, request_id: str) -> None:
        """Ground this standing command again as soon as possible; its track was lost."""
        with self._wake:
            self._commands.want(request_id)
            self._wake.notify_all()

    def standing_ids(self) -> set[str]:
        with self._wake:
            return self._commands.ids()

    def drop_all(self) -> None:
        """Cancel everything and forget the standing commands and the open frame; the dispatcher stays usable."""
        with self._wake:
            self._commands.clear()
            for ticket in [*self._pending, *([self._running] if self._running else [])]:
                ticket.cancel()
            self._forget_frame = True
            self._wake.notify_all()

    def stop(self, timeout_s: float) -> bool:
        """Cancel everything and end the thread; False if it is still inside the engine after `timeout_s`."""
        with self._wake:
            self._stopping = True
        self.drop_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _drop_unwanted(self) -> None:
        """Cancel the standing command that is running if nobody wants it any more. Called with the lock held."""
        running = self._running
        if running is not None and running.standing and not self._commands.stands(running.request):
            running.cancel()
        self._wake.notify_all()

    def _loop(self) -> None:
        while True:
            with self._wake:
                while (job := self._next_job()) is None and not self._stopping:
                    if self._forget_frame:
                        break
                    self._wake.wait(self._wait_s())
                forget, self._forget_frame = self._forget_frame, False
                if job is not None:
                    self._running = job[0]
                elif self._stopping:
                    return
            if forget:
                self._last_frame = None
                self._engine.forget()
            if job is not None:
                ticket, frame = job
                answer = self._answer(ticket, frame)
                self._after(ticket, answer)
                self._finish(ticket, answer)

    def _finish(self, ticket: Ticket, answer: Answer) -> None:
        self._on_answer(answer)
        ticket.finish(answer)

    def _after(self, ticket: Ticket, answer: Answer) -> None:
        with self._wake:
            self._running = None
            if not ticket.standing:
                return
            if answer.grounding is None:
                self._commands.interrupted(ticket.request)
                self._commands.hold(ticket.request, time.monotonic() + RETRY_S)
            elif answer.grounding.outcome is Outcome.CANCELLED:
                self._commands.interrupted(ticket.request)
            else:
                policy = self._settings().reground
                nothing = answer.grounding.box is None
                again = policy == "period" or (policy == "on_loss" and nothing)
                self._commands.answered(ticket.request, again=again)

    def _next_job(self) -> tuple[Ticket, CameraFrame | None] | None:
        """The next ticket to run and its frame (None: answer it without the model). Called with the lock held."""
        max_age_s = self._settings().max_frame_age_s
        for ticket in list(self._pending):
            frame = self._frame_for(ticket, max_age_s) if self._engine.ready else None
            patience_s = max_age_s if self._engine.ready else ENGINE_WAIT_S
            if frame or ticket.should_stop() or self._stopping or ticket.waited_s >= patience_s:
                self._pending.remove(ticket)
                return ticket, frame
        if self._stopping or not self._engine.ready:
            return None
        now_s = time.monotonic()
        newest = self._mailbox.newest(max_age_s)
        command = self._commands.due(now_s, newest.sequence) if newest is not None else None
        if newest is None or command is None:
            return None
        frame = self._shared_frame(command.request, now_s) or newest
        self._commands.started(command.request, frame.sequence, now_s, self._settings().reground_period_s)
        return Ticket(command.request, standing=True), frame

    def _frame_for(self, ticket: Ticket, max_age_s: float) -> CameraFrame | None:
        if ticket.request.message is not None:
            return CameraFrame(ticket.request.message, 0, ticket.submitted_s, self._settings().max_image_pixels)
        return self._mailbox.newest(max_age_s)

    def _shared_frame(self, request: Request, now_s: float) -> CameraFrame | None:
        """The frame that the engine has open, if it is fresh enough to answer another command on it."""
        frame = self._last_frame
        if frame is None or frame.sequence == 0 or self._commands.last_frame_of(request) >= frame.sequence:
            return None
        return frame if now_s - frame.arrived_s <= self._settings().share_frame_s else None

    def _wait_s(self) -> float | None:
        """How long nothing can become due by itself."""
        due = []
        if self._pending:
            due.append(CANCEL_POLL_S)  # deadlines and cancels of requests that wait for a frame
        next_due_s = self._commands.next_due_s()
        if next_due_s is not None and (rest := next_due_s - time.monotonic()) > 0:
            due.append(rest)
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
        age_s = self._settings().max_frame_age_s
        return replace(
            answer, error=f"expected a camera frame within {age_s:g} s; found none; is the camera publishing?"
        )

    def _ground(self, ticket: Ticket, frame: CameraFrame) -> Grounding:
        request, settings = ticket.request, self._settings()
        listener = ticket.on_progress

        def tell(progress: Progress) -> None:
            assert listener is not None
            listener(frame, progress)

        self._last_frame = frame
        grounding = self._engine.ground(
            frame,
            request,
            left_s=ticket.left_s,
            max_new_tokens=settings.max_new_tokens,
            max_think_tokens=settings.max_think_tokens,
            should_stop=ticket.cancelled.is_set,
            on_progress=tell if listener is not None else None,
        )
        if request.deadline_s is None or ticket.cancelled.is_set():
            return grounding
        met = not ticket.overdue and grounding.outcome is not Outcome.TIMED_OUT
        return replace(grounding, deadline_met=met)
