"""The one thread that runs the model: requests in, answers out.

Knows nothing of ROS. Explicit requests (service, action) go first, in order of arrival, and interrupt the standing
command (the command topic), which is taken up again afterwards. Of standing commands the latest wins, in mid-decode.
The Grounder releases the GIL inside the engine, so the executor's threads stay live meanwhile.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from egm_edge.errors import EgmError
from egm_edge.grounding import Grounding, Outcome, Task
from egm_ros.conversion import to_picture
from egm_ros.mailbox import CameraFrame, Mailbox
from egm_ros.settings import Settings

CANCEL_POLL_S = 0.02
RETRY_S = 1.0  # pause of the standing command after a failure, so that a broken engine does not fill the log


@dataclass(frozen=True, slots=True)
class Request:
    """One expression to ground.

    Attributes:
        request_id: travels to the answer.
        expression: the referring text, already checked.
        task: modal or amodal.
        deadline_s: seconds from submission to the answer; None for no deadline.
        message: an image that came with the request; None for the newest camera frame.
    """

    request_id: str
    expression: str
    task: Task
    deadline_s: float | None = None
    message: Any = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request: a grounding on a frame, or the reason why there is none.

    Attributes:
        request: the request answered.
        grounding: None when the request failed; `error` says why then.
        frame: the frame looked at, None when there was none.
        queue_ms: submission to start in the model's thread.
        standing: the request came from the command topic.
        trace: the traceback of an unexpected failure, "" otherwise.
    """

    request: Request
    grounding: Grounding | None
    frame: CameraFrame | None
    error: str = ""
    queue_ms: float = 0.0
    standing: bool = False
    trace: str = ""


class BusyError(EgmError):
    """Too many requests are waiting already."""


class Ticket:
    """A submitted request: wait for `done`, read `answer`, or `cancel`."""

    def __init__(self, request: Request, on_token: Callable[[CameraFrame, Any], None] | None, standing: bool) -> None:
        self.request = request
        self.on_token = on_token
        self.standing = standing
        self.submitted_s = time.monotonic()
        self.done = threading.Event()
        self.answer: Answer | None = None
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()

    def finish(self, answer: Answer) -> None:
        self.answer = answer
        self.done.set()

    @property
    def overdue(self) -> bool:
        limit = self.request.deadline_s
        return limit is not None and time.monotonic() - self.submitted_s > limit

    def should_stop(self) -> bool:
        return self.cancelled.is_set() or self.overdue


def _same(one: Request | None, other: Request | None) -> bool:
    return one is not None and other is not None and (one.expression, one.task) == (other.expression, other.task)


