"""What users of a managed node expect of it beyond rclpy: every transition answered, and a bond with its manager.

rclpy of Humble and Jazzy raises inside the change_state service when a transition is not possible (ros2/rclpy#1209), and
the caller waits for ever.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile

from egm_edge.errors import InputError

BOND_TOPIC = "bond"
BOND_TIMEOUT_S = 4.0  # of nav2's own nodes


def answer_every_transition(node: LifecycleNode) -> None:
    """From now on an impossible transition is answered with `success=False`, whatever rclpy does."""
    for service in node.services:
        if service.srv_type is ChangeState:
            service.callback = _answering(service.callback, node)


def _answering(change: Callable[[Any, Any], Any], node: LifecycleNode) -> Callable[[Any, Any], Any]:
    def callback(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
        try:
            return change(request, response)
        except Exception as error:
            asked = request.transition.label or request.transition.id
            node.get_logger().warning(f"transition {asked} refused: {str(error).partition(', at ')[0]}")
            response.success = False
            return response

    return callback


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
        message = self._message(id=self._node.get_name(), instance_id=self._instance, active=active)
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.heartbeat_timeout, message.heartbeat_period = BOND_TIMEOUT_S, self._period_s
        self._publisher.publish(message)

    def _on_status(self, message: Any) -> None:
        """The manager breaks its side: agree, or it waits for us."""
        if message.id == self._node.get_name() and message.instance_id != self._instance and not message.active:
            self._timer.cancel()
            self._say(active=False)
