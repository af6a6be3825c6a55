"""The Ground service and action and SetCommands: explicit requests, checked, queued with the dispatcher and answered.

A thread of the executor waits for each request; `max_pending_requests` bounds them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Protocol

import rclpy
from egm_interfaces.action import Ground as GroundAction
from egm_interfaces.srv import Ground as GroundService
from egm_interfaces.srv import SetCommands
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

from egm_edge.boxes import Box
from egm_edge.decoding import Stage
from egm_edge.errors import EgmError, InputError
from egm_edge.grounding import Outcome, Task
from egm_edge.parsing import BoxNorm1000, parse_answer
from egm_ros.checking import check_request, check_standing
from egm_ros.dispatcher import Dispatcher
from egm_ros.mailbox import CameraFrame
from egm_ros.messages import to_bounding_box, to_grounded_object, to_ros_text
from egm_ros.requests import Answer, OnProgress, Progress, Ticket
from egm_ros.settings import Settings


class Host(Protocol):
    """What these servers need of the node."""

    @property
    def settings(self) -> Settings: ...

    @property
    def dispatcher(self) -> Dispatcher | None:
        """None while the node is not active."""

    def now_ns(self) -> int: ...

    def refuse(self, counter: str, why: str) -> None: ...

    def count(self, counter: str) -> None: ...


class RequestServers:
    """Services `ground` and `set_commands` and action `ground`, all under the node's own name.

    Args:
        node: where they are created.
        host: the same node, as far as these servers know it.
    """

    def __init__(self, node: Node, host: Host) -> None:
        self._node, self._host = node, host
        self._numbers = itertools.count(1)
        group = ReentrantCallbackGroup()
        self._services = [
            node.create_service(GroundService, "~/ground", self._serve, callback_group=group),
            node.create_service(SetCommands, "~/set_commands", self._set_commands, callback_group=group),
        ]
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
        for service in self._services:
            self._node.destroy_service(service)

    def _dispatcher(self) -> Dispatcher:
        dispatcher = self._host.dispatcher
        if dispatcher is None:
            raise InputError("an active node", "an inactive one", "activate it: ros2 lifecycle set NODE activate")
        return dispatcher

    def _submit(self, goal: Any, request_id: str, on_progress: OnProgress | None = None) -> tuple[Dispatcher, Ticket]:
        dispatcher = self._dispatcher()
        return dispatcher, dispatcher.submit(check_request(goal, request_id, self._host.settings), on_progress)

    def _serve(self, request: GroundService.Request, response: GroundService.Response) -> GroundService.Response:
        try:
            dispatcher, ticket = self._submit(request, f"srv-{next(self._numbers)}")
        except EgmError as error:
            self._host.refuse("requests_refused", f"service request refused: {error}")
            response.message = str(error)
            return response
        answer = dispatcher.wait(ticket)
        response.message = _failure(answer)
        response.success = not response.message
        response.object = to_grounded_object(answer, self._host.now_ns())
        return response

    def _set_commands(self, request: SetCommands.Request, response: SetCommands.Response) -> SetCommands.Response:
        try:
            self._dispatcher().set_commands(check_standing(request.commands, self._host.settings))
        except EgmError as error:
            self._host.refuse("commands_refused", f"standing queries refused: {error}")
            response.message = str(error)
            return response
        self._host.count("command_sets")
        response.success = True
        return response

    def _on_goal(self, goal: GroundAction.Goal) -> GoalResponse:
        try:
            self._dispatcher()
            check_request(goal, "", self._host.settings)
        except EgmError as error:
            self._host.refuse("requests_refused", f"goal rejected: {error}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _execute(self, handle: ServerGoalHandle) -> GroundAction.Result:
        result = GroundAction.Result()
        request_id = bytes(handle.goal_id.uuid).hex()
        feedback = Feedback(handle)
        try:
            dispatcher, ticket = self._submit(handle.request, request_id, feedback)
        except EgmError as error:
            self._host.refuse("requests_refused", f"goal aborted: {error}")
            result.message = str(error)
            _end(handle.abort)
            return result
        answer = dispatcher.wait(ticket, is_cancelled=lambda: handle.is_cancel_requested)
        result.message = _failure(answer)
        result.object = to_grounded_object(answer, self._host.now_ns())
        cancelled = answer.grounding is not None and answer.grounding.outcome is Outcome.CANCELLED
        if cancelled and handle.is_cancel_requested:
            result.message = ""
            _end(handle.canceled)
        elif result.message:
            _end(handle.abort)
        else:
            _end(handle.succeed)
        return result


def _end(transition: Callable[[], None]) -> None:
    """End a goal; when the whole process is being stopped there is nobody left to tell."""
    try:
        transition()
    except RuntimeError:  # rclpy.RCLError
        if rclpy.ok():
            raise


def _failure(answer: Answer) -> str:
    """Why there is no answer, "" when there is one."""
    if answer.grounding is not None and answer.grounding.outcome is Outcome.CANCELLED:
        return "cancelled: the node was deactivated or the client asked for it"
    return answer.error


class Feedback:
    """Publishes an action's progress as it comes; the engine already limits how often."""

    def __init__(self, handle: ServerGoalHandle) -> None:
        self._handle = handle
        self._first: BoxNorm1000 | None = None
        self._task = Task.AMODAL if handle.request.task == GroundAction.Goal.TASK_AMODAL else Task.MODAL
        handle.publish_feedback(GroundAction.Feedback(stage="queued"))

    def __call__(self, frame: CameraFrame, progress: Progress) -> None:
        """Called in the dispatcher's thread."""
        if not self._handle.is_active:
            return
        message = GroundAction.Feedback(
            stage=progress.stage, tokens=progress.tokens, partial_text=to_ros_text(progress.text)
        )
        message.source_stamp = frame.message.header.stamp
        box = self._first_box(progress)
        if box is not None:
            height, width = frame.picture.array.shape[:2]
            message.has_first_box = True
            message.first_box = to_bounding_box(Box.from_norm1000(box, width, height))
        self._handle.publish_feedback(message)

    def _first_box(self, progress: Progress) -> BoxNorm1000 | None:
        """The answer's box as soon as it stands there; until then the first one that the thought names."""
        answered = parse_answer(progress.text, task=self._task, in_thought=progress.stage == Stage.THINK.value)
        if answered.box_norm1000 is None and self._first is None:
            self._first = parse_answer(progress.text, task=self._task).box_norm1000
        return answered.box_norm1000 or self._first
