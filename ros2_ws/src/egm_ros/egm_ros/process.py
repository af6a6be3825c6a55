"""Beginning and end of a ROS process: signals and the exit code. Imports nothing heavy, so that it can come first.

rclpy's own handlers shut its context down under running callbacks, and Python's raise KeyboardInterrupt wherever the main
thread is; a terminal signals the whole group and `ros2 launch` forwards a signal of its own, so a second one comes while the
process is stopping. Here the first one only asks the process to end, and later ones are ignored.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from egm_edge.errors import EgmError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
N = TypeVar("N")


class StopRequest:
    """Asked for by SIGINT, SIGTERM or `set`; the main thread waits for it. Make it in the main thread, as early as can be."""

    def __init__(self) -> None:
        self.is_set = False
        self.holds_nothing = False  # while the process only imports, a signal may end it on the spot
        # A pipe, not an Event: a handler that interrupts the main thread inside Event.wait could wait for its own lock.
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        for sign in SIGNALS:
            signal.signal(sign, self._on_signal)

    def set(self) -> None:
        self.is_set = True
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b".")

    def wait(self) -> None:
        while not self.is_set:
            os.read(self._read, 1)

    def _on_signal(self, *_: object) -> None:
        for sign in SIGNALS:
            signal.signal(sign, signal.SIG_IGN)  # also while the interpreter ends, which restores the default handlers
        if self.holds_nothing:
            os._exit(0)
        self.set()


def spin_until(
    stop: StopRequest, executor: Any, on_error: Callable[[str], None], release: Callable[[], None] = lambda: None
) -> None:
    """Run callbacks in a thread of their own until the process is asked to end; the executor is shut down then.

    Args:
        executor: an rclpy executor with its nodes.
        on_error: called with the traceback of a callback that raised; the others go on.
        release: called before the executor is shut down, and once more after: ends what callbacks wait for.
    """
    from rclpy.exceptions import InvalidHandle
    from rclpy.executors import ExternalShutdownException

    def spin() -> None:
        while not stop.is_set:
            try:
                executor.spin()
                break
            except ExternalShutdownException:
                break
            except InvalidHandle:
                continue  # a subscription was destroyed (deactivate) while the executor was looking at it
            except Exception:
                on_error(traceback.format_exc())
        stop.set()

    thread = threading.Thread(target=spin, name="egm-executor", daemon=True)
    thread.start()
    stop.wait()
    release()
    executor.shutdown()  # a callback still waiting in a thread would abort the interpreter at its end
    thread.join()
    release()  # of what callbacks have made since: one that activates while the process is asked to end


def start_node(make: Callable[[], N], args: Sequence[str] | None) -> N:
    """Start rclpy and make a node.

    Raises:
        InputError: names, remappings, parameters or files of the command line are unusable; rclpy is shut down again.
    """
    import rclpy
    from rclpy.exceptions import NameValidationException, ParameterException
    from rclpy.signals import SignalHandlerOptions

    from egm_edge.errors import EgmError, InputError

    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        return make()
    except EgmError:
        rclpy.try_shutdown()
        raise
    except (RuntimeError, NameValidationException, ParameterException) as error:  # RuntimeError: also rclpy.RCLError
        rclpy.try_shutdown()
        found = " ".join(str(error).partition(", at ")[0].split())
        raise InputError("ROS arguments that rclpy takes", found, "correct what follows --ros-args") from error


def spin_node(stop: StopRequest, node: Any, release: Callable[[], None] = lambda: None) -> None:
    """Run one node in an executor of its own until the process is asked to end, then destroy it and shut rclpy down."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        spin_until(stop, executor, node.get_logger().error, release)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def fail(error: EgmError) -> int:
    """One line to a person, and the exit code."""
    sys.stderr.write(f"{error}\n")
    return error.exit_code


def run(main: str) -> Callable[[], int]:
    """An entry point: signals first, then the import of "module:function", which is called with `stop`."""

    def entry_point() -> int:
        stop = StopRequest()
        stop.holds_nothing = True  # importing takes seconds where the processor is scarce
        module, _, name = main.partition(":")
        function = getattr(importlib.import_module(module), name)
        stop.holds_nothing = False
        code = int(function(sys.argv, stop=stop))
        sys.stdout.flush()
        sys.stderr.flush()
        # A publisher that still waits for a subscriber that stalls would hold the interpreter's end up, or abort it.
        os._exit(code)

    return entry_point


grounding_node = run("egm_ros.grounding_node:main")
simulated_camera = run("egm_ros.simulated_camera:main")
depth_locator = run("egm_ros.depth_locator:main")
replay_bag = run("egm_ros.replay_bag:main")
record_answers = run("egm_ros.record_answers:main")
