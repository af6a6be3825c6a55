"""Two cameras and one model: topics, services and diagnostics of their own, and turns by age."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from egm_interfaces.srv import Ground
from egm_ros.camera import Camera
from ros_client import Client, image_message, picture, until
from ros_fixtures import MakeNode, NodeProcess

from egm_edge.errors import InputError

pytestmark = pytest.mark.ros
RED, BLUE = (220, 20, 20), (20, 20, 220)
SIDES = {"left": (RED, (10, 20, 50, 60)), "right": (BLUE, (90, 40, 150, 100))}


@pytest.fixture(scope="module")
def node(make_node: MakeNode) -> NodeProcess:
    return make_node(autostart=True, cameras="left,right")


@pytest.fixture(scope="module")
def sides(node: NodeProcess) -> Iterator[dict[str, Client]]:
    """A client for each camera's topics; the node is in no namespace."""
    with Client(topics="left") as left, Client(topics="right") as right:
        left.wait_for_state("active")
        until(lambda: right.commands.get_subscription_count() > 0, what="the other camera's command topic")
        ended = threading.Event()

        def run(side: str, client: Client) -> None:
            colour, box = SIDES[side]
            while not ended.wait(0.05):
                client.publish(image_message(picture(colour, box), frame_id=f"{side}_eye"))

        clients = {"left": left, "right": right}
        threads = [threading.Thread(target=run, args=item) for item in clients.items()]
        for thread in threads:
            thread.start()
        yield clients
        ended.set()
        for thread in threads:
            thread.join()
    assert node.stop() == 0, node.log


def test_each_camera_has_its_own_sentence_frames_and_boxes(sides: dict[str, Client]) -> None:
    sides["left"].command("the red thing tokens=5")
    sides["right"].command("the blue thing tokens=5")
    for side, client in sides.items():
        detection = until(client.first_detection, what=f"a box of the {side} camera")
        x1, _, x2, _ = SIDES[side][1]
        assert detection.bbox.center.position.x == pytest.approx((x1 + x2) / 2, abs=2.0)
        assert {array.header.frame_id for array in client.detections} == {f"{side}_eye"}


def test_turns_are_fair_by_age(sides: dict[str, Client]) -> None:
    for client in sides.values():
        client.forget()

    def answers(side: str) -> int:
        return sum(one.source_stamp == one.header.stamp for one in sides[side].objects)

    # One of the two may hear of them later than the other; where turns are unfair the difference only grows.
    counts = lambda: (answers("left"), answers("right"))  # noqa: E731
    until(lambda: sum(counts()) >= 30 and max(counts()) - min(counts()) <= 5, what="as many answers of each")


def test_a_request_is_about_the_camera_it_is_asked_of(sides: dict[str, Client]) -> None:
    for side, client in sides.items():
        service = client.node.create_client(Ground, f"grounding_node/{side}/ground")
        reply = client.call(service, Ground.Request(expression="the red thing" if side == "left" else "the blue thing"))
        assert reply.success, reply.message
        assert reply.object.header.frame_id == f"{side}_eye"
        client.node.destroy_client(service)


def test_diagnostics_name_the_cameras(sides: dict[str, Client]) -> None:
    client = sides["left"]
    client.wait_for_counters()
    assert {"grounding", "model", "left/camera", "left/tracking", "right/camera", "right/tracking"} <= set(
        client.statuses
    )


def test_a_camera_whose_turn_to_listen_has_not_come_refuses_politely(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = Camera.__new__(Camera)
    for name, value in (("_host", SimpleNamespace(dispatcher=None)), ("_source", None)):
        monkeypatch.setattr(camera, name, value, raising=False)
    with pytest.raises(InputError, match="being activated"):
        camera._place()
