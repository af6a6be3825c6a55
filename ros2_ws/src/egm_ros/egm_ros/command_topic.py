"""The command topic: one sentence at a time, from publishers of today and from a latched one of yesterday.

A volatile subscription hears everybody from now on. What a latched (transient local) publisher said before is asked for by a
second, latched one, which lives for HISTORY_S after such a publisher was seen: it does not match the volatile publishers
that most programs have, and every one of them, `ros2 topic pub` included, would warn of an incompatible QoS.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.subscription import Subscription
from std_msgs.msg import String

LATCHED_COMMAND_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
VOLATILE_COMMAND_QOS = QoSProfile(depth=100)  # a burst must be heard to its last sentence
LOOK_PERIOD_S = 0.25
HISTORY_S = 2.0
REMEMBERED = 2048
# Humble's callbacks take the message alone; a sentence is known by its words there, by its publisher's time elsewhere.
HAS_MESSAGE_INFO = hasattr(Subscription, "CallbackType")

Key = int | str


class CommandTopic:
    """Hears a topic of sentences from construction to `close`.

    Args:
        topic: its name, relative to the node.
        on_text: called with every sentence, once, in order of arrival.
    """

    def __init__(self, node: Node, topic: str, on_text: Callable[[str], None]) -> None:
        self._node, self._topic, self._on_text = node, topic, on_text
        self._name = node.resolve_topic_name(topic)
        self._group = MutuallyExclusiveCallbackGroup()
        self._known: set[bytes] = set()  # publishers whose history was asked for
        self._until_s = 0.0
        self._last: Key | None = None
        self._heard: OrderedDict[Key, float] = OrderedDict()  # what was history may come once more until then
        self._latched: Any = None
        self._looking = threading.Lock()
        self._closed = False
        self._volatile = self._subscribe(self._on_volatile, VOLATILE_COMMAND_QOS)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(LOOK_PERIOD_S, self._look, self._group, clock=steady)
        self._look()

    def close(self) -> None:
        with self._looking:  # the timer is another thread's
            self._closed = True
            self._node.destroy_timer(self._timer)
            for subscription in (self._volatile, self._latched):
                if subscription is not None:
                    self._node.destroy_subscription(subscription)

    def _subscribe(self, on_text: Callable[[str, Key], None], qos: QoSProfile) -> Any:
        def with_info(message: String, info: Any) -> None:
            on_text(message.data, int(info["source_timestamp"]))

        def alone(message: String) -> None:
            on_text(message.data, message.data)

        callback = with_info if HAS_MESSAGE_INFO else alone
        return self._node.create_subscription(String, self._topic, callback, qos, callback_group=self._group)

    def _look(self) -> None:
        """Ask for the history of latched publishers that are new; end that when it had its time."""
        with self._looking:
            if not self._closed:
                self._ask_for_history()

    def _ask_for_history(self) -> None:
        publishers = self._node.get_publishers_info_by_topic(self._name)
        latched = {
            bytes(one.endpoint_gid)
            for one in publishers
            if one.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        }
        now_s = time.monotonic()
        if latched - self._known:
            self._until_s = now_s + HISTORY_S
            if self._latched is None:
                self._latched = self._subscribe(self._on_latched, LATCHED_COMMAND_QOS)
        elif self._latched is not None and now_s > self._until_s:
            self._node.destroy_subscription(self._latched)
            self._latched = None
        self._known = latched

    def _on_latched(self, text: str, key: Key) -> None:
        # What a publisher of before has said before comes again whenever a new one appears.
        if key not in self._heard:
            self._hear(text, key, again_until_s=time.monotonic() + HISTORY_S)

    def _on_volatile(self, text: str, key: Key) -> None:
        # Of a burst, history may be the last sentence, heard before those in between: then the last one must win again.
        comes_again = self._heard.pop(key, 0.0) > time.monotonic()
        if comes_again and key == self._last:
            self._heard[key] = 0.0
        else:
            self._hear(text, key)

    def _hear(self, text: str, key: Key, again_until_s: float = 0.0) -> None:
        self._last = key
        self._heard[key] = again_until_s
        if len(self._heard) > REMEMBERED:
            self._heard.popitem(last=False)
        self._on_text(text)
