"""Goals of the ground action, for measurements: sent, followed and awaited."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Duration
from egm_interfaces.action import Ground

from tests.bench.ros.listener import Listener

START_S, REPLY_S = 120.0, 20.0


@dataclass(slots=True)
class Stages:
    """When feedback first named a stage, monotonic seconds."""

    first_s: dict[str, float] = field(default_factory=dict)

    def note(self, stage: str) -> None:
        self.first_s.setdefault(stage, time.monotonic())

    def at(self, stage: str) -> float | None:
        return self.first_s.get(stage)


def send(listener: Listener, expression: str, deadline_ms: int = 0) -> tuple[Any, Stages]:
    """A goal's handle, accepted or not, and the stages that its feedback names.

    Raises:
        TimeoutError: the node does not reply.
    """
    stages = Stages()
    goal = Ground.Goal(expression=expression, deadline=Duration(nanosec=deadline_ms * 1_000_000))
    sent = listener.action.send_goal_async(goal, lambda feedback: stages.note(feedback.feedback.stage))
    expect(listener.wait(sent.done, REPLY_S), "the goal's acceptance")
    return sent.result(), stages


def status(listener: Listener, goal: Any) -> Any:
    """The end of a goal: its status and result."""
    result = goal.get_result_async()
    expect(listener.wait(result.done, REPLY_S), "the goal's result")
    return result.result()


def first_answer(listener: Listener, expression: str) -> bool:
    """Goals are rejected while the node is not active yet."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        goal, _ = send(listener, expression)
        if goal.accepted and status(listener, goal).status == GoalStatus.STATUS_SUCCEEDED:
            return True
        time.sleep(0.5)
    return False


def expect(ready: bool, what: str) -> None:
    """Raises: TimeoutError: it is not."""
    if not ready:
        raise TimeoutError(f"{what} did not come about")
