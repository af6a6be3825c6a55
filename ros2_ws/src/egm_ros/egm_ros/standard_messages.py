"""Boxes, detections and pictures as messages of vision_msgs and sensor_msgs.

Numbers are cast before they enter a message: in a field of another numeric type (a NumPy integer, say) they would abort the
process, not raise.
"""

from __future__ import annotations

import array

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import BoundingBox2D, Detection2D, ObjectHypothesisWithPose

from egm_edge.boxes import Box


def to_bounding_box(box: Box) -> BoundingBox2D:
    """xyxy to centre and size, both in pixels of the original image."""
    message = BoundingBox2D(size_x=float(box.x2 - box.x1), size_y=float(box.y2 - box.y1))
    message.center.position.x, message.center.position.y = float(box.x1 + box.x2) / 2, float(box.y1 + box.y2) / 2
    return message


def to_detection(header: Header, name: str, class_id: str, score: float, box: Box) -> Detection2D:
    """One box with one hypothesis. Args: name: the detection's id."""
    hypothesis = ObjectHypothesisWithPose()
    hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = class_id, float(score)
    return Detection2D(header=header, id=name, bbox=to_bounding_box(box), results=[hypothesis])


def to_image(pixels: NDArray[np.uint8], color: str, header: Header) -> Image:
    """[H, W, 3] uint8 to rgb8 or bgr8. Args: color: order of the last axis, "rgb" or "bgr"."""
    height, width = pixels.shape[:2]
    message = Image(header=header, height=height, width=width, encoding=f"{color}8", step=3 * width)
    data = array.array("B")  # the one type that rclpy takes without looking at every byte
    data.frombytes(memoryview(np.ascontiguousarray(pixels)).cast("B"))
    message.data = data
    return message
