"""How punctual answers with a deadline are: from the goal's start to its result, as a client in another process sees it."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from egm_interfaces.msg import GroundedObject

from tests.bench.ros.goals import START_S, expect, first_answer, send, status
from tests.bench.ros.listener import Listener
from tests.bench.ros.processes import grounding_node, running

SHORTEST_MS, LONGEST_MS = 4, 60
WARM_UP_GOALS = 20


@dataclass(frozen=True, slots=True)
class DeadlineFigures:
    """Milliseconds from the deadline to the result: of goals that timed out, and of those that were answered."""

    timed_out_ms: tuple[float, ...]
    answered_ms: tuple[float, ...]

    def text(self) -> str:
        lines = []
        for name, late_ms in (("TIMED_OUT", self.timed_out_ms), ("answered", self.answered_ms)):
            if late_ms:
                low, middle, high = np.percentile(late_ms, (5, 50, 95))
                spread = f"p5 {low:+.1f}, p50 {middle:+.1f}, p95 {high:+.1f}, latest {max(late_ms):+.1f} ms"
                lines.append(f"{name}: {len(late_ms)} goals, deadline to result {spread}")
        return "\n".join(lines)


def measure_deadlines(
    parameters: dict[str, object], picture: str, expression: str, rounds: int, log: Path
) -> DeadlineFigures:
    """Ask for answers within `SHORTEST_MS` to `LONGEST_MS`, at random.

    Time runs from the feedback "queued", which the node sends when it takes the goal up, so that one way of the transport is
    on either side.

    Raises:
        TimeoutError: the node did not become active or did not reply.
    """
    camera = ["-m", "tests.bench.ros.camera", picture, "640", "480", "30"]
    late: dict[bool, list[float]] = {True: [], False: []}
    draws = random.Random(0)
    with Listener() as listener, grounding_node(parameters, log), running(camera):
        expect(listener.action.wait_for_server(START_S), "the action server")
        expect(first_answer(listener, expression), "a first answer")
        for number in range(WARM_UP_GOALS + rounds):
            deadline_ms = draws.randint(SHORTEST_MS, LONGEST_MS)
            goal, stages = send(listener, expression, deadline_ms)
            result = status(listener, goal).result
            ended_s, started_s = time.monotonic(), stages.at("queued")
            if number >= WARM_UP_GOALS and started_s is not None:
                timed_out = result.object.outcome == GroundedObject.OUTCOME_TIMED_OUT
                late[timed_out].append((ended_s - started_s) * 1e3 - deadline_ms)
    return DeadlineFigures(tuple(late[True]), tuple(late[False]))
