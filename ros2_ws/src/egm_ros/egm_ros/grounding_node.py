"""Lifecycle node: camera images and sentences in, stamped boxes out. A thin shell; each part is a module of its own.

configure starts the model's process, loads and warms it up; activate listens to the camera; deactivate drops all work and
frees the model (`free_on_deactivate`); cleanup frees everything. A failed configure says why on one line and leaves the node
unconfigured, ready for another try.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from egm_edge.errors import EgmError, InputError
from egm_edge.grounding import Outcome, Task
from egm_edge.machine import limit_heaps
from egm_ros import conversion
from egm_ros.camera_input import CameraInput
from egm_ros.checking import check_command
from egm_ros.command_topic import CommandTopic
from egm_ros.commands import StandingCommand
from egm_ros.counters import Counters
from egm_ros.diagnostics import DiagnosticsWriter, NodeHealth
from egm_ros.dispatcher import Dispatcher
from egm_ros.engine_process import EngineProcess
from egm_ros.follower import Followed, Follower
from egm_ros.latency import LatencyLog
from egm_ros.mailbox import CameraFrame, Mailbox
from egm_ros.messages import LOOKED_EVERYWHERE
from egm_ros.outputs import Outputs
from egm_ros.parameters import ParameterSettings
from egm_ros.request_servers import RequestServers
from egm_ros.requests import Answer, Request
from egm_ros.settings import Settings
from egm_ros.times import nanoseconds

ENGINE_FACTORY = "egm_ros.model_process:load_grounder"
WARN_PERIOD_S = 5.0
STOP_TIMEOUT_S = 2.0


class GroundingNode(LifecycleNode):
    """The shell: topics, parameters and lifecycle.

    Args:
        engine_factory: "module:callable" that makes the Grounder from Settings, imported in the model's process.
    """

    def __init__(self, engine_factory: str = ENGINE_FACTORY) -> None:
        super().__init__("grounding_node")
        self._settings_of = ParameterSettings(self)
        self.counters = Counters()
        self.mailbox = Mailbox()
        self._engine = EngineProcess(lambda: self.settings, engine_factory, self._on_engine_change)
        self._all_dispatcher: Dispatcher | None = None
        self._follower: Follower | None = None
        self._camera: CameraInput | None = None
        self._commands: CommandTopic | None = None
        self._active = False
        self._last_stamp_ns = 0
        self._was_silent = False
        self._made_s = time.monotonic()
        self._latency = LatencyLog()
        self._outputs = Outputs(self, lambda: self.settings, self.counters, self.now_ns, self._on_output_error)
        self._requests = RequestServers(self, self)
        self._diagnostics_writer = DiagnosticsWriter()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # On the steady clock: with use_sim_time a clock that stands still or jumps back must not silence these.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        group = MutuallyExclusiveCallbackGroup
        self._periodic = [self.create_timer(1.0, self._publish_diagnostics, group(), clock=steady)]
        if self.settings.autostart:
            self._periodic.append(self.create_timer(0.01, self._autostart, group(), clock=steady))

    @property
    def settings(self) -> Settings:
        return self._settings_of.current

    @property
    def dispatcher(self) -> Dispatcher | None:
        """None while the node is not active."""
        return self._all_dispatcher if self._active else None

    def now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def count(self, counter: str) -> None:
        self.counters.add(counter)

    def refuse(self, counter: str, why: str) -> None:
        """Count something unusable and warn, at most once in WARN_PERIOD_S."""
        count = self.counters.add(counter)
        self.get_logger().warning(f"{why} ({counter}: {count})", throttle_duration_sec=WARN_PERIOD_S)

    def on_configure(self, _state: LifecycleState) -> TransitionCallbackReturn:
        if not self._load():
            return TransitionCallbackReturn.FAILURE
        self._all_dispatcher = Dispatcher(self._engine, self.mailbox, lambda: self.settings, self._on_answer)
        return TransitionCallbackReturn.SUCCESS

    def _load(self) -> bool:
        """Start the model's process if it does not run; False, and why in the log, if it cannot be."""
        start = time.monotonic()
        try:
            self._engine.start()
        except EgmError as error:
            self.get_logger().error(f"cannot configure: {error}")
            if trace := getattr(error, "trace", ""):
                self.get_logger().error(trace)
            return False
        except Exception as error:
            self.get_logger().error(f"cannot configure: {type(error).__name__}: {error}")
            self._engine.stop()
            return False
        name, process = self._engine.bundle_hash[:12], self._engine.health().pid
        self.get_logger().info(f"bundle {name} is loaded in process {process} ({time.monotonic() - start:.1f} s)")
        return True

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            if not self._load():
                return TransitionCallbackReturn.FAILURE
            self._listen()
        except Exception as error:  # rclpy would turn it into a silent failure
            self.get_logger().error(f"cannot activate: {type(error).__name__}: {error}")
            self._stop_listening()
            return TransitionCallbackReturn.FAILURE
        return super().on_activate(state)

    def _listen(self) -> None:
        settings, dispatcher = self.settings, self._all_dispatcher
        assert dispatcher is not None
        self._active = True
        if settings.track:
            self._follower = Follower(
                self.mailbox, settings, self._on_boxes, self._on_poor_track, self._on_bad_frame, dispatcher.standing_ids
            )
        self._camera = CameraInput(self, settings, self._on_image)
        self._commands = CommandTopic(self, self._on_command)
        command_topic = self.resolve_topic_name("command")
        self.get_logger().info(f"active: images on {self._camera.topic}, commands on {command_topic}")

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._stop_listening()
        if self.settings.free_on_deactivate:
            self._engine.stop()
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
        camera, self._camera = self._camera, None
        commands, self._commands = self._commands, None
        follower, self._follower = self._follower, None
        if commands is not None:
            commands.close()
        if camera is not None:
            camera.close()
        if self._all_dispatcher is not None:
            self._all_dispatcher.drop_all()
        if follower is not None:
            follower.stop()
        self.mailbox.clear()

    def _free(self) -> None:
        dispatcher, self._all_dispatcher = self._all_dispatcher, None
        if dispatcher is not None and not dispatcher.stop(STOP_TIMEOUT_S):
            self._engine.kill()  # the model did not listen within STOP_TIMEOUT_S; this frees the dispatcher, too
            dispatcher.stop(STOP_TIMEOUT_S)
        self._engine.stop()

    def stop(self) -> None:
        """Release every waiting callback and the model's process; for the end of this one."""
        self._stop_listening()
        self._free()
        self._outputs.stop()

    def destroy_node(self) -> None:
        self._requests.destroy()
        super().destroy_node()

    def _on_image(self, message: Any) -> None:
        """Called in the camera's thread."""
        stamp_ns = nanoseconds(message.header.stamp)
        if stamp_ns < self._last_stamp_ns:
            self.refuse("stamps_went_back", f"an image is stamped {(self._last_stamp_ns - stamp_ns) / 1e9:.3f} s back")
        self._last_stamp_ns = stamp_ns
        try:
            conversion.check(message, self.settings.max_image_pixels)
        except conversion.RejectedImageError as error:
            self._on_bad_frame(error)
            return
        self.mailbox.put(message, self.settings.max_image_pixels)

    def _on_bad_frame(self, error: EgmError) -> None:
        self.refuse(f"frames_rejected_{getattr(error, 'reason', 'unusable')}", f"image refused: {error}")

    def _on_command(self, text: str, first: bool) -> None:
        dispatcher, settings = self.dispatcher, self.settings
        if dispatcher is None:
            return
        if not text.strip():
            dispatcher.clear_command()
            return
        try:
            expression = check_command(text, settings)
            number = self.counters.add("commands") if first else self.counters.snapshot()["commands"]
            request = Request(f"cmd-{number}", expression, Task(settings.task), settings.deadline_s or None)
            if first or settings.command_policy == "latest":
                dispatcher.say(StandingCommand(request))
        except InputError as error:
            if first:
                self.refuse("commands_refused", f"command refused: {error}")

    def _on_answer(self, answer: Answer) -> None:
        """Called in the dispatcher's thread."""
        try:
            self._report(answer)
        except Exception as error:  # the dispatcher must outlive a message that cannot be published
            self._on_output_error(error)

    def _report(self, answer: Answer) -> None:
        grounding = answer.grounding
        outcome = grounding.outcome if grounding is not None else None
        self.counters.add("answers_failed" if outcome is None else f"answers_{outcome.value}")
        if grounding is None:
            why = f"{answer.request.request_id}: {answer.error}\n{answer.trace}".rstrip()
            self.get_logger().error(why, throttle_duration_sec=WARN_PERIOD_S)
        else:
            self._latency.add(grounding)
        superseded = answer.standing and outcome is Outcome.CANCELLED
        if superseded or not self._active:
            return
        follower = self._follower
        if follower is None or not answer.standing:
            self._outputs.answer(answer, followed=False)
            return
        if outcome in LOOKED_EVERYWHERE:
            follower.take(answer)
        self._outputs.answer(answer, followed=True)

    def _on_boxes(self, frame: CameraFrame, followed: tuple[Followed, ...]) -> None:
        """Called in the follower's thread, at camera rate."""
        if self._active:
            try:
                self._outputs.boxes(frame, followed)
            except Exception as error:
                self._on_output_error(error)

    def _on_poor_track(self, request_id: str) -> None:
        dispatcher = self.dispatcher
        if dispatcher is not None and self.settings.reground != "on_demand":
            dispatcher.want(request_id)

    def _on_output_error(self, error: Exception) -> None:
        self.counters.add("publishes_failed")
        why = f"publishing failed: {type(error).__name__}: {error}"
        self.get_logger().error(why, throttle_duration_sec=WARN_PERIOD_S)

    def _on_engine_change(self, text: str) -> None:
        """Called in the supervisor's thread."""
        if "was lost" in text:
            self.counters.add("engine_lost")
        self.get_logger().warning(text)

    def _publish_diagnostics(self) -> None:
        silent_s = self.mailbox.silent_s()
        is_silent = self._active and silent_s > self.settings.camera_timeout_s
        if is_silent and not self._was_silent:
            self.counters.add("camera_went_silent")
        self._was_silent = is_silent
        mailbox = {"frames_received": self.mailbox.received, "frames_skipped": self.mailbox.skipped}
        follower = self._follower
        health = NodeHealth(
            name=self.get_fully_qualified_name(),
            state="active" if self._active else "inactive",
            bundle_hash=self._engine.bundle_hash,
            counts=mailbox | self.counters.snapshot(),
            uptime_s=time.monotonic() - self._made_s,
            ages_ms=self.mailbox.ages_ms(),
            silent_s=silent_s,
            camera_timeout_s=self.settings.camera_timeout_s,
            engine=self._engine.health() if self._all_dispatcher is not None else None,
            follower=follower.health() if follower is not None else None,
            output_rate_hz=self._outputs.rate_hz,
            latency=self._latency.summary(),
        )
        message = self._diagnostics_writer.write(health)
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _autostart(self) -> None:
        self._periodic.pop().cancel()
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()


def main(args: Sequence[str] | None = None, engine_factory: str = ENGINE_FACTORY) -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit code."""
    limit_heaps()
    rclpy.init(args=args)
    try:
        node = GroundingNode(engine_factory)
    except EgmError as error:
        sys.stderr.write(f"{error}\n")
        rclpy.try_shutdown()
        return error.exit_code
    # One thread for each request that may wait, and four for commands, lifecycle, parameters and timers.
    executor = MultiThreadedExecutor(num_threads=node.settings.max_pending_requests + 4)
    executor.add_node(node)
    try:
        _spin(node, executor)
    finally:
        # In this order: a callback still waiting in a thread would abort the interpreter at exit.
        node.stop()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _spin(node: GroundingNode, executor: MultiThreadedExecutor) -> None:
    """Until the end; a callback that raises is an error in the log and a count, not the end of the node."""
    while True:
        try:
            executor.spin()
            return
        except (KeyboardInterrupt, ExternalShutdownException):
            return
        except InvalidHandle:
            continue  # a subscription was destroyed (deactivate) while the executor was looking at it
        except Exception:
            node.count("callbacks_failed")
            node.get_logger().error(f"a callback failed:\n{traceback.format_exc()}")


if __name__ == "__main__":
    sys.exit(main())
