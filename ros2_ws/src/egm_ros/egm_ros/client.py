"""GroundingClient: a program's side of the grounding node.

    with GroundingClient() as client:
        request = client.ground("the red mug left of the kettle")
        while not request.is_done():
            print(request.feedback())
        found = request.result()

        client.follow("the red mug")          # a standing command; boxes at camera rate from now on
        for tracked in client.boxes():
            print(tracked.track_state, tracked.modal_box)

Brings its own ROS context and spinning thread, so it works in a plain script and beside another node of the program.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import rclpy
from action_msgs.msg import GoalStatus
from egm_interfaces.action import Ground
from egm_interfaces.msg import GroundedObject, GroundedObjectArray
from numpy.typing import NDArray
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String

from egm_edge.boxes import Box
from egm_edge.closing import ClosedByWith
from egm_edge.errors import BackendError, InputError
from egm_edge.grounding import Task
from egm_ros.standard_messages import to_box, to_image
from egm_ros.times import nanoseconds, to_duration, to_time

TASKS = {Task.MODAL: Ground.Goal.TASK_MODAL, Task.AMODAL: Ground.Goal.TASK_AMODAL}
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
POLL_S, MATCH_S = 0.005, 1.0
CLOSE_S = 1.0  # for the cancels of requests that were not even accepted yet


@dataclass(frozen=True, slots=True)
class Feedback:
    """How far a request is.

    Attributes:
        stage: what the model is doing, as the node names it ("queued", "think", "answer", …).
        tokens: generated so far.
        text: generated so far.
        first_box: a first box, pixels of the frame; None while there is none.
        source_stamp_ns: stamp of the frame being looked at, 0 before it is chosen.
    """

    stage: str
    tokens: int
    text: str
    first_box: Box | None
    source_stamp_ns: int


class Request:
    """One question on its way. Made by `GroundingClient.ground`."""

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self._feedback: Feedback | None = None
        self._handle: Any = None
        self._result: Any = None
        self._error: BackendError | None = None
        self._cancel_wanted = False
        self._done = threading.Event()
        self._lock = threading.Lock()

    def is_done(self) -> bool:
        return self._done.is_set()

    def feedback(self) -> Feedback | None:
        """The newest feedback; None before the first."""
        return self._feedback

    def cancel(self) -> None:
        """Ask the node to stop, in mid-decode if need be; `result` then says CANCELLED (or the answer, if it was faster)."""
        with self._lock:
            self._cancel_wanted = True
            handle = self._handle
        if handle is not None and not self.is_done():
            handle.cancel_goal_async()

    def is_cancel_sent(self) -> bool:
        """Whether the node has been told of a `cancel`, or has answered before."""
        return self.is_done() or (self._cancel_wanted and self._handle is not None)

    def result(self, timeout_s: float | None = None) -> GroundedObject:
        """Wait for the answer.

        Returns:
            The whole answer; its `outcome` says how the request ended, also when it was cancelled or timed out.

        Raises:
            BackendError: the node refused the request or failed, or did not answer within `timeout_s`.
        """
        if not self._done.wait(timeout_s):
            found = f"none within {timeout_s:g} s"
            raise BackendError("an answer from the node", found, "wait longer, or cancel() and look at /diagnostics")
        if self._error is not None:
            raise self._error
        return self._result.object

    def _on_feedback(self, message: Any) -> None:
        told = message.feedback
        box = to_box(told.first_box) if told.has_first_box else None
        stamp_ns = nanoseconds(told.source_stamp)
        self._feedback = Feedback(told.stage, told.tokens, told.partial_text, box, stamp_ns)

    def _on_goal(self, future: Any) -> None:
        handle = future.result()
        if handle is None or not handle.accepted:
            hint = "give a sentence that is not empty nor too long, and activate the node"
            self._finish(BackendError("a goal the node accepts", f"{self.expression!r} was rejected", hint))
            return
        with self._lock:
            self._handle, cancel_now = handle, self._cancel_wanted
        handle.get_result_async().add_done_callback(self._on_result)
        if cancel_now:
            handle.cancel_goal_async()

    def _on_result(self, future: Any) -> None:
        answer = future.result()
        if answer is None or answer.status in (GoalStatus.STATUS_ABORTED, GoalStatus.STATUS_UNKNOWN):
            said = answer.result.message if answer is not None else ""
            self._finish(BackendError("an answer", said or "the node gave none", "look at the node's log"))
            return
        self._result = answer.result
        self._finish(None)

    def _finish(self, error: BackendError | None) -> None:
        if not self._done.is_set():
            self._error = error
            self._done.set()


class GroundingClient(ClosedByWith):
    """Asks a grounding node.

    Args:
        node: its name, with namespace where it has one ("/left/grounding_node").
        wait_s: how long to wait for the node to appear before a request is refused.
    """

    def __init__(self, node: str = "grounding_node", wait_s: float = 10.0) -> None:
        self._node_name, self._wait_s = node, wait_s
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        namespace = node.rpartition("/")[0]
        self._node = rclpy.create_node("grounding_client", context=self._context, namespace=namespace or "/")
        short = node.rpartition("/")[2]
        self._action = ActionClient(self._node, Ground, f"{short}/ground")
        self._commands = self._node.create_publisher(String, "command", LATCHED)
        self._newest: GroundedObjectArray | None = None
        self._node.create_subscription(GroundedObjectArray, "grounded_objects", self._on_objects, 10)
        self._open_requests: set[Request] = set()
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, name="grounding_client", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Cancel what still waits (its `result` becomes an error) and stop listening."""
        waiting = [request for request in self._open_requests if not request.is_done()]
        for request in waiting:
            request.cancel()
        end = time.monotonic() + CLOSE_S
        while waiting and time.monotonic() < end:
            waiting = [request for request in waiting if not request.is_cancel_sent()]
            time.sleep(POLL_S)
        # Joined before the interpreter ends: a thread still inside spin() would abort the process.
        self._executor.shutdown()
        self._thread.join()
        for request in list(self._open_requests):
            request._finish(
                BackendError("an answer", "the client was closed", "keep it open until the result is there")
            )
        self._action.destroy()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def is_available(self, timeout_s: float = 0.0) -> bool:
        """Whether the node answers to requests (it refuses them until it is active)."""
        return bool(self._action.wait_for_server(timeout_sec=timeout_s))

    def ground(
        self,
        expression: str,
        *,
        task: Task | str = Task.MODAL,
        deadline_s: float | None = None,
        image: NDArray[np.uint8] | None = None,
        stamp_ns: int = 0,
    ) -> Request:
        """Ask where something is; returns at once.

        Args:
            expression: the referring text.
            task: modal (visible extent) or amodal (whole object).
            deadline_s: answer within this, seconds from acceptance; None takes the node's own.
            image: [H, W, 3] uint8 RGB to look at instead of the newest camera frame.
            stamp_ns: stamp of that image.

        Raises:
            InputError: image or task are unusable.
            BackendError: there is no such node.
        """
        goal = Ground.Goal(expression=expression, task=TASKS[Task.parse(task)])
        if deadline_s is not None:
            goal.deadline = to_duration(round(deadline_s * 1e9))
        if image is not None:
            goal.image = _checked_image(image, stamp_ns)
        if not self.is_available(self._wait_s):
            found = f"none within {self._wait_s:g} s"
            raise BackendError(
                f"a node {self._node_name}", found, "start it, or check name, namespace and ROS_DOMAIN_ID"
            )
        request = Request(expression)
        self._open_requests.add(request)
        self._executor.create_task(self._send, request, goal)
        self._open_requests = {one for one in self._open_requests if not one.is_done()}
        return request

    def _send(self, request: Request, goal: Ground.Goal) -> None:
        """In the executor's thread: rclpy of Humble and Jazzy forgets a reply that is there before `send_goal_async` is done."""
        try:
            sent = self._action.send_goal_async(goal, feedback_callback=request._on_feedback)
        except Exception as error:  # would end the thread
            found = f"{type(error).__name__}: {error}"
            request._finish(BackendError("a goal that can be sent", found, "check the node and the goal"))
        else:
            sent.add_done_callback(request._on_goal)

    def follow(self, expression: str) -> None:
        """Set the standing command: the node grounds it again and again, and tracks it in between. "" ends it."""
        end = time.monotonic() + MATCH_S
        while self._commands.get_subscription_count() == 0 and time.monotonic() < end:
            time.sleep(POLL_S)  # a node that comes later hears it all the same: it is latched
        self._commands.publish(String(data=expression))

    def boxes(self) -> tuple[GroundedObject, ...]:
        """What is followed, as of the newest frame heard of; empty before the first."""
        newest = self._newest
        return tuple(newest.objects) if newest is not None else ()

    def wait_for_boxes(self, timeout_s: float = 10.0, ready: Callable[[GroundedObject], bool] | None = None) -> bool:
        """Wait until something is followed (or until `ready` says so of one); False when the time is over."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if any(ready is None or ready(one) for one in self.boxes()):
                return True
            time.sleep(POLL_S)
        return False

    def _on_objects(self, message: GroundedObjectArray) -> None:
        self._newest = message


def _checked_image(image: NDArray[np.uint8], stamp_ns: int) -> Image:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
        raise InputError("an [H, W, 3] uint8 RGB image", found, "convert it first")
    return to_image(image, "rgb", Header(stamp=to_time(stamp_ns)))
