"""Pictures at addresses: only where that was allowed, in bounded time and size, and never inside by way of a name."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from egm_edge.serve.errors import RequestError
from egm_edge.serve.picture_fetch import AT_ONCE, PictureFetcher, fetch_picture
from egm_edge.serve.settings import ServeSettings
from tests.serve.conftest import CHAT, FRAMES, Start, error_of, question
from tests.serve.test_stop import until


@contextmanager
def picture_server(
    status: int = 200, data: bytes = b"", headers: dict[str, str] | None = None, pause: threading.Event | None = None
) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if pause is not None:
                pause.wait(60)
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/a.png?token=secret"
    finally:
        if pause is not None:
            pause.set()
        server.shutdown()
        server.server_close()


LOCAL = ServeSettings(fetch_pictures=True, fetch_networks=("127.0.0.0/8",), fetch_s=5.0)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "10.1.2.3",
        "192.168.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "100.64.0.1",
        "[fe80::1]",
        "[fd00::1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "224.0.0.1",
        "2130706433",
        "0x7f.1",
    ],
)
def test_addresses_that_are_not_public_are_not_reached(host: str) -> None:
    with pytest.raises(RequestError, match=r"expected a public address|gaierror") as caught:
        fetch_picture(f"http://{host}:1/a.png", ServeSettings(fetch_pictures=True), int)
    assert caught.value.status == 400


def test_a_name_with_one_inner_address_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolved(host: str, port: int, **options: Any) -> list[Any]:
        return [(socket.AF_INET, 1, 6, "", (address, port)) for address in ("93.184.216.34", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    with pytest.raises(RequestError, match=r"found 127\.0\.0\.1"):
        fetch_picture("http://two.example/a.png", ServeSettings(fetch_pictures=True), int)


def test_what_is_fetched_is_bounded_and_redirects_are_not_followed() -> None:
    with (
        picture_server(302, headers={"Location": "http://127.0.0.1:1/"}) as url,
        pytest.raises(RequestError, match="HTTP 302") as caught,
    ):
        fetch_picture(url, LOCAL, int)
    assert "secret" not in str(caught.value)
    small = ServeSettings(fetch_networks=("127.0.0.0/8",), max_body_bytes=1 << 20)
    with picture_server(data=bytes(2 << 20)) as url, pytest.raises(RequestError, match="at most 1 MiB"):
        fetch_picture(url, small, int)
    quick = ServeSettings(fetch_networks=("127.0.0.0/8",), fetch_s=0.3)
    with picture_server(pause=threading.Event()) as url, pytest.raises(RequestError, match="expected a picture at"):
        fetch_picture(url, quick, int)


def test_who_waits_for_a_picture_keeps_no_other_request_from_a_thread(scripted: Start) -> None:
    server = scripted(fetch_pictures=True, fetch_networks=["127.0.0.0/8"], fetch_s=60.0)
    pause = threading.Event()
    with picture_server(data=b"no picture", pause=pause) as url, ExitStack() as opened:
        body = json.dumps(question(url=url))
        waiting = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in range(50)]
        for connection in waiting:  # more than there are worker threads
            opened.callback(connection.close)
            connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
        until(lambda: server.metric("egm_held_bytes") == len(body) * len(waiting))
        assert server.post(question(), timeout=30).status_code == 200
        pause.set()
        assert [connection.getresponse().status for connection in waiting] == [400] * 50


def test_fetched_pictures_count_as_held_until_they_are_answered(scripted: Start) -> None:
    allowed = {"fetch_pictures": True, "fetch_networks": ["127.0.0.0/8"], "max_body_bytes": 1_000_000}
    server = scripted(token_s=0.05, max_held_bytes=1_000_000, **allowed)
    picture = (FRAMES / "tabletop_1.png").read_bytes().ljust(700_000, b"\0")
    with picture_server(data=picture) as url, ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.post, question(url=url))
        until(lambda: server.metric("egm_held_bytes") > len(picture))
        refused = server.post(question(url=url))
        assert (refused.status_code, error_of(refused)["code"]) == (429, "memory_full")
        assert first.result().status_code == 200
    until(lambda: server.metric("egm_held_bytes") == 0)


def test_who_gets_no_turn_in_time_is_told_to_come_again() -> None:
    quick = ServeSettings(fetch_networks=("127.0.0.0/8",), fetch_s=0.3)

    async def ask(fetcher: PictureFetcher) -> None:
        for _ in range(AT_ONCE):
            await fetcher._turns.acquire()
        with pytest.raises(RequestError, match="try again in 1 s") as refused:
            await fetcher.fetch("http://127.0.0.1:1/a.png", int)
        assert refused.value.status == 429
        fetcher._turns.release()
        for _ in range(2):  # a fetch that failed gives its turn back
            with pytest.raises(RequestError, match="expected a picture at"):
                await fetcher.fetch("http://127.0.0.1:1/a.png", int)

    asyncio.run(ask(PictureFetcher(quick)))
