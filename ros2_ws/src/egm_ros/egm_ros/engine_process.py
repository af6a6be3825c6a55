"""The model in a process of its own, supervised: it may die or hang without taking the node with it.

Knows nothing of ROS. Pixels go through shared memory, requests, cancels and tokens through a pipe. A supervisor thread
waits for the process to end and starts it again, with a back-off that doubles; `ground` raises EngineLostError for the
request that was in flight.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import Enum
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from egm_edge.errors import BackendError, EgmError
from egm_edge.grounding import Grounding
from egm_ros.engine import EngineFailedError, EngineLostError
from egm_ros.mailbox import CameraFrame
from egm_ros.requests import Progress, Request
from egm_ros.settings import Settings
from egm_ros.shared_frame import SharedFrame
from egm_ros.wire import Failed, GroundRequest, Heartbeat, Message, Ready, ReleaseFrame, Result, Stop, decode, encode

POLL_S = 0.01  # how late a cancel is noticed; replies wake at once
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.5, 30.0
STEADY_S = 60.0  # a process that lived this long was well; its next restart is quick again
END_S = 0.5  # SIGTERM ends it at once, unless it is stuck in the kernel
FEEDBACK_PERIOD_S, HEARTBEAT_PERIOD_S = 0.05, 0.5


class EngineState(str, Enum):
    """Where the model's process is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"


@dataclass(frozen=True, slots=True)
class EngineChange:
    """News of the model's process: it is READY again, or RESTARTING: `lost` just now, or after another try failed."""

    state: EngineState
    lost: bool
    text: str


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """For the diagnostics.

    Attributes:
        state: where it is.
        pid: of the model's process, 0 without one.
        restarts: how often it was started again.
        hangs: how often it was killed because it gave no sign of life.
        last_loss: why it was lost last, "" when never.
        rss_mib: its resident memory.
    """

    state: EngineState
    pid: int
    restarts: int
    hangs: int
    last_loss: str
    rss_mib: int


@dataclass(slots=True)
class _Run:
    """One life of the process."""

    process: subprocess.Popen[bytes]
    pipe: Connection
    memory: SharedFrame
    in_use: threading.Lock = field(default_factory=threading.Lock)  # its pipe must not be closed under a reader
    started_s: float = field(default_factory=time.monotonic)
    loss: str = ""

    def say(self, message: Message) -> None:
        self.pipe.send_bytes(encode(message))

    def end(self) -> None:
        """End the process, by force if it does not listen, and free the pipe and the memory."""
        self.process.terminate()
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with self.in_use:
            self.pipe.close()
            self.memory.close()


