"""Simulated camera: a node that publishes a moving tabletop with its true boxes, or a video, a folder, a webcam.

    ros2 run egm_ros simulated_camera --ros-args -p motion:=swerve -p seed:=4

Publishes `image`, `image/compressed`, `camera_info` and, for the tabletop, `ground_truth` and `ground_truth_amodal`
(vision_msgs/Detection2DArray: id = "object-N", class_id = what to call it, score = visible part). All messages of one
frame carry the same stamp.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from egm_edge.errors import EgmError
from egm_edge.synthetic.trajectories import MOTIONS
from egm_edge.webcam import CameraLostError
from egm_ros.parameter_fields import START_UP, require_valid, setting
from egm_ros.parameters import ParameterSettings
from egm_ros.picture_sources import FolderSource, PictureSource, SourcePicture, TabletopSource, TrueObject, VideoSource
from egm_ros.process import StopRequest, fail, spin_node, start_node
from egm_ros.settings import RELIABILITIES
from egm_ros.standard_messages import to_compressed, to_detection, to_image

PLUMB_BOB = "plumb_bob"


SIDE = "Pixels; 0 keeps the size of the video or picture (tabletop: at least 64)."
at_start = partial(setting, read=START_UP)


@dataclass(frozen=True, slots=True)
class CameraSettings:
    """What an operator can set."""

    source: str = at_start("tabletop", "Where pictures come from.", choices=("tabletop", "video", "folder", "webcam"))
    path: str = at_start("", "File of source video, directory of source folder.")
    device: int = at_start(0, "Number of the webcam.", low=0, high=63)
    width: int = at_start(640, SIDE, low=0, high=7680)
    height: int = at_start(480, SIDE, low=0, high=4320)
    rate_hz: float = at_start(30.0, "Pictures per second.", low=0.1, high=240.0)
    seed: int = at_start(0, "Which tabletop.", low=0, high=2**31 - 1)
    motion: str = at_start("mixed", "What moves on the tabletop.", choices=MOTIONS)
    seconds: float = at_start(
        4.0, "Tabletop: length of the sequence, which is played forwards and backwards.", low=1.0, high=60.0
    )
    loop: bool = at_start(True, "Video and folder: begin again at the end; false ends the node there.")
    frame_id: str = at_start("camera_color_optical_frame", "Of every header.")
    field_of_view_deg: float = at_start(60.0, "Horizontal, for camera_info.", low=1.0, high=170.0)
    raw: bool = at_start(True, "Publish `image` (sensor_msgs/Image).")
    compressed: bool = at_start(False, "Publish `image/compressed` (JPEG).")
    jpeg_quality: int = at_start(85, "Of `image/compressed`.", low=1, high=100)
    reliability: str = at_start("best_effort", "Of all topics.", choices=RELIABILITIES)

    def __post_init__(self) -> None:
        require_valid(self)


class SimulatedCamera(Node):
    """Publishes one picture per tick.

    Raises:
        InputError: a parameter or the source is unusable.
    """

    def __init__(self) -> None:
        super().__init__("simulated_camera")
        self._source: PictureSource | None = None  # first: Kilted destroys a node whose making has failed, too
        settings = self._settings = ParameterSettings(self, CameraSettings).current
        self._index = 0
        self.on_end: Callable[[], None] = lambda: None
        self.lost: CameraLostError | None = None
        self.get_logger().info(f"preparing {settings.source}")
        self._source = _open(settings)
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy[settings.reliability.upper()])
        self._image = self.create_publisher(Image, "image", qos) if settings.raw else None
        self._compressed = (
            self.create_publisher(CompressedImage, "image/compressed", qos) if settings.compressed else None
        )
        self._info = self.create_publisher(CameraInfo, "camera_info", qos)
        self._truth = {
            kind: self.create_publisher(Detection2DArray, topic, qos)
            for kind, topic in (("modal", "ground_truth"), ("amodal", "ground_truth_amodal"))
        }
        self._timer = self.create_timer(1.0 / settings.rate_hz, self._tick)
        target = getattr(self._source, "target_name", "")
        self.get_logger().info(f"publishing at {settings.rate_hz:g} Hz" + (f"; it is about {target}" if target else ""))

    def _tick(self) -> None:
        assert self._source is not None
        try:
            picture = self._source.picture(self._index)
        except CameraLostError as error:
            self.lost = error
            self._end()
            return
        except EgmError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            self._index += 1
            return
        if picture is None:
            self.get_logger().info("the source has ended")
            self._end()
            return
        self._index += 1
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self._settings.frame_id)
        self._publish(picture, header)

    def _end(self) -> None:
        self._timer.cancel()
        self.on_end()

    def _publish(self, picture: SourcePicture, header: Header) -> None:
        """Truth first: who has the image can rely on its truth being under way."""
        for kind, publisher in self._truth.items():
            if picture.truth is not None:
                publisher.publish(to_truth(picture.truth, kind, header))
        self._info.publish(to_camera_info(picture.array.shape[1::-1], self._settings.field_of_view_deg, header))
        if self._image is not None:
            self._image.publish(to_image(picture.array, picture.color, header))
        if self._compressed is not None:
            quality = self._settings.jpeg_quality
            self._compressed.publish(to_compressed(picture.array, picture.color, header, level=quality))

    def destroy_node(self) -> None:
        if self._source is not None:
            self._source.close()
        super().destroy_node()


def _open(given: CameraSettings) -> PictureSource:
    size = (given.width, given.height)
    path = Path(given.path).expanduser()
    makers: dict[str, Callable[[], PictureSource]] = {
        "tabletop": lambda: TabletopSource(
            given.seed, given.motion, (max(64, size[0]), max(64, size[1])), given.rate_hz, given.seconds
        ),
        "video": lambda: VideoSource(str(path), size, given.loop),
        "folder": lambda: FolderSource(path, size, given.loop),
        "webcam": lambda: VideoSource(given.device, size),
    }
    return makers[given.source]()


def to_camera_info(size_wh: Sequence[int], field_of_view_deg: float, header: Header) -> CameraInfo:
    """A pinhole without distortion, square pixels, principal point in the middle."""
    width, height = (int(v) for v in size_wh)
    focal_px = width / 2 / math.tan(math.radians(field_of_view_deg) / 2)
    cx, cy = (width - 1) / 2, (height - 1) / 2
    message = CameraInfo(header=header, width=width, height=height, distortion_model=PLUMB_BOB, d=[0.0] * 5)
    message.k = [focal_px, 0.0, cx, 0.0, focal_px, cy, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [focal_px, 0.0, cx, 0.0, 0.0, focal_px, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


def to_truth(objects: Sequence[TrueObject], kind: str, header: Header) -> Detection2DArray:
    """Args: kind: "modal" or "amodal"; objects without a visible pixel have no modal box and are left out there."""
    detections = []
    for number, thing in enumerate(objects):
        box = thing.modal if kind == "modal" else thing.amodal
        if box is not None:
            detections.append(to_detection(header, f"object-{number}", thing.name, thing.visible, box))
    return Detection2DArray(header=header, detections=detections)


def main(args: Sequence[str] | None = None, stop: StopRequest | None = None) -> int:
    """Run until SIGINT, SIGTERM or the end of the source; returns the exit code, that of a lost webcam's error."""
    stop = stop or StopRequest()
    try:
        node = start_node(SimulatedCamera, args)
    except EgmError as error:
        return fail(error)
    node.on_end = stop.set
    spin_node(stop, node)
    return fail(node.lost) if node.lost else 0


if __name__ == "__main__":
    sys.exit(main())
