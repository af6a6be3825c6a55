"""Lifecycle node: camera images and sentences in, stamped boxes out. A thin shell; each part is a module of its own.

configure starts the model's process, loads and warms it up; activate listens to the cameras; deactivate drops all work (and
frees the model with `free_on_deactivate`); cleanup frees everything. A failed configure says why on one line and leaves the
node unconfigured, ready for another try.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_srvs.srv import SetBool

from egm_edge.errors import EgmError, InputError
from egm_edge.machine import limit_heaps
from egm_ros.camera import Camera
from egm_ros.camera_input import CameraInput
from egm_ros.counters import Count, Counters
from egm_ros.diagnostics import DiagnosticsWriter, NodeHealth
from egm_ros.dispatcher import Dispatcher
from egm_ros.engine_process import EngineChange, EngineProcess
from egm_ros.latency import LatencyLog
from egm_ros.lifecycle import Bond, Transitions, answering
from egm_ros.mailbox import Mailbox
from egm_ros.parameters import ParameterSettings
from egm_ros.process import StopRequest, fail, spin_until, start_node
from egm_ros.settings import Settings

ENGINE_FACTORY = "egm_ros.model_process:load_grounder"
STOP_TIMEOUT_S = 0.5


class GroundingNode(LifecycleNode):
    """The shell: topics, parameters and lifecycle.

    Args:
        engine_factory: "module:callable" that makes the Grounder from Settings, imported in the model's process.
    """

    def __init__(self, engine_factory: str = ENGINE_FACTORY) -> None:
        super().__init__("grounding_node")
        self._cameras: list[Camera] = []  # first: Kilted destroys a node whose making has failed, too
        self._transitions = Transitions(self)
        self._switching = threading.RLock()  # transitions, ~/enable and the process's end come from several threads
        self._settings_of = ParameterSettings(self, Settings)
        self._counters = Counters()
        self._latency = LatencyLog()
        self._engine = EngineProcess(lambda: self.settings, engine_factory, self._on_engine_change)
        wake = threading.Condition()  # one for all: the dispatcher waits for frames of every camera
        self._wake = wake
        self._cameras = [Camera(self, self, name, Mailbox(wake), self._latency) for name in self.settings.camera_names]
        self._loaded: Dispatcher | None = None
        self._input: CameraInput | None = None
        self._bond: Bond | None = None
        self._is_active, self._is_enabled = False, True
        self._made_s = time.monotonic()
        self._diagnostics_writer = DiagnosticsWriter()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # On the steady clock: with use_sim_time a clock that stands still or jumps back must not silence these.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        group = MutuallyExclusiveCallbackGroup
        self.create_service(SetBool, "~/enable", answering(self, self._on_enable), callback_group=group())
        self._periodic = [self.create_timer(1.0, self._publish_diagnostics, group(), clock=steady)]
        if self.settings.autostart:
            self._periodic.append(self.create_timer(0.01, self._autostart, group(), clock=steady))

    @property
    def settings(self) -> Settings:
        return self._settings_of.current

    @property
    def dispatcher(self) -> Dispatcher:
        """Raises: InputError: the node is not active, or paused."""
        if self._loaded is None or not self._is_active:
            raise InputError("an active node", "an inactive one", "activate it: ros2 lifecycle set NODE activate")
        if not self._is_enabled:
            raise InputError("a node that is enabled", "a paused one", "call its service ~/enable with data: true")
        return self._loaded

    def now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def on_configure(self, _state: LifecycleState) -> TransitionCallbackReturn:
        if not self._load():
            return TransitionCallbackReturn.FAILURE
        self._loaded = Dispatcher(self._engine, self._wake, lambda: self.settings)
        return TransitionCallbackReturn.SUCCESS

    def _load(self) -> bool:
        """Start the model's process if it does not run; False, and why in the log, if it cannot be."""
        if self._engine.ready:
            return True
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
        with self._switching:
            assert self._loaded is not None
            self._is_active = True
            for camera in self._cameras:
                camera.listen(self._loaded)
            if self._is_enabled:
                self._open_input()
            if self.settings.bond_heartbeat_period > 0:
                self._bond = Bond(self, self.settings.bond_heartbeat_period)
        self.get_logger().info(
            f"active: images on {', '.join(self._input.topics) if self._input else 'no topic, paused'}"
        )

    def _open_input(self) -> None:
        for camera in self._cameras:
            camera.resume()
        self._input = CameraInput(
            self, self.settings, {camera.topic("image"): camera.on_image for camera in self._cameras}
        )

    def _close_input(self) -> None:
        camera_input, self._input = self._input, None
        if camera_input is not None:
            camera_input.close()

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        """Paused, an active node hears no camera, refuses requests and, once this is answered, publishes no box.

        What stands goes on when it is enabled again.
        """
        with self._switching:
            if request.data != self._is_enabled:
                self._is_enabled = request.data
                if self._is_active and self._loaded is not None:
                    self._pause_or_go_on(self._loaded)
        response.success = True
        return response

    def _pause_or_go_on(self, dispatcher: Dispatcher) -> None:
        if self._is_enabled:
            self._open_input()
            return
        self._close_input()
        for camera in self._cameras:
            camera.mailbox.clear()
        dispatcher.pause(STOP_TIMEOUT_S)
        for camera in self._cameras:
            camera.pause()

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
        with self._switching:
            self._is_active = False
            bond, self._bond = self._bond, None
            if bond is not None:
                bond.close()
            self._close_input()
            if self._loaded is not None:
                self._loaded.drop_all()
            for camera in self._cameras:
                camera.stop_listening()

    def _free(self) -> None:
        dispatcher, self._loaded = self._loaded, None
        for camera in self._cameras:
            camera.forget_dispatcher()
        if dispatcher is not None and not dispatcher.stop(STOP_TIMEOUT_S):
            self._engine.kill()  # the model did not listen within STOP_TIMEOUT_S; this frees the dispatcher, too
            dispatcher.stop(STOP_TIMEOUT_S)
        self._engine.stop()

    def stop(self) -> None:
        """Release every waiting callback and the model's process; for the end of this one. May be called again."""
        self._engine.refuse_starts()
        self._stop_listening()
        self._free()
        for camera in self._cameras:
            camera.close()

    def destroy_node(self) -> None:
        for camera in self._cameras:
            camera.destroy()
        super().destroy_node()

    def count_failure(self, trace: str) -> None:
        """A callback raised: an error in the log and a count, not the end of the node."""
        self._counters.add(Count.CALLBACKS_FAILED)
        self.get_logger().error(f"a callback failed:\n{trace}")

    def _on_engine_change(self, change: EngineChange) -> None:
        """Called in the supervisor's thread."""
        if change.lost:
            self._counters.add(Count.ENGINE_LOST)
        self.get_logger().warning(change.text)

    def _publish_diagnostics(self) -> None:
        hears = self._is_active and self._is_enabled
        cameras = tuple(camera.health(is_active=hears) for camera in self._cameras)
        health = NodeHealth(
            name=self.get_fully_qualified_name(),
            state="active" if hears else "paused" if self._is_active else "inactive",
            bundle_hash=self._engine.bundle_hash,
            counts=sum((camera.counters.snapshot() for camera in self._cameras), self._counters.snapshot()),
            uptime_s=time.monotonic() - self._made_s,
            cameras=cameras,
            engine=self._engine.health() if self._loaded is not None else None,
            latency=self._latency.summary(),
        )
        message = self._diagnostics_writer.write(health)
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _autostart(self) -> None:
        self._periodic.pop().cancel()
        self._transitions.run(self.trigger_configure, self.trigger_activate)


def main(
    args: Sequence[str] | None = None, engine_factory: str = ENGINE_FACTORY, stop: StopRequest | None = None
) -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit code."""
    stop = stop or StopRequest()
    limit_heaps()
    try:
        node = start_node(lambda: GroundingNode(engine_factory), args)
    except EgmError as error:
        return fail(error)
    # One thread for each request that may wait, and four for commands, lifecycle, parameters and timers.
    executor = MultiThreadedExecutor(num_threads=node.settings.max_pending_requests + 4)
    executor.add_node(node)
    try:
        spin_until(stop, executor, node.count_failure, node.stop)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
