"""Record the camera stream of the demo: `.ci/ros_run.sh python examples/stream/record.py`.

A tabletop seen for four seconds: the red ball rolls past behind the blue bottle, the yellow mug comes nearer, the bottle
stands. Writes `tabletop/` (an MCAP bag of sensor_msgs/CompressedImage on /camera/image/compressed) and `expressions.json`
(the sentences of the demo and, for each, the true box in every frame). Needs rosbags, no ROS.
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

from training.scenes import Rendered, Scene, SceneObject, Surroundings, render

HERE = Path(__file__).parent
TOPIC, FRAME_ID = "/camera/image/compressed", "camera_color_optical_frame"
WIDTH_PX, HEIGHT_PX = 640, 480
RATE_HZ, SECONDS = 15, 4
START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
JPEG_QUALITY = 85

BALL = SceneObject("ball", "red", "medium", 0.14, 0.50, 0.20)
BOTTLE = SceneObject("bottle", "blue", "large", 0.52, 0.58, 0.30, tint=(4, -3, 6))
MUG = SceneObject("mug", "yellow", "medium", 0.80, 0.42, 0.20, mirrored=True)
EXPRESSIONS = ("the red ball", "the yellow mug", "the blue bottle")
TABLE = Surroundings(texture=3.0, noise=1.5, blur_px=0.3, horizon=0.12, light=(10.0, -8.0), seed=7)


def scene_at(progress: float) -> Scene:
    """The scene at `progress` 0-1 of the recording."""
    ball = replace(BALL, x=0.14 + 0.70 * progress, y=0.50 + 0.03 * math.sin(2 * math.pi * progress))
    mug = replace(MUG, y=0.42 + 0.30 * progress, x=0.80 + 0.04 * progress)
    return Scene((ball, BOTTLE, mug), TABLE)


def record(folder: Path) -> None:
    count = RATE_HZ * SECONDS
    pictures = [render(scene_at(index / (count - 1)), WIDTH_PX, HEIGHT_PX) for index in range(count)]
    shutil.rmtree(folder / "tabletop", ignore_errors=True)
    write_bag(folder / "tabletop", pictures)
    truth = {text: [_box(picture, index) for picture in pictures] for index, text in enumerate(EXPRESSIONS)}
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
