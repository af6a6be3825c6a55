"""depth_locator as a process: a depth image and a box in, a place in metres under the detection's own header out."""

from __future__ import annotations

import array
import sys

import numpy as np
import pytest
import rclpy
from egm_interfaces.msg import GroundedObject, GroundedObjectArray
from egm_ros.depth_locator import MAX_FRAME_RATE_HZ, DepthMemory
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from ros_client import until
from ros_fixtures import MakeNode
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import BoundingBox2D, Detection2D, Detection2DArray, Detection3DArray, ObjectHypothesisWithPose
from visualization_msgs.msg import Marker, MarkerArray

pytestmark = pytest.mark.ros


def test_depth_images_of_a_clock_that_stands_still_are_not_gathered() -> None:
    memory = DepthMemory(memory_s=1.0)
    for step_ns in (0, 1):
        for number in range(1000):
            image = Image()
            image.header.stamp.nanosec = 1 + step_ns * number
            memory.add(image)
        assert len(memory._images) <= MAX_FRAME_RATE_HZ
    assert memory.nearest(1000, 0) is not None


def test_depth_images_that_come_twice_do_not_drive_out_those_before() -> None:
    memory = DepthMemory(memory_s=1.0)
    for number in range(10):
        image = Image()
        image.header.stamp.nanosec = 1 + number
        memory.add(image)
        memory.add(image)
    assert all(memory.nearest(1 + number, 0) is not None for number in range(10))
    assert memory.has_newer_than(9) and not memory.has_newer_than(10)


def test_a_detection_gets_its_place(make_node: MakeNode) -> None:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node("depth_test", context=context, namespace="/d")
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    found: list[Detection3DArray] = []
    node.create_subscription(Detection3DArray, "detections3d", found.append, 10)
    depth = node.create_publisher(Image, "depth", qos_profile_sensor_data)
    info = node.create_publisher(CameraInfo, "camera_info", qos_profile_sensor_data)
    boxes = node.create_publisher(Detection2DArray, "detections", 10)
    objects = node.create_publisher(GroundedObjectArray, "grounded_objects", 10)
    markers: list[MarkerArray] = []
    frames: list[TFMessage] = []
    node.create_subscription(MarkerArray, "markers", markers.append, 10)
    node.create_subscription(TFMessage, "/tf", frames.append, 100)
    locator = make_node([sys.executable, "-m", "egm_ros.depth_locator"], ["-r", "__ns:=/d"])
    millimetres = np.full((120, 160), 2000, np.uint16)
    millimetres[40:80, 60:100] = 800
    image = Image(height=120, width=160, encoding="16UC1", step=320)
    image.data = array.array("B", millimetres.tobytes())
    garbage = Image(height=120, width=160, encoding="16UC1", step=1)
    camera = CameraInfo(height=120, width=160, k=[100.0, 0.0, 79.5, 0.0, 100.0, 59.5, 0.0, 0.0, 1.0])
    one = Detection2D(id="cmd-1", bbox=BoundingBox2D(size_x=40.0, size_y=40.0))
    one.bbox.center.position.x, one.bbox.center.position.y = 80.0, 60.0
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = "the red mug", 0.5
    one.results = [hypothesis]
    late = Detection2DArray(detections=[one])

    def send() -> bool:
        seconds = node.get_clock().now().to_msg().sec
        for message in (garbage, image, late):
            message.header.stamp.sec = seconds
        late.header.frame_id = one.header.frame_id = "/eye"
        for publisher, message in ((info, camera), (depth, garbage), (boxes, late), (depth, image), (boxes, late)):
            publisher.publish(message)
            executor.spin_once(timeout_sec=0.02)
        return any(array.detections for array in found)

    try:
        until(send, 30, "a detection in space")
        array3d = next(array for array in found if array.detections)
        (got,) = array3d.detections
        position, size = got.bbox.center.position, got.bbox.size
        assert (position.x, position.y, position.z) == pytest.approx((0.0, 0.0, 0.8), abs=0.005)
        assert (size.x, size.y) == pytest.approx((0.32, 0.32), rel=0.02)
        assert (got.id, got.results[0].hypothesis.class_id) == ("cmd-1", "the red mug")
        assert array3d.header.frame_id == "/eye" and array3d.header.stamp.sec > 0
        until(lambda: send() and "depth image refused" in locator.log, 30, "garbage named, which is not fatal")
        until(lambda: send() and frames and any(array.markers for array in markers), 30, "markers and frames")
        cube, text = next(array for array in markers if array.markers).markers
        assert (cube.ns, cube.type, text.type, text.text) == (
            "cmd-1",
            Marker.CUBE,
            Marker.TEXT_VIEW_FACING,
            "the red mug",
        )
        assert (cube.pose.position, cube.scale) == (position, size)
        (transform,) = frames[0].transforms
        assert (transform.header.frame_id, transform.child_frame_id) == ("eye", "d/object_command")
        assert transform.transform.translation.z == pytest.approx(0.8, abs=0.005)
        old = Detection2DArray(detections=[one])
        old.header.stamp.sec = 1
        until(
            lambda: send() and (boxes.publish(old) or "raise memory_s" in locator.log), 30, "what can never be located"
        )
        before = len(found)
        other = GroundedObjectArray(objects=[GroundedObject(image_width=320, image_height=240)])
        until(
            lambda: objects.publish(other) or (send() and "found 320x240" in locator.log), 30, "the refusal of another size"
        )
        assert len(found) - before < 30
        camera.k[0] = 0.0
        refusal = "camera_info refused: expected a calibrated camera_info"
        until(lambda: send() and refusal in locator.log, 30, "the refusal of a camera that is not calibrated")
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=context)
    assert locator.stop() == 0
