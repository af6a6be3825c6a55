"""A test's side of the conversation: publishes images and commands, calls the node, keeps what comes back.

Every wait is bounded. Best-effort frames may be lost, so `feed` publishes until an answer is there.
"""

from __future__ import annotations

import array
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from egm_interfaces.action import Ground as GroundAction
from egm_interfaces.msg import GroundedObject, GroundedObjectArray
from egm_interfaces.srv import Ground as GroundService
from egm_interfaces.srv import SetCommands
from egm_ros.command_topic import LATCHED_COMMAND_QOS
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from numpy.typing import NDArray
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.action import ActionClient
from rclpy.exceptions import InvalidHandle
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from vision_msgs.msg import Detection2D, Detection2DArray

NODE = "grounding_node"
WAIT_S = 40.0
CARRIED = (GroundedObject.TRACK_PROPAGATED, GroundedObject.TRACK_LOST)
T = TypeVar("T")


def until(ready: Callable[[], T], timeout_s: float = WAIT_S, what: str = "the condition") -> T:
    """Poll until `ready()` is true and return its value.

    Raises:
        TimeoutError: it never became true.
    """
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if value := ready():
            return value
        time.sleep(0.01)
    raise TimeoutError(f"{what} did not come about within {timeout_s:g} s")


def picture(
    colour: tuple[int, int, int] = (220, 20, 20), box: tuple[int, int, int, int] = (40, 30, 90, 70)
) -> NDArray[np.uint8]:
    """[120, 160, 3] uint8 RGB, grey with one filled box, xyxy."""
    image = np.full((120, 160, 3), 60, np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = colour
    return image


def image_message(pixels: NDArray[np.uint8], encoding: str = "rgb8", frame_id: str = "camera") -> Image:
    """An Image as a camera driver sends it; the stamp is set by `Client.publish`."""
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, step=pixels[0].nbytes)
    message.header.frame_id = frame_id
    message.data = array.array("B", np.ascontiguousarray(pixels).tobytes())
    return message


def stamp_of(message: Any) -> tuple[int, int]:
    """(sec, nanosec) of its header."""
    return message.header.stamp.sec, message.header.stamp.nanosec


