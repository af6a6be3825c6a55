"""The command topic: one sentence at a time, from publishers of today and from a latched one of yesterday.

Two subscriptions: a latched one hears what was said before the node listened, but does not match the volatile publishers
that most programs have; a volatile one hears everything said from now on. What both hear is counted once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String

LATCHED_COMMAND_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
VOLATILE_COMMAND_QOS = QoSProfile(depth=100)  # a burst must be heard to its last sentence
REMEMBERED = 2048


class CommandTopic:
    """Hears `command` from construction to `close`.

    Args:
        on_text: called with every sentence, in order of arrival, and whether it was heard for the first time.
    """

    def __init__(self, node: Node, on_text: Callable[[str, bool], None]) -> None:
        self._node, self._on_text = node, on_text
        self._heard: OrderedDict[int, None] = OrderedDict()
        group = MutuallyExclusiveCallbackGroup()
        self._subscriptions = [
            node.create_subscription(String, "command", callback, profile, callback_group=group)
            for callback, profile in (
                (self._on_latched, LATCHED_COMMAND_QOS),
                (self._on_volatile, VOLATILE_COMMAND_QOS),
            )
        ]

    def close(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def _is_first(self, info: Any) -> bool:
        stamp = info["source_timestamp"]
        first = stamp not in self._heard
        self._heard[stamp] = None
        if len(self._heard) > REMEMBERED:
            self._heard.popitem(last=False)
        return first

    def _on_latched(self, message: String, info: Any) -> None:
        if self._is_first(info):
            self._on_text(message.data, True)

    def _on_volatile(self, message: String, info: Any) -> None:
        # Passed on even if the other subscription was first: of a burst, that one may have heard the last sentence
        # before this one heard those in between, and the last one must win.
        self._on_text(message.data, self._is_first(info))
