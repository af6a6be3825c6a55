"""The image subscriptions, on a small node and an executor of its own.

Why: a MultiThreadedExecutor that also serves services, timers and parameters builds its wait set anew, in Python, for
every image; measured at 30 Hz it took 25 to 71 % of a core at 1280x720 and could fall behind, against 6 % of one alone
(package README). The callback checks the message in O(1) and swaps a pointer.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from egm_ros.settings import Settings


class CameraInput:
    """Hears the cameras from construction to `close`.

    Args:
        node: the grounding node; its namespace and remappings count.
        settings: transport and QoS.
        on_image: by topic; called with every message, in this object's thread.

    Attributes:
        topics: the resolved names.
    """

    def __init__(self, node: Node, settings: Settings, on_image: Mapping[str, Callable[[Any], None]]) -> None:
        compressed = settings.image_transport == "compressed"
        suffix = "/compressed" if compressed else ""
        quality = QoSProfile(
            depth=settings.image_depth,
            history=HistoryPolicy.KEEP_LAST,
            reliability=ReliabilityPolicy[settings.image_reliability.upper()],
        )
        # Without global arguments: `-r __node:=…` would rename this one, too. The topic is absolute already.
        self._node = rclpy.create_node(
            f"{node.get_name()}_camera",
            context=node.context,
            namespace=node.get_namespace(),
            use_global_arguments=False,
            start_parameter_services=False,
            enable_rosout=False,
        )
        self.topics = []
        for topic, callback in on_image.items():
            # Resolved first, so that remapping `image` moves the compressed topic with it, as image_transport does.
            self.topics.append(node.resolve_topic_name(topic) + suffix)
            kind = CompressedImage if compressed else Image
            self._node.create_subscription(kind, self.topics[-1], callback, quality)
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="egm-camera", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()

    def _spin(self) -> None:
        with contextlib.suppress(ExternalShutdownException):
            self._executor.spin()
