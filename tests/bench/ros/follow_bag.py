"""`python -m tests.bench.ros follow --bundle DIR --sequence DIR…`: real footage through the node. A sequence becomes a bag, the bag
is played with its own clock, and the model's answers are the true boxes of the frames that it was asked about, as late as told."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from egm_interfaces.msg import GroundedObject, GroundedObjectArray
from egm_ros.model_process import load_grounder
from egm_ros.replay_bag import BagMessage
from egm_ros.settings import Settings
from egm_ros.times import nanoseconds, to_time
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from egm_edge.boxes import Box
from egm_edge.grounding import Grounding, Outcome
from tests.bench.ros.follow import START_S, FollowFigures, figures
from tests.bench.ros.listener import Listener
from tests.bench.ros.processes import grounding_node, running, wait_until
from tests.bench.ros.record_bag import BagWriter
from tests.bench.ros.slow_model import DELAY_VARIABLE, SlowGrounder
from tests.bench.tracking_sequence import Sequence, read_sequence

FACTORY = f"{__name__}:load_knowing"
SEQUENCE_VARIABLE = "EGM_MEASURE_SEQUENCE"
BEGIN_NS = 1_000_000_000_000
EXPRESSION = "the target"
END_S = 3.0  # without a message: the bag is over


def stamp_ns(index: int, fps: float) -> int:
    """Of a sequence's frame in its bag."""
    return BEGIN_NS + round(index / fps * 1e9)


def load_knowing(settings: Settings) -> SlowGrounder:
    """The node's bundle in its place, EGM_MEASURE_DELAY_S slower, and the true boxes of EGM_MEASURE_SEQUENCE as its answers."""
    sequence = _sequence(os.environ[SEQUENCE_VARIABLE])
    truths = {stamp_ns(index, sequence.fps): box for index, box in enumerate(sequence.boxes)}
    return SlowGrounder(KnowingGrounder(load_grounder(settings), truths), float(os.environ[DELAY_VARIABLE]))


class KnowingGrounder:
    """A Grounder that is told what is true: of the frame with a stamp, its box, or that nothing is there."""

    def __init__(self, grounder: Any, truths: dict[int, Box | None]) -> None:
        self._grounder, self._truths = grounder, truths

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grounder, name)

    def ground(self, *arguments: Any, **options: Any) -> Grounding:
        found: Grounding = self._grounder.ground(*arguments, **options)
        box = self._truths.get(found.stamp_ns or 0)
        return replace(found, outcome=Outcome.FOUND if box else Outcome.NOT_FOUND, box=box, confidence=None)


def measure_bag(bundle: str, folder: Path, delay_s: float, bag: Path, log: Path) -> FollowFigures:
    """Raises: TimeoutError: node or player did not start."""
    os.environ[DELAY_VARIABLE], os.environ[SEQUENCE_VARIABLE] = str(delay_s), str(folder)
    sequence = _sequence(str(folder))
    write_bag(sequence, bag)
    objects: list[tuple[int, GroundedObject]] = []
    heard = [time.monotonic()]

    def on_objects(message: GroundedObjectArray) -> None:
        heard[0] = time.monotonic()
        objects.extend((nanoseconds(one.header.stamp), one) for one in message.objects)

    node = grounding_node({"bundle_path": bundle, "reground_period_s": 0.0, "use_sim_time": True}, log, FACTORY)
    play = ["-c", "import sys; from egm_ros.replay_bag import main; sys.exit(main())", str(bag), "--clock"]
    with Listener() as listener, node:
        listener.node.create_subscription(GroundedObjectArray, "grounded_objects", on_objects, 50)
        listener.say(EXPRESSION)
        wait_until(lambda: "is loaded in process" in log.read_text(), START_S, "the node")
        with running(play, log.with_suffix(".player.log")) as player:
            wait_until(lambda: objects, START_S, "a first box")
            wait_until(lambda: player.poll() is not None, START_S, "the end of the bag")
            wait_until(lambda: time.monotonic() - heard[0] > END_S, START_S, "silence")
        seen = list(objects)
    truths = {stamp_ns(index, sequence.fps): box for index, box in enumerate(sequence.boxes) if box is not None}
    followed = [(stamp, one) for stamp, one in seen if one.track_state != GroundedObject.TRACK_GROUNDED]
    return figures(folder.name, delay_s, truths, followed)


def write_bag(sequence: Sequence, path: Path) -> None:
    """Its frames as rgb8 on /image, at their rate from BEGIN_NS on."""
    with BagWriter(path) as writer:
        for index, frame in enumerate(sequence.frames):
            height, width = frame.shape[:2]
            stamp = stamp_ns(index, sequence.fps)
            header = Header(stamp=to_time(stamp), frame_id="camera")
            image = Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width)
            image.data.frombytes(np.ascontiguousarray(frame).tobytes())
            writer.add(BagMessage("/image", "sensor_msgs/msg/Image", stamp, bytes(serialize_message(image))))


@lru_cache(maxsize=1)
def _sequence(folder: str) -> Sequence:
    return read_sequence(Path(folder))
