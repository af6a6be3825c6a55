"""Lifecycle node: camera images and sentences in, stamped boxes out. A thin shell round `egm_edge.grounder.Grounder`.

configure loads the bundle and warms it up; activate listens to the camera; deactivate drops all work; cleanup frees the
engine. A failed configure says why on one line and leaves the node unconfigured, ready for another try.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from egm_interfaces.msg import GroundedObjectArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from vision_msgs.msg import Detection2DArray

from egm_edge.errors import EgmError, InputError
from egm_edge.grounding import Outcome, Task
from egm_ros import conversion
from egm_ros.counters import Counters
from egm_ros.diagnostics import to_diagnostics
from egm_ros.mailbox import Mailbox
from egm_ros.messages import to_detections, to_grounded_object, to_object_array
from egm_ros.parameters import ParameterSettings
from egm_ros.request_servers import RequestServers, check_command
from egm_ros.settings import Settings
from egm_ros.worker import Answer, GroundingWorker, Request

GrounderFactory = Callable[[Settings], Any]
WARN_PERIOD_S = 5.0
STOP_TIMEOUT_S = 10.0
ANSWER_QOS = QoSProfile(depth=10)
# The last command must reach a node that starts later (latched), and a latched subscription does not match the volatile
# publishers that most programs have; so the node listens with both and drops the copy.
LATCHED_COMMAND_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
VOLATILE_COMMAND_QOS = QoSProfile(depth=1)


def load_grounder(settings: Settings) -> Any:
    """Open the bundle. Imported here, so that a missing engine is one clear line on configure.

    Raises:
        EgmError: no bundle is named, or it cannot be opened.
    """
    if not settings.bundle_path:
        raise InputError("a bundle", "an empty bundle_path", "set it with -p bundle_path:=DIR; `egm build` makes one")
    from egm_edge.grounder import Grounder

    return Grounder.from_bundle(settings.bundle_path, memory=settings.memory, threads=settings.threads or None)


class GroundingNode(LifecycleNode):
    """The shell: topics, parameters and lifecycle; all thinking is in the worker.

    Args:
        grounder_factory: makes the Grounder on configure.
    """

    def __init__(self, grounder_factory: GrounderFactory = load_grounder) -> None:
        super().__init__("grounding_node")
        self._grounder_factory = grounder_factory
        self._settings_of = ParameterSettings(self)
        self.counters = Counters()
        self.mailbox = Mailbox()
        self._grounder: Any = None
        self._worker: GroundingWorker | None = None
        self._active = False
        self._command_count = 0
        self._command_sent_ns = -1
        self._inputs: list[Any] = []
        self._camera_group = MutuallyExclusiveCallbackGroup()
        self._command_group = MutuallyExclusiveCallbackGroup()
        self._detections = self.create_lifecycle_publisher(Detection2DArray, "detections", ANSWER_QOS)
        self._objects = self.create_lifecycle_publisher(GroundedObjectArray, "grounded_objects", ANSWER_QOS)
        self._requests = RequestServers(self, lambda: self._worker if self._active else None)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._periodic = [self.create_timer(1.0, self._publish_diagnostics, MutuallyExclusiveCallbackGroup())]
        if self.settings.autostart:
            self._periodic.append(self.create_timer(0.01, self._autostart, MutuallyExclusiveCallbackGroup()))

    @property
    def settings(self) -> Settings:
        return self._settings_of.current

    def now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def refuse(self, counter: str, why: str) -> None:
        """Count something unusable and warn, at most once in WARN_PERIOD_S."""
        count = self.counters.add(counter)
        self.get_logger().warning(f"{why} ({counter}: {count})", throttle_duration_sec=WARN_PERIOD_S)

    def on_configure(self, _state: LifecycleState) -> TransitionCallbackReturn:
        start = time.monotonic()
        try:
            self._grounder = self._grounder_factory(self.settings)
            self._grounder.warm_up()
        except EgmError as error:
            self.get_logger().error(f"cannot configure: {error}")
            return self._configure_failed()
        except Exception as error:
            self.get_logger().error(f"cannot configure: {type(error).__name__}: {error}")
            return self._configure_failed()
        self._worker = GroundingWorker(self._grounder, self.mailbox, lambda: self.settings, self._on_answer)
        name = f"bundle {self._grounder.bundle_hash[:12]}"
        self.get_logger().info(f"loaded and warmed up {name} in {time.monotonic() - start:.1f} s")
        return TransitionCallbackReturn.SUCCESS

    def _configure_failed(self) -> TransitionCallbackReturn:
        self._free()
        return TransitionCallbackReturn.FAILURE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._listen()
        except Exception as error:  # rclpy would turn it into a silent failure
            self.get_logger().error(f"cannot activate: {type(error).__name__}: {error}")
            self._stop_listening()
            return TransitionCallbackReturn.FAILURE
        return super().on_activate(state)

    def _listen(self) -> None:
        settings = self.settings
        compressed = settings.image_transport == "compressed"
        # Resolved first, so that remapping `image` moves the compressed topic with it, as image_transport does.
        topic = self.resolve_topic_name("image") + ("/compressed" if compressed else "")
        reliability = ReliabilityPolicy[settings.image_reliability.upper()]
        camera_qos = QoSProfile(depth=1, history=HistoryPolicy.KEEP_LAST, reliability=reliability)
        image_type = CompressedImage if compressed else Image
        self._active = True
        self._inputs = [
            self.create_subscription(image_type, topic, self._on_image, camera_qos, callback_group=self._camera_group),
            *(
                self.create_subscription(String, "command", self._on_command, qos, callback_group=self._command_group)
                for qos in (LATCHED_COMMAND_QOS, VOLATILE_COMMAND_QOS)
            ),
        ]
        self.get_logger().info(f"active: images on {topic}, commands on {self.resolve_topic_name('command')}")

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_listening()
        return super().on_deactivate(state)

    def on_cleanup(self, _state: LifecycleState) -> TransitionCallbackReturn:
        self._free()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, _state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_listening()
        self._free()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, _state: LifecycleState) -> TransitionCallbackReturn:
        self.get_logger().error("a transition failed; the node is unconfigured and can be configured again")
        self._stop_listening()
        self._free()
        return TransitionCallbackReturn.SUCCESS

    def _stop_listening(self) -> None:
        self._active = False
        for subscription in self._inputs:
            self.destroy_subscription(subscription)
        self._inputs, self._command_sent_ns = [], -1
        self.mailbox.clear()
        if self._worker is not None:
            self._worker.drop_all()

    def _free(self) -> None:
        worker, self._worker = self._worker, None
        grounder, self._grounder = self._grounder, None
        if worker is not None and not worker.stop(STOP_TIMEOUT_S):
            self.get_logger().error(f"the engine did not stop within {STOP_TIMEOUT_S:g} s; its memory is not freed")
        elif grounder is not None:
            grounder.close()

    def stop(self) -> None:
        """Release every waiting callback and the engine; for the end of the process."""
        self._stop_listening()
        self._free()

    def destroy_node(self) -> None:
        self._requests.destroy()
        super().destroy_node()

    def _on_image(self, message: Any) -> None:
        try:
            conversion.check(message, self.settings.max_image_pixels)
        except conversion.RejectedImageError as error:
            self.refuse(f"frames_rejected_{error.reason}", f"image refused: {error}")
            return
        self.mailbox.put(message)

    def _on_command(self, message: String, info: dict[str, int]) -> None:
        worker, settings = self._worker, self.settings
        if worker is None or not self._active or info["source_timestamp"] == self._command_sent_ns:
            return
        self._command_sent_ns = info["source_timestamp"]
        if not message.data.strip():
            worker.set_command(None)
            self.get_logger().info("command cleared")
            return
        try:
            expression = check_command(message.data, settings)
        except InputError as error:
            self.refuse("commands_refused", f"command refused: {error}")
            return
        self._command_count += 1
        self.counters.add("commands")
        request = Request(f"cmd-{self._command_count}", expression, Task(settings.task), settings.deadline_s or None)
        worker.set_command(request)

    def _on_answer(self, answer: Answer) -> None:
        """Called in the worker's thread."""
        try:
            self._report(answer)
        except Exception as error:  # the worker must outlive a message that cannot be published
            self.get_logger().error(f"publishing {answer.request.request_id} failed: {type(error).__name__}: {error}")

    def _report(self, answer: Answer) -> None:
        outcome = answer.grounding.outcome if answer.grounding is not None else None
        self.counters.add("answers_failed" if outcome is None else f"answers_{outcome.value}")
        if outcome is None:
            why = f"{answer.request.request_id}: {answer.error}\n{answer.trace}".rstrip()
            self.get_logger().error(why, throttle_duration_sec=WARN_PERIOD_S)
        superseded = answer.standing and outcome is Outcome.CANCELLED
        if superseded or not self._active:
            return
        self._objects.publish(to_object_array(to_grounded_object(answer, self.now_ns())))
        detections = to_detections(answer)
        if detections is not None:
            self._detections.publish(detections)

    def _publish_diagnostics(self) -> None:
        message = to_diagnostics(self.get_fully_qualified_name(), self._active, self.mailbox, self.counters.snapshot())
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _autostart(self) -> None:
        self._periodic.pop().cancel()
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()


def main(args: Sequence[str] | None = None, grounder_factory: GrounderFactory = load_grounder) -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit code."""
    rclpy.init(args=args)
    try:
        node = GroundingNode(grounder_factory)
    except EgmError as error:
        sys.stderr.write(f"{error}\n")
        rclpy.try_shutdown()
        return error.exit_code
    # One thread for each request that may wait, and four for camera, command, lifecycle and parameters.
    executor = MultiThreadedExecutor(num_threads=node.settings.max_pending_requests + 4)
    executor.add_node(node)
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        # In this order: a callback still waiting in a thread would abort the interpreter at exit.
        node.stop()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
