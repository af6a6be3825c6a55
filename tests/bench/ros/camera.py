"""A camera for measurements: one picture, panned over, as raw images at a fixed rate, stamped when published.

`python -m tests.bench.ros.camera PICTURE WIDTH HEIGHT RATE_HZ`. A process of its own, so that it cannot slow the node.
"""

from __future__ import annotations

import array
import sys
import time

import cv2
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

PAN_PX = 60
PICTURES = 30


def pictures(path: str, width: int, height: int) -> list[array.array]:
    """rgb8 bytes of the picture at PICTURES places of a back-and-forth pan, made beforehand."""
    image = cv2.imread(path)
    if image is None:
        raise SystemExit(f"expected a picture; found nothing readable at {path}; name another one")
    rgb = cv2.cvtColor(cv2.resize(image, (width + PAN_PX, height)), cv2.COLOR_BGR2RGB)
    offsets = np.abs(np.linspace(-PAN_PX, PAN_PX, PICTURES, endpoint=False)).astype(int)
    return [array.array("B", np.ascontiguousarray(rgb[:, x : x + width]).tobytes()) for x in offsets]


def main(path: str, width: int, height: int, rate_hz: float) -> None:
    views = pictures(path, width, height)
    rclpy.init()
    node = rclpy.create_node("measure_camera", start_parameter_services=False)
    publisher = node.create_publisher(Image, "image", qos_profile_sensor_data)
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.header.frame_id = "camera"
    started_s, number = time.monotonic(), 0
    try:
        while rclpy.ok():
            time.sleep(max(0.0, started_s + number / rate_hz - time.monotonic()))
            message.header.stamp = node.get_clock().now().to_msg()
            message.data = views[number % len(views)]
            publisher.publish(message)
            number += 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
