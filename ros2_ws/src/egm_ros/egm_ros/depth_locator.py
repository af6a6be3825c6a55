"""depth_locator: Detection2DArray and a registered depth image in; Detection3DArray in metres, markers and TF frames out.

    ros2 run egm_ros depth_locator --ros-args -r depth:=/camera/aligned_depth_to_color/image_raw \\
        -r camera_info:=/camera/color/camera_info

A node of its own: who has no depth camera runs nothing of it, and depth frames never wait behind colour ones. Ids, names
and scores are those of the 2-D detections; the header is theirs, too (stamp of the colour frame, its optical frame). The TF
frame of a query is `NAMESPACE/object_ID`, of the command topic's `NAMESPACE/object_command`; its axes are the camera's.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from egm_interfaces.msg import GroundedObjectArray
from geometry_msgs.msg import TransformStamped, Vector3
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import ColorRGBA
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2D, Detection2DArray, Detection3D, Detection3DArray
from visualization_msgs.msg import Marker, MarkerArray

from egm_edge.draw import PALETTE
from egm_edge.errors import EgmError, InputError
from egm_ros.depth import MetricBox, Pinhole, check_depth, depth_in_metres, locate
from egm_ros.parameter_fields import START_UP, require_valid, setting
from egm_ros.parameters import ParameterSettings
from egm_ros.process import StopRequest, fail, spin_node, start_node
from egm_ros.standard_messages import to_box
from egm_ros.times import nanoseconds
from egm_ros.warnings_by_kind import WarningsByKind

MARKER_LIFETIME_S = 1
MAX_FRAME_RATE_HZ = 120
TEXT_HEIGHT_M = 0.05


@dataclass(frozen=True, slots=True)
class LocatorSettings:
    """What an operator can set."""

    max_depth_m: float = setting(10.0, "Farther values are not believed.", low=0.1, high=1000.0)
    min_support: float = setting(0.1, "Least share of a box's pixels with a believable distance.", low=0.0, high=1.0)
    stamp_tolerance_s: float = setting(
        0.05, "Detection and depth image may be this far apart in time.", low=0.0, high=5.0
    )
    memory_s: float = setting(
        1.0, "Depth images are kept this long, for detections that come late.", low=0.05, high=30.0, read=START_UP
    )
    publish_tf: bool = setting(True, "Publish a TF frame per query.")

    def __post_init__(self) -> None:
        require_valid(self)


def stamp_ns_of(message: Image | Detection2DArray) -> int:
    return nanoseconds(message.header.stamp)


class DepthMemory:
    """The last depth images, found by stamp."""

    def __init__(self, memory_s: float) -> None:
        self._memory_ns = int(memory_s * 1e9)
        self._images: deque[Image] = deque(maxlen=max(2, int(memory_s * MAX_FRAME_RATE_HZ)))

    def add(self, image: Image) -> None:
        newest = stamp_ns_of(image)
        if self._images and newest < stamp_ns_of(self._images[-1]):
            self._images.clear()  # the clock jumped back
        if self._images and newest == stamp_ns_of(self._images[-1]):
            self._images.pop()  # said twice, or the clock stands still
        self._images.append(image)
        while newest - stamp_ns_of(self._images[0]) > self._memory_ns:
            self._images.popleft()

    def nearest(self, stamp_ns: int, tolerance_ns: int) -> Image | None:
        best = min(self._images, key=lambda image: abs(stamp_ns_of(image) - stamp_ns), default=None)
        return best if best is not None and abs(stamp_ns_of(best) - stamp_ns) <= tolerance_ns else None

    def has_newer_than(self, stamp_ns: int) -> bool:
        """Whether an image of that stamp cannot come any more."""
        return bool(self._images) and stamp_ns_of(self._images[-1]) > stamp_ns


class DepthLocator(Node):
    """Joins detections with depth by stamp."""

    def __init__(self) -> None:
        super().__init__("depth_locator")
        self._warn = WarningsByKind(self.get_logger().warning)
        self._settings_of = ParameterSettings(self, LocatorSettings)
        self._memory = DepthMemory(self._settings.memory_s)
        self._waiting: deque[Detection2DArray] = deque(maxlen=5)
        self._camera: Pinhole | None = None
        self._image_wh: tuple[int, int] | None = None
        self._out = self.create_publisher(Detection3DArray, "detections3d", 10)
        self._markers = self.create_publisher(MarkerArray, "markers", 10)
        self._frames = self.create_publisher(TFMessage, "/tf", 100)
        self._frame_prefix = f"{self.get_namespace()}/object_".lstrip("/")
        self.create_subscription(CameraInfo, "camera_info", self._on_camera_info, qos_profile_sensor_data)
        self.create_subscription(Image, "depth", self._on_depth, qos_profile_sensor_data)
        self.create_subscription(Detection2DArray, "detections", self._on_detections, 10)
        # Detections do not say the size of their image; the node's own messages do.
        self.create_subscription(GroundedObjectArray, "grounded_objects", self._on_objects, qos_profile_sensor_data)

    @property
    def _settings(self) -> LocatorSettings:
        return self._settings_of.current

    def _on_camera_info(self, message: CameraInfo) -> None:
        try:
            self._camera = Pinhole.from_camera_info(message)
        except InputError as error:
            self._camera = None  # the one before is not this image's
            self._warn("camera_info", f"camera_info refused: {error}")

    def _on_objects(self, message: GroundedObjectArray) -> None:
        for one in message.objects:
            if one.image_width:
                self._image_wh = (one.image_width, one.image_height)

    def _on_depth(self, message: Image) -> None:
        try:
            check_depth(message)
        except InputError as error:
            self._warn("depth", f"depth image refused: {error}")
            return
        self._memory.add(message)
        waiting, self._waiting = self._waiting, deque(maxlen=self._waiting.maxlen)
        for detections in waiting:
            self._on_detections(detections)

    def _on_detections(self, message: Detection2DArray) -> None:
        stamp_ns, tolerance_ns = stamp_ns_of(message), int(self._settings.stamp_tolerance_s * 1e9)
        image = self._memory.nearest(stamp_ns, tolerance_ns)
        if image is None and self._memory.has_newer_than(stamp_ns + tolerance_ns):
            self._warn(
                "too late", "no depth image of a detection's stamp is there; raise memory_s or stamp_tolerance_s"
            )
            return
        if image is None or self._camera is None:
            self._waiting.append(message)  # its depth image may still be on its way
            missing = "camera_info" if self._camera is None else "a depth image of a detection's stamp"
            waiting = f"waiting for {missing}"
            self._warn(waiting, waiting)  # not of the kind "camera_info": it would hide why the one that came was refused
            return
        try:
            if self._image_wh is not None:
                self._camera.check_size("an image", self._image_wh)
            depth_m = depth_in_metres(image)
            found = [(one, self._locate(depth_m, one)) for one in message.detections]
        except InputError as error:
            self._warn("detections", f"detections are not located: {error}")
            return
        located = [to_detection3d(one, box) for one, box in found if box is not None]
        self._out.publish(Detection3DArray(header=message.header, detections=located))
        self._markers.publish(to_markers(located))
        if located and self._settings.publish_tf:
            if message.header.frame_id.strip("/"):
                self._frames.publish(TFMessage(transforms=[to_transform(one, self._frame_prefix) for one in located]))
            else:
                self._warn("frames", "no TF frames: the images have no frame_id; set it in the camera driver")

    def _locate(self, depth_m: NDArray[np.float32], detection: Detection2D) -> MetricBox | None:
        assert self._camera is not None
        try:
            box = to_box(detection.bbox)
        except InputError as error:
            self._warn("detection", f"detection refused: {error}")
            return None
        limits = self._settings
        return locate(depth_m, self._camera, box, max_depth_m=limits.max_depth_m, min_support=limits.min_support)


def to_detection3d(detection: Detection2D, box: MetricBox) -> Detection3D:
    """The same detection in space: upright, so the orientation is the identity."""
    message = Detection3D(header=detection.header, id=detection.id, results=detection.results)
    position, size = message.bbox.center.position, message.bbox.size
    position.x, position.y, position.z = box.centre
    size.x, size.y, size.z = box.size
    for result in message.results:
        result.pose.pose.position = position
    return message


def to_markers(located: Sequence[Detection3D]) -> MarkerArray:
    """A box and its name for each; they vanish by themselves when nothing follows. Namespaces are the detections' ids."""
    markers = []
    for number, one in enumerate(located):
        colour = PALETTE[number % len(PALETTE)]
        red, green, blue = (value / 255 for value in colour)
        name = one.results[0].hypothesis.class_id if one.results else one.id
        for kind, opacity in ((Marker.CUBE, 0.4), (Marker.TEXT_VIEW_FACING, 1.0)):
            marker = Marker(header=one.header, ns=one.id, id=kind, type=kind, pose=one.bbox.center, scale=one.bbox.size)
            marker.color = ColorRGBA(r=red, g=green, b=blue, a=opacity)
            marker.lifetime.sec = MARKER_LIFETIME_S
            if kind == Marker.TEXT_VIEW_FACING:
                marker.text, marker.scale = name, Vector3(z=TEXT_HEIGHT_M)
            markers.append(marker)
    return MarkerArray(markers=markers)


def to_transform(one: Detection3D, prefix: str) -> TransformStamped:
    """From the camera's optical frame to the object's centre; tf2 refuses names with a leading slash."""
    name = "command" if one.id.startswith("cmd-") else one.id
    transform = TransformStamped(child_frame_id=f"{prefix}{name}")
    transform.header.stamp, transform.header.frame_id = one.header.stamp, one.header.frame_id.lstrip("/")
    position, translation = one.bbox.center.position, transform.transform.translation
    translation.x, translation.y, translation.z = position.x, position.y, position.z
    return transform


def main(args: Sequence[str] | None = None, stop: StopRequest | None = None) -> int:
    """Run until SIGINT or SIGTERM."""
    stop = stop or StopRequest()
    try:
        node = start_node(DepthLocator, args)
    except EgmError as error:
        return fail(error)
    spin_node(stop, node)
    return 0


if __name__ == "__main__":
    sys.exit(main())
