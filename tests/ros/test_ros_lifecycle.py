"""Lifecycle, parameters and shutdown of the real node, from another process."""

from __future__ import annotations

import signal

import pytest
from egm_ros.settings import Settings
from rcl_interfaces.srv import DescribeParameters
from ros_client import Client, image_message, picture, until
from ros_fixtures import MakeNode

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
    names = list(Settings.__dataclass_fields__)
    described = client.call(client.describer, DescribeParameters.Request(names=names)).descriptors
    assert [d.name for d in described] == names
    assert all(d.description for d in described)
    assert next(d for d in described if d.name == "deadline_s").floating_point_range[0].to_value == 3600.0
    assert client.set_parameter("deadline_s", 1.5).successful
    assert not client.set_parameter("deadline_s", -1.0).successful
    refusal = client.set_parameter("task", "telepathic")
    assert not refusal.successful
    assert "task must be one of modal, amodal, got 'telepathic'" in refusal.reason
    assert node.stop() == 0, node.log


def test_a_wrong_parameter_on_the_command_line_is_one_line_and_no_traceback(make_node: MakeNode) -> None:
    node = make_node(max_frame_age_s=-3.0)
    assert node.process.wait(15) == 2
    assert "max_frame_age_s" in node.log
    assert "Traceback" not in node.log
