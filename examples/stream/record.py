"""Record the camera stream of the demo: `.ci/ros_run.sh python examples/stream/record.py`.

A tabletop seen for four seconds: a yellow box slides from the left to the middle, a red ball comes nearer. Writes
`tabletop/` (an MCAP bag of sensor_msgs/CompressedImage on /camera/image/compressed) and `expressions.json` (the sentences
of the demo and, for each, the true box in every frame). Needs rosbags, no ROS.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from egm_edge.synthetic import Rendered, Scene, SceneObject, Surroundings, render

HERE = Path(__file__).parent
TOPIC, FRAME_ID = "/camera/image/compressed", "camera_color_optical_frame"
WIDTH_PX, HEIGHT_PX = 640, 480
RATE_HZ, SECONDS = 15, 4
START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
JPEG_QUALITY = 85

BOX = SceneObject("box", "yellow", "medium", 0.16, 0.33, 0.21)
BALL = SceneObject("ball", "red", "large", 0.80, 0.50, 0.30)
# Sentence -> index of its object in the scene.
EXPRESSIONS = {"the yellow box": 0, "the red ball": 1, "the leftmost object": 0}
TABLE = Surroundings(texture=3.0, noise=1.5, blur_px=0.3, horizon=0.12, light=(10.0, -8.0), seed=7)


def scene_at(progress: float) -> Scene:
    """The scene at `progress` 0-1 of the recording."""
    box = replace(BOX, x=0.16 + 0.40 * progress, y=0.33 + 0.04 * math.sin(2 * math.pi * progress))
    ball = replace(BALL, x=0.80 - 0.03 * progress, y=0.50 + 0.22 * progress)
    return Scene((box, ball), TABLE)


def record(folder: Path) -> None:
    count = RATE_HZ * SECONDS
    pictures = [render(scene_at(index / (count - 1)), WIDTH_PX, HEIGHT_PX) for index in range(count)]
    shutil.rmtree(folder / "tabletop", ignore_errors=True)
    write_bag(folder / "tabletop", pictures)
    truth = {text: [_box(picture, index) for picture in pictures] for text, index in EXPRESSIONS.items()}
    rows = ",\n".join(f" {json.dumps(text)}: {json.dumps(boxes)}" for text, boxes in truth.items())
    (folder / "expressions.json").write_text(f"{{\n{rows}\n}}\n")


def _box(picture: Rendered, index: int) -> list[int] | None:
    """Modal xyxy, pixels, of the object at `index`; None where less than a third of it is visible."""
    box, visible = picture.layout.modal[index], picture.layout.visible[index]
    return [round(v) for v in box.xyxy] if box is not None and visible > 1 / 3 else None


def write_bag(path: Path, pictures: list[Rendered]) -> None:
    types = get_typestore(Stores.ROS2_JAZZY)
    image_type, header_type, time_type = (
        types.types[name]
        for name in ("sensor_msgs/msg/CompressedImage", "std_msgs/msg/Header", "builtin_interfaces/msg/Time")
    )
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        connection = bag.add_connection(TOPIC, image_type.__msgtype__, typestore=types)
        for index, picture in enumerate(pictures):
            stamp_ns = START_NS + index * 1_000_000_000 // RATE_HZ
            _, jpeg = cv2.imencode(".jpg", picture.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            stamp = time_type(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)
            header = header_type(stamp=stamp, frame_id=FRAME_ID)
            message = image_type(
                header=header, format="rgb8; jpeg compressed bgr8", data=np.asarray(jpeg, np.uint8).ravel()
            )
            bag.write(connection, stamp_ns, types.serialize_cdr(message, image_type.__msgtype__))


if __name__ == "__main__":
    record(HERE)
