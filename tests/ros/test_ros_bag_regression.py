"""The recorded camera bag in, the node's messages out into another bag; boxes against golden ones, stamps exactly.

Replay, node and recorder are processes of their own. The golden boxes are the library's own answers on every frame
(`golden_boxes.py` writes them); the recording is opened by rosbags, which shares no code with ROS.
"""

from __future__ import annotations

import json
import signal
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
from ament_index_python.packages import get_package_share_directory
from conftest import REPOSITORY
from egm_interfaces.msg import GroundedObject
from egm_ros.replay_bag import BagMessage, read_bag
from egm_ros.standard_messages import to_box
from golden_boxes import GOLDEN, STREAM, frames
from rclpy.serialization import serialize_message
from ros_client import Client, until
from ros_fixtures import MakeNode
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from test_ros_real_bundle import INSTALLED_NODE, bundle  # noqa: F401
from vision_msgs.msg import Detection2D, Detection2DArray

from egm_edge.boxes import Box
from egm_edge.errors import InputError
from tests.bench.ros.record_bag import BagWriter

pytestmark = [pytest.mark.ros, pytest.mark.slow]
RECORD = [sys.executable, "-m", "tests.bench.ros.record_bag"]
REPLAY = [sys.executable, "-c", "from egm_ros.process import replay_bag; replay_bag()"]


