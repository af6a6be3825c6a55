"""What the node says: detections, grounded objects, annotated images. Publishers and QoS; messages.py makes the messages."""

from __future__ import annotations

import array
import time
from collections.abc import Callable

import numpy as np
from egm_interfaces.msg import GroundedObject, GroundedObjectArray
from numpy.typing import NDArray
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from egm_edge.tracking import TrackState
from egm_ros.annotator import Annotator, drawable, to_jpeg
from egm_ros.counters import Counters
from egm_ros.follower import Followed
from egm_ros.mailbox import CameraFrame
from egm_ros.messages import (
    to_detections,
    to_grounded_object,
    to_object_array,
    to_tracked_detections,
    to_tracked_object,
)
from egm_ros.requests import Answer
from egm_ros.settings import Settings

SLOW_PUBLISH_S = 0.05  # a publisher that blocks this long has a subscriber that stalls
RATE_SMOOTHING = 0.05


def _profile(reliability: str, depth: int) -> QoSProfile:
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy[reliability.upper()])


class Outputs:
    """Publishes while the node is active (its publishers are lifecycle publishers).

    Args:
        settings: QoS is read here, once; the rest at every use.
        now_ns: the node's clock.
        on_error: told why something could not be published.
    """

    def __init__(
        self,
        node: LifecycleNode,
        settings: Callable[[], Settings],
        counters: Counters,
        now_ns: Callable[[], int],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._settings, self._counters, self._now_ns = settings, counters, now_ns
        at_start = settings()
        detections = _profile(at_start.detections_reliability, at_start.detections_depth)
        objects = _profile(at_start.grounded_objects_reliability, at_start.grounded_objects_depth)
        pictures = _profile(at_start.annotated_reliability, 1)
        self._detections = node.create_lifecycle_publisher(Detection2DArray, "detections", detections)
        self._objects = node.create_lifecycle_publisher(GroundedObjectArray, "grounded_objects", objects)
        self._annotated = node.create_lifecycle_publisher(Image, "annotated", pictures)
        self._annotated_jpeg = node.create_lifecycle_publisher(CompressedImage, "annotated/compressed", pictures)
        self._annotator = Annotator(settings, self._is_watched, self._publish_picture, on_error)
        self._last_s = time.monotonic()
        self.rate_hz = 0.0

    def answer(self, answer: Answer, *, followed: bool) -> None:
        """An answer under its own frame's header.

        Args:
            followed: the follower publishes its detections, at every frame from now on.
        """
        self._publish(self._objects, to_object_array([to_grounded_object(answer, self._now_ns())]))
        detections = None if followed else to_detections(answer)
        if detections is not None:
            self._publish(self._detections, detections)
        frame, grounding = answer.frame, answer.grounding
        if frame is not None and grounding is not None and not followed:
            self._annotator.offer(frame, lambda: [grounding])

    def boxes(self, frame: CameraFrame, followed: tuple[Followed, ...]) -> None:
        """Everything that is followed, at one frame; called at camera rate."""
        now_s = time.monotonic()
        self.rate_hz += RATE_SMOOTHING * (1 / max(1e-3, now_s - self._last_s) - self.rate_hz)
        self._last_s = now_s
        now_ns = self._now_ns()
        self._publish(self._detections, to_tracked_detections(followed, frame))
        carried: list[GroundedObject] = [
            to_tracked_object(one, frame, now_ns) for one in followed if one.tracked.state is not TrackState.GROUNDED
        ]
        if carried:  # what is GROUNDED on this very frame was published as the answer it is
            self._publish(self._objects, to_object_array(carried))
        self._annotator.offer(frame, lambda: drawable(followed))

    def stop(self) -> None:
        self._annotator.stop()

    def _publish(self, publisher, message: object) -> None:
        started_s = time.monotonic()
        publisher.publish(message)
        if time.monotonic() - started_s > SLOW_PUBLISH_S:
            self._counters.add("publishes_slow")

    def _is_watched(self) -> bool:
        return any(p.get_subscription_count() > 0 for p in (self._annotated, self._annotated_jpeg))

    def _publish_picture(self, frame: CameraFrame, rgb: NDArray[np.uint8]) -> None:
        header = frame.message.header
        if self._annotated.get_subscription_count() > 0:
            height, width = rgb.shape[:2]
            message = Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width)
            data = array.array("B")
            data.frombytes(memoryview(np.ascontiguousarray(rgb)).cast("B"))
            message.data = data
            self._annotated.publish(message)
        if self._annotated_jpeg.get_subscription_count() > 0:
            jpeg = CompressedImage(header=header, format="rgb8; jpeg compressed bgr8")
            jpeg.data = array.array("B", to_jpeg(rgb, self._settings().annotated_jpeg_quality))
            self._annotated_jpeg.publish(jpeg)
        self._counters.add("annotated_images")
