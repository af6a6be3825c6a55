"""What is asked of the model and what comes back: Request, Answer, Ticket. Plain values; knows nothing of ROS or engines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from egm_edge.errors import EgmError
from egm_edge.grounding import Grounding, Task
from egm_ros.mailbox import CameraFrame


@dataclass(frozen=True, slots=True)
class Request:
    """One expression to ground.

    Attributes:
        request_id: travels to the answer.
        expression: the referring text, already checked.
        task: modal or amodal.
        deadline_s: instant of time.monotonic() by which the answer must be there; None for no deadline.
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
        queue_ms: submission to start of the model.
        standing: the request came from a standing query or the command topic.
        trace: the traceback of an unexpected failure, "" otherwise.
    """

    request: Request
    grounding: Grounding | None
    frame: CameraFrame | None
    error: str = ""
    queue_ms: float = 0.0
    standing: bool = False
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a running request is.

    Attributes:
        stage: "look" (image and prompt), "think" or "answer".
        tokens: generated so far.
        text: generated so far.
    """

    stage: str
    tokens: int
    text: str


OnProgress = Callable[[CameraFrame, Progress], None]


class BusyError(EgmError):
    """Too many requests are waiting already."""


class Ticket:
    """A submitted request: wait for `done`, read `answer`, or `cancel`.

    Attributes:
        source: whose frames it is about, and who hears the answer; the dispatcher's business.
    """

    def __init__(
        self, request: Request, source: Any, on_progress: OnProgress | None = None, *, standing: bool = False
    ) -> None:
        self.request = request
        self.source = source
        self.on_progress = on_progress
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
    def waited_s(self) -> float:
        return time.monotonic() - self.submitted_s

    @property
    def overdue(self) -> bool:
        return self.request.deadline_s is not None and time.monotonic() >= self.request.deadline_s

    def should_stop(self) -> bool:
        return self.cancelled.is_set() or self.overdue
