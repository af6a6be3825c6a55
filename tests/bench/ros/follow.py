"""How good boxes are when they are published, with a slow model and things that move: simulated camera, node and this
listener in processes of their own. "Without" is the model's box as it came, "with" the one that the node carried on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from egm_interfaces.msg import GroundedObject, GroundedObjectArray
from egm_ros.standard_messages import to_box
from egm_ros.times import nanoseconds
from rclpy.qos import qos_profile_sensor_data
from vision_msgs.msg import Detection2DArray

from egm_edge.boxes import Box
from tests.bench.ros.listener import Listener
from tests.bench.ros.processes import grounding_node, running, wait_until
from tests.bench.ros.slow_model import DELAY_VARIABLE, FACTORY

START_S, SETTLE_S = 120.0, 2.0
MOTIONS, DELAYS_S = ("slide", "swerve", "turn", "approach", "hide", "mixed"), (0.3, 1.0, 2.0)
ABOUT = "it is about "
HEADER = (
    "| motion | model latency, s | boxes | median IoU without | with | IoU >= 0.5 without | with | said LOST |\n"
    "|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True, slots=True)
class FollowFigures:
    """IoU with the truth of the very frame that a message is about, of every box published.

    Attributes:
        lost: messages that said the object is lost; they are in neither list.
    """

    motion: str
    delay_s: float
    without: tuple[float, ...]
    carried: tuple[float, ...]
    lost: int

    def row(self) -> str:
        if not self.carried:
            return f"| {self.motion} | {self.delay_s:g} | 0 | - | - | - | - | {self.lost} |"
        medians = [float(np.median(values)) for values in (self.without, self.carried)]
        shares = [float(np.mean(np.array(values) >= 0.5)) for values in (self.without, self.carried)]
        lost = self.lost / (self.lost + len(self.carried))
        return (
            f"| {self.motion} | {self.delay_s:g} | {len(self.carried)} | {medians[0]:.2f} | **{medians[1]:.2f}** | "
            f"{shares[0]:.0%} | {shares[1]:.0%} | {lost:.0%} |"
        )


def measure_follow(bundle: str, motion: str, delay_s: float, seconds: float, seed: int, log: Path) -> FollowFigures:
    """Raises: TimeoutError: camera or node did not start."""
    camera_log = log.with_suffix(".camera.log")
    camera = ["-m", "egm_ros.simulated_camera", "--ros-args", "-p", f"motion:={motion}", "-p", f"seed:={seed}"]
    node = grounding_node({"bundle_path": bundle, "reground_period_s": 0.0}, log, FACTORY)
    os.environ[DELAY_VARIABLE] = str(delay_s)
    truths: dict[int, Box] = {}
    objects: list[tuple[int, GroundedObject]] = []
    with Listener() as listener, running(camera, camera_log), node:
        wait_until(lambda: ABOUT in camera_log.read_text(), START_S, "the camera")
        target = camera_log.read_text().rpartition(ABOUT)[2].splitlines()[0].strip()

        def on_truth(message: Detection2DArray) -> None:
            for one in message.detections:
                if one.results[0].hypothesis.class_id == target:
                    truths[nanoseconds(message.header.stamp)] = to_box(one.bbox)

        def on_objects(message: GroundedObjectArray) -> None:
            objects.extend((nanoseconds(one.header.stamp), one) for one in message.objects)

        listener.node.create_subscription(Detection2DArray, "ground_truth", on_truth, qos_profile_sensor_data)
        listener.node.create_subscription(GroundedObjectArray, "grounded_objects", on_objects, 50)
        listener.say(target)
        wait_until(lambda: objects, START_S, "a first box")
        time.sleep(SETTLE_S)
        objects.clear()
        time.sleep(seconds)
        seen = list(objects)
    return figures(motion, delay_s, truths, seen)


def figures(
    motion: str, delay_s: float, truths: dict[int, Box], seen: Sequence[tuple[int, GroundedObject]]
) -> FollowFigures:
    """Of what was published, with the stamp that each is about."""
    without, carried, lost = [], [], 0
    for stamp, one in seen:
        truth = truths.get(stamp)
        if truth is None or not one.label:
            continue
        if one.track_state == GroundedObject.TRACK_LOST:
            lost += 1
            continue
        without.append(Box(*json.loads(one.label)).iou(truth))
        carried.append(to_box(one.modal_box).iou(truth))
    return FollowFigures(motion, delay_s, tuple(without), tuple(carried), lost)
