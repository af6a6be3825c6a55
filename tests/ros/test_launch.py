"""The launch file, read with stand-ins for `launch` and `launch_ros`, which do not exist as wheels.

What it records is what launch_ros would pass to the executable; `test_ros_launch.py` starts the node with it.
"""

from __future__ import annotations

import importlib
import json
import re

import pytest
import yaml
from conftest import REPOSITORY
from launch_stand_ins import read_launch_file, read_launch_files

PACKAGE = REPOSITORY / "ros2_ws" / "src" / "egm_ros"


def test_it_starts_the_installed_executable_with_existing_files() -> None:
    launched = read_launch_file(PACKAGE / "launch" / "grounding.launch.py", bundle_path="/data/2024")
    assert (launched.package, launched.executable) == ("egm_ros", "grounding_node")
    assert f"{launched.executable} = egm_ros.process:grounding_node" in (PACKAGE / "setup.py").read_text()
    known = yaml.safe_load((PACKAGE / "config" / "grounding.yaml").read_text())["/**"]["ros__parameters"]
    assert launched.parameter_files == ["share:egm_ros/config/grounding.yaml"]
    assert set(launched.parameters) <= set(known)
    assert launched.parameters["bundle_path"] == "/data/2024"
    assert launched.parameters["autostart"] is True
    assert launched.remappings == {"image": "image", "command": "command"}
    for value in launched.environment.values():
        assert (PACKAGE / value.removeprefix("share:egm_ros/")).is_file()


@pytest.mark.parametrize("shared_memory", ["true", "false"])
def test_the_transport_profile_is_optional(shared_memory: str) -> None:
    launched = read_launch_file(PACKAGE / "launch" / "grounding.launch.py", shared_memory=shared_memory)
    assert bool(launched.environment) == (shared_memory == "true")


def test_arguments_reach_the_node() -> None:
    launched = read_launch_file(
        PACKAGE / "launch" / "grounding.launch.py", image="/cam", namespace="left", autostart="false"
    )
    assert launched.remappings["image"] == "/cam"
    assert launched.namespace == "left"
    assert launched.parameters["autostart"] is False


def test_depth_is_located_in_the_nodes_namespace() -> None:
    node, locator = read_launch_files(
        PACKAGE / "launch" / "grounding.launch.py", namespace="left", depth="/d/image", camera_info="/c/info"
    )
    assert (node.namespace, locator.namespace) == ("left", "left")
    assert locator.executable == "depth_locator"
    assert locator.remappings == {"depth": "/d/image", "camera_info": "/c/info"}


def test_several_cameras_share_a_node_and_have_a_locator_each() -> None:
    node, left, right = read_launch_files(
        PACKAGE / "launch" / "grounding.launch.py",
        cameras="left,right", image="/l/raw,/r/raw", depth="/l/depth,/r/depth", camera_info="/l/info,/r/info",
    )  # fmt: skip
    assert node.parameters["cameras"] == "left,right"
    assert node.remappings["left/image"] == "/l/raw"
    assert node.remappings["right/image"] == "/r/raw"
    assert node.remappings["right/command"] == "right/command", "no topics given: the camera's own"
    assert (left.namespace, right.namespace) == ("left", "right")
    assert right.remappings == {"depth": "/r/depth", "camera_info": "/r/info"}


def test_node_and_simulated_camera() -> None:
    node, camera = read_launch_files(
        PACKAGE / "launch" / "simulated_camera.launch.py", bundle_path="/b", namespace="left", motion="slide", seed="7"
    )
    assert (node.executable, camera.executable) == ("grounding_node", "simulated_camera")
    assert node.parameters["bundle_path"] == "/b"
    assert (node.namespace, camera.namespace) == ("left", "left")
    assert node.remappings["image"] == "image", "the camera's own topic"
    source = (PACKAGE / "egm_ros" / "simulated_camera.py").read_text()
    assert [name for name in camera.parameters if not re.search(rf"^    {name}: \w+ = at_start\(", source, re.M)] == []
    assert (camera.parameters["motion"], camera.parameters["seed"], camera.parameters["rate_hz"]) == ("slide", 7, 30.0)
    assert camera.environment == node.environment != {}, "both ends of a raw image topic need the profile"
    assert "simulated_camera = egm_ros.process:simulated_camera" in (PACKAGE / "setup.py").read_text()


def test_node_and_recorded_stream() -> None:
    node, replay = read_launch_files(
        PACKAGE / "launch" / "recorded_stream.launch.py", bundle_path="/b", bag="/data/bag"
    )
    assert (node.executable, replay.executable) == ("grounding_node", "replay_bag")
    assert node.remappings["image"] == "/camera/image"
    assert node.parameters["image_transport"] == "compressed"
    assert replay.arguments == ["/data/bag", "--loops", "0", "--restamp", "--rate", "1.0"]
    assert "replay_bag = egm_ros.process:replay_bag" in (PACKAGE / "setup.py").read_text()


def test_the_rviz_configuration_shows_topics_that_exist() -> None:
    displays = yaml.safe_load((PACKAGE / "rviz" / "grounding.rviz").read_text())["Visualization Manager"]["Displays"]
    topics = {display["Topic"]["Value"] for display in displays if "Topic" in display}
    assert topics == {"annotated", "image", "markers"}, "relative: they follow the namespace that RViz is started in"
    assert 'annotated"' in (PACKAGE / "egm_ros" / "outputs.py").read_text()
    assert '"markers"' in (PACKAGE / "egm_ros" / "depth_locator.py").read_text()


@pytest.mark.parametrize(
    ("namespace", "topic"), [("", "/markers"), ("left", "/left/markers"), ("/a/b/", "/a/b/markers")]
)
def test_the_foxglove_layout_follows_the_namespace(namespace: str, topic: str) -> None:
    layout = importlib.import_module("egm_ros.foxglove_layout").layout
    made = json.loads(layout((PACKAGE / "foxglove" / "grounding.json").read_text(), namespace))
    assert list(made["configById"]["3D!egm"]["topics"]) == [topic]


def test_what_apt_does_not_have_is_a_rosdep_key() -> None:
    keys = yaml.safe_load((PACKAGE.parents[1] / "rosdep.yaml").read_text())
    depends = re.findall(r"<exec_depend>(.*-pip)</exec_depend>", (PACKAGE / "package.xml").read_text())
    assert set(depends) == set(keys)


def test_every_package_that_is_imported_is_a_dependency() -> None:
    manifest = (PACKAGE / "package.xml").read_text()
    imported = {
        line.split()[1].split(".")[0]
        for file in PACKAGE.glob("egm_ros/*.py")
        for line in file.read_text().splitlines()
        if re.match(r"(from|import) [a-z_]+_(msgs|srvs|interfaces|python)\b", line)
    }
    assert [name for name in sorted(imported) if f"<exec_depend>{name}</exec_depend>" not in manifest] == []
