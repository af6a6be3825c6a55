"""Play the recorded camera stream to the real ROS 2 node and print the stamped detections it publishes.

`.ci/demo_ros.sh BUNDLE_DIR` runs it. Starts the installed node in a process of its own, configures and activates it through
its lifecycle services, plays examples/stream at its own rate, once for each of the three sentences, and ends with exit
code 0 only if detections arrived for every one. The stream is restamped with the time of playing, as a live camera would.
"""

from __future__ import annotations

import array
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from ament_index_python.packages import get_package_prefix
from egm_interfaces.msg import GroundedObject, GroundedObjectArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from PIL import Image as PilImage
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import Image
from std_msgs.msg import String
from vision_msgs.msg import Detection2DArray

from egm_edge.boxes import Box

ROOT = Path(__file__).resolve().parents[1]
STREAM = ROOT / "examples" / "stream"
NODE_COMMAND = Path(get_package_prefix("egm_ros")) / "lib" / "egm_ros" / "grounding_node"
OUTCOME_NAMES = {
    value: name.removeprefix("OUTCOME_") for name, value in vars(GroundedObject).items() if name.startswith("OUTCOME_")
}
CONFIGURE_S, STOP_S, TAIL_S, ASK_AGAIN_S = 60.0, 10.0, 3.0, 3.0
PLAYS = 3  # of the stream, until something is heard: a busy machine may lose a first round of best-effort frames


@dataclass(frozen=True)
class Played:
    """A frame on its way: which one of the recording it is, and when it was published."""

    index: int
    published_s: float


def read_stream(bag: Path) -> list[tuple[int, Image]]:
    """(time from the start in ns, raw rgb8 message) of every frame of the recording."""
    frames = []
    with AnyReader([bag]) as reader:
        for connection, stamp_ns, data in reader.messages():
            compressed: Any = reader.deserialize(data, connection.msgtype)
            pixels = np.asarray(PilImage.open(io.BytesIO(compressed.data.tobytes())).convert("RGB"))
            message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding="rgb8", step=pixels.shape[1] * 3)
            message.header.frame_id = compressed.header.frame_id
            message.data = array.array("B", pixels.tobytes())
            frames.append((stamp_ns, message))
    return [(stamp_ns - frames[0][0], message) for stamp_ns, message in frames]


class Player:
    """Plays the camera, says the sentences, hears the detections."""

    def __init__(self, truth: dict[str, list[list[float] | None]]) -> None:
        self.truth = truth
        self.heard = dict.fromkeys(truth, 0)
        self.outcomes: Counter[str] = Counter()
        self.played: dict[tuple[int, int], Played] = {}
        self.node = rclpy.create_node("demo")
        self.images = self.node.create_publisher(Image, "/camera/image", qos_profile_sensor_data)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.commands = self.node.create_publisher(String, "/command", latched)
        self.node.create_subscription(Detection2DArray, "/detections", self._on_detections, 10)
        self.node.create_subscription(GroundedObjectArray, "/grounded_objects", self._on_objects, 10)
        self.lifecycle = self.node.create_client(ChangeState, "/grounding_node/change_state")
        self.state = self.node.create_client(GetState, "/grounding_node/get_state")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)

    def spin_until(self, ready: Callable[[], bool], timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while not ready() and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=max(0.0, min(0.05, end - time.monotonic())))
        return ready()

    def is_met(self) -> bool:
        """Whether the node answers; it knows the way back of both clients then. A reply to one it has yet to discover is lost."""
        if not (self.lifecycle.service_is_ready() and self.state.service_is_ready()):
            return False
        asked = self.state.call_async(GetState.Request())
        return self.spin_until(asked.done, ASK_AGAIN_S)

    def change_state(self, transition: int) -> bool:
        if not self.spin_until(self.is_met, CONFIGURE_S):
            return False
        future = self.lifecycle.call_async(ChangeState.Request(transition=Transition(id=transition)))
        return self.spin_until(future.done, CONFIGURE_S) and future.result().success

    def play(self, frames: list[tuple[int, Image]]) -> None:
        start = time.monotonic()
        for index, (offset_ns, message) in enumerate(frames):
            due = start + offset_ns * 1e-9
            self.spin_until(lambda: False, due - time.monotonic())
            message.header.stamp = self.node.get_clock().now().to_msg()
            key = (message.header.stamp.sec, message.header.stamp.nanosec)
            self.played[key] = Played(index, time.monotonic())
            self.images.publish(message)

    def _on_objects(self, message: GroundedObjectArray) -> None:
        self.outcomes.update(OUTCOME_NAMES[answer.outcome] for answer in message.objects)

    def _on_detections(self, message: Detection2DArray) -> None:
        stamp = message.header.stamp
        played = self.played.get((stamp.sec, stamp.nanosec))
        if played is None:
            return
        latency_ms = (time.monotonic() - played.published_s) * 1e3
        prefix = f"  {stamp.sec}.{stamp.nanosec:09d}  {message.header.frame_id}"
        if not message.detections:
            say(f"{prefix}  nothing found  latency {latency_ms:4.0f} ms")
        for detection in message.detections:
            hypothesis, centre = detection.results[0].hypothesis, detection.bbox.center.position
            half_w, half_h = detection.bbox.size_x / 2, detection.bbox.size_y / 2
            box = Box(centre.x - half_w, centre.y - half_h, centre.x + half_w, centre.y + half_h)
            expression = hypothesis.class_id
            self.heard[expression] = self.heard.get(expression, 0) + 1
            score = "uncalibrated" if math.isnan(hypothesis.score) else f"{hypothesis.score:.2f}"
            true = self.truth.get(expression, [])[played.index]
            overlap = f"  IoU with the true box {box.iou(Box(*true)):.2f}" if true else ""
            corners = " ".join(f"{value:3.0f}" for value in box.xyxy)
            say(f'{prefix}  "{expression}"  box {corners}  score {score}  latency {latency_ms:4.0f} ms{overlap}')


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def running_node(bundle: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The installed node as a process; stopped, and if need be killed, at the end."""
    arguments = ["--ros-args", "-p", f"bundle_path:={bundle}", "-r", "image:=/camera/image"]
    process = subprocess.Popen([str(NODE_COMMAND), *arguments])
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()


def main(bundle: Path) -> int:
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    truth = json.loads((STREAM / "expressions.json").read_text())
    frames = read_stream(STREAM / "tabletop")
    rclpy.init()
    player = Player(truth)
    try:
        for process in running_node(bundle.resolve()):
            say(f"configuring grounding_node (process {process.pid}) with {bundle.name}")
            if not player.change_state(Transition.TRANSITION_CONFIGURE):
                say("the node could not be configured; its own line above says why")
                return 1
            if not player.change_state(Transition.TRANSITION_ACTIVATE):
                say("the node could not be activated")
                return 1
            player.spin_until(lambda: player.images.get_subscription_count() > 0, CONFIGURE_S)
            for expression in truth:
                say(
                    f'command "{expression}": playing {len(frames)} frames of {frames[0][1].width}x{frames[0][1].height}'
                )
                player.commands.publish(String(data=expression))
                for _ in range(PLAYS):
                    player.play(frames)
                    if player.spin_until(lambda: player.heard[expression] > 0, TAIL_S):  # noqa: B023
                        break
    finally:
        player.executor.shutdown()
        player.node.destroy_node()
        rclpy.try_shutdown()
    say("answers: " + ", ".join(f"{name} {count}" for name, count in player.outcomes.items()))
    say("detections: " + ", ".join(f'"{text}" {count}' for text, count in player.heard.items()))
    return 0 if all(player.heard[expression] for expression in truth) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
