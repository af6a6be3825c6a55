"""What runs a request on a frame, as the dispatcher sees it. Knows nothing of ROS or of processes.

`engine_process.py` implements it with the model in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from egm_edge.errors import EgmError
from egm_edge.grounding import Grounding, Outcome, Truncation
from egm_ros.mailbox import CameraFrame
from egm_ros.requests import Progress, Request


class EngineLostError(EgmError):
    """The process of the model died or hung while it had a request; it is being started again."""


class EngineFailedError(EgmError):
    """The model raised something unexpected; `trace` has its traceback. The engine lives."""

    def __init__(self, expected: str, found: str, hint: str, trace: str = "") -> None:
        self.trace = trace
        super().__init__(expected, found, hint)


class Engine(Protocol):
    """Grounds one request at a time; never called from two threads at once."""

    @property
    def ready(self) -> bool:
        """False while the engine is being started again."""

    def ground(
        self,
        frame: CameraFrame,
        request: Request,
        *,
        should_stop: Callable[[], bool],
        on_progress: Callable[[Progress], None] | None,
    ) -> Grounding:
        """Raises: EgmError: there is no answer; the message says why."""

    def release_frame(self) -> None:
        """Free what is kept of the last frame."""


def without_model(request: Request, outcome: Outcome) -> Grounding:
    """The answer to a request that ended before the model could look."""
    late = outcome is Outcome.TIMED_OUT
    met = None if request.deadline_s is None else not late
    cut = frozenset({Truncation.ANSWER} if late else ())
    return Grounding(outcome, request.expression, request.task, (0, 0), deadline_met=met, truncated_by=cut)
