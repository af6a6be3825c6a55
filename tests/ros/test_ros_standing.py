"""Standing queries, boxes at camera rate, annotated images and re-grounding policies, over DDS."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from builtin_interfaces.msg import Duration
from egm_interfaces.msg import GroundedObject, StandingCommand
from egm_interfaces.srv import SetCommands
from rclpy.qos import qos_profile_sensor_data
from ros_client import Client, image_message, stamp_of, until
from ros_fixtures import NodeProcess
from sensor_msgs.msg import CompressedImage, Image

pytestmark = [pytest.mark.ros, pytest.mark.usefixtures("fake_node")]

RED, BLUE = (220, 20, 20), (20, 20, 220)


def two_things(shift: int = 0) -> np.ndarray:
    """A red box and a blue one on structured ground; both move by `shift` pixels."""
    image = np.random.default_rng(3).integers(40, 90, (120, 160, 3), np.uint8)
    image[30:70, 20 + shift : 60 + shift] = RED
    image[60:100, 90 + shift : 130 + shift] = BLUE
    return image


@pytest.fixture
def camera(client: Client) -> Iterator[threading.Event]:
    """A 20 Hz camera whose things move to and fro, until the test ends; `.clear()` of the event stops it for a while."""
    running, ended = threading.Event(), threading.Event()
    running.set()

    def run() -> None:
        number = 0
        while not ended.wait(0.05):
            if running.is_set():
                number += 1
                client.publish(image_message(two_things(abs(number % 20 - 10))))

    client.clear()
    thread = threading.Thread(target=run)
    thread.start()
    yield running
    ended.set()
    thread.join()
    assert client.call(client.set_commands, SetCommands.Request()).success


def ask(client: Client, *queries: StandingCommand) -> SetCommands.Response:
    return client.call(client.set_commands, SetCommands.Request(commands=list(queries)))


def test_several_queries_are_answered_on_one_frame_and_share_its_vision(
    client: Client, camera: threading.Event
) -> None:
    assert ask(
        client,
        StandingCommand(id="first", expression="the red thing", priority=9),
        StandingCommand(id="second", expression="the blue thing", priority=1),
    ).success
    grounded = lambda: [o for o in client.objects if o.track_state == GroundedObject.TRACK_GROUNDED]  # noqa: E731
    until(lambda: len(grounded()) >= 6, what="six answers")
    answers = grounded()
    assert [answer.request_id for answer in answers[:4]] == ["first", "second", "first", "second"]
    shared = [b for a, b in itertools.pairwise(answers) if a.header.stamp == b.header.stamp]
    assert shared
    assert all(answer.timings.frame_reused and answer.request_id == "second" for answer in shared)


def test_boxes_come_at_camera_rate_between_two_slow_answers(client: Client, camera: threading.Event) -> None:
    assert ask(client, StandingCommand(id="slow", expression="the red thing tokens=100")).success
    until(lambda: client.detections, what="a first box")
    enough = lambda: all(share > least for share, least in zip(client.share_heard(), (0.7, 0.5), strict=True))  # noqa: E731
    until(enough, what="boxes of most of the camera's frames")
    stamps = [stamp_of(array) for array in client.detections]
    assert set(stamps) <= set(client.stamps), "every box carries the header of a camera frame"
    assert stamps == sorted(stamps), "detections never go back in time"
    for one in [o for o in client.objects if o.track_state == GroundedObject.TRACK_PROPAGATED]:
        assert one.source_stamp.sec <= one.header.stamp.sec
        assert (one.source_stamp.sec, one.source_stamp.nanosec) in client.stamps
        assert one.outcome == GroundedObject.OUTCOME_FOUND
        assert one.text == one.reasoning == ""
        assert 0.0 < one.track_quality <= 1.0
    until(lambda: int(_value(client, "tracking", "tracks")) == 1, what="the track in the diagnostics")


def _value(client: Client, part: str, key: str) -> str:
    client.wait_for_counters()
    return next(pair.value for pair in client.statuses[part].values if pair.key == key)


def test_a_query_is_grounded_again_when_its_object_is_lost(client: Client, camera: threading.Event) -> None:
    assert client.set_parameter("reground", "on_loss").successful
    try:
        assert ask(client, StandingCommand(id="red", expression="the red thing")).success
        answers = lambda: [o for o in client.objects if o.track_state == GroundedObject.TRACK_GROUNDED]  # noqa: E731
        until(answers, what="an answer")
        time.sleep(1.0)
        quiet = len(answers())
        camera.clear()
        noise = np.random.default_rng(0)
        cut_away = lambda: image_message(noise.integers(0, 90, (120, 160, 3), np.uint8))  # noqa: E731
        missed = lambda: any(o.outcome == GroundedObject.OUTCOME_NOT_FOUND for o in client.objects)  # noqa: E731
        client.feed(cut_away, missed, "the loss")
        camera.set()
        until(lambda: len(answers()) > quiet, what="another answer")
        assert quiet <= 2, "while it was seen nobody asked again"
    finally:
        assert client.set_parameter("reground", "period").successful


def test_on_demand_a_query_is_grounded_once(client: Client, camera: threading.Event) -> None:
    assert client.set_parameter("reground", "on_demand").successful
    try:
        before = client.wait_for_counters().get("answers_FOUND", 0)
        client.command("the red thing")
        until(lambda: client.wait_for_counters().get("answers_FOUND", 0) == before + 1, what="an answer")
        client.command("the red thing")
        until(lambda: client.wait_for_counters().get("answers_FOUND", 0) == before + 2, what="another one")
        assert client.wait_for_counters()["answers_FOUND"] == before + 2
    finally:
        assert client.set_parameter("reground", "period").successful


def test_queued_commands_are_all_answered(client: Client, camera: threading.Event) -> None:
    assert client.set_parameter("command_policy", "queue").successful
    try:
        texts = [f"the red thing {number}" for number in range(5)]
        for text in texts:
            client.command(text)
            time.sleep(0.02)
        until(lambda: {o.expression for o in client.objects} >= set(texts), what="five answers")
    finally:
        assert client.set_parameter("command_policy", "latest").successful


@pytest.mark.parametrize(
    ("queries", "problem"),
    [
        ([StandingCommand(id="a", expression="")], "a: expected an expression"),
        ([StandingCommand(id="a", expression="x" * 501)], "at most 500 characters"),
        ([StandingCommand(id="a", expression="x", task=7)], "expected task 0"),
        ([StandingCommand(id="a", expression="x", period=Duration(sec=-1))], "a period of 0"),
        ([StandingCommand(id="a", expression="x"), StandingCommand(id="a", expression="y")], "stands there twice"),
    ],
)
def test_an_unusable_set_is_refused_as_a_whole(client: Client, queries: list[StandingCommand], problem: str) -> None:
    refused = ask(client, *queries)
    assert not refused.success
    assert problem in refused.message


def test_annotated_images_are_drawn_only_for_subscribers(client: Client, camera: threading.Event) -> None:
    assert ask(client, StandingCommand(id="red", expression="the red thing")).success
    until(lambda: client.detections, what="a box")
    drawn = client.wait_for_counters().get("annotated_images", 0)
    time.sleep(1.0)
    assert client.wait_for_counters().get("annotated_images", 0) == drawn
    raw: list[Image] = []
    jpeg: list[CompressedImage] = []
    subscriptions = [
        client.node.create_subscription(Image, "annotated", raw.append, qos_profile_sensor_data),
        client.node.create_subscription(CompressedImage, "annotated/compressed", jpeg.append, qos_profile_sensor_data),
    ]
    try:
        until(lambda: raw and jpeg, what="annotated images")
        assert (raw[0].width, raw[0].height, raw[0].encoding) == (160, 120, "rgb8")
        assert (raw[0].header.stamp.sec, raw[0].header.stamp.nanosec) in client.stamps
        assert bytes(jpeg[0].data[:2]) == b"\xff\xd8"
        shown = np.frombuffer(raw[0].data, np.uint8).reshape(120, 160, 3)
        plain = [two_things(shift) for shift in range(11)]
        changed = min(int((np.abs(shown.astype(int) - image).max(-1) > 60).sum()) for image in plain)
        assert changed > 100, "a box and its label are drawn"
    finally:
        for subscription in subscriptions:
            client.node.destroy_subscription(subscription)


def test_deactivate_frees_the_model_and_activate_loads_it_again(
    client: Client, fake_node: NodeProcess, camera: threading.Event
) -> None:
    first = int(_value(client, "model", "pid"))
    assert client.transition("deactivate")
    assert client.transition("activate")
    assert int(_value(client, "model", "pid")) == first, "it stays in memory by default"
    assert client.set_parameter("free_on_deactivate", True).successful
    assert client.transition("deactivate")
    assert client.set_parameter("free_on_deactivate", False).successful
    assert (_value(client, "model", "state"), int(_value(client, "model", "pid"))) == ("stopped", 0)
    assert client.transition("activate")
    client.wait_for_state("active")
    assert int(_value(client, "model", "pid")) not in (0, first)
    client.command("the red thing")
    until(lambda: client.detections, what="boxes of the new process")


def test_without_tracking_only_answers_are_published(client: Client, camera: threading.Event) -> None:
    assert client.transition("deactivate")
    assert client.set_parameter("track", False).successful
    try:
        assert client.transition("activate")
        client.wait_for_state("active")
        client.forget()
        client.command("the red thing")
        until(lambda: len(client.detections) > 3, what="answers")
        assert {o.track_state for o in client.objects} == {GroundedObject.TRACK_GROUNDED}
        assert ask(client, StandingCommand(id="blue", expression="the blue thing")).success
        until(lambda: len([a for a in client.detections if len(a.detections) == 2]) > 3, what="both in one array")
        stamps = [(a.header.stamp.sec, a.header.stamp.nanosec) for a in client.detections]
        assert len(set(stamps)) == len(stamps), "one array a stamp"
    finally:
        client.transition("deactivate")
        client.set_parameter("track", True)
        client.transition("activate")
        client.wait_for_state("active")
