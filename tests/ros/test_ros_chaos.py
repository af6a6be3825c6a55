"""Everything that goes wrong on a robot: the node lives, counts it in its diagnostics, and recovers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from egm_interfaces.action import Ground as GroundAction
from egm_interfaces.msg import GroundedObject
from egm_interfaces.srv import Ground as GroundService
from ros_client import Client, image_message, picture, stamp_of, until
from ros_fixtures import MakeNode, NodeProcess
from sensor_msgs.msg import Image
from std_msgs.msg import String
from test_ros_requests import send

pytestmark = pytest.mark.ros

STALLING = """
import rclpy
from vision_msgs.msg import Detection2DArray
rclpy.init()
node = rclpy.create_node("stalling")
seen = []
node.create_subscription(Detection2DArray, "detections", seen.append, 10)
while not seen:
    rclpy.spin_once(node, timeout_sec=0.1)
print("heard", flush=True)
rclpy.spin(node)
"""


@pytest.fixture(scope="module")
def node(make_node: MakeNode, client: Client) -> NodeProcess:
    made = make_node(autostart=True)
    client.wait_for_state("active")
    return made


class Camera:
    """Publishes one picture at 20 Hz from a thread of its own while `on`."""

    def __init__(self, client: Client) -> None:
        self.on, self._ended = True, threading.Event()
        self._client = client
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.05):
            if self.on:
                self._client.publish(image_message(picture()))

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()


@pytest.fixture
def camera(client: Client, node: NodeProcess) -> Iterator[Camera]:
    client.clear()
    made = Camera(client)
    yield made
    made.stop()
    assert node.process.poll() is None, "the node lives"


def model_value(client: Client, key: str) -> str:
    client.wait_for_counters()
    return next(pair.value for pair in client.statuses["model"].values if pair.key == key)


def works(client: Client) -> None:
    """A new sentence gets its box."""
    client.clear()
    client.command("the red thing")
    detection = until(client.first_detection, what="a box")
    centre = detection.bbox.center.position
    assert (centre.x, centre.y) == pytest.approx((65.0, 50.0), abs=2.0)


def test_the_models_process_is_killed_in_mid_request(client: Client, camera: Camera) -> None:
    pid, restarts = int(model_value(client, "pid")), int(model_value(client, "restarts"))
    lost = client.wait_for_counters().get("engine_lost", 0)
    goal, feedback = send(client, GroundAction.Goal(expression="the red thing tokens=2000"))
    until(lambda: any(f.tokens for f in feedback), what="a first token")
    os.kill(pid, signal.SIGKILL)
    wrapped = client.result(goal.get_result_async())
    assert wrapped.result.object.outcome == GroundedObject.OUTCOME_FAILED
    assert "model's process" in wrapped.result.message
    until(lambda: int(model_value(client, "restarts")) == restarts + 1, what="the restart in the diagnostics")
    assert client.wait_for_counters()["engine_lost"] == lost + 1
    assert any(why in model_value(client, "last_loss") for why in ("signal 9", "died")), "not of a timeout"
    works(client)
    assert int(model_value(client, "pid")) != pid


def test_the_model_hangs(client: Client, camera: Camera) -> None:
    hangs = int(model_value(client, "hangs"))
    assert client.set_parameter("hang_timeout_s", 2.0).successful  # only here: a busy machine is silent for a while, too
    goal, _ = send(client, GroundAction.Goal(expression="hang"))
    wrapped = client.result(goal.get_result_async())
    assert client.set_parameter("hang_timeout_s", 30.0).successful
    assert wrapped.result.object.outcome == GroundedObject.OUTCOME_FAILED
    assert "no sign of life" in wrapped.result.message
    until(lambda: int(model_value(client, "hangs")) == hangs + 1, what="the hang in the diagnostics")
    works(client)


def test_a_thousand_commands_in_a_second(client: Client, camera: Camera) -> None:
    before = client.wait_for_counters().get("commands", 0)
    burst = client.node.create_publisher(String, "command", 1000)
    until(lambda: burst.get_subscription_count() >= 1, what="the subscription")
    started_s = time.monotonic()
    for number in range(1000):
        burst.publish(String(data=f"the blue thing number {number}"))
    took_s = time.monotonic() - started_s
    burst.publish(String(data="the red thing at last"))  # by the same publisher: between two there is no order
    found = until(
        lambda: next((o for o in client.objects if o.expression == "the red thing at last"), None), what="the last one"
    )
    assert found.outcome == GroundedObject.OUTCOME_FOUND
    counted = client.wait_for_counters()["commands"] - before
    print(f"1000 commands published in {took_s:.2f} s, {counted} heard")
    assert 0 < counted <= 1001
    client.node.destroy_publisher(burst)


def test_a_reliable_subscriber_that_stalls_holds_nobody_up(client: Client, camera: Camera) -> None:
    stalling = subprocess.Popen([sys.executable, "-c", STALLING], stdout=subprocess.PIPE, text=True)
    try:
        client.command("the red thing")
        assert stalling.stdout is not None
        assert stalling.stdout.readline() == "heard\n"
        with_it, _ = client.share_heard()
        stalling.send_signal(signal.SIGSTOP)
        time.sleep(1.0)
        least = 0.95 * with_it - 0.03  # two frames of eighty are the clock's
        # The machine may be elsewhere for one of them; for all of them a subscriber is, until it is given up after 20 s.
        assert any(client.share_heard()[0] >= least for _ in range(3)), f"{with_it:.1%} while it did not stall"
        stamps = [stamp_of(array) for array in client.detections]
        assert len(set(stamps)) == len(stamps), "one array a camera stamp"
    finally:
        stalling.kill()
        stalling.wait()
    works(client)


def test_the_camera_goes_off_and_comes_back(client: Client, camera: Camera) -> None:
    works(client)
    before = client.wait_for_counters().get("camera_went_silent", 0)
    camera.on = False
    until(lambda: client.wait_for_counters().get("camera_went_silent", 0) > before, what="the count")
    assert client.statuses["camera"].level == b"\x01"
    assert "is the camera publishing?" in client.statuses["camera"].message
    time.sleep(1.5)
    refused = client.call(client.service, GroundService.Request(expression="the red thing"))
    assert not refused.success
    assert "found none; is the camera publishing?" in refused.message
    camera.on = True
    works(client)
    until(lambda: client.statuses["camera"].level == b"\x00", what="a camera that is well")


def test_the_cameras_clock_jumps_back(client: Client, camera: Camera) -> None:
    works(client)
    before = client.wait_for_counters().get("stamps_went_back", 0)
    camera.on = False
    for number in range(40):
        message = image_message(picture())
        message.header.stamp.sec, message.header.stamp.nanosec = 0, 1_000_000 + number
        client.stamps.append((0, 1_000_000 + number))
        client.images.publish(message)
        time.sleep(0.05)
    assert client.wait_for_counters()["stamps_went_back"] >= before + 1
    boxes = lambda: [array for array in client.detections if array.header.stamp.sec == 0 and array.detections]  # noqa: E731
    until(boxes, what="boxes that go on under the new stamps")
    camera.on = True
    works(client)


def test_empty_and_nonsense_images_do_no_harm(client: Client, camera: Camera) -> None:
    before = client.wait_for_counters()
    camera.on = False
    unusable = (
        Image(),
        Image(width=4, height=4, encoding="rgb8", step=12),
        Image(width=4, height=4, encoding="mono16", step=8, data=bytes(32)),
        Image(width=2**31, height=2**31, encoding="rgb8", step=1, data=b"x"),
        Image(width=5, height=4, encoding="yuyv", step=10, data=bytes(40)),
        Image(width=4, height=4, encoding="\udc80".encode("utf-8", "replace").decode(), step=8, data=bytes(32)),
    )

    def rejected() -> int:
        for message in unusable * 3:
            client.images.publish(message)
            time.sleep(0.05)
        after = client.wait_for_counters()
        return sum(after[name] - before.get(name, 0) for name in after if name.startswith("frames_rejected_"))

    until(lambda: rejected() >= len(unusable), what="each kind at least once; best effort may lose some")
    camera.on = True
    works(client)


def test_more_requests_than_allowed_from_many_clients(client: Client, camera: Camera) -> None:
    futures = [
        client.service.call_async(GroundService.Request(expression=f"the red thing tokens=20 {number}"))
        for number in range(60)
    ]
    replies = lambda: [future.result() for future in futures if future.done()]  # noqa: E731
    # DDS keeps ten requests and drops the others
    until(lambda: len(replies()) >= 10 and any(reply.success for reply in replies()), what="replies")
    assert all(reply.success or reply.message for reply in replies())
    works(client)


@pytest.mark.long
def test_a_short_soak_keeps_memory_flat(client: Client, node: NodeProcess, camera: Camera) -> None:
    """`python -m tests.bench.ros soak` is the long one."""
    from tests.bench.ros.processes import open_files, rss_mib

    pid, rows = node.process.pid, []
    client.command("the red thing")
    for number in range(40):
        if number % 5 == 0:
            client.command(f"the red thing {number}")
        time.sleep(1.0)
        rows.append((rss_mib(pid), open_files(pid)))
        client.detections.clear()
        client.objects.clear()
    first, last = rows[10], rows[-1]
    print(f"resident {first[0]:.1f} -> {last[0]:.1f} MiB, open files {first[1]} -> {last[1]}")
    assert last[0] - first[0] < 8.0
    assert last[1] <= first[1] + 2
