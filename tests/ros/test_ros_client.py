"""GroundingClient against the node with the fake model, over DDS."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from egm_interfaces.msg import GroundedObject
from egm_ros.client import GroundingClient, to_box
from ros_client import Client, image_message, picture, until

from egm_edge.boxes import Box
from egm_edge.errors import BackendError, InputError

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("fake_node")]
WAIT_S = 30.0


@pytest.fixture(autouse=True)
def camera(client: Client) -> Iterator[None]:
    """A camera at 20 Hz for the whole test; its red box is at 40 30 90 70."""
    ended = threading.Event()

    def publish() -> None:
        while not ended.wait(0.05):
            client.publish(image_message(picture()))

    thread = threading.Thread(target=publish)
    thread.start()
    yield
    ended.set()
    thread.join()


@pytest.fixture
def grounding() -> Iterator[GroundingClient]:
    with GroundingClient() as made:
        yield made


def test_ask_watch_and_get_the_answer(grounding: GroundingClient) -> None:
    request = grounding.ground("the red thing tokens=60")
    told = until(request.feedback, what="feedback")
    assert told.stage
    found = request.result(WAIT_S)
    assert request.is_done()
    assert found.outcome == GroundedObject.OUTCOME_FOUND
    assert to_box(found.modal_box) == Box(40, 30, 90, 70)
    assert found.expression == "the red thing tokens=60"


def test_cancel_ends_it_early(grounding: GroundingClient) -> None:
    request = grounding.ground("the red thing tokens=3000")
    until(lambda: (told := request.feedback()) is not None and told.tokens > 0, what="tokens")
    request.cancel()
    assert request.result(WAIT_S).outcome == GroundedObject.OUTCOME_CANCELLED


def test_a_cancel_before_the_goal_is_accepted_counts(grounding: GroundingClient) -> None:
    request = grounding.ground("the red thing tokens=3000")
    request.cancel()
    assert request.result(WAIT_S).outcome == GroundedObject.OUTCOME_CANCELLED


def test_a_deadline_is_passed_on(grounding: GroundingClient) -> None:
    found = grounding.ground("the red thing tokens=3000", deadline_s=0.3).result(WAIT_S)
    assert found.outcome == GroundedObject.OUTCOME_TIMED_OUT
    assert found.has_deadline and not found.deadline_met


def test_an_image_of_its_own(grounding: GroundingClient) -> None:
    image = picture(box=(10, 20, 30, 40))
    found = grounding.ground("the red thing", image=image, stamp_ns=5_000_000_007, task="amodal").result(WAIT_S)
    assert to_box(found.amodal_box) == Box(10, 20, 30, 40)
    assert (found.header.stamp.sec, found.header.stamp.nanosec) == (5, 7)


def test_what_cannot_be_asked_says_so(grounding: GroundingClient) -> None:
    with pytest.raises(BackendError, match="rejected"):
        grounding.ground("").result(WAIT_S)
    with pytest.raises(InputError, match="uint8 RGB"):
        grounding.ground("the cup", image=picture().astype(float))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="modal"):
        grounding.ground("the cup", task="partial")
    with (
        GroundingClient("nobody/grounding_node", wait_s=0.2) as alone,
        pytest.raises(BackendError, match="ROS_DOMAIN_ID"),
    ):
        alone.ground("the cup")


def test_closing_cancels_what_waits(grounding: GroundingClient) -> None:
    with GroundingClient() as made:
        waiting = made.ground("the red thing tokens=30000")
        until(waiting.feedback, what="feedback")
    with pytest.raises(BackendError, match="closed"):
        waiting.result(1.0)
    assert grounding.ground("the red thing").result(WAIT_S).outcome == GroundedObject.OUTCOME_FOUND, "the node is free"


def test_following_gives_boxes_at_camera_rate(grounding: GroundingClient) -> None:
    grounding.follow("the red thing")
    assert grounding.wait_for_boxes(
        WAIT_S, lambda one: one.track_state in (GroundedObject.TRACK_GROUNDED, GroundedObject.TRACK_PROPAGATED)
    )
    assert to_box(grounding.boxes()[0].modal_box).iou(Box(40, 30, 90, 70)) > 0.9
    grounding.follow("")
