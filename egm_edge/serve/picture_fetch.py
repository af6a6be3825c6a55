"""A picture from an http(s) address, for servers that were told to fetch: bounded in size, time and where it may reach.

The name is resolved once and every address it has is judged before the one that is connected to, so that no name can point
first outside and then inside. Redirects are not followed, proxies of the environment are not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ipaddress
import socket
import ssl
import time
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool

from egm_edge.serve.body import Take
from egm_edge.serve.errors import RequestError
from egm_edge.serve.pictures import EncodedPicture, encoded_picture
from egm_edge.serve.settings import MIB, ServeSettings

CHUNK_BYTES = 1 << 16
AT_ONCE = 4
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # holds an IPv4 address of the translator's own network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class PictureFetcher:
    """Fetches a few pictures at a time, in worker threads; who waits for a turn holds none, so that no other request does."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings, self._turns = settings, asyncio.Semaphore(AT_ONCE)

    async def fetch(self, url: str, take: Take) -> EncodedPicture:
        """The picture at an address; `take` counts its bytes as they come.

        Raises:
            RequestError: as `take`, `fetch_picture` and `encoded_picture`; 429, no turn within `fetch_s`.
        """
        try:
            await asyncio.wait_for(self._turns.acquire(), self._settings.fetch_s)
        except asyncio.TimeoutError:
            busy = "other pictures are being fetched; try again in 1 s"
            raise RequestError(429, busy, "fetch_busy", retry_after_s=1) from None
        try:
            return await run_in_threadpool(self._read, url, take)
        finally:
            self._turns.release()

    def _read(self, url: str, take: Take) -> EncodedPicture:
        return encoded_picture(fetch_picture(url, self._settings, take), self._settings)


def fetch_picture(url: str, settings: ServeSettings, take: Take) -> bytes:
    """The bytes behind an address.

    Raises:
        RequestError: 400, an address that may not be reached, or no picture there; 413, too large.
    """
    try:
        return _fetched(url, settings, take, time.monotonic() + settings.fetch_s)
    except (OSError, http.client.HTTPException, ValueError) as error:
        found = f"{type(error).__name__}: {str(error)[:120]}"
        raise _refused(f"expected a picture at {_shown(url)}; found {found}") from None


def _fetched(url: str, settings: ServeSettings, take: Take, ends_at: float) -> bytes:
    parts = urlsplit(url)
    secure, host = parts.scheme.lower() == "https", parts.hostname or ""
    port = parts.port or (443 if secure else 80)
    address = _reachable(host, port, settings)
    with contextlib.ExitStack() as opened:
        connected = opened.enter_context(socket.create_connection((str(address), port), timeout=_left_s(ends_at)))
        if secure:
            context = ssl.create_default_context()
            connected = opened.enter_context(context.wrap_socket(connected, server_hostname=host))
        connection = http.client.HTTPConnection(host, port)
        connection.sock = connected
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "egm-edge"})
        connected.settimeout(_left_s(ends_at))
        response = connection.getresponse()
        if response.status != 200:
            raise _refused(
                f"expected a picture at {_shown(url)}; found HTTP {response.status}; redirects are not followed"
            )
        data = bytearray()
        while True:
            connected.settimeout(_left_s(ends_at))
            if not (piece := response.read1(CHUNK_BYTES)):
                return bytes(data)
            data += piece
            if len(data) > settings.max_body_bytes:
                limit = f"{settings.max_body_bytes / MIB:g} MiB"
                raise RequestError(413, f"expected a picture of at most {limit} at {_shown(url)}", "image_too_large")
            take(len(piece))


def _reachable(host: str, port: int, settings: ServeSettings) -> Address:
    """The first address of a host, when all of them may be reached."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    networks = [ipaddress.ip_network(network) for network in settings.fetch_networks]
    for address in addresses:
        inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None) or address
        public = inner.is_global and not inner.is_multicast and address not in NAT64
        if not public and not any(inner in network for network in networks):
            raise _refused(f"expected a public address; found {address}; see --fetch-network")
    return addresses[0]


def _left_s(ends_at: float) -> float:
    left_s = ends_at - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("out of time")
    return left_s


def _shown(url: str) -> str:
    """Without user, password and query, which may be secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{parts.path}"[:120]


def _refused(message: str) -> RequestError:
    return RequestError(400, message, "invalid_image_url", param="messages.content.image_url")