class Client:
    """A node of its own with a spinning thread.

    Args:
        image_topic: where `publish` sends images; compressed ones go to `/compressed` below it.
        namespace: of the grounding node and its topics.
        topics: name of the camera among several.

    Attributes:
        detections, objects: everything received since `forget` about frames published since, oldest first.
        stamps: (sec, nanosec) of every image published.
        said: the last command.
    """

    def __init__(self, image_topic: str = "image", namespace: str = "", topics: str = "") -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("test_client", context=self.context, namespace=namespace)
        self.detections: list[Detection2DArray] = []
        self.objects: list[GroundedObject] = []
        self.stamps: list[tuple[int, int]] = []
        self.said = ""
        self._forgotten: set[tuple[int, int]] = set()
        self.counters: dict[str, int] = {}
        self.statuses: dict[str, DiagnosticStatus] = {}
        self.diagnosed = 0
        self._numbers = itertools.count(1)
        reliable = QoSProfile(depth=50)
        below = f"{topics}/" if topics else ""
        image_topic = f"{below}{image_topic}"
        self.images = self.node.create_publisher(Image, image_topic, qos_profile_sensor_data)
        self.compressed = self.node.create_publisher(
            CompressedImage, f"{image_topic}/compressed", qos_profile_sensor_data
        )
        self.commands = self.node.create_publisher(String, f"{below}command", LATCHED_COMMAND_QOS)
        self.node.create_subscription(Detection2DArray, f"{below}detections", self._on_detections, reliable)
        self.node.create_subscription(GroundedObjectArray, f"{below}grounded_objects", self._on_objects, reliable)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.change = self.node.create_client(ChangeState, f"{NODE}/change_state")
        self.setter = self.node.create_client(SetParameters, f"{NODE}/set_parameters")
        self.describer = self.node.create_client(DescribeParameters, f"{NODE}/describe_parameters")
        self.set_commands = self.node.create_client(SetCommands, f"{NODE}/set_commands")
        self.service = self.node.create_client(GroundService, f"{NODE}/ground")
        self.action = ActionClient(self.node, GroundAction, f"{NODE}/ground")
        self.state_of = self.node.create_client(GetState, f"{NODE}/get_state")  # last, see `call`
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self._spin)

    def __enter__(self) -> Client:
        self.thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        # Joined before the interpreter ends: a thread still inside spin() would abort the process.
        self.executor.shutdown()
        self.thread.join()
        self.action.destroy()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self.context)

    def _spin(self) -> None:
        # rclpy raises InvalidHandle when a publisher or subscription is destroyed while another thread spins.
        while True:
            try:
                return self.executor.spin()
            except InvalidHandle:
                continue

    def _on_detections(self, message: Detection2DArray) -> None:
        if stamp_of(message) not in self._forgotten:
            self.detections.append(message)

    def _on_objects(self, message: GroundedObjectArray) -> None:
        # An answer is new whatever its frame: a question may be asked on the newest one that is there.
        forgotten = CARRIED if stamp_of(message) in self._forgotten else ()
        self.objects.extend(one for one in message.objects if one.track_state not in forgotten)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.counters = {pair.key: int(pair.value) for pair in message.status[0].values}
        self.statuses = {status.name.rpartition(": ")[2]: status for status in message.status}
        self.diagnosed += 1  # last: who waits for it reads the others

    def result(self, future: Any, timeout_s: float = WAIT_S) -> Any:
        until(future.done, timeout_s, "the reply")
        return future.result()

    def call(self, service: Any, request: Any, timeout_s: float = WAIT_S) -> Any:
        """Discovery goes in order: a node that was heard to answer `state_of` knows the way back of every client made before."""
        until(service.service_is_ready, WAIT_S, f"{service.srv_name}")
        if service is not self.state_of:
            self.state()
        return self.result(service.call_async(request), timeout_s)

    def send_goal(self, goal: GroundAction.Goal, **options: Any) -> Any:
        """The future of its handle. Sent by the spinning thread: rclpy forgets a reply that is there before it is done sending."""
        sent: list[Any] = []
        self.executor.create_task(lambda: sent.append(self.action.send_goal_async(goal, **options)))
        return until(lambda: sent, what="the goal to be sent")[0]

    def transition(self, name: str, timeout_s: float = WAIT_S) -> bool:
        """configure, activate, deactivate, cleanup or shutdown; returns whether it succeeded."""
        identifier = getattr(Transition, f"TRANSITION_{name.upper()}")
        request = ChangeState.Request(transition=Transition(id=identifier))
        return self.call(self.change, request, timeout_s).success

    def state(self) -> str:
        """Asked again after a while: a reply is lost when discovery has only matched the way there."""
        for _ in range(int(WAIT_S // 3)):
            try:
                return self.call(self.state_of, GetState.Request(), timeout_s=3.0).current_state.label
            except TimeoutError:
                continue
        raise TimeoutError("no reply of get_state")

    def wait_for_state(self, label: str, timeout_s: float = WAIT_S) -> None:
        until(lambda: self.state() == label, timeout_s, f"state {label}")
        if label == "active":
            until(lambda: self.commands.get_subscription_count() > 0, timeout_s, "the node's subscriptions")

    def set_parameter(self, name: str, value: object) -> Any:
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(self.setter, request).results[0]

    def publish(self, message: Image | CompressedImage) -> None:
        """Publish an image under the next stamp: whole seconds since the start of the test, nanoseconds as a watermark."""
        message.header.stamp.sec, message.header.stamp.nanosec = next(self._numbers), 123_456_789
        self.stamps.append(stamp_of(message))
        (self.images if isinstance(message, Image) else self.compressed).publish(message)

    def command(self, text: str) -> None:
        self.said = text
        self.commands.publish(String(data=text))

    def feed(self, message: Any, ready: Callable[[], T], what: str = "an answer", timeout_s: float = WAIT_S) -> T:
        """Publish an image, or what a function makes, at 20 Hz until `ready()`."""
        last_s = 0.0

        def publish_and_look() -> T:
            nonlocal last_s
            if time.monotonic() - last_s > 0.05:
                last_s = time.monotonic()
                self.publish(message() if callable(message) else message)
            return ready()

        return until(publish_and_look, timeout_s, what)

    def first_detection(self, expression: str | None = None) -> Detection2D | None:
        """The first box of this expression, else of the last command, received since `forget`."""
        wanted = self.said if expression is None else expression
        boxes = (one for array in self.detections for one in array.detections)
        return next((one for one in boxes if one.results[0].hypothesis.class_id == wanted), None)

    def first_answer(self) -> GroundedObject | None:
        """The first answer to the last command received since `forget`; a box that is carried on is none."""
        answers = (one for one in self.objects if one.track_state not in CARRIED)
        return next((one for one in answers if one.expression == self.said), None)

    def forget(self) -> None:
        """Forget what was received and what is still under way: between topics, and replies of services, there is no order."""
        self._forgotten = set(self.stamps)
        self.detections.clear()
        self.objects.clear()

    def clear(self) -> None:
        """Forget, and end the standing command; the node is given a moment to become quiet."""
        self.command("")
        time.sleep(0.3)
        self.forget()

    def share_heard(self) -> tuple[float, float]:
        """Of the frames that somebody publishes in four seconds, the shares that came back as an array and as a carried box."""
        self.forget()
        sent = len(self.stamps)
        time.sleep(4.0)
        published = set(self.stamps[sent:])
        carried = [one for one in self.objects if one.track_state == GroundedObject.TRACK_PROPAGATED]
        arrays, objects = (len(published & set(map(stamp_of, heard))) for heard in (self.detections, carried))
        return arrays / len(published), objects / len(published)

    def wait_for_counters(self, timeout_s: float = WAIT_S) -> dict[str, int]:
        """The counters of a diagnostics message that is sent after this call."""
        seen = self.diagnosed
        until(lambda: self.diagnosed > seen + 1, timeout_s, "diagnostics")
        return self.counters
