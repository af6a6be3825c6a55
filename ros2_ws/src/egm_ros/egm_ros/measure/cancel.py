"""How soon a cancelled goal gives way: from the client's cancel to the start of the goal that waits behind it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from action_msgs.msg import GoalStatus
from egm_interfaces.action import Ground

from egm_ros.measure.listener import Listener
from egm_ros.measure.processes import grounding_node, running

START_S, REPLY_S = 120.0, 20.0


@dataclass(frozen=True, slots=True)
class CancelFigures:
    """Milliseconds from cancel to the next goal's start, over the goals that were cancelled before they had an answer."""

    count: int
    too_late: int
    p50_ms: float
    p95_ms: float
    max_ms: float

    def text(self) -> str:
        return (
            f"cancel to next goal's start: p50 {self.p50_ms:.0f}, p95 {self.p95_ms:.0f}, max {self.max_ms:.0f} ms "
            f"({self.count} cancelled goals; {self.too_late} had their answer before the cancel came)"
        )


def measure_cancel(
    parameters: dict[str, object], picture: str, expression: str, rounds: int, log: Path
) -> CancelFigures:
    """Raises: TimeoutError: the node did not become active or did not reply."""
    camera = ["-m", "egm_ros.measure.camera", picture, "640", "480", "30"]
    times_ms, too_late = [], 0
    with Listener() as listener, grounding_node(parameters, log), running(camera):
        _expect(listener.action.wait_for_server(START_S), "the action server")
        _expect(_first_answer(listener, expression), "a first answer")
        for _ in range(rounds):
            first, first_stages = _send(listener, expression)
            _expect(listener.wait(lambda: "look" in first_stages, REPLY_S), "the first goal's start")  # noqa: B023
            second, second_stages = _send(listener, expression)
            started_s = time.monotonic()
            first.cancel_goal_async()
            _expect(listener.wait(lambda: "look" in second_stages, REPLY_S), "the next goal's start")  # noqa: B023
            took_ms = (time.monotonic() - started_s) * 1e3
            if _status(listener, first) == GoalStatus.STATUS_CANCELED:
                times_ms.append(took_ms)
            else:
                too_late += 1
            _status(listener, second)
    if not times_ms:
        return CancelFigures(0, too_late, *[float("nan")] * 3)
    p50_ms, p95_ms = np.percentile(times_ms, (50, 95))
    return CancelFigures(len(times_ms), too_late, float(p50_ms), float(p95_ms), max(times_ms))


def _send(listener: Listener, expression: str) -> tuple[Any, list[str]]:
    stages: list[str] = []
    sent = listener.action.send_goal_async(
        Ground.Goal(expression=expression), lambda feedback: stages.append(feedback.feedback.stage)
    )
    _expect(listener.wait(sent.done, REPLY_S), "the goal's acceptance")
    return sent.result(), stages


def _status(listener: Listener, goal: Any) -> int:
    result = goal.get_result_async()
    _expect(listener.wait(result.done, REPLY_S), "the goal's result")
    return result.result().status


def _first_answer(listener: Listener, expression: str) -> bool:
    """Goals are rejected while the node is not active yet."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        goal, _ = _send(listener, expression)
        if goal.accepted and _status(listener, goal) == GoalStatus.STATUS_SUCCEEDED:
            return True
        time.sleep(0.5)
    return False


def _expect(ready: bool, what: str) -> None:
    if not ready:
        raise TimeoutError(f"{what} did not come about")
