"""Says whether the ROS 2 half of these tests ran."""

from __future__ import annotations

import pytest
from conftest import HAS_ROS


@pytest.mark.ros
@pytest.mark.skipif(
    not HAS_ROS, reason="no ROS 2 here: run .ci/ros_env.sh, then .ci/ros_run.sh python -m pytest tests/ros"
)
def test_the_workspace_is_built_and_importable() -> None:
    from egm_interfaces.msg import GroundedObject

    assert GroundedObject.OUTCOME_FOUND == 1
