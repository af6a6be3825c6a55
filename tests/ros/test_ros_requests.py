"""The Ground service and the Ground action, over DDS."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Duration
from egm_interfaces.action import Ground as GroundAction
from egm_interfaces.msg import GroundedObject
from egm_interfaces.srv import Ground as GroundService
from ros_client import Client, image_message, picture, until
from unique_identifier_msgs.msg import UUID

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("fake_node")]


@pytest.fixture(autouse=True)
def camera(client: Client) -> Any:
    """A camera at 20 Hz for the whole test."""
    ended = threading.Event()

    def publish() -> None:
        while not ended.wait(0.05):
            client.publish(image_message(picture()))

    thread = threading.Thread(target=publish)
    client.clear()
    thread.start()
    yield
    ended.set()
    thread.join()


def send(client: Client, goal: GroundAction.Goal) -> tuple[Any, list[GroundAction.Feedback]]:
    until(client.action.server_is_ready, what="the action server")
    feedback: list[GroundAction.Feedback] = []
    future = client.send_goal(goal, feedback_callback=lambda m: feedback.append(m.feedback))
    return client.result(future), feedback


def test_service_answers_with_the_frames_stamp(client: Client) -> None:
    response = client.call(client.service, GroundService.Request(expression="the red thing", task=1))
    assert response.success, response.message
    found = response.object
    assert found.outcome == GroundedObject.OUTCOME_FOUND
    assert found.has_amodal_box and not found.has_modal_box
    assert (found.header.stamp.sec, found.header.stamp.nanosec) in client.stamps
    assert found.request_id.startswith("srv-")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"expression": ""}, "expected an expression; found empty text", id="empty expression"),
        pytest.param({"expression": " \n"}, "expected an expression; found empty text", id="blank expression"),
        pytest.param({"expression": "x" * 10_000}, "at most 500 characters; found 10000", id="10 kB expression"),
        pytest.param({"expression": "a cup", "task": 9}, "expected task 0", id="unknown task"),
        pytest.param(
            {"expression": "a cup", "deadline": Duration(sec=-1)}, "expected a deadline", id="negative deadline"
        ),
    ],
)
def test_unusable_requests_are_refused_by_both(client: Client, fields: dict[str, Any], message: str) -> None:
    response = client.call(client.service, GroundService.Request(**fields))
    assert not response.success
    assert message in response.message
    goal, _ = send(client, GroundAction.Goal(**fields))
    assert not goal.accepted


def test_action_gives_feedback_and_the_whole_object(client: Client) -> None:
    goal, feedback = send(client, GroundAction.Goal(expression="the red thing tokens=20"))
    assert goal.accepted
    wrapped = client.result(goal.get_result_async())
    assert wrapped.status == GoalStatus.STATUS_SUCCEEDED
    found = wrapped.result.object
    assert found.outcome == GroundedObject.OUTCOME_FOUND
    assert found.request_id == bytes(goal.goal_id.uuid).hex()
    assert (found.header.stamp.sec, found.header.stamp.nanosec) in client.stamps
    until(lambda: len(feedback) >= 4, what="feedback, which may come after the result")
    assert feedback[0].stage == "queued"
    tokens = [f.tokens for f in feedback[1:]]
    assert tokens == sorted(tokens)
    assert feedback[-1].partial_text.startswith("t1 t2 ")
    assert feedback[-1].source_stamp == found.header.stamp


def test_cancel_is_honoured_in_mid_decode_and_the_next_request_runs(client: Client) -> None:
    goal, feedback = send(client, GroundAction.Goal(expression="the red thing tokens=10000"))
    until(lambda: any(f.tokens for f in feedback), what="a first token")
    client.result(goal.cancel_goal_async())
    wrapped = client.result(goal.get_result_async())
    assert wrapped.status == GoalStatus.STATUS_CANCELED
    assert wrapped.result.object.outcome == GroundedObject.OUTCOME_CANCELLED
    assert client.call(client.service, GroundService.Request(expression="the red thing")).success, "not after 100 s"


def test_a_queued_goal_can_be_cancelled_before_its_turn(client: Client) -> None:
    first, _ = send(client, GroundAction.Goal(expression="the red thing tokens=10000"))
    second, _ = send(client, GroundAction.Goal(expression="the red thing"))
    client.result(second.cancel_goal_async())
    assert client.result(second.get_result_async()).status == GoalStatus.STATUS_CANCELED
    client.result(first.cancel_goal_async())
    assert client.result(first.get_result_async()).status == GoalStatus.STATUS_CANCELED


def test_a_missed_deadline_is_an_outcome(client: Client) -> None:
    start = time.monotonic()
    deadline = Duration(nanosec=400_000_000)
    goal, _ = send(client, GroundAction.Goal(expression="the red thing tokens=10000", deadline=deadline))
    found = client.result(goal.get_result_async()).result.object
    assert found.outcome == GroundedObject.OUTCOME_TIMED_OUT
    assert found.has_deadline and not found.deadline_met
    assert time.monotonic() - start > 0.3


def test_a_goal_may_bring_its_own_image(client: Client) -> None:
    image = image_message(picture((20, 220, 20), (10, 20, 30, 60)), frame_id="wrist")
    image.header.stamp.sec = 777
    goal, _ = send(client, GroundAction.Goal(expression="the green thing", image=image))
    found = client.result(goal.get_result_async()).result.object
    assert (found.header.stamp.sec, found.header.frame_id) == (777, "wrist")
    assert (found.modal_box.center.position.x, found.modal_box.size_y) == (20.0, 40.0)


def test_explicit_requests_interrupt_the_standing_command_and_it_resumes(client: Client) -> None:
    client.command("the red thing tokens=60")
    until(lambda: client.detections, what="the standing command's detections")
    response = client.call(client.service, GroundService.Request(expression="the red thing now"))
    assert response.success
    seen = len(client.detections)
    until(lambda: len(client.detections) > seen + 1, what="the standing command to go on")
    assert client.detections[-1].detections[0].id.startswith("cmd-")


def test_one_request_too_many_is_refused_at_once(client: Client) -> None:
    goals = [send(client, GroundAction.Goal(expression="the red thing tokens=10000"))[0] for _ in range(8)]
    until(lambda: not client.call(client.service, GroundService.Request(expression="one more")).success)
    for goal in goals:
        client.result(goal.cancel_goal_async())
    for goal in goals:
        assert client.result(goal.get_result_async()).status == GoalStatus.STATUS_CANCELED


def test_goals_that_are_cancelled_at_once_end(client: Client) -> None:
    until(client.action.server_is_ready, what="the action server")
    ends: list[int] = []

    def cancel(future: Any) -> None:
        handle = future.result()
        handle.cancel_goal_async()
        handle.get_result_async().add_done_callback(lambda result: ends.append(result.result().status))

    for number in range(20):
        goal = GroundAction.Goal(expression="the red thing tokens=200")
        client.send_goal(goal).add_done_callback(cancel)
        until(lambda: len(ends) > number, what="the end of the goal")  # noqa: B023
    assert set(ends) <= {GoalStatus.STATUS_CANCELED, GoalStatus.STATUS_SUCCEEDED}


def test_of_two_goals_with_one_id_the_second_is_rejected(client: Client) -> None:
    until(client.action.server_is_ready, what="the action server")
    goal, name = GroundAction.Goal(expression="the red thing tokens=50"), UUID(uuid=[7] * 16)
    first, second = (client.result(client.send_goal(goal, goal_uuid=name)) for _ in range(2))
    assert (first.accepted, second.accepted) == (True, False)
    assert client.result(first.get_result_async()).status == GoalStatus.STATUS_SUCCEEDED


@pytest.mark.parametrize("seconds", [-(2**31), 0, 2**31 - 1])
def test_an_image_whose_clock_is_far_off_is_answered(client: Client, seconds: int) -> None:
    image = image_message(picture())
    image.header.stamp.sec, image.header.stamp.nanosec = seconds, 2**32 - 1
    goal, _ = send(client, GroundAction.Goal(expression="the red thing", image=image))
    wrapped = client.result(goal.get_result_async())
    assert wrapped.status == GoalStatus.STATUS_SUCCEEDED, wrapped.result.message
    assert wrapped.result.object.header.stamp == image.header.stamp
