"""The launch file, read with stand-ins for `launch` and `launch_ros`, which do not exist as wheels.

What it records is what launch_ros would pass to the executable; `test_ros_launch.py` starts the node with it.
"""

from __future__ import annotations

import pytest
import yaml
from conftest import REPOSITORY
from launch_stand_ins import read_launch_file

PACKAGE = REPOSITORY / "ros2_ws" / "src" / "egm_ros"


def test_it_starts_the_installed_executable_with_existing_files() -> None:
    launched = read_launch_file(PACKAGE / "launch" / "grounding.launch.py", bundle_path="/data/2024")
    assert (launched.package, launched.executable) == ("egm_ros", "grounding_node")
    assert f"{launched.executable} = egm_ros.grounding_node:main" in (PACKAGE / "setup.py").read_text()
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
