"""What users of a managed node expect of it beyond rclpy: every call answered, and a bond with its manager.

rclpy of Humble and Jazzy raises inside the change_state service when a transition is not possible (ros2/rclpy#1209), and
the caller waits for ever.
"""

from __future__ import annotations

import threading
import traceback
import uuid
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.qos import QoSProfile

from egm_edge.errors import InputError

BOND_TOPIC = "bond"
BOND_TIMEOUT_S = 4.0  # of nav2's own nodes


def answering(node: Node, serve: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A service's callback that answers whatever happens: of one that raises, rclpy lets the caller wait for ever.

    Args:
        serve: its response has `success` and `message`.
    """

    def callback(request: Any, response: Any) -> Any:
        try:
            return serve(request, response)
        except Exception as error:
            node.get_logger().error(f"a service failed:\n{traceback.format_exc()}")
            response.success, response.message = False, f"the node failed: {type(error).__name__}: {error}"
            return response

    return callback


class Transitions:
    """From now on every transition is answered, whatever rclpy does: an impossible one, and one that is asked for while another
    is under way, with `success=False`. States and parameters are told and taken meanwhile: a model may load for minutes.
    """

    def __init__(self, node: LifecycleNode) -> None:
        self._node, self._under_way = node, threading.Lock()
        group = ReentrantCallbackGroup()
        for service in node.services:
            if service.srv_type is ChangeState:
                self._change = service.callback
                service.callback, service.callback_group = self._answer, group
                group.add_entity(service)

    def run(self, *triggers: Callable[[], TransitionCallbackReturn]) -> None:
        """The node's own wish: one after the other, until one fails or somebody else has changed the state."""
        with self._under_way:
            for trigger in triggers:
                try:
                    if trigger() != TransitionCallbackReturn.SUCCESS:
                        return
                except RuntimeError as error:  # rclpy.RCLError
                    self._refuse(trigger.__name__.removeprefix("trigger_"), str(error))
                    return

    def _answer(self, request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
        asked = request.transition.label[:80] or request.transition.id
        response.success = False
        if not self._under_way.acquire(blocking=False):
            self._refuse(asked, "another one is under way")
            return response
        try:
            return self._change(request, response)
        except Exception as error:
            self._refuse(asked, str(error))
            return response
        finally:
            self._under_way.release()

    def _refuse(self, asked: object, why: str) -> None:
        self._node.get_logger().warning(f"transition {asked} refused: {why.partition(', at ')[0]}")


class Bond:
    """The node's side of a bond as nav2's lifecycle manager makes it: a heartbeat that ends when the node is gone.

    Args:
        node: its name is the bond's.
        period_s: between two heartbeats.

    Raises:
        InputError: the package bond is not installed.
    """

    def __init__(self, node: LifecycleNode, period_s: float) -> None:
        try:
            from bond.msg import Status
        except ImportError as error:
            hint = "sudo apt install ros-$ROS_DISTRO-bond, or set bond_heartbeat_period:=0"
            raise InputError("the package bond", str(error), hint) from error
        self._node, self._period_s, self._message = node, period_s, Status
        self._instance = str(uuid.uuid4())
        self._saying, self._is_broken = threading.Lock(), False
        self._publisher = node.create_publisher(Status, BOND_TOPIC, QoSProfile(depth=5))
        group = MutuallyExclusiveCallbackGroup()
        self._subscription = node.create_subscription(
            Status, BOND_TOPIC, self._on_status, QoSProfile(depth=100), callback_group=group
        )
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(period_s, lambda: self._say(active=True), group, clock=steady)

    def close(self) -> None:
        """Break it; the manager is told."""
        self._node.destroy_timer(self._timer)
        self._say(active=False)
        self._node.destroy_subscription(self._subscription)
        self._node.destroy_publisher(self._publisher)

    def _say(self, *, active: bool) -> None:
        """A broken bond stays broken: a heartbeat that was due meanwhile would form it again."""
        with self._saying:
            self._is_broken |= not active
            if not (active and self._is_broken):
                self._publish(active=active)

    def _publish(self, *, active: bool) -> None:
        message = self._message(id=self._node.get_name(), instance_id=self._instance, active=active)
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.heartbeat_timeout, message.heartbeat_period = BOND_TIMEOUT_S, self._period_s
        self._publisher.publish(message)

    def _on_status(self, message: Any) -> None:
        """The manager breaks its side: agree, or it waits for us."""
        if message.id == self._node.get_name() and message.instance_id != self._instance and not message.active:
            self._timer.cancel()
            self._say(active=False)
