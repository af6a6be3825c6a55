"""Lifecycle, parameters and shutdown of the real node, from another process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest
from egm_ros.parameter_fields import parameter_name
from egm_ros.settings import Settings
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import DescribeParameters
from ros_client import Client, image_message, picture, until
from ros_fixtures import HERE, MakeNode
from std_srvs.srv import SetBool

pytestmark = pytest.mark.ros


def test_a_failed_configure_says_why_and_can_be_repeated(make_node: MakeNode, client: Client) -> None:
    node = make_node(bundle_path="missing")
    assert not client.transition("configure")
    assert client.state() == "unconfigured"
    until(lambda: "cannot configure: expected a bundle; found nothing at missing" in node.log, what="the log line")
    assert client.set_parameter("bundle_path", "there").successful
    for _ in range(2):
        assert client.transition("configure")
        assert client.transition("activate")
        assert client.transition("deactivate")
        assert client.transition("activate")
        assert client.state() == "active"
        client.command("the red thing")
        client.feed(image_message(picture()), lambda: client.detections, "detections after activation")
        assert client.transition("deactivate")
        client.clear()
        assert client.transition("cleanup")
        assert client.state() == "unconfigured"
    assert node.stop() == 0, node.log


def test_an_inactive_node_publishes_nothing_and_refuses_politely(make_node: MakeNode, client: Client) -> None:
    from egm_interfaces.srv import Ground

    node = make_node()
    assert client.transition("configure")
    response = client.call(client.service, Ground.Request(expression="the red thing"))
    assert not response.success
    assert "expected an active node" in response.message
    assert node.stop(signal.SIGTERM) == 0, node.log


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_shutdown_in_mid_decode_is_clean(make_node: MakeNode, client: Client, sign: signal.Signals) -> None:
    node = make_node(autostart=True)
    client.wait_for_state("active")
    client.command("the red thing tokens=1000")
    before = client.wait_for_counters()["frames_received"]
    client.feed(image_message(picture()), lambda: client.counters["frames_received"] > before, "a frame taken")
    assert node.stop(sign) == 0, node.log


def test_parameters_are_described_ranged_and_checked(make_node: MakeNode, client: Client) -> None:
    node = make_node()
    names = [parameter_name(item) for item in fields(Settings)]
    described = client.call(client.describer, DescribeParameters.Request(names=names)).descriptors
    assert [d.name for d in described] == names
    assert all(d.description for d in described)
    assert next(d for d in described if d.name == "deadline_s").floating_point_range[0].to_value == 3600.0
    assert client.set_parameter("deadline_s", 1.5).successful
    assert not client.set_parameter("deadline_s", -1.0).successful
    refusal = client.set_parameter("task", "telepathic")
    assert not refusal.successful
    assert "task must be one of modal, amodal, got 'telepathic'" in refusal.reason
    refusal = client.set_parameter("max_pending_requests", 2)
    assert not refusal.successful, "what is read at start-up alone must not look as if it were taken"
    assert "read-only" in refusal.reason
    assert node.stop() == 0, node.log


def test_a_wrong_parameter_on_the_command_line_is_one_line_and_no_traceback(make_node: MakeNode) -> None:
    node = make_node(max_frame_age_s=-3.0)
    assert node.process.wait(60) == 2
    assert "max_frame_age_s" in node.log
    assert "Traceback" not in node.log


# What a caller may ask for, by id, in states that it can wait in; everything else there is refused.
TRANSITIONS = {
    name.removeprefix("TRANSITION_"): value
    for name, value in vars(Transition).items()
    if name.startswith("TRANSITION_")
}
POSSIBLE = {
    "unconfigured": {"CONFIGURE": "inactive", "UNCONFIGURED_SHUTDOWN": "finalized"},
    "inactive": {"CLEANUP": "unconfigured", "ACTIVATE": "active", "INACTIVE_SHUTDOWN": "finalized"},
    "active": {"DEACTIVATE": "inactive", "ACTIVE_SHUTDOWN": "finalized"},
    "finalized": {},
}
ROUTES = {"unconfigured": [], "inactive": ["configure"], "active": ["configure", "activate"], "finalized": []}


def ask(client: Client, **transition: object) -> bool:
    request = ChangeState.Request(transition=Transition(**transition))
    return client.call(client.change, request).success


def test_every_transition_from_every_state_is_answered(make_node: MakeNode, client: Client) -> None:
    asked = 0
    for state in POSSIBLE:
        node = make_node()
        for name in ROUTES[state]:
            assert client.transition(name)
        if state == "finalized":
            assert ask(client, id=Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
        assert client.state() == state
        for name, number in TRANSITIONS.items():
            if name not in POSSIBLE[state]:
                assert not ask(client, id=number), f"{name} from {state}"
                asked += 1
        assert not ask(client, label="no_such_transition")
        assert not ask(client, id=200)
        assert client.state() == state, "refused transitions change nothing"
        # Those that end the node's life last, each on a node of its own.
        *there_and_back, last = sorted(POSSIBLE[state], key=lambda name: "SHUTDOWN" in name) or [None]
        for name in there_and_back:
            assert ask(client, id=TRANSITIONS[name])
            assert client.state() == POSSIBLE[state][name]
            asked += 1
            back = {"CONFIGURE": "CLEANUP", "CLEANUP": "CONFIGURE", "ACTIVATE": "DEACTIVATE", "DEACTIVATE": "ACTIVATE"}[
                name
            ]
            assert ask(client, id=TRANSITIONS[back])
        if last is not None:
            assert ask(client, id=TRANSITIONS[last])
            assert client.state() == "finalized"
            asked += 1
        assert node.stop() == 0, node.log
        assert "Traceback" not in node.log
    assert asked == len(POSSIBLE) * len(TRANSITIONS)


def test_while_the_model_loads_everything_is_answered_and_two_signals_end_it(
    make_node: MakeNode, client: Client
) -> None:
    node = make_node(bundle_path="slow")
    until(client.change.service_is_ready, what="the node")
    asked = client.change.call_async(ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE)))
    client.wait_for_state("configuring")
    for name, number in TRANSITIONS.items():
        assert not ask(client, id=number), f"{name} while the model loads"
    assert client.set_parameter("deadline_s", 1.5).successful
    assert client.state() == "configuring"
    assert not asked.done()
    node.process.send_signal(signal.SIGINT)
    time.sleep(0.005)
    assert node.stop(signal.SIGINT) == 0, node.log
    assert "another one is under way" in node.log
    assert "Traceback" not in node.log


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("grounding_node", ["-r", "__ns:=/not-a-name"]),
        ("grounding_node", ["--params-file", "/no/such/file.yaml"]),
        ("grounding_node", ["-p", "deadline_s:=.nan"]),
        ("depth_locator", ["-p", "max_depth_m:=-1.0"]),
        ("depth_locator", ["-p", "memory_s:=true"]),
        ("simulated_camera", ["-r", "a:=b:=c"]),
        ("record_answers /no/such/folder/answers.jsonl", []),
        ("replay_bag /no/such/bag", []),
        ("replay_bag /no/such/bag --rate nan", []),
        ("replay_bag /no/such/bag --loops -1", []),
        ("record_answers /no/such/folder/answers.jsonl --seconds nan", []),
    ],
)
def test_what_cannot_be_taken_from_the_command_line_is_one_line(
    make_node: MakeNode, program: str, arguments: list[str]
) -> None:
    name, *words = program.split()
    node = make_node([sys.executable, "-c", f"from egm_ros.process import {name}; {name}()", *words], arguments)
    assert node.process.wait(60) == 2, node.log
    assert "expected " in node.log
    assert "Traceback" not in node.log


STOPS = [
    (signal.SIGINT, 0),
    (signal.SIGTERM, 0),
    (signal.SIGINT, 2),
    (signal.SIGINT, 20),
    (signal.SIGINT, 100),
    (signal.SIGTERM, 10),
]


def stop_by(process: subprocess.Popen, sign: signal.Signals, gap_ms: int) -> tuple[int, float]:
    """Exit code and seconds; `gap_ms` 0 for one signal, else for a second one after the first, both to the whole group."""
    started_s = time.monotonic()
    os.killpg(process.pid, sign)
    if gap_ms:
        time.sleep(gap_ms / 1e3)
        os.killpg(process.pid, sign)
    code = process.wait(20)
    return code, time.monotonic() - started_s


@pytest.mark.parametrize(("sign", "gap_ms"), STOPS, ids=[f"{sign.name} {gap} ms" for sign, gap in STOPS])
def test_a_signal_to_the_group_once_or_twice_ends_it_cleanly(
    client: Client, tmp_path: Path, sign: signal.Signals, gap_ms: int
) -> None:
    log = tmp_path / "log"
    command = [sys.executable, str(HERE / "fake_node.py"), "--ros-args", "-p", "autostart:=true"]
    started_s = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    client.wait_for_state("active")
    start_s = time.monotonic() - started_s
    client.command("the red thing tokens=1000")
    before = client.wait_for_counters()["frames_received"]
    client.feed(image_message(picture()), lambda: client.counters["frames_received"] > before, "a frame taken")
    code, took_s = stop_by(process, sign, gap_ms)
    text = log.read_text()
    assert code == 0, text
    assert "Traceback" not in text
    assert "was lost" not in text, "the model did not die of the signal, and was not started again"
    assert took_s < 4.0 + start_s, "under 2 s on a machine that is idle and starts it in 2"


def test_enable_pauses_and_goes_on(make_node: MakeNode, client: Client) -> None:
    node = make_node(autostart=True)
    client.wait_for_state("active")
    enable = client.node.create_client(SetBool, "grounding_node/enable")
    client.command("the red thing")
    client.feed(image_message(picture()), client.first_detection)
    assert client.call(enable, SetBool.Request(data=False)).success
    last_s, _ = client.stamps[-1]
    for _ in range(10):
        client.publish(image_message(picture()))
        time.sleep(0.05)
    # By stamp: a topic's message may be delivered after the reply of a service that was sent later.
    assert all(one.header.stamp.sec <= last_s for one in client.detections)
    from egm_interfaces.srv import Ground

    refused = client.call(client.service, Ground.Request(expression="the red thing"))
    assert "~/enable" in refused.message
    assert client.state() == "active"
    assert client.call(enable, SetBool.Request(data=True)).success
    assert client.feed(image_message(picture()), client.first_detection), "what stood goes on by itself"
    client.node.destroy_client(enable)
    assert node.stop() == 0, node.log


def test_a_bond_forms_when_active_and_breaks_with_the_node(make_node: MakeNode, client: Client) -> None:
    from bond.msg import Status

    heard: list[Status] = []
    subscription = client.node.create_subscription(Status, "/bond", heard.append, 100)
    node = make_node(autostart=True, bond_heartbeat_period=0.1)
    client.wait_for_state("active")
    until(lambda: len(heard) > 3, what="heartbeats")
    assert {(one.id, one.active) for one in heard} == {("grounding_node", True)}
    assert len({one.instance_id for one in heard}) == 1
    assert client.transition("deactivate")
    until(lambda: any(not one.active for one in heard), what="the end of the bond")
    client.node.destroy_subscription(subscription)
    assert node.stop() == 0, node.log