def independent_typestore() -> Any:
    """rosbags' own Jazzy types and the field lists of the two packages it does not know."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types: dict[str, Any] = {}
    for package in ("vision_msgs", "egm_interfaces"):
        for path in Path(get_package_share_directory(package), "msg").glob("*.msg"):
            types |= get_types_from_msg(path.read_text(), f"{package}/msg/{path.stem}")
    store.register(types)
    return store


def to_ns(stamp: Any) -> int:
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def is_grounded(one: Any) -> bool:
    return bool(one.track_state == GroundedObject.TRACK_GROUNDED)


def test_messages_of_both_packages_survive_a_bag(tmp_path: Path) -> None:
    detections = Detection2DArray(detections=[Detection2D(id="cmd-1")])
    detections.header.stamp.sec, detections.header.stamp.nanosec = 7, 123_456_789
    detections.detections[0].bbox.size_x = 12.5
    grounded = GroundedObject(expression="the red mug", track_quality=0.25)
    sent = [
        BagMessage("/detections", "vision_msgs/msg/Detection2DArray", 10, bytes(serialize_message(detections))),
        BagMessage("/grounded", "egm_interfaces/msg/GroundedObject", 20, bytes(serialize_message(grounded))),
    ]
    with BagWriter(tmp_path / "bag") as writer:
        for message in sent:
            writer.add(message)
    bag = read_bag(tmp_path / "bag")
    assert (list(bag.read()), bag.cut) == (sent, "")
    assert [m.topic for m in read_bag(tmp_path / "bag", ["/grounded"]).read()] == ["/grounded"]
    assert read_bag(tmp_path / "bag", ["/nothing"]).count == 0
    with AnyReader([tmp_path / "bag"], default_typestore=independent_typestore()) as reader:
        got: list[Any] = [reader.deserialize(data, c.msgtype) for c, _, data in reader.messages()]
    assert (to_ns(got[0].header.stamp), got[0].detections[0].bbox.size_x) == (7_123_456_789, 12.5)
    assert (got[1].expression, got[1].track_quality) == ("the red mug", 0.25)
    with pytest.raises(InputError, match="name another one"):
        BagWriter(tmp_path / "bag")
    with pytest.raises(InputError, match="check the path"):
        read_bag(tmp_path / "nothing")


@pytest.mark.parametrize("expression", ["the red ball", "the yellow box"])
def test_the_recorded_stream_gives_the_golden_boxes(
    make_node: MakeNode,
    bundle: Path,  # noqa: F811
    tmp_path: Path,
    expression: str,
) -> None:
    golden = json.loads(GOLDEN.read_text())
    boxes = {int(stamp): Box(*row) if row else None for stamp, row in golden["boxes_xyxy_px"][expression].items()}
    stamps = {stamp for stamp, _ in frames()}
    assert set(boxes) == stamps
    out, namespace = tmp_path / "out", ["-r", "__ns:=/bag"]
    node = make_node(
        [str(INSTALLED_NODE)],
        [*namespace, "-r", "image:=/camera/image"],
        bundle_path=bundle, image_transport="compressed", autostart=True, max_frame_age_s=10.0,
    )  # fmt: skip
    with Client(namespace="/bag") as client:
        client.wait_for_state("active", 90.0)
        client.command(expression)
        topics = ["detections", "grounded_objects"]
        recorder = make_node([*RECORD, str(out), "--topics", *topics], namespace)
        # Played until the recorder hears the node and there are five answers more, however long this machine takes for them.
        replay = make_node([*REPLAY, str(STREAM), "--rate", "0.5", "--loops", "0"], namespace)
        heard = lambda: all(f"heard /bag/{topic}" in recorder.log for topic in topics)  # noqa: E731
        until(heard, 150.0, f"the recorder hears the node; {recorder.log}")
        before = len([o for o in client.objects if is_grounded(o)])
        until(lambda: len([o for o in client.objects if is_grounded(o)]) >= before + 5, 150.0, f"answers; {node.log}")
        assert replay.stop(signal.SIGINT) == 0, replay.log
    assert recorder.stop(signal.SIGINT) == 0, recorder.log
    assert node.stop() == 0, node.log
    with AnyReader([out], default_typestore=independent_typestore()) as reader:
        messages: list[tuple[str, Any]] = [
            (c.topic, reader.deserialize(data, c.msgtype)) for c, _, data in reader.messages()
        ]
    objects = [one for topic, array in messages if topic == "/bag/grounded_objects" for one in array.objects]
    assert {to_ns(one.header.stamp) for one in objects} <= stamps, "stamps are the camera's, to the nanosecond"
    assert {to_ns(one.source_stamp) for one in objects} <= stamps
    assert {one.expression for one in objects} == {expression}
    grounded = [one for one in objects if is_grounded(one)]
    assert grounded, f"{len(objects)} objects, {node.log}"
    agreement = []
    for one in grounded:
        assert to_ns(one.header.stamp) == to_ns(one.source_stamp)
        expected = boxes[to_ns(one.source_stamp)]
        assert expected is not None, "the library finds nothing on a frame on which the node does"
        agreement.append(to_box(one.modal_box).iou(expected))
    assert min(agreement) > 0.98, f"IoU with the golden boxes: {sorted(agreement)[:5]}"
    carried = [
        to_box(one.modal_box).iou(expected)
        for one in objects
        if one.track_state == GroundedObject.TRACK_PROPAGATED and (expected := boxes[to_ns(one.header.stamp)])
    ]
    assert carried
    assert statistics.median(carried) > 0.7, "carried boxes against the library's answer on that very frame"
    arrays = [array for topic, array in messages if topic == "/bag/detections"]
    assert {to_ns(array.header.stamp) for array in arrays} <= stamps
    assert any(array.detections for array in arrays)
    print(
        f"{expression}: {len(grounded)} grounded, {len(carried)} carried, median IoU {statistics.median(carried):.2f}"
    )


def test_an_unusable_bag_is_one_line(make_node: MakeNode) -> None:
    replay = make_node([*REPLAY, str(REPOSITORY / "README.md")])
    assert replay.process.wait(60) == 2
    assert "expected a whole bag" in replay.log
    assert "Traceback" not in replay.log


def test_a_bag_whose_recorder_was_killed_is_played_and_says_what_repairs_it(
    make_node: MakeNode, tmp_path: Path
) -> None:
    bag = tmp_path / "bag"
    with BagWriter(bag) as writer:
        for number in range(3):
            cdr = bytes(serialize_message(Detection2DArray(detections=[Detection2D(id=str(number))])))
            writer.add(BagMessage("/cut/detections", "vision_msgs/msg/Detection2DArray", number, cdr))
    (bag / "metadata.yaml").unlink()
    with Client(namespace="/cut") as client:
        replay = make_node([*REPLAY, str(bag)])
        until(lambda: len(client.detections) == 3, 60.0, f"the messages; {replay.log}")
    assert replay.process.wait(60) == 0, replay.log
    assert (
        f"3 messages could be read. a recorder that was killed leaves no metadata.yaml: ros2 bag reindex {bag}"
        in replay.log
    )
