"""The Ground service and the Ground action: explicit requests, checked, queued with the worker and answered.

A thread of the executor waits for each request; `max_pending_requests` bounds them, so the camera always finds a free one.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from egm_interfaces.action import Ground as GroundAction
from egm_interfaces.srv import Ground as GroundService
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup

from egm_edge.errors import EgmError, InputError
from egm_edge.grounding import Outcome
from egm_edge.request import check_expression
from egm_ros import conversion
from egm_ros.messages import TASK_OF_CONSTANT, to_grounded_object
from egm_ros.settings import Settings
from egm_ros.worker import Answer, GroundingWorker, Request

if TYPE_CHECKING:
    from egm_ros.grounding_node import GroundingNode

FEEDBACK_PERIOD_S = 0.05


def check_request(goal: Any, request_id: str, settings: Settings) -> Request:
    """A service request or an action goal as a Request.

    Raises:
        InputError: the expression, the task, the deadline or the image is unusable.
    """
    expression = check_command(goal.expression, settings)
    if goal.task not in TASK_OF_CONSTANT:
        raise InputError("task 0 (modal) or 1 (amodal)", str(goal.task), "use the TASK_ constants")
    deadline_s = goal.deadline.sec + goal.deadline.nanosec * 1e-9
    if deadline_s < 0:
        raise InputError("a deadline of 0 (none) or more seconds", f"{deadline_s:g}", "mend the deadline")
    image = getattr(goal, "image", None)
    if image is not None and len(image.data) == 0:
        image = None
    if image is not None:
        conversion.check(image, settings.max_image_pixels)
    return Request(
        request_id, expression, TASK_OF_CONSTANT[goal.task], deadline_s or settings.deadline_s or None, image
    )


def check_command(text: str, settings: Settings) -> str:
    """Return `text` if it is an expression that can be asked.

    Raises:
        InputError: it is empty, longer than `max_expression_chars`, or holds control characters or model markers.
    """
    if len(text) > settings.max_expression_chars:
        expected = f"an expression of at most {settings.max_expression_chars} characters"
        raise InputError(expected, f"{len(text)}", "shorten it or raise max_expression_chars")
    return check_expression(text)


class RequestServers:
    """The service `ground` and the action `ground` of an active node.

    Args:
        node: gives settings, counters, clock and logger.
        worker: None while the node is not active; asked at every request.
    """

    def __init__(self, node: GroundingNode, worker: Callable[[], GroundingWorker | None]) -> None:
        self._node, self._worker = node, worker
        self._numbers = itertools.count(1)
        group = ReentrantCallbackGroup()
        self._service = node.create_service(GroundService, "~/ground", self._serve, callback_group=group)
        self._action = ActionServer(
            node,
            GroundAction,
            "~/ground",
            execute_callback=self._execute,
            goal_callback=self._on_goal,
            cancel_callback=lambda _goal: CancelResponse.ACCEPT,
            callback_group=group,
        )

    def destroy(self) -> None:
        self._action.destroy()
        self._node.destroy_service(self._service)

    def _submit(self, goal: Any, request_id: str, on_token: Callable | None = None) -> tuple[GroundingWorker, Any]:
        worker = self._worker()
        if worker is None:
            raise InputError("an active node", "an inactive one", "activate it: ros2 lifecycle set NODE activate")
        return worker, worker.submit(check_request(goal, request_id, self._node.settings), on_token)

    def _serve(self, request: GroundService.Request, response: GroundService.Response) -> GroundService.Response:
        try:
            worker, ticket = self._submit(request, f"srv-{next(self._numbers)}")
        except EgmError as error:
            self._node.refuse("requests_refused", f"service request refused: {error}")
            response.message = str(error)
            return response
        answer = worker.wait(ticket)
        response.message = _failure(answer)
        response.success = not response.message
        response.object = to_grounded_object(answer, self._node.now_ns())
        return response

    def _on_goal(self, goal: GroundAction.Goal) -> GoalResponse:
        try:
            if self._worker() is None:
                raise InputError("an active node", "an inactive one", "activate it: ros2 lifecycle set NODE activate")
            check_request(goal, "", self._node.settings)
        except EgmError as error:
            self._node.refuse("requests_refused", f"goal rejected: {error}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _execute(self, handle: ServerGoalHandle) -> GroundAction.Result:
        result = GroundAction.Result()
        request_id = bytes(handle.goal_id.uuid).hex()
        feedback = Feedback(handle)
        try:
            worker, ticket = self._submit(handle.request, request_id, feedback)
        except EgmError as error:
            self._node.refuse("requests_refused", f"goal aborted: {error}")
            result.message = str(error)
            handle.abort()
            return result
        answer = worker.wait(ticket, is_cancelled=lambda: handle.is_cancel_requested)
        result.message = _failure(answer)
        result.object = to_grounded_object(answer, self._node.now_ns())
        cancelled = answer.grounding is not None and answer.grounding.outcome is Outcome.CANCELLED
        if cancelled and handle.is_cancel_requested:
            result.message = ""
            handle.canceled()
        elif result.message:
            handle.abort()
        else:
            handle.succeed()
        return result


def _failure(answer: Answer) -> str:
    """Why there is no answer, "" when there is one."""
    if answer.grounding is not None and answer.grounding.outcome is Outcome.CANCELLED:
        return "cancelled: the node was deactivated or the client asked for it"
    return answer.error


class Feedback:
    """Publishes an action's tokens as they come, at most every FEEDBACK_PERIOD_S."""

    def __init__(self, handle: ServerGoalHandle) -> None:
        self._handle = handle
        self._text = ""
        self._last_s = float("-inf")
        handle.publish_feedback(GroundAction.Feedback(stage="queued"))

    def __call__(self, frame: Any, event: Any) -> None:
        """Called in the worker's thread for every token."""
        self._text += event.text
        now_s = time.monotonic()
        if now_s - self._last_s < FEEDBACK_PERIOD_S or not self._handle.is_active:
            return
        self._last_s = now_s
        message = GroundAction.Feedback(stage=event.stage.value, tokens=event.count, partial_text=self._text)
        message.source_stamp = frame.message.header.stamp
        self._handle.publish_feedback(message)
