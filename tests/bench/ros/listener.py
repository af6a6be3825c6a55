"""A subscriber for measurements: counts and times what the node publishes, reads its diagnostics, says a command."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from egm_interfaces.action import Ground
from egm_interfaces.msg import GroundedObject, GroundedObjectArray
from egm_ros.times import nanoseconds
from rclpy.action import ActionClient
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String
from vision_msgs.msg import Detection2DArray

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Listener:
    """A node with a spinning thread.

    Args:
        prefixes: of the topics: one a camera, "" for the only one.

    Attributes:
        detections: (arrival by the wall clock, stamp), ns, and number of boxes of every Detection2DArray.
        objects: (latency of the node, age of the grounded frame, track state), ms, of every tracked object.
        answers: outcome of every answer that the model gave.
        values: the node's diagnostics, "part.key" -> value.
        history: all of them, oldest first.
    """

    def __init__(self, prefixes: Sequence[str] = ("",)) -> None:
        rclpy.init()
        self.node = rclpy.create_node("measure_listener", start_parameter_services=False)
        self.detections: list[tuple[int, int, int]] = []
        self.objects: list[tuple[float, float, int]] = []
        self.answers: list[int] = []
        self.values: dict[str, str] = {}
        self.history: list[dict[str, str]] = []
        self.diagnosed = 0
        for prefix in prefixes:
            self.node.create_subscription(Detection2DArray, f"{prefix}detections", self._on_detections, 50)
            self.node.create_subscription(GroundedObjectArray, f"{prefix}grounded_objects", self._on_objects, 50)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._commands = self.node.create_publisher(String, "command", LATCHED)
        self.action = ActionClient(self.node, Ground, "grounding_node/ground")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._executor.shutdown()
        self._thread.join()
        self.action.destroy()
        self.node.destroy_node()
        rclpy.try_shutdown()

    def say(self, text: str) -> None:
        self._commands.publish(String(data=text))

    def forget(self) -> None:
        """Start counting anew."""
        self.detections.clear()
        self.objects.clear()
        self.answers.clear()
        self.history.clear()

    def wait_diagnosed(self, timeout_s: float = 5.0) -> dict[str, str]:
        """The values of diagnostics that are sent after this call."""
        seen, end = self.diagnosed, time.monotonic() + timeout_s
        while self.diagnosed < seen + 2 and time.monotonic() < end:
            time.sleep(0.02)
        return dict(self.values)

    def wait(self, ready: Callable[[], object], timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while not ready() and time.monotonic() < end:
            time.sleep(0.002)
        return bool(ready())

    def _on_detections(self, message: Detection2DArray) -> None:
        self.detections.append((time.time_ns(), nanoseconds(message.header.stamp), len(message.detections)))

    def _on_objects(self, message: GroundedObjectArray) -> None:
        for one in message.objects:
            if one.track_state in (GroundedObject.TRACK_PROPAGATED, GroundedObject.TRACK_LOST):
                self.objects.append((nanoseconds(one.latency) / 1e6, nanoseconds(one.age) / 1e6, one.track_state))
            else:
                self.answers.append(one.outcome)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            part = status.name.rpartition(": ")[2]
            self.values[f"{part}.level"] = str(status.level[0])
            self.values |= {f"{part}.{pair.key}": pair.value for pair in status.values}
            self.values |= {pair.key: pair.value for pair in status.values if pair.key == "uptime_s"}
        self.history.append(dict(self.values))
        self.diagnosed += 1

    def _spin(self) -> None:
        while True:
            try:
                return self._executor.spin()
            except InvalidHandle:
                continue
            except ExternalShutdownException:
                return None
