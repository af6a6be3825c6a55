"""Images and commands in, stamped detections out, over DDS."""

from __future__ import annotations

import io
import math
import subprocess
import sys
import time
from typing import Any

import cv2
import numpy as np
import pytest
from egm_interfaces.msg import GroundedObject
from egm_ros.command_topic import LATCHED_COMMAND_QOS
from PIL import Image as PilImage
from ros_client import Client, image_message, picture, stamp_of, until
from ros_fixtures import NodeProcess
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("fake_node")]


def test_detections_carry_exactly_the_grounded_frames_header(client: Client) -> None:
    client.clear()
    client.command("the red thing tokens=10")
    boxes = lambda: [array for array in client.detections if array.detections]  # noqa: E731 - none where a late frame lost it
    client.feed(image_message(picture(), frame_id="left_eye"), lambda: len(boxes()) >= 3, "three detections")
    for array in boxes():
        assert stamp_of(array) in client.stamps
        assert array.header.frame_id == "left_eye"
        detection = array.detections[0]
        assert detection.header == array.header
        assert detection.results[0].hypothesis.class_id == "the red thing tokens=10"
        assert math.isnan(detection.results[0].hypothesis.score)
        centre = detection.bbox.center.position
        assert (centre.x, centre.y, detection.bbox.size_x, detection.bbox.size_y) == (65.0, 50.0, 50.0, 40.0)
    seconds = [array.header.stamp.sec for array in client.detections]
    assert seconds == sorted(set(seconds)), "each frame is grounded once, in order"


def test_grounded_objects_carry_everything(client: Client) -> None:
    client.clear()
    client.command("the red thing")
    found = client.feed(image_message(picture()), client.first_answer)
    assert found.outcome == GroundedObject.OUTCOME_FOUND
    assert found.track_state == GroundedObject.TRACK_GROUNDED
    assert found.request_id.startswith("cmd-")
    assert found.has_modal_box and not found.has_amodal_box and not found.calibrated
    assert found.source_stamp == found.header.stamp
    assert (found.image_width, found.image_height) == (160, 120)
    assert (found.bundle_hash[0], found.pixel_spec_hash[0], found.prompt_spec_hash[0]) == ("b", "c", "d")
    assert found.age.sec > 0
    assert found.timings.total_ms > 0


@pytest.mark.parametrize(
    ("encoding", "convert"),
    [("bgr8", cv2.COLOR_RGB2BGR), ("rgba8", cv2.COLOR_RGB2RGBA), ("bgra8", cv2.COLOR_RGB2BGRA), ("yuv422_yuy2", None)],
)
def test_other_encodings_find_the_same_box(client: Client, encoding: str, convert: int | None) -> None:
    pixels = cv2.cvtColor(picture((20, 20, 220)), convert) if convert is not None else _yuyv(picture((20, 20, 220)))
    client.clear()
    client.command("the blue thing")
    box = client.feed(image_message(pixels, encoding), client.first_detection).bbox
    assert (box.center.position.x, box.center.position.y) == pytest.approx((65.0, 50.0), abs=1.0)


def test_nothing_found_is_an_empty_array_under_the_frames_header(client: Client) -> None:
    client.clear()
    client.command("nothing at all")
    answered = stamp_of(client.feed(image_message(picture()), client.first_answer))
    later = lambda: next((array for array in client.detections if stamp_of(array) > answered), None)  # noqa: E731
    array = client.feed(image_message(picture()), later)
    assert len(array.detections) == 0
    assert stamp_of(array) in client.stamps


def test_the_latest_command_wins_in_mid_decode(client: Client) -> None:
    client.clear()
    before = client.counters.get("commands", 0)
    client.command("the red thing tokens=10000")
    client.feed(image_message(picture()), lambda: client.wait_for_counters().get("commands", 0) > before)
    client.command("the red thing again")
    assert client.feed(image_message(picture()), client.first_detection), "the answer of 100 s was not waited for"


def test_a_latched_command_is_counted_once_and_reaches_a_node_that_activates_later(client: Client) -> None:
    client.clear()
    assert client.transition("deactivate")
    client.command("the red thing")
    before = client.wait_for_counters().get("commands", 0)
    assert client.transition("activate")
    client.feed(image_message(picture()), client.first_detection)
    assert client.wait_for_counters()["commands"] == before + 1


def test_an_ordinary_volatile_publisher_is_heard_too(client: Client) -> None:
    client.clear()
    volatile = client.node.create_publisher(String, "command", 10)
    until(volatile.get_subscription_count, what="the volatile subscription")
    volatile.publish(String(data="the red thing"))
    assert client.feed(image_message(picture()), lambda: client.first_detection("the red thing"))
    client.node.destroy_publisher(volatile)


VOLATILE_PUBLISHER = """
import sys, time, rclpy
from std_msgs.msg import String
rclpy.init()
node = rclpy.create_node("ordinary")
publisher = node.create_publisher(String, "command", 10)
end = time.monotonic() + 20
while publisher.get_subscription_count() == 0 and time.monotonic() < end:
    rclpy.spin_once(node, timeout_sec=0.05)
for _ in range(10):
    publisher.publish(String(data="the red thing"))
    rclpy.spin_once(node, timeout_sec=0.1)
node.destroy_node()
rclpy.shutdown()
"""


