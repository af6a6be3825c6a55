"""How soon a cancelled goal gives way: from the client's cancel to the start of the goal that waits behind it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from action_msgs.msg import GoalStatus

from tests.bench.ros.goals import REPLY_S, START_S, expect, first_answer, send, status
from tests.bench.ros.listener import Listener
from tests.bench.ros.processes import grounding_node, running


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
    camera = ["-m", "tests.bench.ros.camera", picture, "640", "480", "30"]
    times_ms, too_late = [], 0
    with Listener() as listener, grounding_node(parameters, log), running(camera):
        expect(listener.action.wait_for_server(START_S), "the action server")
        expect(first_answer(listener, expression), "a first answer")
        for _ in range(rounds):
            first, first_stages = send(listener, expression)
            expect(listener.wait(lambda: first_stages.at("look"), REPLY_S), "the first goal's start")  # noqa: B023
            second, second_stages = send(listener, expression)
            started_s = time.monotonic()
            first.cancel_goal_async()
            expect(listener.wait(lambda: second_stages.at("look"), REPLY_S), "the next goal's start")  # noqa: B023
            took_ms = (time.monotonic() - started_s) * 1e3
            if status(listener, first).status == GoalStatus.STATUS_CANCELED:
                times_ms.append(took_ms)
            else:
                too_late += 1
            status(listener, second)
    if not times_ms:
        return CancelFigures(0, too_late, *[float("nan")] * 3)
    p50_ms, p95_ms = np.percentile(times_ms, (50, 95))
    return CancelFigures(len(times_ms), too_late, float(p50_ms), float(p95_ms), max(times_ms))
