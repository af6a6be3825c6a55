"""Tests of ros2_ws. Run them with `.ci/ros_env.sh && .ci/ros_run.sh python -m pytest tests/ros`.

Modules marked `ros` start real nodes in processes of their own and talk to them over DDS on the loopback interface. The
others need no ROS. Where rclpy or the built workspace is missing, `test_environment.py` says so and the first kind is left out.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
HAS_ROS = all(importlib.util.find_spec(name) for name in ("rclpy", "egm_interfaces", "vision_msgs"))

collect_ignore = [] if HAS_ROS else [path.name for path in Path(__file__).parent.glob("test_ros_*.py")]

# One domain per test job, so that two jobs on one machine do not hear each other.
os.environ["ROS_DOMAIN_ID"] = str(20 + os.getpid() % 80)

if os.environ.get("EGM_ROS_FORCE") == "humble":  # every process that a test starts, see humble/sitecustomize.py
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent / "humble"), os.environ.get("PYTHONPATH", "")]
    )
if importlib.util.find_spec("egm_ros") is None:
    sys.path.insert(0, str(REPOSITORY / "ros2_ws" / "src" / "egm_ros"))
if HAS_ROS:
    from ros_fixtures import client, fake_node, make_node  # noqa: F401


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:lark.*")  # a parser inside the ROS wheels
