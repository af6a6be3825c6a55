"""Boxes, detections and pictures as messages of vision_msgs and sensor_msgs.

Numbers are cast before they enter a message: in a field of another numeric type (a NumPy integer, say) they would abort the
process, not raise.
"""

from __future__ import annotations

import array

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from vision_msgs.msg import BoundingBox2D, Detection2D, ObjectHypothesisWithPose

from egm_edge.boxes import Box


def to_bounding_box(box: Box) -> BoundingBox2D:
    """xyxy to centre and size, both in pixels of the original image."""
    message = BoundingBox2D(size_x=float(box.x2 - box.x1), size_y=float(box.y2 - box.y1))
    message.center.position.x, message.center.position.y = float(box.x1 + box.x2) / 2, float(box.y1 + box.y2) / 2
    return message


def to_box(message: BoundingBox2D) -> Box:
    """Centre and size to xyxy, pixels. Raises: InputError: not finite, or of a negative size."""
    x, y, w, h = message.center.position.x, message.center.position.y, message.size_x, message.size_y
    return Box(x - w / 2, y - h / 2, x + w / 2, y + h / 2)


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


def to_compressed(
    pixels: NDArray[np.uint8], color: str, header: Header, *, file_format: str = "jpeg", level: int
) -> CompressedImage:
    """[H, W, 3] uint8 to JPEG or PNG, with the format's name as image_transport's plugin writes it.

    Args:
        color: order of the last axis, "rgb" or "bgr".
        level: quality of a JPEG, 1-100; compression of a PNG, 1-9.
    """
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if color == "rgb" else pixels
    option = cv2.IMWRITE_PNG_COMPRESSION if file_format == "png" else cv2.IMWRITE_JPEG_QUALITY
    encoded = cv2.imencode(f".{file_format}", bgr, [option, level])[1]
    message = CompressedImage(header=header, format=f"{color}8; {file_format} compressed bgr8")
    message.data = array.array("B", encoded.tobytes())
    return message
