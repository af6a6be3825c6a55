"""The node's tests under what rclpy 3.3 of Humble does: callbacks without message info, its signatures, handles that raise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from ros_fixtures import HERE

pytestmark = pytest.mark.ros
QUICK = ["test_ros_topics.py::test_an_ordinary_volatile_publisher_is_heard_too",
         "test_ros_topics.py::test_a_latched_command_is_counted_once_and_reaches_a_node_that_activates_later",
         "test_ros_lifecycle.py::test_parameters_are_described_ranged_and_checked"]  # fmt: skip
NODE = ("chaos", "client", "cameras", "depth", "launch", "lifecycle", "requests", "standing", "topics")


def run(*tests: str) -> None:
    environment = os.environ | {"EGM_ROS_FORCE": "humble"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow and not long"]
    done = subprocess.run(
        [*command, *(str(HERE / test) for test in tests)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
    print(done.stdout.splitlines()[-1])


def test_what_humble_would_break_first() -> None:
    run(*QUICK)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_node_test() -> None:
    run(*(f"test_ros_{name}.py" for name in NODE))


def test_the_mode_does_forbid_what_humble_does_not_have() -> None:
    program = "import rclpy; rclpy.init(); n = rclpy.create_node('x'); n.create_timer(1.0, print, autostart=False)"
    environment = os.environ | {"PYTHONPATH": f"{HERE / 'humble'}{os.pathsep}{os.environ['PYTHONPATH']}"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert "create_timer of Humble takes" in done.stderr
