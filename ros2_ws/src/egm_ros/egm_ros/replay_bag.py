"""Play a bag to the node, with this package's messages in it:

    ros2 run egm_ros replay_bag BAG --restamp --ros-args -r /camera/image/compressed:=/image/compressed
    ros2 run egm_ros replay_bag BAG --clock        # nodes with use_sim_time follow the sensors' own clock

Read with rosbags (pip install rosbags), so it also works where rosbag2 is not installed; `ros2 bag record` writes and `ros2 bag
play` plays the same files, but neither gives headers the time of playing. Messages go through as the bytes they are.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from rclpy.exceptions import NameValidationException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock

from egm_edge.cli.parser import Parser, positive_float, whole_number
from egm_edge.errors import EgmError, InputError
from egm_ros.cut_bag import BagMessage, bag_files, salvage
from egm_ros.process import StopRequest, fail, spin_node, start_node
from egm_ros.times import to_time
from egm_ros.warnings_by_kind import WarningsByKind

EXTRA_PACKAGES = ("vision_msgs", "egm_interfaces", "diagnostic_msgs")
WAIT_FOR_SUBSCRIBERS_S = 10.0
_TYPE_NAME = re.compile(r"([A-Za-z]\w*)/msg/([A-Z]\w*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Bag:
    """Its messages in the order of recording, read anew whenever they are asked for: a long bag need not fit into memory.

    Attributes:
        types: topic -> name of its type. count: of messages.
        cut: why these are not all, or may not be, and what repairs the bag; "" for a whole one.
    """

    read: Callable[[], Iterable[BagMessage]] = field(repr=False)
    types: dict[str, str]
    count: int
    cut: str = ""

    @classmethod
    def of(cls, read: Callable[[], Iterable[BagMessage]], cut: str = "") -> Bag:
        """Counted, in one pass over its messages."""
        types: dict[str, str] = {}
        count = 0
        for message in read():
            types[message.topic] = message.type_name
            count += 1
        return cls(read, types, count, cut)


def message_class(type_name: str) -> Any:
    """The Python class of "pkg/msg/Name".

    Raises:
        InputError: that package is not installed here, or a damaged bag names no type.
    """
    named = _TYPE_NAME.fullmatch(type_name)
    if named is None:
        raise InputError("a message type such as std_msgs/msg/String", repr(type_name[:80]), "leave its topic out")
    try:
        return getattr(import_module(f"{named[1]}.msg"), named[2])
    except (ImportError, AttributeError) as error:
        raise InputError(f"the message {type_name}", str(error), f"install {named[1]} for this ROS") from error


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


def read_bag(path: Path, topics: Sequence[str] = ()) -> Bag:
    """A bag, or what a crash has left of one; all topics where none is named.

    Raises:
        InputError: no such bag, or nothing can be read of it.
    """
    store = typestore()
    try:
        return Bag.of(lambda: _messages(path, topics, store))
    except Exception as error:  # of files that were cut short rosbags raises almost anything
        why, found = f"{path}: {str(error) or type(error).__name__}", salvage(path, topics)
    if not found:
        raise InputError("a whole bag (a folder with metadata.yaml, or an .mcap)", why, _repair(path))
    return Bag.of(lambda: found, f"{why}; {len(found)} messages could be read. {_repair(path)}")


def _messages(path: Path, topics: Sequence[str], store: Any) -> Iterator[BagMessage]:
    from rosbags.highlevel import AnyReader

    with AnyReader([path], default_typestore=store) as reader:
        wanted = [c for c in reader.connections if not topics or c.topic in topics]
        for connection, stamp_ns, data in reader.messages(connections=wanted) if wanted else ():
            yield BagMessage(connection.topic, connection.msgtype, stamp_ns, bytes(data))


def _repair(path: Path) -> str:
    """What to type for a bag that a crash has cut."""
    if not path.exists():
        return "check the path"
    cut = next(iter(bag_files(path)), None)
    if cut is None:
        return "check the path"
    if path.is_dir() and not (path / "metadata.yaml").exists():
        return f"a recorder that was killed leaves no metadata.yaml: ros2 bag reindex {path}"
    if cut.suffix == ".mcap":
        return f"if it was cut by a crash: mcap recover {cut} -o whole.mcap (the mcap CLI), and play whole.mcap"
    return f"if it was cut by a crash: sqlite3 {cut} .recover | sqlite3 whole.db3, and ros2 bag reindex its folder"


class Replayer(Node):
    """Publishes a bag at its own pace.

    Args:
        bag: what to publish, of topics whose types are installed here.
        restamp: give headers the time of publishing, as a live camera would.
        clock: publish the bag's own time on /clock.
    """

    def __init__(self, bag: Bag, *, restamp: bool, clock: bool) -> None:
        super().__init__("replay_bag")
        self._bag = bag
        self._restamp, self._warn = restamp, WarningsByKind(self.get_logger().warning)
        self._time = self.create_publisher(Clock, "/clock", 10) if clock else None
        self._out: dict[str, Publisher] = {}
        for topic, type_name in bag.types.items():
            try:
                self._out[topic] = self.create_publisher(message_class(type_name), topic, 10)
            except (InputError, NameValidationException) as error:
                self.get_logger().warning(f"{topic} is left out: {error}")
        if not self._out:
            raise InputError("a topic that can be published here", f"none of {bag.count} messages", "see above")

    def wait_for_subscribers(self, stop: StopRequest, timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and not stop.is_set:
            if any(publisher.get_subscription_count() for publisher in self._out.values()):
                return True
            time.sleep(0.05)
        return False

    def play(self, stop: StopRequest, rate: float) -> None:
        first_ns: int | None = None
        begin = time.monotonic()
        for message in self._bag.read():
            if message.topic not in self._out:
                continue
            first_ns = message.stamp_ns if first_ns is None else first_ns
            due = begin + (message.stamp_ns - first_ns) * 1e-9 / rate
            while (left := due - time.monotonic()) > 0 and not stop.is_set:
                time.sleep(min(left, 0.05))
            if stop.is_set:
                return
            if self._time is not None:
                self._time.publish(Clock(clock=to_time(message.stamp_ns)))
            try:
                self._out[message.topic].publish(self._stamped(message) if self._restamp else message.cdr)
            except Exception as error:  # bytes of a damaged bag that are no message
                why = f"{type(error).__name__}: {error}"
                self._warn(message.topic, f"a message of {message.topic} is left out: {why}")

    def _stamped(self, message: BagMessage) -> bytes:
        value = deserialize_message(message.cdr, message_class(message.type_name))
        if not hasattr(value, "header"):
            return message.cdr
        value.header.stamp = self.get_clock().now().to_msg()
        return bytes(serialize_message(value))


def main(args: Sequence[str] | None = None, stop: StopRequest | None = None) -> int:
    """Play until the end, SIGINT or SIGTERM; returns the exit code."""
    stop = stop or StopRequest()
    parser = Parser(prog="replay_bag", description="Publish a bag at its own pace.")
    parser.add_argument("bag", type=Path)
    parser.add_argument("--topics", nargs="+", default=[], help="only these")
    parser.add_argument("--rate", type=positive_float, default=1.0, help="times as fast")
    parser.add_argument("--loops", type=whole_number(0, 2**31 - 1), default=1, help="how often; 0 for ever")
    parser.add_argument("--restamp", action="store_true", help="headers get the time of publishing")
    parser.add_argument("--clock", action="store_true", help="publish the bag's time on /clock")
    wanted = parser.parse_args(remove_ros_args(args)[1:])
    try:
        bag = read_bag(wanted.bag, wanted.topics)
        if bag.cut:
            sys.stderr.write(f"{bag.cut}\n")
        if not bag.count:
            raise InputError("messages to publish", "none", "check --topics")
        node = start_node(lambda: Replayer(bag, restamp=wanted.restamp, clock=wanted.clock), args)
    except EgmError as error:
        return fail(error)

    def play() -> None:
        if not node.wait_for_subscribers(stop, WAIT_FOR_SUBSCRIBERS_S):
            node.get_logger().warning("nobody listens; publishing all the same")
        loop = 0
        try:
            while not stop.is_set and (wanted.loops == 0 or loop < wanted.loops):
                node.play(stop, wanted.rate)
                loop += 1
            time.sleep(0.5)  # reliable readers may still ask for the last ones
        finally:
            stop.set()

    player = threading.Thread(target=play, name="egm-player")
    player.start()
    spin_node(stop, node, player.join)
    return 0
