"""Server: where an OpenAI-compatible server is, and one HTTP exchange with it. Foreign errors are translated here."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

from egm_edge.errors import InputError
from egm_edge.openai.errors import NoAnswerError, StatusError, one_line

CHAT_PATH, MODELS_PATH = "/v1/chat/completions", "/v1/models"
MAX_ERROR_BYTES = 64 << 10
MAX_SILENCE_S = 3600.0  # of the socket; the caller's own clocks are shorter
_VERSION = re.compile(r"/v\d[^/]*(?:/|$)")


@dataclass(frozen=True, slots=True)
class Server:
    """Where and how to ask.

    Attributes:
        url: of the server, with or without `/v1` and `/chat/completions`; another versioned path is kept as it is.
        api_key: sent as a bearer token where given; never part of a message.
        connect_timeout_s: for the connection. stall_timeout_s: of silence in the middle of an answer.
    """

    url: str
    api_key: str = field(default="", repr=False)
    connect_timeout_s: float = 10.0
    stall_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            usable = usable and self.url.isprintable() and " " not in self.url
        except ValueError:
            usable = False
        if not usable:
            raise InputError("an address such as http://localhost:8000", repr(self.url)[:80], "correct the address")

    @property
    def where(self) -> str:
        """Host and port, for messages."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def base_url(self) -> str:
        """Up to and including the version, without user and password."""
        return f"{urlsplit(self.url).scheme}://{self.where}{self._base_path}"

    @property
    def _base_path(self) -> str:
        path = urlsplit(self.url).path.rstrip("/").removesuffix(CHAT_PATH.removeprefix("/v1"))
        return path if _VERSION.search(path) else f"{path}/v1"

    @contextlib.contextmanager
    def exchange(
        self,
        method: str,
        name: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = MAX_SILENCE_S,
        on_connected: Callable[[socket.socket], None] | None = None,
    ) -> Iterator[HTTPResponse]:
        """One request, and its answer to be read.

        Args:
            name: of the route below the base address. timeout_s: of any one silence.
            on_connected: given the socket, which may be shut down from any thread.

        Raises:
            StatusError: another status than 200. NoAnswerError: no connection, or one that broke.
        """
        parts = urlsplit(self.url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self.connect_timeout_s)
        sent = {"Content-Type": "application/json"} | dict(headers or {})
        if self.api_key:
            sent["Authorization"] = f"Bearer {self.api_key}"
        try:
            connection.connect()
            connection.sock.settimeout(timeout_s)
            if on_connected is not None:
                on_connected(connection.sock)  # http.client forgets its own once the answer has begun
            connection.request(method, f"{self._base_path}/{name}", body, sent)
            response = connection.getresponse()
            if response.status != 200:
                text = response.read(MAX_ERROR_BYTES).decode("utf-8", "replace")
                raise StatusError(response.status, text, _retry_after_s(response.getheader("Retry-After")))
            yield response
        except (OSError, HTTPException, ValueError) as error:  # the last: a key that is no header
            found = f"{type(error).__name__}: {one_line(getattr(error, 'strerror', None) or str(error))}".rstrip(": ")
            raise NoAnswerError(f"an answer from {self.where}", found, "check the server and its address") from None
        finally:
            connection.close()


def _retry_after_s(stated: str | None) -> float | None:
    """Seconds from a Retry-After header: a number or an HTTP date; None where it states nothing usable."""
    if stated is None:
        return None
    try:
        return max(0.0, float(stated))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(stated).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
