"""The Ground service and action and SetCommands: explicit requests, checked, queued with the dispatcher and answered.

A thread of the executor waits for each request; `max_pending_requests` bounds them.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from typing import Protocol

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
from egm_edge.errors import EgmError
from egm_edge.grounding import Outcome, Task
from egm_edge.parsing import BoxNorm1000, parse_answer
from egm_ros.counters import Count, Counters
from egm_ros.dispatcher import CameraQueue, Dispatcher
from egm_ros.lifecycle import answering
from egm_ros.mailbox import CameraFrame
from egm_ros.messages import to_grounded_object, to_ros_text
from egm_ros.requests import Answer, Progress, Ticket
from egm_ros.settings import Settings
from egm_ros.standard_messages import to_bounding_box
from egm_ros.validation import check_request, check_standing


class Host(Protocol):
    """What cameras and their servers need of the node."""

    @property
    def settings(self) -> Settings: ...

    @property
    def dispatcher(self) -> Dispatcher:
        """Raises: InputError: the node is not active, or paused."""

    def now_ns(self) -> int: ...


class RequestServers:
    """Services `ground` and `set_commands` and action `ground`, all under the node's own name.

    Args:
        node: where they are created.
        prefix: "left/" for a camera of that name: `~/left/ground`.
        place: the dispatcher and the camera's queue there; InputError while there is none.
        refuse: counts and tells what is refused, and why.
    """

    def __init__(
        self,
        node: Node,
        host: Host,
        prefix: str,
        place: Callable[[], tuple[Dispatcher, CameraQueue]],
        counters: Counters,
        refuse: Callable[[Count, str], None],
    ) -> None:
        self._node, self._host, self._place, self._counters, self._refuse = node, host, place, counters, refuse
        self._numbers = itertools.count(1)
        self._accepted: dict[bytes, tuple[Dispatcher, Ticket] | EgmError] = {}
        group = ReentrantCallbackGroup()
        self._services = [
            node.create_service(kind, f"~/{prefix}{name}", answering(node, callback), callback_group=group)
            for kind, name, callback in (
                (GroundService, "ground", self._serve),
                (SetCommands, "set_commands", self._set_commands),
            )
        ]
        self._action = ActionServer(
            node,
            GroundAction,
            f"~/{prefix}ground",
            execute_callback=self._execute,
            goal_callback=self._on_goal,
            handle_accepted_callback=self._on_accepted,
            cancel_callback=lambda _goal: CancelResponse.ACCEPT,
            callback_group=group,
        )

    def destroy(self) -> None:
        self._action.destroy()
        for service in self._services:
            self._node.destroy_service(service)

    def _serve(self, request: GroundService.Request, response: GroundService.Response) -> GroundService.Response:
        try:
            asked = check_request(request, f"srv-{next(self._numbers)}", self._host.settings, time.monotonic())
            dispatcher, source = self._place()
            dispatcher.reserve()
        except EgmError as error:
            self._refuse(Count.REQUESTS_REFUSED, f"service request refused: {error}")
            response.message = str(error)
            return response
        answer = dispatcher.wait(dispatcher.submit(source, asked))
        response.message = _failure(answer)
        response.success = not response.message
        response.object = to_grounded_object(answer, self._host.now_ns())
        return response

    def _set_commands(self, request: SetCommands.Request, response: SetCommands.Response) -> SetCommands.Response:
        try:
            self._place()[1].set_queries(check_standing(request.commands, self._host.settings))
        except EgmError as error:
            self._refuse(Count.COMMANDS_REFUSED, f"standing queries refused: {error}")
            response.message = str(error)
            return response
        self._counters.add(Count.COMMAND_SETS)
        response.success = True
        return response

    def _on_goal(self, goal: GroundAction.Goal) -> GoalResponse:
        """Everything that can be refused is refused here; an accepted goal has its place."""
        try:
            check_request(goal, "", self._host.settings, 0.0)
            self._place()[0].reserve()
        except EgmError as error:
            self._refuse(Count.REQUESTS_REFUSED, f"goal rejected: {error}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _on_accepted(self, handle: ServerGoalHandle) -> None:
        """Comes right after `_on_goal`, unless the client has vanished: the deadline counts from here, whenever a thread is free
        to wait for the answer."""
        goal_id = bytes(handle.goal_id.uuid)
        try:
            dispatcher, source = self._place()
            asked = check_request(handle.request, goal_id.hex(), self._host.settings, time.monotonic())
            self._accepted[goal_id] = dispatcher, dispatcher.submit(source, asked, Feedback(handle))
        except EgmError as error:  # deactivated in between
            self._accepted[goal_id] = error
        try:
            handle.execute()
        except RuntimeError:  # rclpy.RCLError: cancelled between its look at that and its change of state
            handle.execute()

    def _execute(self, handle: ServerGoalHandle) -> GroundAction.Result:
        result = GroundAction.Result()
        accepted = self._accepted.pop(bytes(handle.goal_id.uuid))
        if isinstance(accepted, EgmError):
            result.message = str(accepted)
            _end(handle.abort)
            return result
        dispatcher, ticket = accepted
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
        self._publish(GroundAction.Feedback(stage="queued"))

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
        self._publish(message)

    def _publish(self, message: GroundAction.Feedback) -> None:
        with contextlib.suppress(RuntimeError):  # rclpy.RCLError: the goal or the context has ended meanwhile
            self._handle.publish_feedback(message)

    def _first_box(self, progress: Progress) -> BoxNorm1000 | None:
        """The answer's box as soon as it stands there; until then the first one that the thought names."""
        answered = parse_answer(progress.text, task=self._task, in_thought=progress.stage == Stage.THINK.value)
        if answered.box_norm1000 is None and self._first is None:
            self._first = parse_answer(progress.text, task=self._task).box_norm1000
        return answered.box_norm1000 or self._first