class EngineProcess:
    """Implements `egm_ros.engine.Engine`.

    Args:
        settings: read at every start of the process and every request.
        factory: "module:callable" that makes the Grounder from Settings; imported in the process.
        on_change: called after the process was lost or became ready, from the supervisor's thread.
    """

    def __init__(
        self, settings: Callable[[], Settings], factory: str, on_change: Callable[[EngineChange], None] = lambda _: None
    ) -> None:
        self._settings, self._factory, self._on_change = settings, factory, on_change
        self._tokens = itertools.count(1)
        self._lock = threading.Lock()
        self._control = threading.Lock()  # start and stop, one at a time
        self._run: _Run | None = None
        self._ready: Ready | None = None
        self._state, self._restarts, self._hangs, self._last_loss = EngineState.STOPPED, 0, 0, ""
        self._ending = threading.Event()
        self._closed = False
        self._supervisor: threading.Thread | None = None

    @property
    def ready(self) -> bool:
        return self._ready is not None

    @property
    def bundle_hash(self) -> str:
        """Of the bundle that is loaded, "" while none is."""
        ready = self._ready
        return ready.bundle_hash if ready is not None else ""

    def start(self) -> None:
        """Load and warm up; blocks until that is done. Does nothing when it is running.

        Raises:
            EgmError: the model could not be loaded; the message says why.
        """
        with self._control:
            if self._supervisor is not None:
                return
            self._ending.clear()
            if self._closed:
                raise BackendError("a running node", "one that stops", "start the node again")
            self._state = EngineState.STARTING
            try:
                self._launch()
            except EgmError:
                self._state = EngineState.STOPPED
                raise
            self._supervisor = threading.Thread(target=self._supervise, name="egm-supervisor", daemon=True)
            self._supervisor.start()

    def refuse_starts(self) -> None:
        """From now on `start` fails, one that is under way included, and a process that ends is not started again."""
        self._closed = True
        self._ending.set()

    def stop(self) -> None:
        """End the process and free all it held; `start` may follow. Not while `ground` is running."""
        self.kill()
        with self._control:  # a `start` in another thread gives up now
            if self._supervisor is not None:
                self._supervisor.join()
            if self._run is not None:
                self._run.end()
            self._supervisor, self._run, self._state = None, None, EngineState.STOPPED

    def kill(self) -> None:
        """End it at once, whatever it is doing, and do not start it again; a request in flight is lost."""
        self._ending.set()
        with self._lock:
            run, self._ready = self._run, None
        if run is not None:
            run.process.kill()

    def health(self) -> EngineHealth:
        run = self._run
        pid = run.process.pid if run is not None and run.process.poll() is None else 0
        return EngineHealth(self._state, pid, self._restarts, self._hangs, self._last_loss, _rss_mib(pid))

    def ground(
        self,
        frame: CameraFrame,
        request: Request,
        *,
        should_stop: Callable[[], bool],
        on_progress: Callable[[Progress], None] | None,
    ) -> Grounding:
        """See `Engine.ground`.

        Raises:
            EngineLostError: the process died or hung; it is being started again.
            EngineFailedError: the model raised something unexpected.
            EgmError: the request cannot be answered.
        """
        picture, settings = frame.picture, self._settings()
        height, width = picture.array.shape[:2]
        token = next(self._tokens)
        run = self._run
        if run is None or not self.ready:
            raise EngineLostError("a running model", f"a {self._state.value} one", "ask again in a few seconds")
        try:
            with run.in_use:
                run.memory.write(picture.array)
                run.say(
                    GroundRequest(
                        token=token,
                        frame_key=frame.key,
                        height=height,
                        width=width,
                        byte_count=run.memory.byte_count,
                        color=picture.color,
                        stamp_ns=frame.stamp_ns,
                        expression=request.expression,
                        task=request.task.value,
                        deadline_s=request.deadline_s,
                        max_new_tokens=settings.token_limit("max_new_tokens"),
                        max_think_tokens=settings.token_limit("max_think_tokens"),
                        progress_period_s=FEEDBACK_PERIOD_S if on_progress else HEARTBEAT_PERIOD_S,
                    )
                )
                return self._wait(run, token, should_stop, on_progress)
        except (EOFError, OSError) as error:
            run.loss = run.loss or "it died"
            self._lose(run)
            raise EngineLostError("an answer of the model's process", run.loss, "ask again in a few seconds") from error

    def release_frame(self) -> None:
        run = self._run
        if run is not None and self.ready:
            try:
                with run.in_use:
                    run.say(ReleaseFrame())
            except OSError:
                self._lose(run)

    def _wait(
        self, run: _Run, token: int, should_stop: Callable[[], bool], on_progress: Callable[[Progress], None] | None
    ) -> Grounding:
        alive_s, stopped, text = time.monotonic(), False, ""
        # A listener that fails stops the model first, or the next request would get this answer.
        failure: Exception | None = None
        while True:
            if run.pipe.poll(POLL_S):
                message = decode(run.pipe.recv_bytes())
                alive_s = time.monotonic()
                if isinstance(message, Heartbeat):
                    text += message.text
                    if on_progress is not None and failure is None:
                        try:
                            on_progress(Progress(message.stage, message.tokens, text))
                        except Exception as error:
                            failure = error
                elif isinstance(message, Result):
                    if failure is not None:
                        raise failure
                    return Grounding.from_dict(message.grounding)
                elif isinstance(message, Failed):
                    raise EngineFailedError(message.expected, message.found, message.hint, message.trace)
            if not stopped and (failure is not None or should_stop()):
                stopped = True
                run.say(Stop(token))
            silent_s = time.monotonic() - alive_s
            if silent_s > self._settings().hang_timeout_s:
                run.loss = f"it hung: no sign of life for {silent_s:.1f} s"
                self._hangs += 1
                run.process.kill()
                raise EOFError

    def _lose(self, run: _Run) -> None:
        """From now on not ready; the supervisor does the rest."""
        with self._lock:
            if self._run is run:
                self._ready = None
        run.process.kill()

    def _launch(self) -> None:
        """Start the process and wait until it is ready.

        Raises:
            EgmError: it said why it cannot, or it died, or it took longer than `load_timeout_s`.
        """
        ours, theirs = Pipe()
        memory = SharedFrame()
        settings = self._settings()
        descriptors = (theirs.fileno(), memory.descriptor)
        command = [
            sys.executable, "-m", "egm_ros.model_process", *map(str, descriptors),
            self._factory, json.dumps(asdict(settings)),
        ]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        # In a session of its own: a signal to the node's whole group must not look like a model that died.
        process = subprocess.Popen(
            command, pass_fds=descriptors, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        run = _Run(process, ours, memory)
        self._run = run
        try:
            reply = self._first_reply(run, settings.load_timeout_s)
        except EgmError:
            self._run = None
            run.end()
            raise
        with self._lock:
            self._state, self._ready = EngineState.READY, reply

    def _first_reply(self, run: _Run, timeout_s: float) -> Ready:
        end_s = time.monotonic() + timeout_s
        while not self._ending.is_set() and time.monotonic() < end_s:
            try:
                if not run.pipe.poll(0.1):
                    continue
                reply = decode(run.pipe.recv_bytes())
            except (EOFError, OSError):
                found = f"exit code {run.process.wait()}"
                raise BackendError("the model's process to load the bundle", found, "see its output above") from None
            if isinstance(reply, Ready):
                return reply
            if isinstance(reply, Failed):
                raise EngineFailedError(reply.expected, reply.found, reply.hint, reply.trace)
        found = "a node that stops" if self._ending.is_set() else f"none after {timeout_s:g} s"
        raise BackendError("a model that is loaded", found, "raise load_timeout_s")

    def _supervise(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while not self._ending.is_set():
            run = self._run
            assert run is not None
            code = run.process.wait()
            if self._ending.is_set():
                return
            with self._lock:
                self._ready, self._state = None, EngineState.RESTARTING
            loss = run.loss or (f"signal {-code}" if code < 0 else f"exit code {code}")
            self._last_loss = loss
            if time.monotonic() - run.started_s > STEADY_S:
                backoff_s = FIRST_BACKOFF_S
            text = f"the model's process {run.process.pid} was lost ({loss}); starting again in {backoff_s:g} s"
            self._on_change(EngineChange(EngineState.RESTARTING, True, text))
            run.end()
            backoff_s = self._relaunch(backoff_s)

    def _relaunch(self, backoff_s: float) -> float:
        """Try until it runs; returns the next back-off."""
        while not self._ending.wait(backoff_s):
            backoff_s = min(2 * backoff_s, LAST_BACKOFF_S)
            self._restarts += 1
            try:
                self._launch()
            except EgmError as error:
                text = f"the model could not be started again: {error}; next try in {backoff_s:g} s"
                self._on_change(EngineChange(EngineState.RESTARTING, False, text))
                continue
            text = f"the model is ready again after {self._restarts} restarts"
            self._on_change(EngineChange(EngineState.READY, False, text))
            break
        return backoff_s


def _rss_mib(pid: int) -> int:
    if pid:
        try:
            with open(f"/proc/{pid}/statm") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
        except OSError:
            pass
    return 0
