"""The process of the model: `python -m egm_ros.model_process …`, started and watched by `engine_process.py`.

Loads a Grounder, warms it up, and answers one request at a time. Between two tokens it looks into the pipe for a Stop and
sends a Heartbeat, so a cancel takes effect within one decode step, and silence means that it hangs. It ends when the pipe closes,
so it never outlives the node. Knows nothing of ROS.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from egm_edge.decoding import TokenEvent
from egm_edge.errors import EgmError
from egm_edge.grounding import Grounding
from egm_edge.machine import limit_heaps
from egm_ros.settings import Settings
from egm_ros.shared_frame import SharedFrame
from egm_ros.wire import Failed, GroundRequest, Heartbeat, Ready, ReleaseFrame, Result, Stop, decode, encode


def load_grounder(settings: Settings) -> Any:
    """Open the model. Imported here, so that a missing runtime is one clear line on configure.

    Raises:
        EgmError: it cannot be opened.
    """
    from egm_edge.auto import open_grounder

    return open_grounder(settings.bundle_path or None, memory=settings.memory, threads=settings.threads or None)


class OpenFrame:
    """Runs requests through a Grounder and keeps the last frame open in it.

    A second expression on the same frame skips preprocessing, vision and the image's part of the prompt.

    Args:
        grounder: an `egm_edge.grounder.Grounder`, or anything with its `frame` and `ground`.
    """

    def __init__(self, grounder: Any) -> None:
        self._grounder = grounder
        self._key: int | None = None
        self._opened: Any = None

    def ground(
        self,
        ask: GroundRequest,
        pixels: Callable[[], NDArray],
        should_stop: Callable[[], bool],
        on_token: Callable[[TokenEvent], None],
    ) -> Grounding:
        """Args: pixels: gives [H, W, 3] uint8 when the frame is not open yet."""
        if ask.frame_key != self._key:
            self.release()  # first, so that two large frames are never in memory together
            self._opened = self._grounder.frame(pixels(), color=ask.color, stamp_ns=ask.stamp_ns)
            self._key = ask.frame_key
        return self._grounder.ground(
            self._opened,
            ask.expression,
            task=ask.task,
            max_new_tokens=ask.max_new_tokens,
            max_think_tokens=ask.max_think_tokens,
            deadline_at=ask.deadline_s,
            should_stop=should_stop,
            on_token=on_token,
        )

    def release(self) -> None:
        self._key = self._opened = None


class _Running:
    """One request while it runs: looks for a Stop, sends Heartbeats."""

    def __init__(self, pipe: Connection, ask: GroundRequest) -> None:
        self._pipe, self._ask = pipe, ask
        self._poll = select.poll()  # a tenth of the cost of Connection.poll, which makes a selector at every call
        self._poll.register(pipe.fileno(), select.POLLIN)
        self._stopped = False
        self._text = ""
        self._last_s = time.monotonic()
        self._say(Heartbeat("look", 0, ""))

    def should_stop(self) -> bool:
        while self._poll.poll(0):
            message = decode(self._pipe.recv_bytes())
            self._stopped |= isinstance(message, Stop) and message.token == self._ask.token
        return self._stopped

    def on_token(self, event: TokenEvent) -> None:
        self._text += event.text
        now_s = time.monotonic()
        if now_s - self._last_s >= self._ask.progress_period_s:
            self._last_s = now_s
            self._say(Heartbeat(event.stage.value, event.count, self._text))
            self._text = ""

    def _say(self, beat: Heartbeat) -> None:
        self._pipe.send_bytes(encode(beat))


def _answer(cache: OpenFrame, memory: SharedFrame, pipe: Connection, ask: GroundRequest) -> bytes:
    memory.follow(ask.byte_count)
    running = _Running(pipe, ask)
    try:
        grounding = cache.ground(ask, lambda: memory.read(ask.height, ask.width), running.should_stop, running.on_token)
        return encode(Result(grounding.to_dict()))
    except (EOFError, ConnectionError):
        raise
    except Exception as error:
        return encode(_failed(error))


def _failed(error: Exception) -> Failed:
    if isinstance(error, EgmError):
        return Failed(error.expected, error.found, error.hint)
    found = f"{type(error).__name__}: {error}"
    return Failed("the engine to work", found, "see the log", traceback.format_exc())


def serve(pipe: Connection, memory: SharedFrame, grounder: Any) -> None:
    """Answer until the node closes the pipe."""
    cache = OpenFrame(grounder)
    while True:
        message = decode(pipe.recv_bytes())
        if isinstance(message, GroundRequest):
            pipe.send_bytes(_answer(cache, memory, pipe, message))
        elif isinstance(message, ReleaseFrame):
            cache.release()


def _give_way(nice: int) -> None:
    """Leave the processor to the cameras' boxes where it is scarce. Each thread has a niceness of its own, and an imported
    library may have made some already; those to come inherit it."""
    wanted = os.getpriority(os.PRIO_PROCESS, 0) + nice
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, int(thread.name), wanted)
    with contextlib.suppress(OSError):  # kernels that weigh sessions first (autogroup): this process has one of its own
        Path("/proc/self/autogroup").write_text(str(nice))


def main(arguments: list[str]) -> int:
    """Args: arguments: pipe descriptor, memory descriptor, "module:callable" that makes the Grounder, settings as JSON."""
    limit_heaps()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the node ends this process itself
    pipe, memory = Connection(int(arguments[0])), SharedFrame(int(arguments[1]))
    module, _, name = arguments[2].partition(":")
    try:
        settings = Settings(**json.loads(arguments[3]))
        _give_way(settings.model_nice)
        grounder = getattr(importlib.import_module(module), name)(settings)
        grounder.warm_up()
        pipe.send_bytes(encode(Ready(grounder.bundle_hash, grounder.pixel_spec_hash, grounder.prompt_spec_hash)))
        serve(pipe, memory, grounder)
    except (EOFError, ConnectionError):
        return 0
    except Exception as error:
        pipe.send_bytes(encode(_failed(error)))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
