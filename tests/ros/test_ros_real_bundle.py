"""The installed node with a real bundle: the boxes of the library, and an executor that stays live while the model works."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from ament_index_python.packages import get_package_prefix
from conftest import REPOSITORY
from egm_interfaces.msg import GroundedObject
from egm_interfaces.srv import Ground as GroundService
from egm_ros.messages import to_ros_text
from lifecycle_msgs.srv import GetState
from PIL import Image as PilImage
from ros_client import Client, image_message, until
from ros_fixtures import MakeNode, NodeProcess

from egm_edge.grounder import Grounder
from egm_edge.grounding import Outcome
from egm_edge.sources import resolve

pytestmark = [pytest.mark.ros, pytest.mark.slow]

INSTALLED_NODE = Path(get_package_prefix("egm_ros")) / "lib" / "egm_ros" / "grounding_node"  # of the distribution that runs
FRAMES = REPOSITORY / "examples" / "frames"
OUTCOMES = {getattr(GroundedObject, f"OUTCOME_{outcome.value}"): outcome for outcome in Outcome}


@pytest.fixture(scope="module")
def bundle() -> Path:
    """$EGM_BUNDLE, or the shipped one."""
    return resolve(None).directory


@pytest.fixture(scope="module")
def real_node(make_node: MakeNode, client: Client, bundle: Path) -> NodeProcess:
    node = make_node([str(INSTALLED_NODE)], bundle_path=bundle, max_frame_age_s=10.0)
    assert client.transition("configure", 60.0), node.log
    assert client.transition("activate"), node.log
    client.wait_for_state("active")
    return node


def frame_pixels() -> np.ndarray:
    """[480, 640, 3] uint8 RGB."""
    return np.asarray(PilImage.open(FRAMES / "tabletop_1.png").convert("RGB"))


@pytest.mark.parametrize("expression", ["the red bowl", "the blue bottle", "the left thing"])
def test_the_node_gives_the_librarys_box(real_node: NodeProcess, client: Client, bundle: Path, expression: str) -> None:
    with Grounder.from_bundle(bundle) as grounder:
        expected = grounder.ground(frame_pixels(), expression, color="rgb")
    request = GroundService.Request(expression=expression)
    until(client.service.service_is_ready)
    client.publish(image_message(frame_pixels()))
    future = client.service.call_async(request)
    response = client.feed(image_message(frame_pixels()), lambda: future.done() and future.result(), timeout_s=60.0)
    assert response.success, response.message
    found = response.object
    assert OUTCOMES[found.outcome] is expected.outcome
    assert found.text == to_ros_text(expected.text)
    assert found.bundle_hash == expected.bundle_hash
    assert (found.header.stamp.sec, found.header.stamp.nanosec) in client.stamps
    if expected.box is not None:
        centre, box = found.modal_box.center.position, expected.box
        assert (centre.x, centre.y) == pytest.approx(((box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2))
        assert (found.modal_box.size_x, found.modal_box.size_y) == pytest.approx((box.x2 - box.x1, box.y2 - box.y1))


def test_camera_and_services_stay_live_while_the_model_works(
    real_node: NodeProcess, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    message, ended = image_message(frame_pixels()), threading.Event()
    rate_hz, seconds = 30, 6

    def camera() -> None:
        start = time.monotonic()
        for number in range(rate_hz * seconds * 2):
            if ended.wait(max(0.0, start + number / rate_hz - time.monotonic())):
                return
            client.publish(message)

    client.clear()
    client.command("the red bowl")
    thread = threading.Thread(target=camera)
    thread.start()
    try:
        before = client.wait_for_counters()
        start, sent = time.monotonic(), len(client.stamps)
        trips_ms = []
        while time.monotonic() - start < seconds:
            asked = time.monotonic()
            client.call(client.state_of, GetState.Request())
            trips_ms.append((time.monotonic() - asked) * 1e3)
            time.sleep(0.05)
        after, published = client.wait_for_counters(), len(client.stamps) - sent
    finally:
        ended.set()
        thread.join()
    received = after["frames_received"] - before["frames_received"]
    answers = sum(after[name] - before.get(name, 0) for name in after if name.startswith("answers_"))
    p50_ms, p95_ms = np.percentile(trips_ms, (50, 95))
    with capsys.disabled():
        print(
            f"\n640x480 at {rate_hz} Hz, model busy: {received} of about {published} frames taken, {answers} answers, "
            f"get_state p50 {p50_ms:.1f} p95 {p95_ms:.1f} ms"
        )
    assert answers > 0, "the model was busy"
    assert received > 0.3 * published, "frames may be overwritten on a starved machine, but the camera is heard"
    assert p95_ms < 500.0
