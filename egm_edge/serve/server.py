"""Run a Service on a socket until a signal: bind first, load second, drain last."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator

import uvicorn

from egm_edge.errors import BackendError, InputError
from egm_edge.serve.app import Service
from egm_edge.serve.timeouts import TimeoutProtocol

KEEP_ALIVE_S = 15
BACKLOG = 256
CLOSING_S = 5
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
POLL_S = 0.05


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: connections are refused until the engine is loaded.

    Raises:
        InputError: no such address, or no right to the port. BackendError: the port is in use.
    """
    where = f"{host} port {port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise InputError("an address of this machine", f"{where}: {error}", "pass another --host") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            raise BackendError("a free port", f"{where} in use", "pass another --port, or 0 for any") from None
        raise InputError(
            "an address to listen on", f"{where}: {error.strerror}", "pass another --host or --port"
        ) from None
    return bound


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine can reach the socket."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def run(service: Service, bound: socket.socket, on_ready: Callable[[], None]) -> int:
    """Serve until SIGTERM or Ctrl-C, then finish what was accepted.

    Args:
        on_ready: called when connections are accepted.

    Returns:
        0 after a clean stop; 128 + signal when requests had to be cut short.
    """
    config = uvicorn.Config(
        service.app,
        http=TimeoutProtocol.make(service.settings),
        ws="none",
        lifespan="off",
        loop="asyncio",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=CLOSING_S,
    )
    server = _Server(config, service, on_ready)
    asyncio.run(server.serve(sockets=[bound]))
    return server.exit_code


class _Server(uvicorn.Server):
    """uvicorn's server with a stop that keeps the port open while it drains, so that `/ready` can say so."""

    def __init__(self, config: uvicorn.Config, service: Service, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._on_ready = service, on_ready
        self._stopping: asyncio.Task[None] | None = None
        self.exit_code = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except OSError as error:  # between bind and listen another process may have taken the port
            raise BackendError("a free port", error.strerror or str(error), "pass another --port") from None
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        for stop_signal in STOP_SIGNALS:
            loop.add_signal_handler(stop_signal, self._stop, stop_signal)
        try:
            yield
        finally:
            for stop_signal in STOP_SIGNALS:
                loop.remove_signal_handler(stop_signal)

    def _stop(self, stop_signal: int) -> None:
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._drain(stop_signal))
        else:  # a second signal: now
            self._cut(stop_signal)

    async def _drain(self, stop_signal: int) -> None:
        self._service.drain()
        due = time.monotonic() + self._service.settings.drain_s
        while not self._service.idle and not self.should_exit:
            if time.monotonic() > due:
                self._cut(stop_signal)
            await asyncio.sleep(POLL_S)
        self.should_exit = True

    def _cut(self, stop_signal: int) -> None:
        self.exit_code = 128 + stop_signal
        self._service.engine.cancel_all()
        self.should_exit = True


def start_logging(*, debug: bool) -> None:
    """Plain lines on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    ours, theirs = logging.getLogger("egm_edge.serve"), logging.getLogger("uvicorn.error")
    ours.setLevel(logging.DEBUG if debug else logging.INFO)
    theirs.setLevel(logging.WARNING)
    for logger in (ours, theirs):
        logger.handlers, logger.propagate = [handler], False
