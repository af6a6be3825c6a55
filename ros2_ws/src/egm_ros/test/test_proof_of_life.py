"""A drawn picture, a sentence and the answer, from the node as it is installed and the model that comes with egm_edge."""

import os
import signal
import subprocess
import sys
import time

import pytest
from egm_interfaces.msg import GroundedObject
from egm_ros.client import GroundingClient, to_box

from egm_edge.errors import BackendError
from egm_edge.synthetic.trajectories import sample_motion

START_S = 120.0


@pytest.fixture
def node():
    arguments = ["--ros-args", "-p", "autostart:=true"]
    process = subprocess.Popen([sys.executable, "-m", "egm_ros.grounding_node", *arguments], start_new_session=True)
    yield process
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) == 0


def test_a_picture_and_its_answer(node: subprocess.Popen) -> None:
    scene = sample_motion(0, "slide", aspect=4 / 3, seconds=1.0)
    shot = scene.frame(0.0, 640, 480)
    names = [f"the {thing.colour} {thing.shape}" for thing in scene.scene.objects]
    truth = shot.modal[names.index(scene.expression)]
    ends = time.monotonic() + START_S
    with GroundingClient(wait_s=START_S) as client:
        while True:
            try:
                answer = client.ground(scene.expression, image=shot.image).result(START_S)
                break
            except BackendError:  # not active yet
                assert node.poll() is None
                assert time.monotonic() < ends
                time.sleep(0.2)
    assert answer.outcome == GroundedObject.OUTCOME_FOUND
    assert to_box(answer.modal_box).iou(truth) > 0.5
