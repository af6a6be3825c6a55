"""Checks what strangers ask for before anything is spent on it. Knows message fields, but neither rclpy nor the node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from egm_edge.errors import InputError
from egm_edge.expression import check_expression
from egm_edge.grounding import Task
from egm_ros import conversion
from egm_ros.requests import Request
from egm_ros.settings import Settings
from egm_ros.standing_queries import StandingQuery, check_ids

TASK_OF_CONSTANT = {0: Task.MODAL, 1: Task.AMODAL}


def check_command(text: str, settings: Settings) -> str:
    """Return `text` if it is an expression that can be asked.

    Raises:
        InputError: it is empty, longer than `max_expression_chars`, or holds control characters or model markers.
    """
    if len(text) > settings.max_expression_chars:
        expected = f"an expression of at most {settings.max_expression_chars} characters"
        raise InputError(expected, f"{len(text)}", "shorten it or raise max_expression_chars")
    return check_expression(text)


def check_request(goal: Any, request_id: str, settings: Settings, now_s: float) -> Request:
    """A service request or an action goal as a Request.

    Args:
        now_s: when it was accepted, time.monotonic(); its deadline counts from there.

    Raises:
        InputError: the expression, the task, the deadline or the image is unusable.
    """
    expression, task = check_command(goal.expression, settings), _task(goal.task)
    time_s = _seconds(goal.deadline, "deadline") or settings.deadline_s
    image = getattr(goal, "image", None)
    if image is not None and len(image.data) == 0 and image.width == image.height == 0:
        image = None
    if image is not None:
        conversion.check(image, settings.max_image_pixels)
    return Request(request_id, expression, task, now_s + time_s if time_s else None, image)


def check_standing(messages: Iterable[Any], settings: Settings) -> list[StandingQuery]:
    """egm_interfaces/StandingCommand messages as a set of standing queries.

    Raises:
        InputError: one of them is unusable; every problem is named.
    """
    messages = list(messages)
    check_ids(message.id for message in messages)
    queries, problems = [], []
    for query in messages:
        try:
            request = Request(query.id, check_command(query.expression, settings), _task(query.task))
            time_s = _seconds(query.deadline, "deadline") or settings.deadline_s or None
            period_s = _seconds(query.period, "period") or None
            queries.append(StandingQuery(request, query.priority, period_s, time_s))
        except InputError as error:
            problems.append(f"{query.id}: {error}")
    if problems:
        raise InputError("a set of usable queries", "; ".join(problems), "correct the set; the old one stands")
    return queries


def _task(constant: int) -> Task:
    if constant not in TASK_OF_CONSTANT:
        raise InputError("task 0 (modal) or 1 (amodal)", str(constant), "use the TASK_ constants")
    return TASK_OF_CONSTANT[constant]


def _seconds(duration: Any, name: str) -> float:
    seconds = duration.sec + duration.nanosec * 1e-9
    if seconds < 0:
        raise InputError(f"a {name} of 0 (none) or more seconds", f"{seconds:g}", f"correct the {name}")
    return float(seconds)
