"""Record and replay MCAP bags with this package's messages in them.

    ros2 run egm_ros record_bag OUT --seconds 10 --topics image detections grounded_objects
    ros2 run egm_ros replay_bag BAG --ros-args -r /camera/image/compressed:=/image/compressed

Written with rosbags (pip install rosbags), so they also work where rosbag2 is not installed; `ros2 bag record -s mcap` and
`ros2 bag play` write and read the same files. Messages go through as the bytes they are: nothing is decoded.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import rclpy
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.utilities import remove_ros_args

from egm_edge.errors import EgmError, InputError

EXTRA_PACKAGES = ("vision_msgs", "egm_interfaces", "diagnostic_msgs")
WAIT_FOR_SUBSCRIBERS_S = 10.0
MAX_MESSAGE_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class BagMessage:
    """One message of a bag: topic, type name ("pkg/msg/Name"), time of recording, CDR bytes."""

    topic: str
    type_name: str
    stamp_ns: int
    cdr: bytes


def message_class(type_name: str) -> Any:
    """The Python class of "pkg/msg/Name".

    Raises:
        InputError: that package is not installed here.
    """
    package, _, name = type_name.split("/")
    try:
        return getattr(import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"the message {type_name}", str(error), f"install {package} for this ROS") from error


def typestore() -> Any:
    """rosbags' types of ROS 2 Jazzy and those of this system's vision_msgs and egm_interfaces.

    Raises:
        InputError: rosbags is not installed.
    """
    try:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError as error:
        raise InputError("the package rosbags", str(error), "pip install rosbags") from error
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for package in EXTRA_PACKAGES:
        try:
            share = Path(get_package_share_directory(package))
        except PackageNotFoundError:
            continue
        for path in sorted(share.glob("msg/*.msg")):
            name = f"{package}/msg/{path.stem}"
            if name not in store.fielddefs:
                types |= get_types_from_msg(path.read_text(), name)
    store.register(types)
    return store


def read_bag(path: Path, topics: Sequence[str] = ()) -> Iterator[BagMessage]:
    """Messages in the order of recording; all topics where none is named.

    Raises:
        InputError: no such bag, or it is damaged.
    """
    store = typestore()
    from rosbags.highlevel import AnyReader, AnyReaderError

    try:
        with AnyReader([path], default_typestore=store) as reader:
            wanted = [c for c in reader.connections if not topics or c.topic in topics]
            for connection, stamp_ns, data in reader.messages(connections=wanted):
                yield BagMessage(connection.topic, connection.msgtype, stamp_ns, bytes(data))
    except (AnyReaderError, OSError) as error:
        raise InputError(
            "a bag (a folder with metadata.yaml, or an .mcap)", f"{path}: {error}", "check the path"
        ) from error


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

        return take

    @property
    def missing(self) -> set[str]:
        return set(self._missing)


class Replayer(Node):
    """Publishes a bag at its own pace.

    Args:
        messages: of the bag.
        restamp: give headers the time of publishing, as a live camera would.
    """

    def __init__(self, messages: Sequence[BagMessage], restamp: bool) -> None:
        super().__init__("replay_bag")
        self._messages, self._restamp = messages, restamp
        self._out = {
            m.topic: self.create_publisher(message_class(m.type_name), m.topic, 10)
            for m in {m.topic: m for m in messages}.values()
        }

    def wait_for_subscribers(self, timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and rclpy.ok():
            if any(publisher.get_subscription_count() for publisher in self._out.values()):
                return True
            rclpy.spin_once(self, timeout_sec=0.05)
        return False

    def play(self, rate: float) -> None:
        first_ns, begin = self._messages[0].stamp_ns, time.monotonic()
        for message in self._messages:
            due = begin + (message.stamp_ns - first_ns) * 1e-9 / rate
            while (left := due - time.monotonic()) > 0:
                time.sleep(min(left, 0.05))
            if not rclpy.ok():
                return
            self._out[message.topic].publish(self._stamped(message) if self._restamp else message.cdr)

    def _stamped(self, message: BagMessage) -> bytes:
        value = deserialize_message(message.cdr, message_class(message.type_name))
        if not hasattr(value, "header"):
            return message.cdr
        value.header.stamp = self.get_clock().now().to_msg()
        return bytes(serialize_message(value))


def _run(work: Callable[[Sequence[str]], None], args: Sequence[str] | None) -> int:
    everything = list(sys.argv if args is None else ["bag", *args])
    rclpy.init(args=everything)
    try:
        work(remove_ros_args(everything)[1:])
    except EgmError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()
    return 0


def _record(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="record_bag", description="Record topics into an MCAP bag.")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--topics", nargs="+", default=["image/compressed", "detections", "grounded_objects"])
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after this long; 0 records until Ctrl-C")
    wanted = parser.parse_args(arguments)
    with BagWriter(wanted.out) as writer:
        node = Recorder(writer, wanted.topics)
        end = time.monotonic() + (wanted.seconds or float("inf"))
        try:
            while rclpy.ok() and time.monotonic() < end:
                rclpy.spin_once(node, timeout_sec=0.1)
        finally:
            sys.stderr.write(f"{node.count} messages in {wanted.out}\n")
            if node.missing:
                sys.stderr.write(f"nobody published {', '.join(sorted(node.missing))}\n")
            node.destroy_node()


def _replay(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="replay_bag", description="Publish a bag at its own pace.")
    parser.add_argument("bag", type=Path)
    parser.add_argument("--topics", nargs="+", default=[], help="only these")
    parser.add_argument("--rate", type=float, default=1.0, help="times as fast")
    parser.add_argument("--loops", type=int, default=1, help="how often; 0 for ever")
    parser.add_argument("--restamp", action="store_true", help="headers get the time of publishing")
    wanted = parser.parse_args(arguments)
    messages = list(read_bag(wanted.bag, wanted.topics))
    if not messages or wanted.rate <= 0:
        found = f"{len(messages)} messages, rate {wanted.rate:g}"
        raise InputError("messages to publish at a rate above 0", found, "check --topics and --rate")
    node = Replayer(messages, wanted.restamp)
    try:
        if not node.wait_for_subscribers(WAIT_FOR_SUBSCRIBERS_S):
            node.get_logger().warning("nobody listens; publishing all the same")
        loop = 0
        while rclpy.ok() and (wanted.loops == 0 or loop < wanted.loops):
            node.play(wanted.rate)
            loop += 1
        time.sleep(0.5)  # reliable readers may still ask for the last ones
    finally:
        node.destroy_node()


def record_main(args: Sequence[str] | None = None) -> int:
    """Exit code of `record_bag`."""
    return _run(_record, args)


def replay_main(args: Sequence[str] | None = None) -> int:
    """Exit code of `replay_bag`."""
    return _run(_replay, args)