class GroundingWorker:
    """Owns the Grounder while it runs.

    Args:
        grounder: an `egm_edge.grounder.Grounder`, or anything with its `frame` and `ground`.
        mailbox: where the newest frame lies; its `wake` also guards this object's state.
        settings: called at every use, so that settings may change while running.
        on_answer: called with every Answer, in the worker's thread, before its ticket is done; must not raise.
    """

    def __init__(
        self, grounder: Any, mailbox: Mailbox, settings: Callable[[], Settings], on_answer: Callable[[Answer], None]
    ) -> None:
        self._grounder, self._mailbox, self._settings, self._on_answer = grounder, mailbox, settings, on_answer
        self._wake = mailbox.wake
        self._pending: deque[Ticket] = deque()
        self._running: Ticket | None = None
        self._command: Request | None = None
        self._command_sequence = 0  # of the last frame the standing command was started on
        self._command_not_before_s = float("-inf")
        self._stopping = False
        self._opened: tuple[CameraFrame, Any] | None = None  # the last frame inside the engine; the thread's own
        self._forget_frame = False
        self._thread = threading.Thread(target=self._run, name="egm-grounding", daemon=True)
        self._thread.start()

    def submit(self, request: Request, on_token: Callable[[CameraFrame, Any], None] | None = None) -> Ticket:
        """Queue an explicit request.

        Raises:
            BusyError: `max_pending_requests` are waiting or running, or the worker is stopping.
        """
        ticket = Ticket(request, on_token, standing=False)
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
                if ticket.should_stop() and ticket in self._pending:
                    self._pending.remove(ticket)
                    ticket.finish(self._answer(ticket, None))
        assert ticket.answer is not None
        return ticket.answer

    def set_command(self, request: Request | None) -> None:
        """Replace the standing command; None clears it. Another one being grounded is cancelled.

        Saying the same again does not interrupt: publishers that repeat a command would starve a slow model.
        """
        with self._wake:
            if _same(request, self._command) and self._settings().reground == "continuous":
                return
            self._command, self._command_sequence, self._command_not_before_s = request, 0, float("-inf")
            if self._running is not None and self._running.standing and not _same(request, self._running.request):
                self._running.cancel()
            self._wake.notify_all()

    def drop_all(self) -> None:
        """Cancel everything and forget the standing command and the cached frame; the worker stays usable."""
        self.set_command(None)
        with self._wake:
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

    def _run(self) -> None:
        while True:
            with self._wake:
                while (job := self._next_job()) is None and not self._stopping:
                    if self._forget_frame:
                        self._opened, self._forget_frame = None, False
                    self._wake.wait(self._wait_s())
                if job is None:
                    return
                self._running = job[0]
            answer = self._answer(*job)
            self._on_answer(answer)
            with self._wake:
                self._running = None
                if answer.standing and answer.error:
                    self._command_not_before_s = time.monotonic() + RETRY_S
            job[0].finish(answer)

    def _next_job(self) -> tuple[Ticket, CameraFrame | None] | None:
        """The next ticket to run and its frame (None: answer it without the model). Called with the lock held."""
        max_age_s = self._settings().max_frame_age_s
        for ticket in list(self._pending):
            frame = self._frame_for(ticket, max_age_s)
            if frame or ticket.should_stop() or time.monotonic() - ticket.submitted_s >= max_age_s:
                self._pending.remove(ticket)
                return ticket, frame
        if self._command is None or self._stopping or self._seconds_to_reground() > 0:
            return None
        frame = self._mailbox.newest(max_age_s, after=self._command_sequence)
        if frame is None:
            return None
        self._command_sequence = frame.sequence
        self._command_not_before_s = time.monotonic() + self._settings().reground_period_s
        return Ticket(self._command, None, standing=True), frame

    def _frame_for(self, ticket: Ticket, max_age_s: float) -> CameraFrame | None:
        if ticket.request.message is not None:
            return CameraFrame(ticket.request.message, 0, ticket.submitted_s)
        return self._mailbox.newest(max_age_s)

    def _seconds_to_reground(self) -> float:
        return self._command_not_before_s - time.monotonic()

    def _wait_s(self) -> float | None:
        """How long nothing can become due by itself."""
        due = []
        if self._pending:
            due.append(CANCEL_POLL_S)  # deadlines and cancels of requests that wait for a frame
        if self._command is not None and (rest := self._seconds_to_reground()) > 0:
            due.append(rest)
        return min(due, default=None)

    def _answer(self, ticket: Ticket, frame: CameraFrame | None) -> Answer:
        request = ticket.request
        queue_ms = (time.monotonic() - ticket.submitted_s) * 1e3
        blank = Answer(request, None, frame, "", queue_ms, ticket.standing)
        if frame is None and not ticket.should_stop():
            age_s = self._settings().max_frame_age_s
            return replace(
                blank, error=f"expected a camera frame within {age_s:g} s; found none; is the camera publishing?"
            )
        try:
            grounding = self._ground(ticket, frame)
        except EgmError as error:
            return replace(blank, error=str(error))
        except Exception as error:
            return replace(
                blank, error=f"the engine failed: {type(error).__name__}: {error}", trace=traceback.format_exc()
            )
        if ticket.standing and self._settings().reground == "once" and grounding.outcome is not Outcome.CANCELLED:
            with self._wake:
                if self._command is request:
                    self._command = None
        return replace(blank, grounding=grounding)

    def _ground(self, ticket: Ticket, frame: CameraFrame | None) -> Grounding:
        request = ticket.request
        if frame is None or ticket.should_stop():
            grounding = Grounding(Outcome.CANCELLED, request.expression, request.task, (0, 0))
        else:
            on_token = ticket.on_token
            opened, decode_ms = self._open(frame)
            grounding = self._grounder.ground(
                opened,
                request.expression,
                task=request.task.value,
                max_new_tokens=self._settings().max_new_tokens or None,
                should_stop=ticket.should_stop,
                on_token=(lambda event: on_token(frame, event)) if on_token else None,
            )
            if not grounding.timings.frame_reused:
                made = replace(grounding.timings, decode_image_ms=decode_ms, preprocess_ms=opened.preprocess_ms)
                grounding = replace(grounding, timings=made)
        if request.deadline_s is None:
            return grounding
        met = not ticket.overdue
        if grounding.outcome is Outcome.CANCELLED and not met and not ticket.cancelled.is_set():
            return replace(grounding, outcome=Outcome.TIMED_OUT, deadline_met=False, cut="the answer")
        return replace(grounding, deadline_met=met)

    def _open(self, frame: CameraFrame) -> tuple[Any, float]:
        """The frame inside the engine and its decoding time in ms; a second sentence on the same frame reuses it."""
        if self._opened is not None and self._opened[0] is frame:
            return self._opened[1], 0.0
        start = time.monotonic()
        picture = to_picture(frame.message, self._settings().max_image_pixels)
        decode_ms = 0.0 if hasattr(frame.message, "encoding") else (time.monotonic() - start) * 1e3
        opened = self._grounder.frame(picture.array, color=picture.color, stamp_ns=frame.stamp_ns)
        self._opened = (frame, opened)
        return opened, decode_ms
