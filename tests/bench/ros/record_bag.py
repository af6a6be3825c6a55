"""Records topics into an MCAP bag, for the tests and measurements: where rosbag2 is not installed, as with the wheels.

python -m tests.bench.ros.record_bag OUT --topics detections grounded_objects
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rclpy
from egm_ros.process import StopRequest, spin_node
from egm_ros.replay_bag import BagMessage, message_class, typestore
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from egm_edge.errors import InputError

MAX_MESSAGE_BYTES = 100_000_000


class BagWriter:
    """Writes an MCAP bag; a context manager.

    Args:
        path: folder to make; must not exist.
    """

    def __init__(self, path: Path) -> None:
        self._store = typestore()
        from rosbags.rosbag2 import StoragePlugin, Writer

        if path.exists():
            raise InputError("a new folder", f"{path} exists", "name another one or remove it")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> BagWriter:
        self._writer.open()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._writer.close()

    def add(self, message: BagMessage) -> None:
        if message.topic not in self._connections:
            self._connections[message.topic] = self._writer.add_connection(
                message.topic, message.type_name, typestore=self._store
            )
        self._writer.write(self._connections[message.topic], message.stamp_ns, message.cdr)


class Recorder(Node):
    """Subscribes to topics as soon as somebody publishes them."""

    def __init__(self, writer: BagWriter, topics: Sequence[str]) -> None:
        super().__init__("record_bag")
        self._writer = writer
        self._missing = {self.resolve_topic_name(topic) for topic in topics}
        self._heard: set[str] = set()
        self.count = 0
        self.create_timer(0.1, self._look)
        self._look()

    def _look(self) -> None:
        for topic, types in self.get_topic_names_and_types():
            if topic in self._missing:
                self._missing.discard(topic)
                take = self._taker(topic, types[0])
                # Best effort hears every publisher; a deep queue because writing may pause.
                qos = QoSProfile(depth=200, reliability=ReliabilityPolicy.BEST_EFFORT)
                self.create_subscription(message_class(types[0]), topic, take, qos, raw=True)
                self.get_logger().info(f"recording {topic} ({types[0]})")

    def _taker(self, topic: str, type_name: str) -> Callable[[bytes], None]:
        def take(cdr: bytes) -> None:
            if len(cdr) <= MAX_MESSAGE_BYTES:
                self._writer.add(BagMessage(topic, type_name, self.get_clock().now().nanoseconds, cdr))
                self.count += 1
                if topic not in self._heard:
                    self._heard.add(topic)
                    self.get_logger().info(f"heard {topic}")

        return take


def main() -> None:
    """Record until SIGINT or SIGTERM."""
    stop = StopRequest()
    parser = argparse.ArgumentParser(prog="record_bag", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--topics", nargs="+", required=True)
    wanted = parser.parse_args(remove_ros_args(sys.argv)[1:])
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    with BagWriter(wanted.out) as writer:
        node = Recorder(writer, wanted.topics)
        spin_node(stop, node)
        sys.stderr.write(f"{node.count} messages in {wanted.out}\n")


if __name__ == "__main__":
    main()
