"""The simulated camera as a process of its own: what it publishes is the drawn sequence, its truth and one stamp."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
from egm_ros.conversion import to_picture
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_client import until
from ros_fixtures import MakeNode
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from egm_edge.synthetic.trajectories import sample_motion

pytestmark = pytest.mark.ros
CAMERA = [sys.executable, "-m", "egm_ros.simulated_camera"]
TOPICS = {
    "image": Image,
    "image/compressed": CompressedImage,
    "camera_info": CameraInfo,
    "ground_truth": Detection2DArray,
    "ground_truth_amodal": Detection2DArray,
}
RELIABLE = QoSProfile(depth=200, reliability=ReliabilityPolicy.RELIABLE)


class Listener:
    """Everything received, by topic and stamp in nanoseconds."""

    def __init__(self, namespace: str) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("listener", context=self.context, namespace=namespace)
        self.received: dict[str, dict[int, object]] = {topic: {} for topic in TOPICS}
        for topic, kind in TOPICS.items():
            self.node.create_subscription(kind, topic, lambda m, t=topic: self._take(t, m), RELIABLE)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def _take(self, topic: str, message: object) -> None:
        stamp = message.header.stamp  # type: ignore[attr-defined]
        self.received[topic][stamp.sec * 1_000_000_000 + stamp.nanosec] = message

    def count(self, topic: str) -> int:
        self.executor.spin_once(timeout_sec=0.01)
        return len(self.received[topic])

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener("/bench")
    yield made
    made.close()


def test_it_publishes_the_sequence_with_its_truth(make_node: MakeNode, listener: Listener) -> None:
    camera = make_node(
        CAMERA, ["-r", "__ns:=/bench"], seed=5, motion="hide", width=160, height=120, rate_hz=10.0, seconds=1.0,
        compressed=True, reliability="reliable",
    )  # fmt: skip
    until(lambda: all(listener.count(topic) >= 14 for topic in TOPICS), 60, "fourteen frames")
    scene = sample_motion(5, "hide", aspect=160 / 120, seconds=1.0)
    drawn = [scene.frame(index / 10, 160, 120) for index in range(10)]
    known = {shot.image.tobytes(): shot for shot in drawn}
    received = listener.received
    stamps = [stamp for stamp in received["image"] if all(stamp in received[topic] for topic in TOPICS)]
    assert len(stamps) >= 10
    for stamp in stamps:
        pixels = to_picture(received["image"][stamp], 10**6)
        assert (pixels.color, pixels.array.shape) == ("rgb", (120, 160, 3))
        shot = known[pixels.array.tobytes()]
        for topic, boxes in (("ground_truth", shot.modal), ("ground_truth_amodal", shot.amodal)):
            message = received[topic][stamp]
            found = {d.id: d for d in message.detections}
            for number, box in enumerate(boxes):
                if box is None:
                    assert f"object-{number}" not in found
                    continue
                bbox = found[f"object-{number}"].bbox
                centre = ((box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2)
                assert (bbox.center.position.x, bbox.center.position.y) == pytest.approx(centre)
                assert (bbox.size_x, bbox.size_y) == pytest.approx((box.x2 - box.x1, box.y2 - box.y1))
                hypothesis = found[f"object-{number}"].results[0].hypothesis
                assert hypothesis.score == pytest.approx(shot.visible[number])
        jpeg = to_picture(received["image/compressed"][stamp], 10**6).array.astype(int)
        assert np.abs(jpeg - shot.image).mean() < 6
        info = received["camera_info"][stamp]
        assert (info.width, info.height, info.k[2], info.k[0]) == (160, 120, 79.5, pytest.approx(138.56, abs=0.01))
    names = {d.results[0].hypothesis.class_id for d in received["ground_truth_amodal"][stamps[0]].detections}
    assert scene.expression in names
    assert camera.stop() == 0


def test_a_folder_that_ends_ends_the_node(make_node: MakeNode, listener: Listener, tmp_path: Path) -> None:
    import cv2

    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((48, 64, 3), 40 * number, np.uint8))
    camera = make_node(
        CAMERA, ["-r", "__ns:=/bench"], source="folder", path=str(tmp_path), width=0, height=0, loop=False, rate_hz=5.0
    )
    assert camera.process.wait(60) == 0
    assert "the source has ended" in camera.log


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"source": "telescope"}, "tabletop, video, folder, webcam"),
        ({"motion": "waltz"}, "slide, swerve"),
        ({"source": "video", "path": "/none.mp4"}, "check path:=FILE"),
        ({"rate_hz": 1000.0}, "rate_hz"),
    ],
    ids=["unknown source", "unknown motion", "missing video", "rate out of range"],
)
def test_a_bad_parameter_is_one_line_and_an_exit_code(
    make_node: MakeNode, parameters: dict[str, object], words: str
) -> None:
    camera = make_node(CAMERA, [], **parameters)
    assert camera.process.wait(60) == 2
    assert words in camera.log
    assert "Traceback" not in camera.log