def test_no_incompatible_qos_is_spoken_of_beside_an_ordinary_publisher(client: Client, fake_node: NodeProcess) -> None:
    """As `ros2 topic pub` publishes; the test's own client holds a latched publisher at the same time."""
    client.clear()
    time.sleep(3.0)  # the history of that one has been asked for
    done = subprocess.run([sys.executable, "-c", VOLATILE_PUBLISHER], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert client.feed(image_message(picture()), lambda: client.first_detection("the red thing"))
    assert "incompatible" not in done.stderr + done.stdout + fake_node.log


def test_a_latched_publisher_that_comes_later_is_heard_and_older_ones_are_not_heard_again(client: Client) -> None:
    client.clear()
    client.command("the blue thing")
    client.feed(image_message(picture((20, 20, 220))), client.first_detection)
    time.sleep(3.0)
    before = client.wait_for_counters()["commands"]
    late = client.node.create_publisher(String, "command", LATCHED_COMMAND_QOS)
    late.publish(String(data="the red thing of a late one"))
    client.feed(image_message(picture()), lambda: client.wait_for_counters()["commands"] > before, "the late command")
    time.sleep(3.0)
    assert client.wait_for_counters()["commands"] == before + 1
    client.forget()
    assert client.feed(image_message(picture()), lambda: client.first_detection("the red thing of a late one"))
    client.node.destroy_publisher(late)


def test_annotated_reaches_a_viewer_with_default_qos(client: Client) -> None:
    client.clear()
    seen: list[Image] = []
    viewer = client.node.create_subscription(Image, "annotated", seen.append, 10)
    client.command("the red thing")
    client.feed(image_message(picture()), lambda: seen, "an annotated image")
    assert (seen[0].width, seen[0].height, seen[0].encoding) == (160, 120, "rgb8")
    client.node.destroy_subscription(viewer)


def test_an_engine_failure_is_reported_and_survived(client: Client) -> None:
    client.clear()
    client.command("explode")
    failed = client.feed(image_message(picture()), client.first_answer)
    assert failed.outcome == GroundedObject.OUTCOME_FAILED
    client.clear()
    client.command("the red thing")
    assert client.feed(image_message(picture()), client.first_detection)


def test_bad_commands_are_counted_and_leave_the_standing_one(client: Client, fake_node: NodeProcess) -> None:
    client.clear()
    client.command("the red thing")
    before = client.wait_for_counters().get("commands_refused", 0)
    client.command("x" * 10_000)
    until(lambda: client.wait_for_counters().get("commands_refused", 0) == before + 1, what="the refusal")
    assert client.feed(image_message(picture()), lambda: client.first_detection("the red thing"))
    assert "command refused: expected an expression of at most 500 characters; found 10000" in fake_node.log


BROKEN: dict[str, list[dict[str, Any]]] = {
    "size": [{"width": 0}, {"width": 20_000, "height": 20_000}],
    "step": [{"step": 3}],
    "length": [{"data": b"short"}],
    "encoding": [{"encoding": "16UC1"}, {"encoding": "rot13"}],
}


@pytest.mark.parametrize("reason", BROKEN)
def test_garbage_images_are_counted_and_survived(client: Client, reason: str) -> None:
    client.clear()
    client.command("the red thing")
    key, first = f"frames_rejected_{reason}", len(client.stamps)
    for changes in BROKEN[reason]:
        message = image_message(picture())
        for name, value in changes.items():
            setattr(message, name, value)
        before = client.wait_for_counters().get(key, 0)
        client.feed(message, lambda: client.counters.get(key, 0) > before, f"{key} to be counted")  # noqa: B023
    garbage = set(client.stamps[first:])
    assert not garbage & set(map(stamp_of, client.detections))
    assert client.feed(image_message(picture()), client.first_detection)


def test_compressed_images_are_taken_after_a_parameter_change(client: Client) -> None:
    client.clear()
    assert client.transition("deactivate")
    assert client.set_parameter("image_transport", "compressed").successful
    try:
        assert client.transition("activate")
        client.wait_for_state("active")
        client.command("the red thing")
        whole = CompressedImage(format="rgb8; jpeg compressed bgr8", data=_jpeg(picture()))
        box = client.feed(whole, client.first_detection).bbox
        assert (box.center.position.x, box.center.position.y) == pytest.approx((65.0, 50.0), abs=3.0)
        client.clear()
        client.command("the red thing")
        truncated = CompressedImage(format="jpeg", data=_jpeg(picture())[:-200])
        unset = GroundedObject.OUTCOME_FAILED
        assert client.feed(truncated, lambda: any(o.outcome == unset for o in client.objects), "a refusal")
    finally:
        client.transition("deactivate")
        client.set_parameter("image_transport", "raw")
        client.transition("activate")
        client.wait_for_state("active")


def _jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PilImage.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _yuyv(rgb: np.ndarray) -> np.ndarray:
    """[H, W, 3] RGB -> [H, W, 2] YUY2; chroma of each pair is its left pixel's."""
    yuv = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV)
    packed = np.empty((*rgb.shape[:2], 2), np.uint8)
    packed[..., 0] = yuv[..., 0]
    packed[:, 0::2, 1], packed[:, 1::2, 1] = yuv[:, 0::2, 1], yuv[:, 0::2, 2]
    return packed
