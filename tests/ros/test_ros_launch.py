"""What the launch file says, done by hand: the node under a namespace, with parameter file, overrides and remappings.

`ros2 launch` itself is not run here (it does not exist as a wheel); this is the command line that launch_ros makes of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ament_index_python.packages import get_package_prefix, get_package_share_directory
from launch_stand_ins import read_launch_file
from ros_client import Client, image_message, picture
from ros_fixtures import HERE, MakeNode

pytestmark = pytest.mark.ros


def test_a_second_node_in_a_namespace_with_its_own_camera(make_node: MakeNode, client: Client) -> None:
    share = Path(get_package_share_directory("egm_ros"))
    launched = read_launch_file(
        share / "launch" / "grounding.launch.py", namespace="left", image="/left_camera/image", bundle_path="there"
    )
    assert (Path(get_package_prefix("egm_ros")) / "lib" / launched.package / launched.executable).is_file()
    arguments = ["-r", f"__ns:=/{launched.namespace}", "-r", f"__node:={launched.executable}"]
    for path in launched.parameter_files:
        arguments += ["--params-file", path.replace("share:egm_ros", str(share))]
    for source, target in launched.remappings.items():
        arguments += ["-r", f"{source}:={target}"]
    first = make_node(autostart=True)
    second = make_node([sys.executable, str(HERE / "fake_node.py")], arguments, **launched.parameters)
    client.wait_for_state("active")
    with Client(image_topic="/left_camera/image", namespace="/left") as left:
        left.wait_for_state("active")
        left.command("the blue thing")
        left.feed(image_message(picture((20, 20, 220)), frame_id="left_eye"), left.first_detection)
        assert {array.header.frame_id for array in left.detections} == {"left_eye"}
    assert not client.detections, "the other node saw neither that image nor that command"
    assert (first.stop(), second.stop()) == (0, 0)
